//! One connection of the load generator, with at most one request on it.
//!
//! What must hold: no failure is retried in silence. A reset on a kept-alive connection after a request was begun on it is
//! that request's failure; only a connection that the server closed while nothing was asked may be replaced unseen,
//! because then no request was lost.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, SocketAddrV4, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    clock::micros,
    http::{self, Parsed},
    load_report::{Cause, Failure},
    sys,
};

/// After the last answer on a connection the server gets so long to close first, so that the closed connection's wait
/// (RFC 9293, TIME-WAIT) is the server's and the generator does not run out of ports.
const CLOSE_WAIT: Duration = Duration::from_millis(500);
/// An answer longer than this is not one of ours.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The connect is under way, with a request waiting for it.
    Connecting,
    /// The request is being written.
    Sending,
    /// The answer is awaited.
    Receiving,
    /// Nothing is asked.
    Idle,
    /// Answered for the last time; waiting for the server to close.
    Closing,
    /// To be forgotten.
    Over,
}

/// What came of a step.
pub enum Outcome {
    /// Nothing yet.
    Pending,
    /// The request that was due then has its answer.
    Answered(Instant),
    /// The request failed.
    Failed(Cause),
    /// The server closed while nothing was asked.
    ClosedIdle,
}

/// One connection.
pub struct Connection {
    /// Not blocking.
    pub stream: TcpStream,
    /// Where it stands.
    pub state: State,
    due: Instant,
    deadline: Instant,
    written: usize,
    input: Vec<u8>,
    pod: Option<String>,
    local: Option<SocketAddr>,
    reused: bool,
    connected_at: Option<Instant>,
    asked_at: Option<Instant>,
}

impl Connection {
    /// Begins to connect, for a request that is due now.
    pub fn open(target: SocketAddrV4, due: Instant, deadline: Instant) -> Result<Self, Cause> {
        let stream = sys::connect_start(target).map_err(|error| Cause::of(&error, true))?;
        let _only_slower = stream.set_nodelay(true);
        Ok(Self {
            local: stream.local_addr().ok(),
            stream,
            state: State::Connecting,
            due,
            deadline,
            written: 0,
            input: Vec::new(),
            pod: None,
            reused: false,
            connected_at: None,
            asked_at: None,
        })
    }

    /// Begins the next request on an idle connection.
    pub fn ask(&mut self, due: Instant, deadline: Instant) {
        (self.due, self.deadline) = (due, deadline);
        self.written = 0;
        self.input.clear();
        self.reused = true;
        self.asked_at = None;
        self.state = State::Sending;
    }

    /// A request is on it.
    pub fn is_busy(&self) -> bool {
        matches!(self.state, State::Connecting | State::Sending | State::Receiving)
    }

    /// When it must be looked at although nothing is ready.
    pub fn deadline(&self) -> Option<Instant> {
        (self.state != State::Idle).then_some(self.deadline)
    }

    /// Whether writability is news; otherwise readability is.
    pub fn wants_write(&self) -> bool {
        matches!(self.state, State::Connecting | State::Sending)
    }

    /// For the report of a failure.
    pub fn failure(&self, cause: Cause) -> Failure<'_> {
        let since = |at: Option<Instant>| at.map(|at| micros(at.elapsed()));
        let since_us = (since(self.connected_at), since(self.asked_at));
        Failure { cause, pod: self.pod.as_deref(), local: self.local, reused: self.reused, since_us }
    }

    /// Goes as far as it can without waiting.
    pub fn advance(&mut self, request: &[u8], ready: bool, now: Instant) -> Outcome {
        if ready && self.state == State::Connecting {
            match self.stream.take_error() {
                Ok(None) => {
                    self.connected_at = Some(now);
                    self.state = State::Sending;
                }
                Ok(Some(error)) | Err(error) => return self.fail(Cause::of(&error, true)),
            }
        }
        if self.state == State::Sending
            && let Some(cause) = self.send(request)
        {
            return self.fail(cause);
        }
        let outcome = if ready { self.receive(now) } else { Outcome::Pending };
        if now < self.deadline || !matches!(outcome, Outcome::Pending) {
            return outcome;
        }
        match self.state {
            State::Connecting => self.fail(Cause::TimeoutConnecting),
            State::Sending | State::Receiving => self.fail(Cause::Timeout),
            State::Closing => {
                self.state = State::Over;
                Outcome::Pending
            }
            State::Idle | State::Over => Outcome::Pending,
        }
    }

    fn send(&mut self, request: &[u8]) -> Option<Cause> {
        while let Some(rest) = request.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => return Some(Cause::of(&error, false)),
            }
        }
        self.state = State::Receiving;
        self.asked_at = Some(Instant::now());
        None
    }

    fn receive(&mut self, now: Instant) -> Outcome {
        let mut chunk = [0; 4096];
        loop {
            if !matches!(self.state, State::Receiving | State::Idle | State::Closing) {
                return Outcome::Pending;
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return self.ended(None),
                Ok(count) => {
                    self.input.extend_from_slice(chunk.get(..count).unwrap_or_default());
                    let outcome = self.take_answer(now);
                    if !matches!(outcome, Outcome::Pending) {
                        return outcome;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Outcome::Pending,
                Err(error) => return self.ended(Some(Cause::of(&error, false))),
            }
        }
    }

    /// The server has closed (no cause) or the connection broke.
    fn ended(&mut self, cause: Option<Cause>) -> Outcome {
        match self.state {
            State::Idle => {
                self.state = State::Over;
                Outcome::ClosedIdle
            }
            State::Receiving => {
                let by_close = if self.input.is_empty() { Cause::NoAnswer } else { Cause::ShortAnswer };
                self.fail(cause.unwrap_or(by_close))
            }
            _ => {
                self.state = State::Over;
                Outcome::Pending
            }
        }
    }

    fn take_answer(&mut self, now: Instant) -> Outcome {
        if self.state != State::Receiving {
            // Bytes that nobody asked for.
            self.state = State::Over;
            return Outcome::Pending;
        }
        let (head, length) = match http::parse_response(&self.input) {
            Parsed::More => return Outcome::Pending,
            Parsed::Bad => return self.fail(Cause::BadAnswer),
            Parsed::Head(head, _) if head.body_bytes > ANSWER_BYTES_MAX => {
                return self.fail(Cause::BadAnswer);
            }
            Parsed::Head(head, length) => (head, length),
        };
        if self.input.len() < length + head.body_bytes {
            return Outcome::Pending;
        }
        self.pod = head.pod;
        if head.status >= 400 {
            return self.fail(Cause::Status(head.status));
        }
        self.state = if head.close { State::Closing } else { State::Idle };
        self.deadline = now + CLOSE_WAIT;
        Outcome::Answered(self.due)
    }

    fn fail(&mut self, cause: Cause) -> Outcome {
        let _gone_anyway = self.stream.shutdown(Shutdown::Both);
        self.state = State::Over;
        Outcome::Failed(cause)
    }
}
