//! Answers over UDP and TCP on one address.
//!
//! One thread does nothing but take datagrams and answer them; what others have to be asked, and TCP, are tasks. What must hold: once
//! [`Server::publish`] has returned, no answer leaves that an older zone gave: an answer is handed to the kernel while the zone is
//! held, and the next zone comes in only when nobody holds it. That is what makes this consumer's word a proven one.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use hickory_proto::op::ResponseCode;
use parking_lot::RwLock;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    forward::Forwarder,
    message::{self, Records, Transport},
    respond::{Ask, Reply, respond},
    zone::Zone,
};

/// Longest query over UDP: no question is as long, whatever options come with it.
const QUERY_BYTES_MAX: usize = 4_096;
/// What the kernel may keep while a burst is being answered. Bytes.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Connections at the same time.
const CONNECTIONS_MAX: usize = 256;
/// A connection without a question for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Who does not take an answer for so long is left.
const WRITE_WITHIN: Duration = Duration::from_secs(2);

/// A zone, and how many there were before it.
struct Present {
    zone: Zone,
    generation: u64,
}

struct Shared {
    present: RwLock<Present>,
    forwarder: Forwarder,
    turn: AtomicUsize,
    ends: AtomicBool,
}

impl Shared {
    fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// What others say to it, from memory or by asking; an answer in any case.
    async fn ask(&self, ask: Ask) -> Vec<u8> {
        let records = match (self.forwarder.known(&ask.question), self.forwarder.place()) {
            (Some(records), _) => records,
            (None, Some(place)) => self.forwarder.ask(&ask.question, place).await,
            (None, None) => Records::none(ResponseCode::Refused),
        };
        ask.answered(records)
    }
}

/// A server that runs. It ends when dropped.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    udp: Option<JoinHandle<()>>,
    cancel: CancellationToken,
    _tcp: AbortOnDropHandle<()>,
}

impl Server {
    /// Begins to answer from `zone` on `address`; others are asked through `forwarder`. Must be called within a runtime.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn start(address: SocketAddr, zone: Zone, forwarder: Forwarder) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        let address = socket.local_addr()?;
        // More than the machine's bound is not given, and less will do.
        let _bounded = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES);
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let shared = Arc::new(Shared {
            present: RwLock::new(Present { zone, generation: 0 }),
            forwarder,
            turn: AtomicUsize::new(0),
            ends: AtomicBool::new(false),
        });
        let cancel = CancellationToken::new();
        let tcp = tokio::spawn(serve_tcp(shared.clone(), listener, cancel.clone()));
        let udp = {
            let (shared, handle) = (shared.clone(), Handle::current());
            let name = "dns".to_owned();
            std::thread::Builder::new()
                .name(name)
                .spawn(move || serve_udp(&shared, &Arc::new(socket), &handle))?
        };
        Ok(Self { shared, address, udp: Some(udp), cancel, _tcp: AbortOnDropHandle::new(tcp) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers from this zone from now on. When it returns, no answer of an older zone leaves any more.
    pub fn publish(&self, zone: Zone) {
        let mut present = self.shared.present.write();
        let generation = present.generation + 1;
        *present = Present { zone, generation };
    }

    /// Whether it still answers.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.udp.as_ref().is_some_and(|udp| !udp.is_finished()) && !self._tcp.is_finished()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Release);
        self.cancel.cancel();
        // An empty datagram wakes the thread, which then sees that it is to end.
        let woken = UdpSocket::bind(SocketAddr::new(self.address.ip(), 0))
            .and_then(|socket| socket.send_to(&[], self.address));
        if let (Ok(_), Some(udp)) = (woken, self.udp.take()) {
            let _ended = udp.join();
        }
    }
}

