//! The store without a disk: entries and history as in [`crate::Embedded`], gone with the last clone.
//!
//! For tests and for the simulation, where a thread and a file would be the only things that do not follow the seed. It
//! decides commits with the same code as the embedded store; what it leaves out is durability.

use std::sync::Arc;

use async_trait::async_trait;
use hitless_base::Revision;
use parking_lot::RwLock;

use crate::{
    admit::admit,
    api::{Committed, Entry, Listing, Op, Store, Watch},
    batch::Batch,
    embedded::Options,
    errors::{CommitError, StoreError, WatchError},
    history::{Bounds, History},
    image::Image,
};

/// A store in memory. Clones share it.
#[derive(Clone)]
pub struct Memory {
    image: Arc<RwLock<Image>>,
    history: Arc<History>,
    options: Options,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let bounds = Bounds { events: options.history_events_max, bytes: options.history_bytes_max };
        let history = Arc::new(History::new(bounds, Revision::ZERO));
        Self { image: Arc::default(), history, options }
    }
}

#[async_trait]
impl Store for Memory {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.image.read().get(key).cloned())
    }

    async fn list(
        &self,
        prefix: &str,
        limit: Option<usize>,
        continue_after: Option<&str>,
    ) -> Result<Listing, StoreError> {
        Ok(self.image.read().list(prefix, limit, continue_after))
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<Committed, CommitError> {
        let ops = admit(ops, &self.options)?;
        let (committed, wake) = {
            let mut image = self.image.write();
            let mut batch = Batch::new(&image);
            let committed = batch.add(ops)?;
            let plan = batch.into_plan();
            // Both under one lock: who lists at a revision can watch from it.
            let wake = self.history.append(&plan.events, plan.revision);
            image.apply(plan.changed, plan.revision);
            (committed, wake)
        };
        self.history.wake(&wake);
        Ok(committed)
    }

    fn revision(&self) -> Revision {
        self.image.read().revision()
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, WatchError> {
        Ok(Watch::new(Box::new(self.history.watch(prefix, after)?)))
    }

    async fn compact(&self, keep_from: Revision) -> Result<(), StoreError> {
        self.history.compact(keep_from);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Precondition, WatchEnd};

    fn store() -> Memory {
        Memory::new(Options { history_events_max: 4, key_bytes_max: 8, ..Options::default() })
    }

    #[tokio::test]
    async fn commits_lists_and_watches_agree() {
        let store = store();
        let made = store.commit(vec![Op::create("/a/1", "1"), Op::create("/b/1", "1")]).await.unwrap();
        assert_eq!((made.revision, store.revision()), (Revision(1), Revision(1)));
        let mut watch = store.watch("/a/", Revision::ZERO).await.unwrap();
        store.commit(vec![Op::update("/a/1", "2", Revision(1))]).await.unwrap();
        let seen: Vec<_> = watch.next().await.unwrap().iter().map(|e| e.entry.value.clone()).collect();
        assert_eq!(seen, ["1", "2"]);
        let listing = store.list("/a/", None, None).await.unwrap();
        assert_eq!((listing.revision, listing.entries.len()), (Revision(2), 1));
        assert_eq!(store.get("/b/1").await.unwrap().unwrap().modified, Revision(1));
    }

    #[tokio::test]
    async fn a_refused_commit_leaves_nothing() {
        let store = store();
        store.commit(vec![Op::create("/a", "1")]).await.unwrap();
        let stale =
            Op::Put { key: "/a".into(), value: "2".into(), expect: Precondition::ModifiedAt(Revision(9)) };
        let refused = store.commit(vec![Op::create("/b", "1"), stale]).await;
        assert!(matches!(refused, Err(CommitError::Conflict { current: Some(_), .. })));
        let long = store.commit(vec![Op::create("/too/long", "1")]).await;
        assert!(matches!(long, Err(CommitError::TooLarge { .. })));
        assert_eq!((store.revision(), store.get("/b").await.unwrap()), (Revision(1), None));
    }

    #[tokio::test]
    async fn history_is_bounded_and_clones_share_all() {
        let store = store();
        let mut late = store.clone().watch("/k", Revision::ZERO).await.unwrap();
        for n in 0..6 {
            store.commit(vec![Op::create(format!("/k{n}"), "1")]).await.unwrap();
        }
        assert!(matches!(late.next().await, Err(WatchEnd::Compacted { oldest: Revision(2) })));
        assert!(store.watch("/k", Revision(2)).await.is_ok());
        store.compact(Revision(6)).await.unwrap();
        assert!(matches!(store.watch("/k", Revision(4)).await, Err(WatchError::Compacted { .. })));
    }
}
