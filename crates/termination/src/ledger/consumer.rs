//! One consumer in the ledger: its registration, its watermark, its settle time and its lease.

use std::{collections::VecDeque, sync::Arc};

use hitless_base::Revision;
use hitless_types::{AckClass, SettleScope};

/// Words of one consumer whose settle time is running, and steps that are remembered for the record, at the most.
const HISTORY_STEPS_MAX: usize = 256;

/// A consumer's registration, as the API holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Name of the consumer.
    pub name: String,
    /// Which start of the consumer.
    pub incarnation: String,
    /// What its word rests on.
    pub class: AckClass,
    /// Waited after its word; for `TimeBounded` after the change itself. Milliseconds.
    pub settle_ms: u64,
    /// Whose end that is waited for.
    pub settle_scope: SettleScope,
    /// Silence longer than this takes it out of scope. Seconds. A `TimeBounded` consumer cannot speak, so it has no lease.
    pub lease_s: u64,
    /// The revision at which the registration was *made*, if that is known for certain.
    ///
    /// Only the creation of the object, seen as it happened, proves it. Neither a present resourceVersion (an annotation
    /// raises it) nor a new incarnation under an old name (what the old one left in a kernel still routes) does.
    pub joined: Option<Revision>,
}

/// A consumer's word: its data plane holds every EndpointSlice change up to `revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Who speaks; a word of another incarnation than the registered one is not taken.
    pub incarnation: String,
    /// The watermark.
    pub revision: Revision,
}

/// What became of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The watermark rose.
    Rose,
    /// A sign of life.
    Same,
    /// The watermark would have fallen within an incarnation: the old one stays. A fault of the consumer.
    Fell,
    /// Another incarnation than the registered one: not taken, and no sign of life of the registered one.
    OtherIncarnation,
    /// Nobody of that name is registered.
    Unknown,
}

/// How far a consumer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// At once.
    pub(super) stand: Revision,
    /// After the settle time, as far as it is waited: for Pods of headless Services (`true` as an index), and for the others.
    pub(super) settled: [Revision; 2],
}

#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) name: Arc<str>,
    pub(super) incarnation: Arc<str>,
    pub(super) class: AckClass,
    /// Microseconds, as all times here.
    settle: i64,
    scope: SettleScope,
    lease: i64,
    joined: Revision,
    pub(super) watermark: Revision,
    /// The highest watermark whose settle time has passed, and those whose time is running.
    settled: Revision,
    settling: VecDeque<(Revision, i64)>,
    /// Watermarks and when each was first heard: the last one, and those that a waiting Pod wants.
    steps: VecDeque<(Revision, i64)>,
    heard_at: i64,
    /// Its lease had not run out when that was last looked at.
    pub(super) alive: bool,
    /// Where the ledger's lines have it.
    pub(super) placed: Option<Place>,
}

impl Consumer {
    pub(super) fn new(name: Arc<str>, registration: &Registration, now: i64) -> Self {
        Self {
            name,
            incarnation: registration.incarnation.as_str().into(),
            class: registration.class,
            settle: micros(registration.settle_ms),
            scope: registration.settle_scope,
            lease: micros(registration.lease_s.saturating_mul(1000)),
            joined: registration.joined.unwrap_or_default(),
            watermark: Revision::ZERO,
            settled: Revision::ZERO,
            settling: VecDeque::new(),
            steps: VecDeque::new(),
            heard_at: now,
            alive: true,
            placed: None,
        }
    }

    /// Takes the registration again. What was known of `joined` stays.
    pub(super) fn register(&mut self, registration: &Registration, now: i64) {
        self.class = registration.class;
        self.settle = micros(registration.settle_ms);
        self.scope = registration.settle_scope;
        self.lease = micros(registration.lease_s.saturating_mul(1000));
        if *self.incarnation != *registration.incarnation {
            // A new start under an old name: it must say for itself how far it is, and it stays in scope of what
            // its name was in scope of. Rule 4 frees only those that cannot have learnt of the endpoint, and a
            // consumer in the kernel goes on routing by what it was told before it was started again.
            self.incarnation = registration.incarnation.as_str().into();
            self.watermark = Revision::ZERO;
            self.settled = Revision::ZERO;
            self.settling.clear();
            self.steps.clear();
            self.heard_at = now;
            self.alive = true;
        }
    }

    /// Takes a word. `wanted(from, to)` says whether a Pod waits for a revision above `from`, up to `to`;
    /// `oldest` is the lowest that any waits for.
    pub(super) fn hear(
        &mut self,
        word: &Word,
        now: i64,
        oldest: Option<Revision>,
        wanted: impl Fn(Revision, Revision) -> bool,
    ) -> Heard {
        if *self.incarnation != *word.incarnation {
            return Heard::OtherIncarnation;
        }
        self.heard_at = now;
        self.alive = true;
        // Rule 2: a watermark never falls within one incarnation. What was programmed once was programmed.
        if word.revision <= self.watermark {
            return if word.revision < self.watermark { Heard::Fell } else { Heard::Same };
        }
        self.watermark = word.revision;
        if self.settle == 0 && self.settling.is_empty() {
            self.settled = word.revision;
        } else {
            if self.settling.len() >= HISTORY_STEPS_MAX {
                // The one before the last counts with the last: later, never sooner.
                self.settling.remove(HISTORY_STEPS_MAX - 2);
                self.settling.truncate(HISTORY_STEPS_MAX - 1);
            }
            self.settling.push_back((word.revision, now.saturating_add(self.settle)));
        }
        self.remember(now, oldest, wanted);
        Heard::Rose
    }

