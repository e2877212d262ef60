//! What the scheduler sees: nodes, Pods, Services and namespaces, kept ready to be planned with.
//!
//! Handlers of the reflectors keep the views up to date and count what may have made room. Bindings that were just
//! made count as if the watch had shown them already (*assumed*), until it does.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use hitless_base::Timestamp;
use hitless_client::{Delta, Object, Reflector};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::snapshot::{Labels, NodeView, PodView, ServiceView, Snapshot};

/// How long a binding counts that the watch does not show. By then the API has been asked again, and knows.
const ASSUMED: Duration = Duration::from_secs(30);

/// A node that a Pod was given, before the watch has shown it.
#[derive(Clone, Debug)]
struct Assumed {
    uid: String,
    node: String,
    until: Timestamp,
}

#[derive(Default)]
struct State {
    pods: HashMap<String, Arc<PodView>>,
    nodes: BTreeMap<String, Arc<NodeView>>,
    services: BTreeMap<String, Arc<ServiceView>>,
    namespaces: BTreeMap<String, Labels>,
    assumed: HashMap<String, Assumed>,
    turns: Turns,
}

/// Counts changes that may let a Pod be placed that could not be before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// Of nodes, and of what Pods take of them: these concern every Pod.
    pub room: u64,
    /// Of which Pods are where: these concern Pods with affinities.
    pub neighbours: u64,
}

/// The views. Clones share them.
#[derive(Clone, Default)]
pub struct Index {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

/// The state at one moment, with the Pods that wait for a node.
pub struct Seen {
    /// What to plan with; assumed bindings are in it.
    pub snapshot: Snapshot,
    /// Pods without a node, the most urgent first.
    pub pending: Vec<Arc<PodView>>,
    /// The changes so far that may have made room.
    pub turns: Turns,
}

impl Index {
    /// Hangs itself onto the reflectors.
    pub fn follow(
        &self,
        pods: &mut Reflector<Pod>,
        nodes: &mut Reflector<Node>,
        services: &mut Reflector<Service>,
        namespaces: &mut Reflector<Namespace>,
    ) {
        self.on(pods, Self::pod);
        self.on(nodes, |index, key, node: Option<&Arc<Node>>| {
            let view = node.map(|node| Arc::new(NodeView::new(node)));
            index.replace(key, view, true, |state| &mut state.nodes);
        });
        self.on(services, |index, key, service: Option<&Arc<Service>>| {
            let view = service.and_then(|service| ServiceView::new(service)).map(Arc::new);
            index.replace(key, view, false, |state| &mut state.services);
        });
        self.on(namespaces, |index, key, namespace: Option<&Arc<Namespace>>| {
            let labels = namespace.map(|namespace| namespace.metadata.labels.clone().unwrap_or_default());
            index.replace(key, labels, true, |state| &mut state.namespaces);
        });
    }

    fn on<K: Object>(&self, reflector: &mut Reflector<K>, take: fn(&Self, &str, Option<&Arc<K>>)) {
        let index = self.clone();
        reflector.on_change(move |delta: &Delta<K>| take(&index, &delta.key, delta.after.as_ref()));
    }

    /// Puts in a view, or takes it out; a view that says the same as before is no change.
    fn replace<V: PartialEq>(
        &self,
        key: &str,
        view: Option<V>,
        makes_room: bool,
        views: fn(&mut State) -> &mut BTreeMap<String, V>,
    ) {
        let mut state = self.state.lock();
        let map = views(&mut state);
        if map.get(key) == view.as_ref() {
            return;
        }
        match view {
            Some(view) => map.insert(key.to_owned(), view),
            None => map.remove(key),
        };
        if makes_room {
            state.turns.room += 1;
            self.changed.notify_one();
        }
    }

    /// Takes a Pod's state; `None`: it has gone.
    pub fn pod(&self, key: &str, pod: Option<&Arc<Pod>>) {
        let view = pod.map(|pod| Arc::new(PodView::new(Arc::clone(pod))));
        let mut state = self.state.lock();
        let known = state.assumed.get(key);
        let settled = view
            .as_ref()
            .is_none_or(|view| view.node().is_some() || known.is_some_and(|assumed| assumed.uid != view.uid));
        let pending = view.as_ref().is_some_and(|view| view.is_pending());
        let now = view.clone();
        let before = match view {
            Some(view) => state.pods.insert(key.to_owned(), view),
            None => state.pods.remove(key),
        };
        let bound = now.as_ref().is_some_and(|view| view.node().is_some());
        let dropped = settled && state.assumed.remove(key).is_some() && !bound;
        let (left, moved) = step(before.as_deref(), now.as_deref());
        state.turns.room += u64::from(dropped || left);
        state.turns.neighbours += u64::from(moved);
        if dropped || left || moved || pending {
            self.changed.notify_one();
        }
    }

