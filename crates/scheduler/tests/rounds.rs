//! The whole scheduler against an API in memory: lists, watches, bindings, conditions, Events.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use hitless_base::SystemClock;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct State {
    revision: u64,
    /// By plural name, then by object name.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    /// Revision, plural name, watch event.
    history: Vec<(u64, String, Value)>,
    bindings: Vec<(String, String)>,
    /// Bindings that were asked for, whatever became of them.
    asked: usize,
    /// How many bindings are refused before one is taken.
    refusals: usize,
}

/// The API in memory. Clones share it.
#[derive(Clone)]
struct Fake {
    state: Arc<Mutex<State>>,
    revision: Arc<watch::Sender<u64>>,
    /// While false, bindings are not answered.
    answering: Arc<watch::Sender<bool>>,
}

impl Fake {
    fn new() -> Self {
        Self {
            state: Arc::default(),
            revision: Arc::new(watch::Sender::new(0)),
            answering: Arc::new(watch::Sender::new(true)),
        }
    }

    fn put(&self, plural: &str, mut object: Value) {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        let revision = state.revision;
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        let before = state.objects.entry(plural.to_owned()).or_default().insert(name, object.clone());
        let type_ = if before.is_some() { "MODIFIED" } else { "ADDED" };
        state.history.push((revision, plural.to_owned(), json!({"type": type_, "object": object})));
        self.revision.send_replace(revision);
    }

    fn delete(&self, plural: &str, name: &str) {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        let revision = state.revision;
        let mut object = state.objects.get_mut(plural).unwrap().remove(name).unwrap();
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        state.history.push((revision, plural.to_owned(), json!({"type": "DELETED", "object": object})));
        self.revision.send_replace(revision);
    }

    fn get(&self, plural: &str, name: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(plural)?.get(name).cloned()
    }

    fn all(&self, plural: &str) -> Vec<Value> {
        self.state
            .lock()
            .unwrap()
            .objects
            .get(plural)
            .map(|all| all.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Waits until `holds`, looking again after each change.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let mut revision = self.revision.subscribe();
        let wait = async {
            while !holds(self) {
                revision.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
    }

    async fn answer(
        self,
        request: Request<Body>,
    ) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
        let path = request.uri().path().to_owned();
        let query: BTreeMap<String, String> = request
            .uri()
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let method = request.method().clone();
        let body = request.into_body().collect_bytes().await.unwrap();
        let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
        let parts: Vec<&str> = path.trim_start_matches("/api/v1/").split('/').collect();
        let answer = match (&method, &parts[..]) {
            (&Method::GET, [plural]) if query.contains_key("watch") => {
                let after = query.get("resourceVersion").unwrap().parse().unwrap();
                return Ok(self.watch((*plural).to_owned(), after));
            }
            (&Method::GET, [plural]) => {
                let state = self.state.lock().unwrap();
                let items: Vec<_> =
                    state.objects.get(*plural).iter().flat_map(|all| all.values()).cloned().collect();
                let revision = state.revision.to_string();
                Ok(
                    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": revision}, "items": items}),
                )
            }
            (&Method::POST, ["namespaces", _, "pods", name, "binding"]) => self.bind(name, &sent).await,
            (&Method::POST, ["namespaces", _, "events"]) => {
                self.put("events", sent.clone());
                Ok(sent)
            }
            (&Method::PATCH, ["namespaces", _, "pods", name, "status"]) => {
                let mut pod = self.get("pods", name).unwrap();
                assert_eq!(sent["metadata"]["uid"], pod["metadata"]["uid"]);
                pod["status"]["conditions"] = sent["status"]["conditions"].clone();
                self.put("pods", pod.clone());
                Ok(pod)
            }
            other => panic!("{other:?}"),
        };
        let (code, value) = match answer {
            Ok(value) => (200, value),
            Err(code) => (
                code,
                json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code,
                "message": "refused", "reason": "Refused"}),
            ),
        };
        let body = http_body_util::Full::new(Bytes::from(value.to_string())).boxed_unsync();
        Ok(Response::builder().status(code).header("content-type", "application/json").body(body).unwrap())
    }

    fn watch(&self, plural: String, after: u64) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let start = (self.clone(), self.revision.subscribe(), after);
        let stream = futures::stream::unfold(start, move |(fake, mut revision, after)| {
            let plural = plural.clone();
            async move {
                loop {
                    let now = *revision.borrow_and_update();
                    if now > after {
                        let lines: String = fake
                            .state
                            .lock()
                            .unwrap()
                            .history
                            .iter()
                            .filter(|(at, kind, _)| *at > after && *at <= now && *kind == plural)
                            .map(|(_, _, event)| format!("{event}\n"))
                            .collect();
                        let frame = hyper::body::Frame::data(Bytes::from(lines));
                        return Some((Ok(frame), (fake, revision, now)));
                    }
                    revision.changed().await.ok()?;
                }
            }
        });
        let body = StreamBody::new(stream.boxed()).boxed_unsync();
        Response::builder().header("content-type", "application/json").body(body).unwrap()
    }

    async fn bind(&self, name: &str, binding: &Value) -> Result<Value, u16> {
        self.state.lock().unwrap().asked += 1;
        self.revision.send_modify(|_| {});
        self.answering.subscribe().wait_for(|answering| *answering).await.unwrap();
        let mut pod = self.get("pods", name).ok_or(404_u16)?;
        {
            let mut state = self.state.lock().unwrap();
            if state.refusals > 0 {
                state.refusals -= 1;
                return Err(500);
            }
            let node = binding["target"]["name"].as_str().unwrap().to_owned();
            assert_eq!(binding["metadata"]["uid"], pod["metadata"]["uid"]);
            if !pod["spec"]["nodeName"].is_null() {
                return Err(409);
            }
            pod["spec"]["nodeName"] = json!(node);
            state.bindings.push((name.to_owned(), node));
        }
        self.put("pods", pod);
        Ok(json!({"apiVersion": "v1", "kind": "Status", "status": "Success", "code": 201}))
    }

    fn node_of(&self, pod: &str) -> Option<String> {
        self.get("pods", pod)?["spec"]["nodeName"].as_str().map(str::to_owned)
    }

    fn events(&self, reason: &str) -> Vec<String> {
        let events = self.all("events");
        let of = events.iter().filter(|event| event["reason"] == reason);
        of.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
    }

    fn start(&self) -> Running {
        let fake = self.clone();
        let service = tower::service_fn(move |request| fake.clone().answer(request));
        let client = kube::Client::new(service, "default");
        let cancel = CancellationToken::new();
        let task = tokio::spawn(hitless_scheduler::run(client, Arc::new(SystemClock), cancel.clone()));
        Running { cancel, task }
    }
}

