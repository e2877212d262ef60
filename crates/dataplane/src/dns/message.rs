//! Packets to questions, and answers to packets that fit.
//!
//! Pure. What must hold: whatever the bytes are, there is no panic; what is no query at all is met with silence, a query that cannot be
//! understood with FORMERR; a message is never longer than its reader takes.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::Record,
    serialize::binary::{BinEncodable, BinEncoder},
};

/// What every reader takes over UDP (RFC 1035).
const UDP_BYTES_MIN: u16 = 512;
/// The largest message over UDP: what gets through every link without fragments.
pub const UDP_BYTES_MAX: u16 = 1232;
/// The largest message there is.
const TCP_BYTES_MAX: u16 = u16::MAX;
const HEADER_BYTES: usize = 12;

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In one datagram.
    Udp,
    /// In a stream, after its length.
    Tcp,
}

/// A question that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The asker's own number.
    pub id: u16,
    /// The question.
    pub query: Query,
    /// Whether others are to be asked (it is copied, and asked they are in any case).
    pub recursion_desired: bool,
    /// Whether the asker checks signatures himself.
    pub checking_disabled: bool,
    /// Whether the asker speaks EDNS; and then, whether he wants signatures.
    pub edns: Option<bool>,
    /// The longest message that the asker takes. Bytes.
    pub bytes_max: u16,
}

/// A packet, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Not to be answered: too short to be anything, or itself an answer.
    Silence,
    /// To be answered at once, with this.
    Refusal(Vec<u8>),
    /// A question.
    Request(Box<Request>),
}

/// Reads a packet.
#[must_use]
pub fn read(packet: &[u8], transport: Transport) -> Read {
    let Some((&[id_high, id_low, flags, _, questions @ ..], _)) = packet.split_first_chunk::<HEADER_BYTES>()
    else {
        return Read::Silence;
    };
    if flags & 0x80 != 0 {
        return Read::Silence;
    }
    let (id, op_code) = (u16::from_be_bytes([id_high, id_low]), OpCode::from_u8((flags >> 3) & 0x0f));
    let refuse = |code| refusal(&Message::error_msg(id, op_code, code));
    if op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let [high, low, ..] = questions;
    if u16::from_be_bytes([high, low]) != 1 {
        return refuse(ResponseCode::FormErr);
    }
    let Ok(mut message) = Message::from_vec(packet) else { return refuse(ResponseCode::FormErr) };
    let Some(query) = message.queries.pop() else { return refuse(ResponseCode::FormErr) };
    if let Some(edns) = &message.edns
        && edns.version() > 0
    {
        let mut answer = Message::error_msg(id, op_code, ResponseCode::BADVERS);
        answer.set_edns(own_edns(false));
        return refusal(&answer);
    }
    let bytes_max = match transport {
        Transport::Tcp => TCP_BYTES_MAX,
        Transport::Udp => {
            let taken = message.edns.as_ref().map_or(UDP_BYTES_MIN, Edns::max_payload);
            taken.clamp(UDP_BYTES_MIN, UDP_BYTES_MAX)
        }
    };
    Read::Request(Box::new(Request {
        id,
        query,
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        edns: message.edns.as_ref().map(|edns| edns.flags().dnssec_ok),
        bytes_max,
    }))
}

fn refusal(message: &Message) -> Read {
    message.to_vec().map_or(Read::Silence, Read::Refusal)
}

/// What is said of this server in EDNS.
pub fn own_edns(dnssec_ok: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_BYTES_MAX).set_version(0).set_dnssec_ok(dnssec_ok);
    edns
}

/// The records of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    /// How the question went.
    pub code: ResponseCode,
    /// Whether this server has the last word on the name.
    pub authoritative: bool,
    /// Whether whoever was asked has checked signatures.
    pub authentic: bool,
    /// What was asked for.
    pub answers: Vec<Record>,
    /// Of a negative answer, the record that says for how long it holds.
    pub authorities: Vec<Record>,
    /// What goes with it.
    pub additionals: Vec<Record>,
}

impl Records {
    /// No records, and why.
    #[must_use]
    pub fn none(code: ResponseCode) -> Self {
        Self { code, ..Self::default() }
    }
}

/// The packet that answers a request. What does not fit is left out: first what only goes with the answer, then as much of the answer as
/// has to be; then the asker is told to come again over TCP.
#[must_use]
pub fn write(request: &Request, records: Records) -> Vec<u8> {
    let mut message = Message::new(request.id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_desired = request.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.checking_disabled = request.checking_disabled;
    message.metadata.authoritative = records.authoritative;
    message.metadata.authentic_data = records.authentic;
    message.metadata.response_code = records.code;
    message.queries = vec![request.query.clone()];
    message.answers = records.answers;
    message.authorities = records.authorities;
    message.additionals = records.additionals;
    message.edns = request.edns.map(own_edns);
    if let Some(bytes) = fitted(&message, request.bytes_max) {
        return bytes;
    }
    message.additionals.clear();
    if let Some(bytes) = fitted(&message, request.bytes_max) {
        return bytes;
    }
    message.authorities.clear();
    loop {
        // Each round leaves out a part of what is left, and an empty message fits.
        let left = message.answers.len();
        message.answers.truncate(left - left.div_ceil(4));
        if let Some(mut bytes) = fitted(&message, request.bytes_max) {
            if let Some(flags) = bytes.get_mut(2) {
                *flags |= 0x02;
            }
            return bytes;
        }
        if left == 0 {
            return Message::error_msg(request.id, OpCode::Query, ResponseCode::ServFail)
                .to_vec()
                .unwrap_or_default();
        }
    }
}

/// The message's bytes, if all of it fits.
fn fitted(message: &Message, bytes_max: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::from(UDP_BYTES_MIN));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(bytes_max);
    message.emit(&mut encoder).ok()?;
    // The encoder leaves out what does not fit, and says so in the header.
    bytes.get(2).is_some_and(|flags| flags & 0x02 == 0).then_some(bytes)
}
