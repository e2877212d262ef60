//! What to prove, in which order of things, and against which clusters.

use std::{fmt, future::Future, str::FromStr, time::Duration};

use crate::error::ClusterError;

/// What is done to the workloads while traffic flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scenario {
    /// Single Pods are deleted, one after another.
    Delete,
    /// A rolling restart.
    Rollout,
    /// Each node is cordoned and emptied through the eviction API, one after the other.
    Drain,
    /// A node's service proxy takes changes 1 s and then 20 s late.
    SlowConsumer,
    /// All Pods are deleted with a grace period of 0. Loses requests by intent: it shows that losses are counted.
    Force,
}

impl Scenario {
    /// The scenarios that must pass, in the order in which they are run.
    pub const ALL: [Self; 4] = [Self::Delete, Self::Rollout, Self::Drain, Self::SlowConsumer];

    /// The word on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Rollout => "rollout",
            Self::Drain => "drain",
            Self::SlowConsumer => "slow-consumer",
            Self::Force => "force",
        }
    }

    /// One line for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Delete => "single Pods deleted one after another",
            Self::Rollout => "rolling restart of 10 Pods that exit at once on SIGTERM",
            Self::Drain => "both nodes drained one after the other",
            Self::SlowConsumer => "one node's service proxy lags by 1 s, then by 20 s",
            Self::Force => "every Pod taken away by force",
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no scenario.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no scenario; there are delete, rollout, drain and slow-consumer")]
pub struct UnknownScenario {
    /// What was given.
    pub word: String,
}

impl FromStr for Scenario {
    type Err = UnknownScenario;
    /// Knows the hidden `force` too.
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().chain([Self::Force]).find(|scenario| scenario.name() == word);
        found.ok_or_else(|| UnknownScenario { word: word.to_owned() })
    }
}

/// In which order a Pod's end goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// The stop signal waits until every consumer has let go.
    Loop,
    /// Plain Kubernetes: the stop signal waits for nothing.
    LoopOff,
    /// Plain Kubernetes, and each Pod has `preStop: sleep 15`.
    Sleep,
}

impl Mode {
    /// Whether the cluster must have its loop on.
    #[must_use]
    pub fn loop_on(self) -> bool {
        self == Self::Loop
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loop => "the loop on",
            Self::LoopOff => "the loop off",
            Self::Sleep => "the loop off and preStop: sleep 15",
        })
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// In this order.
    pub scenarios: Vec<Scenario>,
    /// Run everything again with the loop off, and with `preStop: sleep 15`.
    pub compare: bool,
    /// Requests on new connections, per second, all paths together.
    pub rate_new: u32,
    /// Requests on kept-alive connections, per second, all paths together.
    pub rate_keep_alive: u32,
    /// Requests to send at least, all scenarios together: each is carried out again until its part is sent.
    pub requests: u64,
}

impl Options {
    /// What one scenario sends at least.
    pub(crate) fn requests_each(&self) -> u64 {
        self.requests.div_ceil((self.scenarios.len() as u64).max(1))
    }

    /// Twice the time that the rates need for it.
    pub(crate) fn requests_within(&self) -> Duration {
        let rate = u64::from(self.rate_new) + u64::from(self.rate_keep_alive);
        Duration::from_secs(2 * self.requests_each() / rate.max(1))
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            scenarios: Scenario::ALL.to_vec(),
            compare: false,
            rate_new: 300,
            rate_keep_alive: 200,
            requests: 0,
        }
    }
}

/// Brings a cluster for each mode.
pub trait Clusters: Send {
    /// A client of a cluster whose loop is on or off as [`Mode::loop_on`] says. Called once for each mode, in the order
    /// `Loop`, `LoopOff`, `Sleep`; a client given before is not used any more, so its cluster may be taken down.
    fn client(&mut self, mode: Mode) -> impl Future<Output = Result<kube::Client, ClusterError>> + Send;
}

/// A cluster that is there already and cannot be switched.
pub struct OneCluster(pub kube::Client);

impl Clusters for OneCluster {
    async fn client(&mut self, mode: Mode) -> Result<kube::Client, ClusterError> {
        if mode.loop_on() {
            Ok(self.0.clone())
        } else {
            Err("a comparison switches the loop off, which only works with a cluster of one's own (without --kubeconfig)"
                .into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_shared_among_the_scenarios() {
        let options = Options { requests: 100_001, ..Options::default() };
        assert_eq!(options.requests_each(), 25_001);
        assert_eq!(options.requests_within(), Duration::from_secs(100));
        assert_eq!(Options::default().requests_each(), 0);
    }

    #[test]
    fn every_scenario_is_found_by_its_name() {
        for scenario in Scenario::ALL.into_iter().chain([Scenario::Force]) {
            assert_eq!(scenario.name().parse(), Ok(scenario));
        }
        assert!(!Scenario::ALL.contains(&Scenario::Force), "force is hidden");
        let error = "drian".parse::<Scenario>().unwrap_err().to_string();
        assert!(error.contains("drian") && error.contains("drain"), "{error}");
    }
}
