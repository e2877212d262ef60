//! Server-side apply and managed fields, as a client sees them, over the real store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use common::{Answer, Bench, CONFIG_MAPS, DEPLOYMENTS, PODS, bench, deployment, pod};
use serde_json::{Value, json};

async fn apply(bench: &Bench, path: &str, config: Value, query: &str) -> Answer {
    bench.call("PATCH", &format!("{path}?{query}"), "application/apply-patch+yaml", config.to_string()).await
}

fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let name =
        |e: &Value| format!("{} {} {}", e["manager"], e["operation"], e["subresource"]).replace('"', "");
    entries.iter().map(name).collect()
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

#[tokio::test]
async fn an_object_is_created_changed_and_pruned_by_apply() {
    let bench = bench().await;
    let path = format!("{CONFIG_MAPS}/c");
    let made = apply(&bench, &path, config_map(json!({"a": "1", "b": "2"})), "fieldManager=me").await;
    assert_eq!(made.code, 201);
    let made = made.ok();
    assert_eq!(managers(&made), ["me Apply null"]);
    // The same again is no write.
    let again = apply(&bench, &path, config_map(json!({"a": "1", "b": "2"})), "fieldManager=me").await;
    assert_eq!(again.code, 200);
    assert_eq!(again.ok(), made);
    bench.merge(&format!("{path}?fieldManager=them"), json!({"data": {"c": "3"}})).await.ok();
    let pruned = apply(&bench, &path, config_map(json!({"a": "1"})), "fieldManager=me").await.ok();
    assert_eq!(pruned["data"], json!({"a": "1", "c": "3"}));
    assert_eq!(managers(&pruned), ["me Apply null", "them Update null"]);
    let taken = apply(&bench, &path, config_map(json!({"c": "9"})), "fieldManager=me").await;
    assert_eq!(
        taken.refusal(),
        (409, "Apply failed with 1 conflict: conflict with \"them\" using v1: .data.c")
    );
    assert_eq!(
        taken.body["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"them\" using v1", "field": ".data.c"}])
    );
    let dry =
        apply(&bench, &path, config_map(json!({"c": "9"})), "fieldManager=me&force=true&dryRun=All").await;
    assert_eq!(dry.ok()["data"], json!({"c": "9"}));
    assert_eq!(bench.get(&path).await.ok(), pruned);
    let forced = apply(&bench, &path, config_map(json!({"c": "9"})), "fieldManager=me&force=true").await.ok();
    assert_eq!((&forced["data"], managers(&forced)), (&json!({"c": "9"}), vec!["me Apply null".to_owned()]));
}

#[tokio::test]
async fn what_is_no_configuration_is_refused() {
    let bench = bench().await;
    let path = format!("{DEPLOYMENTS}/app");
    let refused = apply(&bench, &path, deployment("app", 1), "").await;
    assert_eq!(refused.code, 422);
    assert!(refused.refusal().1.contains("fieldManager: Required value"), "{}", refused.body);
    let mut unknown = deployment("app", 1);
    unknown["spec"]["replicsa"] = 1.into();
    let refused = apply(&bench, &path, unknown, "fieldManager=me").await;
    assert_eq!(
        refused.refusal().1,
        "failed to create typed patch object (default/app; apps/v1, Kind=Deployment): .spec.replicsa: field not declared in schema"
    );
    let mut kindless = deployment("app", 1);
    kindless.as_object_mut().unwrap().remove("kind");
    for (config, code) in
        [(kindless, 400), (deployment("other", 1), 400), (json!([]), 400), (pod("app"), 400)]
    {
        assert_eq!(apply(&bench, &path, config, "fieldManager=me").await.code, code);
    }
    let mut invalid = deployment("app", -1);
    assert_eq!(apply(&bench, &path, invalid.clone(), "fieldManager=me").await.code, 422);
    invalid["metadata"]["managedFields"] = json!([{}]);
    assert_eq!(
        apply(&bench, &path, invalid, "fieldManager=me").await.refusal(),
        (400, "metadata.managedFields must be nil")
    );
    let forced = bench.merge(&format!("{PODS}/p?force=true"), json!({})).await;
    assert_eq!(forced.code, 422);
}

#[tokio::test]
async fn every_writer_is_noted() {
    let bench = bench().await;
    let made = bench.post(&format!("{DEPLOYMENTS}?fieldManager=creator"), deployment("app", 1)).await.ok();
    assert_eq!(managers(&made), ["creator Update null"]);
    let path = format!("{DEPLOYMENTS}/app");
    let status = json!({"status": {"replicas": 1}});
    bench.merge(&format!("{path}/status?fieldManager=controller"), status).await.ok();
    bench.merge(&format!("{path}/scale?fieldManager=scaler"), json!({"spec": {"replicas": 4}})).await.ok();
    let object = bench.get(&path).await.ok();
    let mut all = managers(&object);
    all.sort();
    assert_eq!(all, ["controller Update status", "creator Update null", "scaler Update scale"]);
    // A client that knows nothing of managed fields loses none.
    let mut typed = object.clone();
    typed["metadata"].as_object_mut().unwrap().remove("managedFields");
    assert_eq!(bench.put(&path, typed).await.ok(), object);
    let text = object["metadata"]["managedFields"].to_string();
    assert!(!text.contains("f:resourceVersion") && !text.contains("f:uid"), "{text}");
    // What the server adds is nobody's.
    let pod = bench.post(&format!("{PODS}?fieldManager=me"), pod("p")).await.ok();
    let text = pod["metadata"]["managedFields"].to_string();
    assert!(
        text.contains("f:containers") && !text.contains("f:tolerations") && !text.contains("created-at"),
        "{text}"
    );
}

#[tokio::test]
async fn a_status_is_applied_apart() {
    let bench = bench().await;
    bench.post(DEPLOYMENTS, deployment("app", 1)).await.ok();
    let path = format!("{DEPLOYMENTS}/app");
    let mut config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app", "labels": {"x": "y"}}});
    config["spec"] = json!({"replicas": 9});
    config["status"] = json!({"replicas": 7});
    let now = apply(&bench, &format!("{path}/status"), config, "fieldManager=ctl").await.ok();
    assert_eq!((&now["spec"]["replicas"], &now["status"]["replicas"]), (&json!(1), &json!(7)));
    assert_eq!(now["metadata"].get("labels"), None);
    assert!(managers(&now).contains(&"ctl Apply status".to_owned()), "{now}");
}
