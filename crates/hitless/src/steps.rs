//! What a person sees while a cluster comes up or goes: one line for each step, with its time.

use std::{io::Write, time::Duration};

/// Is told of each step when it is done.
pub trait Steps: Send + Sync {
    /// A step is done.
    fn done(&self, what: &str, took: Duration);
}

/// One line for each step on standard output.
pub struct Lines;

impl Steps for Lines {
    fn done(&self, what: &str, took: Duration) {
        say(&format!("  {what:<60} {:>8}", shown(took)));
    }
}

/// Says nothing.
pub struct Quiet;

impl Steps for Quiet {
    fn done(&self, _: &str, _: Duration) {}
}

/// A time as a person reads it: `12 ms`, `1.24 s`.
pub fn shown(took: Duration) -> String {
    if took < Duration::from_secs(1) {
        format!("{} ms", took.as_millis())
    } else {
        format!("{:.2} s", took.as_secs_f64())
    }
}

/// A line on standard output. Whoever reads it may have gone: that is no reason to end.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _reader_gone = writeln!(out, "{line}").and_then(|()| out.flush());
}
