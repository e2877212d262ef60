//! An API in memory under a real `kube::Client`: get, list, watch, create, delete, and merge patches with conditions merged
//! by type. Just enough for a kubelet; the store's revision is one counter.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;

/// What the API holds: objects by path (`/api/v1/namespaces/ns/pods/p`).
#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    revision: u64,
    /// What a test must know of: method and path of each write.
    writes: Vec<(String, String, Value)>,
}

#[derive(Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    changes: broadcast::Sender<(String, &'static str, Value)>,
}

impl FakeApi {
    pub fn new() -> Self {
        Self { state: Arc::default(), changes: broadcast::channel(4096).0 }
    }

    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, std::convert::Infallible>(api.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Puts an object there, as another client would.
    pub fn put(&self, path: &str, object: Value) {
        self.put_locked(&mut self.state.lock(), path, object);
    }

    fn put_locked(&self, state: &mut State, path: &str, mut object: Value) {
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        let kind = if state.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        state.objects.insert(path.to_owned(), object.clone());
        let _nobody_watches = self.changes.send((path.to_owned(), kind, object));
    }

    /// Changes an object in one step, as another client would.
    pub fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state.lock();
        let mut object = state.objects.get(path).cloned().expect("the object is there");
        change(&mut object);
        self.put_locked(&mut state, path, object);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().objects.get(path).cloned()
    }

    /// Takes an object away, as a forced deletion does.
    pub fn remove(&self, path: &str) {
        let mut state = self.state.lock();
        state.revision += 1;
        let Some(mut object) = state.objects.remove(path) else { return };
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        let _nobody_watches = self.changes.send((path.to_owned(), "DELETED", object));
    }

    /// Reason and message of each Event so far, in order of writing.
    pub fn events(&self) -> Vec<(String, String)> {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let state = self.state.lock();
        let events =
            state.writes.iter().filter(|(method, path, _)| method == "POST" && path.ends_with("/events"));
        events.map(|(_, _, body)| (text(&body["reason"]), text(&body["message"]))).collect()
    }

    /// What was written to the status of the object at this path, in order.
    pub fn written(&self, path: &str) -> Vec<String> {
        let wanted = format!("{path}/status");
        let state = self.state.lock();
        state
            .writes
            .iter()
            .filter(|(_, path, _)| *path == wanted)
            .map(|(_, _, body)| body.to_string())
            .collect()
    }

    /// Number of status writes of the object at this path.
    pub fn status_writes(&self, path: &str) -> usize {
        let wanted = format!("{path}/status");
        self.state.lock().writes.iter().filter(|(_, path, _)| *path == wanted).count()
    }

