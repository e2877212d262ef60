//! The workers: threads that each listen, accept and forward by themselves.
//!
//! All of them listen on the same ports; the kernel deals connections out. A connection lives and dies with one worker, its idle upstream
//! connections included, so workers share nothing but the table. What a worker takes on is bounded: at its limit it lets
//! connections wait in the kernel's queue.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use http::uri::Scheme;
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{current::Current, forward::Worker, headers::Origin, table::Table, upstream::Connection};

/// A client's head must be there within this time; so long is an idle connection kept, too.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// A TLS handshake must be done within this time.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// A client that takes nothing of its answer for so long has gone.
const CLIENT_STALLED: Duration = Duration::from_secs(60);
/// As nginx has it: four buffers of 8 KiB.
const HEAD_BYTES_MAX: usize = 32 * 1024;
const HEADERS_MAX: usize = 100;
/// What is read ahead of one connection.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
const STREAMS_MAX: u32 = 128;
const BACKLOG: i32 = 4096;
/// Requests that are under way when the ingress ends have so long.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// Where and how much.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node's addresses.
    pub addresses: Vec<IpAddr>,
    /// For plain HTTP.
    pub http_port: u16,
    /// For TLS.
    pub https_port: u16,
    /// Threads.
    pub workers: usize,
    /// Clients' connections at once, all workers together.
    pub connections_max: usize,
}

impl Options {
    /// On these addresses, with the usual ports.
    #[must_use]
    pub fn new(addresses: Vec<IpAddr>) -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        Self { addresses, http_port: 80, https_port: 443, workers, connections_max: 10_000 }
    }
}

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "the ingress cannot listen on {address}; end what listens there, or choose other ports with --ingress-ports"
)]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// A socket that is bound, and listens once it is used.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    port: u16,
    tls: bool,
}

#[cfg(test)]
impl Bound {
    /// Its port, for tests that let the kernel choose it.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// One socket for each worker, address and port.
///
/// # Errors
/// Something else listens there.
pub fn bind(options: &Options) -> Result<Vec<Vec<Bound>>, ListenError> {
    let ports = [(options.http_port, false), (options.https_port, true)];
    let places: Vec<_> = options
        .addresses
        .iter()
        .flat_map(|ip| ports.map(|(port, tls)| (SocketAddr::new(*ip, port), tls)))
        .collect();
    let one = |(address, tls): &(SocketAddr, bool)| {
        let socket = bound(*address).map_err(|source| ListenError { address: *address, source })?;
        let port = socket.local_addr().ok().and_then(|a| a.as_socket()).map_or(address.port(), |a| a.port());
        Ok(Bound { socket, port, tls: *tls })
    };
    (0..options.workers.max(1)).map(|_| places.iter().map(one).collect()).collect()
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The running workers.
#[derive(Debug)]
pub struct Servers {
    threads: Vec<JoinHandle<()>>,
    cancel: CancellationToken,
}

impl Servers {
    /// Starts one worker for each set of sockets.
    ///
    /// # Errors
    /// A socket cannot listen, or a thread cannot be started.
    pub fn start(
        sockets: Vec<Vec<Bound>>,
        table: &Current<Table<Connection>>,
        tls: &Arc<ServerConfig>,
        connections_max: usize,
    ) -> io::Result<Self> {
        let cancel = CancellationToken::new();
        let limit = (connections_max / sockets.len().max(1)).max(1);
        let mut threads = Vec::new();
        for (number, sockets) in sockets.into_iter().enumerate() {
            let mut listeners = Vec::new();
            for bound in sockets {
                bound.socket.listen(BACKLOG)?;
                listeners.push((StdListener::from(bound.socket), bound.port, bound.tls));
            }
            let server = Server {
                worker: Arc::new(Worker::new(number, table.clone())),
                tls: TlsAcceptor::from(tls.clone()),
                connections: Arc::new(Semaphore::new(limit)),
                tasks: TaskTracker::new(),
                cancel: cancel.clone(),
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let thread = std::thread::Builder::new().name(format!("ingress-{number}"));
            threads.push(thread.spawn(move || runtime.block_on(server.run(listeners)))?);
        }
        Ok(Self { threads, cancel })
    }

    /// Takes no more connections, and returns when those that are open have had the time to end.
    pub async fn stop(self) {
        self.cancel.cancel();
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a worker of the ingress ended in a panic");
                }
            }
        });
        if joined.await.is_err() {
            tracing::error!("the workers of the ingress could not be waited for");
        }
    }
}

/// One worker's side of the connections.
#[derive(Clone)]
struct Server {
    worker: Arc<Worker>,
    tls: TlsAcceptor,
    connections: Arc<Semaphore>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Server {
    async fn run(self, listeners: Vec<(StdListener, u16, bool)>) {
        for (listener, port, tls) in listeners {
            match TcpListener::from_std(listener) {
                Ok(listener) => drop(self.tasks.spawn(self.clone().accept(listener, port, tls))),
                Err(error) => tracing::error!(%error, port, "a worker of the ingress cannot listen"),
            }
        }
        self.cancel.cancelled().await;
        self.tasks.close();
        let _late = tokio::time::timeout(LAST_REQUESTS, self.tasks.wait()).await;
    }

    async fn accept(self, listener: TcpListener, port: u16, tls: bool) {
        loop {
            let next = async {
                // The semaphore is never closed.
                let permit = self.connections.clone().acquire_owned().await.ok();
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = self.cancel.cancelled() => return,
                next = next => next,
            };
            match accepted {
                Ok((stream, client)) => {
                    drop(self.tasks.spawn(self.clone().connection(stream, client.ip(), port, tls, permit)));
                }
                Err(error) => {
                    // Out of files, say: connections wait in the queue meanwhile.
                    tracing::warn!(%error, port, "the ingress cannot take a connection");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    async fn connection(
        self,
        stream: TcpStream,
        client: IpAddr,
        port: u16,
        tls: bool,
        _permit: Option<OwnedSemaphorePermit>,
    ) {
        let _only_slower = stream.set_nodelay(true);
        let _unbounded = SockRef::from(&stream).set_tcp_user_timeout(Some(CLIENT_STALLED));
        let scheme = if tls { Scheme::HTTPS } else { Scheme::HTTP };
        let origin = Arc::new(Origin::new(client, port, &scheme));
        if !tls {
            return self.http1(stream, origin).await;
        }
        match tokio::time::timeout(HANDSHAKE_WITHIN, self.tls.accept(stream)).await {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                self.http2(stream, origin).await;
            }
            Ok(Ok(stream)) => self.http1(stream, origin).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn http1(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, origin: Arc<Origin>) {
        let service = service_fn(|request| self.worker.clone().serve(origin.clone(), request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = self.cancel.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        told(ended);
    }

    async fn http2(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, origin: Arc<Origin>) {
        let worker = self.worker.clone();
        let service = service_fn(move |request| worker.clone().serve(origin.clone(), request));
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
            .keep_alive_interval(HEAD_WITHIN)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = self.cancel.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        told(ended);
    }
}

fn told(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::trace!(error = %hitless_base::chain(&error), "a client's connection ended");
    }
}
