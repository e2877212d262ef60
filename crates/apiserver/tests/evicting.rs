//! Evictions against disruption budgets, over the real store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use common::{Bench, PODS, bench, pod};
use serde_json::{Value, json};

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

async fn running(bench: &Bench, name: &str) {
    bench.post(PODS, pod(name)).await.ok();
    let path = format!("{PODS}/{name}");
    bench.post(&format!("{path}/binding"), json!({"target": {"kind": "Node", "name": "n1"}})).await.ok();
    let yes =
        |type_: &str| json!({"type": type_, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status =
        json!({"status": {"phase": "Running", "conditions": [yes("Ready"), yes("hitless.dev/Programmed")]}});
    bench.merge(&format!("{path}/status"), status).await.ok();
}

async fn budget(bench: &Bench, name: &str, allowed: i64) {
    let object = json!({"metadata": {"name": name}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    let made = bench.post(BUDGETS, object).await.ok();
    let status = json!({"status": {
        "observedGeneration": made["metadata"]["generation"], "disruptionsAllowed": allowed,
        "currentHealthy": allowed + 1, "desiredHealthy": 1, "expectedPods": allowed + 1,
    }});
    bench.merge(&format!("{BUDGETS}/{name}/status"), status).await.ok();
}

async fn evict(bench: &Bench, name: &str) -> common::Answer {
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}});
    bench.post(&format!("{PODS}/{name}/eviction"), eviction).await
}

#[tokio::test]
async fn evictions_at_once_spend_no_more_than_the_budget() {
    let bench = bench().await;
    for i in 0..12 {
        running(&bench, &format!("p{i}")).await;
    }
    budget(&bench, "b", 3).await;
    let names: Vec<String> = (0..12).map(|i| format!("p{i}")).collect();
    let all = futures::future::join_all(names.iter().map(|name| evict(&bench, name))).await;
    assert_eq!(all.iter().filter(|a| a.code == 201).count(), 3);
    let refused = all.iter().find(|a| a.code == 429).unwrap();
    assert_eq!(refused.body["message"], "Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "DisruptionBudget");
    assert_eq!(
        refused.body["details"]["causes"][0]["message"],
        "The disruption budget b needs 1 healthy pods and has 4 currently"
    );
    let pods = bench.get(PODS).await.ok();
    let going =
        pods["items"].as_array().unwrap().iter().filter(|p| p["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(going.count(), 3);
    let after = bench.get(&format!("{BUDGETS}/b")).await.ok();
    assert_eq!(after["status"]["disruptionsAllowed"], 0);
    assert_eq!(after["status"]["disruptedPods"].as_object().unwrap().len(), 3);
}

#[tokio::test]
async fn an_evicted_pod_says_so() {
    let bench = bench().await;
    running(&bench, "p").await;
    assert_eq!(evict(&bench, "p").await.code, 201);
    let pod = bench.get(&format!("{PODS}/p")).await.ok();
    let reasons: Vec<&Value> = pod["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|c| c["type"] == "DisruptionTarget")
        .collect();
    assert_eq!(reasons[0]["reason"], "EvictionByEvictionAPI");
    assert_eq!(evict(&bench, "p").await.code, 201, "a Pod that is going can be evicted again");
    assert_eq!(evict(&bench, "q").await.code, 404);
}

#[tokio::test]
async fn two_budgets_are_an_error_and_an_unready_pod_goes_when_others_suffice() {
    let bench = bench().await;
    running(&bench, "p").await;
    budget(&bench, "b", 0).await;
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    bench.merge(&format!("{PODS}/p/status"), unready).await.ok();
    assert_eq!(evict(&bench, "p").await.code, 201);
    running(&bench, "q").await;
    budget(&bench, "c", 5).await;
    assert_eq!(evict(&bench, "q").await.code, 500);
}
