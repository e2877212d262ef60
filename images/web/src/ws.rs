//! The WebSocket protocol (RFC 6455): the key's answer, frames as bytes, and a reader that puts messages together. No sockets.
//!
//! What must hold: nothing that a peer sends makes it hold more than one frame and one message, and what the protocol forbids is
//! named with the code that the connection is then to be closed with.

use crate::digest;

/// A longer frame is refused with [`TOO_BIG`]; a longer message is sent in several.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// A longer message is refused with [`TOO_BIG`].
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// The longest header: two bytes, eight of length, four of mask.
pub const HEADER_BYTES_MAX: usize = 14;

/// Closed because all is said.
pub const NORMAL: u16 = 1000;
/// Closed because the server ends.
pub const GOING_AWAY: u16 = 1001;
/// Closed because of what the protocol forbids.
pub const WRONG: u16 = 1002;
/// Closed because text was not UTF-8.
pub const NOT_TEXT: u16 = 1007;
/// Closed because of its size.
pub const TOO_BIG: u16 = 1009;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// A control frame's payload is no longer than this.
const CONTROL_BYTES_MAX: usize = 125;

/// What `Sec-WebSocket-Accept` says to this `Sec-WebSocket-Key`.
pub fn accept(key: &str) -> String {
    digest::base64(&digest::sha1(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes()))
}

/// What a message holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Anything.
    Binary,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing whole yet.
    More,
    /// A message, put together.
    Message(Kind, Vec<u8>),
    /// To be answered with a pong of the same payload.
    Ping(Vec<u8>),
    /// The end, with the peer's code if it gave one.
    Close(Option<u16>),
    /// The code to close with, and why. Nothing more can be read.
    Wrong(u16, &'static str),
}

/// Reads one direction of a connection.
pub struct Reader {
    /// Clients must mask their frames, servers must not.
    masked: bool,
    /// The fragments so far of a message that has not ended.
    begun: Option<(Kind, Vec<u8>)>,
}

struct Header {
    fin: bool,
    opcode: u8,
    mask: Option<[u8; 4]>,
    header_bytes: usize,
    payload_bytes: usize,
}

impl Reader {
    /// Reads what clients send.
    pub fn of_client() -> Self {
        Self { masked: true, begun: None }
    }

    /// Reads what servers send.
    pub fn of_server() -> Self {
        Self { masked: false, begun: None }
    }

    /// Takes the next event from the front of `input`.
    pub fn next(&mut self, input: &mut Vec<u8>) -> Event {
        loop {
            let header = match Header::read(input, self.masked) {
                Ok(Some(header)) => header,
                Ok(None) => return Event::More,
                Err((code, why)) => return Event::Wrong(code, why),
            };
            let held = self.begun.as_ref().map_or(0, |(_, bytes)| bytes.len());
            if header.opcode < CLOSE && held + header.payload_bytes > MESSAGE_BYTES_MAX {
                return Event::Wrong(TOO_BIG, "message too long");
            }
            let end = header.header_bytes + header.payload_bytes;
            if input.len() < end {
                return Event::More;
            }
            let mut payload: Vec<u8> = input.drain(..end).skip(header.header_bytes).collect();
            if let Some(mask) = header.mask {
                payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
            }
            if let Some(event) = self.take(&header, payload) {
                return event;
            }
        }
    }

    fn take(&mut self, header: &Header, payload: Vec<u8>) -> Option<Event> {
        let message = match (header.opcode, self.begun.take()) {
            (CONTINUATION, Some((kind, mut bytes))) => {
                bytes.extend_from_slice(&payload);
                (kind, bytes)
            }
            (TEXT, None) => (Kind::Text, payload),
            (BINARY, None) => (Kind::Binary, payload),
            (CONTINUATION, None) => return Some(Event::Wrong(WRONG, "a continuation of nothing")),
            (TEXT | BINARY, Some(_)) => return Some(Event::Wrong(WRONG, "a message inside another")),
            (control, begun) => {
                self.begun = begun;
                return match control {
                    CLOSE => Some(close_of(&payload)),
                    PING => Some(Event::Ping(payload)),
                    // An answer to a ping, or a sign of life that nobody asked for: both mean nothing here.
                    _ => None,
                };
            }
        };
        if !header.fin {
            self.begun = Some(message);
            return None;
        }
        if message.0 == Kind::Text && str::from_utf8(&message.1).is_err() {
            return Some(Event::Wrong(NOT_TEXT, "text that is not UTF-8"));
        }
        Some(Event::Message(message.0, message.1))
    }
}

