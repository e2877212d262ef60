//! The result of a run, as `--json` writes it, and the verdict: pure functions of what was measured.

use hitless_base::Timestamp;
use serde::Serialize;

use crate::{
    Mode, Options, Scenario,
    lines::Tally,
    paths::{Path, ROUTES},
    withdrawal::{Expectation, Stop},
};

/// A request that was lost.
#[derive(Clone, Debug, PartialEq)]
pub struct LostRequest {
    /// When the loss was noticed.
    pub at: Timestamp,
    /// The path it took.
    pub path: Path,
    /// The Pod that had answered last on its connection, or, with a question mark, the one that was stopped last.
    pub pod: Option<String>,
    /// Why.
    pub cause: String,
    /// How long the connection had stood by then, if it ever did.
    pub connected_ms_ago: Option<f64>,
    /// How long ago the request had been sent, if it was.
    pub asked_ms_ago: Option<f64>,
}

/// One path's figures, both nodes together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PathReport {
    /// `clusterip-node/new` and so on.
    pub path: String,
    /// Requests begun.
    pub requests: u64,
    /// Requests lost.
    pub failed: u64,
    /// Median latency of those answered, in milliseconds; none where nothing was answered.
    pub p50_ms: Option<f64>,
    /// 99th percentile, in milliseconds.
    pub p99_ms: Option<f64>,
}

/// Times from delete to stop signal, in milliseconds; none where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Withdrawal {
    /// Median.
    pub p50: Option<f64>,
    /// 99th percentile (nearest rank: with fewer than 100 Pods, the highest).
    pub p99: Option<f64>,
    /// The highest.
    pub max: Option<f64>,
}

/// The same scenario without the loop, on the same machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Compare {
    /// Plain Kubernetes' order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loop_off: Option<Box<ScenarioReport>>,
    /// Plain Kubernetes' order with `preStop: sleep 15`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sleep: Option<Box<ScenarioReport>>,
}

/// One scenario's result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScenarioReport {
    /// Its name.
    pub scenario: String,
    /// Requests begun.
    pub requests: u64,
    /// Requests lost.
    pub failed: u64,
    /// Each path.
    pub paths: Vec<PathReport>,
    /// Delete to stop signal.
    pub withdrawal_ms: Withdrawal,
    /// From the first change to the workloads until the last Pod in question was gone and all were replaced, in seconds.
    pub duration_s: f64,
    /// 0 lost, traffic on every path, every bound kept.
    pub passed: bool,
    /// Only where a comparison was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compare: Option<Compare>,
    /// What spoke against it, but for lost requests. Not part of the JSON.
    #[serde(skip)]
    pub problems: Vec<String>,
    /// The lost requests whose particulars are known. Not part of the JSON.
    #[serde(skip)]
    pub lost: Vec<LostRequest>,
    /// Each Pod's end. Not part of the JSON.
    #[serde(skip)]
    pub stops: Vec<Stop>,
}

/// Every scenario's result.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// In the order in which they were run.
    pub scenarios: Vec<ScenarioReport>,
}

impl Report {
    /// Whether every scenario passed (and there was one). Comparisons do not count.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.scenarios.is_empty() && self.scenarios.iter().all(|scenario| scenario.passed)
    }

    /// The JSON of `--json`, with a line end.
    ///
    /// # Errors
    /// None in practice: every field is a plain value.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// Puts a mode's results in their place: the loop's are the report, the others its comparisons.
    pub(crate) fn take(&mut self, mode: Mode, results: Vec<ScenarioReport>) {
        if mode == Mode::Loop {
            self.scenarios.extend(results);
            return;
        }
        for result in results {
            let Some(own) = self.scenarios.iter_mut().find(|own| own.scenario == result.scenario) else {
                continue;
            };
            let compare = own.compare.get_or_insert_default();
            match mode {
                Mode::Loop => {}
                Mode::LoopOff => compare.loop_off = Some(Box::new(result)),
                Mode::Sleep => compare.sleep = Some(Box::new(result)),
            }
        }
    }
}

