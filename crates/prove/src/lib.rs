//! `hitless prove`: real workloads, real traffic, faults, and a verdict.
//!
//! Everything here goes through a Kubernetes API and nothing else, so it runs against any cluster that holds the image
//! `hitless.dev/web`. Whoever calls brings the clusters ([`Clusters`]): the caller knows how to switch the loop off for
//! a comparison, this crate does not.
//!
//! One scenario is one namespace: workloads ([`manifests`]), generators of traffic ([`traffic`]), one action on the
//! workloads ([`actions`]), and the measured times from delete to stop signal ([`withdrawal`]). What was seen becomes a
//! [`Report`], which is judged ([`report`]) and shown ([`render`]) by pure functions.
//!
//! What must hold: a verdict is "passed" only if traffic really flowed on every path and every bound was kept; whatever a
//! scenario does to the cluster is undone when it ends, however it ends.

mod actions;
mod bench;
mod error;
mod lines;
mod manifests;
mod options;
mod paths;
mod progress;
mod render;
mod report;
mod runner;
mod space;
mod traffic;
mod undo;
mod withdrawal;

pub use bench::{WithdrawalBench, bench_pods, bench_withdrawal};
pub use error::{ClusterError, ProveError};
pub use options::{Clusters, Mode, OneCluster, Options, Scenario, UnknownScenario};
pub use progress::{Progress, Silent, Terminal};
pub use render::render;
pub use report::{Compare, PathReport, Report, ScenarioReport, Withdrawal};
pub use runner::run;
