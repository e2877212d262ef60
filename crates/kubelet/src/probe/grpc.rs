//! One call of the gRPC health protocol (`grpc.health.v1.Health/Check`) over plain HTTP/2, for probes.
//!
//! The request is one string and the answer one number, so the few bytes are written and read here.
//! See <https://github.com/grpc/grpc/blob/master/doc/health-checking.md> and
//! <https://kubernetes.io/docs/tasks/configure-pod-container/configure-liveness-readiness-startup-probes/#define-a-grpc-liveness-probe>.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::http::{GetError, connect};

/// The answer is a few bytes; more is not read.
const BODY_LEN_MAX: usize = 4096;
/// gRPC's code for a method that is not there.
const UNIMPLEMENTED: &str = "12";

/// Where and about what to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The service asked about; empty: the server as a whole.
    pub service: String,
}

/// Why it is not well.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Nobody listens there (yet).
    #[error("error: failed to connect service {address:?}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: GetError,
    },
    /// No answer in time.
    #[error("timeout: health rpc did not complete within {0}s")]
    Timeout(u64),
    /// The server has no such method.
    #[error("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {0}")]
    Unimplemented(String),
    /// It says that it is not well.
    #[error("service unhealthy (responded with {0:?})")]
    Unhealthy(&'static str),
    /// Anything else.
    #[error("error: health rpc probe failed: {0}")]
    Other(String),
}

/// Asks within `timeout` in all.
///
/// # Errors
/// Why it is not well.
pub async fn check(target: &Target, timeout: Duration) -> Result<(), CheckError> {
    let late = || CheckError::Timeout(timeout.as_secs());
    tokio::time::timeout(timeout, exchange(target, timeout)).await.unwrap_or_else(|_| Err(late()))
}

async fn exchange(target: &Target, timeout: Duration) -> Result<(), CheckError> {
    let Target { host, port, service } = target;
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let other = |e: &dyn std::fmt::Display| CheckError::Other(e.to_string());
    let stream = connect(host, *port, timeout)
        .await
        .map_err(|source| CheckError::Connect { address: address.clone(), source })?;
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(|e| other(&e))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "kube-probe/1.36")
        .body(Full::new(question(service)))
        .map_err(|e| other(&e))?;
    let asked = async {
        let answer = sender.send_request(request).await.map_err(|e| other(&e))?;
        let head = answer.headers().clone();
        let body = Limited::new(answer.into_body(), BODY_LEN_MAX).collect().await;
        let body = body.map_err(|e| CheckError::Other(e.to_string()))?;
        let trailers = body.trailers().cloned().unwrap_or(head);
        read(&trailers, &body.to_bytes())
    };
    tokio::select! {
        answer = asked => answer,
        _ended = connection => Err(CheckError::Other("the connection ended".to_owned())),
    }
}

/// `HealthCheckRequest` as one gRPC message.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut len = service.len();
        while len >= 0x80 {
            message.push((len & 0x7f) as u8 | 0x80);
            len >>= 7;
        }
        message.push(len as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&len.to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

/// gRPC's status, and the one field of `HealthCheckResponse`.
fn read(trailers: &HeaderMap, body: &[u8]) -> Result<(), CheckError> {
    let text = |name: &str| trailers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let words = || format!("rpc error: code = {} desc = {}", text("grpc-status"), text("grpc-message"));
    match text("grpc-status") {
        "0" => {}
        UNIMPLEMENTED => return Err(CheckError::Unimplemented(words())),
        _ => return Err(CheckError::Other(words())),
    }
    // A message is framed by five bytes. An enum of value 0 is left out.
    match body.get(5..) {
        Some([0x08, 1, ..]) => Ok(()),
        Some([0x08, 2, ..]) => Err(CheckError::Unhealthy("NOT_SERVING")),
        Some([0x08, 3, ..]) => Err(CheckError::Unhealthy("SERVICE_UNKNOWN")),
        _ => Err(CheckError::Unhealthy("UNKNOWN")),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Response};
    use http_body_util::StreamBody;
    use hyper::{body::Frame, server::conn::http2 as server, service::service_fn};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one call with this state and gRPC status; gives the port and what was asked.
    async fn serve(state: u8, status: &'static str) -> (u16, tokio::sync::mpsc::Receiver<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (send, asked) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let send = send.clone();
                async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    send.send(body.to_vec()).await.unwrap();
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static(status));
                    let frames: Vec<Result<Frame<Bytes>, std::convert::Infallible>> = vec![
                        Ok(Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, state]))),
                        Ok(Frame::trailers(trailers)),
                    ];
                    Ok::<_, std::convert::Infallible>(Response::new(StreamBody::new(futures::stream::iter(
                        frames,
                    ))))
                }
            });
            let _ended = server::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        (port, asked)
    }

    async fn ask(state: u8, status: &'static str) -> (Result<(), String>, Vec<u8>) {
        let (port, mut asked) = serve(state, status).await;
        let target = Target { host: "127.0.0.1".into(), port, service: "db".into() };
        let answer = check(&target, Duration::from_secs(5)).await.map_err(|e| e.to_string());
        (answer, asked.recv().await.unwrap())
    }

    #[tokio::test]
    async fn a_server_says_how_it_is() {
        assert_eq!(ask(1, "0").await, (Ok(()), b"\0\0\0\0\x04\x0a\x02db".to_vec()));
        assert_eq!(ask(2, "0").await.0.unwrap_err(), "service unhealthy (responded with \"NOT_SERVING\")");
        assert!(ask(1, "12").await.0.unwrap_err().contains("does not implement the grpc health protocol"));
        assert!(ask(1, "5").await.0.unwrap_err().contains("code = 5"));
    }

    #[tokio::test]
    async fn nobody_there_and_nobody_answering() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Target { host: "127.0.0.1".into(), port, service: String::new() };
        let silent = check(&target, Duration::from_millis(200)).await;
        assert!(matches!(silent, Err(CheckError::Timeout(0))), "{silent:?}");
        drop(listener);
        let nobody = check(&target, Duration::from_secs(5)).await;
        assert!(
            matches!(nobody, Err(CheckError::Connect { source: GetError::Refused(_), .. })),
            "{nobody:?}"
        );
    }
}
