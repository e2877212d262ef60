//! The loop's decisions: observations of Pods and consumers go in with the time, conditions to write come out. Pure.
//!
//! The rules about consumers are the ledger's ([`hitless_termination::ledger`]). Here is what makes of them conditions of Pods:
//! what is written once, what is held back because it will be overtaken in a moment, and what is written again.
//!
//! Invariant: of one condition of one Pod at most one write is under way, so that an older answer never lands on a newer one.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use hitless_base::{Revision, Timestamp};
use hitless_client::events::Note;
use hitless_termination::ledger::{Lapsed, Ledger, Registration, Verdict, Word};
use hitless_types::{
    AckClass, EndpointConsumer, EndpointConsumerStatus, meta,
    well_known::{self, PROGRAMMED, WITHDRAWN, reason},
};

use super::{
    sight::{Listing, Removal},
    words,
};

/// A wait shorter than this is not written down: the answer is quicker than the writing.
pub(super) const TELL_AFTER: Duration = Duration::from_millis(50);

/// How a condition stands in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is not there.
    Nothing,
    /// False, and the reason says that consumers are awaited.
    Waiting,
    /// False for another reason, or unknown.
    No,
    /// True, since then.
    Yes(Timestamp),
}

/// A Pod as the loop sees it.
#[derive(Clone, Debug)]
pub struct PodFacts {
    /// `namespace/name`.
    pub key: String,
    /// Which Pod of that name.
    pub uid: Arc<str>,
    /// The revision that this is true at.
    pub revision: Revision,
    /// Since when it is Ready; `None` if it is not.
    pub ready_since: Option<Timestamp>,
    /// When its deletion was asked for.
    pub deleted_at: Option<Timestamp>,
    /// Withdrawal budget. Seconds.
    pub budget_s: u64,
    /// Condition Programmed.
    pub programmed: Told,
    /// Condition Withdrawn.
    pub withdrawn: Told,
    /// Whether its address stands in DNS records, where clients may keep it.
    pub headless: bool,
    /// For a terminating Pod.
    pub removal: Removal,
    /// For a Pod that is not terminating.
    pub listing: Listing,
}

/// A condition to write.
#[derive(Clone, Debug)]
pub struct Action {
    /// Key of the Pod.
    pub key: String,
    /// Which Pod of that name.
    pub uid: Arc<str>,
    /// `hitless.dev/Programmed` or `hitless.dev/Withdrawn`.
    pub type_: &'static str,
    /// True or False.
    pub status: bool,
    /// Word for machines.
    pub reason: &'static str,
    /// Sentence for people.
    pub message: String,
    /// When it became so.
    pub transition: Timestamp,
    /// Event to record when it is written.
    pub note: Option<Note>,
}

/// A write of one condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Slot {
    #[default]
    Idle,
    UnderWay,
    /// Done at this revision; what a cache before it says is old.
    Written(Revision),
}

/// A Pod that waits, or whose conditions are being written.
#[derive(Debug)]
struct Tracked {
    key: String,
    programmed: Slot,
    withdrawn: Slot,
    /// When to write that it waits; `None`: written, or nothing to be told.
    tell_at: Option<Timestamp>,
    /// Lists asked for before its endpoint was first seen removed; `None`: it is not removed.
    removed_after_list: Option<u64>,
    terminating: bool,
    ready_since: Option<Timestamp>,
    /// The Service that does not yet say what is waited for.
    not_yet: Option<String>,
}

/// The loop's state. All of it can be worked out again from the API.
pub struct Core {
    ledger: Ledger,
    tracked: HashMap<Arc<str>, Tracked>,
    telling: BTreeSet<(Timestamp, Arc<str>)>,
    /// Last word of each consumer: the same one again is no new sign of life.
    said: HashMap<String, (String, Option<EndpointConsumerStatus>)>,
    /// Lists of the consumers that were asked for, and the latest of those whose answer was taken.
    lists_asked: u64,
    list_taken: u64,
    /// A list is wanted before anything more is answered.
    pub wants_list: bool,
    /// Known from a list only: gone with the next list that does not have them.
    provisional: HashSet<String>,
}

