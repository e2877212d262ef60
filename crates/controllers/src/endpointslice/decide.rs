//! From a Service, its Pods and its present slices to a plan: pure.
//!
//! What must hold: every endpoint that ought to be is in exactly one slice, and the plan is the least number of writes,
//! because each write is one more change for every consumer in the cluster.

use std::{collections::BTreeMap, collections::HashMap, sync::Arc};

use hitless_types::{meta, well_known};
use k8s_openapi::{
    api::{
        core::v1::{Pod, Service},
        discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::desired::{Group, address_types, groups, is_headless};

/// Endpoints in one slice, as Kubernetes' default.
pub const SLICE_ENDPOINTS_MAX: usize = 100;

/// Standard label of what belongs to a headless Service.
pub(crate) const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";

/// What is to be done, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Without a name; the API makes one from `generateName`.
    pub create: Vec<EndpointSlice>,
    /// With the resourceVersion that the plan was made from.
    pub update: Vec<EndpointSlice>,
    /// Those to delete.
    pub delete: Vec<Arc<EndpointSlice>>,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.update.is_empty() && self.delete.is_empty()
    }
}

/// A present slice on its way to what it ought to be.
struct Draft {
    was: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

impl Draft {
    fn room(&self) -> usize {
        SLICE_ENDPOINTS_MAX.saturating_sub(self.endpoints.len())
    }
}

/// Plans the slices of a Service. `present` are those labelled as the Service's and as ours; others' slices are not to be given.
#[must_use]
pub fn decide(
    service: &Service,
    pods: &[Arc<Pod>],
    present: &[Arc<EndpointSlice>],
    zone_of: &dyn Fn(&str) -> Option<String>,
) -> Plan {
    let mut plan = Plan::default();
    let mut left: Vec<Arc<EndpointSlice>> = Vec::new();
    for slice in present.iter().filter(|s| s.metadata.deletion_timestamp.is_none()) {
        // One that belonged to an earlier Service of this name: the collector will come for it too.
        let mine = meta::controller_of(&slice.metadata)
            .is_some_and(|o| Some(&o.uid) == service.metadata.uid.as_ref());
        if mine { left.push(slice.clone()) } else { plan.delete.push(slice.clone()) }
    }
    left.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));

    let groups = groups(service, pods, zone_of);
    for group in &groups {
        let (fitting, others) = left.into_iter().partition(|s| fits(s, group));
        left = others;
        fill(service, group, fitting, &mut plan);
    }
    for address_type in address_types(service, pods) {
        if !groups.iter().any(|g| g.address_type == address_type) {
            left = keep_one(service, address_type, left, &mut plan);
        }
    }
    plan.delete.extend(left);
    reuse(service, &mut plan);
    plan
}

fn fits(slice: &EndpointSlice, group: &Group) -> bool {
    let mut ports = slice.ports.clone().unwrap_or_default();
    ports.sort_by(|a, b| a.name.cmp(&b.name));
    slice.address_type == group.address_type && ports == group.ports
}

/// Spreads a group over the slices that fit it and, if they are full, over new ones.
fn fill(service: &Service, group: &Group, fitting: Vec<Arc<EndpointSlice>>, plan: &mut Plan) {
    let mut wanted: HashMap<&str, &Endpoint> =
        group.endpoints.iter().filter_map(|e| Some((uid(e)?, e))).collect();
    // What is in the right place stays there. What a second slice lists too is dropped from it.
    let mut drafts: Vec<Draft> = fitting
        .into_iter()
        .map(|was| {
            let listed = was.endpoints.as_deref().unwrap_or_default();
            let mut changed = !same_labels(service, &was);
            let mut endpoints = Vec::with_capacity(listed.len());
            for old in listed {
                match uid(old).and_then(|uid| wanted.remove(uid)) {
                    Some(new) => {
                        changed |= old != new;
                        endpoints.push(new.clone());
                    }
                    None => changed = true,
                }
            }
            Draft { was, endpoints, changed }
        })
        .collect();
    let mut new =
        group.endpoints.iter().filter(|e| uid(e).is_some_and(|uid| wanted.contains_key(uid))).peekable();
    // First into slices that are written anyway, then all into the fullest one that takes them, then into new ones.
    for draft in drafts.iter_mut().filter(|d| d.changed && !d.endpoints.is_empty()) {
        let room = draft.room();
        draft.endpoints.extend(new.by_ref().take(room).cloned());
    }
    let rest: Vec<&Endpoint> = new.collect();
    let takes_all = drafts.iter_mut().filter(|d| d.room() >= rest.len()).min_by_key(|d| d.room());
    match takes_all {
        _ if rest.is_empty() => {}
        Some(draft) => {
            draft.changed = true;
            draft.endpoints.extend(rest.into_iter().cloned());
        }
        None => {
            for chunk in rest.chunks(SLICE_ENDPOINTS_MAX) {
                let endpoints = chunk.iter().map(|e| (*e).clone()).collect();
                plan.create.push(slice(service, group.address_type, &group.ports, endpoints));
            }
        }
    }
    for draft in drafts {
        match (draft.changed, draft.endpoints.is_empty()) {
            (_, true) => plan.delete.push(draft.was),
            (true, false) => {
                plan.update.push(rewritten(service, &draft.was, draft.was.ports.clone(), draft.endpoints))
            }
            (false, false) => {}
        }
    }
}

