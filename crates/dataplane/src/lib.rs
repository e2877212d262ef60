//! EndpointTable at a revision, and the consumers: the service proxy.
//!
//! The way of the data in here: [`table`] (what the API says) -> [`slots`] (which element of the kernel's
//! maps holds which endpoint) -> [`kernel`] (the port that a driver implements), moved along by [`proxy`].
//! What every consumer of the loop shares (registration, feed, watermark) is [`consumer`]. All but those two is pure.

pub mod consumer;
pub mod dns;
pub mod ingress;
pub mod kernel;
pub mod program;
pub mod proxy;
pub mod slots;
pub mod table;

pub use kernel::{Kernel, KernelError};
pub use program::{
    Batch, Class, Endpoint, Flows, Front, NodePort, Program, Protocol, Routing, ServicePort, SlotKey, Step,
};
pub use slots::SlotTable;
pub use table::{EndpointTable, TableChange};
