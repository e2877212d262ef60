//! One request, from its head to the head of its answer: chosen for, sent, and tried again where that is safe.
//!
//! What must hold (issue of every retry): a request of which nothing was sent may go to another endpoint, whatever it is; one that may have
//! been acted upon is sent again only if it is idempotent and has no body. No choice outlives the table that it was made by: each
//! attempt chooses anew, and an endpoint that left the table while it was being connected to gets nothing.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;

use super::{
    body::{BodyFault, RequestBody, Watch},
    current::Current,
    headers::{self, Origin},
    path, routes,
    settings::Settings,
    table::{Choice, Table},
    upstream::{self, Answer, AnswerError, Busy, Connection, SendError, Target},
    watchdog::Watchdog,
};

/// Attempts of one request, connections that turn out to be closed included.
const ATTEMPTS_MAX: u32 = 8;
/// To open a connection while there are other endpoints to turn to.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// To open a connection to the last endpoint that there is.
const CONNECT_LAST_WITHIN: Duration = Duration::from_secs(5);

/// What one worker forwards by.
#[derive(Debug)]
pub struct Worker {
    number: usize,
    table: Current<Table<Connection>>,
    random: AtomicU64,
}

/// What a client gets.
#[derive(Debug)]
pub enum Reply {
    /// The ingress's own words, once.
    Own(Option<Bytes>),
    /// An endpoint's.
    Answer(Box<Answer>),
}

/// A request under way.
struct Attempt {
    request: Request<RequestBody>,
    watch: Watch,
    /// It may be sent again although an endpoint may have acted upon it.
    repeatable: bool,
    /// Endpoints that could not be had.
    tried: Vec<u64>,
    /// No idle connection any more: one was closed under it.
    fresh_only: bool,
    /// What the client is told if no endpoint is left.
    last: StatusCode,
}

impl Worker {
    /// The worker of this number, choosing by `table`.
    #[must_use]
    pub fn new(number: usize, table: Current<Table<Connection>>) -> Self {
        let seed = uuid::Uuid::new_v4().as_u64_pair().0;
        Self { number, table, random: AtomicU64::new(seed) }
    }

