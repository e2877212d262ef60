//! What a seed means: the cluster, the workload, what its user does and which faults there are, with their times.
//!
//! Pure: the same seed is the same plan.

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

/// Something that the cluster's user does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// A new template: every Pod is replaced.
    Rollout,
    /// Deletes one of the Pods; `None`: with its own grace period.
    Delete {
        /// Which.
        which: u64,
        /// Another grace period, in seconds; 0 is a forced deletion.
        grace_s: Option<u32>,
    },
    /// Another number of replicas.
    Scale(u32),
    /// A process ends by itself.
    Crash(u64),
    /// Cordons a node, evicts its Pods, and lets it take Pods again.
    Drain(usize),
}

/// Something that goes wrong for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A node's kernel takes up to so much longer for each transaction.
    SlowKernel {
        /// The node.
        node: usize,
        /// How much longer, in milliseconds.
        ms: u64,
    },
    /// A node's kernel refuses some transactions.
    RefusingKernel {
        /// The node.
        node: usize,
        /// How many of 100.
        percent: u64,
    },
    /// A node's service proxy takes each change so much later: the product's own fault for tests.
    LaggingProxy {
        /// The node.
        node: usize,
        /// How much later, in milliseconds.
        ms: u64,
    },
    /// A node's service proxy is killed, and started again at the end.
    DeadProxy(usize),
    /// A node's kubelet is killed, and started again at the end.
    DeadKubelet(usize),
    /// A node cannot reach the API.
    CutNode(usize),
    /// A node's connections are slow.
    SlowNode {
        /// The node.
        node: usize,
        /// How slow, in milliseconds for each way.
        ms: u64,
    },
    /// Answers to a node are lost after the server has acted.
    LostAnswers {
        /// The node.
        node: usize,
        /// How many of 1,000.
        permille: u64,
    },
    /// Answers to controllers and scheduler are lost after the API server has acted: how many of 1,000.
    LostControl(u64),
    /// The engine is killed, and started again at the end.
    DeadEngine,
    /// Each flush of the store takes up to so much longer.
    SlowDisk(u64),
    /// A node's container runtime is slow.
    SlowRuntime {
        /// The node.
        node: usize,
        /// Each call takes up to so much longer, in milliseconds.
        ms: u64,
    },
}

/// What a seed means. Times are in milliseconds after the workload has come up.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes.
    pub nodes: u8,
    /// When the last of them joins, if that is later than the others.
    pub late_node: Option<u64>,
    /// Services that select the Pods.
    pub services: usize,
    /// Replicas at the beginning.
    pub replicas: u32,
    /// `maxSurge` and `maxUnavailable`.
    pub rolling: (u32, u32),
    /// How long a process takes until it takes connections.
    pub boot_ms: u64,
    /// How long it takes to end after its signal; `None`: it must be killed.
    pub exit_ms: Option<u64>,
    /// The Pods' own grace period. Seconds.
    pub grace_s: u32,
    /// Whether Events reach the API. They are nobody's input, and cost as much as all the rest.
    pub events: bool,
    /// What the user does, in order.
    pub acts: Vec<(u64, Act)>,
    /// Faults: from, to, which. No two of one kind at one place overlap.
    pub faults: Vec<(u64, u64, Fault)>,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut chance = SmallRng::seed_from_u64(seed ^ 0x0005_eed0_fac1_05e4);
        let nodes = chance.random_range(1..=3);
        let surge = chance.random_range(0..=1);
        let unavailable = if surge == 0 { 1 } else { chance.random_range(0..=1) };
        let mut plan = Self {
            nodes,
            late_node: (nodes > 1 && chance.random_bool(0.2)).then(|| chance.random_range(0..=1500)),
            services: if chance.random_bool(0.2) { 2 } else { 1 },
            replicas: chance.random_range(1..=3),
            rolling: (surge, unavailable),
            boot_ms: chance.random_range(0..=400),
            exit_ms: chance.random_bool(0.9).then(|| *[0, 0, 3, 100, 1500].choose(&mut chance).unwrap_or(&0)),
            grace_s: *[1, 5, 30].choose(&mut chance).unwrap_or(&5),
            events: chance.random_bool(0.125),
            acts: Vec::new(),
            faults: Vec::new(),
        };
        let mut at = chance.random_range(0..=500);
        for _ in 0..chance.random_range(1..=2) {
            plan.acts.push((at, act(&mut chance, usize::from(nodes))));
            at += *[0, 5, 50, 300, 1500, 4000].choose(&mut chance).unwrap_or(&0);
        }
        // A third of all runs is without any fault: there nothing excuses anything.
        let faults = [0, 0, 1, 1, 2, 3].choose(&mut chance).copied().unwrap_or(0);
        for _ in 0..faults {
            let from = chance.random_range(0..=at);
            let long = *[20, 300, 2000, 2000, 6000, 6000, 20_000, 75_000].choose(&mut chance).unwrap_or(&20);
            let to = from + chance.random_range(long / 4..=long);
            let fault = fault(&mut chance, usize::from(nodes));
            let same = |(_, _, other): &(u64, u64, Fault)| place(other) == place(&fault);
            if !plan.faults.iter().any(same) {
                plan.faults.push((from, to, fault));
            }
        }
        plan
    }
}

/// What faults share if they must not overlap.
fn place(fault: &Fault) -> (usize, usize) {
    match fault {
        Fault::SlowKernel { node, .. } | Fault::RefusingKernel { node, .. } => (1, *node),
        Fault::LaggingProxy { node, .. } => (6, *node),
        Fault::LostControl(_) => (3, 0),
        Fault::DeadProxy(node)
        | Fault::DeadKubelet(node)
        | Fault::CutNode(node)
        | Fault::SlowNode { node, .. }
        | Fault::LostAnswers { node, .. } => (2, *node),
        Fault::DeadEngine => (3, 0),
        Fault::SlowDisk(_) => (4, 0),
        Fault::SlowRuntime { node, .. } => (5, *node),
    }
}

fn act(chance: &mut SmallRng, nodes: usize) -> Act {
    match chance.random_range(0..11) {
        0..=3 => Act::Rollout,
        4..=6 => {
            let grace_s = *[None, None, None, Some(0), Some(3)].choose(chance).unwrap_or(&None);
            Act::Delete { which: chance.random(), grace_s }
        }
        7..=8 => Act::Scale(chance.random_range(0..=4)),
        9 => Act::Crash(chance.random()),
        _ => Act::Drain(chance.random_range(0..nodes)),
    }
}

fn fault(chance: &mut SmallRng, nodes: usize) -> Fault {
    let node = chance.random_range(0..nodes);
    match chance.random_range(0..12) {
        10 => Fault::LaggingProxy { node, ms: chance.random_range(5..=3000) },
        11 => Fault::LostControl(chance.random_range(50..=400)),
        0 => Fault::SlowKernel { node, ms: chance.random_range(5..=3000) },
        1 => Fault::RefusingKernel { node, percent: chance.random_range(20..=100) },
        2 => Fault::DeadProxy(node),
        3 => Fault::DeadKubelet(node),
        4 => Fault::CutNode(node),
        5 => Fault::SlowNode { node, ms: chance.random_range(5..=500) },
        6 => Fault::LostAnswers { node, permille: chance.random_range(50..=500) },
        7 => Fault::DeadEngine,
        8 => Fault::SlowDisk(chance.random_range(5..=500)),
        _ => Fault::SlowRuntime { node, ms: chance.random_range(10..=800) },
    }
}
