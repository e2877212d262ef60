//! `web work`: a queue's worker. It takes tasks, works on each for a while and says that it is done; SIGTERM means: take no more, finish
//! these, then end.
//!
//! It has a thread for each task that it works on at once, each a worker of its own for the queue (`NAME/0`, `NAME/1`, ...) with one
//! request at a time. What must hold: a request that may have reached the queue is sent again, with the same number, until its answer is
//! here, also after the stop signal; otherwise a task could be taken without anybody knowing. Only what surely was never sent is given up.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    args::Flags,
    clock,
    http::{self, Parsed},
    load::Targets,
    load_report::quoted,
    serve::say,
    sys::{self, PollFd, Signals},
};

const AT_ONCE_MAX: usize = 64;
/// The longest that a task takes.
const TASK_MS_MAX: u64 = 3_600_000;
/// After the queue had nothing.
const IDLE: Duration = Duration::from_millis(50);
/// Before a request is sent again.
const RETRY: Duration = Duration::from_millis(100);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What to work on, and how.
pub struct Options {
    queue: String,
    task: Duration,
    at_once: usize,
}

impl Options {
    /// From the words after `work`.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let flags = Flags::parse(words, &["queue", "task-ms", "at-once"])?;
        let queue = flags.required("queue")?.to_owned();
        Targets::parse(&queue).map_err(|error| format!("--queue: {error}"))?;
        let task_ms = flags.number_or("task-ms", 100)?;
        if task_ms > TASK_MS_MAX {
            return Err(format!("--task-ms: must be at most {TASK_MS_MAX}"));
        }
        let at_once = flags.number_or("at-once", 1)?;
        if at_once == 0 || at_once > AT_ONCE_MAX {
            return Err(format!("--at-once: must be 1 to {AT_ONCE_MAX}"));
        }
        Ok(Self { queue, task: Duration::from_millis(task_ms), at_once })
    }
}

/// What the threads share.
struct Shared {
    name: String,
    task: Duration,
    /// Take no more.
    stopping: AtomicBool,
    working: AtomicU64,
    done: AtomicU64,
}

