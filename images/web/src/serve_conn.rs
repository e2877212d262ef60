//! One connection of the server: read a request, hold it back if so told, answer, and either go on or close.
//!
//! What must hold: a connection is closed only after its answer was written whole, by first closing the sending side and
//! then reading until the client has closed too. A plain close with unread bytes would send a reset, which can
//! destroy an answer on its way.

use std::{
    fmt::Write as _,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    digest,
    http::{self, Parsed, Request, Upgrade},
    serve::Service,
    serve_ws::Echo,
    ws,
};

/// A body longer than this is refused.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// The longest that `/slow` holds an answer back.
const SLOW_MS_MAX: u64 = 600_000;
/// How long to wait for the client to close its side.
const LINGER: Duration = Duration::from_secs(2);

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for a request, or for the rest of one.
    Reading,
    /// The answer is held back until then.
    Holding(Instant),
    /// The answer is being written.
    Writing,
    /// A WebSocket. However quiet it is, it stays open: being quiet is what most of them do most of the time.
    Open,
    /// Sending side closed; waiting, until then at most, for the client to close.
    Lingering(Instant),
    /// To be forgotten.
    Over,
}

/// One connection.
pub struct Connection {
    /// Not blocking.
    pub stream: TcpStream,
    /// Where it stands.
    pub phase: Phase,
    input: Vec<u8>,
    /// Bytes of a request's body still to be read and thrown away.
    body_left: usize,
    output: Vec<u8>,
    written: usize,
    close_after: bool,
    /// Once the answer is written, this goes on.
    socket: Option<Echo>,
    /// The client has closed its sending side: what it has sent is still answered.
    ended: bool,
    quiet_since: Instant,
}

impl Connection {
    /// A connection that was just taken.
    pub fn new(stream: TcpStream, now: Instant) -> Self {
        Self {
            stream,
            phase: Phase::Reading,
            input: Vec::new(),
            body_left: 0,
            output: Vec::new(),
            written: 0,
            close_after: false,
            socket: None,
            ended: false,
            quiet_since: now,
        }
    }

    /// Whether readability is news.
    pub fn wants_read(&self) -> bool {
        let reads = match self.phase {
            Phase::Reading | Phase::Lingering(_) => true,
            Phase::Open => self.output.is_empty(),
            _ => false,
        };
        reads && !self.ended
    }

    /// Whether writability is news.
    pub fn wants_write(&self) -> bool {
        self.phase == Phase::Writing || (self.phase == Phase::Open && !self.output.is_empty())
    }

