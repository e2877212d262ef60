//! From a Service and its Pods to its Endpoints object: pure.
//!
//! As Kubernetes: an address stands under `addresses` or `notReadyAddresses`, those with the same ports together;
//! terminating Pods are left out; the single object holds a thousand addresses at the most.

use std::{collections::BTreeMap, sync::Arc};

use hitless_types::pod as read;
use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::endpointslice::{
    LABEL_HEADLESS,
    desired::{address_types, addresses, family, hostname, is_headless, port_number, protocol, target},
};

/// Standard label: who manages an Endpoints object.
const LABEL_MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Its value for those that this controller writes, as in Kubernetes.
const MANAGER: &str = "endpoint-controller";
/// Standard annotation of an Endpoints object that does not hold all addresses.
const ANNOTATION_OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one object at the most.
const ADDRESSES_MAX: usize = 1000;

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// It is as it ought to be.
    Nothing,
    /// There is none yet.
    Create(Endpoints),
    /// With the resourceVersion that the plan was made from.
    Update(Endpoints),
}

/// Plans the Endpoints object of a Service that has a selector.
#[must_use]
pub fn decide(service: &Service, pods: &[Arc<Pod>], present: Option<&Endpoints>) -> Plan {
    let mut subsets = subsets(service, pods);
    let over_capacity = truncate(&mut subsets);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(LABEL_HEADLESS);
    if is_headless(service) {
        labels.insert(LABEL_HEADLESS.to_owned(), String::new());
    }
    labels.insert(LABEL_MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut next = present.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    next.metadata.labels = Some(labels);
    let mut annotations = next.metadata.annotations.take().unwrap_or_default();
    annotations.remove(ANNOTATION_OVER_CAPACITY);
    if over_capacity {
        annotations.insert(ANNOTATION_OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    next.metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    next.subsets = (!subsets.is_empty()).then_some(subsets);
    match present {
        None => Plan::Create(next),
        Some(present) if same(present, &next) => Plan::Nothing,
        Some(_) => Plan::Update(next),
    }
}

/// Whether this controller wrote it.
pub(super) fn is_managed(endpoints: &Endpoints) -> bool {
    endpoints.metadata.labels.as_ref().and_then(|l| l.get(LABEL_MANAGED_BY)).is_some_and(|m| m == MANAGER)
}

fn same(a: &Endpoints, b: &Endpoints) -> bool {
    let subsets = |e: &Endpoints| e.subsets.clone().unwrap_or_default();
    let annotations = |e: &Endpoints| e.metadata.annotations.clone().unwrap_or_default();
    subsets(a) == subsets(b) && a.metadata.labels == b.metadata.labels && annotations(a) == annotations(b)
}

/// Ports as a key that sorts: name, number, protocol, application protocol.
type Ports = Vec<(String, i32, String, Option<String>)>;

/// Addresses by the ports that they have.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let spec = service.spec.as_ref();
    let publish = spec.and_then(|s| s.publish_not_ready_addresses) == Some(true);
    let wanted = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
    // The object has one address for each Pod: that of the Service's first family.
    let address_type = address_types(service, pods).first().copied().unwrap_or_default();
    let mut by_ports: BTreeMap<Ports, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    for pod in pods {
        if read::is_finished(pod) || (read::is_terminating(pod) && !publish) {
            continue;
        }
        let Some(ip) = addresses(pod).find(|ip| family(ip) == address_type) else { continue };
        let mut ports: Ports = wanted
            .iter()
            .filter_map(|port| {
                let number = port_number(pod, port)?;
                let name = port.name.clone().unwrap_or_default();
                Some((name, number, protocol(port.protocol.as_deref()).to_owned(), port.app_protocol.clone()))
            })
            .collect();
        // Without any port an address means something only under a headless Service, as a name in DNS.
        if ports.is_empty() && !(wanted.is_empty() && is_headless(service)) {
            continue;
        }
        ports.sort();
        let address = EndpointAddress {
            ip: ip.to_owned(),
            hostname: hostname(service, pod),
            node_name: read::node_name(pod).map(str::to_owned),
            target_ref: Some(target(pod)),
        };
        let (ready, not_ready) = by_ports.entry(ports).or_default();
        if publish || read::is_ready(pod) { ready.push(address) } else { not_ready.push(address) }
    }
    by_ports.into_iter().map(|(ports, (ready, not_ready))| subset(ports, ready, not_ready)).collect()
}

fn subset(ports: Ports, ready: Vec<EndpointAddress>, not_ready: Vec<EndpointAddress>) -> EndpointSubset {
    let sorted = |mut all: Vec<EndpointAddress>| {
        all.sort_by(|a, b| a.ip.cmp(&b.ip));
        (!all.is_empty()).then_some(all)
    };
    let ports: Vec<EndpointPort> = ports
        .into_iter()
        .map(|(name, port, protocol, app_protocol)| EndpointPort {
            name: Some(name).filter(|n| !n.is_empty()),
            port,
            protocol: Some(protocol),
            app_protocol,
        })
        .collect();
    EndpointSubset {
        addresses: sorted(ready),
        not_ready_addresses: sorted(not_ready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

/// Keeps at most [`ADDRESSES_MAX`], ready ones first; says whether something was left out.
fn truncate(subsets: &mut Vec<EndpointSubset>) -> bool {
    let mut room = ADDRESSES_MAX;
    let mut left_out = false;
    let mut keep = |all: &mut Option<Vec<EndpointAddress>>| {
        if let Some(addresses) = all {
            left_out |= addresses.len() > room;
            addresses.truncate(room);
            room -= addresses.len();
        }
        if all.as_ref().is_some_and(Vec::is_empty) {
            *all = None;
        }
    };
    subsets.iter_mut().for_each(|s| keep(&mut s.addresses));
    subsets.iter_mut().for_each(|s| keep(&mut s.not_ready_addresses));
    subsets.retain(|s| s.addresses.is_some() || s.not_ready_addresses.is_some());
    left_out
}
