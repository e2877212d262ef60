//! Which endpoints a Service ought to have: pure.
//!
//! As Kubernetes: <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/> and, for the
//! conditions of terminating endpoints, KEP-1672.

use std::sync::Arc;

use hitless_types::pod as read;
use k8s_openapi::{
    api::{
        core::v1::{ContainerPort, ObjectReference, Pod, Service, ServicePort},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

/// Address family, as slices and Services name it.
pub(crate) const IPV4: &str = "IPv4";
/// See [`IPV4`].
pub(crate) const IPV6: &str = "IPv6";

/// Endpoints that go into slices of their own: one address family, one set of port numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// `IPv4` or `IPv6`.
    pub address_type: &'static str,
    /// Sorted by name.
    pub ports: Vec<EndpointPort>,
    /// One for each Pod, by the Pod's name.
    pub endpoints: Vec<Endpoint>,
}

/// Whether the Service's endpoints are the Pods that it selects.
pub(crate) fn has_endpoints(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() != Some("ExternalName") && spec.selector.as_ref().is_some_and(|s| !s.is_empty())
    })
}

pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

/// The Pod's addresses.
pub(crate) fn addresses(pod: &Pod) -> impl Iterator<Item = &str> {
    let status = pod.status.as_ref();
    let listed = status.and_then(|s| s.pod_ips.as_deref()).unwrap_or_default();
    let single = status.and_then(|s| s.pod_ip.as_deref()).filter(|_| listed.is_empty());
    listed.iter().map(|ip| ip.ip.as_str()).chain(single).filter(|ip| !ip.is_empty())
}

pub(crate) fn family(address: &str) -> &'static str {
    if address.contains(':') { IPV6 } else { IPV4 }
}

/// The families that the Service asks for; `None`: whatever its Pods have.
fn families(service: &Service) -> Option<Vec<&'static str>> {
    let spec = service.spec.as_ref()?;
    if let Some(families) = spec.ip_families.as_ref().filter(|f| !f.is_empty()) {
        return Some(families.iter().map(|f| if f == IPV6 { IPV6 } else { IPV4 }).collect());
    }
    spec.cluster_ip.as_deref().filter(|ip| !matches!(*ip, "" | "None")).map(|ip| vec![family(ip)])
}

/// Whether the Pod, selected by the Service, belongs into its slices: as long as it is there, has an address
/// of the Service's families, and has not run to its end. A terminating Pod belongs there, as terminating.
pub(crate) fn lists(service: &Service, pod: &Pod) -> bool {
    let families = families(service);
    !read::is_finished(pod)
        && addresses(pod).any(|ip| families.as_ref().is_none_or(|wanted| wanted.contains(&family(ip))))
}

/// The families that slices are kept for, even empty ones. At least one.
pub(crate) fn address_types(service: &Service, pods: &[Arc<Pod>]) -> Vec<&'static str> {
    let mut types = families(service).unwrap_or_else(|| {
        let used =
            |type_: &&'static str| pods.iter().any(|pod| addresses(pod).any(|ip| family(ip) == *type_));
        [IPV4, IPV6].into_iter().filter(used).collect()
    });
    types.dedup();
    if types.is_empty() {
        types.push(IPV4);
    }
    types
}

/// The Service's endpoints out of the Pods that it selects, by port numbers and family.
#[must_use]
pub fn groups(service: &Service, pods: &[Arc<Pod>], zone_of: &dyn Fn(&str) -> Option<String>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for address_type in address_types(service, pods) {
        for pod in pods.iter().filter(|pod| lists(service, pod)) {
            let Some(address) = addresses(pod).find(|ip| family(ip) == address_type) else { continue };
            let endpoint = endpoint(service, pod, address, zone_of);
            let ports = ports(service, pod);
            match groups.iter_mut().find(|g| g.address_type == address_type && g.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group { address_type, ports, endpoints: vec![endpoint] }),
            }
        }
    }
    groups
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    address: &str,
    zone_of: &dyn Fn(&str) -> Option<String>,
) -> Endpoint {
    let (serving, terminating) = (read::is_ready(pod), read::is_terminating(pod));
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
    let node = read::node_name(pod);
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: node.map(str::to_owned),
        target_ref: Some(target(pod)),
        zone: node.and_then(zone_of),
        ..Endpoint::default()
    }
}

/// The Pod's own name in DNS, if it asked for one under this Service.
pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let asked = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|name| asked && !name.is_empty())
}

/// What an endpoint says of its Pod.
pub(crate) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The Service's ports with the Pod's numbers. A port whose name the Pod does not have is left out.
fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let wanted = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let mut ports: Vec<EndpointPort> = wanted
        .iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(port_number(pod, port)?),
                protocol: Some(protocol(port.protocol.as_deref()).to_owned()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort_by(|a, b| a.name.cmp(&b.name));
    ports
}

pub(crate) fn protocol(given: Option<&str>) -> &str {
    given.filter(|p| !p.is_empty()).unwrap_or("TCP")
}

/// The number behind a Service's target port in this Pod.
pub(crate) fn port_number(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => return Some(port.port),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    // An init container that goes on running (a sidecar) can be a target too.
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let is_it = |p: &&ContainerPort| {
        p.name.as_ref() == Some(name) && protocol(p.protocol.as_deref()) == protocol(port.protocol.as_deref())
    };
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .find(is_it)
        .map(|p| p.container_port)
}
