//! The delay line: a fault for tests that makes a consumer take each change later than it came, in order.
//!
//! Without lag, which is the rule, nothing goes through it.

use std::{collections::VecDeque, time::Duration};

use hitless_base::Timestamp;

/// Changes that may wait. Beyond it the oldest are let go early: the fault gets weaker, the memory stays bounded.
const WAITING_MAX: usize = 20_000;
/// The longest lag that is taken.
pub const LAG_MAX: Duration = Duration::from_secs(600);

/// Items with the time of their coming.
#[derive(Debug)]
pub struct DelayLine<T> {
    lag: Duration,
    waiting: VecDeque<(Timestamp, T)>,
}

impl<T> DelayLine<T> {
    /// A line without lag.
    #[must_use]
    pub fn new() -> Self {
        Self { lag: Duration::ZERO, waiting: VecDeque::new() }
    }

    /// The lag from now on, also for what waits already.
    pub fn set_lag(&mut self, lag: Duration) {
        self.lag = lag;
    }

    /// The present lag.
    #[must_use]
    pub fn lag(&self) -> Duration {
        self.lag
    }

    /// Puts an item at the end; gives those whose time has come, in order. The clock may step back: what came first goes first all the same.
    pub fn pass(&mut self, now: Timestamp, item: T) -> Vec<T> {
        self.waiting.push_back((now, item));
        self.due(now)
    }

    /// Those whose time has come, in order.
    pub fn due(&mut self, now: Timestamp) -> Vec<T> {
        let mut due = Vec::new();
        while self.next().is_some_and(|at| at <= now) || self.waiting.len() > WAITING_MAX {
            due.extend(self.waiting.pop_front().map(|(_, item)| item));
        }
        due
    }

    /// When the next one's time comes.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        let (came, _) = self.waiting.front()?;
        Some(came.saturating_add(self.lag).unwrap_or(Timestamp::MAX))
    }
}

/// Why a lag is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a lag: a whole number and ms, s or m, at most 10 m")]
pub struct ParseLagError(String);

/// `250ms`, `20s`, `1m`.
pub fn parse_lag(text: &str) -> Result<Duration, ParseLagError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err(ParseLagError(text.to_owned())),
    };
    let lag = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit_ms)).map(Duration::from_millis);
    lag.filter(|lag| *lag <= LAG_MAX).ok_or_else(|| ParseLagError(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    #[test]
    fn a_lag_is_a_number_and_a_unit() {
        assert_eq!(parse_lag("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_lag("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(parse_lag("1m"), Ok(Duration::from_secs(60)));
        for wrong in [
            "",
            "s",
            "1",
            "1h",
            "-1s",
            "1.5s",
            " 1s",
            "11m",
            "99999999999999999999s",
            "18446744073709551615s",
        ] {
            assert!(parse_lag(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_waits_its_time_and_a_shorter_lag_holds_for_all() {
        let mut line = DelayLine::new();
        assert_eq!(line.pass(at(0), 'a'), ['a']);
        line.set_lag(Duration::from_millis(100));
        assert!(line.pass(at(1), 'b').is_empty());
        assert!(line.pass(at(50), 'c').is_empty());
        assert_eq!(line.next(), Some(at(101)));
        assert!(line.due(at(100)).is_empty());
        assert_eq!(line.due(at(101)), ['b']);
        line.set_lag(Duration::ZERO);
        assert_eq!(line.pass(at(102), 'd'), ['c', 'd']);
        assert_eq!(line.next(), None);
    }

    proptest! {
        /// Whatever the clock and the lag do: nothing is lost, nothing overtakes, and the line is bounded.
        #[test]
        fn order_is_kept(steps in prop::collection::vec((0_i64..1000, prop::option::of(0_u64..300)), 0..50)) {
            let mut line = DelayLine::new();
            let mut out = Vec::new();
            for (n, (now, lag)) in steps.iter().enumerate() {
                if let Some(lag) = lag {
                    line.set_lag(Duration::from_millis(*lag));
                }
                out.extend(line.pass(at(*now), n));
            }
            out.extend(line.due(at(100_000)));
            prop_assert_eq!(out, (0..steps.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_full_line_lets_the_oldest_go() {
        let mut line = DelayLine::new();
        line.set_lag(LAG_MAX);
        let let_go: usize = (0..WAITING_MAX + 5).map(|n| line.pass(at(0), n).len()).sum();
        assert_eq!(let_go, 5);
    }
}
