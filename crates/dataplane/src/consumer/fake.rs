//! An API server in memory, as small as a consumer needs it, which writes down what it is told.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use hitless_base::{Clock, Timestamp};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use kube::{Client, client::Body};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Kinds that it holds, as paths name them.
const KINDS: [&str; 6] =
    ["services", "endpointslices", "endpointconsumers", "ingresses", "ingressclasses", "secrets"];

/// tokio's time, which a test can stop and move.
pub struct TestClock(tokio::time::Instant);

impl TestClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(tokio::time::Instant::now()))
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap() + self.0.elapsed()
    }
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// What the API server was told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Registered { incarnation: String },
    Listed(&'static str),
    Reported { revision: u64, incarnation: String },
}

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<(&'static str, String), Value>,
    history: Vec<(&'static str, u64, String)>,
    watchers: Vec<(&'static str, UnboundedSender<String>)>,
    said: Vec<Said>,
    refusals: VecDeque<u16>,
    /// Positions below this are gone.
    compacted: u64,
}

/// The API server. Reports wait while `gate` is held.
#[derive(Clone, Default)]
pub struct Api {
    state: Arc<Mutex<State>>,
    pub gate: Arc<tokio::sync::Mutex<()>>,
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

fn kind_of(path: &str) -> &'static str {
    KINDS.into_iter().find(|k| path.contains(k)).unwrap()
}

fn answer(code: u16, body: &Value) -> Answer {
    let body = http_body_util::Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}

fn fault(code: u16) -> Answer {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        422 => "Invalid",
        _ => "InternalError",
    };
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": "fault"});
    answer(code, &status)
}

impl Api {
    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.serve(request).await) }
        });
        Client::new(service, "default")
    }

    async fn serve(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let body = body.collect().await.unwrap().to_bytes();
        let kind = kind_of(&path);
        let name = path.split(kind).nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        if name.ends_with("/status") {
            return self.report(&serde_json::from_slice(&body).unwrap()).await;
        }
        let mut state = self.state.lock();
        match (&parts.method, name.as_str()) {
            (&Method::GET, "") if query.contains("watch=") => state.watch(kind, &query),
            (&Method::GET, "") => state.list(kind),
            (&Method::GET, name) => {
                state.objects.get(&(kind, name.to_owned())).map_or_else(|| fault(404), |o| answer(200, o))
            }
            (&Method::DELETE, name) => match state.remove(kind, name) {
                Some(object) => answer(200, &object),
                None => fault(404),
            },
            (&Method::POST | &Method::PUT, _) => {
                let object: Value = serde_json::from_slice(&body).unwrap();
                let incarnation = object["spec"]["incarnation"].as_str().unwrap().to_owned();
                state.said.push(Said::Registered { incarnation });
                let object = state.put(kind, object);
                answer(200, &object)
            }
            _ => fault(405),
        }
    }

    async fn report(&self, body: &Value) -> Answer {
        let revision = body["status"]["observedRevision"].as_u64().unwrap();
        let incarnation = body["status"]["incarnation"].as_str().unwrap().to_owned();
        self.state.lock().said.push(Said::Reported { revision, incarnation: incarnation.clone() });
        let _open = self.gate.lock().await;
        let mut state = self.state.lock();
        if let Some(code) = state.refusals.pop_front() {
            return fault(code);
        }
        let Some(object) = state.objects.values().find(|o| o["spec"]["incarnation"].is_string()).cloned()
        else {
            return fault(404);
        };
        if object["spec"]["incarnation"] != json!(incarnation) {
            return fault(409);
        }
        answer(200, &object)
    }

    /// Creates or replaces; gives the revision.
    pub fn put(&self, kind: &'static str, object: Value) -> u64 {
        let mut state = self.state.lock();
        state.put(kind, object);
        state.revision
    }

    pub fn remove(&self, kind: &'static str, name: &str) -> u64 {
        let mut state = self.state.lock();
        state.remove(kind, name);
        state.revision
    }

    pub fn get(&self, kind: &'static str, name: &str) -> Option<Value> {
        self.state.lock().objects.get(&(kind, name.to_owned())).cloned()
    }

    /// Sends a bookmark at the store's next revision.
    pub fn bookmark(&self, kind: &'static str) -> u64 {
        let mut state = self.state.lock();
        state.revision += 1;
        let revision = state.revision;
        let object =
            json!({"kind": "X", "apiVersion": "v1", "metadata": {"resourceVersion": revision.to_string()}});
        state.tell(kind, revision, &json!({"type": "BOOKMARK", "object": object}));
        revision
    }

    /// The store is set back: a lower revision, and every watch has to list anew.
    pub fn set_back(&self, revision: u64) {
        let mut state = self.state.lock();
        state.revision = revision;
        state.compacted = u64::MAX;
        state.watchers.clear();
        state.history.clear();
    }

    /// The next reports get these codes.
    pub fn refuse(&self, codes: &[u16]) {
        self.state.lock().refusals.extend(codes);
    }

    pub fn said(&self) -> Vec<Said> {
        self.state.lock().said.clone()
    }

    pub fn reports(&self) -> Vec<(u64, String)> {
        let report = |said: Said| match said {
            Said::Reported { revision, incarnation } => Some((revision, incarnation)),
            _ => None,
        };
        self.said().into_iter().filter_map(report).collect()
    }

    /// Of the one consumer that is registered.
    pub fn incarnation(&self) -> String {
        let state = self.state.lock();
        let own = state.objects.iter().find(|((of, _), _)| *of == "endpointconsumers").unwrap().1;
        own["spec"]["incarnation"].as_str().unwrap().to_owned()
    }
}

