//! That a run cleans up after itself however it ends, against an API server that only says what it was asked.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    future::pending,
    sync::{Mutex, MutexGuard, PoisonError},
};

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use tower::service_fn;

use super::*;
use crate::{OneCluster, Silent, undo::Undo};

/// Holds namespaces, has nodes, and takes down what was asked. A Service it never answers.
#[derive(Default)]
struct Fake {
    namespaces: BTreeSet<String>,
    asked: Vec<String>,
}

fn lock(fake: &Mutex<Fake>) -> MutexGuard<'_, Fake> {
    fake.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fake {
    fn answer(&mut self, method: &Method, path: &str, body: &Value) -> (StatusCode, Value) {
        self.asked.push(format!(
            "{method} {path} {}",
            if body.is_null() { String::new() } else { body.to_string() }
        ));
        let last = path.rsplit('/').next().unwrap_or_default().to_owned();
        let metadata = json!({"metadata": {"name": last}});
        match (method.as_str(), path) {
            ("POST", "/api/v1/namespaces") => {
                self.namespaces.insert(body["metadata"]["name"].as_str().unwrap_or_default().to_owned());
                (StatusCode::CREATED, body.clone())
            }
            ("DELETE", _) if self.namespaces.remove(&last) => (StatusCode::OK, metadata),
            ("GET", "/api/v1/nodes") => {
                let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
                let node = |name| json!({"metadata": {"name": name}, "status": status});
                (StatusCode::OK, json!({"metadata": {"resourceVersion": "1"}, "items": [node("node-1")]}))
            }
            ("GET", path) if path.ends_with("/pods") => {
                (StatusCode::OK, json!({"metadata": {"resourceVersion": "1"}, "items": []}))
            }
            ("PATCH", _) => (StatusCode::OK, metadata),
            _ => (StatusCode::NOT_FOUND, json!({"kind": "Status", "code": 404, "message": "no such thing"})),
        }
    }
}

fn cluster() -> (Client, Arc<Mutex<Fake>>) {
    let fake = Arc::new(Mutex::new(Fake::default()));
    let shared = Arc::clone(&fake);
    let service = service_fn(move |request: Request<Body>| {
        let fake = Arc::clone(&shared);
        async move {
            let (parts, body) = request.into_parts();
            if parts.uri.path().ends_with("/services")
                || parts.uri.query().is_some_and(|q| q.contains("watch=true"))
            {
                lock(&fake).asked.push(format!("{} {}", parts.method, parts.uri.path()));
                return pending().await;
            }
            let body = body.collect_bytes().await.unwrap_or_default();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let (status, answer) = lock(&fake).answer(&parts.method, parts.uri.path(), &body);
            let response =
                Response::builder().status(status).body(Body::from(answer.to_string().into_bytes()));
            Ok::<_, Infallible>(response.unwrap())
        }
    });
    (Client::new(service, "default"), fake)
}

fn options(scenario: Scenario) -> Options {
    Options { scenarios: vec![scenario], ..Options::default() }
}

#[tokio::test]
async fn a_cancelled_run_takes_its_namespace_away() {
    let (client, fake) = cluster();
    let cancel = CancellationToken::new();
    let (mut one, options) = (OneCluster(client), options(Scenario::Delete));
    let run = run(&mut one, &options, Arc::new(Silent), &cancel);
    let cancel_when_stuck = async {
        while !lock(&fake).asked.iter().any(|asked| asked.contains("POST") && asked.ends_with("/services")) {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(lock(&fake).namespaces.len(), 1);
        cancel.cancel();
    };
    let (result, ()) =
        timeout(Duration::from_secs(10), futures::future::join(run, cancel_when_stuck)).await.unwrap();
    assert!(matches!(result, Err(ProveError::Cancelled)), "{result:?}");
    assert!(lock(&fake).namespaces.is_empty());
}

#[tokio::test]
async fn a_scenario_that_cannot_be_carried_out_fails_with_its_reason_and_cleans_up() {
    let (client, fake) = cluster();
    let cancel = CancellationToken::new();
    let report =
        run(&mut OneCluster(client), &options(Scenario::Drain), Arc::new(Silent), &cancel).await.unwrap();
    assert!(!report.passed());
    assert_eq!(report.scenarios[0].problems[0], "needs 2 nodes that are Ready and schedulable, found 1");
    assert!(lock(&fake).namespaces.is_empty());
}

#[tokio::test]
async fn a_comparison_needs_a_cluster_that_can_be_switched() {
    let (client, _) = cluster();
    let options = Options { scenarios: Vec::new(), compare: true, ..Options::default() };
    let error = run(&mut OneCluster(client), &options, Arc::new(Silent), &CancellationToken::new())
        .await
        .unwrap_err();
    assert!(hitless_base::chain(&error).contains("--kubeconfig"), "{error}");
}

#[tokio::test]
async fn what_was_done_to_the_cluster_is_undone_once() {
    let (client, fake) = cluster();
    let undos = Undos::default();
    undos.add(Undo::RemoveLag("service-proxy-node-1".to_owned()));
    undos.add(Undo::Uncordon("node-1".to_owned()));
    assert_eq!(undos.run_all(&client).await, Vec::<String>::new());
    assert_eq!(undos.run_all(&client).await, Vec::<String>::new());
    let asked = lock(&fake).asked.clone();
    assert_eq!(
        asked,
        [
            r#"PATCH /api/v1/nodes/node-1 {"spec":{"unschedulable":false}}"#,
            concat!(
                "PATCH /apis/hitless.dev/v1alpha1/endpointconsumers/service-proxy-node-1 ",
                r#"{"metadata":{"annotations":{"hitless.dev/fault-lag":null}}}"#
            ),
        ]
    );
}

/// The binary may run this as a task of its own.
#[test]
fn a_run_can_be_spawned() {
    fn spawnable<F: Future + Send>(_: impl FnOnce(OneCluster) -> F) {}
    spawnable(|mut cluster: OneCluster| async move {
        let cancel = CancellationToken::new();
        run(&mut cluster, &Options::default(), Arc::new(Silent), &cancel).await
    });
}
