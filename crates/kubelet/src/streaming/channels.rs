//! `kubectl exec` and `attach` over a WebSocket: one channel for each standard stream, carried to and from the runtime's streams.
//!
//! A message's first byte names its channel: 0 standard input, 1 output, 2 error output, 3 how it ended (a `Status` as JSON),
//! 4 the terminal's size. Protocol v5 adds one message, 255 and a channel's number: that channel is closed, which
//! is how a command in a container learns that its input has ended. A v4 client cannot say that; it can only go away.
//! See <https://kubernetes.io/blog/2024/08/20/websockets-transition/>.
//!
//! What must hold: nothing is held back but what is on its way (a side that does not read stops the other), and a client always
//! hears how it ended, also when the runtime is lost or the Pod goes.

use std::{io, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Mutex,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::spdy::{Frame, Reader, Session, Writer, stream_id};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Longest message that a client may send.
const MESSAGE_LEN_MAX: usize = 4 * 1024 * 1024;
/// How long the client's own close is waited for.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The protocols spoken with clients, the best one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// With a message that closes a channel.
    V5,
    /// Without.
    V4,
}

impl Protocol {
    const ALL: [Self; 2] = [Self::V5, Self::V4];

    /// As named in the handshake.
    pub fn name(self) -> &'static str {
        match self {
            Self::V5 => "v5.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
        }
    }

    /// The best one that the client names.
    pub fn choose(offered: &[String]) -> Option<Self> {
        Self::ALL.into_iter().find(|p| offered.iter().any(|o| o == p.name()))
    }

    /// All names, for a refusal.
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(" ")
    }
}

/// Which standard streams there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Channels {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Error output; never beside a terminal, which has one output.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

impl Channels {
    /// The channels that there are, and the runtime's words for their streams, in the order in which they are opened.
    fn open(self) -> Vec<(u8, &'static str)> {
        let all = [
            (true, ERROR, "error"),
            (self.stdin, STDIN, "stdin"),
            (self.stdout, STDOUT, "stdout"),
            (self.stderr, STDERR, "stderr"),
            (self.tty, RESIZE, "resize"),
        ];
        all.into_iter().filter(|(there, ..)| *there).map(|(_, channel, word)| (channel, word)).collect()
    }
}

/// The runtime's streams, open, with the channel that each belongs to.
pub(super) struct Streams<S> {
    session: Session<S>,
    channels: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite> Streams<S> {
    /// Opens them.
    pub async fn open(io: S, channels: Channels) -> io::Result<Self> {
        let (channels, words): (Vec<u8>, Vec<&str>) = channels.open().into_iter().unzip();
        Ok(Self { session: Session::open(io, &words).await?, channels })
    }
}

fn stream_of(channels: &[u8], channel: u8) -> Option<u32> {
    channels.iter().position(|c| *c == channel).map(stream_id)
}

/// A WebSocket over an upgraded connection.
pub(super) async fn web_socket<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_LEN_MAX))
        .max_frame_size(Some(MESSAGE_LEN_MAX));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// Carries everything until the command has ended, the client goes, or `end` resolves with the words why it is over.
pub(super) async fn run<C, S>(
    socket: WebSocketStream<C>,
    streams: Streams<S>,
    protocol: Protocol,
    end: impl Future<Output = String>,
) where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite,
{
    let Streams { session: Session { mut reader, writer }, channels } = streams;
    let writer = Mutex::new(writer);
    let (mut sink, mut source) = socket.split();
    let over = tokio::select! {
        over = to_client(&mut reader, &writer, &channels, &mut sink) => over,
        () = from_client(&mut source, &writer, &channels, protocol) => return,
        words = end => Err(words),
    };
    let closing = async {
        if let Err(words) = over {
            sink.send(message(ERROR, failure(&words).as_bytes())).await?;
        }
        let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        sink.send(Message::Close(Some(normal))).await?;
        // The client's own close: without it the last bytes could be lost with the connection.
        while source.next().await.is_some_and(|m| m.is_ok()) {}
        Ok::<_, Error>(())
    };
    let _client_is_gone = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
}

/// How it ended, when the runtime does not say it.
fn failure(words: &str) -> String {
    serde_json::json!({
        "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500, "message": words,
    })
    .to_string()
}

fn message(channel: u8, data: &[u8]) -> Message {
    let mut out = BytesMut::with_capacity(data.len() + 1);
    out.put_u8(channel);
    out.put_slice(data);
    Message::Binary(out.freeze())
}

/// What the client says, until it goes away.
async fn from_client<S: AsyncWrite>(
    source: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    writer: &Mutex<Writer<S>>,
    channels: &[u8],
    protocol: Protocol,
) {
    let mut stdin = stream_of(channels, STDIN);
    while let Some(Ok(message)) = source.next().await {
        let data: Bytes = match message {
            Message::Binary(data) => data,
            Message::Text(text) => text.into(),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        let sent = match (data.first(), data.get(1..).unwrap_or_default()) {
            (Some(&STDIN), rest) => match stdin {
                Some(stream) => writer.lock().await.data(stream, rest).await,
                None => continue,
            },
            (Some(&RESIZE), rest) => match stream_of(channels, RESIZE) {
                Some(stream) => writer.lock().await.data(stream, rest).await,
                None => continue,
            },
            (Some(&CLOSE), [STDIN]) if protocol == Protocol::V5 => match stdin.take() {
                Some(stream) => writer.lock().await.finish(stream).await,
                None => continue,
            },
            _ => continue,
        };
        if sent.is_err() {
            // The command no longer reads; how it ended comes the other way.
            stdin = None;
        }
    }
}

/// What the runtime says, until all of it has been said. An error: the words for the client.
async fn to_client<S: AsyncRead + AsyncWrite>(
    reader: &mut Reader<S>,
    writer: &Mutex<Writer<S>>,
    channels: &[u8],
    sink: &mut (impl Sink<Message, Error = Error> + Unpin),
) -> Result<(), String> {
    // An empty message tells a client that the connection stands.
    let first = [STDOUT, STDERR, ERROR].into_iter().find(|c| channels.contains(c)).unwrap_or(ERROR);
    sink.send(message(first, &[])).await.map_err(|e| e.to_string())?;
    let mut open: Vec<u8> = channels.iter().copied().filter(|c| !matches!(*c, STDIN | RESIZE)).collect();
    let mut said_how = false;
    let channel_of = |stream: u32| {
        channels
            .iter()
            .enumerate()
            .find(|(index, _)| stream_id(*index) == stream)
            .map(|(_, channel)| *channel)
    };
    while !open.is_empty() {
        let (stream, fin, data) = match reader.next().await {
            Ok(Some(Frame::Data { stream, fin, data })) => (stream, fin, data),
            Ok(Some(Frame::Reset(stream))) => (stream, true, Bytes::new()),
            Ok(Some(Frame::Ping(id))) => {
                let _lost_with_the_next_read = writer.lock().await.pong(id).await;
                continue;
            }
            Ok(Some(Frame::Reply(_) | Frame::GoAway | Frame::Other)) => continue,
            // The runtime closes the connection when all is said.
            Ok(None) | Err(_) => break,
        };
        let Some(channel) = channel_of(stream) else { continue };
        if !data.is_empty() {
            said_how |= channel == ERROR;
            sink.send(message(channel, &data)).await.map_err(|e| e.to_string())?;
        }
        if fin {
            open.retain(|c| *c != channel);
        }
    }
    if said_how { Ok(()) } else { Err("the container runtime closed the connection".to_owned()) }
}

#[cfg(test)]
#[path = "channels_tests.rs"]
mod tests;
