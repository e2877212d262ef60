//! What all parts of a simulation share: the journal of what happened, the checkers that read it, and chance.
//!
//! What must hold: the journal's text depends on the seed alone. It is the proof that a run was the same run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::Value;

use crate::{check::Checkers, machine};

/// Lines of the journal that are kept; its hash covers all.
const LINES_MAX: usize = 200_000;

/// What a kernel routes: for each `address:port` that clients connect to, the `address:port` of Pods.
pub type Routes = BTreeMap<String, BTreeSet<String>>;

/// One thing that happened. Checkers see nothing else.
#[derive(Clone, Debug)]
pub enum Fact {
    /// The store took a change of an object that checkers look at; `None`: it was removed.
    Stored {
        /// The commit's revision.
        revision: u64,
        /// Kind, namespace and name, as in `pods/default/web`.
        key: String,
        /// The object as it is kept.
        object: Option<Arc<Value>>,
    },
    /// A node's kernel routes so from now on.
    Routes {
        /// The node.
        node: String,
        /// All that it routes.
        routes: Arc<Routes>,
    },
    /// A process's next step.
    Process {
        /// The node.
        node: String,
        /// The Pod's uid.
        uid: String,
        /// The Pod's name.
        pod: String,
        /// The Pod's address.
        ip: String,
        /// The container's id.
        container: String,
        /// The step.
        step: Step,
    },
    /// A consumer says its watermark. Told when it is sent, before anybody can have heard it.
    Said {
        /// The consumer.
        consumer: String,
        /// Its incarnation.
        incarnation: String,
        /// The watermark.
        revision: u64,
    },
    /// A consumer's process began to run (true) or was killed (false).
    Consumer {
        /// The node that it serves.
        node: String,
        /// Whether it runs.
        runs: bool,
    },
    /// A fault begins (true) or ends (false).
    Fault {
        /// What is wrong, in words.
        what: String,
        /// Whether it begins.
        begins: bool,
    },
    /// What the cluster's user does.
    Act {
        /// In words.
        what: String,
        /// How many Pods he takes away by that, at most.
        costs: u64,
    },
    /// A write that the API answered, or (code 0) that got no answer. Checkers do not look at it.
    Called {
        /// The client.
        client: String,
        /// Method and path.
        what: String,
        /// The answer's code.
        code: u16,
    },
}

/// Steps of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It runs.
    Started,
    /// It takes connections.
    Accepts,
    /// It got its stop signal and takes no connections any more.
    Signalled,
    /// It was killed, without any signal before or after one.
    Killed,
    /// It ended by itself, in the midst of its work.
    Crashed,
    /// It has gone.
    Ended,
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored { revision, key, object } => {
                write!(f, "store    @{revision} {key}")?;
                if object.is_none() { f.write_str(" removed") } else { Ok(()) }
            }
            Self::Routes { node, routes } => {
                write!(f, "routes   {node}")?;
                for (to, pods) in routes.iter() {
                    write!(f, " {to}={}", Vec::from_iter(pods.iter().map(String::as_str)).join(","))?;
                }
                Ok(())
            }
            Self::Process { node, pod, ip, container, step, .. } => {
                write!(f, "process  {node} {pod} {ip} {container} {step:?}")
            }
            Self::Said { consumer, revision, .. } => write!(f, "says     {consumer} @{revision}"),
            Self::Consumer { node, runs: true } => write!(f, "proxy    {node} runs"),
            Self::Consumer { node, runs: false } => write!(f, "proxy    {node} killed"),
            Self::Fault { what, begins } => {
                write!(f, "fault    {what} {}", if *begins { "begins" } else { "ends" })
            }
            Self::Act { what, .. } => write!(f, "act      {what}"),
            Self::Called { client, what, code } => write!(f, "call     {client} {what} {code}"),
        }
    }
}

/// What is left of a world at its end.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// All that happened, line by line.
    pub journal: Vec<String>,
    /// The hash of that.
    pub hash: u64,
    /// What must not have happened.
    pub violations: Vec<String>,
    /// Stop signals that processes got.
    pub signals: u64,
}

struct State {
    chance: SmallRng,
    checkers: Checkers,
    lines: Vec<String>,
    hash: u64,
    signals: u64,
}

/// The shared part of a simulation. Clones share it.
#[derive(Clone)]
pub struct World(Arc<Mutex<State>>);

impl World {
    /// A world whose chance comes from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let chance = SmallRng::seed_from_u64(seed);
        let hash = 0xcbf2_9ce4_8422_2325;
        Self(Arc::new(Mutex::new(State {
            chance,
            checkers: Checkers::default(),
            lines: Vec::new(),
            hash,
            signals: 0,
        })))
    }

    /// Writes a fact down and shows it to the checkers.
    pub fn tell(&self, fact: &Fact) {
        let now = machine::elapsed();
        let mut state = self.0.lock();
        state.note(now, &fact.to_string());
        state.signals += u64::from(matches!(fact, Fact::Process { step: Step::Signalled, .. }));
        let before = state.checkers.violations.len();
        state.checkers.see(now, fact);
        let new: Vec<String> = state.checkers.violations.iter().skip(before).cloned().collect();
        for violation in new {
            state.note(now, &format!("VIOLATION {violation}"));
        }
    }

    /// What must be true at the end.
    pub fn end(&self) {
        let now = machine::elapsed();
        let mut state = self.0.lock();
        let before = state.checkers.violations.len();
        state.checkers.end(now);
        let new: Vec<String> = state.checkers.violations.iter().skip(before).cloned().collect();
        for violation in new {
            state.note(now, &format!("VIOLATION {violation}"));
        }
    }

    /// Notes that something must not have happened.
    pub fn violated(&self, what: String) {
        let now = machine::elapsed();
        let mut state = self.0.lock();
        state.note(now, &format!("VIOLATION {what}"));
        state.checkers.violations.push(what);
    }

    /// A number of this range.
    #[must_use]
    pub fn number(&self, range: RangeInclusive<u64>) -> u64 {
        self.0.lock().chance.random_range(range)
    }

    /// Waits for so many milliseconds of this range.
    pub async fn pause(&self, range_ms: RangeInclusive<u64>) {
        let wait = Duration::from_millis(self.number(range_ms));
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// What came of it.
    #[must_use]
    pub fn close(&self) -> Record {
        let mut state = self.0.lock();
        Record {
            journal: std::mem::take(&mut state.lines),
            hash: state.hash,
            violations: state.checkers.violations.clone(),
            signals: state.signals,
        }
    }
}

impl State {
    fn note(&mut self, at: Duration, text: &str) {
        let line = format!("{:>7}.{:03} {text}", at.as_secs(), at.subsec_millis());
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.lines.len() < LINES_MAX {
            self.lines.push(line);
        }
    }
}
