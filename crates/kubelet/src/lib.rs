//! The kubelet: Pod workers, probes, volumes and the gate, over ports for the runtime.
//!
//! A plain client of the Kubernetes API: it knows nothing of who answers. The way of one Pod: cache -> worker -> `decide`
//! (pure) -> runtime -> memory -> `status` (pure) -> API. Its end is decided by `hitless_termination::end_of_life`.
//!
//! * [`run`] runs it; [`stop_all`] stops what it left running.
//! * [`ports`] is what it needs of the world, implemented by `hitless-drivers` over CRI.

mod cgroup;
mod context;
mod env;
mod fieldref;
pub mod logs;
mod network;
mod node;
mod options;
mod pod;
pub mod ports;
mod probe;
mod registry;
mod run;
pub mod server;
mod sources;
mod stop;
mod streaming;
mod tokens;
mod volumes;
mod workers;

pub use options::{Capacity, Options, Serving};
pub use run::{KubeletError, run};
pub use server::tls_config;
pub use stop::stop_all;

#[cfg(test)]
mod tests;
