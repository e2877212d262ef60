//! The one thread that writes: takes every commit that waits, makes them durable together, shows them, and answers.
//!
//! Why a thread of the operating system: a flush blocks, and must neither hold a worker of the async runtime nor wait
//! for one. Why together: a flush costs the same for one commit as for a hundred. What must hold: nothing is answered
//! or shown before it is durable; after a failed write nothing more is written, because what the disk holds is then
//! unknown until the file is opened again.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hitless_base::Revision;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};

use crate::{
    api::{Committed, Op},
    backend::FileCounters,
    batch::{Batch, Plan},
    disk::Disk,
    errors::CommitError,
    history::History,
    image::Image,
};

/// Commits that share one flush at most.
const BATCH_COMMITS: usize = 512;
/// Bytes after which a batch takes no further commit.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// A commit with the place to answer to.
pub(crate) struct Request {
    pub(crate) ops: Vec<Op>,
    pub(crate) answer: oneshot::Sender<Result<Committed, CommitError>>,
}

/// What the writer shares with readers and watches.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) image: RwLock<Image>,
    pub(crate) history: Arc<History>,
    /// The image's revision, to be read without its lock.
    pub(crate) revision: AtomicU64,
    pub(crate) counters: Arc<FileCounters>,
    /// Batches and commits written since the store was opened.
    pub(crate) batches: AtomicU64,
    pub(crate) commits: AtomicU64,
}

impl Shared {
    pub(crate) fn new(image: Image, history: History, counters: Arc<FileCounters>) -> Self {
        Self {
            revision: AtomicU64::new(image.revision().0),
            image: RwLock::new(image),
            history: Arc::new(history),
            counters,
            batches: AtomicU64::new(0),
            commits: AtomicU64::new(0),
        }
    }
}

/// Runs until every sender of `requests` is gone and what they sent is answered.
pub(crate) fn run(mut disk: Disk, shared: &Shared, mut requests: mpsc::Receiver<Request>) {
    let mut failed: Option<CommitError> = None;
    while let Some(first) = requests.blocking_recv() {
        let waiting = gather(first, &mut requests);
        if let Some(error) = &failed {
            refuse(waiting, error);
            continue;
        }
        let (batch, answers): (Vec<_>, Vec<_>) = waiting.into_iter().map(|r| (r.ops, r.answer)).unzip();
        // A panic in the file's library must not leave callers without an answer.
        let written = catch_unwind(AssertUnwindSafe(|| write(&mut disk, shared, batch)));
        let results = match written {
            Ok(Ok(results)) => results,
            Ok(Err(error)) => fail(&mut failed, Arc::new(error), answers.len()),
            Err(_panic) => fail(&mut failed, Arc::new(Panicked), answers.len()),
        };
        for (answer, result) in answers.into_iter().zip(results) {
            // A caller that has gone away does not want it.
            let _gone = answer.send(result);
        }
    }
    shared.history.close();
}

fn gather(first: Request, requests: &mut mpsc::Receiver<Request>) -> Vec<Request> {
    let mut bytes = bytes(&first);
    let mut waiting = vec![first];
    while waiting.len() < BATCH_COMMITS && bytes < BATCH_BYTES {
        let Ok(request) = requests.try_recv() else { break };
        bytes += self::bytes(&request);
        waiting.push(request);
    }
    waiting
}

fn bytes(request: &Request) -> usize {
    request.ops.iter().map(|op| if let Op::Put { value, .. } = op { value.len() } else { 0 }).sum()
}

/// redb panicked, which it does over damaged pages.
#[derive(Debug, thiserror::Error)]
#[error("a page of the store's file cannot be read")]
struct Panicked;

type Cause = Arc<dyn std::error::Error + Send + Sync>;

fn fail(failed: &mut Option<CommitError>, cause: Cause, count: usize) -> Vec<Result<Committed, CommitError>> {
    tracing::error!(error = %cause, "the store could not write; it takes no more commits until it is opened again");
    let error = CommitError::Io(cause);
    *failed = Some(error.clone());
    vec![Err(error); count]
}

fn refuse(waiting: Vec<Request>, error: &CommitError) {
    for request in waiting {
        let _gone = request.answer.send(Err(error.clone()));
    }
}

fn write(
    disk: &mut Disk,
    shared: &Shared,
    batch: Vec<Vec<Op>>,
) -> Result<Vec<Result<Committed, CommitError>>, crate::disk::DiskError> {
    let (results, plan) = {
        // Only this thread takes the lock for writing, so holding it for reading delays no one.
        let image = shared.image.read();
        let mut planned = Batch::new(&image);
        let results: Vec<_> = batch.into_iter().map(|ops| planned.add(ops)).collect();
        let plan = planned.into_plan();
        if !plan.events.is_empty() {
            let began = std::time::Instant::now();
            disk.store(&image, &plan)?;
            let (changes, took_us) = (plan.changed.len(), began.elapsed().as_micros());
            tracing::debug!(revision = %plan.revision, changes, took_us, "durable");
        }
        (results, plan)
    };
    if !plan.events.is_empty() {
        shared.batches.fetch_add(1, Ordering::Relaxed);
        shared.commits.fetch_add(results.iter().filter(|r| r.is_ok()).count() as u64, Ordering::Relaxed);
        show(shared, plan);
    }
    Ok(results)
}

/// Lets readers and watches see a durable batch. Both at once: who lists at a revision can watch from it.
fn show(shared: &Shared, plan: Plan) {
    let Plan { changed, events, revision } = plan;
    let wake = {
        let mut image = shared.image.write();
        let wake = shared.history.append(&events, revision);
        image.apply(changed, revision);
        shared.revision.store(revision.0, Ordering::Release);
        wake
    };
    shared.history.wake(&wake);
}

/// The revision that readers see.
pub(crate) fn revision(shared: &Shared) -> Revision {
    Revision(shared.revision.load(Ordering::Acquire))
}
