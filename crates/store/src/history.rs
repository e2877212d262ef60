//! The recent events, shared by all watches, and how watches wait for the next.
//!
//! Why one ring: a watch has no queue of its own that could grow, only a position. The writer never waits for a
//! watch; a watch whose position has been overwritten ends. What must hold: events are in the order of their
//! revisions, whole commits are added at a time, and a watch that is still running has missed nothing.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use hitless_base::Revision;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::{
    api::{Key, WatchEvent, WatchSource},
    errors::{WatchEnd, WatchError},
};

/// Events that one call of `next` returns, unless a commit is larger.
const BATCH_EVENTS: usize = 256;
/// Events that are looked at under one lock.
const SCAN_EVENTS: usize = 4096;
/// Groups of watches that are woken together.
const GROUPS: usize = 64;
/// What an event occupies besides keys and values, in bytes.
const EVENT_OVERHEAD: usize = 256;

/// How much history is kept; whichever bound is reached first counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<Arc<WatchEvent>>,
    /// The position of the first event that is kept; positions are never reused.
    first: u64,
    bytes: usize,
    /// Every event with a greater revision is kept.
    floor: Revision,
    /// The revision of the last commit that was added.
    revision: Revision,
    closed: bool,
    /// Added since every watch was last woken.
    quiet_events: usize,
    quiet_bytes: usize,
}

impl Ring {
    fn drop_first(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.first += 1;
            self.bytes = self.bytes.saturating_sub(size(&event));
            self.floor = self.floor.max(event.revision);
        }
    }

    /// Looks at up to about [`SCAN_EVENTS`] events from position `from`. Never stops within a commit.
    fn scan(&self, from: u64, prefix: &str) -> Result<Scan, WatchEnd> {
        if from < self.first {
            return Err(WatchEnd::Compacted { oldest: self.floor });
        }
        let mut scan = Scan { found: Vec::new(), next: from, seen: self.revision, at_end: true };
        let mut last = None;
        for event in self
            .events
            .range(usize::try_from(from - self.first).unwrap_or(usize::MAX).min(self.events.len())..)
        {
            let full = scan.found.len() >= BATCH_EVENTS || scan.next - from >= SCAN_EVENTS as u64;
            if let Some(last) = last
                && full
                && last != event.revision
            {
                scan.seen = last;
                scan.at_end = false;
                break;
            }
            if event.entry.key.starts_with(prefix) {
                scan.found.push(Arc::clone(event));
            }
            last = Some(event.revision);
            scan.next += 1;
        }
        Ok(scan)
    }
}

struct Scan {
    found: Vec<Arc<WatchEvent>>,
    next: u64,
    seen: Revision,
    at_end: bool,
}

fn size(event: &WatchEvent) -> usize {
    let previous = match &event.kind {
        crate::EventKind::Put { previous } => previous.as_ref().map_or(0, |entry| entry.value.len()),
        crate::EventKind::Delete { .. } => 0,
    };
    EVENT_OVERHEAD + event.entry.key.len() + event.entry.value.len() + previous
}

/// Which groups of watches are to be woken.
pub(crate) struct Wake {
    groups: [bool; GROUPS + 1],
}

/// The ring with its waiting watches.
#[derive(Debug)]
pub(crate) struct History {
    ring: RwLock<Ring>,
    bounds: Bounds,
    /// Watches of one kind of object wait on the sender of that kind's group, so that a change of one kind does not
    /// wake the watches of all. The last sender is for watches whose prefix is shorter than a kind.
    groups: Vec<watch::Sender<()>>,
}

impl History {
    /// An empty history that begins after `revision`.
    pub(crate) fn new(bounds: Bounds, revision: Revision) -> Self {
        let ring = Ring {
            events: VecDeque::new(),
            first: 0,
            bytes: 0,
            floor: revision,
            revision,
            closed: false,
            quiet_events: 0,
            quiet_bytes: 0,
        };
        Self {
            ring: RwLock::new(ring),
            bounds,
            groups: (0..=GROUPS).map(|_| watch::Sender::new(())).collect(),
        }
    }

    /// Adds the events of whole commits, in order, up to `revision`. The watches are told by [`Self::wake`].
    ///
    /// Once in each eighth of the ring every watch is woken, so that one whose own keys never change moves on and
    /// does not lose its position.
    pub(crate) fn append(&self, events: &[Arc<WatchEvent>], revision: Revision) -> Wake {
        let mut wake = Wake { groups: [false; GROUPS + 1] };
        let mut ring = self.ring.write();
        for event in events {
            let size = size(event);
            ring.bytes += size;
            ring.quiet_bytes += size;
            ring.quiet_events += 1;
            ring.events.push_back(Arc::clone(event));
            for touched in [group(&event.entry.key), GROUPS] {
                if let Some(flag) = wake.groups.get_mut(touched) {
                    *flag = true;
                }
            }
        }
        while ring.events.len() > self.bounds.events || ring.bytes > self.bounds.bytes {
            ring.drop_first();
        }
        ring.revision = revision;
        if ring.quiet_events > self.bounds.events / 8 || ring.quiet_bytes > self.bounds.bytes / 8 {
            wake.groups = [true; GROUPS + 1];
            (ring.quiet_events, ring.quiet_bytes) = (0, 0);
        }
        wake
    }

