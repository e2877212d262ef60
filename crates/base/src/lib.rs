//! The ground floor: what every other crate may use, and nothing that knows Kubernetes.
//!
//! What is here must stay small, pure where it can be, and free of policy.

pub mod backoff;
pub mod clock;
pub mod errors;
pub mod revision;
pub mod telemetry;

pub use backoff::Backoff;
pub use clock::{Clock, SystemClock, Timestamp};
pub use errors::chain;
pub use revision::Revision;
