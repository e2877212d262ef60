//! Connections that stop being HTTP: what a client wants them to become, the same towards the runtime, and bytes carried between.

use std::{io, time::Duration};

use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The runtime listens on the same node; it answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer that is no upgrade is read so far.
const REFUSAL_LEN_MAX: usize = 4096;
/// The protocol that kubectl falls back to, and that the runtime speaks.
pub(super) const SPDY: &str = "SPDY/3.1";
/// Which protocol is spoken over the streams.
pub(super) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// Why a stream to the runtime could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeError {
    /// Nobody answers at the runtime's URL.
    #[error("cannot connect to the container runtime's streaming server at {url}")]
    Connect {
        /// The URL.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It answered with something else.
    #[error("the container runtime refused to stream: {status}: {words}")]
    Refused {
        /// Its code.
        status: StatusCode,
        /// Its words.
        words: String,
    },
}

/// What the client wants its connection to become.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A WebSocket with one of these protocols, the best one first.
    WebSocket {
        /// `Sec-WebSocket-Key`.
        key: String,
        /// `Sec-WebSocket-Protocol`.
        protocols: Vec<String>,
    },
    /// SPDY/3.1, handed on as it is.
    Spdy,
}

fn words(headers: &HeaderMap, name: HeaderName) -> Vec<String> {
    let all = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|v| v.split(',')).map(|w| w.trim().to_owned()).filter(|w| !w.is_empty()).collect()
}

impl Wanted {
    /// Reads a request's head; `None`: it wants no upgrade that this server knows.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let upgrades = words(headers, header::UPGRADE);
        let asks = |name: &str| upgrades.iter().any(|u| u.eq_ignore_ascii_case(name));
        if !words(headers, header::CONNECTION).iter().any(|c| c.eq_ignore_ascii_case("upgrade")) {
            return None;
        }
        if asks("websocket") {
            let version = headers.get(header::SEC_WEBSOCKET_VERSION)?.to_str().ok()?;
            let key = headers.get(header::SEC_WEBSOCKET_KEY)?.to_str().ok()?.to_owned();
            let protocols = words(headers, header::SEC_WEBSOCKET_PROTOCOL);
            return (version.trim() == "13").then_some(Self::WebSocket { key, protocols });
        }
        asks(SPDY).then_some(Self::Spdy)
    }
}

/// The answer that turns a connection into a WebSocket.
pub(super) fn web_socket_answer(key: &str, protocol: &'static str) -> Response {
    let mut response = switching("websocket");
    let headers = response.headers_mut();
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    response
}

fn switching(protocol: &'static str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// A head with what an upgrade is about, and nothing else of the request.
pub(super) fn upgrade_headers(from: &HeaderMap) -> HeaderMap {
    let passed = [
        header::CONNECTION,
        header::UPGRADE,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
        header::SEC_WEBSOCKET_PROTOCOL,
        header::SEC_WEBSOCKET_ACCEPT,
        STREAM_PROTOCOL,
    ];
    let mut headers = HeaderMap::new();
    for name in passed {
        for value in from.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers
}

/// The head of a request for SPDY with this protocol on its streams.
pub(super) fn spdy_headers(protocol: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
    headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    headers
}

/// A connection to the runtime that has been upgraded.
pub(super) struct Upstream {
    /// The head of its answer.
    pub headers: HeaderMap,
    /// The bytes.
    pub io: TokioIo<Upgraded>,
}

/// Asks the runtime's streaming server for an upgrade.
pub(super) async fn connect(url: &str, method: Method, headers: HeaderMap) -> Result<Upstream, UpgradeError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| UpgradeError::Connect {
        url: url.to_owned(),
        source,
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, ask(url, method, headers)).await {
        Err(elapsed) => Err(failed(elapsed.into())),
        Ok(Err(error)) => Err(failed(error)),
        Ok(Ok(answer)) => answer,
    }
}

async fn ask(
    url: &str,
    method: Method,
    headers: HeaderMap,
) -> Result<Result<Upstream, UpgradeError>, Box<dyn std::error::Error + Send + Sync>> {
    let uri: Uri = url.parse()?;
    let authority = uri.authority().ok_or("the runtime's URL names no host")?.clone();
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let stream = TcpStream::connect(authority.as_str()).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the upgraded connection, or with the answer.
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::builder().method(method).uri(path).body(Empty::<bytes::Bytes>::new())?;
    *request.headers_mut() = headers;
    request.headers_mut().insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
    let answer = sender.send_request(request).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let headers = answer.headers().clone();
        let io = TokioIo::new(hyper::upgrade::on(answer).await?);
        return Ok(Ok(Upstream { headers, io }));
    }
    let status = answer.status();
    let said = Limited::new(answer.into_body(), REFUSAL_LEN_MAX).collect().await;
    let words = said.map(|b| String::from_utf8_lossy(&b.to_bytes()).trim().to_owned()).unwrap_or_default();
    Ok(Err(UpgradeError::Refused { status, words }))
}

/// The runtime's own answer, for a client whose bytes are handed on as they are.
pub(super) fn relayed_answer(headers: &HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = upgrade_headers(headers);
    response
}

/// Carries bytes both ways until both have ended or one fails.
pub(super) async fn carry(client: Upgraded, upstream: Upstream) -> io::Result<()> {
    let (mut client, mut runtime) = (TokioIo::new(client), upstream.io);
    tokio::io::copy_bidirectional(&mut client, &mut runtime).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn what_a_client_wants_is_read_from_its_head() {
        let socket = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v5.channel.k8s.io, v4.channel.k8s.io"),
        ]);
        let wanted = Wanted::read(&socket);
        let protocols = vec!["v5.channel.k8s.io".to_owned(), "v4.channel.k8s.io".to_owned()];
        let key = "dGhlIHNhbXBsZSBub25jZQ==".to_owned();
        assert_eq!(wanted, Some(Wanted::WebSocket { key, protocols }));
        assert_eq!(Wanted::read(&spdy_headers("v4.channel.k8s.io")), Some(Wanted::Spdy));
        assert_eq!(Wanted::read(&headers(&[("upgrade", "websocket")])), None);
        assert_eq!(Wanted::read(&headers(&[("connection", "upgrade"), ("upgrade", "h2c")])), None);
    }

    #[test]
    fn the_answer_to_a_web_socket_proves_that_its_key_was_read() {
        let answer = web_socket_answer("dGhlIHNhbXBsZSBub25jZQ==", "v5.channel.k8s.io");
        assert_eq!(answer.headers()[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
