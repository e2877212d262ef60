//! The netlink sockets: send a transaction and read the kernel's answer, or dump what is there.
//!
//! The kernel works on a batch within the call that sends it, so when the call is back, commit or refusal is done and all
//! answers lie in the receive buffer. A batch must fit one call: the send buffer is made as large as it needs.

use std::{collections::HashSet, io, net::Ipv4Addr};

use hitless_dataplane::KernelError;
use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};

use super::message::{self, Attributes, Received, Transaction, attribute, flag, kind, u32_ne};

const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Datagrams of a dump are at most 32 KiB; error messages are short.
const DATAGRAM_BYTES: usize = 128 << 10;
/// The kernel takes what is asked for twice, as a signed 32-bit number.
const SEND_BUFFER_BYTES_MAX: usize = 1 << 30;
const DUMP_ATTEMPTS_MAX: u32 = 20;
const ENOBUFS: i32 = 105;

/// A connection to nf_tables of one network namespace.
pub struct Connection {
    socket: Socket,
    /// For the namespace's addresses.
    routes: Socket,
    send_buffer_bytes: usize,
    datagram: Vec<u8>,
}

impl Connection {
    /// In the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel's own words with each error, and not the whole message back.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES)?;
        let mut routes = Socket::new(NETLINK_ROUTE)?;
        routes.bind_auto()?;
        routes.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, routes, send_buffer_bytes: 0, datagram: Vec::with_capacity(DATAGRAM_BYTES) })
    }

    /// Commits the transaction, or changes nothing.
    pub fn commit(&mut self, transaction: Transaction) -> Result<(), KernelError> {
        let (bytes, answered, kinds) = transaction.finish();
        while self.receive(false)? {} // Nothing should be left of an earlier call; if so, it must not be taken for ours.
        self.make_room(bytes.len())?;
        self.socket.send(&bytes, 0)?;
        let mut committed = false;
        let mut refusal: Option<String> = None;
        loop {
            match self.receive(false) {
                Ok(true) => {}
                Ok(false) => break,
                // So many answers that some are lost: they can only be errors, and the one that says "committed" comes last.
                Err(error) if error.raw_os_error() == Some(ENOBUFS) => {
                    refusal.get_or_insert_with(|| "more errors than could be read".to_owned());
                }
                Err(error) => return Err(error.into()),
            }
            for received in message::messages(&self.datagram).filter(|m| m.kind == kind::ERROR) {
                match error_of(&received) {
                    Some((0, _)) => committed |= received.sequence == answered,
                    Some((code, text)) => {
                        refusal.get_or_insert_with(|| describe(&kinds, received.sequence, code, text));
                    }
                    None => {}
                }
            }
        }
        match refusal {
            Some(reason) => Err(KernelError::Refused { reason }),
            None if committed => Ok(()),
            None => Err(KernelError::Io(io::Error::other("the transaction was not answered"))),
        }
    }

    /// Dumps and gives each message's attributes to `take`; starts again if a commit came between, so `start` is called before each attempt.
    pub fn dump<T>(
        &mut self,
        kind: u16,
        content: impl Fn(&mut Attributes<'_>),
        start: impl Fn() -> T,
        mut take: impl FnMut(&mut T, &[u8]),
    ) -> Result<T, KernelError> {
        for attempt in 0..DUMP_ATTEMPTS_MAX {
            while self.receive(false)? {}
            let mut request = Vec::new();
            message::append(&mut request, (kind, flag::DUMP, attempt), &content);
            self.make_room(request.len())?;
            self.socket.send(&request, 0)?;
            let mut result = start();
            if self.read_dump(attempt, |attributes| take(&mut result, attributes))? {
                return Ok(result);
            }
        }
        Err(KernelError::Io(io::Error::other("the table changed during each attempt to read it")))
    }

    /// Reads one dump to its end. `false`: it was interrupted by a commit.
    fn read_dump(&mut self, sequence: u32, mut take: impl FnMut(&[u8])) -> Result<bool, KernelError> {
        let mut whole = true;
        loop {
            self.receive(true)?;
            for received in message::messages(&self.datagram).filter(|m| m.sequence == sequence) {
                whole &= received.flags & flag::DUMP_INTERRUPTED == 0;
                match received.kind {
                    kind::ERROR | kind::DONE => {
                        let code = u32_ne(received.payload, 0).unwrap_or(0).cast_signed();
                        return match code {
                            0 => Ok(whole),
                            code => Err(foreign(code)),
                        };
                    }
                    _ => take(received.payload.get(message::NF_HEADER..).unwrap_or_default()),
                }
            }
        }
    }

    /// Makes one request and waits for its answer. The kernel's refusal is an error of the operating system.
    pub fn request(
        &mut self,
        kind: u16,
        content: impl FnOnce(&mut Attributes<'_>),
    ) -> Result<(), KernelError> {
        const SEQUENCE: u32 = 1;
        while self.receive(false)? {}
        let mut request = Vec::new();
        message::append(&mut request, (kind, flag::ACK, SEQUENCE), content);
        self.make_room(request.len())?;
        self.socket.send(&request, 0)?;
        loop {
            self.receive(true)?;
            let answer = message::messages(&self.datagram)
                .find(|received| received.kind == kind::ERROR && received.sequence == SEQUENCE);
            match answer.as_ref().and_then(error_of) {
                Some((0, _)) => return Ok(()),
                Some((code, _)) => return Err(io::Error::from_raw_os_error(-code).into()),
                None => {}
            }
        }
    }

    /// The IPv4 addresses of the network namespace's own links.
    pub fn own_addresses(&mut self) -> Result<HashSet<Ipv4Addr>, KernelError> {
        const GET_ADDRESS: u16 = 22;
        const FAMILY_IPV4: u8 = 2;
        /// A message header and what says which addresses are meant: the family, and zeroes.
        const LENGTH: u8 = 24;
        const LOCAL: u16 = 2;
        let mut request = vec![0; LENGTH.into()];
        for (place, byte) in request.iter_mut().zip(
            [
                u32::from(LENGTH).to_ne_bytes().as_slice(),
                &GET_ADDRESS.to_ne_bytes(),
                &(flag::REQUEST | flag::DUMP).to_ne_bytes(),
            ]
            .concat(),
        ) {
            *place = byte;
        }
        if let Some(family) = request.get_mut(message::HEADER) {
            *family = FAMILY_IPV4;
        }
        self.routes.send(&request, 0)?;
        let mut own = HashSet::new();
        loop {
            self.datagram.clear();
            self.routes.recv(&mut self.datagram, 0)?;
            for received in message::messages(&self.datagram) {
                match received.kind {
                    kind::ERROR => {
                        return Err(foreign(u32_ne(received.payload, 0).unwrap_or(0).cast_signed()));
                    }
                    kind::DONE => return Ok(own),
                    _ => {
                        let attributes = received.payload.get(8..).unwrap_or_default();
                        let address = attribute(attributes, LOCAL).and_then(|octets| octets.try_into().ok());
                        own.extend(address.map(|octets: [u8; 4]| Ipv4Addr::from(octets)));
                    }
                }
            }
        }
    }

    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        let wanted = bytes + 4096;
        if wanted > self.send_buffer_bytes {
            let wanted = wanted.next_power_of_two().clamp(256 << 10, SEND_BUFFER_BYTES_MAX);
            set_socket_send_buffer_size_force(&self.socket, wanted)?;
            self.send_buffer_bytes = wanted;
        }
        Ok(())
    }

    /// Takes one datagram into `self.datagram`. `false`: there is none now.
    fn receive(&mut self, wait: bool) -> io::Result<bool> {
        let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
        self.datagram.clear();
        loop {
            match self.socket.recv(&mut self.datagram, flags) {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}

/// The code of an error message (0: an acknowledgement) and the kernel's words.
fn error_of<'a>(received: &Received<'a>) -> Option<(i32, &'a str)> {
    const EXTENDED_TEXT: u16 = 1;
    let code = u32_ne(received.payload, 0)?.cast_signed();
    // The request's header comes back after the code, then attributes.
    let attributes = received.payload.get(4 + message::HEADER..).unwrap_or_default();
    Some((code, attribute(attributes, EXTENDED_TEXT).map_or("", message::text)))
}

fn describe(kinds: &[u16], sequence: u32, code: i32, text: &str) -> String {
    let kind =
        usize::try_from(sequence).ok().and_then(|s| kinds.get(s)).map_or("message", |k| kind::name(*k));
    let error = io::Error::from_raw_os_error(-code);
    let gap = if text.is_empty() { "" } else { ": " };
    format!("{kind} (message {sequence}): {error}{gap}{text}")
}

fn foreign(code: i32) -> KernelError {
    KernelError::Foreign { reason: io::Error::from_raw_os_error(-code).to_string() }
}