    fn remember(&mut self, now: i64, oldest: Option<Revision>, wanted: impl Fn(Revision, Revision) -> bool) {
        if let Some((last, _)) = self.steps.back() {
            let before = self
                .steps
                .len()
                .checked_sub(2)
                .and_then(|i| self.steps.get(i))
                .map_or(Revision::ZERO, |s| s.0);
            if !wanted(before, *last) {
                self.steps.pop_back();
            }
        }
        while self.steps.front().is_some_and(|(step, _)| oldest.is_none_or(|o| *step < o)) {
            self.steps.pop_front();
        }
        if self.steps.len() >= HISTORY_STEPS_MAX {
            self.steps.pop_front();
        }
        self.steps.push_back((self.watermark, now));
    }

    /// Whether a Pod that wants `revision` must wait for this consumer.
    ///
    /// Rule 4. The required set of a removal at revision R is fixed by R: whoever registered at or before R, and lives.
    /// Who registered after R is free, and here is why that is safe. `joined` is the resourceVersion of the object's
    /// creation, a position in the same single counter as R, and creations are seen as they happen, so `joined > R` means that the
    /// registration was written after the removal. A consumer registers before it lists (rule 3), so its list is
    /// of a state at or beyond `joined`, hence beyond R: the endpoint is in it as terminating or not at all.
    /// Where `joined` is not known for certain it is zero, and the consumer's own watermark must reach R.
    pub(super) fn in_scope(&self, revision: Revision) -> bool {
        (self.alive || self.class == AckClass::TimeBounded) && self.joined <= revision
    }

    /// The settle time that is waited for a Pod. Microseconds.
    pub(super) fn settle_for(&self, headless: bool) -> i64 {
        if self.scope.covers(headless) { self.settle } else { 0 }
    }

    /// The settle time that is waited for a Pod after the consumer's word. Microseconds; zero for one that cannot speak.
    pub(super) fn settle_after_word(&self, headless: bool) -> i64 {
        if self.class == AckClass::TimeBounded { 0 } else { self.settle_for(headless) }
    }

    /// Where it stands; `None` if nobody waits for its word.
    ///
    /// A consumer is free of every revision before `joined` (see [`Consumer::in_scope`]), which is as good as holding the one before it.
    pub(super) fn place(&self) -> Option<Place> {
        let free = Revision(self.joined.0.saturating_sub(1));
        (self.alive && self.class != AckClass::TimeBounded).then(|| Place {
            stand: self.watermark.max(free),
            settled: [false, true].map(|headless| self.holds(headless).max(free)),
        })
    }

    /// What it holds after the settle time, as far as that is waited for such a Pod.
    fn holds(&self, headless: bool) -> Revision {
        if self.scope.covers(headless) { self.settled } else { self.watermark }
    }

    /// The watermark and time that satisfy `wants`, or the time (if one is known) at which something will.
    pub(super) fn answer(
        &self,
        wants: Revision,
        seen_at: i64,
        now: i64,
        headless: bool,
        settle: bool,
    ) -> Result<(Revision, i64), Option<i64>> {
        if self.class == AckClass::TimeBounded {
            let until = seen_at.saturating_add(self.settle_for(headless));
            return if until <= now { Ok((wants, until)) } else { Err(Some(until)) };
        }
        if self.watermark < wants {
            return Err(None);
        }
        if settle && self.holds(headless) < wants {
            return Err(self.settling.iter().find(|(step, _)| *step >= wants).map(|(_, due)| *due));
        }
        let step = self.steps.iter().find(|(step, _)| *step >= wants);
        Ok(step.copied().unwrap_or((self.watermark, self.heard_at)))
    }

    /// Lets words count whose settle time has passed.
    pub(super) fn settle_until(&mut self, now: i64) {
        while let Some((step, due)) = self.settling.front().copied()
            && due <= now
        {
            self.settled = step;
            self.settling.pop_front();
        }
    }

    /// When the next word's settle time has passed.
    pub(super) fn settles_next(&self) -> Option<i64> {
        self.settling.front().map(|(_, due)| *due)
    }

    /// When the lease ends, if nothing more is heard; `since` is when contact with the API began.
    /// `None` for one that has no lease.
    pub(super) fn lease_ends_at(&self, since: i64) -> Option<i64> {
        self.lease_ends_after(since, 1)
    }

    /// As [`Consumer::lease_ends_at`], for so many leases.
    pub(super) fn lease_ends_after(&self, since: i64, leases: i64) -> Option<i64> {
        (self.class != AckClass::TimeBounded)
            .then(|| self.heard_at.max(since).saturating_add(self.lease.saturating_mul(leases)))
    }

    /// Silence that counts.
    pub(super) fn silent_for(&self, now: i64, since: i64) -> i64 {
        now.saturating_sub(self.heard_at.max(since)).max(0)
    }
}

/// Milliseconds as the microseconds that the ledger reckons in.
pub(super) fn micros(ms: u64) -> i64 {
    i64::try_from(ms.saturating_mul(1000)).unwrap_or(i64::MAX)
}
