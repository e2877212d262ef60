//! How the store refuses and fails, one enum for each question that a caller asks.

use std::{path::PathBuf, sync::Arc};

use hitless_base::Revision;

use crate::api::{Entry, Key};

/// Why a commit did not take place.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// A precondition did not hold. Nothing of the commit was done.
    #[error("{key} is not as expected: {}", match current {
        Some(entry) => format!("it was last modified at revision {}", entry.modified),
        None => "it is not there".to_owned(),
    })]
    Conflict {
        /// The first key whose precondition failed.
        key: Key,
        /// What is there instead; durable.
        current: Option<Entry>,
    },
    /// Something is larger than the store takes. Nothing was done.
    #[error("{what} is too large: {size} where at most {limit} is allowed")]
    TooLarge {
        /// `value of KEY (bytes)`, `key (bytes)` or `commit (operations)`.
        what: String,
        /// What was given.
        size: usize,
        /// What is allowed.
        limit: usize,
    },
    /// One commit names a key twice. Nothing was done.
    #[error("{key} is named twice in one commit")]
    DuplicateKey {
        /// The key.
        key: Key,
    },
    /// The store was closed before the commit was taken. Nothing was done.
    #[error("the store is closed")]
    Closed,
    /// Writing failed. Whether the commit is found after a restart is not known; the store takes no more commits.
    #[error("the store could not write")]
    Io(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// Why a read gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The store cannot be reached.
    #[error("the store could not read")]
    Io(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// Why a watch did not start.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WatchError {
    /// Events after the wanted revision have been forgotten (HTTP: 410 Gone, `Expired`).
    #[error("too old: the oldest revision that a watch can start after is {oldest}")]
    Compacted {
        /// The lowest `after` that would be accepted now.
        oldest: Revision,
    },
    /// The wanted revision has not been reached.
    #[error("too new: the store is at revision {current}")]
    Future {
        /// The store's revision.
        current: Revision,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The store cannot be reached.
    #[error("the store could not watch")]
    Io(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// Why a watch ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WatchEnd {
    /// Events that it had not yet returned have been forgotten: it was read too slowly, or history was compacted
    /// (HTTP: an ERROR event with 410 `Expired`; the client lists anew).
    #[error("the watch fell behind: events up to revision {oldest} have been forgotten")]
    Compacted {
        /// The lowest `after` that a new watch may start with now.
        oldest: Revision,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The store cannot be reached.
    #[error("the store could not watch")]
    Io(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or this one, has it open.
    #[error("the store in {} is already open: another hitless uses this data directory", path.display())]
    AlreadyOpen {
        /// The store's file.
        path: PathBuf,
    },
    /// What is in the file is not what was written.
    #[error("the store in {} is damaged: {detail}; restore it from a copy, or move it away to start empty", path.display())]
    Corrupt {
        /// The store's file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The file was written by a version with another format.
    #[error("the store in {} has format {found}; this version reads format {known}", path.display())]
    Format {
        /// The store's file.
        path: PathBuf,
        /// What the file says.
        found: u64,
        /// What this version knows.
        known: u64,
    },
    /// The operating system refused.
    #[error("cannot open the store in {}", path.display())]
    Io {
        /// The store's file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}
