//! What the generators print (`web load`, see `images/web/src/load_report.rs`), read and added up: pure.
//!
//! A generator's counts rise from line to line, so the newest line is the state; the histogram comes with the summary.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use hitless_base::Timestamp;
use serde::Deserialize;

use crate::{paths::Path, report::LostRequest};

/// More lost requests than this are counted, but not kept one by one.
const LOST_KEPT_MAX: usize = 2_000;

/// Requests begun, answered and lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Counts {
    pub sent: u64,
    pub ok: u64,
    pub failed: u64,
}

#[derive(Deserialize)]
struct RawFailure {
    at_us: i64,
    cause: String,
    pod: Option<String>,
    connected_us_ago: Option<u64>,
    asked_us_ago: Option<u64>,
}

#[derive(Deserialize)]
struct RawSummary {
    #[serde(flatten)]
    counts: Counts,
    hist: Vec<(u64, u64)>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Summary { summary: RawSummary },
    Failure { fail: RawFailure },
    Progress(Counts),
}

/// What a line was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Counts so far, or one failure.
    News,
    /// The generator's last word.
    Summary,
    /// Not a line of the generator's own: an error message, say.
    Other,
}

/// One generator's state.
#[derive(Clone, Debug, Default)]
struct Generator {
    path: Option<Path>,
    counts: Counts,
    /// Highest latency of a bucket in microseconds, and its count.
    latencies: Vec<(u64, u64)>,
}

/// What all generators have said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    generators: BTreeMap<String, Generator>,
    lost: Vec<LostRequest>,
}

impl Tally {
    /// Takes a line of the generator of this name.
    pub fn take(&mut self, name: &str, path: Path, line: &str) -> Taken {
        let Ok(line) = serde_json::from_str::<Line>(line) else { return Taken::Other };
        let generator = self.generators.entry(name.to_owned()).or_default();
        generator.path = Some(path);
        match line {
            Line::Progress(counts) => generator.counts = counts,
            Line::Failure { fail } => {
                let at = Timestamp::from_microsecond(fail.at_us).unwrap_or(Timestamp::UNIX_EPOCH);
                if self.lost.len() < LOST_KEPT_MAX {
                    let ms = |us: Option<u64>| us.map(|us| Duration::from_micros(us).as_secs_f64() * 1000.0);
                    self.lost.push(LostRequest {
                        at,
                        path,
                        pod: fail.pod,
                        cause: fail.cause,
                        connected_ms_ago: ms(fail.connected_us_ago),
                        asked_ms_ago: ms(fail.asked_us_ago),
                    });
                }
            }
            Line::Summary { summary } => {
                generator.counts = summary.counts;
                generator.latencies = summary.hist;
                return Taken::Summary;
            }
        }
        Taken::News
    }

    /// Whether the generator of this name has had an answer.
    pub fn is_answered(&self, name: &str) -> bool {
        self.generators.get(name).is_some_and(|generator| generator.counts.ok > 0)
    }

    /// One path, or all of them.
    fn of(&self, path: Option<Path>) -> impl Iterator<Item = &Generator> {
        self.generators.values().filter(move |generator| path.is_none() || generator.path == path)
    }

    fn sum(&self, path: Option<Path>) -> Counts {
        self.of(path).fold(Counts::default(), |sum, generator| Counts {
            sent: sum.sent + generator.counts.sent,
            ok: sum.ok + generator.counts.ok,
            failed: sum.failed + generator.counts.failed,
        })
    }

    /// Counts of one path.
    pub fn counts(&self, path: Path) -> Counts {
        self.sum(Some(path))
    }

    /// Counts of all paths.
    pub fn total(&self) -> Counts {
        self.sum(None)
    }

    /// A latency of one path's answered requests, in milliseconds; none where none was answered.
    pub fn latency_ms(&self, path: Path, quantile: f64) -> Option<f64> {
        // Three digits; grows as needed, so neither creation nor recording can fail for these values.
        let mut merged = Histogram::<u64>::new(3).ok()?;
        for (us, count) in self.of(Some(path)).flat_map(|generator| &generator.latencies) {
            merged.record_n(*us, *count).ok()?;
        }
        (!merged.is_empty()).then(|| merged.value_at_quantile(quantile) as f64 / 1000.0)
    }

    /// The lost requests whose particulars are known, in no order.
    pub fn failures(&self) -> impl Iterator<Item = &LostRequest> {
        self.lost.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::path;

    const SUMMARY: &str = concat!(
        r#"{"summary":{"started_us":1,"ended_us":2,"sent":100,"ok":99,"failed":1,"failures_unprinted":0,"#,
        r#""connections":3,"closed_idle":0,"late_us_max":9,"hist":[[1000,90],[5000,9]]}}"#
    );

    #[test]
    fn the_newest_line_is_the_state_and_generators_add_up() {
        let mut tally = Tally::default();
        assert_eq!(
            tally.take("a", path("clusterip-node/new"), r#"{"t":5,"sent":10,"ok":9,"failed":0}"#),
            Taken::News
        );
        assert_eq!(
            tally.take("a", path("clusterip-node/new"), r#"{"t":6,"sent":20,"ok":20,"failed":0}"#),
            Taken::News
        );
        assert_eq!(tally.take("b", path("clusterip-node/new"), SUMMARY), Taken::Summary);
        assert_eq!(tally.take("c", path("clusterip-pod/new"), SUMMARY), Taken::Summary);
        assert_eq!(tally.counts(path("clusterip-node/new")), Counts { sent: 120, ok: 119, failed: 1 });
        assert_eq!(tally.total().sent, 220);
        assert!(tally.is_answered("a") && !tally.is_answered("d"));
    }

    #[test]
    fn latencies_merge_over_generators() {
        let mut tally = Tally::default();
        tally.take("a", path("clusterip-node/new"), SUMMARY);
        tally.take("b", path("clusterip-node/new"), SUMMARY);
        assert_eq!(tally.latency_ms(path("clusterip-node/new"), 0.5), Some(1.0));
        let p99 = tally.latency_ms(path("clusterip-node/new"), 0.99).unwrap();
        assert!((p99 - 5.0).abs() < 0.01, "{p99}");
        assert_eq!(tally.latency_ms(path("clusterip-pod/new"), 0.5), None);
    }

    #[test]
    fn failures_keep_their_particulars_and_other_words_are_told_apart() {
        let mut tally = Tally::default();
        let line = r#"{"fail":{"at_us":1767225600000001,"cause":"reset","target":"10.0.0.1:80","local":"1.2.3.4:5","connected_us_ago":1500,"reused":false}}"#;
        assert_eq!(tally.take("a", path("clusterip-pod/keep-alive"), line), Taken::News);
        let lost: Vec<_> = tally.failures().collect();
        assert_eq!(lost[0].at.to_string(), "2026-01-01T00:00:00.000001Z");
        assert_eq!((lost[0].cause.as_str(), lost[0].pod.as_deref()), ("reset", None));
        assert_eq!((lost[0].connected_ms_ago, lost[0].asked_ms_ago), (Some(1.5), None));
        for other in ["web: --rate: must be", "", "{}", r#"{"summary":{}}"#] {
            assert_eq!(tally.take("a", path("clusterip-pod/new"), other), Taken::Other, "{other}");
        }
    }
}
