//! The loop looks at Pods and slices; the EndpointSlice controller looks at Pods and writes slices; consumers look at slices. Each is
//! behind by its own measure. Whatever the interleaving: once the loop says that an endpoint is removed at revision R,
//! nobody who holds R or more routes to the Pod, and nobody ever will again.

use std::sync::Arc;

use hitless_base::Revision;
use hitless_client::Delta;
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use proptest::prelude::*;
use serde_json::json;

use super::super::{Removal, index::Slices};
use crate::endpointslice::decide;

#[derive(Clone, Copy, Debug, PartialEq)]
struct State {
    address: bool,
    ready: bool,
    terminating: bool,
    labelled: bool,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Address,
    Ready(bool),
    Unlabel,
    Delete,
    /// The EndpointSlice controller sees so many more states of the Pod and writes.
    Publish(usize),
    LoopSeesPod(usize),
    LoopSeesSlices(usize),
    /// Another Pod of the Service changes: the slice is written for its sake.
    Neighbour,
}

struct World {
    revision: u64,
    pod: Vec<State>,
    published_from: usize,
    neighbour: u32,
    /// The Service's one slice over time, and its position in the loop's watch.
    slices: Vec<(u64, Option<Arc<EndpointSlice>>)>,
    loop_pod: usize,
    loop_slices: usize,
    index: Slices,
    /// The lowest revision that the loop took for the removal, or zero if it took the Pod for no endpoint.
    removed_at: Option<u64>,
}

fn service() -> Arc<Service> {
    let service = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "s"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ports": [{"port": 80}]}
    });
    Arc::new(serde_json::from_value(service).unwrap())
}

fn pod(name: &str, state: State) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": if state.labelled { "web" } else { "x" }}},
        "spec": {"containers": []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if state.ready { "True" } else { "False" }}]}
    });
    if state.address {
        pod["status"]["podIP"] = json!("10.1.0.1");
    }
    if state.terminating {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// Whether a consumer that holds this slice routes to the Pod.
fn routes(slice: Option<&EndpointSlice>) -> bool {
    slice.into_iter().flat_map(|s| s.endpoints.iter().flatten()).any(|e| {
        e.target_ref.as_ref().unwrap().name.as_deref() == Some("p")
            && e.conditions.as_ref().unwrap().ready == Some(true)
    })
}

impl World {
    fn new() -> Self {
        let start = State { address: false, ready: false, terminating: false, labelled: true };
        Self {
            revision: 10,
            pod: vec![start],
            published_from: 0,
            neighbour: 0,
            slices: vec![(0, None)],
            loop_pod: 0,
            loop_slices: 0,
            index: Slices::default(),
            removed_at: None,
        }
    }

    fn now(&self) -> State {
        *self.pod.last().unwrap()
    }

    fn change(&mut self, state: State) {
        if state != self.now() {
            self.revision += 1;
            self.pod.push(state);
        }
    }

    /// The real controller's decision, from the state that it has seen.
    fn publish(&mut self) {
        let mut pods = vec![pod("p", self.pod[self.published_from])];
        pods.retain(|p| p.metadata.labels.as_ref().unwrap()["app"] == "web");
        let other =
            State { address: true, ready: self.neighbour % 2 == 1, terminating: false, labelled: true };
        pods.push(pod("neighbour", other));
        let present: Vec<_> = self.slices.last().unwrap().1.clone().into_iter().collect();
        let plan = decide(&service(), &pods, &present, &|_| None);
        assert!(plan.delete.is_empty());
        for mut slice in plan.create.into_iter().chain(plan.update) {
            self.revision += 1;
            slice.metadata.name = Some("web-1".into());
            slice.metadata.resource_version = Some(self.revision.to_string());
            self.slices.push((self.revision, Some(Arc::new(slice))));
        }
    }

    fn loop_sees_slices(&mut self, count: usize) {
        for _ in 0..count.min(self.slices.len() - 1 - self.loop_slices) {
            let before = self.slices[self.loop_slices].1.clone();
            self.loop_slices += 1;
            let (revision, after) = self.slices[self.loop_slices].clone();
            self.index
                .take(&Delta { key: "ns/web-1".into(), before, after, listed: false }, Revision(revision));
        }
    }

    fn act(&mut self, op: Op) {
        let now = self.now();
        match op {
            Op::Address => self.change(State { address: true, ..now }),
            Op::Ready(ready) if now.address => self.change(State { ready, ..now }),
            Op::Ready(_) => {}
            Op::Unlabel => {
                // See `Sight::removal`: what was never seen published cannot be told from what never had a Service.
                self.published_from = self.pod.len() - 1;
                self.publish();
                self.loop_sees_slices(usize::MAX);
                self.change(State { labelled: false, ..now });
            }
            Op::Delete => self.change(State { terminating: true, ..now }),
            Op::Publish(more) => {
                self.published_from = (self.published_from + more).min(self.pod.len() - 1);
                self.publish();
            }
            Op::Neighbour => {
                self.neighbour += 1;
                self.publish();
            }
            Op::LoopSeesPod(more) => self.loop_pod = (self.loop_pod + more).min(self.pod.len() - 1),
            Op::LoopSeesSlices(more) => self.loop_sees_slices(more),
        }
    }

    /// What the loop decides now, if it sees the Pod as terminating.
    fn removal(&mut self) -> Option<Removal> {
        let seen = self.pod[self.loop_pod];
        if !seen.terminating {
            return None;
        }
        let services = if seen.labelled { vec![service()] } else { vec![] };
        let removal = self.index.sight(&pod("p", seen), &services).removal();
        match removal {
            Removal::NotYet(_) => {}
            Removal::NoEndpoints => self.removed_at = Some(0),
            Removal::At(revision) => {
                self.removed_at = Some(self.removed_at.map_or(revision.0, |r| r.min(revision.0)));
            }
        }
        Some(removal)
    }

    /// The first slice from the removal on that still, or again, routes to the Pod.
    fn breach(&self) -> Option<u64> {
        let removed_at = self.removed_at?;
        self.slices.iter().find(|(r, slice)| *r >= removed_at && routes(slice.as_deref())).map(|(r, _)| *r)
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => Just(Op::Address),
        3 => prop::bool::weighted(0.8).prop_map(Op::Ready),
        1 => Just(Op::Unlabel),
        1 => Just(Op::Delete),
        4 => (0..3_usize).prop_map(Op::Publish),
        4 => (0..4_usize).prop_map(Op::LoopSeesPod),
        4 => (0..4_usize).prop_map(Op::LoopSeesSlices),
        1 => Just(Op::Neighbour),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn removed_means_that_nobody_routes_there_now_or_later(ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::new();
        for op in ops {
            world.act(op);
            let removal = world.removal();
            prop_assert_eq!(world.breach(), None, "after {:?}: {:?}", op, removal);
        }
        // And it comes to an end: when everyone has caught up with the deletion, the endpoint is removed.
        for op in [Op::Delete, Op::Publish(99), Op::LoopSeesPod(99), Op::LoopSeesSlices(99)] {
            world.act(op);
        }
        prop_assert!(!matches!(world.removal(), None | Some(Removal::NotYet(_))));
        prop_assert_eq!(world.breach(), None);
    }
}
