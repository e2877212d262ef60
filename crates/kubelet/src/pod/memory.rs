//! What a worker knows of its Pod: what the runtime holds of it, and what only the kubelet knows (probes, images, back-offs).
//!
//! Filled from the runtime's lists when the kubelet starts and corrected by each relist: the runtime is the truth,
//! this is a copy that spares asking before each step.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use hitless_base::Timestamp;
use hitless_termination::end_of_life::ContainerEnd;

use crate::ports::{Container, ContainerState, Image, Sandbox};

/// First delay between an exit and a restart, after the first restart.
pub const CRASH_BACKOFF_FIRST: Duration = Duration::from_secs(10);
/// Longest delay.
pub const CRASH_BACKOFF_MAX: Duration = Duration::from_secs(300);
/// A container that ran this long starts from the beginning again.
pub const CRASH_BACKOFF_RESET: Duration = Duration::from_secs(600);

/// One container in the runtime.
#[derive(Clone, Debug)]
pub struct Record {
    /// As of the last look.
    pub container: Container,
    /// When this kubelet first knew of it: a list taken before says nothing about it.
    pub seen: Instant,
    /// Termination message, once ended.
    pub message: Option<String>,
}

impl Record {
    /// Whether it runs.
    #[must_use]
    pub fn running(&self) -> bool {
        self.container.state == ContainerState::Running
    }

    /// Whether it has ended.
    #[must_use]
    pub fn exited(&self) -> bool {
        matches!(self.container.state, ContainerState::Exited | ContainerState::Unknown)
    }
}

/// Why a container does not run yet, as shown in its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// `ErrImagePull`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// No new try before.
    pub retry_at: Option<Timestamp>,
}

/// Where a container's image is.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageState {
    /// On the node.
    Present(Image),
    /// Being pulled in the background.
    Pulling,
    /// It failed; the words are in `waiting`.
    Held,
}

/// When a container may start again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Not before.
    pub not_before: Timestamp,
    /// The delay that led there; zero: at once.
    pub delay: Duration,
    /// The delay after that.
    next: Duration,
    /// The exit that this is about.
    finished_at: Timestamp,
}

impl Restart {
    /// The restart after an exit at `finished_at`.
    #[must_use]
    pub fn after_exit(before: Option<Self>, finished_at: Timestamp) -> Self {
        match before {
            Some(b) if finished_at.duration_since(b.not_before).unsigned_abs() <= CRASH_BACKOFF_RESET => {
                let not_before = finished_at.saturating_add(b.next).unwrap_or(Timestamp::MAX);
                let next = (b.next * 2).min(CRASH_BACKOFF_MAX);
                Self { not_before, delay: b.next, next, finished_at }
            }
            _ => Self {
                not_before: finished_at,
                delay: Duration::ZERO,
                next: CRASH_BACKOFF_FIRST,
                finished_at,
            },
        }
    }
}

/// What the probes of a running container have said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// The container that this is about.
    pub container_id: String,
    /// Startup has succeeded (or is not probed).
    pub started: bool,
    /// Readiness (or not probed).
    pub ready: bool,
}

/// A container that is being stopped to be restarted (a liveness probe has failed).
#[derive(Clone, Debug)]
pub struct Ending {
    /// End of its grace period.
    pub deadline: Timestamp,
    /// How far it has come.
    pub end: ContainerEnd,
}

/// `status`, with what it leaves empty taken from `known`: CRI's status of a container does not name its sandbox.
#[must_use]
pub fn completed(mut status: Container, known: &Container) -> Container {
    for (own, other) in [
        (&mut status.sandbox_id, &known.sandbox_id),
        (&mut status.name, &known.name),
        (&mut status.image, &known.image),
        (&mut status.image_ref, &known.image_ref),
    ] {
        if own.is_empty() {
            own.clone_from(other);
        }
    }
    for (own, other) in [(&mut status.labels, &known.labels), (&mut status.annotations, &known.annotations)] {
        if own.is_empty() {
            own.clone_from(other);
        }
    }
    status
}

