//! What the ReplicaSet controller sees, and which ReplicaSet is worth a look when something changes.

use hitless_client::{Cache, Delta, Queue};
use hitless_types::{meta, selector};
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};

use crate::{Informers, context::LINGER};

#[derive(Clone)]
pub(super) struct Index {
    pub(super) queue: Queue,
    pub(super) replicasets: Cache<ReplicaSet>,
    pub(super) pods: Cache<Pod>,
}

impl Index {
    pub(super) fn new(informers: &mut Informers) -> Self {
        let queue = Queue::lingering(LINGER);
        let replicasets = informers.replicasets.cache();
        let pods = informers.pods.cache();
        let ask = queue.clone();
        informers.replicasets.on_change(move |delta| ask.add(delta.key.clone()));
        let (ask, all) = (queue.clone(), replicasets.clone());
        informers.pods.on_change(move |delta| keys_for(delta, &all).into_iter().for_each(|key| ask.add(key)));
        Self { queue, replicasets, pods }
    }
}

/// The ReplicaSets that own the Pod now or owned it before; for a Pod without owner, those that would take it.
fn keys_for(delta: &Delta<Pod>, replicasets: &Cache<ReplicaSet>) -> Vec<String> {
    let mut keys: Vec<String> = [&delta.before, &delta.after]
        .into_iter()
        .flatten()
        .filter_map(|pod| {
            let owner = meta::controller_of(&pod.metadata).filter(|o| o.kind == "ReplicaSet")?;
            Some(format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or_default(), owner.name))
        })
        .collect();
    if let Some(orphan) = delta.after.as_ref().filter(|p| meta::controller_of(&p.metadata).is_none()) {
        let labels = orphan.metadata.labels.clone().unwrap_or_default();
        keys.extend(replicasets.list().into_iter().filter_map(|rs| {
            let spec = rs.spec.as_ref()?;
            let wanted = selector::from_label_selector(&spec.selector).ok()?;
            (rs.metadata.namespace == orphan.metadata.namespace && wanted.matches(&labels))
                .then(|| meta::key(&rs.metadata))
        }));
    }
    keys.dedup();
    keys
}