impl Core {
    /// A loop that begins to watch at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            ledger: Ledger::new(now),
            tracked: HashMap::new(),
            telling: BTreeSet::new(),
            said: HashMap::new(),
            lists_asked: 0,
            list_taken: 0,
            wants_list: false,
            provisional: HashSet::new(),
        }
    }

    /// A consumer as the API has it; `None`: its registration is gone. `created`: uid and revision of a creation seen as it happened.
    pub fn consumer(
        &mut self,
        name: &str,
        consumer: Option<&EndpointConsumer>,
        created: Option<&(String, Revision)>,
        now: Timestamp,
    ) {
        let Some(consumer) = consumer else {
            self.said.remove(name);
            self.provisional.remove(name);
            return self.ledger.deregister(name);
        };
        let uid = consumer.metadata.uid.clone().unwrap_or_default();
        if self.said.get(name).is_some_and(|(known, _)| *known != uid) {
            // Deregistered and registered again between two looks.
            self.said.remove(name);
            self.ledger.deregister(name);
        }
        let spec = &consumer.spec;
        let registration = Registration {
            name: name.to_owned(),
            incarnation: spec.incarnation.clone(),
            class: spec.ack_class,
            settle_ms: spec.settle_milliseconds,
            settle_scope: spec.settle_scope,
            lease_s: spec.lease_duration_seconds,
            joined: created.filter(|(of, _)| *of == uid).map(|(_, revision)| *revision),
        };
        self.ledger.register(&registration, now);
        let said = self.said.entry(name.to_owned()).or_insert((uid, None));
        if let Some(status) = consumer.status.as_ref().filter(|s| said.1.as_ref() != Some(s)) {
            said.1 = Some(status.clone());
            let word = Word {
                incarnation: status.incarnation.clone(),
                revision: Revision(status.observed_revision),
            };
            let heard = self.ledger.hear(name, &word, now);
            tracing::trace!(consumer = name, revision = status.observed_revision, ?heard, "word");
        }
    }

    /// A list of the consumers is being asked for; gives its number.
    pub fn list_asked(&mut self) -> u64 {
        self.wants_list = false;
        self.lists_asked += 1;
        self.lists_asked
    }

    /// The list of this number did not come.
    pub fn list_failed(&mut self, number: u64) {
        self.wants_list |= number == self.lists_asked;
    }

    /// All consumers, from the list of this number. `cached` gives what the watch shows.
    pub fn consumers_listed(
        &mut self,
        list: &[EndpointConsumer],
        number: u64,
        cached: impl Fn(&str) -> Option<Arc<EndpointConsumer>>,
        now: Timestamp,
    ) {
        let names: HashSet<&str> = list.iter().filter_map(|c| c.metadata.name.as_deref()).collect();
        // Known from an earlier list, in neither this one nor the watch: deregistered meanwhile.
        let gone = |name: &&String| !names.contains(name.as_str()) && cached(name).is_none();
        for name in self.provisional.iter().filter(gone).cloned().collect::<Vec<_>>() {
            self.consumer(&name, None, None, now);
        }
        for consumer in list {
            let name = consumer.metadata.name.as_deref().unwrap_or_default();
            let shown = cached(name);
            // Not shown yet, or not any more: it counts until the next list.
            if shown.is_none() {
                self.provisional.insert(name.to_owned());
            }
            // A watch that is further than the list has said all that the list says.
            if shown.is_none_or(|shown| meta::revision(&shown.metadata) <= meta::revision(&consumer.metadata))
            {
                self.consumer(name, Some(consumer), None, now);
            }
        }
        self.provisional.retain(|name| cached(name).is_none());
        self.list_taken = self.list_taken.max(number);
    }

    /// The API has just answered; gives the consumers that are silent for longer than their lease.
    pub fn in_touch(&mut self, now: Timestamp) -> Vec<Lapsed> {
        self.ledger.in_touch(now)
    }

    /// The Pod is gone: nothing is remembered of it.
    pub fn gone(&mut self, uid: &str) {
        self.ledger.forget(uid);
        if let Some((uid, tracked)) = self.tracked.remove_entry(uid)
            && let Some(at) = tracked.tell_at
        {
            self.telling.remove(&(at, uid));
        }
    }

    /// Keys of the Pods of a namespace that wait.
    pub fn waiting_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a String> {
        self.tracked.values().map(|t| &t.key).filter(move |key| meta::split_key(key).0 == namespace)
    }

    /// A write has ended: at this revision, or (`None`) without success, so that it is to be decided anew.
    pub fn written(&mut self, uid: &str, type_: &str, revision: Option<Revision>) {
        if let Some(tracked) = self.tracked.get_mut(uid) {
            let slot = if type_ == WITHDRAWN { &mut tracked.withdrawn } else { &mut tracked.programmed };
            *slot = revision.map_or(Slot::Idle, Slot::Written);
        }
    }

    /// Looks at a Pod.
    pub fn look(&mut self, pod: &PodFacts, now: Timestamp, actions: &mut Vec<Action>) {
        let tracked = self.tracked.entry(pod.uid.clone()).or_insert_with(|| Tracked {
            key: pod.key.clone(),
            programmed: Slot::Idle,
            withdrawn: Slot::Idle,
            tell_at: None,
            removed_after_list: None,
            terminating: false,
            ready_since: None,
            not_yet: None,
        });
        tracked.terminating = pod.deleted_at.is_some();
        tracked.ready_since = pod.ready_since;
        tracked.not_yet = None;
        let slot = if tracked.terminating { &mut tracked.withdrawn } else { &mut tracked.programmed };
        if matches!(slot, Slot::Written(at) if *at <= pod.revision) {
            *slot = Slot::Idle;
        }
        // What is under way, or written but not yet seen, is looked at again when it is seen.
        if *slot != Slot::Idle {
            return;
        }
        match pod.deleted_at {
            Some(asked_at) => self.look_at_end(pod, asked_at, now, actions),
            None => self.look_at_life(pod, now, actions),
        }
    }

    fn look_at_end(
        &mut self,
        pod: &PodFacts,
        asked_at: Timestamp,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        self.ledger.forget_addition(&pod.uid);
        if matches!(pod.withdrawn, Told::Yes(_)) {
            return self.gone(&pod.uid);
        }
        // The budget counts from the deletion, also after a restart of the controller. A clock that is ahead gives no more.
        let deadline =
            asked_at.min(now).saturating_add(Duration::from_secs(pod.budget_s)).unwrap_or(Timestamp::MAX);
        self.ledger.withdraw(&pod.uid, deadline);
        match &pod.removal {
            Removal::NoEndpoints => {
                return self.write(pod, WITHDRAWN, words::no_endpoints(WITHDRAWN), now, actions);
            }
            Removal::NotYet(service) => {
                self.ledger.listed_again(&pod.uid);
                self.note_wait(&pod.uid, false, Some(service.clone()));
            }
            Removal::At(revision) => {
                self.ledger.removed(&pod.uid, *revision, pod.headless, now);
                self.note_wait(&pod.uid, true, None);
            }
        }
        self.tell_later(&pod.uid, pod.withdrawn, now);
    }

    fn look_at_life(&mut self, pod: &PodFacts, now: Timestamp, actions: &mut Vec<Action>) {
        let Some(ready_since) = pod.ready_since else {
            self.ledger.forget_addition(&pod.uid);
            if matches!(pod.programmed, Told::Yes(_) | Told::Waiting) {
                return self.write(pod, PROGRAMMED, words::not_ready(), now, actions);
            }
            return self.gone(&pod.uid);
        };
        // True stays True while the Pod is Ready: a Service that begins to select it later does not make it unavailable.
        // Ready since after that means that it was not Ready in between, and that is the next round.
        if matches!(pod.programmed, Told::Yes(since) if since >= ready_since) {
            return self.gone(&pod.uid);
        }
        match &pod.listing {
            Listing::NoEndpoints => {
                return self.write(pod, PROGRAMMED, words::no_endpoints(PROGRAMMED), now, actions);
            }
            Listing::NotYet(service) => {
                self.ledger.forget_addition(&pod.uid);
                self.note_wait(&pod.uid, false, Some(service.clone()));
            }
            Listing::At(revision) => self.ledger.added(&pod.uid, *revision, pod.headless, now),
        }
        self.tell_later(&pod.uid, pod.programmed, now);
    }

    fn note_wait(&mut self, uid: &str, removed: bool, not_yet: Option<String>) {
        let asked = self.lists_asked;
        if let Some(tracked) = self.tracked.get_mut(uid) {
            tracked.removed_after_list = removed.then(|| tracked.removed_after_list.unwrap_or(asked));
            tracked.not_yet = not_yet;
        }
    }

    /// Has it written that the Pod waits, unless that is written or will be overtaken in a moment.
    fn tell_later(&mut self, uid: &Arc<str>, told: Told, now: Timestamp) {
        let Some(tracked) = self.tracked.get_mut(uid) else { return };
        if told != Told::Waiting && tracked.tell_at.is_none() {
            let at = now.saturating_add(TELL_AFTER).unwrap_or(Timestamp::MAX);
            tracked.tell_at = Some(at);
            self.telling.insert((at, uid.clone()));
        }
    }

    /// Answers for whoever no longer waits, and tells of who has waited for long enough. Call it after every observation.
    pub fn step(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        for uid in self.ledger.due(now) {
            self.answer_end(&uid, now, actions);
        }
        for uid in self.ledger.due_additions(now) {
            let Some(Verdict::Acknowledged { revision, acks }) = self.ledger.programmed(&uid, now) else {
                continue;
            };
            self.answer(&uid, PROGRAMMED, words::programmed(revision, &acks), now, actions);
        }
        while let Some((at, uid)) = self.telling.first().cloned()
            && at <= now
        {
            self.telling.pop_first();
            self.tell(&uid, now, actions);
        }
    }

    fn answer_end(&mut self, uid: &Arc<str>, now: Timestamp, actions: &mut Vec<Action>) {
        let said = match self.ledger.verdict(uid, now) {
            Some(Verdict::Acknowledged { revision, acks }) => {
                // A word about this revision came on the same stream as every registration before it, so who has
                // registered in time is known. Where nobody spoke, there is no such proof, and a list has to give it.
                let spoke = acks.iter().any(|ack| ack.class != AckClass::TimeBounded);
                let before = self.tracked.get(uid).and_then(|t| t.removed_after_list).unwrap_or(u64::MAX);
                if !spoke && self.list_taken <= before {
                    // One that is under way and was asked for late enough will do.
                    self.wants_list |= self.lists_asked <= before;
                    return;
                }
                words::withdrawn(revision, &acks)
            }
            Some(Verdict::BudgetSpent { revision, laggards, acks }) => {
                let not_yet = self.tracked.get(uid).and_then(|t| t.not_yet.as_deref());
                words::budget_spent(revision, &laggards, &acks, not_yet)
            }
            Some(Verdict::Waiting { .. }) | None => return,
        };
        self.answer(uid, WITHDRAWN, said, now, actions);
    }

    /// Writes an answer, unless a write of the same condition is under way: then its end brings the Pod back.
    fn answer(
        &mut self,
        uid: &Arc<str>,
        type_: &'static str,
        said: words::Said,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let Some(tracked) = self.tracked.get_mut(uid) else { return self.ledger.forget(uid) };
        let slot = if type_ == WITHDRAWN { &mut tracked.withdrawn } else { &mut tracked.programmed };
        if *slot == Slot::UnderWay {
            return;
        }
        *slot = Slot::UnderWay;
        if let Some(at) = tracked.tell_at.take() {
            self.telling.remove(&(at, uid.clone()));
        }
        self.ledger.forget(uid);
        // Not before Ready, whose clock may be ahead of this one: the condition would seem to belong to an earlier round.
        let transition =
            tracked.ready_since.filter(|_| type_ == PROGRAMMED).map_or(now, |ready| ready.max(now));
        actions.push(said.action(tracked.key.clone(), uid.clone(), type_, transition, now));
    }

    fn write(
        &mut self,
        pod: &PodFacts,
        type_: &'static str,
        said: words::Said,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        self.answer(&pod.uid, type_, said, now, actions);
    }

    fn tell(&mut self, uid: &Arc<str>, now: Timestamp, actions: &mut Vec<Action>) {
        let Some(tracked) = self.tracked.get_mut(uid) else { return };
        tracked.tell_at = None;
        let (type_, verdict, slot) = if tracked.terminating {
            (WITHDRAWN, self.ledger.verdict(uid, now), &mut tracked.withdrawn)
        } else {
            (PROGRAMMED, self.ledger.programmed(uid, now), &mut tracked.programmed)
        };
        if *slot != Slot::Idle {
            return;
        }
        *slot = Slot::UnderWay;
        let laggards = match verdict {
            Some(Verdict::Waiting { laggards, .. }) => laggards,
            _ => Vec::new(),
        };
        let said = words::waiting(&laggards, tracked.not_yet.as_deref());
        actions.push(said.action(tracked.key.clone(), uid.clone(), type_, now, now));
    }

    /// When time alone may change an answer.
    #[must_use]
    pub fn look_again_at(&self) -> Option<Timestamp> {
        [self.ledger.look_again_at(), self.telling.first().map(|(at, _)| *at)].into_iter().flatten().min()
    }

    /// Pods that wait or are being written.
    #[must_use]
    pub fn tracked(&self) -> usize {
        self.tracked.len()
    }
}

/// Reasons of Events, by condition.
pub(super) fn event_reason(type_: &str) -> &'static str {
    if type_ == WITHDRAWN { reason::WITHDRAWN } else { reason::PROGRAMMED }
}

/// Reads a Pod's condition.
#[must_use]
pub fn told(condition: Option<&k8s_openapi::api::core::v1::PodCondition>) -> Told {
    match condition {
        None => Told::Nothing,
        Some(c) if c.status == "True" => {
            Told::Yes(c.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0))
        }
        Some(c) if c.reason.as_deref() == Some(well_known::REASON_WAITING) => Told::Waiting,
        Some(_) => Told::No,
    }
}
