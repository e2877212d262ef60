//! From a snapshot to a plan: which Pod goes to which node, and why the others go nowhere. Pure.
//!
//! Pods are placed one after another in the order given, each beside the ones placed before it, so that a plan as a
//! whole never puts more on a node than it has.

use std::{collections::BTreeMap, sync::Arc};

use hitless_types::resources::Resources;

use crate::{
    filter::{Neighbours, alone},
    score::Judge,
    snapshot::{HostPort, NodeView, PodView, Snapshot},
};

/// What is to be done with one Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// `namespace/name` of the Pod.
    pub pod: String,
    /// What to do.
    pub outcome: Outcome,
}

/// A node, or the reasons against every one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Bind it to this node.
    Bind {
        /// The node's name.
        node: String,
    },
    /// No node can take it.
    Unschedulable {
        /// Why, in Kubernetes' words: `0/2 nodes are available: 2 Insufficient cpu.`
        message: String,
    },
}

/// A node with what is taken of it, also by Pods that this plan has placed.
#[derive(Clone, Debug)]
pub struct Room {
    /// The node.
    pub node: Arc<NodeView>,
    /// The Pods on it.
    pub pods: Vec<Arc<PodView>>,
    /// What they take together.
    pub used: Resources,
    /// What they count for together when nodes are compared: CPU (thousandths) and memory (bytes).
    pub weight: (i64, i64),
    /// Its ports that they take.
    pub host_ports: Vec<HostPort>,
}

impl Room {
    fn new(node: &Arc<NodeView>, pods: &[Arc<PodView>]) -> Self {
        let mut room = Self {
            node: Arc::clone(node),
            pods: Vec::with_capacity(pods.len()),
            used: Resources::default(),
            weight: (0, 0),
            host_ports: Vec::new(),
        };
        for pod in pods {
            room.place(Arc::clone(pod));
        }
        room
    }

    fn place(&mut self, pod: Arc<PodView>) {
        self.used.add(&pod.requests);
        self.weight.0 = self.weight.0.saturating_add(pod.weight.0);
        self.weight.1 = self.weight.1.saturating_add(pod.weight.1);
        self.host_ports.extend(pod.host_ports.iter().cloned());
        self.pods.push(pod);
    }
}

/// Decides for each of `pending`, in the order given.
#[must_use]
pub fn plan(snapshot: &Snapshot, pending: &[Arc<PodView>]) -> Vec<Decision> {
    let mut rooms: Vec<Room> = snapshot.nodes.iter().map(|(node, pods)| Room::new(node, pods)).collect();
    pending
        .iter()
        .map(|pod| {
            let outcome = match choose(snapshot, &rooms, pod) {
                Ok(place) => match rooms.get_mut(place) {
                    Some(room) => {
                        room.place(Arc::clone(pod));
                        Outcome::Bind { node: room.node.name.clone() }
                    }
                    None => Outcome::Unschedulable { message: NO_NODES.to_owned() },
                },
                Err(message) => Outcome::Unschedulable { message },
            };
            Decision { pod: pod.key.clone(), outcome }
        })
        .collect()
}

const NO_NODES: &str = "no nodes available to schedule pods";

/// The place in `rooms` of the best node, or the reasons against all.
fn choose(snapshot: &Snapshot, rooms: &[Room], pod: &PodView) -> Result<usize, String> {
    if rooms.is_empty() {
        return Err(NO_NODES.to_owned());
    }
    let neighbours = Neighbours::new(pod, rooms, &snapshot.namespaces);
    let mut against: BTreeMap<String, usize> = BTreeMap::new();
    let mut feasible = Vec::new();
    for (place, room) in rooms.iter().enumerate() {
        let mut reasons = alone(pod, room);
        if reasons.is_empty() {
            reasons = neighbours.check(&room.node);
        }
        if reasons.is_empty() {
            feasible.push((place, room));
        }
        for reason in reasons {
            *against.entry(reason).or_default() += 1;
        }
    }
    let services = snapshot.services.iter().map(AsRef::as_ref);
    let judge = (feasible.len() > 1).then(|| Judge::new(pod, rooms, services, &snapshot.namespaces));
    // The first of equals, so the name decides last.
    let best = match judge {
        Some(judge) => feasible.iter().rev().max_by_key(|(_, room)| judge.score(room)),
        None => feasible.first(),
    };
    best.map(|&(place, _)| place).ok_or_else(|| unschedulable(rooms.len(), against))
}

/// As Kubernetes says it: the reasons with their counts, in the order of the text.
fn unschedulable(nodes: usize, against: BTreeMap<String, usize>) -> String {
    let mut reasons: Vec<String> =
        against.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort_unstable();
    format!("0/{nodes} nodes are available: {}.", reasons.join(", "))
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
