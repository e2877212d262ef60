//! What the slices of a Service look like, how few writes it takes, and that any history ends in the right state.

use std::{collections::BTreeMap, sync::Arc};

use hitless_client::Delta;
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Plan, decide, index::Members};

fn service(spec: Value) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "service-uid", "labels": {"team": "a"}}, "spec": spec
    }))
    .unwrap()
}

fn web() -> Service {
    service(
        json!({"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}),
    )
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct State {
    ready: bool,
    terminating: bool,
    finished: bool,
    port: u16,
}

const READY: State = State { ready: true, terminating: false, finished: false, port: 8080 };

fn pod(n: u32, state: State) -> Arc<Pod> {
    let name = format!("p{n:04}");
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "hostname": "h", "subdomain": "web",
            "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": state.port}]}]},
        "status": {"phase": if state.finished { "Succeeded" } else { "Running" }, "podIP": format!("10.1.{}.{}", n / 250, n % 250),
            "conditions": [{"type": "Ready", "status": if state.ready { "True" } else { "False" }}]}
    });
    if state.terminating {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// What the API would do with a plan.
#[derive(Default)]
struct Stored {
    slices: BTreeMap<String, Arc<EndpointSlice>>,
    names: u32,
    writes: usize,
}

impl Stored {
    fn carry_out(&mut self, plan: Plan) {
        self.writes += plan.create.len() + plan.update.len() + plan.delete.len();
        for mut slice in plan.create {
            self.names += 1;
            let name = format!("{}{:05}", slice.metadata.generate_name.take().unwrap(), self.names);
            slice.metadata.name = Some(name.clone());
            assert!(self.slices.insert(name, through_json(&slice)).is_none());
        }
        for slice in plan.update {
            let name = slice.metadata.name.clone().unwrap();
            assert!(
                self.slices.insert(name, through_json(&slice)).is_some(),
                "an update of what is not there"
            );
        }
        for slice in plan.delete {
            assert!(self.slices.remove(slice.metadata.name.as_ref().unwrap()).is_some());
        }
    }

    fn sync(&mut self, service: &Service, pods: &[Arc<Pod>]) -> usize {
        let before = self.writes;
        let present: Vec<_> = self.slices.values().cloned().collect();
        self.carry_out(decide(service, pods, &present, &|_| Some("zone-1".into())));
        self.writes - before
    }

    fn sizes(&self) -> Vec<usize> {
        self.slices.values().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).collect()
    }
}

fn through_json(slice: &EndpointSlice) -> Arc<EndpointSlice> {
    Arc::new(serde_json::from_value(serde_json::to_value(slice).unwrap()).unwrap())
}

#[test]
fn a_slice_as_kubernetes_writes_it() {
    let mut stored = Stored::default();
    stored.sync(&web(), &[pod(1, READY)]);
    let slice = serde_json::to_value(&**stored.slices.values().next().unwrap()).unwrap();
    assert_eq!(
        slice,
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": "web-00001", "namespace": "ns",
                "labels": {"team": "a", "kubernetes.io/service-name": "web",
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "service-uid",
                    "controller": true, "blockOwnerDeletion": true}]
            },
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{
                "addresses": ["10.1.0.1"], "hostname": "h", "nodeName": "n1", "zone": "zone-1",
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "name": "p0001", "namespace": "ns", "uid": "p0001"}
            }]
        })
    );
}

#[test]
fn a_terminating_pod_stays_listed_and_serving_until_it_is_gone() {
    let mut stored = Stored::default();
    stored.sync(&web(), &[pod(1, READY), pod(2, READY)]);
    assert_eq!(stored.sync(&web(), &[pod(1, State { terminating: true, ..READY }), pod(2, READY)]), 1);
    let slice = stored.slices.values().next().unwrap();
    let conditions = serde_json::to_value(&slice.endpoints.as_ref().unwrap()[0].conditions).unwrap();
    assert_eq!(conditions, json!({"ready": false, "serving": true, "terminating": true}));
    assert_eq!(stored.sync(&web(), &[pod(2, READY)]), 1);
    assert_eq!(stored.sizes(), [1]);
}

#[test]
fn one_pod_is_one_write_and_no_change_is_none() {
    let mut stored = Stored::default();
    let mut pods: Vec<_> = (0..250).map(|n| pod(n, READY)).collect();
    assert_eq!(stored.sync(&web(), &pods), 3);
    assert_eq!(stored.sizes(), [100, 100, 50]);
    assert_eq!(stored.sync(&web(), &pods), 0);
    pods[5] = pod(5, State { ready: false, ..READY });
    assert_eq!(stored.sync(&web(), &pods), 1);
    // One goes and one comes: the new one takes the place of the old one.
    pods[5] = pod(999, READY);
    assert_eq!(stored.sync(&web(), &pods), 1);
    pods.push(pod(1000, READY));
    assert_eq!(stored.sync(&web(), &pods), 1);
    assert_eq!(stored.sizes(), [100, 100, 51]);
}

#[test]
fn a_service_without_pods_keeps_one_empty_slice_and_fills_it_again() {
    let mut stored = Stored::default();
    assert_eq!(stored.sync(&web(), &[]), 1);
    assert_eq!(stored.sizes(), [0]);
    assert_eq!(stored.sync(&web(), &[pod(1, READY)]), 1);
    assert_eq!(stored.sync(&web(), &[]), 1);
    assert_eq!(stored.sync(&web(), &[pod(2, READY)]), 1);
    assert_eq!((stored.sizes(), stored.names), (vec![1], 1));
}