impl State {
    fn put(&mut self, kind: &'static str, mut object: Value) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let before = self.objects.insert((kind, name), object.clone());
        let event = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.tell(kind, self.revision, &json!({"type": event, "object": object}));
        object
    }

    fn remove(&mut self, kind: &'static str, name: &str) -> Option<Value> {
        let mut object = self.objects.remove(&(kind, name.to_owned()))?;
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.tell(kind, self.revision, &json!({"type": "DELETED", "object": object}));
        Some(object)
    }

    fn tell(&mut self, kind: &'static str, revision: u64, event: &Value) {
        let line = format!("{event}\n");
        self.history.push((kind, revision, line.clone()));
        self.watchers.retain(|(of, to)| *of != kind || to.send(line.clone()).is_ok());
    }

    fn list(&mut self, kind: &'static str) -> Answer {
        self.said.push(Said::Listed(kind));
        self.compacted = self.compacted.min(self.revision);
        let items: Vec<_> = self.objects.iter().filter(|((of, _), _)| *of == kind).map(|(_, o)| o).collect();
        let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": self.revision.to_string()}, "items": items});
        answer(200, &list)
    }

    fn watch(&mut self, kind: &'static str, query: &str) -> Answer {
        let from = query
            .split('&')
            .find_map(|p| p.strip_prefix("resourceVersion="))
            .and_then(|v| v.parse::<u64>().ok())
            .unwrap();
        if from < self.compacted && self.compacted == u64::MAX || from > self.revision {
            return fault(410);
        }
        let (to, from_here) = unbounded_channel();
        for (of, revision, line) in &self.history {
            if *of == kind && *revision > from {
                to.send(line.clone()).unwrap();
            }
        }
        self.watchers.push((kind, to));
        let lines =
            futures::stream::unfold(from_here, |mut lines| async move { Some((lines.recv().await?, lines)) });
        let frames = lines.map(|line| Ok(hyper::body::Frame::data(Bytes::from(line))));
        Response::builder()
            .status(200)
            .header("content-type", "application/json")
            .body(StreamBody::new(frames).boxed_unsync())
            .unwrap()
    }
}
