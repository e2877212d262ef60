//! The contract of the store: entries, conditional commits and watches, with one revision each.
//!
//! Why a trait: the embedded store is the default, and etcd 3.4 or newer fits the same shape (`ModRevision`
//! comparisons in one `Txn`, `Watch` from a revision, `Compact`). Nothing here says how anything is kept.
//!
//! What must hold for every implementation:
//!
//! * A commit is atomic, has one revision, and is answered only when it is durable. Nobody sees it earlier.
//! * What `get` and `list` show is durable, and a read that begins after a commit was answered shows that commit.
//! * A watch delivers every event after its start, in the order of revisions, once each and without a gap, or ends
//!   and says why. A batch never splits a revision.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use hitless_base::Revision;

use crate::errors::{CommitError, StoreError, WatchEnd, WatchError};

/// The name of an entry, such as `/registry/pods/default/web`. Cloning it copies no text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Key {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self(Arc::from(text))
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self(Arc::from(text))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// One key with its value and the two revisions that tell its age. Cloning it copies neither key nor value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: Key,
    /// What was stored, byte for byte.
    pub value: Bytes,
    /// The revision of the commit that created the key; kept over later puts, new after a deletion.
    pub created: Revision,
    /// The revision of the commit that stored this value: Kubernetes' `resourceVersion`.
    pub modified: Revision,
}

/// What must be true of a key for its operation, and so its whole commit, to take place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    None,
    /// The key is absent: a create.
    Absent,
    /// The key's entry was last modified at exactly this revision: an optimistic update.
    ModifiedAt(Revision),
    /// The key is there, whatever its value.
    Exists,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Stores `value` under `key`.
    Put {
        /// The name.
        key: Key,
        /// What to store.
        value: Bytes,
        /// What must hold before.
        expect: Precondition,
    },
    /// Removes `key`. An absent key under [`Precondition::None`] is no change and no error.
    Delete {
        /// The name.
        key: Key,
        /// What must hold before.
        expect: Precondition,
    },
}

impl Op {
    /// Stores `value` under a key that must be absent.
    pub fn create(key: impl Into<Key>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), expect: Precondition::Absent }
    }

    /// Stores `value` in place of the entry that was modified at `seen`.
    pub fn update(key: impl Into<Key>, value: impl Into<Bytes>, seen: Revision) -> Self {
        Self::Put { key: key.into(), value: value.into(), expect: Precondition::ModifiedAt(seen) }
    }

    /// Removes the entry that was modified at `seen`.
    pub fn delete(key: impl Into<Key>, seen: Revision) -> Self {
        Self::Delete { key: key.into(), expect: Precondition::ModifiedAt(seen) }
    }

    /// The key that it changes.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    /// What must hold before.
    #[must_use]
    pub fn expect(&self) -> Precondition {
        match self {
            Self::Put { expect, .. } | Self::Delete { expect, .. } => *expect,
        }
    }
}

/// What a commit did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The commit's revision; the store's revision at that moment if nothing changed (deletions of absent keys only).
    pub revision: Revision,
    /// One for each operation, in order: the stored entry, or the deleted one with `modified` set to this commit's
    /// revision. `None` for the deletion of an absent key.
    pub entries: Vec<Option<Entry>>,
}

impl Committed {
    /// The entry of a commit with a single operation.
    #[must_use]
    pub fn into_entry(self) -> Option<Entry> {
        self.entries.into_iter().next().flatten()
    }
}

/// A page of entries in the order of their keys, all from one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The store's revision at that moment. A watch after it continues where the listing ends.
    pub revision: Revision,
    /// True when there are more entries after the last one here.
    pub more: bool,
    /// How many entries there are after the last one here.
    pub remaining: usize,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was stored. `previous` is what it replaced; `None` if the key was created.
    Put {
        /// The entry before.
        previous: Option<Entry>,
    },
    /// It was removed.
    Delete {
        /// The entry before.
        previous: Entry,
    },
}

/// One change of one key, as a watch shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// The revision of the commit that made it.
    pub revision: Revision,
    /// What happened.
    pub kind: EventKind,
    /// The entry after a put. After a deletion, the last value with `modified` set to the deletion's revision, as
    /// Kubernetes shows deleted objects.
    pub entry: Entry,
}

/// A revisioned key-value store.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The entry of `key`, if it is there.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// The entries whose keys begin with `prefix`, in order; at most `limit` of them, and only those whose keys sort
    /// after `continue_after`. Pages of one walk may come from different moments: each says its own revision.
    async fn list(
        &self,
        prefix: &str,
        limit: Option<usize>,
        continue_after: Option<&str>,
    ) -> Result<Listing, StoreError>;

    /// Does all of `ops` or none, and answers when that is durable. No key may be named twice in one commit.
    async fn commit(&self, ops: Vec<Op>) -> Result<Committed, CommitError>;

    /// The revision of the last commit that is durable and shown.
    fn revision(&self) -> Revision;

    /// Every event of keys that begin with `prefix` with a revision greater than `after`.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, WatchError>;

    /// Forgets events with revisions lower than `keep_from`: watches can no longer start before it. Entries stay.
    async fn compact(&self, keep_from: Revision) -> Result<(), StoreError>;
}

/// A running watch. Dropping it ends it.
pub struct Watch(Box<dyn WatchSource>);

impl Watch {
    /// A watch over an implementation's own source.
    #[must_use]
    pub fn new(source: Box<dyn WatchSource>) -> Self {
        Self(source)
    }

    /// The next events, at least one, in order. Waits until there are some. Cancel-safe: when the future is dropped
    /// before it is ready, no event is lost. After an error every further call gives the same error.
    pub async fn next(&mut self) -> Result<Vec<Arc<WatchEvent>>, WatchEnd> {
        self.0.next().await
    }

    /// The highest revision of which it is true *now* that every event up to it has been returned by [`Self::next`]:
    /// what a bookmark may say. It advances also while other keys change. Does not wait for events.
    pub async fn progress(&mut self) -> Result<Revision, WatchEnd> {
        self.0.progress().await
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// What an implementation gives to [`Watch`]; the contract is that of its methods.
#[async_trait]
pub trait WatchSource: Send + Sync + 'static {
    /// See [`Watch::next`].
    async fn next(&mut self) -> Result<Vec<Arc<WatchEvent>>, WatchEnd>;
    /// See [`Watch::progress`].
    async fn progress(&mut self) -> Result<Revision, WatchEnd>;
}