impl Header {
    /// `None` while it is not whole. What is wrong is said as soon as it can be seen.
    fn read(input: &[u8], masked: bool) -> Result<Option<Self>, (u16, &'static str)> {
        let &[first, second, ..] = input else { return Ok(None) };
        let (fin, opcode) = (first & FIN != 0, first & 0x0f);
        if first & 0x70 != 0 {
            return Err((WRONG, "reserved bits set"));
        }
        if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
            return Err((WRONG, "unknown kind of frame"));
        }
        if (second & MASKED != 0) != masked {
            return Err((WRONG, if masked { "frame not masked" } else { "frame masked" }));
        }
        let number = |bytes: usize| {
            let bytes = input.get(2..2 + bytes)?;
            Some(bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
        };
        // The shortest form must be used.
        let (bytes, length, least) = match second & 0x7f {
            126 => (2, number(2), 126),
            127 => (8, number(8), 1 << 16),
            short => (0, Some(u64::from(short)), 0),
        };
        if opcode >= CLOSE && (!fin || second & 0x7f > CONTROL_BYTES_MAX as u8) {
            return Err((WRONG, "control frame too long or in parts"));
        }
        let Some(length) = length else { return Ok(None) };
        if length < least || length >= 1 << 63 {
            return Err((WRONG, "length in a form that is not allowed"));
        }
        let Some(payload_bytes) = usize::try_from(length).ok().filter(|length| *length <= FRAME_BYTES_MAX)
        else {
            return Err((TOO_BIG, "frame too long"));
        };
        let header_bytes = 2 + bytes + if masked { 4 } else { 0 };
        let mask = match input.get(2 + bytes..header_bytes) {
            Some(mask) => mask.try_into().ok(),
            None => return Ok(None),
        };
        Ok(Some(Self { fin, opcode, mask, header_bytes, payload_bytes }))
    }
}

fn close_of(payload: &[u8]) -> Event {
    match payload {
        [] => Event::Close(None),
        [_] => Event::Wrong(WRONG, "half a code"),
        [high, low, reason @ ..] => match u16::from_be_bytes([*high, *low]) {
            _ if str::from_utf8(reason).is_err() => Event::Wrong(NOT_TEXT, "text that is not UTF-8"),
            code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => Event::Close(Some(code)),
            _ => Event::Wrong(WRONG, "a code that may not be sent"),
        },
    }
}

/// A message, in as many frames as its length needs. Clients give a mask for each frame, servers none.
pub fn message(kind: Kind, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut opcode = if kind == Kind::Text { TEXT } else { BINARY };
    let mut bytes = Vec::with_capacity(payload.len() + HEADER_BYTES_MAX);
    let mut rest = payload;
    loop {
        let (part, after) = rest.split_at(rest.len().min(FRAME_BYTES_MAX));
        frame(&mut bytes, opcode | if after.is_empty() { FIN } else { 0 }, part, mask);
        if after.is_empty() {
            return bytes;
        }
        (opcode, rest) = (CONTINUATION, after);
    }
}

/// A ping's answer.
pub fn pong(payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame(&mut bytes, FIN | PONG, payload, mask);
    bytes
}

/// The end; without a code if the peer gave none.
pub fn close(code: Option<u16>, mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let payload = code.map(u16::to_be_bytes);
    frame(&mut bytes, FIN | CLOSE, payload.as_ref().map_or(&[], |code| code), mask);
    bytes
}

