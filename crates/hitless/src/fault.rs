//! What a person is told when something cannot be done: what was wrong, and what to do.

use std::fmt;

/// One clear sentence, and what to do about it. The process exits with `code`.
#[derive(Debug)]
pub struct Fault {
    /// What was wrong.
    pub what: String,
    /// What to do; empty where nothing is to be said.
    pub hint: String,
    /// 2: the request or the machine is not as it must be. 1: it was tried and failed.
    pub code: u8,
}

impl Fault {
    /// The request or the machine is not as it must be: nothing was begun, exit code 2.
    pub fn refused(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into(), code: 2 }
    }

    /// It was tried and failed: exit code 1.
    pub fn failed(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into(), code: 1 }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.hint.is_empty() {
            write!(f, "\n  {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
