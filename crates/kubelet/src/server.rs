//! The kubelet's HTTPS server: `/containerLogs/{namespace}/{pod}/{container}`, `/healthz`, and the streams of `crate::streaming`.
//!
//! Only for holders of a certificate of the cluster's CA that is the API server's own (`kube-apiserver-kubelet-client`)
//! or an administrator's (group `system:masters`).

use std::{collections::HashMap, fs, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path as UrlPath, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use hitless_base::{Clock, Timestamp};
use hitless_client::Cache;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::{
    logs::{LogOptions, Reader},
    options::Serving,
    streaming::{self, Streaming},
    volumes::PodDirs,
};

/// Connections at once.
const CONNECTIONS_MAX: usize = 256;
/// A handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// First and longest pause between looks at a log that is followed.
const FOLLOW_PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// Bytes of one piece of a log.
const PIECE_BYTES: usize = 64 * 1024;
/// The API server's own name towards kubelets.
const API_SERVER_NAME: &str = "kube-apiserver-kubelet-client";
/// Administrators' group.
const ADMINISTRATORS: &str = "system:masters";

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is in use or not the machine's.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A PEM text is not what it should be.
    #[error("{what} cannot be read: {why}")]
    Pem {
        /// `certificate`, `key`, `client CA`.
        what: &'static str,
        /// Why.
        why: String,
    },
}

