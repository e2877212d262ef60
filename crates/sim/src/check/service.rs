//! A workload keeps what its Deployment promises: never fewer endpoints that answer than promised, never more Pods than allowed.
//!
//! "A rollout counts a new Pod as available when it is Ready and Programmed, so the old one is not retired before the new one
//! can be reached." Counted at each kernel, at every moment: endpoints that it routes to and that take connections. What the user takes away
//! himself (deletes, drains, crashes) is taken off the promise; so is everything when a fault lasts so long that
//! budgets and leases run out.

use std::time::Duration;

use super::view::View;
use crate::world::Fact;

/// A fault that lasts longer may spend a budget, or make a node count as lost.
const FAULT_MAX: Duration = Duration::from_secs(25);

#[derive(Default)]
pub(super) struct Service {
    /// The workload has come up, and its user goes on.
    armed: bool,
    /// Pods that the user took away.
    losses: u64,
    told: bool,
}

impl Service {
    pub(super) fn see(&mut self, view: &View, now: Duration, fact: &Fact, violations: &mut Vec<String>) {
        match fact {
            Fact::Act { what, costs } => {
                self.armed = what != "create" && what != "end";
                self.losses += costs;
            }
            Fact::Stored { key, object: Some(_), .. } if key.starts_with("replicasets/") => {
                self.too_many(view, violations);
            }
            Fact::Routes { .. } | Fact::Process { .. } => self.too_few(view, now, violations),
            _ => {}
        }
    }

    /// Counted as Kubernetes counts it: by what the ReplicaSets are told, not by what they have come to.
    fn too_many(&mut self, view: &View, violations: &mut Vec<String>) {
        let pods: u64 = view.replicasets.values().sum();
        let allowed = view.promise.replicas_max + view.promise.surge;
        if pods > allowed && !view.has_lost_answers && !std::mem::replace(&mut self.told, true) {
            violations.push(format!("ReplicaSets for {pods} Pods where {allowed} are allowed"));
        }
    }

    fn too_few(&mut self, view: &View, now: Duration, violations: &mut Vec<String>) {
        let promise = &view.promise;
        let promised = promise.replicas_min.saturating_sub(promise.unavailable).saturating_sub(self.losses);
        if !self.armed || self.told || promised == 0 || view.longest_fault(now) > FAULT_MAX {
            return;
        }
        for (node, kernel) in &view.kernels {
            for (to, pods) in kernel.routes.iter() {
                let ip = |pod: &String| pod.split(':').next().unwrap_or_default().to_owned();
                let takes = |pod: &&String| view.process_at(&ip(pod)).is_some_and(|p| p.takes_connections());
                let answering = pods.iter().filter(takes).count() as u64;
                if answering < promised {
                    self.told = true;
                    violations.push(format!(
                        "{node} routes {to} to {answering} processes that take connections, where {promised} are promised"
                    ));
                    return;
                }
            }
            if kernel.routes.is_empty() && kernel.serves {
                self.told = true;
                violations.push(format!("{node} routes to nobody where {promised} are promised"));
                return;
            }
        }
    }
}
