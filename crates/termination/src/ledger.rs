//! The ack ledger: who routes to endpoints, how far each has come, and for which Pods that is far enough.
//!
//! This is the heart of the closed loop, and it is pure: observations go in with the time at which they were
//! made, verdicts come out. It reads no clock and does no I/O, and nothing in it depends on having seen an event:
//! after a restart it is filled from what the API holds, and its answers are then the same or later, never sooner.
//!
//! The rules of the loop that are kept here, each stated again beside the code that keeps it:
//!
//! 1. A Pod is acknowledged only when every live consumer in scope has reached the removal revision ([`Ledger::verdict`]).
//! 2. A watermark never falls within one incarnation (`Consumer::hear`).
//! 3. Silence is no ack: a consumer leaves the required set only by deregistering or by its lease running out ([`Ledger::in_touch`]).
//! 4. The required set is fixed by the removal revision (`Consumer::in_scope`).
//!    A settle time is waited only for Pods that it concerns (`Consumer::settle_for`): a DNS server's for Pods of headless Services.
//! 5. Every withdrawal ends: by acks or at its deadline ([`Ledger::verdict`]).
//! 6. Nothing depends on having seen an event: leases count from when the ledger began to watch ([`Ledger::new`]).
//! 7. Cost in proportion to consumers and time, not to endpoints: a word costs one move in a sorted set
//!    however many Pods wait, and a waiting Pod costs nothing until the lowest watermark has passed its revision.
//!
//! Invariant: memory is bounded by consumers (each with a bounded history) and waiting Pods; [`Ledger::forget`]
//! takes everything of a Pod with it.

mod consumer;
mod line;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use hitless_base::{Revision, Timestamp};
use hitless_types::AckClass;

use consumer::{Consumer, micros};
pub use consumer::{Heard, Registration, Word};
use line::{Line, Lines, Sorted};

/// Longer than this without a proof that the API answers, and silence is no longer the consumers' own: every lease
/// counts anew. Milliseconds. Whoever drives the ledger calls [`Ledger::in_touch`] more often than this.
pub const TOUCH_GAP_MS_MAX: u64 = 3_000;

/// Leases of silence after which a consumer's registration may be deleted.
pub const LEASES_UNTIL_FORGOTTEN: i64 = 10;

/// A consumer's word that counted for a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Name of the consumer.
    pub consumer: Arc<str>,
    /// The watermark with which it first reached what was wanted; for `TimeBounded` the revision that was wanted.
    pub revision: Revision,
    /// When the ledger heard it; for `TimeBounded` when its settle time had passed.
    pub at: Timestamp,
    /// When the settle time after its word had passed, if one was waited.
    pub settled_at: Option<Timestamp>,
    /// What it rests on.
    pub class: AckClass,
}

/// A consumer that a Pod still waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Laggard {
    /// Name of the consumer.
    pub consumer: Arc<str>,
    /// Its watermark; zero if its present incarnation has not said any.
    pub holds: Revision,
    /// What is wanted; `None` while the endpoint is not yet removed.
    pub wants: Option<Revision>,
    /// Since its last word, or since the ledger began to watch. Milliseconds.
    pub silent_for_ms: u64,
    /// It holds what is wanted, or cannot say so, and only time is waited for: until then.
    pub settles_at: Option<Timestamp>,
    /// What its ack would rest on.
    pub class: AckClass,
}

/// The ledger's answer for a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not yet.
    Waiting {
        /// Who is awaited, by name. Empty while the endpoint is not yet removed.
        laggards: Vec<Laggard>,
        /// When time alone may change the answer. Leases are not in it: they are looked at with each [`Ledger::in_touch`].
        look_again_at: Timestamp,
    },
    /// Every consumer in scope has let go (or, for an addition, routes to it).
    Acknowledged {
        /// The revision that was wanted.
        revision: Revision,
        /// Who answered, by name.
        acks: Vec<Ack>,
    },
    /// The deadline has passed.
    BudgetSpent {
        /// The revision that was wanted; `None` if the endpoint never was removed.
        revision: Option<Revision>,
        /// Who had not answered, by name.
        laggards: Vec<Laggard>,
        /// Who had.
        acks: Vec<Ack>,
    },
}

