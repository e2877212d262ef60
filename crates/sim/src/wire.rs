//! The way from a client to the API server: takes its time, can be cut, can lose an answer, and ends with the server.
//!
//! A client is `kube::Client` over the API server's real router; what is simulated is the connection between the two.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body as AxumBody;
use bytes::Bytes;
use futures::StreamExt;
use hitless_apiserver::{ApiServer, Identity};
use http::{Method, Request, Response};
use kube::{Client, client::Body};
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service};

use crate::world::{Fact, World};

/// What reports of watermarks are sent to.
const CONSUMERS: &str = "/apis/hitless.dev/v1alpha1/endpointconsumers/";

/// Where the API server is: there, or (while it is restarted) nowhere. Clones share it.
#[derive(Clone, Default)]
pub struct Address {
    server: Arc<Mutex<Option<(ApiServer, CancellationToken)>>>,
    no_events: Arc<AtomicBool>,
}

impl Address {
    /// From now on Events are lost on their way.
    pub fn lose_events(&self) {
        self.no_events.store(true, Ordering::Relaxed);
    }

    /// The server answers here from now on.
    pub fn serve(&self, server: ApiServer) {
        *self.server.lock() = Some((server, CancellationToken::new()));
    }

    /// The server is killed: every connection to it breaks.
    pub fn kill(&self) {
        if let Some((_, dead)) = self.server.lock().take() {
            dead.cancel();
        }
    }
}

/// What is wrong with one client's connection.
#[derive(Debug, Default)]
pub struct Link {
    /// Each way takes up to so many milliseconds.
    pub ms_max: AtomicU64,
    /// Of 1,000 answers so many are lost after the server has acted.
    pub lost_permille: AtomicU64,
    /// Nothing goes through, and what was open breaks.
    cut: Mutex<CancellationToken>,
    is_cut: AtomicBool,
    /// The client's process has been killed: for good.
    pub killed: CancellationToken,
}

impl Link {
    /// A connection on which each way takes up to so many milliseconds.
    #[must_use]
    pub fn new(ms_max: u64) -> Arc<Self> {
        Arc::new(Self { ms_max: AtomicU64::new(ms_max), ..Self::default() })
    }

    /// Cuts the connection, or mends it.
    pub fn set_cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
        if is_cut {
            std::mem::take(&mut *self.cut.lock()).cancel();
        }
    }
}

/// One client's way to the server.
#[derive(Clone)]
struct Wire {
    world: World,
    client: Arc<str>,
    identity: Identity,
    address: Address,
    link: Arc<Link>,
}

/// A client `name` who is `identity`.
#[must_use]
pub fn client(world: &World, address: &Address, link: &Arc<Link>, name: &str, identity: Identity) -> Client {
    let wire = Wire {
        world: world.clone(),
        client: name.into(),
        identity,
        address: address.clone(),
        link: link.clone(),
    };
    Client::new(wire, "default")
}

impl Service<Request<Body>> for Wire {
    type Response = Response<AxumBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

impl Wire {
    async fn send(self, request: Request<Body>) -> Result<Response<AxumBody>, BoxError> {
        let write = request.method() != Method::GET;
        let is_event = request.uri().path().ends_with("/events");
        if is_event && write && self.address.no_events.load(Ordering::Relaxed) {
            return Err("no Events in this run".into());
        }
        let what = (write && !is_event).then(|| format!("{} {}", request.method(), request.uri().path()));
        let answer = self.exchange(request).await;
        if let Some(what) = what {
            let code = answer.as_ref().map_or(0, |response| response.status().as_u16());
            self.world.tell(&Fact::Called { client: self.client.to_string(), what, code });
        }
        answer
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Response<AxumBody>, BoxError> {
        let request = self.overhear(request).await?;
        let ms_max = self.link.ms_max.load(Ordering::Relaxed);
        let cut = self.link.cut.lock().clone();
        self.world.pause(0..=ms_max).await;
        if self.link.is_cut.load(Ordering::Relaxed) || self.link.killed.is_cancelled() {
            return Err("no route to the API server".into());
        }
        let Some((server, dead)) = self.address.server.lock().clone() else {
            return Err("connection refused".into());
        };
        let mut service = server.in_process(self.identity.clone());
        let response = tokio::select! {
            biased;
            () = broken(&dead, &cut, &self.link.killed) => return Err("connection reset".into()),
            answer = service.call(request) => answer.unwrap_or_else(|never| match never {}),
        };
        let lost = self.link.lost_permille.load(Ordering::Relaxed);
        if lost > 0 && self.world.number(0..=999) < lost {
            return Err("connection reset before the answer came".into());
        }
        self.world.pause(0..=ms_max).await;
        if dead.is_cancelled() || cut.is_cancelled() || self.link.killed.is_cancelled() {
            return Err("connection reset".into());
        }
        Ok(self.carry(response, dead, cut))
    }

    /// The answer's body, as late as the link is, and broken off when the connection breaks.
    fn carry(
        &self,
        response: Response<AxumBody>,
        dead: CancellationToken,
        cut: CancellationToken,
    ) -> Response<AxumBody> {
        let (wire, link) = (self.world.clone(), self.link.clone());
        response.map(|body| {
            let start = (body.into_data_stream(), wire, link, dead, cut, false);
            AxumBody::from_stream(futures::stream::unfold(start, |state| async move {
                let (mut body, world, link, dead, cut, ended) = state;
                if ended {
                    return None;
                }
                let next = tokio::select! {
                    biased;
                    () = broken(&dead, &cut, &link.killed) => None,
                    next = body.next() => match next {
                        None => return None,
                        Some(frame) => Some(frame.map_err(BoxError::from)),
                    },
                };
                world.pause(0..=link.ms_max.load(Ordering::Relaxed)).await;
                let (frame, ended): (Result<Bytes, BoxError>, bool) = match next {
                    Some(frame) => (frame, false),
                    None => (Err("connection reset".into()), true),
                };
                Some((frame, (body, world, link, dead, cut, ended)))
            }))
        })
    }

    /// Tells the checkers what a consumer says of itself.
    async fn overhear(&self, request: Request<Body>) -> Result<Request<Body>, BoxError> {
        let path = request.uri().path();
        let consumer = path.strip_prefix(CONSUMERS).and_then(|rest| rest.strip_suffix("/status"));
        let Some(consumer) = consumer.map(str::to_owned) else { return Ok(request) };
        let (parts, body) = request.into_parts();
        let bytes = body.collect_bytes().await?;
        let said: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if let Some(revision) = said["status"]["observedRevision"].as_u64() {
            let incarnation = said["status"]["incarnation"].as_str().unwrap_or_default().to_owned();
            self.world.tell(&Fact::Said { consumer, incarnation, revision });
        }
        Ok(Request::from_parts(parts, Body::from(bytes.to_vec())))
    }
}

/// Resolves when the connection breaks.
async fn broken(dead: &CancellationToken, cut: &CancellationToken, killed: &CancellationToken) {
    tokio::select! {
        biased;
        () = dead.cancelled() => {}
        () = cut.cancelled() => {}
        () = killed.cancelled() => {}
    }
}

/// The pause that a client makes before it tries again.
pub const AGAIN: Duration = Duration::from_millis(100);