/// Everything known of one Pod.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The newest sandbox.
    pub sandbox: Option<Sandbox>,
    /// When this kubelet first knew of it.
    pub sandbox_seen: Option<Instant>,
    /// Older sandboxes, to be removed.
    pub old_sandboxes: BTreeSet<String>,
    /// Containers by name, by attempt.
    pub containers: BTreeMap<String, BTreeMap<u32, Record>>,
    /// Why containers wait.
    pub waiting: BTreeMap<String, Waiting>,
    /// Images of containers about to start.
    pub images: BTreeMap<String, ImageState>,
    /// Restarts held back.
    pub restarts: BTreeMap<String, Restart>,
    /// What probes said.
    pub probed: BTreeMap<String, Probed>,
    /// Containers being stopped to be restarted.
    pub ending: BTreeMap<String, Ending>,
    /// Containers (by id) whose postStart hook is running: they do not count as running yet, and those after them wait.
    pub post_starting: BTreeSet<String>,
    /// preStop hooks that have come to an end, by container id.
    pub hooks_ended: BTreeSet<String>,
    /// Whether volumes are in place.
    pub volumes_ready: bool,
    /// No new try to set volumes or the sandbox up before.
    pub setup_retry_at: Option<Timestamp>,
    /// When the kubelet first saw the Pod.
    pub start_time: Option<Timestamp>,
    /// Whether an address was ever published.
    pub routable: bool,
    /// The Pod was ended by the kubelet itself: reason and message.
    pub failed: Option<(&'static str, String)>,
}

impl Memory {
    /// The newest record of a container.
    #[must_use]
    pub fn latest(&self, name: &str) -> Option<&Record> {
        self.containers.get(name)?.values().next_back()
    }

    /// Whether the newest container of this name runs its postStart hook.
    #[must_use]
    pub fn is_post_starting(&self, name: &str) -> bool {
        self.latest(name).is_some_and(|r| r.running() && self.post_starting.contains(&r.container.id))
    }

    /// The record before the newest.
    #[must_use]
    pub fn previous(&self, name: &str) -> Option<&Record> {
        self.containers.get(name)?.values().rev().nth(1)
    }

    /// The record of this id.
    #[must_use]
    pub fn by_id(&self, id: &str) -> Option<&Record> {
        self.records().find(|r| r.container.id == id)
    }

    /// All records.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.containers.values().flat_map(BTreeMap::values)
    }

    /// Takes in what the runtime says of a container. Gives whether it has just ended.
    pub fn put(&mut self, container: Container, message: Option<String>) -> bool {
        let of_name = self.containers.entry(container.name.clone()).or_default();
        let before = of_name.get(&container.attempt);
        let was_over = before.is_some_and(Record::exited);
        let seen = before.map_or_else(Instant::now, |b| b.seen);
        let record = Record { container, seen, message };
        let ended = record.exited() && !was_over;
        let (name, attempt) = (record.container.name.clone(), record.container.attempt);
        of_name.insert(attempt, record);
        if ended && self.latest(&name).is_some_and(|r| r.container.attempt == attempt) {
            self.on_exit(&name);
        }
        ended
    }

    /// The newest container of this name has ended: its restart is worked out, what was known of it is void.
    fn on_exit(&mut self, name: &str) {
        let finished =
            self.latest(name).and_then(|r| r.container.finished_at).unwrap_or(Timestamp::UNIX_EPOCH);
        let restart = Restart::after_exit(self.restarts.get(name).copied(), finished);
        self.restarts.insert(name.to_owned(), restart);
        if let Some(id) = self.latest(name).map(|r| r.container.id.clone()) {
            self.post_starting.remove(&id);
        }
        self.probed.remove(name);
        self.ending.remove(name);
        self.images.remove(name);
        self.waiting.remove(name);
    }

    /// The sandbox is no longer up: nothing in it runs.
    pub fn sandbox_lost(&mut self) {
        if let Some(sandbox) = &mut self.sandbox {
            sandbox.ready = false;
        }
    }

    /// Whether the runtime still holds anything of the Pod, as far as is known.
    #[must_use]
    pub fn holds_anything(&self) -> bool {
        self.sandbox.is_some() || !self.old_sandboxes.is_empty() || self.records().next().is_some()
    }

    /// Whether a sandbox is up.
    #[must_use]
    pub fn sandbox_up(&self) -> bool {
        self.sandbox.as_ref().is_some_and(|s| s.ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + s).unwrap()
    }

    #[test]
    fn restarts_double_to_five_minutes_and_begin_anew_after_ten() {
        let mut restart = None;
        let mut now = 0;
        let mut delays = Vec::new();
        for _ in 0..8 {
            let r = Restart::after_exit(restart, at(now));
            delays.push(r.delay.as_secs());
            now = r.not_before.as_second() - 1_800_000_000 + 1;
            restart = Some(r);
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(Restart::after_exit(restart, at(now + 700)).delay, Duration::ZERO);
    }
}
