//! An API in memory: lists, watches, and the writes that the controllers of the loop make.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

pub const PATIENCE: Duration = Duration::from_secs(20);

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

#[derive(Default)]
struct State {
    revision: u64,
    /// By plural name, then by object name.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    /// Revision, plural name, watch event, in the order in which watches show them.
    history: Vec<(u64, String, Value)>,
    /// Method and path of each write.
    writes: Vec<String>,
    names: u32,
}

/// The API. Clones share it.
#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    /// Length of the history.
    news: Arc<watch::Sender<usize>>,
    /// Watches of this plural name show everything so much later.
    pub lag: (&'static str, Duration),
}

impl Fake {
    pub fn new() -> Self {
        Self { state: Arc::default(), news: Arc::new(watch::Sender::new(0)), lag: ("", Duration::ZERO) }
    }

    /// Writes an object as somebody else than the controllers; gives its revision.
    pub fn put(&self, plural: &str, mut object: Value) -> u64 {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        let revision = state.revision;
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        let before = state.objects.entry(plural.to_owned()).or_default().insert(name, object.clone());
        let type_ = if before.is_some() { "MODIFIED" } else { "ADDED" };
        state.history.push((revision, plural.to_owned(), json!({"type": type_, "object": object})));
        self.news.send_replace(state.history.len());
        revision
    }

    /// A consumer's word: volatile, so the object's revision stays.
    pub fn say(&self, consumer: &str, revision: u64) {
        let mut state = self.state.lock().unwrap();
        let at = state.revision;
        let object = state.objects.get_mut("endpointconsumers").unwrap().get_mut(consumer).unwrap();
        let incarnation = object["spec"]["incarnation"].clone();
        object["status"] = json!({"observedRevision": revision, "incarnation": incarnation});
        let event = json!({"type": "MODIFIED", "object": object});
        state.history.push((at, "endpointconsumers".to_owned(), event));
        self.news.send_replace(state.history.len());
    }

    pub fn delete(&self, plural: &str, name: &str) {
        let mut state = self.state.lock().unwrap();
        let Some(mut object) = state.objects.get_mut(plural).and_then(|all| all.remove(name)) else { return };
        state.revision += 1;
        let revision = state.revision;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        state.history.push((revision, plural.to_owned(), json!({"type": "DELETED", "object": object})));
        self.news.send_replace(state.history.len());
    }

    pub fn get(&self, plural: &str, name: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(plural)?.get(name).cloned()
    }

    pub fn all(&self, plural: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        state.objects.get(plural).map(|all| all.values().cloned().collect()).unwrap_or_default()
    }

    pub fn writes(&self) -> Vec<String> {
        self.state.lock().unwrap().writes.clone()
    }