    /// Wakes the watches that what was added may concern.
    pub(crate) fn wake(&self, wake: &Wake) {
        for (sender, _) in self.groups.iter().zip(wake.groups).filter(|(_, touched)| *touched) {
            sender.send_replace(());
        }
    }

    /// Drops the events below `keep_from`.
    pub(crate) fn compact(&self, keep_from: Revision) {
        let mut ring = self.ring.write();
        let keep_from = keep_from.min(ring.revision.next());
        while ring.events.front().is_some_and(|event| event.revision < keep_from) {
            ring.drop_first();
        }
        ring.floor = ring.floor.max(Revision(keep_from.0.saturating_sub(1)));
    }

    /// Ends every watch, once it has returned what is there.
    pub(crate) fn close(&self) {
        self.ring.write().closed = true;
        self.wake(&Wake { groups: [true; GROUPS + 1] });
    }

    /// A watch of every event after `after`.
    pub(crate) fn watch(self: &Arc<Self>, prefix: &str, after: Revision) -> Result<RingWatch, WatchError> {
        let ring = self.ring.read();
        if ring.closed {
            return Err(WatchError::Closed);
        }
        if after > ring.revision {
            return Err(WatchError::Future { current: ring.revision });
        }
        if after < ring.floor {
            return Err(WatchError::Compacted { oldest: ring.floor });
        }
        let skipped = ring.events.partition_point(|event| event.revision <= after);
        let waiting = self.groups.get(group(prefix)).map(watch::Sender::subscribe);
        Ok(RingWatch {
            next: ring.first + skipped as u64,
            seen: after,
            prefix: prefix.into(),
            waiting: waiting.ok_or(WatchError::Closed)?,
            history: Arc::clone(self),
            ended: None,
        })
    }
}

/// The group of `/registry/KIND/...`; the last one for a text that does not reach the slash after the kind.
fn group(text: &str) -> usize {
    let Some((end, _)) = text.match_indices('/').nth(2) else { return GROUPS };
    // FNV-1a: short, and the same for a key and for the prefix that it begins with.
    let hash = text.bytes().take(end).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash % GROUPS as u64) as usize
}

/// A watch: a position in the ring.
pub(crate) struct RingWatch {
    history: Arc<History>,
    prefix: Key,
    /// The position of the next event to look at.
    next: u64,
    /// Every event up to here has been returned.
    seen: Revision,
    waiting: watch::Receiver<()>,
    ended: Option<WatchEnd>,
}

impl RingWatch {
    fn fail<T>(&mut self, end: WatchEnd) -> Result<T, WatchEnd> {
        self.ended = Some(end.clone());
        Err(end)
    }
}

#[async_trait]
impl WatchSource for RingWatch {
    async fn next(&mut self) -> Result<Vec<Arc<WatchEvent>>, WatchEnd> {
        loop {
            if let Some(end) = &self.ended {
                return Err(end.clone());
            }
            // Marked before looking: what is added after the look wakes the wait below.
            self.waiting.mark_unchanged();
            let (scan, closed) = {
                let ring = self.history.ring.read();
                (ring.scan(self.next, &self.prefix), ring.closed)
            };
            let scan = match scan {
                Ok(scan) => scan,
                Err(end) => return self.fail(end),
            };
            self.next = scan.next;
            self.seen = scan.seen;
            if !scan.found.is_empty() {
                return Ok(scan.found);
            }
            if scan.at_end {
                if closed || self.waiting.changed().await.is_err() {
                    return self.fail(WatchEnd::Closed);
                }
            } else {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn progress(&mut self) -> Result<Revision, WatchEnd> {
        loop {
            if let Some(end) = &self.ended {
                return Err(end.clone());
            }
            let scan = self.history.ring.read().scan(self.next, &self.prefix);
            let scan = match scan {
                Ok(scan) => scan,
                Err(end) => return self.fail(end),
            };
            if let Some(first) = scan.found.first() {
                // Revisions are contiguous, and no event of this prefix lies between.
                self.seen = self.seen.max(Revision(first.revision.0.saturating_sub(1)));
                return Ok(self.seen);
            }
            self.next = scan.next;
            self.seen = scan.seen;
            if scan.at_end {
                return Ok(self.seen);
            }
        }
    }
}
