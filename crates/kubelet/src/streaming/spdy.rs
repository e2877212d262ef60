//! The part of SPDY/3.1 that a client of the runtime's streaming server needs: one connection, a few streams, data both ways.
//!
//! containerd's own WebSockets (`v4.channel.k8s.io`) cannot close standard input alone; a SPDY stream can be half closed, so
//! that `tar`, `cat` and `sort` in a container see the end of what they read. No compression is needed: what this side
//! sends as header blocks is stored, not deflated, which every zlib reader takes; what the other side answers in its
//! header blocks does not matter and is skipped. The streaming server keeps no flow-control windows, and so does this.
//!
//! What must hold: header blocks of one connection are one zlib stream (its two header bytes come once, and each block ends flushed);
//! data is sent on a stream only after its reply, because the other side drops what comes earlier.
//! See <https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>.

use std::{collections::VecDeque, io};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
const FLAG_FIN: u8 = 1;
/// A frame's first part, whatever its kind.
const HEAD_LEN: usize = 8;
/// Data is handed on in pieces of this size, however long its frame is.
const PIECE_LEN: usize = 32 * 1024;
/// A control frame longer than this is not one of a streaming server's.
const CONTROL_LEN_MAX: usize = 64 * 1024;
/// Frames that may come before all streams are answered.
const EARLY_MAX: usize = 64;

/// What the other side said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Bytes of a stream; `fin`: its last.
    Data {
        /// The stream.
        stream: u32,
        /// Nothing more comes.
        fin: bool,
        /// May be empty.
        data: Bytes,
    },
    /// A stream was accepted.
    Reply(u32),
    /// A stream is over, in both directions.
    Reset(u32),
    /// To be sent back.
    Ping(u32),
    /// The connection will end.
    GoAway,
    /// Anything else.
    Other,
}

/// A client's connection, with its streams open.
pub(super) struct Session<S> {
    /// What the other side says.
    pub reader: Reader<S>,
    /// What this side says.
    pub writer: Writer<S>,
}

/// Reads frames.
pub(super) struct Reader<S> {
    io: ReadHalf<S>,
    early: VecDeque<Frame>,
    /// The data frame that is being read: stream, last one, bytes to come.
    current: Option<(u32, bool, usize)>,
}

/// Writes frames.
pub(super) struct Writer<S> {
    io: WriteHalf<S>,
    begun: bool,
}

/// The id of a connection's n-th stream: a client's are odd.
pub(super) fn stream_id(index: usize) -> u32 {
    u32::try_from(index * 2 + 1).unwrap_or(u32::MAX)
}

fn broken(words: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words.to_owned())
}

impl<S: AsyncRead + AsyncWrite> Session<S> {
    /// Opens one stream for each word of `kinds` (header `streamtype`) and waits until all are accepted.
    pub async fn open(io: S, kinds: &[&str]) -> io::Result<Self> {
        let (read, write) = tokio::io::split(io);
        let mut reader = Reader { io: read, early: VecDeque::new(), current: None };
        let mut writer = Writer { io: write, begun: false };
        for (index, kind) in kinds.iter().enumerate() {
            writer.open(stream_id(index), &[("streamtype", kind)]).await?;
        }
        let mut open = 0;
        let mut early = VecDeque::new();
        while open < kinds.len() {
            match reader.next().await? {
                None => return Err(broken("the runtime closed the connection before its streams were open")),
                Some(Frame::Reply(_)) => open += 1,
                Some(Frame::Reset(_) | Frame::GoAway) => {
                    return Err(broken("the runtime refused a stream"));
                }
                Some(Frame::Ping(id)) => writer.pong(id).await?,
                Some(frame) if early.len() < EARLY_MAX => early.push_back(frame),
                Some(_) => return Err(broken("the runtime does not answer its streams")),
            }
        }
        reader.early = early;
        Ok(Self { reader, writer })
    }
}