    /// Status, reason and message of a Pod's condition.
    pub fn condition(&self, pod: &str, type_: &str) -> Option<(String, String, String)> {
        let pod = self.get("pods", pod)?;
        let one = pod["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == type_)?.clone();
        let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
        Some((text("status"), text("reason"), text("message")))
    }

    pub fn is(&self, pod: &str, type_: &str, status: &str, reason: &str) -> bool {
        self.condition(pod, type_).is_some_and(|(s, r, _)| s == status && r == reason)
    }

    pub fn events(&self, reason: &str) -> Vec<Value> {
        self.all("events").into_iter().filter(|event| event["reason"] == reason).collect()
    }

    /// Waits until `holds`, looking again after each change.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let mut news = self.news.subscribe();
        let wait = async {
            while !holds(self) {
                news.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!(
                "not in time: {what}\npods: {:#?}\nslices: {:#?}",
                self.all("pods"),
                self.all("endpointslices")
            );
        }
    }

    pub async fn answer(self, request: Request<Body>) -> Result<Answer, Infallible> {
        let (path, method) = (request.uri().path().to_owned(), request.method().clone());
        let query = request.uri().query().unwrap_or_default().to_owned();
        let parameter = |name: &str| query.split('&').filter_map(|p| p.split_once('=')).find(|p| p.0 == name);
        let body = request.into_body().collect_bytes().await.unwrap();
        let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
        // /api/v1/... or /apis/GROUP/VERSION/...
        let skip = if path.starts_with("/apis/") { 4 } else { 3 };
        let mut parts: Vec<&str> = path.split('/').skip(skip).collect();
        if parts.len() > 2 && parts[0] == "namespaces" {
            parts.drain(..2);
        }
        if method != Method::GET && parts[0] != "events" {
            self.state.lock().unwrap().writes.push(format!("{method} {}", parts.join("/")));
        }
        let answer = match (&method, &parts[..]) {
            (&Method::GET, [plural]) if parameter("watch").is_some() => {
                let after = parameter("resourceVersion").unwrap().1.parse().unwrap();
                return Ok(self.watch((*plural).to_owned(), after));
            }
            (&Method::GET, [plural]) => {
                let revision = self.state.lock().unwrap().revision.to_string();
                Ok(
                    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": revision}, "items": self.all(plural)}),
                )
            }
            (&Method::POST, [plural]) => self.create(plural, sent),
            (&Method::PUT, [plural, name]) => self.replace(plural, name, sent),
            (&Method::PATCH, ["pods", name, "status"]) => self.patch_conditions(name, &sent),
            (&Method::DELETE, [plural, name]) => {
                self.delete(plural, name);
                Ok(json!({"apiVersion": "v1", "kind": "Status", "status": "Success", "code": 200}))
            }
            other => panic!("{other:?}"),
        };
        let (code, value) = answer.map_or_else(
            |code| (code, json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "message": "refused", "reason": "Refused"})),
            |value| (200, value),
        );
        let body = http_body_util::Full::new(Bytes::from(value.to_string())).boxed_unsync();
        Ok(Response::builder().status(code).header("content-type", "application/json").body(body).unwrap())
    }

    fn create(&self, plural: &str, mut object: Value) -> Result<Value, u16> {
        let name = match object["metadata"]["name"].as_str() {
            Some(name) => name.to_owned(),
            None => {
                let mut state = self.state.lock().unwrap();
                state.names += 1;
                format!("{}{:05}", object["metadata"]["generateName"].as_str().unwrap(), state.names)
            }
        };
        if self.get(plural, &name).is_some() {
            return Err(409);
        }
        object["metadata"]["name"] = json!(name);
        self.put(plural, object);
        self.get(plural, &name).ok_or(404)
    }

    fn replace(&self, plural: &str, name: &str, object: Value) -> Result<Value, u16> {
        let held = self.get(plural, name).ok_or(404_u16)?;
        if held["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return Err(409);
        }
        self.put(plural, object);
        self.get(plural, name).ok_or(404)
    }

    /// A strategic merge of conditions by type.
    fn patch_conditions(&self, name: &str, sent: &Value) -> Result<Value, u16> {
        let mut pod = self.get("pods", name).ok_or(404_u16)?;
        if sent["metadata"]["uid"] != pod["metadata"]["uid"] {
            return Err(409);
        }
        let conditions = pod["status"]["conditions"].as_array_mut().unwrap();
        for new in sent["status"]["conditions"].as_array().unwrap() {
            assert!(new["lastTransitionTime"].is_string());
            conditions.retain(|old| old["type"] != new["type"]);
            conditions.push(new.clone());
        }
        self.put("pods", pod);
        self.get("pods", name).ok_or(404)
    }

    fn watch(&self, plural: String, after: u64) -> Answer {
        let shown = self.state.lock().unwrap().history.iter().take_while(|(at, ..)| *at <= after).count();
        let lag = if plural == self.lag.0 { self.lag.1 } else { Duration::ZERO };
        let start = (self.clone(), self.news.subscribe(), shown);
        let stream = futures::stream::unfold(start, move |(fake, mut news, shown)| {
            let plural = plural.clone();
            async move {
                loop {
                    let now = *news.borrow_and_update();
                    if now > shown {
                        let lines: String = fake.state.lock().unwrap().history[shown..now]
                            .iter()
                            .filter(|(_, kind, _)| *kind == plural)
                            .map(|(_, _, event)| format!("{event}\n"))
                            .collect();
                        if !lag.is_zero() {
                            tokio::time::sleep(lag).await;
                        }
                        return Some((Ok(hyper::body::Frame::data(Bytes::from(lines))), (fake, news, now)));
                    }
                    news.changed().await.ok()?;
                }
            }
        });
        let body = StreamBody::new(stream.boxed()).boxed_unsync();
        Response::builder().header("content-type", "application/json").body(body).unwrap()
    }
}
