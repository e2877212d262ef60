//! `web load`: an open-loop load generator.
//!
//! Requests are begun at a fixed rate, whatever becomes of those before them, and a latency counts from the moment at which
//! its request was due: a server that stalls cannot slow the generator down and so hide the stall. One thread waits for
//! all sockets at once, which keeps the pace on a busy machine at little cost.
//!
//! * `new`: each request on a connection of its own.
//! * `keep-alive`: over a few connections that are each used in turn; more are opened only while all of them wait.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, SocketAddrV4},
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{
    args::Flags,
    clock::micros,
    load_conn::{Connection, Outcome, State},
    load_report::{Cause, Failure, Report},
    names::Resolver,
    sys::{self, PollFd, Signals},
};

/// No more connections than this at once.
const CONNECTIONS_MAX: usize = 4096;
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
const RATE_MAX: u32 = 20_000;

/// How requests share connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One request to a connection.
    New,
    /// Many.
    KeepAlive,
}

/// What to send.
pub struct Options {
    target: String,
    mode: Mode,
    rate: u32,
    duration: Duration,
    timeout: Duration,
    workers: usize,
    path: String,
    /// What the Host header says; the target, unless told otherwise.
    host: String,
    linger: Duration,
}

impl Options {
    /// From the words after `load`.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let known =
            ["target", "mode", "rate", "duration", "timeout-ms", "workers", "path", "host", "linger-ms"];
        let flags = Flags::parse(words, &known)?;
        let target = flags.required("target")?;
        Targets::parse(target).map_err(|error| format!("--target: {error}"))?;
        let options = Self {
            target: target.to_owned(),
            mode: match flags.required("mode")? {
                "new" => Mode::New,
                "keep-alive" => Mode::KeepAlive,
                other => return Err(format!("--mode: {other:?} is neither new nor keep-alive")),
            },
            rate: flags.number_or("rate", 100)?,
            duration: flags.seconds_or("duration", Duration::from_secs(10))?,
            timeout: Duration::from_millis(flags.number_or::<u32>("timeout-ms", 2000)?.into()),
            workers: flags.number_or("workers", 8)?,
            path: flags.text("path").unwrap_or("/").to_owned(),
            host: flags.text("host").unwrap_or(target).to_owned(),
            linger: Duration::from_millis(flags.number_or::<u32>("linger-ms", 1500)?.into()),
        };
        if options.rate == 0 || options.rate > RATE_MAX {
            return Err(format!("--rate: must be 1 to {RATE_MAX} requests a second"));
        }
        if options.workers == 0 || options.workers > CONNECTIONS_MAX / 2 {
            return Err(format!("--workers: must be 1 to {}", CONNECTIONS_MAX / 2));
        }
        if !options.path.starts_with('/') || options.path.contains(char::is_whitespace) {
            return Err("--path: must begin with / and hold no space".to_owned());
        }
        if options.host.is_empty() || options.host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("--host: must hold no space".to_owned());
        }
        Ok(options)
    }

    fn request(&self) -> Vec<u8> {
        let close = if self.mode == Mode::New { "Connection: close\r\n" } else { "" };
        format!("GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: hitless-web\r\n{close}\r\n", self.path, self.host)
            .into_bytes()
    }
}

/// Sends until the time is up or a stop signal comes, then prints the summary.
///
/// After a stop signal it stays for a moment, so that whoever follows its log still finds it there.
pub fn run(options: &Options) -> Result<ExitCode, String> {
    let mut signals = Signals::block().map_err(|e| format!("cannot take signals: {e}"))?;
    let mut generator = Generator::new(options, io::stdout())?;
    let stopped = generator.run(&mut signals).map_err(|e| format!("cannot go on: {e}"))?;
    if stopped {
        std::thread::sleep(options.linger);
    }
    Ok(ExitCode::SUCCESS)
}

/// Where requests go: one address, or those of a name for as long as its records live.
pub enum Targets {
    /// An address.
    One(SocketAddrV4),
    /// A name, and what it stood for when it was last looked up.
    Named {
        /// The name as it was given.
        name: String,
        /// The same for all addresses.
        port: u16,
        /// Used in turn.
        addresses: Vec<Ipv4Addr>,
        /// When they must be looked up anew.
        until: Option<Instant>,
        /// How many were given out.
        turn: usize,
    },
}

impl Targets {
    /// `IP:PORT` or `NAME:PORT`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::One(address));
        }
        let wrong = || format!("{text:?} is neither an IPv4 address nor a name, and a port");
        let (name, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(fits) {
            return Err(wrong());
        }
        Ok(Self::Named { name: name.to_owned(), port, addresses: Vec::new(), until: None, turn: 0 })
    }

    /// The next one in turn. Asks anew when the records have lived their time.
    pub fn next(&mut self) -> Result<SocketAddrV4, Cause> {
        match self {
            Self::One(address) => Ok(*address),
            Self::Named { name, port, addresses, until, turn } => {
                if until.is_none_or(|until| until <= Instant::now()) {
                    let found = Resolver::of_system().and_then(|resolver| resolver.look_up(name));
                    let found = found.map_err(Cause::Other)?;
                    *addresses = found.addresses;
                    *until = Some(Instant::now() + found.ttl);
                }
                *turn += 1;
                let none = || Cause::Other(format!("{name} has no address"));
                let index = turn.checked_rem(addresses.len()).ok_or_else(none)?;
                addresses.get(index).map(|ip| SocketAddrV4::new(*ip, *port)).ok_or_else(none)
            }
        }
    }
}

