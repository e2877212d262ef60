//! What the load generator prints: one JSON object to a line, flushed at once.
//!
//! * `{"t":UNIX_MS,"sent":N,"ok":N,"failed":N}` about once a second,
//! * `{"fail":{"at_us":UNIX_US,"cause":"...","target":"IP:PORT","pod":"...","local":"IP:PORT","connected_us_ago":N,`
//!   `"asked_us_ago":N,"reused":BOOL}}` for each failure, up to a bound; the rest is only counted,
//! * `{"summary":{...,"hist":[[HIGHEST_US,COUNT],...]}}` at the end.
//!
//! `crates/prove` reads these lines.

use std::{
    fmt::Write as _,
    io::{self, Write},
    net::SocketAddr,
};

use crate::{clock, hist::Histogram};

/// More failures than this are counted, but not printed one by one.
const FAILURES_PRINTED_MAX: u64 = 500;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nothing listens there.
    Refused,
    /// A reset before the connection stood.
    ResetConnecting,
    /// A reset on a standing connection.
    Reset,
    /// No connection in time.
    TimeoutConnecting,
    /// No whole answer in time.
    Timeout,
    /// Closed before the first byte of an answer.
    NoAnswer,
    /// Closed in the middle of an answer.
    ShortAnswer,
    /// Not HTTP, or without a length.
    BadAnswer,
    /// 400 or above: what is asked for is there, so whoever does not find it has routed wrongly.
    Status(u16),
    /// The generator had too many requests in flight to send this one.
    Overrun,
    /// What the kernel said.
    Other(String),
}

impl Cause {
    /// The kernel's word on an error; `connecting` tells resets and timeouts apart.
    pub fn of(error: &io::Error, connecting: bool) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe if connecting => Self::ResetConnecting,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            io::ErrorKind::TimedOut if connecting => Self::TimeoutConnecting,
            io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Other(error.to_string()),
        }
    }

    /// In words.
    pub fn text(&self) -> String {
        match self {
            Self::Refused => "connection refused".to_owned(),
            Self::ResetConnecting => "reset while connecting".to_owned(),
            Self::Reset => "reset".to_owned(),
            Self::TimeoutConnecting => "timeout while connecting".to_owned(),
            Self::Timeout => "timeout".to_owned(),
            Self::NoAnswer => "closed without an answer".to_owned(),
            Self::ShortAnswer => "short answer".to_owned(),
            Self::BadAnswer => "bad answer".to_owned(),
            Self::Status(status) => format!("status {status}"),
            Self::Overrun => "generator overrun".to_owned(),
            Self::Other(text) => text.clone(),
        }
    }
}

/// One failed request.
pub struct Failure<'a> {
    /// Why.
    pub cause: Cause,
    /// The Pod that answered last on the connection, where one has.
    pub pod: Option<&'a str>,
    /// The connection's own end.
    pub local: Option<SocketAddr>,
    /// The connection had answered before.
    pub reused: bool,
    /// How long ago the connection stood, as far as the generator could see, and how long ago the request was written whole.
    pub since_us: (Option<u64>, Option<u64>),
}

impl Failure<'_> {
    /// Of a request that got no connection.
    pub fn unconnected(cause: Cause) -> Self {
        Self { cause, pod: None, local: None, reused: false, since_us: (None, None) }
    }
}

/// Counts, and prints.
pub struct Report<W: Write> {
    out: W,
    target: String,
    started_us: u64,
    sent: u64,
    ok: u64,
    failed: u64,
    connections: u64,
    closed_idle: u64,
    late_us_max: u64,
    hist: Histogram,
}

impl<W: Write> Report<W> {
    /// Nothing counted yet.
    pub fn new(out: W, target: String) -> Self {
        Self {
            out,
            target,
            started_us: clock::unix_us(),
            sent: 0,
            ok: 0,
            failed: 0,
            connections: 0,
            closed_idle: 0,
            late_us_max: 0,
            hist: Histogram::new(),
        }
    }

