//! The TCP connections of a network namespace, asked of the kernel's socket diagnosis (sock_diag, the source of `ss`).
//!
//! Layouts are those of the kernel's uapi headers `linux/inet_diag.h` and `linux/tcp.h`; numbers are in the machine's own order, ports
//! in the network's. Fields that an older kernel does not send are read as zero, which errs on the side of waiting.

use std::{collections::HashSet, fs::File, io, os::fd::AsFd};

use hitless_kubelet::ports::Connection;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::node::priority;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
/// Length of a request with its header, and of an answer without: both happen to be as long.
const DIAG_MESSAGE: usize = 72;
const TCP: u8 = 6;
const INFO: u16 = 2;
/// Bits of the states asked for, and the numbers of those that mean something here.
const ESTABLISHED: u8 = 1;
const SYN_RECEIVED: u8 = 3;
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;
const NEW_SYN_RECEIVED: u8 = 12;
const STATES: u32 =
    1 << ESTABLISHED | 1 << SYN_RECEIVED | 1 << CLOSE_WAIT | 1 << LISTEN | 1 << NEW_SYN_RECEIVED;
/// Datagrams of a dump are at most 32 KiB.
const DATAGRAM_BYTES: usize = 64 << 10;
/// A Pod with more sockets is busy, whatever the rest of them say.
const SOCKETS_MAX: usize = 100_000;

/// The TCP sockets of a namespace.
pub async fn of(namespace: File) -> io::Result<Sockets> {
    let (done, answer) = oneshot::channel();
    // A namespace is entered by a thread and stays with it, so this thread is for nothing else.
    std::thread::Builder::new().name("sockets".into()).spawn(move || {
        priority::prefer();
        let _asker_has_gone = done.send(look(&namespace));
    })?;
    answer.await.unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
}

fn look(namespace: &File) -> io::Result<Sockets> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut found = Sockets::default();
    for (sequence, family) in [(1, libc::AF_INET), (2, libc::AF_INET6)] {
        socket.send(&request(u8::try_from(family).unwrap_or_default(), sequence), 0)?;
        read(&socket, sequence, &mut found)?;
    }
    Ok(found)
}

fn request(family: u8, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(DIAG_MESSAGE);
    bytes.extend_from_slice(&(DIAG_MESSAGE as u32).to_ne_bytes());
    bytes.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes.extend_from_slice(&[family, TCP, 1 << (INFO - 1), 0]);
    bytes.extend_from_slice(&STATES.to_ne_bytes());
    bytes.resize(DIAG_MESSAGE, 0); // any address and port
    bytes
}

