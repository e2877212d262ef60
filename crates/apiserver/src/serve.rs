//! The server on a socket: TLS, HTTP/1.1 and HTTP/2, one task for each connection.
//!
//! Who asks is read from the client certificate. A certificate that the CA did not sign ends the handshake; none at all
//! makes an anonymous client. When the server ends, watches end first, then connections finish what they have begun.

use std::{sync::Arc, time::Duration};

use axum::extract::Request;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{ApiServer, Identity, expiry, pki};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long connections may take to finish when the server ends.
const GRACE: Duration = Duration::from_secs(5);
/// A pause after a failed `accept`: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How long an HTTP/1.1 connection may wait for a request: longer than clients keep theirs, so that it is they who close.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 20_000;

impl ApiServer {
    /// Serves on `listener` until `cancel`, then ends gracefully: watches get a last bookmark, requests in flight are answered.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        cancel: CancellationToken,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        let mut connections = JoinSet::new();
        if let Some(sweeping) = expiry::keep_sweeping(&self.core, cancel.clone()) {
            connections.spawn(sweeping);
        }
        loop {
            let full = connections.len() >= CONNECTIONS_MAX;
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(ended) = connections.join_next() => log_panic(ended),
                accepted = listener.accept(), if !full => match accepted {
                    Ok((stream, _)) => {
                        let connection = connection(self.clone(), stream, acceptor.clone(), cancel.clone());
                        connections.spawn(connection);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        self.end_watches();
        let all = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, all).await.is_err() {
            tracing::debug!("connections that did not end in time are cut");
        }
    }
}

/// A panic in one connection ends that connection; the others go on.
fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection panicked; it is a defect of the API server");
    }
}

async fn connection(server: ApiServer, stream: TcpStream, acceptor: TlsAcceptor, cancel: CancellationToken) {
    // Small answers must not wait for the client's acknowledgement.
    let _as_it_was = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
    let tls = tokio::select! {
        () = cancel.cancelled() => return,
        shaken = handshake => match shaken {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                return;
            }
            Err(_) => return,
        },
    };
    let certificate = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let identity = certificate.and_then(pki::identity_of).unwrap_or_else(Identity::anonymous);
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(identity.clone());
        let core = Arc::clone(&server.core);
        async move { Ok::<_, std::convert::Infallible>(crate::server::handle(core, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .max_concurrent_streams(1000);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = cancel.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ended = connection.await;
}