/// Works until told to stop, then finishes what was begun.
pub fn run(options: &Options) -> Result<ExitCode, String> {
    let mut signals = Signals::block().map_err(|e| format!("cannot take signals: {e}"))?;
    let shared = Shared {
        name: std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned()),
        task: options.task,
        stopping: AtomicBool::new(false),
        working: AtomicU64::new(0),
        done: AtomicU64::new(0),
    };
    let (at, name) = (clock::unix_us(), quoted(&shared.name));
    say(&format!(r#"{{"at_us":{at},"worker":{name},"at_once":{}}}"#, options.at_once));
    let slots = (0..options.at_once).map(|slot| Slot::new(&shared, &options.queue, slot));
    let slots = slots.collect::<Result<Vec<_>, _>>()?;
    let waited = thread::scope(|scope| {
        for slot in slots {
            scope.spawn(|| slot.run());
        }
        let waited = wait_for(&mut signals);
        shared.stopping.store(true, Ordering::Relaxed);
        let working = shared.working.load(Ordering::Relaxed);
        say(&format!(r#"{{"at_us":{},"signal":"SIGTERM","working":{working}}}"#, clock::unix_us()));
        waited
    });
    let done = shared.done.load(Ordering::Relaxed);
    say(&format!(r#"{{"at_us":{},"exit":true,"done":{done}}}"#, clock::unix_us()));
    waited.map(|()| ExitCode::SUCCESS)
}

fn wait_for(signals: &mut Signals) -> Result<(), String> {
    while !signals.take() {
        let mut fds = [PollFd::new(signals, true, false)];
        sys::wait(&mut fds, Duration::from_secs(3600)).map_err(|e| format!("cannot wait: {e}"))?;
    }
    Ok(())
}

/// One task at a time.
struct Slot<'a> {
    shared: &'a Shared,
    name: String,
    host: String,
    targets: Targets,
    connection: Option<TcpStream>,
    /// Of the latest request. It begins with the time, so that a restarted worker goes on above the one before it.
    number: u64,
}

/// Why there is no answer.
struct Lost {
    /// The queue may have got the request.
    sent: bool,
    why: String,
}

impl<'a> Slot<'a> {
    fn new(shared: &'a Shared, queue: &str, slot: usize) -> Result<Self, String> {
        Ok(Self {
            shared,
            name: format!("{}/{slot}", shared.name),
            host: queue.to_owned(),
            targets: Targets::parse(queue)?,
            connection: None,
            number: clock::unix_us(),
        })
    }

    fn run(mut self) {
        while !self.shared.stopping.load(Ordering::Relaxed) {
            match self.ask("/take", "") {
                Some((200, body)) => match body.trim().parse() {
                    Ok(id) => self.work(id),
                    Err(_) => self.complain("the queue gave no task's number"),
                },
                Some((204, _)) => thread::sleep(IDLE),
                Some((status, body)) => {
                    self.complain(&format!("take: {status} {}", body.trim()));
                    thread::sleep(RETRY);
                }
                None => {}
            }
        }
    }

    fn work(&mut self, id: u64) {
        let began = Instant::now();
        self.shared.working.fetch_add(1, Ordering::Relaxed);
        thread::sleep(self.shared.task);
        match self.ask("/done", &format!("&id={id}")) {
            Some((200, _)) => {
                self.shared.done.fetch_add(1, Ordering::Relaxed);
                let (name, us) = (quoted(&self.name), clock::micros(began.elapsed()));
                say(&format!(r#"{{"at_us":{},"worker":{name},"task":{id},"us":{us}}}"#, clock::unix_us()));
            }
            Some((status, body)) => self.complain(&format!("done {id}: {status} {}", body.trim())),
            None => self.complain(&format!("done {id}: not said")),
        }
        self.shared.working.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sends a request under a new number until it is answered. `None` only for a `/take` that was never sent and is not wanted any more.
    fn ask(&mut self, path: &str, more: &str) -> Option<(u16, String)> {
        self.number += 1;
        let request = format!(
            "POST {path}?worker={}&n={}{more} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n",
            self.name, self.number, self.host
        );
        let (mut sent, mut tries) = (path != "/take", 0);
        loop {
            let lost = match self.exchange(request.as_bytes()) {
                // It was refused, so this time nothing was done.
                Ok((status, _)) if status >= 500 => Lost { sent: false, why: format!("status {status}") },
                Ok(answer) => return Some(answer),
                Err(lost) => lost,
            };
            self.connection = None;
            sent |= lost.sent;
            if tries == 0 {
                self.complain(&format!("{path}: {}; sent again until it is answered", lost.why));
            }
            tries += 1;
            if !sent && self.shared.stopping.load(Ordering::Relaxed) {
                return None;
            }
            thread::sleep(RETRY);
        }
    }

    fn exchange(&mut self, request: &[u8]) -> Result<(u16, String), Lost> {
        let mut stream = match self.connection.take() {
            Some(stream) => stream,
            None => self.connect().map_err(|why| Lost { sent: false, why })?,
        };
        let lost = |error: std::io::Error| Lost { sent: true, why: error.to_string() };
        stream.write_all(request).map_err(lost)?;
        let (until, mut input, mut chunk) = (Instant::now() + ANSWER_WITHIN, Vec::new(), [0; 1024]);
        loop {
            match http::parse_response(&input) {
                Parsed::Bad => return Err(Lost { sent: true, why: "not an answer".to_owned() }),
                Parsed::Head(head, length) if input.len() >= length.saturating_add(head.body_bytes) => {
                    let body = input.get(length..length + head.body_bytes).unwrap_or_default();
                    self.connection = (!head.close).then_some(stream);
                    return Ok((head.status, String::from_utf8_lossy(body).into_owned()));
                }
                Parsed::Head(..) if input.len() > 4 * http::HEAD_BYTES_MAX => {
                    return Err(Lost { sent: true, why: "answer too long".to_owned() });
                }
                Parsed::Head(..) | Parsed::More => {}
            }
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            stream.set_read_timeout(Some(left)).map_err(lost)?;
            match stream.read(&mut chunk).map_err(lost)? {
                0 => return Err(lost(ErrorKind::UnexpectedEof.into())),
                count => input.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            }
        }
    }

    fn connect(&mut self) -> Result<TcpStream, String> {
        let target = self.targets.next().map_err(|cause| cause.text())?;
        let stream = TcpStream::connect_timeout(&target.into(), CONNECT_WITHIN).map_err(|e| e.to_string())?;
        let _only_slower = stream.set_nodelay(true);
        stream.set_write_timeout(Some(ANSWER_WITHIN)).map_err(|e| e.to_string())?;
        Ok(stream)
    }

    fn complain(&self, what: &str) {
        let (at, name) = (clock::unix_us(), quoted(&self.name));
        say(&format!(r#"{{"at_us":{at},"worker":{name},"trouble":{}}}"#, quoted(what)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said() {
        for (text, want) in [
            ("", "--queue is missing"),
            ("--queue nowhere", "--queue: \"nowhere\" is neither"),
            ("--queue a:1 --at-once 0", "--at-once"),
            ("--queue a:1 --at-once 65", "--at-once"),
            ("--queue a:1 --task-ms 3600001", "--task-ms"),
        ] {
            let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
            let error = Options::parse(&words).err().unwrap();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