/// TLS for [`Serving`]: own certificate (chain) and key, and the CA that clients' certificates must come from. All PEM.
///
/// # Errors
/// A text that is not PEM, or a key that does not fit.
pub fn tls_config(
    cert_pem: &[u8],
    key_pem: &[u8],
    client_ca_pem: &[u8],
) -> Result<Arc<ServerConfig>, ServeError> {
    let fault =
        |what: &'static str| move |e: &dyn std::fmt::Display| ServeError::Pem { what, why: e.to_string() };
    let certs: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(cert_pem)
        .collect::<Result<_, _>>()
        .map_err(|e| fault("certificate")(&e))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|e| fault("key")(&e))?;
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(client_ca_pem) {
        let ca = ca.map_err(|e| fault("client CA")(&e))?;
        roots.add(ca).map_err(|e| fault("client CA")(&e))?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|e| fault("client CA")(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fault("certificate")(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certs, key)
        .map_err(|e| fault("key")(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// What handlers read.
#[derive(Clone)]
pub(crate) struct Shared {
    pub pods: Cache<Pod>,
    pub root_dir: Arc<Path>,
    pub clock: Arc<dyn Clock>,
    pub cancel: CancellationToken,
    pub streaming: Streaming,
}

/// Starts the server as tasks of `tasks`; gives the address that it listens on.
///
/// # Errors
/// The address cannot be listened on.
pub(crate) async fn start(
    serving: &Serving,
    shared: Shared,
    tasks: &TaskTracker,
) -> Result<SocketAddr, ServeError> {
    let address = serving.address;
    let listen = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    let acceptor = TlsAcceptor::from(serving.tls.clone());
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (cancel, own_tasks) = (shared.cancel.clone(), tasks.clone());
    let router = router(shared);
    tasks.spawn(async move {
        loop {
            let (slot, accepted) = tokio::select! {
                () = cancel.cancelled() => return,
                pair = async { (slots.clone().acquire_owned().await, listener.accept().await) } => pair,
            };
            let (Ok(slot), Ok((stream, _))) = (slot, accepted) else {
                // Out of file descriptors, for instance: a pause instead of a busy loop.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (acceptor, router, cancel) = (acceptor.clone(), router.clone(), cancel.clone());
            own_tasks.spawn(async move {
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = connection(acceptor, router, stream) => {}
                }
                drop(slot);
            });
        }
    });
    Ok(bound)
}

async fn connection(acceptor: TlsAcceptor, router: Router, stream: TcpStream) {
    let Ok(Ok(tls)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else { return };
    let allowed = tls
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
        .is_some_and(|cert| is_allowed(cert.as_ref()));
    let service = if allowed { router } else { Router::new().fallback(forbidden) };
    let served = auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(tls), TowerToHyperService::new(service))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}

async fn forbidden() -> Response {
    (StatusCode::FORBIDDEN, "Forbidden\n").into_response()
}

/// Whether the certificate (checked against the CA before) is the API server's or an administrator's.
fn is_allowed(der: &[u8]) -> bool {
    let Ok((_, cert)) = X509Certificate::from_der(der) else { return false };
    let subject = cert.subject();
    let is = |text: Result<&str, _>, wanted: &str| text.is_ok_and(|t: &str| t == wanted);
    subject.iter_organization().any(|o| is(o.as_str(), ADMINISTRATORS))
        || subject.iter_common_name().any(|n| is(n.as_str(), API_SERVER_NAME))
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .merge(streaming::routes())
        .with_state(shared)
}

/// A refusal in Kubernetes' words.
pub(crate) struct Refusal(pub StatusCode, pub String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

async fn container_logs(
    State(shared): State<Shared>,
    UrlPath((namespace, pod_name, container)): UrlPath<(String, String, String)>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let wanted = Wanted::read(&query, shared.clock.now())?;
    let missing = || Refusal(StatusCode::NOT_FOUND, format!("pod {pod_name:?} does not exist\n"));
    let pod = shared.pods.get(&format!("{namespace}/{pod_name}")).ok_or_else(missing)?;
    let attempt = attempt(&pod, &pod_name, &container, wanted.previous)?;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let dirs = PodDirs::new(&shared.root_dir, &namespace, &pod_name, &uid);
    let path = dirs.logs.join(PodDirs::log_path(&container, attempt));
    let reader = open(&path, &wanted).await.map_err(|e| {
        let words =
            format!("failed to try resolving symlinks in path {:?}: {e}\n", path.display().to_string());
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, words)
    })?;
    let follow = wanted.follow && !wanted.previous;
    let followed = Followed { shared, key: format!("{namespace}/{pod_name}"), uid, container, attempt };
    let (send, receive) = mpsc::channel::<io::Result<Bytes>>(4);
    // Owned by the response: when the client goes away, sending fails and the task ends.
    tokio::spawn(pump(reader, send, follow.then_some(followed)));
    let stream = futures::stream::unfold(receive, |mut receive| async move {
        receive.recv().await.map(|piece| (piece, receive))
    });
    let response = Response::builder().header("Content-Type", "text/plain").body(Body::from_stream(stream));
    response.map_err(|e| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

/// Opens the log. Right after a start its file may be a moment late.
async fn open(path: &Path, wanted: &Wanted) -> io::Result<Reader> {
    for _ in 0..20 {
        match Reader::open(path, wanted.options.clone()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tokio::time::sleep(FOLLOW_PAUSES.0).await;
            }
            other => return other,
        }
    }
    Reader::open(path, wanted.options.clone())
}

/// What was asked for.
struct Wanted {
    follow: bool,
    previous: bool,
    options: LogOptions,
}

impl Wanted {
    fn read(query: &HashMap<String, String>, now: Timestamp) -> Result<Self, Refusal> {
        let flag = |name: &str| query.get(name).is_some_and(|v| matches!(v.as_str(), "true" | "1" | ""));
        let bad = |name: &str| {
            let words = format!("unable to decode query: {name}={:?} is not valid\n", query.get(name));
            Refusal(StatusCode::BAD_REQUEST, words)
        };
        let number = |name: &'static str| -> Result<Option<usize>, Refusal> {
            query.get(name).map(|v| v.parse().map_err(|_| bad(name))).transpose()
        };
        let since = match (query.get("sinceTime"), number("sinceSeconds")?) {
            (Some(text), _) => Some(text.parse().map_err(|_| bad("sinceTime"))?),
            (None, Some(s)) => now.saturating_sub(Duration::from_secs(s as u64)).ok(),
            (None, None) => None,
        };
        let options = LogOptions {
            tail_lines: number("tailLines")?,
            since,
            timestamps: flag("timestamps"),
            limit_bytes: number("limitBytes")?,
        };
        Ok(Self { follow: flag("follow"), previous: flag("previous"), options })
    }
}

fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.into_iter().find(|s| s.name == container)
}

/// Which start of the container has the log, or why there is none, in Kubernetes' words.
fn attempt(pod: &Pod, pod_name: &str, container: &str, previous: bool) -> Result<u32, Refusal> {
    let bad = |words: String| Refusal(StatusCode::BAD_REQUEST, format!("{words}\n"));
    let status = status_of(pod, container)
        .ok_or_else(|| bad(format!("container {container:?} in pod {pod_name:?} is not available")))?;
    let restarts = u32::try_from(status.restart_count).unwrap_or(0);
    let state = status.state.as_ref();
    let last_ended = status.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
    let waiting = state.and_then(|s| s.waiting.as_ref());
    if previous {
        if !last_ended {
            let words = format!("previous terminated container {container:?} in pod {pod_name:?} not found");
            return Err(bad(words));
        }
        // While a restart is held back, the newest start is the previous one.
        return Ok(if waiting.is_some() { restarts } else { restarts.saturating_sub(1) });
    }
    match waiting {
        Some(w) if !last_ended => {
            let reason = w.reason.as_deref().unwrap_or_default();
            let why = if matches!(reason, "ErrImagePull" | "ImagePullBackOff") {
                "trying and failing to pull image".to_owned()
            } else {
                reason.to_owned()
            };
            Err(bad(format!("container {container:?} in pod {pod_name:?} is waiting to start: {why}")))
        }
        _ => Ok(restarts),
    }
}

/// A container whose log is followed.
struct Followed {
    shared: Shared,
    key: String,
    uid: String,
    container: String,
    attempt: u32,
}

impl Followed {
    /// Whether nothing more will be written.
    fn is_over(&self) -> bool {
        let Some(pod) = self.shared.pods.get(&self.key) else { return true };
        if pod.metadata.uid.as_deref() != Some(&self.uid) {
            return true;
        }
        let Some(status) = status_of(&pod, &self.container) else { return true };
        let restarts = u32::try_from(status.restart_count).unwrap_or(0);
        restarts != self.attempt || status.state.as_ref().is_none_or(|s| s.running.is_none())
    }
}

/// Sends the log piece by piece, and what is written later if it is followed.
async fn pump(mut reader: Reader, send: mpsc::Sender<io::Result<Bytes>>, followed: Option<Followed>) {
    let (first, longest) = FOLLOW_PAUSES;
    let mut pause = first;
    let mut over = false;
    loop {
        match reader.read(PIECE_BYTES) {
            Err(error) => {
                let _client_is_gone = send.send(Err(error)).await;
                return;
            }
            Ok(piece) if !piece.is_empty() => {
                pause = first;
                if send.send(Ok(piece.into())).await.is_err() {
                    return;
                }
            }
            Ok(_) => {
                let Some(followed) = followed.as_ref().filter(|_| !over && !reader.is_full()) else { return };
                // What was written before the end was seen is still to be read: one more round.
                over = followed.is_over();
                tokio::select! {
                    () = send.closed() => return,
                    () = followed.shared.cancel.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(longest);
            }
        }
    }
}

/// Whether a path can be written to; for a clear word before anything starts.
pub(crate) fn check_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let probe = path.join(".writable");
    fs::write(&probe, b"")?;
    fs::remove_file(probe)
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