#[test]
fn different_port_numbers_stand_in_different_slices() {
    let mut stored = Stored::default();
    stored.sync(&web(), &[pod(1, READY), pod(2, State { port: 9090, ..READY })]);
    assert_eq!(stored.sizes(), [1, 1]);
    assert_eq!(stored.sync(&web(), &[pod(1, READY)]), 1);
    assert_eq!(stored.sizes(), [1]);
}

#[test]
fn what_two_slices_list_is_listed_by_one_again() {
    let mut stored = Stored::default();
    stored.sync(&web(), &[pod(1, READY)]);
    let mut twin = (**stored.slices.values().next().unwrap()).clone();
    twin.metadata.name = Some("web-twin".into());
    stored.slices.insert("web-twin".into(), Arc::new(twin));
    assert_eq!(stored.sync(&web(), &[pod(1, READY)]), 1);
    assert_eq!(stored.slices.keys().collect::<Vec<_>>(), ["web-00001"]);
}

#[test]
fn slices_of_an_earlier_service_of_the_same_name_go() {
    let mut stored = Stored::default();
    let mut earlier = web();
    earlier.metadata.uid = Some("earlier".into());
    stored.sync(&earlier, &[pod(1, READY)]);
    stored.sync(&web(), &[pod(1, READY)]);
    assert_eq!(stored.slices.keys().collect::<Vec<_>>(), ["web-00002"]);
}

#[test]
fn families_follow_the_service_and_then_the_pods() {
    let mut six = (*pod(1, READY)).clone();
    six.status.as_mut().unwrap().pod_ip = Some("fd00::1".into());
    let six = [Arc::new(six)];
    let types = |service: &Service| {
        let plan = decide(service, &six, &[], &|_| None);
        plan.create
            .iter()
            .map(|s| (s.address_type.clone(), s.endpoints.as_ref().unwrap().len()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        types(&web()),
        [("IPv4".to_owned(), 0)],
        "the cluster IP is IPv4, so the Pod cannot stand behind it"
    );
    let headless = service(json!({"selector": {"app": "web"}, "clusterIP": "None"}));
    assert_eq!(types(&headless), [("IPv6".to_owned(), 1)]);
    let both = service(json!({"selector": {"app": "web"}, "ipFamilies": ["IPv6", "IPv4"]}));
    assert_eq!(types(&both), [("IPv6".to_owned(), 1), ("IPv4".to_owned(), 0)]);
}

#[test]
fn a_status_update_that_leaves_the_endpoint_costs_nothing() {
    let members = Members::default();
    let delta = |before: Option<Arc<Pod>>, after: Arc<Pod>| Delta {
        key: "ns/p0001".into(),
        before,
        after: Some(after),
        listed: false,
    };
    members.take_service(&Delta {
        key: "ns/web".into(),
        before: None,
        after: Some(Arc::new(web())),
        listed: false,
    });
    let ready = pod(1, READY);
    assert_eq!(members.take_pod(&delta(None, ready.clone())), ["ns/web"]);
    let mut noisy = (*ready).clone();
    noisy.status.as_mut().unwrap().message = Some("pulled".into());
    noisy.metadata.resource_version = Some("9".into());
    let noisy = Arc::new(noisy);
    assert!(members.take_pod(&delta(Some(ready), noisy.clone())).is_empty());
    let terminating = pod(1, State { terminating: true, ..READY });
    assert_eq!(members.take_pod(&delta(Some(noisy), terminating)), ["ns/web"]);
    assert_eq!(members.pods_of(&web()).len(), 1);
}

fn state() -> impl Strategy<Value = State> {
    (
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop_oneof![4 => Just(8080_u16), 1 => Just(9090)],
    )
        .prop_map(|(ready, terminating, finished, port)| State { ready, terminating, finished, port })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the history, each Pod that ought to be listed is listed exactly once and as it is, no slice is too long, and nothing is left to do.
    #[test]
    fn every_history_ends_in_the_right_state(
        history in prop::collection::vec(prop::collection::btree_map(0..260_u32, state(), 0..260), 1..6)
    ) {
        let mut stored = Stored::default();
        for pods in history {
            let seen: Vec<_> = pods.iter().map(|(n, state)| pod(*n, *state)).collect();
            stored.sync(&web(), &seen);
            prop_assert_eq!(stored.sync(&web(), &seen), 0, "not settled after one round");
            let mut listed = BTreeMap::new();
            for slice in stored.slices.values() {
                let endpoints = slice.endpoints.clone().unwrap_or_default();
                prop_assert!(endpoints.len() <= super::SLICE_ENDPOINTS_MAX);
                for e in endpoints {
                    let c = e.conditions.unwrap();
                    let port = slice.ports.as_ref().unwrap()[0].port.unwrap();
                    let told = (c.ready, c.serving, c.terminating, port);
                    prop_assert!(listed.insert(e.target_ref.unwrap().name.unwrap(), told).is_none(), "listed twice");
                }
            }
            let wanted: BTreeMap<_, _> = pods.iter().filter(|(_, s)| !s.finished).map(|(n, s)| {
                (format!("p{n:04}"), (Some(s.ready && !s.terminating), Some(s.ready), Some(s.terminating), i32::from(s.port)))
            }).collect();
            prop_assert_eq!(listed, wanted);
            prop_assert!(!stored.slices.is_empty());
        }
    }
}
