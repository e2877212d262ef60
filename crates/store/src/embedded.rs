//! The store that lives in the process: memory for reads and watches, one file and one writing thread for commits.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
};

use async_trait::async_trait;
use hitless_base::Revision;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::{
    admit::admit,
    api::{Committed, Entry, Listing, Op, Store, Watch},
    backend::FileCounters,
    disk,
    errors::{CommitError, OpenError, StoreError, WatchError},
    history::{Bounds, History},
    writer::{self, Request, Shared},
};

/// Commits that wait for the writer at most; more wait in their callers.
const QUEUE_COMMITS: usize = 1024;

/// The store's bounds.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Events that watches can start from or fall behind by, at most.
    pub history_events_max: usize,
    /// The same in bytes: keys, values and what they replaced.
    pub history_bytes_max: usize,
    /// A value's length in bytes.
    pub value_bytes_max: usize,
    /// A key's length in bytes.
    pub key_bytes_max: usize,
    /// Operations in one commit.
    pub commit_ops_max: usize,
    /// Run by the writing thread before it begins, to give it a place before other work on the machine. A flush wakes
    /// this thread twice; where processors are busy, each wake-up waits for a time slice (4 ms) unless the thread is
    /// scheduled in real time (`SCHED_FIFO`). Setting that is a system call, so whoever may do those passes it in.
    pub on_writer_start: Option<fn()>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            history_events_max: 65_536,
            history_bytes_max: 32 * 1024 * 1024,
            value_bytes_max: 3 * 1024 * 1024,
            key_bytes_max: 2048,
            commit_ops_max: 128,
            on_writer_start: None,
        }
    }
}

/// What the store has done since it was opened, and holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Entries that are there.
    pub entries: usize,
    /// Commits that were written.
    pub commits: u64,
    /// Durable transactions that they took.
    pub batches: u64,
    /// Flushes to the disk that those took.
    pub syncs: u64,
}

/// The embedded store. Clones share it; when the last one is dropped, what was sent is still written, the drop waits
/// for that, and running watches end with `Closed`.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
    writer: Arc<Writer>,
    options: Options,
}

struct Writer {
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    fn close(&self) {
        drop(self.requests.lock().take());
        if let Some(thread) = self.thread.lock().take() {
            // It catches its own panics; a second way to learn of one would tell nothing new.
            let _ended = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

impl Embedded {
    /// Opens the store in `directory` (made if it is not there) and reads it into memory. Blocks while it does.
    pub fn open(directory: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        let directory = directory.as_ref();
        let counters = Arc::new(FileCounters::default());
        let (disk, image) = disk::open(directory, Arc::clone(&counters))?;
        let bounds = Bounds { events: options.history_events_max, bytes: options.history_bytes_max };
        let history = History::new(bounds, image.revision());
        let shared = Arc::new(Shared::new(image, history, counters));
        let (sender, requests) = mpsc::channel(QUEUE_COMMITS);
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("store-writer".to_owned())
                .spawn(move || {
                    if let Some(prepare) = options.on_writer_start {
                        prepare();
                    }
                    writer::run(disk, &shared, requests);
                })
                .map_err(|source| OpenError::Io { path: directory.to_owned(), source: Arc::new(source) })?
        };
        let writer = Writer { requests: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) };
        Ok(Self { shared, writer: Arc::new(writer), options })
    }

    /// Takes no more commits, waits until those that were taken are answered, and releases the file. Reads go on.
    pub async fn close(&self) {
        let writer = Arc::clone(&self.writer);
        // Fails only if the runtime is ending; then the drop does the same.
        let _ended = tokio::task::spawn_blocking(move || writer.close()).await;
    }

    /// What the store has done and holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            entries: self.shared.image.read().len(),
            commits: self.shared.commits.load(Ordering::Relaxed),
            batches: self.shared.batches.load(Ordering::Relaxed),
            syncs: self.shared.counters.syncs.load(Ordering::Relaxed),
        }
    }

    #[cfg(test)]
    pub(crate) fn break_disk(&self) {
        self.shared.counters.broken.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.shared.image.read().get(key).cloned())
    }

    async fn list(
        &self,
        prefix: &str,
        limit: Option<usize>,
        continue_after: Option<&str>,
    ) -> Result<Listing, StoreError> {
        Ok(self.shared.image.read().list(prefix, limit, continue_after))
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<Committed, CommitError> {
        let ops = admit(ops, &self.options)?;
        let requests = self.writer.requests.lock().clone().ok_or(CommitError::Closed)?;
        let (answer, answered) = oneshot::channel();
        requests.send(Request { ops, answer }).await.map_err(|_| CommitError::Closed)?;
        // The writer must not be kept open by a caller that only waits for its answer.
        drop(requests);
        answered.await.map_err(|_| CommitError::Closed)?
    }

    fn revision(&self) -> Revision {
        writer::revision(&self.shared)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, WatchError> {
        Ok(Watch::new(Box::new(self.shared.history.watch(prefix, after)?)))
    }

    async fn compact(&self, keep_from: Revision) -> Result<(), StoreError> {
        self.shared.history.compact(keep_from);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_write_is_never_shown_and_ends_writing_but_not_reading() {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path(), Options::default()).unwrap();
        store.commit(vec![Op::create("/a", "1")]).await.unwrap();
        store.break_disk();
        for key in ["/b", "/c"] {
            let refused = store.commit(vec![Op::create(key, "1")]).await;
            assert!(matches!(refused, Err(CommitError::Io(_))), "{refused:?}");
        }
        assert_eq!(store.revision(), Revision(1));
        assert_eq!(store.list("", None, None).await.unwrap().entries.len(), 1);
        store.close().await;
        drop(store);
        let again = Embedded::open(directory.path(), Options::default()).unwrap();
        assert_eq!(again.get("/a").await.unwrap().unwrap().value, "1");
        again.commit(vec![Op::create("/d", "1")]).await.unwrap();
    }
}
