//! `/exec`, `/attach` and `/portForward`: a client's streams, carried to the container runtime's own streaming server.
//!
//! | the client asks for | what is done |
//! |---|---|
//! | WebSocket `v5.channel.k8s.io`, `v4.channel.k8s.io` | `channels.rs`: its messages become SPDY streams, so that v5 can close standard input |
//! | WebSocket `SPDY/3.1+portforward.k8s.io` | `tunnel.rs`: the SPDY inside is handed on |
//! | WebSocket for `/portForward` with `ports=` | handed on as it is |
//! | SPDY/3.1 (kubectl's fallback, older clients) | handed on as it is |
//!
//! What must hold: a session ends with its Pod, its client, its runtime or the kubelet, whichever is first; there are never more
//! than [`SESSIONS_MAX`]; and a refusal comes before the upgrade, in Kubernetes' words.

mod channels;
mod spdy;
mod tunnel;
mod upgrade;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, Request, State},
    http::{Method, StatusCode},
    response::Response,
    routing::any,
};
use hitless_base::chain;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::{
    pod::spec::{LABEL_CONTAINER_NAME, LABEL_POD_UID},
    ports::{ContainerState, Runtime, RuntimeError, Streams},
    server::{Refusal, Shared},
};
use channels::{Channels, Protocol};
use upgrade::{Upstream, Wanted};

/// Sessions at once.
pub(crate) const SESSIONS_MAX: usize = 256;
/// How long a client may take to become what it asked for.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// Runtime's streams are opened within this.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// What the runtime speaks over the streams of a command.
const COMMAND_PROTOCOL: &str = "v4.channel.k8s.io";

/// What sessions need beside [`Shared`].
#[derive(Clone)]
pub(crate) struct Streaming {
    pub runtime: Arc<dyn Runtime>,
    pub sessions: Arc<Semaphore>,
    pub tasks: TaskTracker,
}

/// The routes.
pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/exec/{namespace}/{pod}/{container}", any(exec))
        .route("/attach/{namespace}/{pod}/{container}", any(attach))
        .route("/portForward/{namespace}/{pod}", any(port_forward))
}

/// The query's parameters, in order; a command's words are several of one name.
struct Asked(Vec<(String, String)>);

impl Asked {
    fn read(request: &Request) -> Result<Self, Refusal> {
        let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(request.uri());
        query.map(|q| Self(q.0)).map_err(|e| bad(&e.to_string()))
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn flag(&self, name: &str) -> bool {
        self.all(name).next().is_some_and(|v| matches!(v, "1" | "true" | ""))
    }

    fn streams(&self) -> Result<Streams, Refusal> {
        let tty = self.flag("tty");
        let streams = Streams {
            stdin: self.flag("input"),
            stdout: self.flag("output"),
            // A terminal has one output.
            stderr: self.flag("error") && !tty,
            tty,
        };
        if streams.stdin || streams.stdout || streams.stderr {
            return Ok(streams);
        }
        Err(bad("you must specify at least 1 of stdin, stdout, stderr"))
    }
}

fn bad(words: &str) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, format!("{words}\n"))
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Refusal {
    Refusal(StatusCode::INTERNAL_SERVER_ERROR, chain(error))
}

/// The Pod's uid, and the end of what a session may outlive: its Pod and the kubelet.
struct Subject {
    shared: Shared,
    key: String,
    uid: String,
}

impl Subject {
    fn find(shared: Shared, namespace: &str, pod: &str) -> Result<Self, Refusal> {
        let key = format!("{namespace}/{pod}");
        let missing = || Refusal(StatusCode::NOT_FOUND, format!("pod does not exist: {pod:?}\n"));
        let uid = shared.pods.get(&key).and_then(|p| p.metadata.uid.clone()).ok_or_else(missing)?;
        Ok(Self { shared, key, uid })
    }

    fn runtime(&self) -> &dyn Runtime {
        self.shared.streaming.runtime.as_ref()
    }

