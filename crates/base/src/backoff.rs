//! Exponential backoff with a bound and with jitter.

use std::time::Duration;

use rand::Rng;

/// Doubles from `first` to `max`; `reset` starts again.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// A backoff whose first delay is `first` and whose longest is `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    /// The delay to wait now, without jitter; the one after it is twice as long, up to the bound.
    pub fn step(&mut self) -> Duration {
        let now = self.next;
        self.next = (self.next * 2).min(self.max);
        now
    }

    /// The delay to wait now, lengthened by up to a fifth so that many clients do not come back at once.
    pub fn step_with_jitter(&mut self) -> Duration {
        let base = self.step();
        base + base.mul_f64(rand::rng().random_range(0.0..0.2))
    }

    /// Starts again from the first delay.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_bound_and_starts_again() {
        let mut b = Backoff::new(Duration::from_millis(10), Duration::from_millis(35));
        let steps: Vec<_> = (0..4).map(|_| b.step().as_millis()).collect();
        assert_eq!(steps, [10, 20, 35, 35]);
        b.reset();
        assert_eq!(b.step().as_millis(), 10);
    }
}