struct Generator<'a, W: Write> {
    options: &'a Options,
    targets: Targets,
    request: Vec<u8>,
    connections: Vec<Connection>,
    /// Where the search for an idle connection begins, so that each is used in its turn.
    turn: usize,
    report: Report<W>,
    started: Instant,
    begun: u64,
    progress_at: Instant,
}

impl<'a, W: Write> Generator<'a, W> {
    fn new(options: &'a Options, out: W) -> Result<Self, String> {
        let started = Instant::now();
        Ok(Self {
            targets: Targets::parse(&options.target)?,
            request: options.request(),
            connections: Vec::new(),
            turn: 0,
            report: Report::new(out, options.target.clone()),
            started,
            begun: 0,
            progress_at: started + PROGRESS_EVERY,
            options,
        })
    }

    /// Returns whether a signal ended it. A second signal gives up on what is in flight.
    fn run(&mut self, signals: &mut Signals) -> io::Result<bool> {
        let mut fds = Vec::new();
        let end = self.started + self.options.duration;
        let (mut ending, mut stopped) = (false, 0);
        loop {
            let now = Instant::now();
            // What was due before the end is sent, however late the generator wakes; after a signal nothing is.
            while !ending && self.due() <= now && self.due() < end {
                self.begin(now)?;
            }
            ending |= now >= end;
            if now >= self.progress_at {
                self.report.progress()?;
                self.progress_at = now + PROGRESS_EVERY;
            }
            if stopped > 1 || (ending && !self.connections.iter().any(Connection::is_busy)) {
                self.report.summary()?;
                return Ok(stopped > 0);
            }
            fds.clear();
            fds.push(PollFd::new(signals, true, false));
            fds.extend(
                self.connections.iter().map(|c| PollFd::new(&c.stream, !c.wants_write(), c.wants_write())),
            );
            sys::wait(&mut fds, self.timeout(ending, Instant::now()))?;
            while fds.first().is_some_and(PollFd::is_ready) && signals.take() {
                ending = true;
                stopped += 1;
            }
            self.advance(&fds)?;
        }
    }

    /// When the next request is due.
    fn due(&self) -> Instant {
        self.started
            + Duration::from_nanos(self.begun.saturating_mul(1_000_000_000) / u64::from(self.options.rate))
    }

    fn timeout(&self, ending: bool, now: Instant) -> Duration {
        let deadlines = self.connections.iter().filter_map(Connection::deadline);
        let next = deadlines.chain([self.progress_at]).chain((!ending).then(|| self.due())).min();
        next.map_or(PROGRESS_EVERY, |at| at.saturating_duration_since(now))
    }

    fn begin(&mut self, now: Instant) -> io::Result<()> {
        let due = self.due();
        self.begun += 1;
        self.report.sent(micros(now.saturating_duration_since(due)));
        // The deadline counts from now: if the generator itself was late, the server must not pay for it.
        let deadline = now + self.options.timeout;
        if self.options.mode == Mode::KeepAlive
            && let Some(connection) = self.idle()
        {
            connection.ask(due, deadline);
            return Ok(());
        }
        if self.connections.len() >= CONNECTIONS_MAX {
            return self.report.failed(&Failure::unconnected(Cause::Overrun));
        }
        self.report.connection();
        let opened = self.targets.next().and_then(|target| Connection::open(target, due, deadline));
        match opened {
            Ok(connection) => self.connections.push(connection),
            Err(cause) => self.report.failed(&Failure::unconnected(cause))?,
        }
        Ok(())
    }

    /// The next idle connection in turn; none while there are fewer connections than wanted.
    fn idle(&mut self) -> Option<&mut Connection> {
        let count = self.connections.len();
        if count < self.options.workers {
            return None;
        }
        let index = (0..count).map(|step| (self.turn + step) % count).find(|index| {
            self.connections.get(*index).is_some_and(|connection| connection.state == State::Idle)
        })?;
        self.turn = index + 1;
        self.connections.get_mut(index)
    }

    fn advance(&mut self, fds: &[PollFd]) -> io::Result<()> {
        let now = Instant::now();
        let mut ready = fds.iter().skip(1).map(PollFd::is_ready);
        let mut spare = self.connections.len().saturating_sub(self.options.workers);
        for connection in &mut self.connections {
            match connection.advance(&self.request, ready.next().unwrap_or(false), now) {
                Outcome::Pending => {}
                Outcome::Answered(due) => {
                    self.report.ok(micros(now.saturating_duration_since(due)));
                    // One opened while all others waited: closed again, so that each of the rest is used steadily.
                    if spare > 0 && connection.state == State::Idle {
                        spare -= 1;
                        connection.state = State::Over;
                    }
                }
                Outcome::Failed(cause) => self.report.failed(&connection.failure(cause))?,
                Outcome::ClosedIdle => self.report.closed_idle(),
            }
        }
        self.connections.retain(|connection| connection.state != State::Over);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, want) in [
            ("--mode new", "--target is missing"),
            ("--target localhost --mode new", "neither an IPv4 address nor a name"),
            ("--target a/b:80 --mode new", "neither an IPv4 address nor a name"),
            ("--target 127.0.0.1:80 --mode old", "neither new nor keep-alive"),
            ("--target 127.0.0.1:80 --mode new --rate 0", "--rate"),
            ("--target 127.0.0.1:80 --mode new --workers 0", "--workers"),
            ("--target 127.0.0.1:80 --mode new --path x", "--path"),
        ] {
            let error = parse(text).err().unwrap();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn the_pace_does_not_drift() {
        let options = parse("--target 127.0.0.1:80 --mode new --rate 300").unwrap();
        let mut generator = Generator::new(&options, Vec::new()).unwrap();
        generator.begun = 300 * 3600;
        assert_eq!(generator.due() - generator.started, Duration::from_secs(3600));
    }
}