fn serve_udp(shared: &Arc<Shared>, socket: &Arc<UdpSocket>, handle: &Handle) {
    let mut buffer = [0; QUERY_BYTES_MAX];
    loop {
        let received = socket.recv_from(&mut buffer);
        if shared.ends.load(Ordering::Acquire) {
            return;
        }
        match received {
            Ok((length, from)) => {
                let packet = buffer.get(..length).unwrap_or_default();
                // One bad packet must not silence the server for all others.
                if catch_unwind(AssertUnwindSafe(|| answer_udp(shared, socket, handle, packet, from)))
                    .is_err()
                {
                    tracing::error!(%from, ?packet, "a packet was not answered because of a fault in this program");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!(error = %hitless_base::chain(&error), "no datagram could be taken");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn answer_udp(
    shared: &Arc<Shared>,
    socket: &Arc<UdpSocket>,
    handle: &Handle,
    packet: &[u8],
    from: SocketAddr,
) {
    let ask = {
        let present = shared.present.read();
        match respond(&present.zone, packet, Transport::Udp, shared.next_turn()) {
            Reply::Silence => return,
            Reply::Packet(packet) => return send(socket, &packet, from),
            Reply::Ask(ask) => ask,
        }
    };
    if let Some(records) = shared.forwarder.known(&ask.question) {
        return send(socket, &ask.answered(records), from);
    }
    let Some(place) = shared.forwarder.place() else {
        let refused = message::write(&ask.request, Records::none(ResponseCode::Refused));
        return send(socket, &refused, from);
    };
    let (shared, socket) = (shared.clone(), socket.clone());
    handle.spawn(async move {
        let records = shared.forwarder.ask(&ask.question, place).await;
        send(&socket, &ask.answered(records), from);
    });
}

/// What cannot be sent at once is lost, as datagrams are: the asker asks again.
fn send(socket: &UdpSocket, packet: &[u8], to: SocketAddr) {
    if let Err(error) = rustix::net::sendto(socket, packet, rustix::net::SendFlags::DONTWAIT, &to) {
        tracing::debug!(%to, %error, "an answer was not sent");
    }
}

async fn serve_tcp(shared: Arc<Shared>, listener: TcpListener, cancel: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tasks = tokio_util::task::TaskTracker::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (shared, cancel) = (shared.clone(), cancel.clone());
                tasks.spawn(async move {
                    let _place = place;
                    tokio::select! {
                        () = cancel.cancelled() => {}
                        // However it ended: the asker has seen it.
                        _ended = serve_connection(&shared, stream) => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(error = %hitless_base::chain(&error), "no connection could be taken");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// One question after the other.
async fn serve_connection(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let length = timeout(IDLE_MAX, stream.read_u16()).await??;
        let mut packet = vec![0; usize::from(length)];
        timeout(IDLE_MAX, stream.read_exact(&mut packet)).await??;
        let ask = match answer_tcp(shared, &stream, &packet) {
            Answered::No => return Ok(()),
            Answered::Yes(rest, generation) => {
                timeout(WRITE_WITHIN, write_rest(shared, &stream, rest, Some(generation))).await??;
                continue;
            }
            Answered::Ask(ask) => ask,
        };
        let packet = framed(shared.ask(*ask).await);
        timeout(WRITE_WITHIN, write_rest(shared, &stream, packet, None)).await??;
    }
}

enum Answered {
    /// It was no question.
    No,
    /// Handed to the kernel, but for these bytes; by the zone of this generation.
    Yes(Vec<u8>, u64),
    /// Others are to be asked.
    Ask(Box<Ask>),
}

fn answer_tcp(shared: &Shared, stream: &TcpStream, packet: &[u8]) -> Answered {
    let present = shared.present.read();
    match respond(&present.zone, packet, Transport::Tcp, shared.next_turn()) {
        Reply::Silence => Answered::No,
        Reply::Ask(ask) => Answered::Ask(ask),
        Reply::Packet(packet) => {
            let mut packet = framed(packet);
            let written = stream.try_write(&packet).unwrap_or(0);
            Answered::Yes(packet.split_off(written), present.generation)
        }
    }
}

/// Writes what the kernel did not take at once, as long as the zone is the one that gave it.
async fn write_rest(
    shared: &Shared,
    stream: &TcpStream,
    mut rest: Vec<u8>,
    generation: Option<u64>,
) -> io::Result<()> {
    while !rest.is_empty() {
        stream.writable().await?;
        let present = shared.present.read();
        if generation.is_some_and(|generation| generation != present.generation) {
            return Err(io::Error::other("the answer is out of date"));
        }
        match stream.try_write(&rest) {
            Ok(written) => rest = rest.split_off(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A message after its length.
fn framed(packet: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(packet.len()).unwrap_or_default();
    let mut framed = Vec::with_capacity(packet.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&packet);
    framed
}
