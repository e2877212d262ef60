//! The revisioned store: embedded by default, behind a trait that etcd fits; watch from a revision.
//!
//! [`Store`] is the contract (see [`api`]), [`Embedded`] the store that lives in the process, [`Memory`] the same without a disk.

mod admit;
pub mod api;
mod backend;
mod batch;
mod disk;
pub mod embedded;
pub mod errors;
mod history;
mod image;
pub mod memory;
mod writer;

pub use api::{
    Committed, Entry, EventKind, Key, Listing, Op, Precondition, Store, Watch, WatchEvent, WatchSource,
};
pub use embedded::{Embedded, Options, Stats};
pub use errors::{CommitError, OpenError, StoreError, WatchEnd, WatchError};
pub use hitless_base::Revision;
pub use memory::Memory;
