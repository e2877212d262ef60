//! What noting who wrote what costs a write: `cargo run --release -p hitless-types --example managed_bench`.
//!
//! A Pod as a kubelet reports on it: its status changes, and with it the kubelet's entry; then the same object applied; then
//! the size of the entries beside the object.

use std::time::Instant;

use hitless_types::{
    kinds,
    managed::{self, Writer},
};
use serde_json::{Value, json};

const ROUNDS: usize = 2000;

fn row(what: &str, mut nanos: Vec<u128>) {
    nanos.sort_unstable();
    let at = |part: usize| nanos.get(nanos.len() * part / 100).copied().unwrap_or_default() as f64 / 1000.0;
    println!("{what:<40} p50 {:>7.1} us   p99 {:>7.1} us", at(50), at(99));
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web", "hash": "5d"}, "uid": "u"},
        "spec": {
            "containers": [{
                "name": "web", "image": "nginx:1.19", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "resources": {},
                "readinessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "periodSeconds": 1},
                "terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent",
            }],
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
            "securityContext": {}, "terminationGracePeriodSeconds": 30, "nodeName": "node-1",
        },
        "status": {},
    })
}

fn status(round: usize) -> Value {
    let condition = |type_: &str| json!({"type": type_, "status": if round.is_multiple_of(2) { "True" } else { "False" }, "lastTransitionTime": round.to_string()});
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    json!({
        "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "hostIP": "192.168.0.1",
        "conditions": conditions,
        "containerStatuses": [{"name": "web", "ready": true, "restartCount": round, "image": "nginx:1.19"}],
    })
}

fn main() {
    let Some(kind) = kinds::by_path("", "v1", "pods") else { return };
    let by = |manager, subresource| Writer { manager, subresource, now: "2026-01-01T00:00:00Z" };
    let mut live = pod();
    managed::note_update(kind, None, &mut live, by("kube-controller-manager", ""));
    let (mut updates, mut same) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut new = live.clone();
        new["status"] = status(round);
        let start = Instant::now();
        managed::note_update(kind, Some(&live), &mut new, by("kubelet", "status"));
        updates.push(start.elapsed().as_nanos());
        let mut again = new.clone();
        let start = Instant::now();
        managed::note_update(kind, Some(&new), &mut again, by("kubelet", "status"));
        same.push(start.elapsed().as_nanos());
        live = new;
    }
    row("a Pod's status, changed", updates);
    row("a Pod's status, unchanged", same);
    let mut applies = Vec::new();
    for round in 0..ROUNDS {
        let mut config = pod();
        config["spec"]["containers"][0]["image"] = format!("nginx:{round}").into();
        let start = Instant::now();
        if let Ok(applied) = managed::apply(kind, Some(&live), &config, by("kubectl", ""), true) {
            applies.push(start.elapsed().as_nanos());
            live = applied;
        }
    }
    row("a Pod, applied", applies);
    let entries = live["metadata"]["managedFields"].to_string().len();
    println!("{:<40} {} of {} bytes", "entries", entries, live.to_string().len());
}
