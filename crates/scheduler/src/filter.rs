//! Whether a Pod can be on a node at all; if not, why, in Kubernetes' words.
//!
//! The order is that of Kubernetes' plugins, and as there the first that says no gives the reasons for its node.

use std::{collections::BTreeMap, sync::Arc};

use hitless_types::well_known;
use k8s_openapi::api::core::v1::Taint;

use crate::{
    affinity::{tolerated, wants},
    decide::Room,
    snapshot::{Labels, Near, NodeView, PodView},
};

/// Why a node was ruled out; without the count that goes before it.
pub type Reason = String;

/// Empty if the Pod can be on the node by itself: without regard to where other Pods with affinities are.
#[must_use]
pub fn alone(pod: &PodView, room: &Room) -> Vec<Reason> {
    let node = &*room.node;
    if node.unschedulable && !tolerated(&cordon(), pod.tolerations()) {
        return vec!["node(s) were unschedulable".to_owned()];
    }
    let hard = |taint: &&Taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute";
    if node.taints.iter().filter(hard).any(|taint| !tolerated(taint, pod.tolerations())) {
        return vec!["node(s) had untolerated taint(s)".to_owned()];
    }
    if !wants(pod, node) {
        return vec!["node(s) didn't match Pod's node affinity/selector".to_owned()];
    }
    if pod.host_ports.iter().any(|port| room.host_ports.iter().any(|taken| taken.conflicts(port))) {
        return vec!["node(s) didn't have free ports for the requested pod ports".to_owned()];
    }
    short_of(pod, room)
}

/// The taint that a cordoned node has, or is about to have.
fn cordon() -> Taint {
    Taint {
        key: well_known::TAINT_UNSCHEDULABLE.to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    }
}

/// Every resource that the node has too little of. What a Pod does not ask for cannot be missing.
fn short_of(pod: &PodView, room: &Room) -> Vec<Reason> {
    let (asked, used, all) = (&pod.requests, &room.used, &room.node.allocatable);
    let short = |asked: i64, used: i64, all: i64| asked > 0 && asked > all.saturating_sub(used);
    let mut reasons = Vec::new();
    if short(1, used.pods, all.pods) {
        reasons.push("Too many pods".to_owned());
    }
    for (name, asked, used, all) in [
        ("cpu", asked.cpu_milli, used.cpu_milli, all.cpu_milli),
        ("memory", asked.memory_bytes, used.memory_bytes, all.memory_bytes),
        ("ephemeral-storage", asked.ephemeral_bytes, used.ephemeral_bytes, all.ephemeral_bytes),
    ] {
        if short(asked, used, all) {
            reasons.push(format!("Insufficient {name}"));
        }
    }
    for (name, &asked) in &asked.extended {
        let of = |amounts: &BTreeMap<String, i64>| amounts.get(name).copied().unwrap_or_default();
        if short(asked, of(&used.extended), of(&all.extended)) {
            reasons.push(format!("Insufficient {name}"));
        }
    }
    reasons
}

/// What required Pod affinity and anti-affinity say of every node, worked out once for a Pod.
///
/// See <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity>.
pub struct Neighbours<'a> {
    /// For each term of affinity: values of its topology label where a Pod is that all terms mean.
    wanted: Vec<(&'a Near, Vec<String>)>,
    /// The Pod is the first of its kind: its own affinity cannot hold yet, and must not keep it from starting.
    first_of_series: bool,
    /// Values of topology labels that the Pod must not be near to.
    unwanted: Vec<(&'a str, String)>,
    /// Values of topology labels where a Pod is that must not be near to this one.
    refusing: Vec<(String, String)>,
}

impl<'a> Neighbours<'a> {
    /// Looks at the Pods on all nodes, for `pod`.
    #[must_use]
    pub fn new(pod: &'a PodView, rooms: &[Room], namespaces: &BTreeMap<String, Labels>) -> Self {
        let mut wanted: Vec<(&Near, Vec<String>)> =
            pod.affinity.iter().map(|near| (near, Vec::new())).collect();
        let (mut unwanted, mut refusing) = (Vec::new(), Vec::new());
        for room in rooms {
            let value = |key: &str| room.node.labels.get(key).cloned();
            // Costs nothing where nobody uses affinities, which is the usual case.
            let with_anti = room.pods.iter().filter(|other| !other.anti_affinity.is_empty());
            for term in
                with_anti.flat_map(|other| &other.anti_affinity).filter(|term| term.means(pod, namespaces))
            {
                refusing.extend(value(&term.topology_key).map(|value| (term.topology_key.clone(), value)));
            }
            for term in &pod.anti_affinity {
                if room.pods.iter().any(|other| term.means(other, namespaces)) {
                    unwanted
                        .extend(value(&term.topology_key).map(|value| (term.topology_key.as_str(), value)));
                }
            }
            let meant = |other: &Arc<PodView>| pod.affinity.iter().all(|term| term.means(other, namespaces));
            if !wanted.is_empty() && room.pods.iter().any(meant) {
                for (near, values) in &mut wanted {
                    values.extend(value(&near.topology_key));
                }
            }
        }
        let nobody = wanted.iter().all(|(_, values)| values.is_empty());
        let first_of_series = nobody && pod.affinity.iter().all(|term| term.means(pod, namespaces));
        Self { wanted, first_of_series, unwanted, refusing }
    }

    /// Empty if the Pod can be on the node beside the others.
    #[must_use]
    pub fn check(&self, node: &NodeView) -> Vec<Reason> {
        let label = |key: &str| node.labels.get(key);
        let near = |(term, values): &(&Near, Vec<String>)| {
            label(&term.topology_key).is_some_and(|value| self.first_of_series || values.contains(value))
        };
        if !self.wanted.iter().all(near) {
            return vec!["node(s) didn't match pod affinity rules".to_owned()];
        }
        if self.unwanted.iter().any(|(key, value)| label(key) == Some(value)) {
            return vec!["node(s) didn't match pod anti-affinity rules".to_owned()];
        }
        if self.refusing.iter().any(|(key, value)| label(key) == Some(value)) {
            return vec!["node(s) didn't satisfy existing pods anti-affinity rules".to_owned()];
        }
        Vec::new()
    }
}
