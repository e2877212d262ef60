//! `web serve`: a small HTTP server whose way of ending is chosen by argument.
//!
//! One thread waits for all sockets at once, so that memory stays small and so that it is certain in which order things
//! happen at the end:
//!
//! * `exit` ends at once, with whatever is in flight: the application that knows nothing of graceful shutdown.
//! * `finish` first takes what waits in the listen backlog and only then stops listening; it answers what is in flight,
//!   and on each open connection the next request too, with `Connection: close`. It never closes a connection on which
//!   a request may just be on its way: a quiet one is kept for [`QUIET_BEFORE_CLOSE`], and a WebSocket until its client
//!   ends it. It ends when no connection is left, or after a bound.
//! * `ignore` goes on, `slow=SECONDS` goes on for so long and then ends at once.
//!
//! The stop signal prints one line with its time in microseconds, for figures.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, TcpListener},
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{
    args::{self, Flags},
    clock,
    queue::Queue,
    serve_conn::{Connection, Phase},
    sys::{self, PollFd, Signals},
};

/// No more connections than this at once; others wait in the listen backlog.
const CONNECTIONS_MAX: usize = 4096;
/// What a worker takes and does not finish within this time is given to another.
const LEASE: Duration = Duration::from_secs(30);
/// While finishing, a connection without a request for this long is closed: no client that is in use is so quiet.
const QUIET_BEFORE_CLOSE: Duration = Duration::from_secs(5);
/// A connection without a request for this long is closed at any time.
const QUIET_MAX: Duration = Duration::from_secs(300);
const FINISH_WITHIN: Duration = Duration::from_secs(20);
const WAIT_MAX: Duration = Duration::from_secs(1);

/// What SIGTERM means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTerm {
    /// End at once.
    Exit,
    /// End when what was begun is done.
    Finish,
    /// Go on.
    Ignore,
    /// Go on for so long, then end at once.
    Slow(Duration),
}

impl OnTerm {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "exit" => Ok(Self::Exit),
            None if text == "finish" => Ok(Self::Finish),
            None if text == "ignore" => Ok(Self::Ignore),
            Some(("slow", seconds)) => Ok(Self::Slow(args::seconds("--on-term slow", seconds)?)),
            _ => Err(format!("--on-term: {text:?} is none of exit, finish, ignore, slow=SECONDS")),
        }
    }
}

/// How to serve.
pub struct Options {
    port: u16,
    on_term: OnTerm,
    ready_after: Duration,
    delay: Duration,
    finish_within: Duration,
    queue: Option<Queue>,
}

impl Options {
    /// From the words after `serve`.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let flags = Flags::parse(words, &["port", "on-term", "ready-after", "delay-ms", "finish-within"])?;
        Ok(Self {
            port: flags.number_or("port", 8080)?,
            on_term: OnTerm::parse(flags.text("on-term").unwrap_or("exit"))?,
            ready_after: flags.seconds_or("ready-after", Duration::ZERO)?,
            delay: Duration::from_millis(flags.number_or::<u32>("delay-ms", 0)?.into()),
            finish_within: flags.seconds_or("finish-within", FINISH_WITHIN)?,
            queue: None,
        })
    }

    /// From the words after `queue`. Its tasks end with it, so it need not end slowly.
    pub fn parse_queue(words: &[String]) -> Result<Self, String> {
        let flags = Flags::parse(words, &["port", "lease"])?;
        Ok(Self {
            port: flags.number_or("port", 8080)?,
            on_term: OnTerm::Exit,
            ready_after: Duration::ZERO,
            delay: Duration::ZERO,
            finish_within: FINISH_WITHIN,
            queue: Some(Queue::new(flags.seconds_or("lease", LEASE)?)),
        })
    }
}

/// What a request's answer depends on.
pub struct Service {
    /// The Pod's name.
    pub pod: String,
    /// From when `/readyz` says yes.
    pub ready_at: Instant,
    /// How long each answer to `/` is held back.
    pub delay: Duration,
    /// Each answer is the last one on its connection.
    pub finishing: bool,
    /// What `web queue` serves.
    pub queue: Option<Queue>,
}

