//! What the tests share: a server over the real store in a directory of its own, and a client that sees codes and bodies.

#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request, response::Response};
use futures::StreamExt;
use hitless_apiserver::{ApiServer, Identity, Options};
use hitless_store::{Embedded, Store};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

/// A server, its store and its directory.
pub struct Bench {
    pub server: ApiServer,
    pub store: Arc<Embedded>,
    pub identity: Identity,
    _directory: tempfile::TempDir,
}

pub async fn bench() -> Bench {
    bench_with(Options::default()).await
}

pub async fn bench_with(options: Options) -> Bench {
    bench_over(hitless_store::Options::default(), options).await
}

pub async fn bench_over(store: hitless_store::Options, options: Options) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(directory.path(), store).unwrap());
    let server = ApiServer::new(Arc::clone(&store) as Arc<dyn Store>, options).await.unwrap();
    Bench { server, store, identity: Identity::master("test"), _directory: directory }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub warnings: Vec<String>,
}

impl Answer {
    /// The object, which the request must have given.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.code), "{}: {}", self.code, self.body);
        self.body
    }

    /// The refusal's code and words.
    pub fn refusal(&self) -> (u16, &str) {
        (self.code, self.body["message"].as_str().unwrap_or_default())
    }
}

impl Bench {
    pub fn router(&self) -> Router {
        self.server.router()
    }

    pub fn as_user(&self, identity: Identity) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { server: self.server.clone(), store: Arc::clone(&self.store), identity, _directory: directory }
    }

    pub fn store_revision(&self) -> u64 {
        self.store.revision().0
    }

    pub async fn send(&self, mut request: Request<Body>) -> Response {
        request.extensions_mut().insert(self.identity.clone());
        let answer = tokio::time::timeout(Duration::from_secs(10), self.router().oneshot(request));
        answer.await.expect("an answer in time").unwrap()
    }

    pub async fn call(&self, method: &str, path: &str, media: &str, body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !media.is_empty() {
            request = request.header("content-type", media);
        }
        let response = self.send(request.body(body.into()).unwrap()).await;
        let code = response.status().as_u16();
        let warnings = response.headers().get_all("warning").iter();
        let warnings = warnings.map(|w| w.to_str().unwrap().to_owned()).collect();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        Answer { code, body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()), warnings }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "", Body::empty()).await
    }

    pub async fn post(&self, path: &str, object: Value) -> Answer {
        self.call("POST", path, "application/json", object.to_string()).await
    }

    pub async fn put(&self, path: &str, object: Value) -> Answer {
        self.call("PUT", path, "application/json", object.to_string()).await
    }

    pub async fn merge(&self, path: &str, patch: Value) -> Answer {
        self.call("PATCH", path, "application/merge-patch+json", patch.to_string()).await
    }

    pub async fn delete(&self, path: &str, options: Value) -> Answer {
        let body = if options.is_null() { Body::empty() } else { Body::from(options.to_string()) };
        self.call("DELETE", path, "application/json", body).await
    }

    pub async fn watch(&self, path: &str) -> Events {
        self.watch_as(path, "application/json").await
    }

    pub async fn watch_as(&self, path: &str, accept: &str) -> Events {
        let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
        let response = self.send(request).await;
        assert_eq!(response.status(), 200);
        Events { body: response.into_body().into_data_stream(), rest: Vec::new() }
    }
}

/// The lines of a watch.
pub struct Events {
    body: axum::body::BodyDataStream,
    rest: Vec<u8>,
}

impl Events {
    /// The next event, which must come.
    pub async fn next(&mut self) -> Value {
        self.next_or_end().await.expect("an event and not the end")
    }

    /// The next event, or `None` when the watch has ended.
    pub async fn next_or_end(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a JSON line"));
            }
            let more = tokio::time::timeout(Duration::from_secs(10), self.body.next());
            match more.await.expect("an event in time") {
                Some(bytes) => self.rest.extend_from_slice(&bytes.unwrap()),
                None => return None,
            }
        }
    }

    /// The next event as its type and the object's name.
    pub async fn brief(&mut self) -> (String, String) {
        let event = self.next().await;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}

pub fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "web:1"}]},
    })
}

pub fn deployment(name: &str, replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]},
            },
        },
    })
}

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