    async fn answer(
        &self,
        request: Request<Body>,
    ) -> Response<http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, std::convert::Infallible>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let path = parts.uri.path().to_owned();
        let query: HashMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        if parts.method == Method::GET && query.get("watch").is_some_and(|w| w == "true") {
            return self.watch(&path, query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0));
        }
        let (code, value) = match parts.method {
            Method::GET => self.read(&path),
            Method::POST => self.create(&path, body),
            Method::PATCH => self.patch(&path, body),
            Method::DELETE => {
                self.state.lock().writes.push(("DELETE".into(), path.clone(), body));
                let there = self.get(&path);
                self.remove(&path);
                there.map_or_else(|| failure(404, "NotFound"), |object| (200, object))
            }
            _ => failure(405, "MethodNotAllowed"),
        };
        let bytes = bytes::Bytes::from(value.to_string());
        let body = http_body_util::Full::new(bytes).boxed_unsync();
        Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
    }

    fn read(&self, path: &str) -> (u16, Value) {
        let state = self.state.lock();
        if let Some(object) = state.objects.get(path) {
            return (200, object.clone());
        }
        let last = path.rsplit('/').next().unwrap_or_default();
        let kind = match last {
            "pods" => "PodList",
            "services" => "ServiceList",
            _ => return failure(404, "NotFound"),
        };
        let items: Vec<&Value> =
            state.objects.iter().filter(|(p, _)| selects(path, p)).map(|(_, o)| o).collect();
        let revision = state.revision.to_string();
        (
            200,
            json!({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": revision}, "items": items}),
        )
    }

    fn create(&self, path: &str, body: Value) -> (u16, Value) {
        let name = body["metadata"]["name"].as_str().unwrap_or_default();
        let full = format!("{path}/{name}");
        self.state.lock().writes.push(("POST".into(), path.to_owned(), body.clone()));
        if path.ends_with("/events") {
            return (201, body);
        }
        if self.get(&full).is_some() {
            return failure(409, "AlreadyExists");
        }
        self.put(&full, body);
        (201, self.get(&full).unwrap_or_default())
    }

    fn patch(&self, path: &str, body: Value) -> (u16, Value) {
        let mut state = self.state.lock();
        state.writes.push(("PATCH".into(), path.to_owned(), body.clone()));
        let object_path = path.strip_suffix("/status").unwrap_or(path);
        let Some(mut object) = state.objects.get(object_path).cloned() else {
            return failure(404, "NotFound");
        };
        let uid = &body["metadata"]["uid"];
        if !uid.is_null() && *uid != object["metadata"]["uid"] {
            return failure(409, "Conflict");
        }
        merge(&mut object, &body);
        self.put_locked(&mut state, object_path, object.clone());
        (200, object)
    }

    fn watch(
        &self,
        path: &str,
        from: u64,
    ) -> Response<http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, std::convert::Infallible>> {
        let receive = self.changes.subscribe();
        // What came between the list and this call.
        let missed: Vec<Value> = {
            let state = self.state.lock();
            let newer = |o: &&Value| {
                o["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok()).unwrap_or(0)
                    > from
            };
            let objects = state.objects.iter().filter(|(p, _)| selects(path, p)).map(|(_, o)| o);
            objects.filter(newer).map(|o| json!({"type": "MODIFIED", "object": o})).collect()
        };
        let path = path.to_owned();
        let stream = futures::stream::unfold((receive, missed), move |(mut receive, mut missed)| {
            let path = path.clone();
            async move {
                if let Some(event) = missed.pop() {
                    return Some((line(&event), (receive, missed)));
                }
                loop {
                    match receive.recv().await {
                        Ok((changed, kind, object)) if selects(&path, &changed) => {
                            return Some((line(&json!({"type": kind, "object": object})), (receive, missed)));
                        }
                        Ok(_) => {}
                        Err(_) => return None,
                    }
                }
            }
        });
        let body = http_body_util::StreamBody::new(stream).boxed_unsync();
        Response::builder().status(200).header("content-type", "application/json").body(body).unwrap()
    }
}

fn line(event: &Value) -> Result<hyper::body::Frame<bytes::Bytes>, std::convert::Infallible> {
    Ok(hyper::body::Frame::data(bytes::Bytes::from(format!("{event}\n"))))
}

/// Whether the list at `list` (of a namespace, or of all) holds the object at `object`.
fn selects(list: &str, object: &str) -> bool {
    let plural = list.rsplit('/').next().unwrap_or_default();
    let mut parts = object.rsplit('/');
    let (_name, kind) = (parts.next(), parts.next());
    kind == Some(plural)
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": reason}),
    )
}

/// Merge patch, but conditions by type, as the strategic one has it.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else if let (true, Some(new)) = (key == "conditions", value.as_array()) {
            let mut all: Vec<Value> = into[key].as_array().cloned().unwrap_or_default();
            for condition in new {
                match all.iter_mut().find(|c| c["type"] == condition["type"]) {
                    Some(old) => *old = condition.clone(),
                    None => all.push(condition.clone()),
                }
            }
            into[key] = all.into();
        } else {
            merge(&mut into[key], value);
        }
    }
}

/// Waits until `done` gives something, within ten seconds.
pub async fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
