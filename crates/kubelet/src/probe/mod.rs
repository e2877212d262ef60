//! Probes: when a container is started, ready and alive.
//!
//! Each probe of each container is a task of its own that tells its Pod's worker of verdicts, and shares nothing else.
//! See <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#container-probes>.

pub mod action;
pub mod grpc;
pub mod http;
pub mod listens;
pub mod tally;
pub mod task;