    /// The runtime's id of the running container.
    async fn container(&self, name: &str) -> Result<String, Refusal> {
        let all = self.runtime().list_containers().await.map_err(|e| failed(&e))?;
        let own = all.into_iter().filter(|c| {
            c.state == ContainerState::Running
                && c.labels.get(LABEL_POD_UID) == Some(&self.uid)
                && c.labels.get(LABEL_CONTAINER_NAME).is_some_and(|n| n == name)
        });
        let newest = own.max_by_key(|c| c.attempt).map(|c| c.id);
        newest.ok_or_else(|| {
            Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found ({name:?})"))
        })
    }

    async fn sandbox(&self) -> Result<String, Refusal> {
        let all = self.runtime().list_sandboxes().await.map_err(|e| failed(&e))?;
        let newest = all.into_iter().filter(|s| s.ready && s.uid == self.uid).max_by_key(|s| s.attempt);
        let pod = &self.key;
        newest.map(|s| s.id).ok_or_else(|| {
            Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to find sandbox of pod {pod:?}"))
        })
    }

    /// Resolves with the words why, when a session must end.
    async fn end(self) -> String {
        let mut changes = self.shared.pods.subscribe();
        let cancelled = self.shared.cancel.clone();
        let gone = async {
            loop {
                let now = self.shared.pods.get(&self.key);
                if now.is_none_or(|p| p.metadata.uid.as_deref() != Some(&self.uid)) {
                    return format!("pod {} is gone", self.key);
                }
                if changes.changed().await.is_err() {
                    return "the kubelet ends".to_owned();
                }
            }
        };
        tokio::select! {
            words = gone => words,
            () = cancelled.cancelled() => "the kubelet ends".to_owned(),
        }
    }
}

/// A request that may become a session.
struct Session {
    wanted: Wanted,
    upgrade: OnUpgrade,
    method: Method,
    headers: http::HeaderMap,
    permit: OwnedSemaphorePermit,
}

impl Session {
    fn read(shared: &Shared, mut request: Request) -> Result<Self, Refusal> {
        let wanted = Wanted::read(request.headers());
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let (Some(wanted), Some(upgrade)) = (wanted, upgrade) else {
            return Err(bad("Upgrade request required"));
        };
        let permit = shared.streaming.sessions.clone().try_acquire_owned().map_err(|_| {
            let words = format!("{SESSIONS_MAX} streaming sessions are open on this node already\n");
            Refusal(StatusCode::TOO_MANY_REQUESTS, words)
        })?;
        let (parts, _) = request.into_parts();
        Ok(Self { wanted, upgrade, method: parts.method, headers: parts.headers, permit })
    }

    /// Hands a client's own upgrade on to the runtime: what they say to each other is theirs.
    async fn relay(self, subject: Subject, url: &str) -> Result<Response, Refusal> {
        let headers = upgrade::upgrade_headers(&self.headers);
        let upstream = upgrade::connect(url, self.method, headers).await.map_err(|e| failed(&e))?;
        let answer = upgrade::relayed_answer(&upstream.headers);
        let tasks = subject.shared.streaming.tasks.clone();
        start(&tasks, self.upgrade, self.permit, move |client| async move {
            tokio::select! {
                _carried = upgrade::carry(client, upstream) => {}
                _why = subject.end() => {}
            }
        });
        Ok(answer)
    }
}

