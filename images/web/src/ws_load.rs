//! `web ws`: opens WebSockets, keeps them open, and sends a numbered message on each at a steady pace, whose echo must come back.
//!
//! It prints lines like those of `web load`:
//!
//! * `{"t":UNIX_MS,"open":N,"opened":N,"echoed":N,"closed":N,"failed":N}` about twice a second,
//! * `{"fail":{"at_us":UNIX_US,"cause":"...","target":"IP:PORT","socket":N,"echoed":N,"pod":"...","local":"IP:PORT"}}` for each that failed,
//! * `{"summary":{...,"pods":{"POD":N,...},"hist":[[HIGHEST_US,COUNT],...]}}` at the end.
//!
//! What must hold: each WebSocket ends as closed or as failed and none is opened anew, so that a lost one is seen; the program ends with
//! 0 only if all of them were opened and none failed. One thread waits for all of them at once.

use std::{
    collections::{BTreeMap, hash_map::RandomState},
    fmt::Write as _,
    hash::BuildHasher,
    io::{self, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{
    args::Flags,
    clock::{self, micros},
    hist::Histogram,
    load::Targets,
    load_report::{Cause, print_line, quoted},
    sys::{self, PollFd, Signals},
    ws_conn::{Outcome, Plan, Socket, State},
};

/// No more WebSockets than this.
const CONNECTIONS_MAX: usize = 4096;
/// So many handshakes at once, lest they overrun the server's listen backlog.
const OPENING_MAX: usize = 64;
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// What to open.
pub struct Options {
    target: String,
    connections: usize,
    duration: Duration,
    linger: Duration,
    plan: Plan,
}

impl Options {
    /// From the words after `ws`.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let known =
            ["target", "connections", "duration", "every-ms", "timeout-ms", "path", "host", "linger-ms"];
        let flags = Flags::parse(words, &known)?;
        let target = flags.required("target")?;
        Targets::parse(target).map_err(|error| format!("--target: {error}"))?;
        let ms = |name: &str, default: u32| {
            flags.number_or::<u32>(name, default).map(|ms| Duration::from_millis(ms.into()))
        };
        let options = Self {
            target: target.to_owned(),
            connections: flags.number_or("connections", 1)?,
            duration: flags.seconds_or("duration", Duration::from_secs(10))?,
            linger: ms("linger-ms", 1500)?,
            plan: Plan {
                every: ms("every-ms", 1000)?,
                timeout: ms("timeout-ms", 2000)?,
                host: flags.text("host").unwrap_or(target).to_owned(),
                path: flags.text("path").unwrap_or("/").to_owned(),
            },
        };
        if options.connections == 0 || options.connections > CONNECTIONS_MAX {
            return Err(format!("--connections: must be 1 to {CONNECTIONS_MAX}"));
        }
        if options.plan.every.is_zero() || options.plan.timeout.is_zero() {
            return Err("--every-ms, --timeout-ms: must be at least 1".to_owned());
        }
        let Plan { path, host, .. } = &options.plan;
        if !path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("--path: must begin with / and hold no space".to_owned());
        }
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("--host: must hold no space".to_owned());
        }
        Ok(options)
    }
}