/// Serves until told to stop.
pub fn run(mut options: Options) -> Result<ExitCode, String> {
    let signals = Signals::block().map_err(|e| format!("cannot take signals: {e}"))?;
    sys::allow_many_files();
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, options.port))
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|e| format!("cannot listen on port {}: {e}", options.port))?;
    let port = listener.local_addr().map_or(options.port, |address| address.port());
    let service = Service {
        pod: std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned()),
        ready_at: Instant::now() + options.ready_after,
        delay: options.delay,
        finishing: false,
        queue: options.queue.take(),
    };
    say(&format!(r#"{{"at_us":{},"listening":{port},"pod":"{}"}}"#, clock::unix_us(), service.pod));
    let server = Server { listener: Some(listener), connections: Vec::new(), service, end_at: None };
    server.serve(signals, &options).map_err(|e| format!("cannot go on serving: {e}"))
}

/// One line of the log. That nobody reads it is no reason to stop serving.
pub fn say(line: &str) {
    let _unread = writeln!(io::stdout(), "{line}");
}

struct Server {
    /// `None` once the server is finishing.
    listener: Option<TcpListener>,
    connections: Vec<Connection>,
    service: Service,
    /// When the server ends in any case.
    end_at: Option<Instant>,
}

impl Server {
    fn serve(mut self, mut signals: Signals, options: &Options) -> io::Result<ExitCode> {
        let mut fds = Vec::new();
        loop {
            self.poll_set(&signals, &mut fds);
            sys::wait(&mut fds, self.timeout(Instant::now()))?;
            let mut told = false;
            while fds.first().is_some_and(PollFd::is_ready) && signals.take() {
                told = true;
            }
            if told && self.stop_signal(options) {
                return Ok(ExitCode::SUCCESS);
            }
            let now = Instant::now();
            self.advance(&fds, now);
            if fds.get(1).is_some_and(PollFd::is_ready) {
                self.accept(now);
            }
            let done = self.listener.is_none() && self.connections.is_empty();
            if done || self.end_at.is_some_and(|end| now >= end) {
                self.connections.iter_mut().for_each(Connection::go_away);
                say(&format!(
                    r#"{{"at_us":{},"exit":true,"open":{}}}"#,
                    clock::unix_us(),
                    self.connections.len()
                ));
                return Ok(ExitCode::SUCCESS);
            }
        }
    }

    /// The signals first, then the listener (or, while it is not wanted, the signals once more), then each connection.
    fn poll_set(&self, signals: &Signals, fds: &mut Vec<PollFd>) {
        fds.clear();
        fds.push(PollFd::new(signals, true, false));
        match &self.listener {
            Some(listener) => {
                fds.push(PollFd::new(listener, self.connections.len() < CONNECTIONS_MAX, false))
            }
            None => fds.push(PollFd::new(signals, false, false)),
        }
        fds.extend(self.connections.iter().map(|c| PollFd::new(&c.stream, c.wants_read(), c.wants_write())));
    }

    fn timeout(&self, now: Instant) -> Duration {
        let next = self.connections.iter().filter_map(Connection::deadline).chain(self.end_at).min();
        next.map_or(WAIT_MAX, |at| at.saturating_duration_since(now).min(WAIT_MAX))
    }

    /// Returns whether to end now. A second signal changes nothing.
    fn stop_signal(&mut self, options: &Options) -> bool {
        say(&format!(
            r#"{{"at_us":{},"signal":"SIGTERM","open":{}}}"#,
            clock::unix_us(),
            self.connections.len()
        ));
        let now = Instant::now();
        match options.on_term {
            OnTerm::Exit => return true,
            OnTerm::Ignore => {}
            OnTerm::Slow(after) => {
                self.end_at.get_or_insert(now + after);
            }
            OnTerm::Finish => {
                self.accept_all(now);
                self.listener = None;
                self.service.finishing = true;
                self.end_at.get_or_insert(now + options.finish_within);
            }
        }
        false
    }

    fn accept(&mut self, now: Instant) {
        while self.connections.len() < CONNECTIONS_MAX && self.accept_one(now) {}
    }

    /// The backlog's length is bounded by the kernel, so this ends; the bound on connections must not lose any here.
    fn accept_all(&mut self, now: Instant) {
        while self.accept_one(now) {}
    }

    /// Returns whether there may be more. A connection that is gone before it was taken is none.
    fn accept_one(&mut self, now: Instant) -> bool {
        let Some(listener) = &self.listener else { return false };
        match listener.accept() {
            Ok((stream, _)) => {
                if stream.set_nonblocking(true).is_ok() {
                    let _only_slower = stream.set_nodelay(true);
                    self.connections.push(Connection::new(stream, now));
                }
                true
            }
            Err(error) => {
                matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted)
            }
        }
    }

    /// Moves each connection as far as it goes, and forgets those that are over.
    fn advance(&mut self, fds: &[PollFd], now: Instant) {
        let quiet = if self.service.finishing { QUIET_BEFORE_CLOSE } else { QUIET_MAX };
        let mut ready = fds.iter().skip(2).map(PollFd::is_ready);
        let service = &mut self.service;
        self.connections.retain_mut(|connection| {
            connection.advance(service, ready.next().unwrap_or(true), quiet, now);
            connection.phase != Phase::Over
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_of_ending_is_one_of_four() {
        assert_eq!(OnTerm::parse("finish"), Ok(OnTerm::Finish));
        assert_eq!(OnTerm::parse("slow=1.5"), Ok(OnTerm::Slow(Duration::from_millis(1500))));
        for wrong in ["", "slow", "slow=", "exit=1", "Exit"] {
            assert!(OnTerm::parse(wrong).is_err(), "{wrong}");
        }
    }
}