/// Runs a session once the client's connection has become what it asked for.
fn start<F>(
    tasks: &TaskTracker,
    upgrade: OnUpgrade,
    permit: OwnedSemaphorePermit,
    session: impl FnOnce(Upgraded) -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send,
{
    tasks.spawn(async move {
        if let Ok(Ok(client)) = tokio::time::timeout(UPGRADE_TIMEOUT, upgrade).await {
            session(client).await;
        }
        drop(permit);
    });
}

/// The runtime's URL for a command or an attachment.
type Url = Result<String, RuntimeError>;

async fn exec(
    State(shared): State<Shared>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked = Asked::read(&request)?;
    let command: Vec<String> = asked.all("command").map(str::to_owned).collect();
    if command.is_empty() {
        return Err(bad("you must specify at least one command for the container"));
    }
    let streams = asked.streams()?;
    let session = Session::read(&shared, request)?;
    let subject = Subject::find(shared, &namespace, &pod)?;
    let id = subject.container(&container).await?;
    let url = subject.runtime().exec_url(&id, &command, streams).await;
    standard_streams(session, subject, url, streams).await
}

async fn attach(
    State(shared): State<Shared>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    let streams = Asked::read(&request)?.streams()?;
    let session = Session::read(&shared, request)?;
    let subject = Subject::find(shared, &namespace, &pod)?;
    let id = subject.container(&container).await?;
    let url = subject.runtime().attach_url(&id, streams).await;
    standard_streams(session, subject, url, streams).await
}

async fn standard_streams(
    session: Session,
    subject: Subject,
    url: Url,
    streams: Streams,
) -> Result<Response, Refusal> {
    let url = url.map_err(|e| failed(&e))?;
    let Wanted::WebSocket { key, protocols } = &session.wanted else {
        return session.relay(subject, &url).await;
    };
    let protocol = Protocol::choose(protocols).ok_or_else(|| {
        let words = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {protocols:?}, server accepts [{}]\n",
            Protocol::names()
        );
        Refusal(StatusCode::FORBIDDEN, words)
    })?;
    let Streams { stdin, stdout, stderr, tty } = streams;
    let upstream = spdy(&url, COMMAND_PROTOCOL).await?;
    let open = channels::Streams::open(upstream.io, Channels { stdin, stdout, stderr, tty });
    let open = match tokio::time::timeout(OPEN_TIMEOUT, open).await {
        Ok(open) => open.map_err(|e| failed(&e))?,
        Err(elapsed) => return Err(failed(&elapsed)),
    };
    let answer = upgrade::web_socket_answer(key, protocol.name());
    let tasks = subject.shared.streaming.tasks.clone();
    start(&tasks, session.upgrade, session.permit, move |client| async move {
        let socket = channels::web_socket(TokioIo::new(client)).await;
        channels::run(socket, open, protocol, subject.end()).await;
    });
    Ok(answer)
}

async fn spdy(url: &str, protocol: &'static str) -> Result<Upstream, Refusal> {
    let headers = upgrade::spdy_headers(protocol);
    upgrade::connect(url, Method::POST, headers).await.map_err(|e| failed(&e))
}

async fn port_forward(
    State(shared): State<Shared>,
    Path((namespace, pod)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked = Asked::read(&request)?;
    let ports: Result<Vec<u16>, _> = asked.all("ports").flat_map(|v| v.split(',')).map(str::parse).collect();
    let ports =
        ports.map_err(|_| bad("unable to parse the query parameter \"ports\": ports are 1 to 65535"))?;
    let session = Session::read(&shared, request)?;
    let subject = Subject::find(shared, &namespace, &pod)?;
    let sandbox = subject.sandbox().await?;
    let url = subject.runtime().port_forward_url(&sandbox, &ports).await.map_err(|e| failed(&e))?;
    let tunnelled = match &session.wanted {
        Wanted::WebSocket { key, protocols } if protocols.iter().any(|p| p == tunnel::PROTOCOL) => Some(key),
        _ => None,
    };
    let Some(key) = tunnelled else { return session.relay(subject, &url).await };
    let upstream = spdy(&url, tunnel::INNER_PROTOCOL).await?;
    let answer = upgrade::web_socket_answer(key, tunnel::PROTOCOL);
    let tasks = subject.shared.streaming.tasks.clone();
    start(&tasks, session.upgrade, session.permit, move |client| async move {
        let socket = channels::web_socket(TokioIo::new(client)).await;
        tunnel::run(socket, upstream.io, subject.end()).await;
    });
    Ok(answer)
}
