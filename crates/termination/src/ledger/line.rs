//! What makes the ledger cheap: where all consumers stand, and which Pods wait for what, in sorted sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hitless_base::Revision;
use hitless_types::AckClass;

use super::consumer::{Consumer, Place};

/// How many consumers stand at each revision. The lowest is what every Pod is measured against.
#[derive(Debug, Default)]
pub(super) struct Line {
    at: BTreeMap<Revision, u32>,
}

impl Line {
    /// Moves one consumer. `None`: it is not in the line.
    pub(super) fn change(&mut self, from: Option<Revision>, to: Option<Revision>) {
        if from == to {
            return;
        }
        if let Some(from) = from
            && let Some(count) = self.at.get_mut(&from)
        {
            *count -= 1;
            if *count == 0 {
                self.at.remove(&from);
            }
        }
        if let Some(to) = to {
            *self.at.entry(to).or_default() += 1;
        }
    }

    /// The revision that everyone in the line has reached; the highest there can be if nobody is in it.
    pub(super) fn lowest(&self) -> Revision {
        self.at.first_key_value().map_or(Revision(u64::MAX), |(revision, _)| *revision)
    }
}

/// Pods under a sorted key: a revision that they wait for, or a time at which waiting ends.
#[derive(Debug)]
pub(super) struct Sorted<K> {
    pods: BTreeMap<K, BTreeSet<Arc<str>>>,
}

impl<K> Default for Sorted<K> {
    fn default() -> Self {
        Self { pods: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Sorted<K> {
    pub(super) fn insert(&mut self, key: K, pod: Arc<str>) {
        self.pods.entry(key).or_default().insert(pod);
    }

    pub(super) fn remove(&mut self, key: K, pod: &str) {
        if let Some(pods) = self.pods.get_mut(&key) {
            pods.remove(pod);
            if pods.is_empty() {
                self.pods.remove(&key);
            }
        }
    }

    pub(super) fn first(&self) -> Option<K> {
        self.pods.first_key_value().map(|(key, _)| *key)
    }

    /// Everything up to `key`, lowest first.
    pub(super) fn up_to(&self, key: K) -> impl Iterator<Item = (K, &Arc<str>)> {
        self.pods.range(..=key).flat_map(|(key, pods)| pods.iter().map(|pod| (*key, pod)))
    }

    /// Whether there is anything above `from`, up to `to`.
    pub(super) fn any_within(&self, from: K, to: K) -> bool {
        use std::ops::Bound::{Excluded, Included};
        from < to && self.pods.range((Excluded(from), Included(to))).next().is_some()
    }
}

/// What is derived from all consumers together, kept in step with each change of one.
#[derive(Debug)]
pub(super) struct Lines {
    /// Where live consumers that speak stand: at once, and after their settle time, as far as that is waited for Pods of headless
    /// Services (`true` as an index) and for the others.
    pub(super) stand: Line,
    pub(super) settled: [Line; 2],
    /// Names of the consumers that cannot speak.
    pub(super) time_bounded: BTreeSet<Arc<str>>,
    /// Names of those with a word whose settle time is running.
    pub(super) settling: BTreeSet<Arc<str>>,
    /// No lease runs out before this.
    pub(super) lease_check_at: i64,
    /// The last proof of contact, and since when contact was never lost.
    pub(super) touched_at: i64,
    pub(super) in_touch_since: i64,
}

impl Lines {
    pub(super) fn new(now: i64) -> Self {
        Self {
            stand: Line::default(),
            settled: <[Line; 2]>::default(),
            time_bounded: BTreeSet::new(),
            settling: BTreeSet::new(),
            lease_check_at: i64::MAX,
            touched_at: now,
            in_touch_since: now,
        }
    }

    /// Takes a consumer's change of place.
    pub(super) fn follow(&mut self, consumer: &mut Consumer) {
        let place = consumer.place();
        if place != consumer.placed {
            self.move_to(consumer.placed, place);
            consumer.placed = place;
        }
        if consumer.class == AckClass::TimeBounded {
            self.time_bounded.insert(consumer.name.clone());
        } else if !self.time_bounded.is_empty() {
            self.time_bounded.remove(&consumer.name);
        }
        if consumer.settles_next().is_some() {
            self.settling.insert(consumer.name.clone());
        } else if !self.settling.is_empty() {
            self.settling.remove(&consumer.name);
        }
        if let Some(ends_at) = consumer.lease_ends_at(self.in_touch_since) {
            self.lease_check_at = self.lease_check_at.min(ends_at.saturating_add(1));
        }
    }

    fn move_to(&mut self, from: Option<Place>, to: Option<Place>) {
        self.stand.change(from.map(|p| p.stand), to.map(|p| p.stand));
        let [others, headless] = &mut self.settled;
        others.change(from.map(|p| p.settled[0]), to.map(|p| p.settled[0]));
        headless.change(from.map(|p| p.settled[1]), to.map(|p| p.settled[1]));
    }

    pub(super) fn leave(&mut self, consumer: &Consumer) {
        self.move_to(consumer.placed, None);
        self.time_bounded.remove(&consumer.name);
        self.settling.remove(&consumer.name);
    }
}
