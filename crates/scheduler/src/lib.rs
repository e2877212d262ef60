//! The scheduler: gives each Pod that has no node the node that suits it best.
//!
//! [`index`] is what it sees, [`decide`] a pure function from a snapshot to a plan, [`apply`] writes the plan through
//! the API, and [`run`] goes round: something changed, plan, write. It is a client of the Kubernetes API and nothing
//! else.
//!
//! What must hold: a Pod that was given a node counts there from that moment, whether or not the watch has shown it;
//! and nothing depends on having seen an event, since each plan is made from all that is.

pub mod affinity;
pub mod apply;
pub mod decide;
pub mod filter;
pub mod index;
pub mod score;
pub mod snapshot;
mod waiting;

mod rounds;

pub use decide::{Decision, Outcome, plan};
pub use rounds::run;
pub use snapshot::{NodeView, PodView, Snapshot};

/// The scheduler's name: the `spec.schedulerName` that it serves, and the source of its Events.
pub const NAME: &str = "default-scheduler";
