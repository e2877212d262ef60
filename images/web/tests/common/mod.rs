//! What the tests of the program share: the program as a process, its lines, and a relay.
#![allow(dead_code, reason = "each test file uses its part of this")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking")]

use std::{
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

/// The program under test.
pub const WEB: &str = env!("CARGO_BIN_EXE_hitless-image-web");
/// The longest that anything here takes.
pub const BOUND: Duration = Duration::from_secs(20);

/// A running `web`, killed when dropped.
pub struct Web {
    /// The process.
    pub child: Child,
    out: BufReader<ChildStdout>,
}

impl Web {
    /// Starts it.
    pub fn start(words: &[&str]) -> Self {
        let mut child =
            Command::new(WEB).args(words).env("HOSTNAME", "pod-a").stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// A server on a free port.
    pub fn serve(words: &[&str]) -> (Self, u16) {
        Self::on_port("serve", words)
    }

    /// `serve` or `queue` on a free port.
    pub fn on_port(command: &str, words: &[&str]) -> (Self, u16) {
        let mut web = Self::start(&[&[command, "--port", "0"], words].concat());
        let port = number(&web.line(), "listening");
        (web, port.try_into().unwrap())
    }

    /// A load generator.
    pub fn load(port: u16, words: &[&str]) -> Self {
        let target = format!("127.0.0.1:{port}");
        Self::start(&[&["load", "--target", &target, "--linger-ms", "0"], words].concat())
    }

    /// Its next line.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the program ended early");
        line
    }

    /// The next line that holds this field.
    pub fn line_with(&mut self, name: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(&format!("\"{name}\":")) {
                return line;
            }
        }
    }

    /// Reads up to a progress line with at least so many requests sent.
    pub fn until_sent(&mut self, count: u64) {
        while find(&self.line(), "sent").is_none_or(|sent| sent < count) {}
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let status =
            Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status().unwrap();
        assert!(status.success());
    }

    /// The rest of the output, once the program has ended.
    pub fn rest(&mut self) -> String {
        let mut text = String::new();
        self.out.read_to_string(&mut text).unwrap();
        text
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
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
pub fn find(line: &str, name: &str) -> Option<u64> {
    let rest = line.split(&format!("\"{name}\":")).nth(1)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The same; it must be there.
pub fn number(line: &str, name: &str) -> u64 {
    find(line, name).unwrap_or_else(|| panic!("no {name} in {line}"))
}

/// The summary's line.
pub fn summary(text: &str) -> &str {
    text.lines().rfind(|line| line.contains("\"summary\"")).unwrap_or_else(|| panic!("no summary in {text}"))
}

/// A relay that sends each new connection to whichever port it is told, as a Service's cluster IP does.
pub fn relay(first: u16) -> (u16, Arc<Mutex<u16>>) {
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

/// A connection that does not wait for ever.
pub fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream
}
