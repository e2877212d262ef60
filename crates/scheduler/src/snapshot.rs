//! What a plan is made from: nodes with the Pods on them, Services and namespaces, at one moment.
//!
//! Views hold what was worked out of an object once, when it changed, so that a plan need not work it out again.

use std::{collections::BTreeMap, sync::Arc};

use hitless_types::{
    meta, pod,
    resources::{Resources, pod_requests},
    selector::{self, Requirements},
    well_known,
};
use k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm, PodSpec, Service, Taint, Toleration};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// What a Pod without requests counts for when nodes are compared (not when they are filled), as in Kubernetes.
const CPU_MILLI_ASSUMED: i64 = 100;
/// The same for memory.
const MEMORY_BYTES_ASSUMED: i64 = 200 * 1024 * 1024;

/// A port of the node that a Pod takes for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The node's address; empty for all of them.
    pub address: String,
    /// The number.
    pub port: i32,
}

impl HostPort {
    /// Whether two Pods with these ports cannot be on one node.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || self.address.is_empty() || other.address.is_empty())
    }
}

/// Which Pods a term of Pod affinity means, and what counts as near.
#[derive(Clone, Debug, PartialEq)]
pub struct Near {
    /// Labels of those Pods; `None` matches none.
    pub selector: Option<Requirements>,
    /// Their namespaces, by name.
    pub namespaces: Vec<String>,
    /// Their namespaces, by label.
    pub namespace_selector: Option<Requirements>,
    /// The node label whose equal values mean near.
    pub topology_key: String,
}

impl Near {
    fn new(term: &PodAffinityTerm, own_namespace: &str) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(own_namespace.to_owned());
        }
        // Validation has refused selectors that cannot be read; one that slips through matches nothing.
        let read = |s| selector::from_label_selector(s).ok();
        Self {
            selector: term.label_selector.as_ref().and_then(read),
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().and_then(read),
            topology_key: term.topology_key.clone(),
        }
    }

    /// Whether the term means this Pod.
    #[must_use]
    pub fn means(&self, pod: &PodView, namespaces: &BTreeMap<String, Labels>) -> bool {
        let here = self.namespaces.contains(&pod.namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| {
                match namespaces.get(&pod.namespace) {
                    Some(labels) => selector.matches(labels),
                    None => selector.is_empty(),
                }
            });
        here && self.selector.as_ref().is_some_and(|selector| selector.matches(&pod.labels))
    }
}

/// A Pod as the scheduler looks at it.
#[derive(Clone, Debug)]
pub struct PodView {
    /// `namespace/name`.
    pub key: String,
    /// Its namespace.
    pub namespace: String,
    /// Its identity over deletions.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// The identity of its controller.
    pub owner: Option<String>,
    /// What it takes of a node.
    pub requests: Resources,
    /// CPU (thousandths) and memory (bytes) that it counts for when nodes are compared.
    pub weight: (i64, i64),
    /// Ports of the node that it takes.
    pub host_ports: Vec<HostPort>,
    /// Must be near to these.
    pub affinity: Vec<Near>,
    /// Must not be near to these.
    pub anti_affinity: Vec<Near>,
    /// Rather near to these (weight above zero) or rather not (below).
    pub preferred: Vec<(i64, Near)>,
    /// The object.
    pub object: Arc<Pod>,
}

