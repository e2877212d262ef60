//! One WebSocket of `web ws`, from its connect to its close, with at most one message under way.
//!
//! What must hold: a WebSocket counts as closed only if both sides said so and the server then closed the connection; every other end
//! is a failure with its cause, and so is an echo that is late, wrong or was not asked for.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, SocketAddrV4, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    http::{self, Parsed},
    load_report::Cause,
    sys,
    ws::{self, Event, Kind, Reader},
};

/// More than this unread is never needed: messages are short.
const INPUT_BYTES_MAX: usize = http::HEAD_BYTES_MAX + ws::FRAME_BYTES_MAX;

/// Where a WebSocket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The connect is under way.
    Connecting,
    /// The handshake's answer is awaited.
    Asking,
    /// Messages go to and fro.
    Open,
    /// The close frame is sent; the server's is awaited.
    Closing,
    /// Both have said so; the server is to close the connection.
    Ending,
    /// To be forgotten.
    Over,
}

/// What came of a step.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to count.
    Pending,
    /// The handshake is done.
    Opened,
    /// A message came back, so long after it was sent.
    Echoed(Duration),
    /// Ended as it should.
    Closed,
    /// Ended otherwise.
    Failed(Cause),
}

/// What is the same for all of them.
pub struct Plan {
    /// Between two messages.
    pub every: Duration,
    /// For the handshake, for an echo and for the close.
    pub timeout: Duration,
    /// What the Host header says.
    pub host: String,
    /// The path that is asked for.
    pub path: String,
}

/// One WebSocket.
pub struct Socket {
    /// Not blocking.
    pub stream: TcpStream,
    /// Where it stands.
    pub state: State,
    /// Which of all it is.
    pub index: usize,
    /// Messages that came back.
    pub echoed: u64,
    /// The Pod that answered the handshake.
    pub pod: Option<String>,
    /// The connection's own end.
    pub local: Option<SocketAddr>,
    key: String,
    seed: u64,
    reader: Reader,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// The server has closed its side.
    ended: bool,
    /// The message under way, and when it was sent.
    asked: Option<(Vec<u8>, Instant)>,
    next_at: Instant,
    deadline: Option<Instant>,
}

