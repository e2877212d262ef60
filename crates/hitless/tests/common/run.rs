//! Runs a program to its end, within a bound, and keeps all that it said.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// No command of these tests takes this long.
const BOUND: Duration = Duration::from_secs(150);

/// What came of a program.
#[derive(Clone, Debug)]
pub struct Output {
    /// Whether it ended with 0.
    pub ok: bool,
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
    what: String,
}

impl Output {
    /// Both outputs.
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// It must have ended with 0.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert!(self.ok, "{} ended with {:?}:\n{}", self.what, self.code, self.all());
        self
    }

    /// It must have ended with this code. Gives standard error.
    #[track_caller]
    pub fn ended_with(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}:\n{}", self.what, self.all());
        self.stderr
    }
}

/// Runs it with nothing on standard input.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    run_with_input(command, "")
}

/// Runs it with `input` on standard input.
#[track_caller]
pub fn run_with_input(command: &mut Command, input: &str) -> Output {
    let what = format!("{command:?}");
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{what} cannot be run: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Whoever does not read its input may close it.
            let _closed = stdin.write_all(input.as_bytes());
        });
        let out = scope.spawn(move || text(&mut stdout));
        let err = scope.spawn(move || text(&mut stderr));
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > BOUND {
                let _gone = child.kill();
                let _reaped = child.wait();
                panic!("{what} did not end within {BOUND:?}: {}", err.join().unwrap());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let took = began.elapsed();
        let (stdout, stderr) = (out.join().unwrap(), err.join().unwrap());
        Output { ok: status.success(), code: status.code(), stdout, stderr, took, what: what.clone() }
    })
}

fn text(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let _cut = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
