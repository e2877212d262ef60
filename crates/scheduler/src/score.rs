//! Which of the nodes that a Pod can be on suits it best.
//!
//! Nodes are compared by one thing after another, the greater first: taints that say "rather not", what the Pod says
//! it would like, spreading (Pods of the same controller, then of the same Services), room left, and at last the name,
//! so that a plan is always the same. Spreading goes before room because a lost node, or a drained one, should take
//! with it as little of one application as can be.

use std::{cmp::Reverse, collections::BTreeMap};

use hitless_types::pod as reading;

use crate::{
    affinity::{preference, tolerated},
    decide::Room,
    snapshot::{Labels, PodView, ServiceView},
};

/// Greater is better.
pub type Score = (Reverse<usize>, i64, Reverse<usize>, Reverse<usize>, Reverse<i64>, Reverse<usize>);

/// Compares nodes for one Pod.
pub struct Judge<'a> {
    pod: &'a PodView,
    services: Vec<&'a ServiceView>,
    /// Weight of preferred Pod affinity by topology label and value.
    nearness: BTreeMap<(String, String), i64>,
}

impl<'a> Judge<'a> {
    /// Works out what is the same for every node.
    pub fn new(
        pod: &'a PodView,
        rooms: &[Room],
        services: impl Iterator<Item = &'a ServiceView>,
        namespaces: &BTreeMap<String, Labels>,
    ) -> Self {
        let mut nearness = BTreeMap::new();
        for (weight, near) in &pod.preferred {
            for room in rooms {
                let Some(value) = room.node.labels.get(&near.topology_key) else { continue };
                let count = room.pods.iter().filter(|other| near.means(other, namespaces)).count();
                *nearness.entry((near.topology_key.clone(), value.clone())).or_default() +=
                    weight * i64::try_from(count).unwrap_or(i64::MAX);
            }
        }
        Self { pod, services: services.filter(|service| service.selects(pod)).collect(), nearness }
    }

    /// How well the node suits.
    #[must_use]
    pub fn score(&self, room: &Room) -> Score {
        let soft = room.node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        let unwelcome = soft.filter(|taint| !tolerated(taint, self.pod.tolerations())).count();
        let nearness: i64 = self
            .nearness
            .iter()
            .filter(|((key, value), _)| room.node.labels.get(key) == Some(value))
            .map(|(_, weight)| weight)
            .sum();
        // A Pod that is going does not count: it would push its own replacement off its node.
        let staying = || room.pods.iter().filter(|other| !reading::is_terminating(&other.object));
        let siblings = match &self.pod.owner {
            Some(owner) => staying().filter(|other| other.owner.as_ref() == Some(owner)).count(),
            None => 0,
        };
        let peers = if self.services.is_empty() {
            0
        } else {
            staying().filter(|other| self.services.iter().any(|service| service.selects(other))).count()
        };
        (
            Reverse(unwelcome),
            preference(self.pod, &room.node).saturating_add(nearness),
            Reverse(siblings),
            Reverse(peers),
            Reverse(self.load(room)),
            Reverse(room.pods.len()),
        )
    }

    /// How full the node would be, in ten-thousandths of CPU and of memory together.
    fn load(&self, room: &Room) -> i64 {
        let part = |used: i64, own: i64, all: i64| -> i64 {
            let all = i128::from(all.max(1));
            i64::try_from((i128::from(used) + i128::from(own)) * 10_000 / all).unwrap_or(i64::MAX)
        };
        let (cpu, memory) = self.pod.weight;
        let all = &room.node.allocatable;
        part(room.weight.0, cpu, all.cpu_milli).saturating_add(part(room.weight.1, memory, all.memory_bytes))
    }
}
