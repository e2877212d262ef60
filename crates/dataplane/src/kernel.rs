//! The port to whatever forwards connections: the kernel's nf_tables, by a driver of a higher floor.

use async_trait::async_trait;

use crate::program::{Batch, Program};

/// Why the kernel does not hold what it was to hold.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The change was refused as a whole; nothing of it is in force.
    #[error("the kernel refused the change: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// What the kernel holds is not what this program builds: some other hand was at work.
    #[error("the kernel's table is not as it was built: {reason}")]
    Foreign {
        /// What is different.
        reason: String,
    },
    /// The kernel could not be talked to.
    #[error("no answer from the kernel")]
    Io(#[from] std::io::Error),
}

/// What forwards connections. All changes are atomic: a new connection sees the state before or the state after.
///
/// Open connections are never touched: they stay with the endpoint that they have. UDP has none, only flows, which clients may
/// keep for ever: those that go where new ones would not are ended, so that their next datagram finds its way anew.
#[async_trait]
pub trait Kernel: Send + Sync {
    /// Builds everything from nothing, in place of whatever is there, in one transaction.
    /// Returns after its commit, with the UDP flows of all services looked at.
    async fn replace_all(&self, program: &Program) -> Result<(), KernelError>;

    /// Applies a change in one transaction. Returns after its commit and after the end of the UDP flows in question: from then on no
    /// new connection and no datagram sees the state before.
    async fn apply(&self, batch: &Batch) -> Result<(), KernelError>;

    /// Looks, at little cost, whether some other hand has taken apart what was built. Does not look at each element.
    async fn verify(&self) -> Result<(), KernelError>;

    /// What is in force now, every element of it. Takes long where there are many.
    async fn read_back(&self) -> Result<Program, KernelError>;
}
