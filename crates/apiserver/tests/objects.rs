//! Create, read, update, patch and delete, as a client sees them, over the real store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use common::{CONFIG_MAPS, DEPLOYMENTS, PODS, bench, config_map, deployment, pod};
use serde_json::{Value, json};

#[tokio::test]
async fn an_object_is_created_read_and_deleted() {
    let bench = bench().await;
    let made = bench.post(CONFIG_MAPS, config_map("a", json!({"k": "v"}))).await;
    assert_eq!(made.code, 201);
    let made = made.ok();
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        assert!(made["metadata"][field].as_str().is_some_and(|t| !t.is_empty()), "{field}: {made}");
    }
    assert_eq!(bench.get(&format!("{CONFIG_MAPS}/a")).await.ok(), made);
    let again = bench.post(CONFIG_MAPS, config_map("a", json!({}))).await;
    assert_eq!(again.refusal(), (409, r#"configmaps "a" already exists"#));
    let gone = bench.delete(&format!("{CONFIG_MAPS}/a"), Value::Null).await.ok();
    assert_eq!((&gone["status"], &gone["details"]["uid"]), (&json!("Success"), &made["metadata"]["uid"]));
    let missing = bench.get(&format!("{CONFIG_MAPS}/a")).await;
    assert_eq!(missing.refusal(), (404, r#"configmaps "a" not found"#));
    assert_eq!(missing.body["details"], json!({"name": "a", "kind": "configmaps"}));
}

#[tokio::test]
async fn a_name_can_be_generated() {
    let bench = bench().await;
    let object = json!({"metadata": {"generateName": "job-"}});
    let first = bench.post(CONFIG_MAPS, object.clone()).await.ok();
    let second = bench.post(CONFIG_MAPS, object).await.ok();
    let name = first["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("job-") && name.len() == 9, "{name}");
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
    let nameless = bench.post(CONFIG_MAPS, json!({})).await;
    assert_eq!(nameless.code, 422);
    assert!(nameless.body["message"].as_str().unwrap().contains("name or generateName is required"));
}

#[tokio::test]
async fn an_update_with_an_old_revision_is_a_conflict() {
    let bench = bench().await;
    let path = format!("{CONFIG_MAPS}/a");
    let made = bench.post(CONFIG_MAPS, config_map("a", json!({"k": "1"}))).await.ok();
    let mut second = made.clone();
    second["data"]["k"] = "2".into();
    let second = bench.put(&path, second).await.ok();
    assert_ne!(second["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let mut stale = made.clone();
    stale["data"]["k"] = "3".into();
    assert_eq!(
        bench.put(&path, stale).await.refusal(),
        (
            409,
            r#"Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again"#
        )
    );
    let forced = bench.put(&path, config_map("a", json!({"k": "4"}))).await.ok();
    assert_eq!((&forced["data"]["k"], &forced["metadata"]["uid"]), (&json!("4"), &made["metadata"]["uid"]));
    assert_eq!(bench.put(&path, config_map("b", json!({}))).await.code, 400);
}

#[tokio::test]
async fn an_update_that_changes_nothing_is_no_event() {
    let bench = bench().await;
    let made = bench.post(DEPLOYMENTS, deployment("a", 1)).await.ok();
    let before = bench.store_revision();
    let same = bench.put(&format!("{DEPLOYMENTS}/a"), made.clone()).await.ok();
    assert_eq!(same, made);
    let same = bench.merge(&format!("{DEPLOYMENTS}/a"), json!({"spec": {"replicas": 1}})).await.ok();
    assert_eq!((same, bench.store_revision()), (made, before));
}

#[tokio::test]
async fn generation_counts_what_is_wanted() {
    let bench = bench().await;
    let path = format!("{DEPLOYMENTS}/a");
    let made = bench.post(DEPLOYMENTS, deployment("a", 1)).await.ok();
    assert_eq!(made["metadata"]["generation"], 1);
    let labelled = bench.merge(&path, json!({"metadata": {"labels": {"x": "y"}}})).await.ok();
    assert_eq!(labelled["metadata"]["generation"], 1);
    let scaled = bench.merge(&path, json!({"spec": {"replicas": 2}, "status": {"replicas": 9}})).await.ok();
    assert_eq!(scaled["metadata"]["generation"], 2);
    assert_ne!(scaled["status"]["replicas"], 9);
    let status = bench
        .merge(&format!("{path}/status"), json!({"spec": {"replicas": 7}, "status": {"replicas": 2}}))
        .await
        .ok();
    assert_eq!((&status["spec"]["replicas"], &status["status"]["replicas"]), (&json!(2), &json!(2)));
    assert_eq!(status["metadata"]["generation"], 2);
}

#[tokio::test]
async fn all_three_patches_work() {
    let bench = bench().await;
    let path = format!("{DEPLOYMENTS}/a");
    bench.post(DEPLOYMENTS, deployment("a", 1)).await.ok();
    let strategic =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "side:1"}]}}}});
    let patched = bench
        .call("PATCH", &path, "application/strategic-merge-patch+json", strategic.to_string())
        .await
        .ok();
    let containers = patched["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 2);
    let operations = json!([{"op": "test", "path": "/spec/replicas", "value": 1}, {"op": "replace", "path": "/spec/replicas", "value": 4}]);
    let patched =
        bench.call("PATCH", &path, "application/json-patch+json", operations.to_string()).await.ok();
    assert_eq!(patched["spec"]["replicas"], 4);
    let failed = bench.call("PATCH", &path, "application/json-patch+json", operations.to_string()).await;
    assert_eq!(failed.code, 422);
    let conflict =
        bench.merge(&path, json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 1}})).await;
    assert_eq!(conflict.code, 409);
    assert_eq!(bench.call("PATCH", &path, "application/x-patch", "{}").await.code, 415);
    assert_eq!(bench.merge(&path, json!([])).await.code, 400);
}