impl<S: AsyncRead> Reader<S> {
    /// The next frame, long data in pieces; `None`: the connection has ended. Must not be dropped before it resolves.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        if let Some(frame) = self.early.pop_front() {
            return Ok(Some(frame));
        }
        if let Some((stream, fin, left)) = self.current.take() {
            return self.piece(stream, fin, left).await.map(Some);
        }
        let mut head = [0; HEAD_LEN];
        if self.io.read(&mut head[..1]).await? == 0 {
            return Ok(None);
        }
        self.io.read_exact(&mut head[1..]).await?;
        let [a, b, c, d, flags, rest @ ..] = head;
        let fin = flags & FLAG_FIN != 0;
        let len = usize::try_from(u32::from_be_bytes([0, rest[0], rest[1], rest[2]])).unwrap_or(usize::MAX);
        if a & 0x80 == 0 {
            return self.piece(u32::from_be_bytes([a, b, c, d]), fin, len).await.map(Some);
        }
        if u16::from_be_bytes([a & 0x7f, b]) != VERSION || len > CONTROL_LEN_MAX {
            return Err(broken("the runtime does not speak SPDY/3.1"));
        }
        let mut body = vec![0; len];
        self.io.read_exact(&mut body).await?;
        Ok(Some(control(u16::from_be_bytes([c, d]), &body)))
    }

    async fn piece(&mut self, stream: u32, fin: bool, left: usize) -> io::Result<Frame> {
        let mut data = BytesMut::zeroed(left.min(PIECE_LEN));
        self.io.read_exact(&mut data).await?;
        let left = left - data.len();
        if left > 0 {
            self.current = Some((stream, fin, left));
        }
        Ok(Frame::Data { stream, fin: fin && left == 0, data: data.freeze() })
    }
}

fn control(kind: u16, body: &[u8]) -> Frame {
    let first = body.first_chunk::<4>().map(|id| u32::from_be_bytes(*id));
    match (kind, first) {
        (SYN_REPLY, Some(id)) => Frame::Reply(id & 0x7fff_ffff),
        (RST_STREAM, Some(id)) => Frame::Reset(id & 0x7fff_ffff),
        (PING, Some(id)) => Frame::Ping(id),
        (GO_AWAY, _) => Frame::GoAway,
        _ => Frame::Other,
    }
}

fn frame(kind: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_LEN + body.len());
    out.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.push(flags);
    out.extend_from_slice(length(body.len()).get(1..).unwrap_or_default());
    out.extend_from_slice(body);
    out
}

fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()
}

/// A header block: names and values, stored as they are in a zlib stream that goes on with the next block.
fn header_block(headers: &[(&str, &str)], first: bool) -> Vec<u8> {
    let mut plain = length(headers.len()).to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        plain.extend_from_slice(&length(text.len()));
        plain.extend_from_slice(text.as_bytes());
    }
    let len = u16::try_from(plain.len()).unwrap_or(u16::MAX);
    plain.truncate(usize::from(len));
    let mut block = if first { vec![0x78, 0x01] } else { Vec::new() };
    block.push(0);
    block.extend_from_slice(&len.to_le_bytes());
    block.extend_from_slice(&(!len).to_le_bytes());
    block.extend_from_slice(&plain);
    // An empty stored block is a flush: the reader has the whole block without asking for more.
    block.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
    block
}

impl<S: AsyncWrite> Writer<S> {
    async fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> io::Result<()> {
        let mut body = stream.to_be_bytes().to_vec();
        // No associated stream, highest priority, no slot.
        body.extend_from_slice(&[0; 6]);
        body.extend_from_slice(&header_block(headers, !self.begun));
        self.begun = true;
        self.send(&frame(SYN_STREAM, 0, &body)).await
    }

    /// Sends bytes of a stream.
    pub async fn data(&mut self, stream: u32, data: &[u8]) -> io::Result<()> {
        for piece in data.chunks(PIECE_LEN) {
            self.data_frame(stream, 0, piece).await?;
        }
        Ok(())
    }

    /// Says that nothing more comes on a stream.
    pub async fn finish(&mut self, stream: u32) -> io::Result<()> {
        self.data_frame(stream, FLAG_FIN, &[]).await
    }

    async fn data_frame(&mut self, stream: u32, flags: u8, data: &[u8]) -> io::Result<()> {
        let mut out = Vec::with_capacity(HEAD_LEN + data.len());
        out.extend_from_slice(&stream.to_be_bytes());
        out.push(flags);
        out.extend_from_slice(length(data.len()).get(1..).unwrap_or_default());
        out.extend_from_slice(data);
        self.send(&out).await
    }

