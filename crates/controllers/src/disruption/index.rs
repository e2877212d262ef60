//! What the PodDisruptionBudget controller sees, and which budget is worth a look when something changes.

use std::sync::Arc;

use hitless_client::{Cache, Queue};
use hitless_types::{meta, selector};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
    policy::v1::PodDisruptionBudget,
};

use super::Seen;
use crate::{Informers, context::LINGER};

#[derive(Clone)]
pub(super) struct Index {
    pub(super) queue: Queue,
    pub(super) budgets: Cache<PodDisruptionBudget>,
    pods: Cache<Pod>,
    replicasets: Cache<ReplicaSet>,
    deployments: Cache<Deployment>,
}

impl Index {
    pub(super) fn new(informers: &mut Informers) -> Self {
        let queue = Queue::lingering(LINGER);
        let budgets = informers.budgets.cache();
        let ask = queue.clone();
        informers.budgets.on_change(move |delta| ask.add(delta.key.clone()));
        let (ask, all) = (queue.clone(), budgets.clone());
        informers.pods.on_change(move |delta| {
            for pod in [&delta.before, &delta.after].into_iter().flatten() {
                for budget in all.list().iter().filter(|budget| selects(budget, pod)) {
                    ask.add(meta::key(&budget.metadata));
                }
            }
        });
        Self {
            queue,
            budgets,
            pods: informers.pods.cache(),
            replicasets: informers.replicasets.cache(),
            deployments: informers.deployments.cache(),
        }
    }

    pub(super) fn seen<'a>(&self, budget: &'a PodDisruptionBudget) -> Seen<'a> {
        let pods: Vec<_> = self.pods.list().into_iter().filter(|pod| selects(budget, pod)).collect();
        let expected_of_controllers = self.expected(&pods);
        Seen { budget, pods, expected_of_controllers }
    }

    /// How many Pods the controllers of these Pods want; `None` when one of them has no controller with a scale.
    fn expected(&self, pods: &[Arc<Pod>]) -> Option<i32> {
        let mut owners: Vec<(String, i32)> = Vec::new();
        for pod in pods {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let owner = meta::controller_of(&pod.metadata).filter(|o| o.kind == "ReplicaSet")?;
            let rs = self.replicasets.get(&format!("{namespace}/{}", owner.name))?;
            let (uid, replicas) = match meta::controller_of(&rs.metadata).filter(|o| o.kind == "Deployment") {
                Some(above) => {
                    let deployment = self.deployments.get(&format!("{namespace}/{}", above.name))?;
                    (above.uid.clone(), deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))
                }
                None => (owner.uid.clone(), rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)),
            };
            if !owners.iter().any(|(known, _)| *known == uid) {
                owners.push((uid, replicas));
            }
        }
        Some(owners.iter().map(|(_, replicas)| replicas).sum())
    }
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let Some(wanted) = budget.spec.as_ref().and_then(|s| s.selector.as_ref()) else { return false };
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    budget.metadata.namespace == pod.metadata.namespace
        && selector::from_label_selector(wanted).is_ok_and(|s| s.matches(&labels))
}