/// A consumer that has fallen silent for longer than its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lapsed {
    /// Name of the consumer.
    pub consumer: Arc<str>,
    /// Incarnation that fell silent.
    pub incarnation: Arc<str>,
    /// Its watermark.
    pub holds: Revision,
    /// Milliseconds.
    pub silent_for_ms: u64,
    /// Silent for so many leases that its registration may go. Such a one is named again each minute.
    pub forgettable: bool,
    /// It was alive until now: to be told once.
    pub newly: bool,
}

/// A Pod whose endpoint is to go, or to come.
#[derive(Clone, Copy, Debug)]
struct Wait {
    /// Revision that every consumer in scope must reach, and when it was first seen.
    wants: Option<(Revision, i64)>,
    /// When waiting ends all the same; additions have none.
    deadline: Option<i64>,
    /// Its address stands in DNS records. Once so, it stays so: a client may have kept it.
    headless: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    consumers: HashMap<Arc<str>, Consumer>,
    lines: Lines,
    removals: HashMap<Arc<str>, Wait>,
    additions: HashMap<Arc<str>, Wait>,
    /// Waiting Pods by what they want, removals of headless Services' Pods (`true` as an index) apart; and by when waiting ends.
    removals_by_revision: [Sorted<Revision>; 2],
    additions_by_revision: Sorted<Revision>,
    deadlines: Sorted<i64>,
    falls: u64,
}