    /// Answers a ping.
    pub async fn pong(&mut self, id: u32) -> io::Result<()> {
        self.send(&frame(PING, 0, &id.to_be_bytes())).await
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a stored-only zlib stream as a zlib reader would.
    fn inflate(mut block: &[u8], first: bool) -> Vec<u8> {
        if first {
            assert_eq!(u16::from_be_bytes([block[0], block[1]]) % 31, 0, "zlib's header check");
            assert_eq!(block[1] & 0x20, 0, "no dictionary is asked for");
            block = &block[2..];
        }
        let mut out = Vec::new();
        while let [head, a, b, c, d, rest @ ..] = block {
            let len = u16::from_le_bytes([*a, *b]);
            assert_eq!((*head, !len), (0, u16::from_le_bytes([*c, *d])));
            out.extend_from_slice(&rest[..usize::from(len)]);
            block = &rest[usize::from(len)..];
        }
        assert!(block.is_empty());
        out
    }

    #[test]
    fn header_blocks_are_one_stored_zlib_stream() {
        let plain = b"\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x05stdin";
        assert_eq!(inflate(&header_block(&[("streamtype", "stdin")], true), true), plain);
        assert_eq!(inflate(&header_block(&[("streamtype", "stdin")], false), false), plain);
    }

    /// A server's side by hand: answers both streams, sends a long frame and the end.
    async fn serve(mut io: tokio::io::DuplexStream) -> Vec<u8> {
        let (mut asked, mut streams) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let mut head = [0; HEAD_LEN];
            io.read_exact(&mut head).await.unwrap();
            assert_eq!(head[..4], [0x80, 3, 0, 1]);
            let mut body = vec![0; usize::from(head[7])];
            io.read_exact(&mut body).await.unwrap();
            streams.push(body);
        }
        for body in streams {
            let mut reply = frame(PING, 0, &[0, 0, 0, 2]);
            reply.extend(frame(SYN_REPLY, 0, &[&body[..4], b"whatever".as_slice()].concat()));
            io.write_all(&reply).await.unwrap();
            let mut pong = [0; 12];
            io.read_exact(&mut pong).await.unwrap();
            assert_eq!(pong[8..], [0, 0, 0, 2]);
        }
        let long = vec![7; PIECE_LEN + 1];
        let mut data = vec![0, 0, 0, 3, FLAG_FIN, 0, 0x80, 1];
        data.extend_from_slice(&long);
        data.extend(frame(RST_STREAM, 0, &[0, 0, 0, 1, 0, 0, 0, 5]));
        io.write_all(&data).await.unwrap();
        let mut said = [0; 19];
        io.read_exact(&mut said).await.unwrap();
        asked.extend_from_slice(&said);
        asked
    }

    #[tokio::test]
    async fn a_session_opens_streams_and_carries_data_both_ways() {
        let (own, other) = tokio::io::duplex(1024);
        let server = tokio::spawn(serve(other));
        let mut session = Session::open(own, &["error", "stdin"]).await.unwrap();
        let mut got = Vec::new();
        for fin in [false, true] {
            match session.reader.next().await.unwrap().unwrap() {
                Frame::Data { stream: 3, fin: f, data } if f == fin => got.extend_from_slice(&data),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(got, vec![7; PIECE_LEN + 1]);
        assert_eq!(session.reader.next().await.unwrap(), Some(Frame::Reset(1)));
        session.writer.data(3, b"abc").await.unwrap();
        session.writer.finish(3).await.unwrap();
        let said = server.await.unwrap();
        assert_eq!(said, [&[0, 0, 0, 3, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 3, 1, 0, 0, 0]].concat());
        assert_eq!(session.reader.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_not_spdy_is_refused() {
        let (own, mut other) = tokio::io::duplex(1024);
        other.write_all(b"\x80\x02\x00\x01\x00\x00\x00\x00").await.unwrap();
        let refused = Session::open(own, &["error"]).await.err().unwrap();
        assert_eq!(refused.to_string(), "the runtime does not speak SPDY/3.1");
        let (own, other) = tokio::io::duplex(1024);
        drop(other);
        assert!(Session::open(own, &["error"]).await.is_err());
    }
}
