//! What `kubectl get endpoints` shows.

use std::sync::Arc;

use hitless_types::well_known;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use serde_json::{Value, json};

use super::{Plan, decide};

fn service(spec: Value) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "s", "labels": {"team": "a"}}, "spec": spec
    }))
    .unwrap()
}

fn pod(name: &str, ip: &str, ready: bool, terminating: bool) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}
    });
    if terminating {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn web() -> Service {
    service(
        json!({"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ports": [{"port": 80, "targetPort": "http"}]}),
    )
}

fn made(plan: Plan) -> Endpoints {
    match plan {
        Plan::Create(endpoints) | Plan::Update(endpoints) => endpoints,
        Plan::Nothing => panic!("nothing to do"),
    }
}

#[test]
fn ready_and_not_ready_apart_and_terminating_left_out() {
    let pods = [
        pod("b", "10.1.0.2", true, false),
        pod("a", "10.1.0.1", false, false),
        pod("c", "10.1.0.3", true, true),
    ];
    let endpoints = made(decide(&web(), &pods, None));
    let shown = serde_json::to_value(&endpoints).unwrap();
    let reference = |name: &str| json!({"kind": "Pod", "name": name, "namespace": "ns", "uid": name});
    assert_eq!(
        shown["subsets"],
        json!([{
            "addresses": [{"ip": "10.1.0.2", "nodeName": "n1", "targetRef": reference("b")}],
            "notReadyAddresses": [{"ip": "10.1.0.1", "nodeName": "n1", "targetRef": reference("a")}],
            "ports": [{"port": 8080, "protocol": "TCP"}]
        }])
    );
    assert_eq!(
        shown["metadata"]["labels"],
        json!({"endpoints.kubernetes.io/managed-by": "endpoint-controller", "team": "a"})
    );
    assert!(!endpoints.metadata.labels.unwrap().contains_key(well_known::LABEL_MANAGED_BY));
}

#[test]
fn nothing_is_written_when_nothing_changed() {
    let pods = [pod("a", "10.1.0.1", true, false)];
    let first = made(decide(&web(), &pods, None));
    // As it comes back from the API.
    let stored: Endpoints = serde_json::from_value(serde_json::to_value(&first).unwrap()).unwrap();
    assert_eq!(decide(&web(), &pods, Some(&stored)), Plan::Nothing);
    assert!(matches!(decide(&web(), &[], Some(&stored)), Plan::Update(e) if e.subsets.is_none()));
}

#[test]
fn unready_addresses_are_published_if_the_service_asks_for_it() {
    let publishing = service(
        json!({"selector": {"app": "web"}, "clusterIP": "None", "publishNotReadyAddresses": true, "ports": [{"port": 80}]}),
    );
    let endpoints = made(decide(&publishing, &[pod("a", "10.1.0.1", false, true)], None));
    assert_eq!(endpoints.subsets.unwrap()[0].addresses.as_ref().unwrap().len(), 1);
    assert!(endpoints.metadata.labels.unwrap().contains_key("service.kubernetes.io/headless"));
}

#[test]
fn a_headless_service_needs_no_ports_another_does() {
    let pods = [pod("a", "10.1.0.1", true, false)];
    let headless = service(json!({"selector": {"app": "web"}, "clusterIP": "None"}));
    assert!(made(decide(&headless, &pods, None)).subsets.unwrap()[0].ports.is_none());
    let unresolved = service(
        json!({"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ports": [{"port": 80, "targetPort": "missing"}]}),
    );
    assert!(made(decide(&unresolved, &pods, None)).subsets.is_none());
}

#[test]
fn a_thousand_addresses_at_the_most_ready_ones_first() {
    let mut pods: Vec<_> = (0..600)
        .map(|i| pod(&format!("n{i}"), &format!("10.1.{}.{}", i / 250, i % 250), false, false))
        .collect();
    pods.extend(
        (0..700).map(|i| pod(&format!("r{i}"), &format!("10.2.{}.{}", i / 250, i % 250), true, false)),
    );
    let endpoints = made(decide(&web(), &pods, None));
    let subset = &endpoints.subsets.unwrap()[0];
    assert_eq!(subset.addresses.as_ref().unwrap().len(), 700);
    assert_eq!(subset.not_ready_addresses.as_ref().unwrap().len(), 300);
    assert_eq!(endpoints.metadata.annotations.unwrap()["endpoints.kubernetes.io/over-capacity"], "truncated");
}
