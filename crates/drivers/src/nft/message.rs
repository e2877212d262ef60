//! Netlink messages of nf_tables and of connection tracking, written and read: headers, attributes, and batches of them.
//!
//! The numbers are those of the kernel's uapi headers (`linux/netlink.h`, `linux/netfilter/nfnetlink.h`, `linux/netfilter/nf_tables.h`,
//! `linux/netfilter/nfnetlink_conntrack.h`).
//! Integers in attributes are big-endian; what sits in registers and keys has its own order.

/// Message types of nf_tables, with the subsystem in the upper byte.
pub mod kind {
    const SUBSYSTEM: u16 = 10 << 8;
    pub const NEW_TABLE: u16 = SUBSYSTEM;
    pub const DELETE_TABLE: u16 = SUBSYSTEM | 2;
    pub const NEW_CHAIN: u16 = SUBSYSTEM | 3;
    pub const GET_CHAIN: u16 = SUBSYSTEM | 4;
    pub const DELETE_CHAIN: u16 = SUBSYSTEM | 5;
    pub const NEW_RULE: u16 = SUBSYSTEM | 6;
    pub const GET_RULE: u16 = SUBSYSTEM | 7;
    pub const NEW_SET: u16 = SUBSYSTEM | 9;
    pub const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
    pub const GET_ELEMENT: u16 = SUBSYSTEM | 13;
    pub const DELETE_ELEMENT: u16 = SUBSYSTEM | 14;
    /// Of connection tracking: list, and delete.
    pub const GET_FLOW: u16 = (1 << 8) | 1;
    pub const DELETE_FLOW: u16 = (1 << 8) | 2;
    pub const BATCH_BEGIN: u16 = 16;
    pub const BATCH_END: u16 = 17;
    pub const ERROR: u16 = 2;
    pub const DONE: u16 = 3;

    /// The message's name, for error texts.
    pub fn name(kind: u16) -> &'static str {
        match kind {
            NEW_TABLE => "new table",
            DELETE_TABLE => "delete table",
            NEW_CHAIN => "new chain",
            DELETE_CHAIN => "delete chain",
            NEW_RULE => "new rule",
            NEW_SET => "new set",
            NEW_ELEMENT => "add elements",
            DELETE_ELEMENT => "delete elements",
            BATCH_BEGIN => "begin",
            BATCH_END => "end",
            _ => "message",
        }
    }
}

/// Flags of a message header.
pub mod flag {
    pub const REQUEST: u16 = 0x1;
    pub const ACK: u16 = 0x4;
    pub const DUMP_INTERRUPTED: u16 = 0x10;
    pub const DUMP: u16 = 0x300;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
}

/// Length of a message header in bytes.
pub const HEADER: usize = 16;
/// Length of the nfnetlink header that follows it.
pub const NF_HEADER: usize = 4;
const FAMILY_NONE: u8 = 0;
const FAMILY_IPV4: u8 = 2;
const SUBSYSTEM_NF_TABLES: u16 = 10;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// Attributes being written at the end of a buffer.
pub struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.begin(kind);
        self.0.extend_from_slice(value);
        self.end(start);
    }

    /// Attributes that are written already.
    pub fn raw(&mut self, attributes: &[u8]) {
        self.0.extend_from_slice(attributes);
    }

    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// With the zero byte at its end that the kernel expects.
    pub fn string(&mut self, kind: u16, value: &str) {
        let start = self.begin(kind);
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
        self.end(start);
    }

    /// Attributes within an attribute. Its length field has 16 bits: the caller keeps the content below 64 KiB.
    pub fn nest(&mut self, kind: u16, content: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.begin(kind | NESTED);
        content(&mut Attributes(self.0));
        self.end(start);
    }

    fn begin(&mut self, kind: u16) -> usize {
        let start = self.0.len();
        self.0.extend_from_slice(&0_u16.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize) {
        let length = self.0.len() - start;
        debug_assert!(u16::try_from(length).is_ok(), "an attribute of {length} bytes");
        patch(self.0, start, &u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
        pad(self.0);
    }
}

fn patch(buffer: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = buffer.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn pad(buffer: &mut Vec<u8>) {
    buffer.resize(buffer.len().next_multiple_of(4), 0);
}

/// Appends one message; gives where it starts.
pub fn append(
    buffer: &mut Vec<u8>,
    (kind, flags, sequence): (u16, u16, u32),
    content: impl FnOnce(&mut Attributes<'_>),
) -> usize {
    let control = kind == kind::BATCH_BEGIN || kind == kind::BATCH_END;
    let (family, resource) = if control { (FAMILY_NONE, SUBSYSTEM_NF_TABLES) } else { (FAMILY_IPV4, 0) };
    let start = buffer.len();
    buffer.extend_from_slice(&0_u32.to_ne_bytes());
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(&(flags | flag::REQUEST).to_ne_bytes());
    buffer.extend_from_slice(&sequence.to_ne_bytes());
    buffer.extend_from_slice(&0_u32.to_ne_bytes());
    buffer.extend_from_slice(&[family, 0]);
    buffer.extend_from_slice(&resource.to_be_bytes());
    content(&mut Attributes(buffer));
    let length = u32::try_from(buffer.len() - start).unwrap_or(u32::MAX);
    patch(buffer, start, &length.to_ne_bytes());
    pad(buffer);
    start
}

/// A batch of messages that the kernel commits as one.
pub struct Transaction {
    buffer: Vec<u8>,
    last: usize,
    /// Kind of each message; its place is its sequence number.
    kinds: Vec<u16>,
}

impl Transaction {
    pub fn new() -> Self {
        let mut transaction = Self { buffer: Vec::with_capacity(4096), last: 0, kinds: Vec::new() };
        transaction.push(kind::BATCH_BEGIN, 0, |_| {});
        transaction
    }

    /// Adds a message.
    pub fn push(&mut self, kind: u16, flags: u16, content: impl FnOnce(&mut Attributes<'_>)) {
        let sequence = u32::try_from(self.kinds.len()).unwrap_or(u32::MAX);
        self.last = append(&mut self.buffer, (kind, flags, sequence), content);
        self.kinds.push(kind);
    }

    /// Ends the batch. The last message before the end asks for an answer: the kernel gives it after the commit.
    /// Returns the bytes, and the sequence number whose answer to wait for.
    pub fn finish(mut self) -> (Vec<u8>, u32, Vec<u16>) {
        let answered = u32::try_from(self.kinds.len() - 1).unwrap_or(u32::MAX);
        let at = self.last + 6;
        let flags = self.buffer.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes);
        patch(&mut self.buffer, at, &(flags | flag::ACK).to_ne_bytes());
        self.push(kind::BATCH_END, 0, |_| {});
        (self.buffer, answered, self.kinds)
    }
}

/// One message as it came.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
}

/// The messages in a datagram; whatever is cut short is left out.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_ne(datagram, 0)?).ok()?;
        let message = datagram.get(..length).filter(|m| m.len() >= HEADER)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received {
            kind: u16_ne(message, 4)?,
            flags: u16_ne(message, 6)?,
            sequence: u32_ne(message, 8)?,
            payload: message.get(HEADER..)?,
        })
    })
}

/// The attributes in `bytes`, each with its type.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_ne(bytes, 0)?);
        let kind = u16_ne(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of this type.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

/// An attribute's text, without the zero byte at its end.
pub fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).unwrap_or_default()
}

/// The 32 bits at `at`, in the machine's order.
pub fn u32_ne(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u16_ne(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}