impl PodView {
    /// The view of a Pod.
    #[must_use]
    pub fn new(object: Arc<Pod>) -> Self {
        let empty = PodSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&empty);
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let requests = pod_requests(spec);
        let weight = (
            if requests.cpu_milli == 0 { CPU_MILLI_ASSUMED } else { requests.cpu_milli },
            if requests.memory_bytes == 0 { MEMORY_BYTES_ASSUMED } else { requests.memory_bytes },
        );
        let near = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<Near> {
            terms.into_iter().flatten().map(|term| Near::new(term, &namespace)).collect()
        };
        let with = spec.affinity.as_ref().and_then(|a| a.pod_affinity.as_ref());
        let without = spec.affinity.as_ref().and_then(|a| a.pod_anti_affinity.as_ref());
        let wished = with.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let unwished = without.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let preferred = [(1, wished), (-1, unwished)]
            .into_iter()
            .flat_map(|(sign, terms)| terms.into_iter().flatten().map(move |term| (sign, term)))
            .map(|(sign, term)| {
                (sign * i64::from(term.weight), Near::new(&term.pod_affinity_term, &namespace))
            })
            .collect();
        Self {
            key: meta::key(&object.metadata),
            uid: object.metadata.uid.clone().unwrap_or_default(),
            labels: object.metadata.labels.clone().unwrap_or_default(),
            owner: meta::controller_of(&object.metadata).map(|owner| owner.uid.clone()),
            weight,
            host_ports: host_ports(spec),
            affinity: near(with.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
            anti_affinity: near(
                without.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred,
            namespace,
            requests,
            object,
        }
    }

    /// The node it is bound to.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        pod::node_name(&self.object)
    }

    /// Whether it takes up room on its node: until it has ended or gone, also while it is being deleted.
    #[must_use]
    pub fn occupies(&self) -> bool {
        !pod::is_finished(&self.object)
    }

    /// Whether it is to be given a node by this scheduler.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        let Some(spec) = self.object.spec.as_ref() else { return false };
        self.node().is_none()
            && !pod::is_terminating(&self.object)
            && !pod::is_finished(&self.object)
            && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
            && spec.scheduler_name.as_deref().is_none_or(|name| name.is_empty() || name == crate::NAME)
    }

    /// Its tolerations.
    #[must_use]
    pub fn tolerations(&self) -> &[Toleration] {
        self.object.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
    }

    /// Its priority; greater goes first.
    #[must_use]
    pub fn priority(&self) -> i32 {
        self.object.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default()
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| hitless_types::resources::is_sidecar(container));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|&number| number > 0)?;
            let address =
                port.host_ip.as_deref().filter(|&ip| ip != "0.0.0.0" && ip != "::").unwrap_or_default();
            Some(HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                address: address.to_owned(),
                port: number,
            })
        })
        .collect()
}

/// A node as the scheduler looks at it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its taints; one for not being Ready is among them even before the node controller has set it.
    pub taints: Vec<Taint>,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// What Pods can have of it.
    pub allocatable: Resources,
}

impl NodeView {
    /// The view of a Node.
    #[must_use]
    pub fn new(node: &Node) -> Self {
        let mut taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        let known = |taint: &Taint| {
            taint.key == well_known::TAINT_NOT_READY || taint.key == well_known::TAINT_UNREACHABLE
        };
        if !is_ready(node) && !taints.iter().any(known) {
            taints.push(Taint {
                key: well_known::TAINT_NOT_READY.to_owned(),
                effect: "NoSchedule".to_owned(),
                ..Taint::default()
            });
        }
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints,
            unschedulable: node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false),
            allocatable: allocatable.map(Resources::from_list).unwrap_or_default(),
        }
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A Service, for spreading what it selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// Its namespace.
    pub namespace: String,
    /// What it selects; never empty.
    pub selector: Labels,
}

impl ServiceView {
    /// The view of a Service; `None` if it selects nothing.
    #[must_use]
    pub fn new(service: &Service) -> Option<Self> {
        let selector = service.spec.as_ref()?.selector.clone().filter(|selector| !selector.is_empty())?;
        Some(Self { namespace: service.metadata.namespace.clone().unwrap_or_default(), selector })
    }

    /// Whether it selects the Pod.
    #[must_use]
    pub fn selects(&self, pod: &PodView) -> bool {
        self.namespace == pod.namespace && selector::matches_map(&self.selector, Some(&pod.labels))
    }
}

/// Everything a plan is made from.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Nodes in the order of their names, each with the Pods that take up room on it.
    pub nodes: Vec<(Arc<NodeView>, Vec<Arc<PodView>>)>,
    /// Services that select something.
    pub services: Vec<Arc<ServiceView>>,
    /// Labels of namespaces.
    pub namespaces: BTreeMap<String, Labels>,
}