struct Running {
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn stop(self) {
        self.cancel.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends when told to").unwrap();
    }
}

fn node(name: &str, cpu: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {
            "allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bindings_under_way_count_so_that_nodes_fill_and_never_overfill() {
    let fake = Fake::new();
    fake.put("nodes", node("a", "1"));
    fake.put("nodes", node("b", "1"));
    fake.answering.send_replace(false);
    let running = fake.start();
    let put = |numbers: std::ops::Range<u32>| {
        numbers.for_each(|number| fake.put("pods", pod(&format!("p{number}"), "100m")));
    };
    put(0..8);
    fake.until("all are asked for at once", |fake| fake.state.lock().unwrap().asked == 8).await;
    // Planned while not one of the first is bound.
    put(8..25);
    fake.until("5 are told why not", |fake| fake.events("FailedScheduling").len() >= 5).await;
    fake.until("the others are asked for", |fake| fake.state.lock().unwrap().asked >= 20).await;
    fake.answering.send_replace(true);
    fake.until("20 are placed", |fake| fake.state.lock().unwrap().bindings.len() >= 20).await;
    fake.until("20 are told", |fake| fake.events("Scheduled").len() >= 20).await;
    running.stop().await;
    let state = fake.state.lock().unwrap();
    assert_eq!((state.asked, state.bindings.len()), (20, 20), "two nodes have room for ten each");
    assert_eq!(state.bindings.iter().filter(|(_, node)| node == "a").count(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_without_room_says_why_and_is_placed_when_room_is_made() {
    let fake = Fake::new();
    fake.put("nodes", node("a", "1"));
    fake.put("pods", pod("first", "800m"));
    let running = fake.start();
    fake.until("the first is placed", |fake| fake.node_of("first").is_some()).await;
    fake.put("pods", pod("second", "800m"));
    let words = "0/1 nodes are available: 1 Insufficient cpu.";
    fake.until("the condition says why", |fake| {
        let condition = fake.get("pods", "second").unwrap()["status"]["conditions"][0].clone();
        condition["type"] == "PodScheduled"
            && condition["status"] == "False"
            && condition["reason"] == "Unschedulable"
            && condition["message"] == words
    })
    .await;
    fake.until("an Event says why", |fake| fake.events("FailedScheduling") == [words]).await;
    // Another scheduler's, and so left alone.
    let mut foreign = pod("foreign", "1m");
    foreign["spec"]["schedulerName"] = json!("other");
    fake.put("pods", foreign);
    fake.delete("pods", "first");
    fake.until("the second is placed", |fake| fake.node_of("second").is_some()).await;
    fake.until("its Event is there", |fake| {
        fake.events("Scheduled").contains(&"Successfully assigned ns/second to a".to_owned())
    })
    .await;
    assert_eq!(fake.node_of("foreign"), None);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_binding_gives_its_room_back_and_is_tried_again() {
    let fake = Fake::new();
    fake.put("nodes", node("a", "1"));
    fake.state.lock().unwrap().refusals = 1;
    fake.put("pods", pod("refused", "800m"));
    let running = fake.start();
    fake.until("the refusal is told", |fake| fake.events("FailedScheduling").len() == 1).await;
    assert!(fake.events("FailedScheduling")[0].starts_with("binding rejected: "));
    fake.until("it is placed", |fake| fake.node_of("refused").is_some()).await;
    assert_eq!(fake.state.lock().unwrap().refusals, 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_again_continues_from_what_is() {
    let fake = Fake::new();
    fake.put("nodes", node("a", "1"));
    fake.put("pods", pod("first", "600m"));
    let running = fake.start();
    fake.until("the first is placed", |fake| fake.node_of("first").is_some()).await;
    running.stop().await;
    fake.put("pods", pod("second", "600m"));
    fake.put("pods", pod("third", "300m"));
    let running = fake.start();
    fake.until("what fits is placed", |fake| fake.node_of("third").is_some()).await;
    fake.until("what does not is told", |fake| !fake.events("FailedScheduling").is_empty()).await;
    assert_eq!(fake.node_of("second"), None);
    assert_eq!(fake.state.lock().unwrap().bindings.len(), 2);
    running.stop().await;
}