    /// Counts `pod` as bound to `node` from now on.
    pub fn assume(&self, pod: &PodView, node: &str, now: Timestamp) {
        let assumed = Assumed { uid: pod.uid.clone(), node: node.to_owned(), until: now + ASSUMED };
        self.state.lock().assumed.insert(pod.key.clone(), assumed);
    }

    /// Takes an assumption back: the binding was refused.
    pub fn forget(&self, key: &str) {
        let mut state = self.state.lock();
        if state.assumed.remove(key).is_some() {
            state.turns.room += 1;
            self.changed.notify_one();
        }
    }

    /// Resolves when something has changed that a plan may depend on, since it last did.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// When the next assumption lapses.
    #[must_use]
    pub fn next_lapse(&self) -> Option<Timestamp> {
        self.state.lock().assumed.values().map(|assumed| assumed.until).min()
    }

    /// What is now. Without Pods that wait, the snapshot is left empty: nobody needs it.
    #[must_use]
    pub fn see(&self, now: Timestamp) -> Seen {
        let mut state = self.state.lock();
        state.assumed.retain(|_, assumed| assumed.until > now);
        let node_of = |pod: &PodView| {
            let assumed = state.assumed.get(&pod.key).filter(|assumed| assumed.uid == pod.uid);
            pod.node().map(str::to_owned).or_else(|| assumed.map(|assumed| assumed.node.clone()))
        };
        let mut pending: Vec<_> =
            state.pods.values().filter(|pod| pod.is_pending() && node_of(pod).is_none()).cloned().collect();
        if pending.is_empty() {
            return Seen { snapshot: Snapshot::default(), pending, turns: state.turns };
        }
        let mut nodes: BTreeMap<&str, (Arc<NodeView>, Vec<Arc<PodView>>)> =
            state.nodes.iter().map(|(name, node)| (name.as_str(), (Arc::clone(node), Vec::new()))).collect();
        for pod in state.pods.values().filter(|pod| pod.occupies()) {
            if let Some((_, pods)) = node_of(pod).and_then(|node| nodes.get_mut(node.as_str())) {
                pods.push(Arc::clone(pod));
            }
        }
        let mut nodes: Vec<_> = nodes.into_values().collect();
        for (_, pods) in &mut nodes {
            pods.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        }
        pending.sort_unstable_by(|a, b| order(a).cmp(&order(b)));
        let snapshot = Snapshot {
            nodes,
            services: state.services.values().cloned().collect(),
            namespaces: state.namespaces.clone(),
        };
        Seen { snapshot, pending, turns: state.turns }
    }
}

/// Greater priority first, then the older, then the name.
fn order(pod: &PodView) -> (std::cmp::Reverse<i32>, Option<Timestamp>, &str) {
    let created = pod.object.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (std::cmp::Reverse(pod.priority()), created, &pod.key)
}

/// What a step of a Pod means to others: whether it left its node, and whether affinities see it differently.
fn step(before: Option<&PodView>, now: Option<&PodView>) -> (bool, bool) {
    let on_node = |pod: Option<&PodView>| pod.is_some_and(|pod| pod.node().is_some() && pod.occupies());
    match (on_node(before), on_node(now)) {
        (true, false) => (true, true),
        (false, true) => (false, true),
        (true, true) => (false, before.map(|pod| &pod.labels) != now.map(|pod| &pod.labels)),
        (false, false) => (false, false),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str, spec: serde_json::Value) -> Arc<Pod> {
        let object = json!({"metadata": {"name": name, "namespace": "ns", "uid": uid}, "spec": spec});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn index_with_node() -> Index {
        let index = Index::default();
        let node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
        index.replace("n", Some(Arc::new(NodeView::new(&node))), true, |state| &mut state.nodes);
        index
    }

    /// Keys that wait, and keys on the node (as far as a snapshot is given out).
    fn seen(index: &Index, now: Timestamp) -> (Vec<String>, Vec<String>) {
        let seen = index.see(now);
        let keys = |pods: &[Arc<PodView>]| pods.iter().map(|pod| pod.key.clone()).collect();
        (keys(&seen.pending), seen.snapshot.nodes.first().map(|(_, pods)| keys(pods)).unwrap_or_default())
    }

    #[test]
    fn a_binding_counts_before_the_watch_shows_it_and_lapses_if_it_never_does() {
        let index = index_with_node();
        index.pod("ns/a", Some(&pod("a", "1", json!({"containers": []}))));
        index.pod("ns/b", Some(&pod("b", "2", json!({"containers": []}))));
        assert_eq!(seen(&index, at(0)), (vec!["ns/a".into(), "ns/b".into()], vec![]));
        let view = Arc::clone(&index.see(at(0)).pending[0]);
        index.assume(&view, "n", at(0));
        assert_eq!(seen(&index, at(0)), (vec!["ns/b".into()], vec!["ns/a".into()]));
        // A late event of the unbound Pod changes nothing.
        index.pod("ns/a", Some(&pod("a", "1", json!({"containers": []}))));
        assert_eq!(seen(&index, at(29)), (vec!["ns/b".into()], vec!["ns/a".into()]));
        assert_eq!(index.next_lapse(), Some(at(30)));
        assert_eq!(seen(&index, at(30)).0.len(), 2, "lapsed");
        index.assume(&view, "n", at(40));
        index.pod("ns/a", Some(&pod("a", "1", json!({"containers": [], "nodeName": "n"}))));
        assert_eq!(index.next_lapse(), None, "the watch has shown it");
        assert_eq!(seen(&index, at(40)), (vec!["ns/b".into()], vec!["ns/a".into()]));
    }

    #[test]
    fn an_assumption_ends_with_its_pod() {
        let index = index_with_node();
        let first = pod("a", "1", json!({"containers": []}));
        index.pod("ns/a", Some(&first));
        index.assume(&PodView::new(first), "n", at(0));
        let before = index.see(at(0)).turns;
        index.pod("ns/a", None);
        assert_eq!(index.next_lapse(), None);
        assert_eq!(index.see(at(0)).turns.room, before.room + 1, "its room is free");
        // The same name again is another Pod.
        index.pod("ns/a", Some(&pod("a", "2", json!({"containers": []}))));
        assert_eq!(seen(&index, at(0)).0, ["ns/a"]);
    }

    #[test]
    fn room_is_made_by_pods_that_go_or_end_and_not_by_those_that_come() {
        let index = index_with_node();
        let turns = |index: &Index| index.see(at(0)).turns.room;
        let start = turns(&index);
        let bound = json!({"containers": [], "nodeName": "n"});
        index.pod("ns/a", Some(&pod("a", "1", bound.clone())));
        index.pod("ns/b", Some(&pod("b", "2", bound)));
        assert_eq!(turns(&index), start);
        let mut done: Pod = (*pod("a", "1", json!({"containers": [], "nodeName": "n"}))).clone();
        done.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
        index.pod("ns/a", Some(&Arc::new(done)));
        assert_eq!(turns(&index), start + 1);
        index.pod("ns/a", None);
        assert_eq!(turns(&index), start + 1, "its room was free already");
        index.pod("ns/b", None);
        assert_eq!(turns(&index), start + 2);
    }

    #[test]
    fn the_urgent_come_first_and_other_schedulers_pods_not_at_all() {
        let index = index_with_node();
        for (name, priority, scheduler, gates) in [
            ("low", 0, "", json!([])),
            ("high", 10, "default-scheduler", json!([])),
            ("other", 20, "somebody-else", json!([])),
            ("gated", 20, "", json!([{"name": "g"}])),
        ] {
            let spec = json!({"containers": [], "priority": priority, "schedulerName": scheduler, "schedulingGates": gates});
            index.pod(&format!("ns/{name}"), Some(&pod(name, name, spec)));
        }
        let mut going: Pod = (*pod("going", "5", json!({"containers": []}))).clone();
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        index.pod("ns/going", Some(&Arc::new(going)));
        assert_eq!(seen(&index, at(0)).0, ["ns/high", "ns/low"]);
    }
}