impl Socket {
    /// Begins to connect. `seed` must not be foreseeable: masks and the key are made of it.
    pub fn open(
        target: SocketAddrV4,
        index: usize,
        seed: u64,
        plan: &Plan,
        now: Instant,
    ) -> Result<Self, Cause> {
        let stream = sys::connect_start(target).map_err(|error| Cause::of(&error, true))?;
        let _only_slower = stream.set_nodelay(true);
        let mut socket = Self {
            local: stream.local_addr().ok(),
            stream,
            state: State::Connecting,
            index,
            echoed: 0,
            pod: None,
            key: String::new(),
            seed,
            reader: Reader::of_server(),
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            ended: false,
            asked: None,
            next_at: now,
            deadline: Some(now + plan.timeout),
        };
        let key: Vec<u8> = (0..4).flat_map(|_| socket.mask()).collect();
        socket.key = crate::digest::base64(&key);
        socket.output = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: hitless-web\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {}\r\nSec-WebSocket-Version: 13\r\n\r\n",
            plan.path, plan.host, socket.key
        )
        .into_bytes();
        Ok(socket)
    }

    /// Whether the handshake is still to be done.
    pub fn is_opening(&self) -> bool {
        matches!(self.state, State::Connecting | State::Asking)
    }

    /// Whether writability is news; otherwise readability is.
    pub fn wants_write(&self) -> bool {
        self.state == State::Connecting || !self.output.is_empty()
    }

    /// When it must be looked at although nothing is ready.
    pub fn wake_at(&self) -> Option<Instant> {
        let message = (self.state == State::Open && self.asked.is_none()).then_some(self.next_at);
        [self.deadline, message].into_iter().flatten().min()
    }

    /// Goes as far as it can without waiting, up to the first thing that counts. `ending`: no more messages, but the close.
    pub fn advance(&mut self, plan: &Plan, ready: bool, ending: bool, now: Instant) -> Outcome {
        let outcome = self.step(plan, ready, ending, now);
        match outcome {
            Err(cause) => {
                let _gone_anyway = self.stream.shutdown(Shutdown::Both);
                self.state = State::Over;
                Outcome::Failed(cause)
            }
            Ok(Outcome::Pending) if self.deadline.is_some_and(|at| now >= at) => {
                let connecting = self.state == State::Connecting;
                let _gone_anyway = self.stream.shutdown(Shutdown::Both);
                self.state = State::Over;
                Outcome::Failed(if connecting { Cause::TimeoutConnecting } else { Cause::Timeout })
            }
            Ok(outcome) => outcome,
        }
    }

    fn step(&mut self, plan: &Plan, ready: bool, ending: bool, now: Instant) -> Result<Outcome, Cause> {
        if self.state == State::Connecting {
            if !ready {
                return Ok(Outcome::Pending);
            }
            if let Some(error) = self.stream.take_error().unwrap_or_else(Some) {
                return Err(Cause::of(&error, true));
            }
            self.state = State::Asking;
        } else if ready {
            self.read()?;
        }
        let outcome = match self.state {
            State::Asking => self.take_answer(plan, now)?,
            State::Open => self.take_frames(plan, now)?,
            State::Closing => self.take_frames(plan, now)?,
            State::Ending if self.ended => {
                self.state = State::Over;
                return Ok(Outcome::Closed);
            }
            _ => Outcome::Pending,
        };
        if self.state == State::Open && self.asked.is_none() {
            if ending {
                self.write_frame(|mask| ws::close(Some(ws::NORMAL), mask));
                self.state = State::Closing;
                self.deadline = Some(now + plan.timeout);
            } else if now >= self.next_at {
                self.send(plan, now);
            }
        }
        self.flush()?;
        Ok(outcome)
    }

    fn send(&mut self, plan: &Plan, now: Instant) {
        let text = format!("{} {}", self.index, self.echoed + 1).into_bytes();
        self.write_frame(|mask| ws::message(Kind::Text, &text, mask));
        self.asked = Some((text, now));
        self.deadline = Some(now + plan.timeout);
        // After a stall it goes on at its pace, and does not catch up.
        self.next_at = (self.next_at + plan.every).max(now);
    }

    fn take_answer(&mut self, plan: &Plan, now: Instant) -> Result<Outcome, Cause> {
        let (head, length) = match http::parse_response(&self.input) {
            Parsed::More if self.ended && self.input.is_empty() => return Err(Cause::NoAnswer),
            Parsed::More if self.ended => return Err(Cause::ShortAnswer),
            Parsed::More => return Ok(Outcome::Pending),
            Parsed::Bad => return Err(Cause::BadAnswer),
            Parsed::Head(head, length) => (head, length),
        };
        self.pod = head.pod;
        if head.status != 101 {
            return Err(Cause::Status(head.status));
        }
        if head.accept.as_deref() != Some(ws::accept(&self.key).as_str()) {
            return Err(Cause::Other("the handshake's answer is not to this question".to_owned()));
        }
        self.input.drain(..length);
        self.state = State::Open;
        self.deadline = None;
        self.next_at = now + plan.every;
        Ok(Outcome::Opened)
    }

    fn take_frames(&mut self, plan: &Plan, now: Instant) -> Result<Outcome, Cause> {
        loop {
            match self.reader.next(&mut self.input) {
                Event::More if self.ended => return Err(Cause::Other("closed without a word".to_owned())),
                Event::More => return Ok(Outcome::Pending),
                Event::Ping(payload) => self.write_frame(|mask| ws::pong(&payload, mask)),
                Event::Message(Kind::Text, text) => match self.asked.take() {
                    Some((asked, at)) if asked == text => {
                        self.echoed += 1;
                        self.deadline = None;
                        return Ok(Outcome::Echoed(now.saturating_duration_since(at)));
                    }
                    _ => return Err(Cause::Other("a wrong echo".to_owned())),
                },
                Event::Message(Kind::Binary, _) => return Err(Cause::Other("a wrong echo".to_owned())),
                Event::Close(Some(ws::NORMAL)) if self.state == State::Closing => {
                    self.state = State::Ending;
                    self.deadline = Some(now + plan.timeout);
                    if !self.ended {
                        return Ok(Outcome::Pending);
                    }
                    self.state = State::Over;
                    return Ok(Outcome::Closed);
                }
                Event::Close(code) => {
                    let code = code.map_or("no code".to_owned(), |code| code.to_string());
                    return Err(Cause::Other(format!("closed by the server: {code}")));
                }
                Event::Wrong(_, why) => return Err(Cause::Other(format!("a wrong frame: {why}"))),
            }
        }
    }

    fn write_frame(&mut self, frame: impl FnOnce(Option<[u8; 4]>) -> Vec<u8>) {
        let mask = self.mask();
        self.output.extend(frame(Some(mask)));
    }

    /// The next mask (RFC 6455, 5.3: a new one for each frame); the sequence is SplitMix64's.
    fn mask(&mut self) -> [u8; 4] {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((mixed ^ mixed >> 31) >> 32) as u32).to_be_bytes()
    }

    fn read(&mut self) -> Result<(), Cause> {
        let mut chunk = [0; 4096];
        while !self.ended && self.input.len() < INPUT_BYTES_MAX {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.ended = true,
                Ok(count) => self.input.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(Cause::of(&error, false)),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Cause> {
        if self.state == State::Over {
            return Ok(());
        }
        while let Some(rest) = self.output.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(Cause::of(&error, false)),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(())
    }
}
