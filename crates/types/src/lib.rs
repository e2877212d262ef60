//! What the API holds, as pure functions: the table of kinds, defaulting, validation, selectors,
//! quantities, patches, and the names that several rooms share.
//!
//! Nothing here does I/O, reads a clock or spawns.

mod base64;
pub mod consumer;
pub mod field;
mod field_selector;
pub mod intstr;
mod json;
pub mod kinds;
pub mod managed;
pub mod meta;
pub mod names;
pub mod patch;
pub mod pod;
pub mod quantity;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod well_known;

pub use consumer::{AckClass, EndpointConsumer, EndpointConsumerSpec, EndpointConsumerStatus, SettleScope};
