//! The server and the load generator against each other, over loopback: what the generator counts must be what happened.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

const WEB: &str = env!("CARGO_BIN_EXE_hitless-image-web");
const BOUND: Duration = Duration::from_secs(20);

/// A running `web`, killed when dropped.
struct Web {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Web {
    fn start(words: &[&str]) -> Self {
        let mut child =
            Command::new(WEB).args(words).env("HOSTNAME", "pod-a").stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// A server on a free port.
    fn serve(words: &[&str]) -> (Self, u16) {
        let mut web = Self::start(&[&["serve", "--port", "0"], words].concat());
        let port = number(&web.line(), "listening");
        (web, port.try_into().unwrap())
    }

    fn load(port: u16, words: &[&str]) -> Self {
        let target = format!("127.0.0.1:{port}");
        Self::start(&[&["load", "--target", &target, "--linger-ms", "0"], words].concat())
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the program ended early");
        line
    }

    /// The next line that holds this field.
    fn line_with(&mut self, name: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(&format!("\"{name}\":")) {
                return line;
            }
        }
    }

    /// Reads up to a progress line with at least so many requests sent.
    fn until_sent(&mut self, count: u64) {
        while find(&self.line(), "sent").is_none_or(|sent| sent < count) {}
    }

    fn signal(&self, name: &str) {
        let status =
            Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status().unwrap();
        assert!(status.success());
    }

    /// The rest of the output, once the program has ended.
    fn rest(&mut self) -> String {
        let mut text = String::new();
        self.out.read_to_string(&mut text).unwrap();
        text
    }

    fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < BOUND, "the program does not end");
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The number after `"name":`.
fn find(line: &str, name: &str) -> Option<u64> {
    let rest = line.split(&format!("\"{name}\":")).nth(1)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn number(line: &str, name: &str) -> u64 {
    find(line, name).unwrap_or_else(|| panic!("no {name} in {line}"))
}

fn summary(text: &str) -> &str {
    text.lines().rfind(|line| line.contains("\"summary\"")).unwrap_or_else(|| panic!("no summary in {text}"))
}

/// A relay that sends each new connection to whichever port it is told, as a Service's cluster IP does.
fn relay(first: u16) -> (u16, Arc<Mutex<u16>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let backend = Arc::new(Mutex::new(first));
    let shared = Arc::clone(&backend);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(("127.0.0.1", *shared.lock().unwrap())) else { continue };
            for (from, to) in [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))] {
                let (mut from, mut to) = (from.unwrap(), to.unwrap());
                thread::spawn(move || {
                    let _broken = std::io::copy(&mut from, &mut to);
                    let _closed = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    (port, backend)
}

/// Runs kept-alive traffic through a relay, moves new connections to a second server, stops the first, and returns the
/// first one's exit and the generator's output.
fn hand_over(on_term: &str, delay_ms: &str) -> (ExitStatus, String) {
    // Each answer takes a while, so that some request is in flight at every moment.
    let (mut first, first_port) = Web::serve(&["--on-term", on_term, "--delay-ms", delay_ms]);
    let (_second, second_port) = Web::serve(&["--delay-ms", delay_ms]);
    let (port, backend) = relay(first_port);
    let mut load =
        Web::load(port, &["--mode", "keep-alive", "--rate", "200", "--duration", "30", "--workers", "8"]);
    load.until_sent(100);
    *backend.lock().unwrap() = second_port;
    first.signal("TERM");
    let status = first.wait();
    let sent = number(&load.line_with("sent"), "sent");
    load.until_sent(sent + 100);
    load.signal("TERM");
    let text = load.rest();
    assert!(load.wait().success());
    (status, text)
}

#[test]
fn finishing_under_kept_alive_traffic_loses_nothing() {
    let (status, text) = hand_over("finish", "20");
    assert!(status.success());
    let summary = summary(&text);
    assert_eq!(number(summary, "failed"), 0, "{text}");
    assert_eq!(number(summary, "ok"), number(summary, "sent"));
    assert!(number(summary, "connections") >= 16, "every connection moved: {summary}");
}

#[test]
fn exiting_at_once_under_kept_alive_traffic_loses_what_is_in_flight() {
    let (_, text) = hand_over("exit", "500");
    assert!(number(summary(&text), "failed") > 0, "{text}");
}

#[test]
fn a_server_killed_by_force_is_counted_as_loss() {
    let (mut server, port) = Web::serve(&[]);
    let mut load = Web::load(port, &["--mode", "new", "--rate", "200", "--duration", "30"]);
    load.until_sent(50);
    server.child.kill().unwrap();
    server.wait();
    let line = load.line_with("fail");
    assert!(
        line.contains("\"cause\":\"") && line.contains(&format!("\"target\":\"127.0.0.1:{port}\"")),
        "{line}"
    );
    load.signal("TERM");
    let text = load.rest();
    let summary = summary(&text);
    assert!(number(summary, "ok") > 0 && number(summary, "failed") > 0, "{summary}");
    assert_eq!(number(summary, "ok") + number(summary, "failed"), number(summary, "sent"));
}

#[test]
fn the_pace_is_kept_and_every_answer_is_in_the_histogram() {
    let (_server, port) = Web::serve(&[]);
    for (mode, connections) in [("new", 150), ("keep-alive", 32)] {
        let mut load =
            Web::load(port, &["--mode", mode, "--rate", "300", "--duration", "0.5", "--workers", "32"]);
        let text = load.rest();
        let summary = summary(&text);
        assert_eq!(number(summary, "sent"), 150, "{summary}");
        assert_eq!(number(summary, "ok"), 150, "{summary}");
        assert!(number(summary, "connections") >= connections, "{mode}: {summary}");
        if mode == "keep-alive" {
            // More may open while all of them wait, on a machine that stalls.
            assert!(number(summary, "connections") < 150, "none was used twice: {summary}");
        }
        let hist = summary.split("\"hist\":[").nth(1).unwrap();
        let counted: u64 =
            hist.split(']').filter_map(|pair| pair.rsplit(',').next()?.parse::<u64>().ok()).sum();
        assert_eq!(counted, 150, "{summary}");
        let ms = (number(summary, "ended_us") - number(summary, "started_us")) / 1000;
        assert!((490..5_000).contains(&ms), "{ms} ms");
    }
}

#[test]
fn statuses_of_400_and_above_and_timeouts_fail() {
    let (_server, port) = Web::serve(&["--ready-after", "600"]);
    let run = |path| {
        let words = [
            "--mode",
            "keep-alive",
            "--rate",
            "50",
            "--duration",
            "0.2",
            "--timeout-ms",
            "100",
            "--path",
            path,
        ];
        Web::load(port, &words).rest()
    };
    let unready = run("/readyz");
    assert_eq!(number(summary(&unready), "failed"), 10, "{unready}");
    assert!(unready.contains(r#""cause":"status 503""#) && unready.contains(r#""pod":"pod-a""#), "{unready}");
    assert_eq!(number(summary(&run("/nowhere")), "failed"), 10, "404");
    let slow = run("/slow?ms=5000");
    assert_eq!(number(summary(&slow), "failed"), 10, "{slow}");
    assert!(slow.contains(r#""cause":"timeout""#), "{slow}");
    assert_eq!(number(summary(&run("/livez")), "failed"), 0);
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream
}

fn ask(stream: &mut TcpStream, path: &str) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
}

/// Everything up to the server's close.
fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn finishing_answers_the_backlog_what_is_in_flight_and_one_more_on_each_connection() {
    let (mut server, port) = Web::serve(&["--on-term", "finish"]);
    let mut in_flight = connect(port);
    ask(&mut in_flight, "/slow?ms=300");
    let mut idle = connect(port);
    ask(&mut idle, "/livez");
    let mut some = [0; 4];
    idle.read_exact(&mut some).unwrap();
    // While the server stands still, its signal comes, and after it connections that only the kernel has taken.
    server.signal("STOP");
    server.signal("TERM");
    let backlog: Vec<_> = (0..50).map(|_| connect(port)).collect();
    server.signal("CONT");
    assert!(server.line_with("at_us").contains("SIGTERM"));
    for mut stream in backlog.into_iter().chain([idle]) {
        ask(&mut stream, "/");
        let text = answer(stream);
        assert!(text.contains("HTTP/1.1 200 OK") && text.contains("Connection: close"), "{text}");
    }
    let text = answer(in_flight);
    assert!(text.contains("pod-a\nGET /slow?ms=300 HTTP/1.1\r\nHost: test\n"), "{text}");
    assert!(text.contains("Connection: close"), "told after the request came: {text}");
    assert!(server.wait().success());
    assert!(TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_err());
}

#[test]
fn the_other_ways_of_ending() {
    for (on_term, ends_after_ms) in [("exit", Some(0)), ("slow=0.3", Some(300)), ("ignore", None)] {
        let (mut server, port) = Web::serve(&["--on-term", on_term]);
        server.signal("TERM");
        let told = server.line_with("at_us");
        assert!(told.contains("SIGTERM"), "{told}");
        if on_term != "exit" {
            let mut stream = connect(port);
            ask(&mut stream, "/");
            stream.read_exact(&mut [0; 15]).unwrap();
        }
        if let Some(ms) = ends_after_ms {
            let started = Instant::now();
            assert!(server.wait().success());
            assert!(started.elapsed() < Duration::from_millis(ms + 2_000));
        }
    }
}

#[test]
fn helpers_exit_as_told_and_nonsense_is_refused() {
    let code = |words: &[&str]| Command::new(WEB).args(words).output().unwrap().status.code();
    assert_eq!(code(&["true"]), Some(0));
    assert_eq!(code(&["false"]), Some(1));
    assert_eq!(code(&["exit", "42"]), Some(42));
    assert_eq!(code(&["sleep", "0"]), Some(0));
    for words in [&["exit", "256"][..], &[], &["serve", "--port"], &["load"], &["sleep", "x"]] {
        assert_eq!(code(words), Some(2), "{words:?}");
    }
}
