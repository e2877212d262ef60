//! Pods that could not be placed: when to try again, and what was last said of them.
//!
//! A Pod is tried again when something changed that may have made room for it, and at the latest after a backoff, so
//! that a change that is not understood as one delays it and does not strand it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use hitless_base::{Backoff, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::{index::Turns, snapshot::PodView};

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

struct Wait {
    object: Arc<Pod>,
    /// The changes that had been seen when it could not be placed; `None`: changes do not help, only time.
    turns: Option<Turns>,
    next: Timestamp,
    backoff: Backoff,
    told: Option<String>,
}

/// The Pods that wait, by key.
#[derive(Default)]
pub(crate) struct Waiting {
    pods: HashMap<String, Wait>,
}

impl Waiting {
    /// Whether the Pod is to be tried now.
    pub(crate) fn is_due(&self, pod: &PodView, turns: Turns, now: Timestamp) -> bool {
        let Some(wait) = self.pods.get(&pod.key) else { return true };
        let helped = wait.turns.is_some_and(|seen| {
            let affine = !(pod.affinity.is_empty() && pod.anti_affinity.is_empty());
            seen.room != turns.room || (affine && seen.neighbours != turns.neighbours)
        });
        now >= wait.next || helped || !same(&wait.object, &pod.object)
    }

    /// No node could take the Pod. True if `message` has not been told yet.
    pub(crate) fn unschedulable(
        &mut self,
        pod: &PodView,
        message: &str,
        turns: Turns,
        now: Timestamp,
    ) -> bool {
        let wait = self.wait(pod, now);
        wait.turns = Some(turns);
        let news = wait.told.as_deref() != Some(message);
        wait.told = Some(message.to_owned());
        news
    }

    /// The API refused the binding: the room is there, so only time helps.
    pub(crate) fn refused(&mut self, pod: &PodView, now: Timestamp) {
        self.wait(pod, now).turns = None;
    }

    fn wait(&mut self, pod: &PodView, now: Timestamp) -> &mut Wait {
        let fresh = || Wait {
            object: Arc::clone(&pod.object),
            turns: None,
            next: now,
            backoff: Backoff::new(BACKOFF_FIRST, BACKOFF_MAX),
            told: None,
        };
        let wait = self.pods.entry(pod.key.clone()).or_insert_with(fresh);
        if wait.object.metadata.uid != pod.object.metadata.uid {
            *wait = fresh();
        }
        wait.object = Arc::clone(&pod.object);
        // Tries that something brought about do not lengthen the time to the next.
        if now >= wait.next {
            wait.next = now + wait.backoff.step();
        }
        wait
    }

    /// The Pod has been given a node.
    pub(crate) fn placed(&mut self, key: &str) {
        self.pods.remove(key);
    }

    /// Forgets Pods that no longer wait.
    pub(crate) fn keep(&mut self, pending: &[Arc<PodView>]) {
        if !self.pods.is_empty() {
            let keys: HashSet<&str> = pending.iter().map(|pod| pod.key.as_str()).collect();
            self.pods.retain(|key, _| keys.contains(key.as_str()));
        }
    }

    /// When the next Pod is due without a change.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.pods.values().map(|wait| wait.next).min()
    }
}

/// Whether nothing differs that placing depends on.
fn same(a: &Pod, b: &Pod) -> bool {
    a.metadata.uid == b.metadata.uid && a.metadata.labels == b.metadata.labels && a.spec == b.spec
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str) -> PodView {
        let object = serde_json::json!({"metadata": {"name": "p", "namespace": "ns", "uid": uid}, "spec": {"containers": []}});
        PodView::new(Arc::new(serde_json::from_value(object).unwrap()))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn is_tried_when_room_is_made_and_at_latest_after_the_backoff() {
        let (mut waiting, pod) = (Waiting::default(), pod("1"));
        let turns = Turns { room: 5, neighbours: 5 };
        assert!(waiting.is_due(&pod, turns, at(100)));
        assert!(waiting.unschedulable(&pod, "full", turns, at(100)), "news");
        assert_eq!(waiting.next_due(), Some(at(101)));
        assert!(!waiting.is_due(&pod, turns, at(100)));
        assert!(!waiting.is_due(&pod, Turns { neighbours: 6, ..turns }, at(100)), "it has no affinities");
        assert!(waiting.is_due(&pod, Turns { room: 6, ..turns }, at(100)));
        assert!(!waiting.unschedulable(&pod, "full", Turns { room: 6, ..turns }, at(100)), "no news");
        assert!(waiting.is_due(&pod, Turns { room: 6, ..turns }, at(101)));
        assert!(waiting.unschedulable(&pod, "other", turns, at(101)));
        assert_eq!(waiting.next_due(), Some(at(103)), "twice as long");
    }

    #[test]
    fn a_refused_binding_waits_for_time_alone() {
        let (mut waiting, first) = (Waiting::default(), pod("1"));
        waiting.refused(&first, at(100));
        assert!(!waiting.is_due(&first, Turns { room: 9, neighbours: 9 }, at(100)));
        assert!(waiting.is_due(&first, Turns::default(), at(101)));
        assert!(waiting.is_due(&pod("2"), Turns::default(), at(100)), "another Pod of the same name");
        waiting.keep(&[]);
        assert_eq!(waiting.next_due(), None);
    }
}
