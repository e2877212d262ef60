//! The Node object: what the machine is and has (pure), and keeping it and its Lease up to date.

mod keep;
pub mod machine;
pub mod object;

pub(crate) use keep::keep;
