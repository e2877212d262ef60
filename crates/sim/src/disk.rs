//! The store's disk: the store of memory, which takes its time to write, and tells the checkers what was written.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use hitless_store::{
    CommitError, Committed, Entry, Listing, Memory, Op, Options, Revision, Store, StoreError, Watch,
    WatchError,
};

use crate::world::{Fact, World};

/// Kinds that checkers look at.
const WATCHED: [(&str, &str); 5] = [
    ("/registry/apps/replicasets/", "replicasets"),
    ("/registry/apps/deployments/", "deployments"),
    ("/registry/core/pods/", "pods"),
    ("/registry/core/services/", "services"),
    ("/registry/discovery.k8s.io/endpointslices/", "endpointslices"),
];

/// A store that takes its time. Clones share it; it outlives every API server that uses it, as a disk does.
#[derive(Clone)]
pub struct Disk {
    memory: Memory,
    world: World,
    /// One flush at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    slow_ms: Arc<AtomicU64>,
}

impl Disk {
    /// An empty one.
    #[must_use]
    pub fn new(world: World) -> Self {
        Self { memory: Memory::new(Options::default()), world, turn: Arc::default(), slow_ms: Arc::default() }
    }

    /// From now on each flush takes up to so many milliseconds more.
    pub fn be_slow(&self, ms_max: u64) {
        self.slow_ms.store(ms_max, Ordering::Relaxed);
    }

    async fn write(self, ops: Vec<Op>) -> Result<Committed, CommitError> {
        let _turn = self.turn.lock().await;
        self.world.pause(0..=1 + self.slow_ms.load(Ordering::Relaxed)).await;
        let removed: Vec<bool> = ops.iter().map(|op| matches!(op, Op::Delete { .. })).collect();
        let committed = self.memory.commit(ops).await?;
        for (entry, removed) in committed.entries.iter().zip(removed) {
            if let Some(entry) = entry {
                self.tell(entry, removed);
            }
        }
        Ok(committed)
    }

    fn tell(&self, entry: &Entry, removed: bool) {
        let found = WATCHED.iter().find_map(|(prefix, kind)| {
            entry.key.as_str().strip_prefix(prefix).map(|rest| format!("{kind}/{rest}"))
        });
        let Some(key) = found else { return };
        let object = serde_json::from_slice(&entry.value).ok().map(Arc::new);
        let object = object.filter(|_| !removed);
        self.world.tell(&Fact::Stored { revision: entry.modified.0, key, object });
    }
}

#[async_trait]
impl Store for Disk {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.memory.get(key).await
    }

    async fn list(
        &self,
        prefix: &str,
        limit: Option<usize>,
        continue_after: Option<&str>,
    ) -> Result<Listing, StoreError> {
        self.memory.list(prefix, limit, continue_after).await
    }

    /// What has been handed over is written, whether or not somebody still waits for the answer.
    async fn commit(&self, ops: Vec<Op>) -> Result<Committed, CommitError> {
        tokio::spawn(self.clone().write(ops)).await.unwrap_or(Err(CommitError::Closed))
    }

    fn revision(&self) -> Revision {
        self.memory.revision()
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, WatchError> {
        self.memory.watch(prefix, after).await
    }

    async fn compact(&self, keep_from: Revision) -> Result<(), StoreError> {
        self.memory.compact(keep_from).await
    }
}
