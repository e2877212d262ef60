//! What the Deployment controller sees, and which Deployment is worth a look when something changes.

use hitless_client::{Cache, Queue};
use hitless_types::{meta, selector};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
};

use crate::{Informers, context::LINGER};

#[derive(Clone)]
pub(super) struct Index {
    pub(super) queue: Queue,
    pub(super) deployments: Cache<Deployment>,
    pub(super) replicasets: Cache<ReplicaSet>,
    pub(super) pods: Cache<Pod>,
}

impl Index {
    pub(super) fn new(informers: &mut Informers) -> Self {
        let queue = Queue::lingering(LINGER);
        let (deployments, replicasets) = (informers.deployments.cache(), informers.replicasets.cache());
        let pods = informers.pods.cache();
        let ask = queue.clone();
        informers.deployments.on_change(move |delta| ask.add(delta.key.clone()));
        let (ask, all) = (queue.clone(), deployments.clone());
        informers.replicasets.on_change(move |delta| {
            // One without a controller may be for any Deployment that selects it.
            if let Some(orphan) =
                delta.after.as_ref().filter(|rs| meta::controller_of(&rs.metadata).is_none())
            {
                let labels = orphan.metadata.labels.clone().unwrap_or_default();
                for deployment in all.list() {
                    let spec = deployment.spec.as_ref();
                    let wanted = spec.and_then(|s| selector::from_label_selector(&s.selector).ok());
                    if deployment.metadata.namespace == orphan.metadata.namespace
                        && wanted.is_some_and(|wanted| wanted.matches(&labels))
                    {
                        ask.add(meta::key(&deployment.metadata));
                    }
                }
            }
            for replicaset in [&delta.before, &delta.after].into_iter().flatten() {
                if let Some(owner) =
                    meta::controller_of(&replicaset.metadata).filter(|o| o.kind == "Deployment")
                {
                    ask.add(format!(
                        "{}/{}",
                        replicaset.metadata.namespace.as_deref().unwrap_or_default(),
                        owner.name
                    ));
                }
            }
        });
        // `Recreate` waits until the last old Pod has gone.
        let (ask, all) = (queue.clone(), replicasets.clone());
        informers.pods.on_change(move |delta| {
            let (Some(pod), None) = (&delta.before, &delta.after) else { return };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let owner = meta::controller_of(&pod.metadata)
                .and_then(|owner| all.get(&format!("{namespace}/{}", owner.name)))
                .and_then(|rs| meta::controller_of(&rs.metadata).map(|o| o.name.clone()));
            if let Some(name) = owner {
                ask.add(format!("{namespace}/{name}"));
            }
        });
        Self { queue, deployments, replicasets, pods }
    }
}