    /// A number of no pattern (splitmix64).
    fn random(&self) -> u64 {
        let mut z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Answers a request.
    pub async fn serve(
        self: Arc<Self>,
        origin: Arc<Origin>,
        request: Request<Incoming>,
    ) -> Result<Response<Reply>, Infallible> {
        let version = request.version();
        let mut response = self.forward(&origin, request).await.unwrap_or_else(own);
        *response.version_mut() = version;
        Ok(response)
    }

    async fn forward(
        &self,
        origin: &Origin,
        mut request: Request<Incoming>,
    ) -> Result<Response<Reply>, StatusCode> {
        let authority = headers::authority(&request).map_err(|refusal| match refusal {
            headers::Refusal::Host => StatusCode::BAD_REQUEST,
            headers::Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
        })?;
        let host = routes::host_name(authority).into_owned();
        let path = path::plain(request.uri().path()).map_err(|_| StatusCode::BAD_REQUEST)?.into_owned();
        let (mut endpoint, settings, mut others) = self.choose(&host, &path, &[], StatusCode::BAD_GATEWAY)?;
        if settings.body_bytes_max.is_some_and(|max| request.body().size_hint().lower() > max) {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        let version = request.version();
        let is_upgrade = headers::is_upgrade(&request);
        let mut upgrade = is_upgrade.then(|| hyper::upgrade::on(&mut request));
        headers::forward_request(&mut request, origin, is_upgrade);
        let (parts, incoming) = request.into_parts();
        let (body, watch) = RequestBody::new(incoming, settings.body_bytes_max);
        let repeatable = body.is_empty() && !is_upgrade && headers::is_idempotent(&parts.method);
        let mut attempt = Attempt {
            request: Request::from_parts(parts, body),
            watch,
            repeatable,
            tried: Vec::new(),
            fresh_only: false,
            last: StatusCode::BAD_GATEWAY,
        };
        for _ in 0..ATTEMPTS_MAX {
            let within = if others { CONNECT_WITHIN } else { CONNECT_LAST_WITHIN };
            match self.attempt(attempt, &endpoint, within, settings).await? {
                Tried::Answered(response, connection, busy, watchdog) => {
                    return Ok(self.answer(response, connection, busy, watchdog, upgrade.take(), version));
                }
                Tried::Again(again) => attempt = again,
            }
            (endpoint, _, others) = self.choose(&host, &path, &attempt.tried, attempt.last)?;
        }
        Err(attempt.last)
    }

    /// An endpoint for the request, with whether there are others to turn to.
    fn choose(
        &self,
        host: &str,
        path: &str,
        tried: &[u64],
        all_tried: StatusCode,
    ) -> Result<(Arc<Target>, Settings, bool), StatusCode> {
        let random = self.random();
        match self.table.choose(|table| table.choose(host, path, tried, random)) {
            Choice::Endpoint { endpoint, settings, others } => Ok((endpoint, settings, others)),
            Choice::NoRule => Err(StatusCode::NOT_FOUND),
            Choice::NoEndpoint => Err(StatusCode::SERVICE_UNAVAILABLE),
            Choice::AllTried => Err(all_tried),
        }
    }

    async fn attempt(
        &self,
        mut attempt: Attempt,
        endpoint: &Arc<Target>,
        connect_within: Duration,
        settings: Settings,
    ) -> Result<Tried, StatusCode> {
        let busy = Busy::new(endpoint.clone());
        let idle = if attempt.fresh_only { None } else { self.idle(endpoint).await };
        let reused = idle.is_some();
        let mut connection = match idle {
            Some(connection) => connection,
            None => match upstream::connect(endpoint, connect_within).await {
                // It left the table meanwhile: what is not sent there cannot be lost there.
                Ok(_) if endpoint.is_gone() => return Ok(Tried::Again(attempt)),
                Ok(connection) => connection,
                Err(error) => {
                    tracing::debug!(endpoint = %endpoint.address, %error, "an endpoint cannot be reached");
                    endpoint.suspect();
                    attempt.tried.push(endpoint.number);
                    attempt.last = match error.kind() {
                        std::io::ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
                        _ => StatusCode::BAD_GATEWAY,
                    };
                    return Ok(Tried::Again(attempt));
                }
            },
        };
        let copy = attempt.repeatable.then(|| copy_of(&attempt.request));
        let mut watchdog = Watchdog::new(settings.backend_silence_max);
        let Attempt { request, watch, .. } = attempt;
        let (request, sent) = match connection.send(request, &mut watchdog).await {
            Ok(response) => {
                endpoint.clear();
                return Ok(Tried::Answered(response, connection, busy, watchdog));
            }
            Err(SendError::NotSent(request)) => (Some(*request), false),
            Err(SendError::Failed(error)) => {
                tracing::debug!(endpoint = %endpoint.address, error = %hitless_base::chain(&error), reused, "a request has no answer");
                (copy, true)
            }
            Err(SendError::Silent) => return Err(StatusCode::GATEWAY_TIMEOUT),
        };
        if let Some(fault) = watch.fault() {
            return Err(match fault {
                BodyFault::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
                BodyFault::Silent => StatusCode::REQUEST_TIMEOUT,
                BodyFault::Broken => StatusCode::BAD_REQUEST,
            });
        }
        let Some(request) = request else { return Err(StatusCode::BAD_GATEWAY) };
        let mut tried = attempt.tried;
        if sent && !reused {
            tried.push(endpoint.number);
        }
        Ok(Tried::Again(Attempt { request, watch, tried, fresh_only: true, ..attempt }))
    }

    /// An idle connection that is open, as far as this side knows.
    async fn idle(&self, endpoint: &Target) -> Option<Connection> {
        while let Some(mut connection) = endpoint.take(self.number, |_| true) {
            connection.look().await;
            if connection.is_usable() {
                return Some(connection);
            }
        }
        None
    }

    fn answer(
        &self,
        mut response: Response<Incoming>,
        connection: Connection,
        busy: Busy,
        watchdog: Watchdog,
        upgrade: Option<OnUpgrade>,
        version: http::Version,
    ) -> Response<Reply> {
        headers::forward_response(&mut response, version);
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return response.map(|incoming| {
                Reply::Answer(Box::new(Answer::new(incoming, connection, busy, self.number, watchdog)))
            });
        }
        let Some(client) = upgrade else { return own(StatusCode::BAD_GATEWAY) };
        let endpoint = hyper::upgrade::on(&mut response);
        connection.run();
        tokio::spawn(pass_through(client, endpoint, busy));
        response.map(|_| Reply::Own(None))
    }
}

enum Tried {
    Answered(Response<Incoming>, Connection, Busy, Watchdog),
    Again(Attempt),
}

/// The same request once more; it has no body.
fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// What both sides say after they have agreed on another protocol, until both are done.
async fn pass_through(client: OnUpgrade, endpoint: OnUpgrade, busy: Busy) {
    match tokio::try_join!(client, endpoint) {
        Ok((client, endpoint)) => {
            let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut endpoint).await {
                tracing::trace!(%error, "an upgraded connection broke off");
            }
        }
        Err(error) => tracing::debug!(error = %hitless_base::chain(&error), "an upgrade did not come about"),
    }
    drop(busy);
}

/// The ingress's own answer.
fn own(status: StatusCode) -> Response<Reply> {
    let text = format!("{} {}\n", status.as_str(), status.canonical_reason().unwrap_or_default());
    let mut response = Response::new(Reply::Own(Some(text.into())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    // Whoever is refused within a request is not believed about where the next one begins.
    if matches!(status, StatusCode::BAD_REQUEST | StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE)
    {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

impl Body for Reply {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        match self.get_mut() {
            Self::Own(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Answer(answer) => Pin::new(&mut **answer).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(text) => text.is_none(),
            Self::Answer(answer) => answer.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Answer(answer) => answer.size_hint(),
        }
    }
}