/// What one scenario's run measured.
pub(crate) struct Measured {
    pub scenario: Scenario,
    pub tally: Tally,
    pub stops: Vec<Stop>,
    pub expectations: Vec<Expectation>,
    pub duration_s: f64,
    /// What kept it from its end.
    pub problems: Vec<String>,
}

/// The verdict on what was measured.
pub(crate) fn judge(measured: Measured, options: &Options) -> ScenarioReport {
    let Measured { scenario, tally, stops, expectations, duration_s, mut problems } = measured;
    let mut paths = Vec::new();
    for path in Path::all() {
        let counts = tally.counts(path);
        paths.push(PathReport {
            path: path.to_string(),
            requests: counts.sent,
            failed: counts.failed,
            p50_ms: tally.latency_ms(path, 0.50),
            p99_ms: tally.latency_ms(path, 0.99),
        });
        let minimum = requests_min(path, duration_s, options);
        if counts.sent < minimum {
            problems.push(format!(
                "{path}: {} requests, too few for a verdict (at least {minimum})",
                counts.sent
            ));
        }
        let unaccounted = counts.sent.saturating_sub(counts.ok + counts.failed);
        if unaccounted > 0 {
            problems.push(format!("{path}: {unaccounted} requests are neither answered nor failed"));
        }
    }
    problems.extend(expectations.iter().filter_map(|expectation| expectation.problem(&stops)));
    // What waits for the time to live of DNS records is no measure of the loop.
    let times: Vec<f64> = stops.iter().filter(|stop| !stop.headless).filter_map(Stop::ms).collect();
    let requests = paths.iter().map(|path| path.requests).sum();
    let failed = paths.iter().map(|path| path.failed).sum();
    ScenarioReport {
        scenario: scenario.name().to_owned(),
        requests,
        failed,
        paths,
        withdrawal_ms: withdrawal(&times),
        duration_s: (duration_s * 1000.0).round() / 1000.0,
        passed: failed == 0 && problems.is_empty(),
        compare: None,
        problems,
        lost: lost(&tally, &stops),
        stops,
    }
}

/// Half of what the rate gives in the time that the action took, and never fewer than 20: traffic that came to a halt must
/// not pass for traffic that lost nothing.
fn requests_min(path: Path, duration_s: f64, options: &Options) -> u64 {
    let rate = if path.keeps_alive { options.rate_keep_alive } else { options.rate_new };
    // The ways share each rate.
    let ways = u32::try_from(ROUTES.len()).unwrap_or(u32::MAX);
    let expected = f64::from(rate) / f64::from(ways) * duration_s;
    // In range: a rate is at most 32 bits and a scenario at most minutes long.
    let half = (expected / 2.0) as u64;
    half.max(20)
}

/// Percentiles by nearest rank.
pub(crate) fn withdrawal(times_ms: &[f64]) -> Withdrawal {
    let mut times = times_ms.to_vec();
    times.sort_by(f64::total_cmp);
    let rank = |percent: usize| {
        let index = (times.len() * percent).div_ceil(100).max(1) - 1;
        times.get(index).map(|ms| (ms * 1000.0).round() / 1000.0)
    };
    Withdrawal { p50: rank(50), p99: rank(99), max: rank(100) }
}

/// The lost requests in order of time. Where a connection had no answer yet, the Pod that was stopped last before is the
/// likeliest, and is named with a question mark.
fn lost(tally: &Tally, stops: &[Stop]) -> Vec<LostRequest> {
    let mut lost: Vec<LostRequest> = tally.failures().cloned().collect();
    lost.sort_by_key(|request| request.at);
    for request in lost.iter_mut().filter(|request| request.pod.is_none()) {
        let stopped_before = |stop: &&Stop| {
            stop.keeps_alive == request.path.keeps_alive
                && stop.headless == request.path.is_by_name()
                && stop.stopped_or_gone().is_some_and(|at| at <= request.at)
        };
        let last = stops.iter().filter(stopped_before).max_by_key(|stop| stop.stopped_or_gone());
        request.pod = last.map(|stop| format!("{}?", stop.pod));
    }
    lost
}

#[cfg(test)]
mod tests;