    /// A request was begun, so long after it was due.
    pub fn sent(&mut self, late_us: u64) {
        self.sent += 1;
        self.late_us_max = self.late_us_max.max(late_us);
    }

    /// A connection was begun.
    pub fn connection(&mut self) {
        self.connections += 1;
    }

    /// The server closed a connection on which nothing was asked.
    pub fn closed_idle(&mut self) {
        self.closed_idle += 1;
    }

    /// A request was answered, so long after it was due.
    pub fn ok(&mut self, latency_us: u64) {
        self.ok += 1;
        self.hist.record(latency_us);
    }

    /// A request failed.
    pub fn failed(&mut self, failure: &Failure<'_>) -> io::Result<()> {
        self.failed += 1;
        if self.failed > FAILURES_PRINTED_MAX {
            return Ok(());
        }
        let mut line = format!(
            r#"{{"fail":{{"at_us":{},"cause":{},"target":{}"#,
            clock::unix_us(),
            quoted(&failure.cause.text()),
            quoted(&self.target)
        );
        if let Some(pod) = failure.pod {
            let _infallible = write!(line, r#","pod":{}"#, quoted(pod));
        }
        if let Some(local) = failure.local {
            let _infallible = write!(line, r#","local":"{local}""#);
        }
        let (connected, asked) = failure.since_us;
        for (name, since) in [("connected_us_ago", connected), ("asked_us_ago", asked)] {
            if let Some(us) = since {
                let _infallible = write!(line, r#","{name}":{us}"#);
            }
        }
        let _infallible = write!(line, r#","reused":{}}}}}"#, failure.reused);
        self.line(&line)
    }

    /// Where it stands.
    pub fn progress(&mut self) -> io::Result<()> {
        let (sent, ok, failed) = (self.sent, self.ok, self.failed);
        self.line(&format!(
            r#"{{"t":{},"sent":{sent},"ok":{ok},"failed":{failed}}}"#,
            clock::unix_us() / 1000
        ))
    }

    /// The end.
    pub fn summary(&mut self) -> io::Result<()> {
        let mut line = format!(
            concat!(
                r#"{{"summary":{{"started_us":{},"ended_us":{},"sent":{},"ok":{},"failed":{},"failures_unprinted":{},"#,
                r#""connections":{},"closed_idle":{},"late_us_max":{},"hist":"#
            ),
            self.started_us,
            clock::unix_us(),
            self.sent,
            self.ok,
            self.failed,
            self.failed.saturating_sub(FAILURES_PRINTED_MAX),
            self.connections,
            self.closed_idle,
            self.late_us_max
        );
        line.push_str(&self.hist.json());
        line.push_str("}}");
        self.line(&line)
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        print_line(&mut self.out, line)
    }
}

/// Prints a line at once, so that whoever follows the log sees it when it is true.
pub fn print_line(out: &mut impl Write, line: &str) -> io::Result<()> {
    writeln!(out, "{line}")?;
    out.flush()
}

/// A JSON string.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => {
                let _infallible = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_printed_up_to_a_bound_and_all_counted() {
        let mut report = Report::new(Vec::new(), "10.0.0.1:80".to_owned());
        let failure = Failure {
            cause: Cause::Status(503),
            pod: Some("a\"b"),
            local: None,
            reused: true,
            since_us: (Some(9), None),
        };
        for _ in 0..FAILURES_PRINTED_MAX + 7 {
            report.sent(0);
            report.failed(&failure).unwrap();
        }
        report.summary().unwrap();
        let text = String::from_utf8(report.out).unwrap();
        assert_eq!(text.lines().count() as u64, FAILURES_PRINTED_MAX + 1);
        let first = text.lines().next().unwrap();
        assert!(
            first.ends_with(r#""cause":"status 503","target":"10.0.0.1:80","pod":"a\"b","connected_us_ago":9,"reused":true}}"#),
            "{first}"
        );
        assert!(text.contains(r#""failed":507,"failures_unprinted":7,"#), "{text}");
    }

    #[test]
    fn strings_are_json() {
        assert_eq!(quoted("a\n\\"), r#""a\u000a\\""#);
    }
}