/// A family without endpoints keeps one empty slice, as in Kubernetes: consumers see that the Service is there. Gives back the others.
fn keep_one(
    service: &Service,
    address_type: &'static str,
    left: Vec<Arc<EndpointSlice>>,
    plan: &mut Plan,
) -> Vec<Arc<EndpointSlice>> {
    let (mut same, mut others): (Vec<_>, Vec<_>) =
        left.into_iter().partition(|s| s.address_type == address_type);
    if same.is_empty() {
        plan.create.push(slice(service, address_type, &[], Vec::new()));
        return others;
    }
    let kept = same.remove(0);
    if kept.endpoints.as_ref().is_some_and(|e| !e.is_empty()) || !same_labels(service, &kept) {
        plan.update.push(rewritten(service, &kept, kept.ports.clone(), Vec::new()));
    }
    others.extend(same);
    others
}

/// A new slice takes over one that would be deleted: one write instead of two.
fn reuse(service: &Service, plan: &mut Plan) {
    let mut create = Vec::new();
    for new in std::mem::take(&mut plan.create) {
        let position = plan.delete.iter().position(|old| {
            let mine = meta::controller_of(&old.metadata)
                .is_some_and(|o| Some(&o.uid) == service.metadata.uid.as_ref());
            mine && old.address_type == new.address_type
        });
        match position {
            Some(i) => {
                let old = plan.delete.remove(i);
                plan.update.push(rewritten(service, &old, new.ports, new.endpoints.unwrap_or_default()));
            }
            None => create.push(new),
        }
    }
    plan.create = create;
}

fn uid(endpoint: &Endpoint) -> Option<&str> {
    endpoint.target_ref.as_ref()?.uid.as_deref()
}

/// The Service's labels, but for those that say what a slice is.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(LABEL_HEADLESS);
    if is_headless(service) {
        labels.insert(LABEL_HEADLESS.to_owned(), String::new());
    }
    let name = service.metadata.name.clone().unwrap_or_default();
    labels.insert(well_known::LABEL_SERVICE_NAME.to_owned(), name);
    labels.insert(well_known::LABEL_MANAGED_BY.to_owned(), well_known::ENDPOINTSLICE_CONTROLLER.to_owned());
    labels
}

fn same_labels(service: &Service, slice: &EndpointSlice) -> bool {
    slice.metadata.labels.as_ref().is_some_and(|present| *present == labels(service))
}

fn slice(
    service: &Service,
    address_type: &str,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: service.metadata.name.as_ref().map(|name| format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Service".to_owned(),
                name: service.metadata.name.clone().unwrap_or_default(),
                uid: service.metadata.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        address_type: address_type.to_owned(),
        ports: Some(ports.to_vec()),
        endpoints: Some(endpoints),
    }
}

fn rewritten(
    service: &Service,
    was: &EndpointSlice,
    ports: Option<Vec<EndpointPort>>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let mut next = was.clone();
    next.metadata.labels = Some(labels(service));
    next.ports = ports;
    next.endpoints = Some(endpoints);
    next
}