/// Runs until the time is up or a stop signal comes, closes all, and prints the summary.
///
/// After a stop signal it stays for a moment, so that whoever follows its log still finds it there.
pub fn run(options: &Options) -> Result<ExitCode, String> {
    let mut signals = Signals::block().map_err(|e| format!("cannot take signals: {e}"))?;
    sys::allow_many_files();
    let mut sockets = Sockets::new(options, io::stdout())?;
    let stopped = sockets.run(&mut signals).map_err(|e| format!("cannot go on: {e}"))?;
    if stopped {
        std::thread::sleep(options.linger);
    }
    Ok(if sockets.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Sockets<'a, W: Write> {
    options: &'a Options,
    out: W,
    targets: Targets,
    seeds: RandomState,
    sockets: Vec<Socket>,
    started_us: u64,
    /// How many were begun, whatever became of them.
    begun: usize,
    opened: u64,
    echoed: u64,
    closed: u64,
    failed: u64,
    /// How many each Pod has answered.
    pods: BTreeMap<String, u64>,
    hist: Histogram,
}

impl<'a, W: Write> Sockets<'a, W> {
    fn new(options: &'a Options, out: W) -> Result<Self, String> {
        Ok(Self {
            options,
            out,
            targets: Targets::parse(&options.target)?,
            seeds: RandomState::new(),
            sockets: Vec::new(),
            started_us: clock::unix_us(),
            begun: 0,
            opened: 0,
            echoed: 0,
            closed: 0,
            failed: 0,
            pods: BTreeMap::new(),
            hist: Histogram::new(),
        })
    }

    /// Returns whether a signal ended it. A second signal gives up on what is still open.
    fn run(&mut self, signals: &mut Signals) -> io::Result<bool> {
        let started = Instant::now();
        let end = started + self.options.duration;
        let (mut stopped, mut progress_at, mut fds) = (0, started + PROGRESS_EVERY, Vec::new());
        loop {
            let now = Instant::now();
            let ending = stopped > 0 || now >= end;
            if ending {
                self.leave_the_rest(stopped > 0)?;
            } else {
                self.begin(now)?;
            }
            if now >= progress_at {
                self.progress()?;
                progress_at = now + PROGRESS_EVERY;
            }
            if stopped > 1 {
                self.give_up()?;
            }
            // With none left there is nothing to wait for: none is opened anew.
            if self.begun == self.options.connections && self.sockets.is_empty() {
                self.summary()?;
                return Ok(stopped > 0);
            }
            fds.clear();
            fds.push(PollFd::new(signals, true, false));
            fds.extend(
                self.sockets.iter().map(|s| PollFd::new(&s.stream, !s.wants_write(), s.wants_write())),
            );
            let bounds = [Some(progress_at), (!ending).then_some(end)];
            let next =
                self.sockets.iter().filter_map(Socket::wake_at).chain(bounds.into_iter().flatten()).min();
            let timeout = next.map_or(PROGRESS_EVERY, |at| at.saturating_duration_since(Instant::now()));
            sys::wait(&mut fds, timeout)?;
            while fds.first().is_some_and(PollFd::is_ready) && signals.take() {
                stopped += 1;
            }
            let now = Instant::now();
            self.advance(&fds, stopped > 0 || now >= end, now)?;
        }
    }

    fn begin(&mut self, now: Instant) -> io::Result<()> {
        let mut opening = self.sockets.iter().filter(|socket| socket.is_opening()).count();
        while self.begun < self.options.connections && opening < OPENING_MAX {
            let index = self.begun;
            self.begun += 1;
            opening += 1;
            let seed = self.seeds.hash_one(index);
            let target = self.targets.next();
            match target.and_then(|target| Socket::open(target, index, seed, &self.options.plan, now)) {
                Ok(socket) => self.sockets.push(socket),
                Err(cause) => self.fail(&cause, index, None)?,
            }
        }
        Ok(())
    }

    /// Those that were not begun in time have failed, unless it is the user who ends it early.
    fn leave_the_rest(&mut self, stopped: bool) -> io::Result<()> {
        while self.begun < self.options.connections {
            let index = self.begun;
            self.begun += 1;
            if !stopped {
                self.fail(&Cause::Other("not begun in time".to_owned()), index, None)?;
            }
        }
        Ok(())
    }

    fn give_up(&mut self) -> io::Result<()> {
        for socket in std::mem::take(&mut self.sockets) {
            self.fail(&Cause::Other("given up".to_owned()), socket.index, Some(&socket))?;
        }
        Ok(())
    }

    fn advance(&mut self, fds: &[PollFd], ending: bool, now: Instant) -> io::Result<()> {
        let mut ready = fds.iter().skip(1).map(PollFd::is_ready);
        let mut sockets = std::mem::take(&mut self.sockets);
        for socket in &mut sockets {
            match socket.advance(&self.options.plan, ready.next().unwrap_or(false), ending, now) {
                Outcome::Pending => {}
                Outcome::Opened => {
                    self.opened += 1;
                    *self.pods.entry(socket.pod.clone().unwrap_or_default()).or_default() += 1;
                }
                Outcome::Echoed(after) => {
                    self.echoed += 1;
                    self.hist.record(micros(after));
                }
                Outcome::Closed => self.closed += 1,
                Outcome::Failed(cause) => self.fail(&cause, socket.index, Some(socket))?,
            }
        }
        sockets.retain(|socket| socket.state != State::Over);
        self.sockets = sockets;
        Ok(())
    }

    fn fail(&mut self, cause: &Cause, index: usize, socket: Option<&Socket>) -> io::Result<()> {
        self.failed += 1;
        let mut line = format!(
            r#"{{"fail":{{"at_us":{},"cause":{},"target":{},"socket":{index},"echoed":{}"#,
            clock::unix_us(),
            quoted(&cause.text()),
            quoted(&self.options.target),
            socket.map_or(0, |socket| socket.echoed)
        );
        if let Some(pod) = socket.and_then(|socket| socket.pod.as_deref()) {
            let _infallible = write!(line, r#","pod":{}"#, quoted(pod));
        }
        if let Some(local) = socket.and_then(|socket| socket.local) {
            let _infallible = write!(line, r#","local":"{local}""#);
        }
        line.push_str("}}");
        self.line(&line)
    }

    fn progress(&mut self) -> io::Result<()> {
        let open = self.sockets.iter().filter(|socket| socket.state == State::Open).count();
        let (opened, echoed, closed, failed) = (self.opened, self.echoed, self.closed, self.failed);
        self.line(&format!(
            r#"{{"t":{},"open":{open},"opened":{opened},"echoed":{echoed},"closed":{closed},"failed":{failed}}}"#,
            clock::unix_us() / 1000
        ))
    }

    fn summary(&mut self) -> io::Result<()> {
        let mut line = format!(
            concat!(
                r#"{{"summary":{{"started_us":{},"ended_us":{},"connections":{},"opened":{},"echoed":{},"#,
                r#""closed":{},"failed":{},"pods":{{"#
            ),
            self.started_us,
            clock::unix_us(),
            self.options.connections,
            self.opened,
            self.echoed,
            self.closed,
            self.failed
        );
        for (index, (pod, count)) in self.pods.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _infallible = write!(line, "{comma}{}:{count}", quoted(pod));
        }
        line.push_str(r#"},"hist":"#);
        line.push_str(&self.hist.json());
        line.push_str("}}");
        self.line(&line)
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        print_line(&mut self.out, line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said() {
        for (text, want) in [
            ("", "--target is missing"),
            ("--target localhost", "--target: \"localhost\" is neither"),
            ("--target a:1 --connections 0", "--connections"),
            ("--target a:1 --connections 5000", "--connections"),
            ("--target a:1 --every-ms 0", "--every-ms"),
            ("--target a:1 --path x", "--path"),
        ] {
            let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
            let error = Options::parse(&words).err().unwrap();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