fn read(socket: &Socket, sequence: u32, found: &mut Sockets) -> io::Result<()> {
    let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
    loop {
        datagram.clear();
        socket.recv(&mut datagram, 0)?;
        let mut rest = datagram.as_slice();
        while let Some(length) = u32_at(rest, 0).map(|n| n as usize).filter(|n| *n >= HEADER) {
            let (Some(kind), Some(message)) = (u16_at(rest, 4), rest.get(HEADER..length)) else { break };
            let ours = u32_at(rest, 8) == Some(sequence);
            match kind {
                DONE if ours => return Ok(()),
                ERROR if ours => {
                    let code = u32_at(message, 0).unwrap_or_default().cast_signed();
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                SOCK_DIAG_BY_FAMILY if ours => found.take(message)?,
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// The TCP sockets of one network namespace at one moment.
#[derive(Default)]
pub struct Sockets {
    listening: HashSet<u16>,
    connections: Vec<(u16, Connection)>,
}

impl Sockets {
    /// Takes in one socket.
    fn take(&mut self, message: &[u8]) -> io::Result<()> {
        let (Some(state), Some(port)) = (message.get(1).copied(), u16_at(message, 4)) else { return Ok(()) };
        if state == LISTEN {
            self.listening.insert(port);
            return Ok(());
        }
        if self.connections.len() >= SOCKETS_MAX {
            return Err(io::Error::other(format!("more than {SOCKETS_MAX} connections")));
        }
        let info = attribute(message.get(DIAG_MESSAGE..).unwrap_or_default(), INFO);
        let number = |at| u32_at(info, at).unwrap_or_default();
        let received = info.get(128..136).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
        self.connections.push((
            port,
            Connection {
                opening: matches!(state, SYN_RECEIVED | NEW_SYN_RECEIVED),
                unread_bytes: u32_at(message, 56).unwrap_or_default(),
                received_bytes: received.unwrap_or_default(),
                sent_segments: number(156),
                since_received_ms: number(52),
                since_sent_ms: number(44),
            },
        ));
        Ok(())
    }

    /// Whether somebody listens on each of these ports (in the machine's own order, as everybody writes them).
    pub fn listens(&self, ports: &[u16]) -> bool {
        ports.iter().all(|port| self.listening.contains(&port.to_be()))
    }

    /// The connections that others have opened to the namespace: those to a port on which somebody there listens.
    pub fn incoming(self) -> Vec<Connection> {
        let Self { listening, connections } = self;
        connections.into_iter().filter(|(port, _)| listening.contains(port)).map(|(_, c)| c).collect()
    }
}

/// The value of the first attribute of this kind; empty: there is none.
fn attribute(mut rest: &[u8], wanted: u16) -> &[u8] {
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let length = usize::from(length);
        if kind == wanted {
            return rest.get(4..length).unwrap_or_default();
        }
        if length < 4 {
            break;
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    &[]
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::node::netns;

    /// A namespace for one test.
    struct Namespace(&'static str);

    impl Namespace {
        fn new(name: &'static str) -> Self {
            netns::create(name).unwrap();
            netns::inside(name, || {
                let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
                assert!(up.unwrap().success());
            })
            .unwrap();
            Self(name)
        }
        async fn sockets(&self) -> Sockets {
            of(netns::open(self.0).unwrap()).await.unwrap()
        }
        async fn incoming(&self) -> Vec<Connection> {
            self.sockets().await.incoming()
        }
    }

    impl Drop for Namespace {
        fn drop(&mut self) {
            let _gone = netns::delete(self.0);
        }
    }

    /// How many wait, and of how many.
    async fn waiting(namespace: &Namespace) -> (usize, usize) {
        let all = namespace.incoming().await;
        (all.iter().filter(|connection| connection.waits()).count(), all.len())
    }

    #[tokio::test]
    async fn a_connection_waits_from_its_handshake_to_its_answer() {
        let namespace = Namespace::new("hitless.test-sockets.node-1");
        assert_eq!(waiting(&namespace).await, (0, 0));
        for address in ["127.0.0.1:80", "[::1]:81"] {
            let (listener, mut client) = netns::inside(namespace.0, || {
                let listener = TcpListener::bind(address).unwrap();
                (listener, TcpStream::connect(address).unwrap())
            })
            .unwrap();
            assert_eq!(waiting(&namespace).await, (1, 1), "connected, and not even accepted");
            let port = address.rsplit_once(':').unwrap().1.parse().unwrap();
            let sockets = namespace.sockets().await;
            assert!(sockets.listens(&[port]) && !sockets.listens(&[port, 9999]), "{port}");
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            assert_eq!(waiting(&namespace).await, (1, 1), "unread");
            let (mut server, _) = listener.accept().unwrap();
            let mut request = [0; 18];
            server.read_exact(&mut request).unwrap();
            assert_eq!(waiting(&namespace).await, (1, 1), "read, and not answered");
            server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            client.read_exact(&mut [0; 19]).unwrap();
            assert_eq!(waiting(&namespace).await, (0, 1), "answered and kept alive");
            // Beyond the kernel's tick, within which two times cannot be told apart.
            std::thread::sleep(std::time::Duration::from_millis(30));
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            server.read_exact(&mut request).unwrap();
            assert_eq!(waiting(&namespace).await, (1, 1), "the next request");
            drop((client, server, listener));
            assert_eq!(waiting(&namespace).await, (0, 0));
        }
    }

    #[test]
    fn what_is_cut_off_is_no_panic() {
        let whole = [7_u8; 300];
        for length in 0..whole.len() {
            let mut found = Sockets::default();
            found.take(&whole[..length]).unwrap();
            let _any = attribute(&whole[..length], INFO);
        }
        assert_eq!(attribute(&[0, 0, 9, 0], INFO), &[] as &[u8], "a length that leads nowhere");
    }
}
