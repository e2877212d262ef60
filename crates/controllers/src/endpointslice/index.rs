//! What the EndpointSlice controller sees, and which Service is worth a look when something changes.
//!
//! [`Members`] (Pods and Services by namespace) is shared in kind with the Endpoints controller and the loop's:
//! all three must agree on which Pods a Service selects.

use std::{collections::HashMap, sync::Arc};

use hitless_client::{Cache, Delta, Queue};
use hitless_types::{meta, pod as read, selector, well_known};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use parking_lot::RwLock;

use super::desired;
use crate::Informers;

/// Standard label of a node: the zone that it is in.
const LABEL_ZONE: &str = "topology.kubernetes.io/zone";

#[derive(Default)]
struct Space {
    pods: HashMap<String, Arc<Pod>>,
    services: HashMap<String, Arc<Service>>,
}

/// Pods and Services by namespace, kept by handlers. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Members {
    spaces: Arc<RwLock<HashMap<String, Space>>>,
}

impl Members {
    /// Takes a Pod's step and gives the keys of the Services for which it means something: none, if no endpoint changes by it.
    pub(crate) fn take_pod(&self, delta: &Delta<Pod>) -> Vec<String> {
        let (namespace, name) = meta::split_key(&delta.key);
        let mut spaces = self.spaces.write();
        match &delta.after {
            Some(pod) => {
                let space = spaces.entry(namespace.to_owned()).or_default();
                space.pods.insert(name.to_owned(), pod.clone());
            }
            None => {
                if let Some(space) = spaces.get_mut(namespace) {
                    space.pods.remove(name);
                }
            }
        }
        if let (Some(before), Some(after)) = (&delta.before, &delta.after)
            && same_endpoint(before, after)
        {
            return Vec::new();
        }
        let Some(space) = spaces.get(namespace) else { return Vec::new() };
        let touched = |service: &Arc<Service>| {
            [&delta.before, &delta.after].into_iter().flatten().any(|pod| selects(service, pod))
        };
        space.services.values().filter(|s| touched(s)).map(|s| meta::key(&s.metadata)).collect()
    }

    /// Takes a Service's step.
    pub(crate) fn take_service(&self, delta: &Delta<Service>) {
        let (namespace, name) = meta::split_key(&delta.key);
        let mut spaces = self.spaces.write();
        let space = spaces.entry(namespace.to_owned()).or_default();
        match &delta.after {
            Some(service) => drop(space.services.insert(name.to_owned(), service.clone())),
            None => drop(space.services.remove(name)),
        }
        if space.services.is_empty() && space.pods.is_empty() {
            spaces.remove(namespace);
        }
    }

    pub(crate) fn service(&self, key: &str) -> Option<Arc<Service>> {
        let (namespace, name) = meta::split_key(key);
        self.spaces.read().get(namespace)?.services.get(name).cloned()
    }

    /// The Pods that the Service selects, by name.
    pub(crate) fn pods_of(&self, service: &Service) -> Vec<Arc<Pod>> {
        let spaces = self.spaces.read();
        let space = service.metadata.namespace.as_deref().and_then(|n| spaces.get(n));
        let mut pods: Vec<_> = space
            .into_iter()
            .flat_map(|s| s.pods.values())
            .filter(|p| selects(service, p))
            .cloned()
            .collect();
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        pods
    }

    /// The Services that select the Pod.
    pub(crate) fn services_for(&self, pod: &Pod) -> Vec<Arc<Service>> {
        let spaces = self.spaces.read();
        let space = pod.metadata.namespace.as_deref().and_then(|n| spaces.get(n));
        space.into_iter().flat_map(|s| s.services.values()).filter(|s| selects(s, pod)).cloned().collect()
    }

    /// Keys of all Services that have a selector.
    pub(crate) fn selecting(&self) -> Vec<String> {
        let spaces = self.spaces.read();
        let services = spaces.values().flat_map(|space| space.services.values());
        services.filter(|s| desired::has_endpoints(s)).map(|s| meta::key(&s.metadata)).collect()
    }
}

/// Whether the Service's endpoints are Pods, and this is one of them.
fn selects(service: &Service, pod: &Pod) -> bool {
    desired::has_endpoints(service)
        && service
            .spec
            .as_ref()
            .and_then(|s| s.selector.as_ref())
            .is_some_and(|wanted| selector::matches_map(wanted, pod.metadata.labels.as_ref()))
}

/// Whether a Pod's step leaves its endpoint as it was: most status updates do, and must cost nothing further.
fn same_endpoint(before: &Pod, after: &Pod) -> bool {
    let place = |pod: &Pod| {
        pod.spec
            .as_ref()
            .map(|s| (s.node_name.clone(), s.hostname.clone(), s.subdomain.clone()))
            .unwrap_or_default()
    };
    // Ports are part of what cannot change in a Pod.
    before.metadata.uid == after.metadata.uid
        && read::is_terminating(before) == read::is_terminating(after)
        && read::is_ready(before) == read::is_ready(after)
        && read::is_finished(before) == read::is_finished(after)
        && desired::addresses(before).eq(desired::addresses(after))
        && before.metadata.labels == after.metadata.labels
        && place(before) == place(after)
}

/// Key of the Service that a slice of ours belongs to.
pub(crate) fn owner_key(slice: &EndpointSlice) -> Option<String> {
    let labels = slice.metadata.labels.as_ref()?;
    if labels.get(well_known::LABEL_MANAGED_BY)? != well_known::ENDPOINTSLICE_CONTROLLER {
        return None;
    }
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{namespace}/{}", labels.get(well_known::LABEL_SERVICE_NAME)?))
}

fn zone(node: &Node) -> Option<&String> {
    node.metadata.labels.as_ref()?.get(LABEL_ZONE)
}

#[derive(Clone)]
pub(super) struct Index {
    pub(super) queue: Queue,
    pub(super) members: Members,
    pub(super) slices: Cache<EndpointSlice>,
    nodes: Cache<Node>,
}

impl Index {
    pub(super) fn new(informers: &mut Informers) -> Self {
        let (queue, members) = (Queue::new(), Members::default());
        let (ask, all) = (queue.clone(), members.clone());
        informers.pods.on_change(move |delta| all.take_pod(delta).into_iter().for_each(|key| ask.add(key)));
        let (ask, all) = (queue.clone(), members.clone());
        informers.services.on_change(move |delta| {
            all.take_service(delta);
            ask.add(delta.key.clone());
        });
        let ask = queue.clone();
        informers.endpointslices.on_change(move |delta| {
            [&delta.before, &delta.after]
                .into_iter()
                .flatten()
                .filter_map(|s| owner_key(s))
                .for_each(|key| ask.add(key));
        });
        let (ask, all) = (queue.clone(), members.clone());
        informers.nodes.on_change(move |delta| {
            if delta.before.as_deref().and_then(zone) != delta.after.as_deref().and_then(zone) {
                all.selecting().into_iter().for_each(|key| ask.add(key));
            }
        });
        Self { queue, members, slices: informers.endpointslices.cache(), nodes: informers.nodes.cache() }
    }

    /// The zone of a node, if it says so.
    pub(super) fn zone_of(&self, node: &str) -> Option<String> {
        self.nodes.get(node).and_then(|node| zone(&node).cloned())
    }
}