#[tokio::test]
async fn unknown_fields_are_refused_told_or_dropped() {
    let bench = bench().await;
    let mut object = deployment("a", 1);
    object["spec"]["replicsa"] = 1.into();
    let strict = bench.post(&format!("{DEPLOYMENTS}?fieldValidation=Strict"), object.clone()).await;
    assert_eq!(
        strict.refusal(),
        (
            400,
            r#"Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: unknown field "spec.replicsa""#
        )
    );
    let warned = bench.post(&format!("{DEPLOYMENTS}?fieldValidation=Warn"), object.clone()).await;
    assert_eq!(warned.warnings, [r#"299 - "unknown field \"spec.replicsa\"""#]);
    assert!(warned.ok()["spec"].get("replicsa").is_none());
    object["metadata"]["name"] = "b".into();
    let ignored = bench.post(&format!("{DEPLOYMENTS}?fieldValidation=Ignore"), object).await;
    assert!(ignored.warnings.is_empty());
    assert_eq!(bench.post(&format!("{DEPLOYMENTS}?fieldValidation=x"), deployment("c", 1)).await.code, 422);
}

#[tokio::test]
async fn a_dry_run_keeps_nothing() {
    let bench = bench().await;
    let before = bench.store_revision();
    let shown = bench.post(&format!("{CONFIG_MAPS}?dryRun=All"), config_map("a", json!({}))).await.ok();
    assert_eq!(shown["metadata"]["name"], "a");
    assert_eq!(bench.get(&format!("{CONFIG_MAPS}/a")).await.code, 404);
    assert_eq!(bench.store_revision(), before);
    bench.post(CONFIG_MAPS, config_map("a", json!({"k": "1"}))).await.ok();
    let shown = bench.merge(&format!("{CONFIG_MAPS}/a?dryRun=All"), json!({"data": {"k": "2"}})).await.ok();
    assert_eq!(shown["data"]["k"], "2");
    bench.delete(&format!("{CONFIG_MAPS}/a?dryRun=All"), Value::Null).await.ok();
    assert_eq!(bench.get(&format!("{CONFIG_MAPS}/a")).await.ok()["data"]["k"], "1");
}

#[tokio::test]
async fn bodies_that_cannot_be_taken_are_refused() {
    let bench = bench().await;
    let post = |media: &'static str, body: Vec<u8>| bench.call("POST", CONFIG_MAPS, media, body);
    assert_eq!(
        post("application/json", b"{".to_vec()).await.refusal(),
        (400, "unexpected end of JSON input")
    );
    assert_eq!(post("application/vnd.kubernetes.protobuf", b"k8s".to_vec()).await.code, 400);
    assert_eq!(post("application/cbor", b"x".to_vec()).await.code, 415);
    assert_eq!(post("application/json", vec![b' '; 3 * 1024 * 1024 + 1]).await.code, 413);
    assert_eq!(post("application/json", b"[]".to_vec()).await.code, 400);
    assert_eq!(post("application/json", b"{\"kind\":\"Pod\"}".to_vec()).await.code, 400);
    let yaml = "metadata:\n  name: y\ndata:\n  k: v\n";
    assert_eq!(post("application/yaml", yaml.into()).await.ok()["data"]["k"], "v");
    let wrong = post("application/json", br#"{"metadata":{"name":"z"},"data":{"k":1}}"#.to_vec()).await;
    assert_eq!(wrong.code, 400);
    assert!(
        wrong.body["message"]
            .as_str()
            .unwrap()
            .starts_with("ConfigMap in version \"v1\" cannot be handled as a ConfigMap")
    );
}

#[tokio::test]
async fn an_object_needs_its_namespace() {
    let bench = bench().await;
    let nowhere = bench.post("/api/v1/namespaces/nowhere/configmaps", config_map("a", json!({}))).await;
    assert_eq!(nowhere.refusal(), (404, r#"namespaces "nowhere" not found"#));
    let mut elsewhere = config_map("a", json!({}));
    elsewhere["metadata"]["namespace"] = "kube-system".into();
    assert_eq!(bench.post(CONFIG_MAPS, elsewhere).await.code, 400);
    assert_eq!(bench.post("/api/v1/configmaps", config_map("a", json!({}))).await.code, 405);
}

#[tokio::test]
async fn a_namespace_ends_in_two_steps() {
    let bench = bench().await;
    let made = bench.post("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await.ok();
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(made["status"]["phase"], "Active");
    let going = bench.delete("/api/v1/namespaces/n", Value::Null).await.ok();
    assert_eq!(going["status"]["phase"], "Terminating");
    let refused = bench.post("/api/v1/namespaces/n/configmaps", config_map("a", json!({}))).await;
    assert_eq!(
        refused.refusal(),
        (
            403,
            r#"configmaps "a" is forbidden: unable to create new content in namespace n because it is being terminated"#
        )
    );
    let mut last = going.clone();
    last["spec"] = json!({});
    bench.put("/api/v1/namespaces/n/finalize", last).await.ok();
    assert_eq!(bench.get("/api/v1/namespaces/n").await.code, 404);
    assert_eq!(bench.delete("/api/v1/namespaces/default", Value::Null).await.code, 403);
}

#[tokio::test]
async fn a_finalizer_holds_its_object() {
    let bench = bench().await;
    let path = format!("{CONFIG_MAPS}/a");
    let mut object = config_map("a", json!({}));
    object["metadata"]["finalizers"] = json!(["x.dev/hold"]);
    bench.post(CONFIG_MAPS, object).await.ok();
    let going = bench.delete(&path, Value::Null).await.ok();
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let more = bench.merge(&path, json!({"metadata": {"finalizers": ["x.dev/hold", "y.dev/more"]}})).await;
    assert_eq!(more.code, 422);
    assert!(more.body["message"].as_str().unwrap().contains("no new finalizers can be added"));
    assert_eq!(bench.get(&path).await.code, 200);
    bench.merge(&path, json!({"metadata": {"finalizers": null}})).await.ok();
    assert_eq!(bench.get(&path).await.code, 404);
}

#[tokio::test]
async fn propagation_becomes_a_finalizer() {
    let bench = bench().await;
    bench.post(DEPLOYMENTS, deployment("a", 1)).await.ok();
    let going =
        bench.delete(&format!("{DEPLOYMENTS}/a"), json!({"propagationPolicy": "Foreground"})).await.ok();
    assert_eq!(going["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let wrong = bench.delete(&format!("{DEPLOYMENTS}/a"), json!({"preconditions": {"uid": "x"}})).await;
    assert_eq!(wrong.code, 409);
}

#[tokio::test]
async fn a_bound_pod_ends_gracefully() {
    let bench = bench().await;
    let made = bench.post(PODS, pod("p")).await.ok();
    assert!(made["metadata"]["annotations"]["hitless.dev/created-at"].is_string());
    assert_eq!(made["status"]["phase"], "Pending");
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(made["spec"]["priority"], 0);
    let path = format!("{PODS}/p");
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(bench.post(&format!("{path}/binding"), binding.clone()).await.code, 201);
    let again = bench.post(&format!("{path}/binding"), binding).await;
    assert_eq!(again.code, 409);
    assert!(again.body["message"].as_str().unwrap().ends_with(r#"pod p is already assigned to node "n1""#));
    let going = bench.delete(&path, Value::Null).await.ok();
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(going["metadata"]["annotations"]["hitless.dev/deleted-at"].is_string());
    let second = bench.delete(&path, json!({"gracePeriodSeconds": 60})).await.ok();
    assert_eq!(second["metadata"], going["metadata"]);
    let shorter = bench.delete(&path, json!({"gracePeriodSeconds": 5})).await.ok();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let uid = going["metadata"]["uid"].as_str().unwrap();
    let last = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
    let last = bench.delete(&path, last).await.ok();
    assert_eq!(last["kind"], "Pod");
    assert_eq!(bench.get(&path).await.code, 404);
}

#[tokio::test]
async fn a_pod_without_a_node_goes_at_once() {
    let bench = bench().await;
    bench.post(PODS, pod("p")).await.ok();
    assert_eq!(bench.delete(&format!("{PODS}/p"), Value::Null).await.ok()["kind"], "Pod");
    assert_eq!(bench.get(&format!("{PODS}/p")).await.code, 404);
}

#[tokio::test]
async fn a_service_gets_an_address_of_its_own() {
    let bench = bench().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, ip: &str| {
        let mut service =
            json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "selector": {"app": "a"}}});
        if !ip.is_empty() {
            service["spec"]["clusterIP"] = ip.into();
        }
        service
    };
    let made = bench.post(path, service("a", "")).await.ok();
    let ip = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10.96."), "{ip}");
    assert_eq!(made["spec"]["clusterIPs"], json!([ip]));
    let taken = bench.post(path, service("b", &ip)).await;
    assert_eq!(taken.code, 422);
    assert!(
        taken.body["message"].as_str().unwrap().contains("provided IP is already allocated"),
        "{}",
        taken.body
    );
    assert_eq!(bench.post(path, service("b", "192.168.0.1")).await.code, 422);
    assert_eq!(bench.post(path, service("none", "None")).await.ok()["spec"]["clusterIP"], "None");
    let replaced = bench.put(&format!("{path}/a"), service("a", "")).await.ok();
    assert_eq!(replaced["spec"]["clusterIP"], json!(ip));
    bench.delete(&format!("{path}/a"), Value::Null).await.ok();
    assert_eq!(bench.post(path, service("b", &ip)).await.ok()["spec"]["clusterIP"], json!(ip));
}

#[tokio::test]
async fn pages_walk_through_all_and_a_watch_goes_on_from_there() {
    let bench = bench().await;
    for i in 0..7 {
        bench.post(CONFIG_MAPS, config_map(&format!("c{i}"), json!({}))).await.ok();
    }
    let first = bench.get(&format!("{CONFIG_MAPS}?limit=3")).await.ok();
    assert_eq!(first["items"].as_array().unwrap().len(), 3);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    assert_eq!(first["kind"], "ConfigMapList");
    bench.post(CONFIG_MAPS, config_map("c00", json!({}))).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = bench.get(&format!("{CONFIG_MAPS}?limit=30&continue={token}")).await.ok();
    assert_eq!(second["items"].as_array().unwrap().len(), 4);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert!(second["metadata"].get("continue").is_none());
    let from = second["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = bench.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}")).await;
    assert_eq!(events.brief().await, ("ADDED".into(), "c00".into()));
    assert_eq!(bench.get(&format!("{CONFIG_MAPS}?continue=nonsense")).await.code, 400);
}

#[tokio::test]
async fn selectors_choose() {
    let bench = bench().await;
    for (name, app) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let mut object = pod(name);
        object["metadata"]["labels"]["app"] = app.into();
        bench.post(PODS, object).await.ok();
    }
    let names = async |query: &str| -> Vec<String> {
        let list = bench.get(&format!("{PODS}?{query}")).await.ok();
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("labelSelector=app%3Dx").await, ["a", "c"]);
    assert_eq!(names("labelSelector=app%3Dx&limit=1").await, ["a"]);
    assert_eq!(names("fieldSelector=metadata.name%3Db").await, ["b"]);
    assert_eq!(names("fieldSelector=spec.nodeName%3D,status.phase%3DPending").await, ["a", "b", "c"]);
    assert_eq!(bench.get(&format!("{PODS}?fieldSelector=spec.nonsense%3Db")).await.code, 400);
    assert_eq!(bench.get(&format!("{PODS}?labelSelector=%3D%3D")).await.code, 400);
    let deleted = bench.delete(&format!("{PODS}?labelSelector=app%3Dx"), Value::Null).await.ok();
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    assert_eq!(names("").await, ["b"]);
}

#[tokio::test]
async fn a_table_has_cells_and_metadata() {
    let bench = bench().await;
    bench.post(PODS, pod("p")).await.ok();
    let request = axum::http::Request::get(PODS)
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .body(axum::body::Body::empty())
        .unwrap();
    let response = bench.send(request).await;
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    let table: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "p");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

#[tokio::test]
async fn a_scale_is_read_and_written() {
    let bench = bench().await;
    bench.post(DEPLOYMENTS, deployment("a", 1)).await.ok();
    let path = format!("{DEPLOYMENTS}/a/scale");
    let scale = bench.get(&path).await.ok();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(1)));
    assert_eq!(scale["status"]["selector"], "app=a");
    assert_eq!(bench.merge(&path, json!({"spec": {"replicas": 5}})).await.ok()["spec"]["replicas"], 5);
    let stale = bench.put(&path, scale).await;
    assert_eq!(stale.code, 409);
    let object = bench.get(&format!("{DEPLOYMENTS}/a")).await.ok();
    assert_eq!((&object["spec"]["replicas"], &object["metadata"]["generation"]), (&json!(5), &json!(2)));
}

#[tokio::test]
async fn an_ingress_gets_the_default_class() {
    let bench = bench().await;
    let ingresses = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let ingress = |name: &str| json!({"metadata": {"name": name}, "spec": {"defaultBackend": backend}});
    let own = bench.post(ingresses, ingress("own")).await.ok();
    assert_eq!(own["spec"]["ingressClassName"], "hitless", "a cluster has a class from the beginning");
    bench.delete("/apis/networking.k8s.io/v1/ingressclasses/hitless", json!({})).await.ok();
    let none = bench.post(ingresses, ingress("a")).await.ok();
    assert_eq!(none["spec"].get("ingressClassName"), None);
    for name in ["second", "first"] {
        let annotations = json!({"ingressclass.kubernetes.io/is-default-class": "true"});
        let class =
            json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"controller": "a.b/c"}});
        bench.post("/apis/networking.k8s.io/v1/ingressclasses", class).await.ok();
    }
    let given = bench.post(ingresses, ingress("b")).await.ok();
    assert!(matches!(given["spec"]["ingressClassName"].as_str(), Some("first" | "second")), "{given}");
    assert_eq!(
        (&given["metadata"]["generation"], &given["status"]),
        (&json!(1), &json!({"loadBalancer": {}}))
    );
    let mut own = ingress("c");
    own["spec"]["ingressClassName"] = "mine".into();
    assert_eq!(bench.post(ingresses, own).await.ok()["spec"]["ingressClassName"], "mine");
    let path = format!("{ingresses}/b");
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}});
    bench.merge(&format!("{path}/status"), status).await.ok();
    assert_eq!(bench.get(&path).await.ok()["status"]["loadBalancer"]["ingress"][0]["ip"], "10.0.0.1");
}