fn frame(out: &mut Vec<u8>, first: u8, payload: &[u8], mask: Option<[u8; 4]>) {
    let masked = if mask.is_some() { MASKED } else { 0 };
    out.push(first);
    match payload.len() {
        short @ 0..126 => out.push(masked | short as u8),
        middle @ 126..0x1_0000 => {
            out.push(masked | 126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(masked | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(mask.as_ref().map_or(&[], |mask| mask));
    let mask = mask.unwrap_or_default();
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: Option<[u8; 4]> = Some([0x37, 0xfa, 0x21, 0x3d]);

    fn events(mut reader: Reader, bytes: &[u8]) -> Vec<Event> {
        let mut input = bytes.to_vec();
        let mut events = Vec::new();
        loop {
            match reader.next(&mut input) {
                Event::More => return events,
                wrong @ Event::Wrong(..) => {
                    events.push(wrong);
                    return events;
                }
                event => events.push(event),
            }
        }
    }

    #[test]
    fn the_examples_of_the_specification() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let hello = Event::Message(Kind::Text, b"Hello".to_vec());
        let plain = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        assert_eq!(events(Reader::of_server(), &plain), [hello]);
        assert_eq!(message(Kind::Text, b"Hello", None), plain);
        let hello = Event::Message(Kind::Text, b"Hello".to_vec());
        let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(events(Reader::of_client(), &masked), [hello]);
        assert_eq!(message(Kind::Text, b"Hello", MASK), masked);
        let hello = Event::Message(Kind::Text, b"Hello".to_vec());
        let parts = [0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
        assert_eq!(events(Reader::of_server(), &parts), [hello]);
        let ping = [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        assert_eq!(events(Reader::of_server(), &ping), [Event::Ping(b"Hello".to_vec())]);
        let pong_frame = [0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(pong(b"Hello", MASK), pong_frame);
        assert_eq!(events(Reader::of_client(), &pong_frame), []);
        let binary = message(Kind::Binary, &[7; 256], None);
        assert_eq!(binary[..4], [0x82, 0x7e, 0x01, 0x00]);
        let binary = message(Kind::Binary, &[7; 65536], None);
        assert_eq!(binary[..10], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn what_is_written_is_read_again_however_it_arrives() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 65_537, MESSAGE_BYTES_MAX] {
            let payload: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let bytes = message(Kind::Binary, &payload, MASK);
            assert_eq!(events(Reader::of_client(), &bytes), [Event::Message(Kind::Binary, payload)]);
        }
        // Byte for byte, with a ping between the fragments.
        let mut bytes =
            vec![0x01, 0x81, 0, 0, 0, 0, b'a', 0x89, 0x80, 1, 2, 3, 4, 0x80, 0x81, 0, 0, 0, 0, b'b'];
        bytes.extend(close(Some(NORMAL), MASK));
        let (mut reader, mut input, mut seen) = (Reader::of_client(), Vec::new(), Vec::new());
        for byte in bytes {
            input.push(byte);
            match reader.next(&mut input) {
                Event::More => {}
                event => seen.push(event),
            }
        }
        let whole = Event::Message(Kind::Text, b"ab".to_vec());
        assert_eq!(seen, [Event::Ping(Vec::new()), whole, Event::Close(Some(NORMAL))]);
    }

    #[test]
    fn what_is_forbidden_is_refused_with_its_code() {
        for (bytes, code, what) in [
            (&[0xc1, 0x80][..], WRONG, "reserved bit"),
            (&[0x83, 0x80], WRONG, "unknown kind"),
            (&[0x8b, 0x80], WRONG, "unknown control"),
            (&[0x81, 0x05], WRONG, "not masked"),
            (&[0x09, 0x80], WRONG, "ping in parts"),
            (&[0x89, 0xfe], WRONG, "long ping"),
            (&[0x80, 0x80, 0, 0, 0, 0], WRONG, "continuation of nothing"),
            (&[0x01, 0x80, 0, 0, 0, 0, 0x81, 0x80, 0, 0, 0, 0], WRONG, "message in a message"),
            (&[0x81, 0xfe, 0, 125], WRONG, "not the shortest length"),
            (&[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], WRONG, "not the shortest length"),
            (&[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], WRONG, "highest bit of a length"),
            (&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 1], TOO_BIG, "frame"),
            (&[0x81, 0x81, 0, 0, 0, 0, 0xff], NOT_TEXT, "not UTF-8"),
            (&[0x88, 0x81, 0, 0, 0, 0, 3], WRONG, "half a code"),
            (&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xed], WRONG, "1005 may not be sent"),
            (&[0x88, 0x83, 0, 0, 0, 0, 0x03, 0xe8, 0xff], NOT_TEXT, "reason not UTF-8"),
        ] {
            let events = events(Reader::of_client(), bytes);
            assert!(matches!(events[..], [Event::Wrong(is, _)] if is == code), "{what}: {events:?}");
        }
        assert!(matches!(events(Reader::of_server(), &[0x81, 0x80])[..], [Event::Wrong(WRONG, _)]));
        // Each frame is short enough, the message is not.
        let long = message(Kind::Binary, &vec![0; MESSAGE_BYTES_MAX + 1], MASK);
        assert!(matches!(events(Reader::of_client(), &long)[..], [Event::Wrong(TOO_BIG, _)]));
    }

    #[test]
    fn arbitrary_bytes_end_in_something() {
        let mut state = 1_u64;
        for _ in 0..20_000 {
            let mut input: Vec<u8> = (0..40)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            let mut reader = Reader::of_client();
            while !matches!(reader.next(&mut input), Event::More | Event::Wrong(..)) {}
        }
    }
}