impl Ledger {
    /// An empty ledger that begins to watch at `now`.
    ///
    /// Rule 6: after a restart nothing is known of when a consumer last spoke, so each lease counts from here. A consumer
    /// that is dead is waited for once more; one that lives is never dropped for words that the ledger did not hear.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            consumers: HashMap::new(),
            lines: Lines::new(now.as_microsecond()),
            removals: HashMap::new(),
            additions: HashMap::new(),
            removals_by_revision: <[Sorted<Revision>; 2]>::default(),
            additions_by_revision: Sorted::default(),
            deadlines: Sorted::default(),
            falls: 0,
        }
    }

    /// A consumer's registration as the API holds it. Idempotent; a change of incarnation starts its watermark anew.
    pub fn register(&mut self, registration: &Registration, now: Timestamp) {
        let now = now.as_microsecond();
        let name: Arc<str> = registration.name.as_str().into();
        let consumer = self
            .consumers
            .entry(name)
            .or_insert_with_key(|name| Consumer::new(name.clone(), registration, now));
        consumer.register(registration, now);
        self.lines.follow(consumer);
    }

    /// The registration is gone: its consumer is no longer in scope. Rule 3: one of the two ways out.
    pub fn deregister(&mut self, name: &str) {
        if let Some(consumer) = self.consumers.remove(name) {
            self.lines.leave(&consumer);
        }
    }

    /// A consumer's word. Each word is to be given once: the same word twice would count as two signs of life.
    pub fn hear(&mut self, name: &str, word: &Word, now: Timestamp) -> Heard {
        let now = now.as_microsecond();
        let oldest = self.oldest_wanted();
        let (removals, additions) = (&self.removals_by_revision, &self.additions_by_revision);
        let removed_within = |from, to| removals.iter().any(|r| r.any_within(from, to));
        let wanted = |from, to| removed_within(from, to) || additions.any_within(from, to);
        let Some(consumer) = self.consumers.get_mut(name) else { return Heard::Unknown };
        let heard = consumer.hear(word, now, oldest, wanted);
        self.lines.follow(consumer);
        self.falls += u64::from(heard == Heard::Fell);
        heard
    }

    /// The API has just answered, so that silence until `now` is the consumers' own. Gives those whose lease ran out with it.
    ///
    /// Rule 3: a lease runs out only over time in which the ledger would have heard. If the API was away (or this process
    /// stood still) for longer than [`TOUCH_GAP_MS_MAX`], every lease counts anew from here.
    pub fn in_touch(&mut self, now: Timestamp) -> Vec<Lapsed> {
        let now = now.as_microsecond();
        let lines = &mut self.lines;
        if now.saturating_sub(lines.touched_at) > micros(TOUCH_GAP_MS_MAX) || now < lines.touched_at {
            lines.in_touch_since = now;
        }
        lines.touched_at = now;
        if now < lines.lease_check_at { Vec::new() } else { self.expire() }
    }

    /// Looks at every lease, and at when the next one may run out.
    fn expire(&mut self) -> Vec<Lapsed> {
        let lines = &mut self.lines;
        let (now, since) = (lines.touched_at, lines.in_touch_since);
        let mut lapsed = Vec::new();
        let mut next = i64::MAX;
        for (name, consumer) in &mut self.consumers {
            let (Some(ends_at), Some(forget_at)) =
                (consumer.lease_ends_at(since), consumer.lease_ends_after(since, LEASES_UNTIL_FORGOTTEN))
            else {
                continue;
            };
            if ends_at >= now {
                next = next.min(ends_at.saturating_add(1));
                continue;
            }
            let forgettable = forget_at < now;
            if consumer.alive || forgettable {
                lapsed.push(Lapsed {
                    consumer: name.clone(),
                    incarnation: consumer.incarnation.clone(),
                    holds: consumer.watermark,
                    silent_for_ms: millis(consumer.silent_for(now, since)),
                    forgettable,
                    newly: consumer.alive,
                });
            }
            consumer.alive = false;
            lines.follow(consumer);
            // One that may be forgotten is named again each minute, until its registration is gone.
            let again = now.saturating_add(micros(60_000));
            next = next.min(if forgettable { again } else { forget_at.saturating_add(1) });
        }
        lines.lease_check_at = next;
        lapsed
    }

    /// A Pod is to go: waits until its endpoint is removed and every consumer has let go, or until `deadline`. The first deadline stays.
    pub fn withdraw(&mut self, pod: &str, deadline: Timestamp) {
        let deadline = deadline.as_microsecond();
        if !self.removals.contains_key(pod) {
            let pod: Arc<str> = pod.into();
            self.deadlines.insert(deadline, pod.clone());
            self.removals.insert(pod, Wait { wants: None, deadline: Some(deadline), headless: false });
        }
    }

    /// The endpoint of a Pod that is to go was seen removed at `revision`. `headless`: its address stands (or stood) in DNS records.
    ///
    /// Rule 4: the first revision stays; later changes of the same slice concern other Pods.
    pub fn removed(&mut self, pod: &str, revision: Revision, headless: bool, now: Timestamp) {
        let Some((key, _)) = self.removals.get_key_value(pod) else { return };
        let key = key.clone();
        let Some(wait) = self.removals.get_mut(pod) else { return };
        let [others, of_headless] = &mut self.removals_by_revision;
        if let Some((first, _)) = wait.wants {
            if headless && !wait.headless {
                wait.headless = true;
                others.remove(first, pod);
                of_headless.insert(first, key);
            }
            return;
        }
        wait.headless |= headless;
        wait.wants = Some((revision, now.as_microsecond()));
        if wait.headless { of_headless } else { others }.insert(revision, key);
    }

    /// The endpoint is listed again: an earlier [`Ledger::removed`] no longer holds. The deadline stays.
    pub fn listed_again(&mut self, pod: &str) {
        if let Some((revision, _)) = self.removals.get_mut(pod).and_then(|w| w.wants.take()) {
            self.removals_by_revision.iter_mut().for_each(|removals| removals.remove(revision, pod));
        }
    }

    /// The endpoint of a Pod was seen ready at `revision`. The first revision stays until [`Ledger::forget`]. `headless`: its
    /// address stands in DNS records.
    pub fn added(&mut self, pod: &str, revision: Revision, headless: bool, now: Timestamp) {
        if !self.additions.contains_key(pod) {
            let pod: Arc<str> = pod.into();
            self.additions_by_revision.insert(revision, pod.clone());
            let wants = Some((revision, now.as_microsecond()));
            self.additions.insert(pod, Wait { wants, deadline: None, headless });
        }
    }

    /// Forgets everything of a Pod.
    pub fn forget(&mut self, pod: &str) {
        self.forget_addition(pod);
        if let Some(wait) = self.removals.remove(pod) {
            if let Some(deadline) = wait.deadline {
                self.deadlines.remove(deadline, pod);
            }
            if let Some((revision, _)) = wait.wants {
                self.removals_by_revision.iter_mut().for_each(|removals| removals.remove(revision, pod));
            }
        }
    }

    /// Forgets that a Pod's endpoint was seen ready.
    pub fn forget_addition(&mut self, pod: &str) {
        if let Some(Wait { wants: Some((revision, _)), .. }) = self.additions.remove(pod) {
            self.additions_by_revision.remove(revision, pod);
        }
    }

    /// The Pods for which [`Ledger::verdict`] is no longer `Waiting`. Costs what it gives, not what waits.
    pub fn due(&mut self, now: Timestamp) -> BTreeSet<Arc<str>> {
        let now = now.as_microsecond();
        self.settle(now);
        let reached = self.removals_reached();
        let late = self.deadlines.up_to(now).map(|(_, pod)| pod.clone());
        reached.filter(|(_, until)| *until <= now).map(|(pod, _)| pod.clone()).chain(late).collect()
    }

    /// The Pods for which [`Ledger::programmed`] is no longer `Waiting`.
    #[must_use]
    pub fn due_additions(&self, now: Timestamp) -> Vec<Arc<str>> {
        let now = now.as_microsecond();
        let reached = self.reached(&self.additions, &self.additions_by_revision, &self.lines.stand);
        reached.filter(|(_, until)| *until <= now).map(|(pod, _)| pod.clone()).collect()
    }

    /// When time alone may change an answer, if anything waits. Leases are not in it: they are looked at with each [`Ledger::in_touch`].
    #[must_use]
    pub fn look_again_at(&self) -> Option<Timestamp> {
        let settle =
            self.lines.settling.iter().filter_map(|name| self.consumers.get(name)?.settles_next()).min();
        let removals = self.removals_reached();
        let additions = self.reached(&self.additions, &self.additions_by_revision, &self.lines.stand);
        let bounded = removals.chain(additions).map(|(_, until)| until).min();
        let waits = self.removals_by_revision.iter().any(|removals| removals.first().is_some());
        [self.deadlines.first(), settle.filter(|_| waits), bounded].into_iter().flatten().min().map(timestamp)
    }

    /// The answer for a Pod that is to go; `None` if [`Ledger::withdraw`] was not called for it.
    ///
    /// Rule 1: acknowledged only when every live consumer that could have learnt of the endpoint holds the removal revision
    /// and its settle time has passed. Rule 5: past the deadline the answer is `BudgetSpent`, whoever is silent.
    pub fn verdict(&mut self, pod: &str, now: Timestamp) -> Option<Verdict> {
        let now_us = now.as_microsecond();
        self.settle(now_us);
        let wait = *self.removals.get(pod)?;
        let deadline = wait.deadline.unwrap_or(i64::MAX);
        let (acks, laggards) = match wait.wants {
            Some((revision, seen_at)) => {
                let (acks, laggards) = self.sort_out((revision, seen_at), wait.headless, now_us, true);
                if laggards.is_empty() {
                    return Some(Verdict::Acknowledged { revision, acks });
                }
                (acks, laggards)
            }
            None => (Vec::new(), Vec::new()),
        };
        if deadline <= now_us {
            return Some(Verdict::BudgetSpent { revision: wait.wants.map(|w| w.0), laggards, acks });
        }
        let settles = laggards.iter().filter_map(|l| l.settles_at).min();
        let look_again_at = settles.map_or(timestamp(deadline), |s| s.min(timestamp(deadline)));
        Some(Verdict::Waiting { laggards, look_again_at })
    }

    /// The answer for a Pod whose endpoint has come; `None` if [`Ledger::added`] was not called for it. Never `BudgetSpent`.
    ///
    /// No settle time is waited here, but for consumers that cannot speak: to be reached a little early harms nobody.
    #[must_use]
    pub fn programmed(&self, pod: &str, now: Timestamp) -> Option<Verdict> {
        let wait = self.additions.get(pod)?;
        let (revision, seen_at) = wait.wants?;
        let (acks, laggards) = self.sort_out((revision, seen_at), wait.headless, now.as_microsecond(), false);
        if laggards.is_empty() {
            return Some(Verdict::Acknowledged { revision, acks });
        }
        let look_again_at = laggards.iter().filter_map(|l| l.settles_at).min().unwrap_or(timestamp(i64::MAX));
        Some(Verdict::Waiting { laggards, look_again_at })
    }

    /// Watermarks that fell within an incarnation and were not taken (rule 2). Should stay zero.
    #[must_use]
    pub fn falls(&self) -> u64 {
        self.falls
    }

    /// Pods that wait, both ways.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.removals.len() + self.additions.len()
    }

    /// Who has answered and who has not, by name.
    fn sort_out(
        &self,
        (wants, seen_at): (Revision, i64),
        headless: bool,
        now: i64,
        settle: bool,
    ) -> (Vec<Ack>, Vec<Laggard>) {
        let (mut acks, mut laggards) = (Vec::new(), Vec::new());
        for (name, consumer) in &self.consumers {
            if !consumer.in_scope(wants) {
                continue;
            }
            match consumer.answer(wants, seen_at, now, headless, settle) {
                Ok((revision, at)) => {
                    let wait = if settle { consumer.settle_after_word(headless) } else { 0 };
                    let settled_at = (wait > 0).then(|| timestamp(at.saturating_add(wait).min(now)));
                    acks.push(Ack {
                        consumer: name.clone(),
                        revision,
                        at: timestamp(at),
                        settled_at,
                        class: consumer.class,
                    });
                }
                Err(settles_at) => laggards.push(Laggard {
                    consumer: name.clone(),
                    holds: consumer.watermark,
                    wants: Some(wants),
                    silent_for_ms: millis(consumer.silent_for(now, self.lines.in_touch_since)),
                    settles_at: settles_at.map(timestamp),
                    class: consumer.class,
                }),
            }
        }
        acks.sort_by(|a, b| a.consumer.cmp(&b.consumer));
        laggards.sort_by(|a, b| a.consumer.cmp(&b.consumer));
        (acks, laggards)
    }

    /// When the last consumer that cannot speak has let go of what was seen at `seen_at`.
    fn time_bounded_until(&self, wants: Revision, seen_at: i64, headless: bool) -> Option<i64> {
        self.lines
            .time_bounded
            .iter()
            .filter_map(|name| self.consumers.get(name))
            .filter(|consumer| consumer.in_scope(wants))
            .map(|consumer| seen_at.saturating_add(consumer.settle_for(headless)))
            .max()
    }

    /// Of the Pods whose revision every speaking consumer has reached: when those that cannot speak have let go.
    fn reached<'a>(
        &'a self,
        waits: &'a HashMap<Arc<str>, Wait>,
        by_revision: &'a Sorted<Revision>,
        line: &Line,
    ) -> impl Iterator<Item = (&'a Arc<str>, i64)> {
        by_revision.up_to(line.lowest()).filter_map(|(revision, pod)| {
            let wait = waits.get(pod)?;
            let (_, seen_at) = wait.wants?;
            Some((pod, self.time_bounded_until(revision, seen_at, wait.headless).unwrap_or(i64::MIN)))
        })
    }

    /// As [`Ledger::reached`], for removals of both sorts.
    fn removals_reached(&self) -> impl Iterator<Item = (&Arc<str>, i64)> {
        let sorts = self.removals_by_revision.iter().zip(&self.lines.settled);
        sorts.flat_map(|(by_revision, line)| self.reached(&self.removals, by_revision, line))
    }

    /// Lets words count whose settle time has passed.
    fn settle(&mut self, now: i64) {
        if self.lines.settling.is_empty() {
            return;
        }
        let due = |name: &&Arc<str>| {
            self.consumers.get(*name).and_then(Consumer::settles_next).is_some_and(|at| at <= now)
        };
        let names: Vec<Arc<str>> = self.lines.settling.iter().filter(due).cloned().collect();
        for name in names {
            if let Some(consumer) = self.consumers.get_mut(&name) {
                consumer.settle_until(now);
                self.lines.follow(consumer);
            }
        }
    }

    /// The lowest revision that any Pod waits for.
    fn oldest_wanted(&self) -> Option<Revision> {
        let removals = self.removals_by_revision.iter().map(Sorted::first);
        removals.chain([self.additions_by_revision.first()]).flatten().min()
    }
}

fn millis(micros: i64) -> u64 {
    u64::try_from(micros / 1000).unwrap_or(0)
}

/// Microseconds as a timestamp; out of its range, its bound.
fn timestamp(micros: i64) -> Timestamp {
    let bound = if micros < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_microsecond(micros).unwrap_or(bound)
}