    /// When it must be looked at although nothing is ready.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Holding(at) | Phase::Lingering(at) => Some(at),
            _ => None,
        }
    }

    /// Goes as far as it can without waiting. A connection that has been quiet for `quiet` is closed.
    pub fn advance(&mut self, service: &mut Service, ready: bool, quiet: Duration, now: Instant) {
        if ready && self.wants_read() {
            self.read(now);
        } else if ready && matches!(self.phase, Phase::Holding(_)) {
            // Nothing was asked for, so this can only be an error: nobody is left to answer.
            self.phase = Phase::Over;
        }
        loop {
            let before = self.phase;
            match self.phase {
                Phase::Reading => self.take_request(service, quiet, now),
                Phase::Holding(at) if now >= at => self.phase = Phase::Writing,
                Phase::Writing => self.write(service, now),
                Phase::Open => self.echo(now),
                Phase::Lingering(at) if self.ended || now >= at => self.phase = Phase::Over,
                Phase::Holding(_) | Phase::Lingering(_) | Phase::Over => {}
            }
            if self.phase == before {
                return;
            }
        }
    }

    /// Reads what is there, up to a few heads or a whole frame; more than that waits in the kernel for the next turn.
    fn read(&mut self, now: Instant) {
        let enough = match self.phase {
            Phase::Open => ws::FRAME_BYTES_MAX + ws::HEADER_BYTES_MAX,
            _ => http::HEAD_BYTES_MAX,
        };
        let mut chunk = [0; 4096];
        for _ in 0..8 {
            if self.input.len() > enough {
                return;
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.ended = true;
                    return;
                }
                Ok(count) if matches!(self.phase, Phase::Reading | Phase::Open) => {
                    self.quiet_since = now;
                    self.input.extend_from_slice(chunk.get(..count).unwrap_or_default());
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.phase = Phase::Over;
                    return;
                }
            }
        }
    }

    fn take_request(&mut self, service: &mut Service, quiet: Duration, now: Instant) {
        let skipped = self.body_left.min(self.input.len());
        self.input.drain(..skipped);
        self.body_left -= skipped;
        if self.body_left > 0 {
            if self.ended {
                self.phase = Phase::Over;
            }
            return;
        }
        match http::parse_request(&self.input) {
            // Whatever was begun is not a request and never will be.
            Parsed::More if self.ended => self.phase = Phase::Over,
            Parsed::More if now.saturating_duration_since(self.quiet_since) >= quiet => self.close(now),
            Parsed::More => {}
            Parsed::Bad => self.answer(service, 400, "not a request that this server reads\n", true, false),
            Parsed::Head(request, _) if request.body_bytes > BODY_BYTES_MAX => {
                self.answer(service, 413, "body too long\n", true, false);
            }
            Parsed::Head(request, length) => {
                let head: Vec<u8> = self.input.drain(..length).collect();
                self.body_left = request.body_bytes;
                self.take(service, &request, &head, now);
            }
        }
    }

    fn take(&mut self, service: &mut Service, request: &Request, head: &[u8], now: Instant) {
        if let Some(queue) = &mut service.queue
            && let Some((status, body)) = queue.answer(request, now)
        {
            return self.answer(service, status, &body, request.close, false);
        }
        if service.queue.is_none()
            && let Some(upgrade) = &request.upgrade
        {
            return self.upgrade(service, request, upgrade);
        }
        let (mut status, mut hold) = (200, Duration::ZERO);
        let body = match request.path.as_str() {
            "/" => {
                hold = service.delay;
                echo(&service.pod, head)
            }
            "/livez" => "ok\n".to_owned(),
            "/readyz" if now >= service.ready_at => "ok\n".to_owned(),
            "/readyz" => {
                status = 503;
                "not ready yet\n".to_owned()
            }
            "/slow" => {
                let ms = http::query_number(&request.query, "ms").unwrap_or(1000).min(SLOW_MS_MAX);
                hold = Duration::from_millis(ms);
                echo(&service.pod, head)
            }
            _ => {
                status = 404;
                "no such page\n".to_owned()
            }
        };
        self.answer(service, status, &body, request.close, request.method == "HEAD");
        if !hold.is_zero() {
            self.phase = Phase::Holding(now + hold);
        }
    }

    fn answer(&mut self, service: &Service, status: u16, body: &str, close: bool, head_only: bool) {
        self.close_after = close || self.ended || service.finishing;
        self.output = http::response(status, &service.pod, body, self.close_after, head_only);
        self.written = 0;
        self.phase = Phase::Writing;
    }

    /// What a server must look at before it goes on with WebSocket (RFC 6455, 4.2).
    fn upgrade(&mut self, service: &Service, request: &Request, upgrade: &Upgrade) {
        if request.method != "GET" || request.body_bytes > 0 || !digest::is_base64_of_16(&upgrade.key) {
            return self.answer(service, 400, "not a handshake of a WebSocket\n", true, false);
        }
        if upgrade.version != "13" {
            return self.answer(service, 426, "another version of WebSocket\n", request.close, false);
        }
        self.output = http::switching(&service.pod, &ws::accept(&upgrade.key));
        self.written = 0;
        self.close_after = false;
        self.socket = Some(Echo::new());
        self.phase = Phase::Writing;
    }

    /// Sends back what came, as far as the client reads it.
    fn echo(&mut self, now: Instant) {
        while self.flush() {
            let Some(socket) = &mut self.socket else { return self.close(now) };
            match socket.next(&mut self.input) {
                Some(bytes) => self.output = bytes,
                None if socket.is_over() => return self.close(now),
                None if self.ended => {
                    self.phase = Phase::Over;
                    return;
                }
                None => return,
            }
        }
    }

    /// Says, as far as that can be done at once, that the server ends and its WebSocket with it.
    pub fn go_away(&mut self) {
        if self.phase == Phase::Open && self.output.is_empty() {
            self.output = ws::close(Some(ws::GOING_AWAY), None);
            self.flush();
        }
    }

    fn write(&mut self, service: &Service, now: Instant) {
        if service.finishing && !self.close_after && self.written == 0 && self.socket.is_none() {
            self.announce_close();
        }
        if !self.flush() {
            return;
        }
        self.quiet_since = now;
        if self.close_after {
            self.close(now);
        } else {
            self.phase = if self.socket.is_some() { Phase::Open } else { Phase::Reading };
        }
    }

    /// Writes as much as goes; returns whether all is written.
    fn flush(&mut self) -> bool {
        while let Some(rest) = self.output.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(_) => {
                    self.phase = Phase::Over;
                    return false;
                }
            }
        }
        self.output.clear();
        self.written = 0;
        true
    }

    /// The stop signal came while this answer was held back: it becomes the connection's last.
    fn announce_close(&mut self) {
        if let Some(end_of_start) = self.output.windows(2).position(|two| two == b"\r\n") {
            self.output.splice(end_of_start + 2..end_of_start + 2, *b"Connection: close\r\n");
            self.close_after = true;
        }
    }

    fn close(&mut self, now: Instant) {
        self.input.clear();
        self.phase = match self.stream.shutdown(Shutdown::Write) {
            Ok(()) => Phase::Lingering(now + LINGER),
            Err(_) => Phase::Over,
        };
    }
}

/// The Pod's name on the first line, then the request as it arrived.
fn echo(pod: &str, head: &[u8]) -> String {
    let mut text = format!("{pod}\n");
    let _infallible = write!(text, "{}", String::from_utf8_lossy(head).trim_end());
    text.push('\n');
    text
}
