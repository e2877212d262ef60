//! What a Pod asks for, and the quality of service that follows from it.
//!
//! See <https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers> and
//! <https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/>.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as Text,
};

use crate::quantity::Quantity;

/// Amounts by resource, as the scheduler counts them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of ephemeral storage.
    pub ephemeral_bytes: i64,
    /// Pods.
    pub pods: i64,
    /// Whole units of everything else (`hugepages-2Mi`, `example.com/gpu`).
    pub extended: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a `ResourceList`, such as a Node's `status.allocatable`. What is not a quantity counts as zero:
    /// validation has refused it before.
    #[must_use]
    pub fn from_list(list: &BTreeMap<String, Text>) -> Self {
        let mut all = Self::default();
        for (name, text) in list {
            let quantity: Quantity = text.0.parse().unwrap_or_default();
            match name.as_str() {
                "cpu" => all.cpu_milli = quantity.milli(),
                "memory" => all.memory_bytes = quantity.bytes(),
                "ephemeral-storage" => all.ephemeral_bytes = quantity.bytes(),
                "pods" => all.pods = quantity.bytes(),
                _ => {
                    all.extended.insert(name.clone(), quantity.bytes());
                }
            }
        }
        all
    }

    /// Adds `other`, resource by resource.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes `other` away, resource by resource; may fall below zero.
    pub fn sub(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    /// The greater of both, resource by resource.
    pub fn max(&mut self, other: &Self) {
        self.combine(other, Ord::max);
    }

    fn combine(&mut self, other: &Self, op: fn(i64, i64) -> i64) {
        self.cpu_milli = op(self.cpu_milli, other.cpu_milli);
        self.memory_bytes = op(self.memory_bytes, other.memory_bytes);
        self.ephemeral_bytes = op(self.ephemeral_bytes, other.ephemeral_bytes);
        self.pods = op(self.pods, other.pods);
        for (name, amount) in &other.extended {
            let own = self.extended.entry(name.clone()).or_default();
            *own = op(*own, *amount);
        }
    }
}

/// What a Pod needs of a node: the containers that run together, or the greatest moment while init containers run one
/// after another beside the sidecars started before them; with the overhead, and one of `pods`.
#[must_use]
pub fn pod_requests(spec: &PodSpec) -> Resources {
    let mut together = Resources::default();
    for container in &spec.containers {
        together.add(&requests_of(container.resources.as_ref()));
    }
    let (mut sidecars, mut init_peak) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let own = requests_of(container.resources.as_ref());
        if is_sidecar(container) {
            sidecars.add(&own);
            init_peak.max(&sidecars);
        } else {
            let mut moment = sidecars.clone();
            moment.add(&own);
            init_peak.max(&moment);
        }
    }
    together.add(&sidecars);
    together.max(&init_peak);
    // Pod-level requests, where given, replace the sum of the containers'.
    if let Some(list) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let whole = Resources::from_list(list);
        if list.contains_key("cpu") {
            together.cpu_milli = whole.cpu_milli;
        }
        if list.contains_key("memory") {
            together.memory_bytes = whole.memory_bytes;
        }
    }
    if let Some(overhead) = &spec.overhead {
        together.add(&Resources::from_list(overhead));
    }
    together.pods = 1;
    together
}

/// Whether an init container goes on running beside the others.
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn requests_of(resources: Option<&ResourceRequirements>) -> Resources {
    resources.and_then(|r| r.requests.as_ref()).map(Resources::from_list).unwrap_or_default()
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from CPU and memory of all containers.
#[must_use]
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let of_pod =
        spec.resources.iter().filter(|r| r.requests.is_some() || r.limits.is_some()).collect::<Vec<_>>();
    let all: Vec<Option<&ResourceRequirements>> = if of_pod.is_empty() {
        spec.containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .map(|c| c.resources.as_ref())
            .collect()
    } else {
        of_pod.into_iter().map(Some).collect()
    };
    let amount = |list: Option<&BTreeMap<String, Text>>, name: &str| -> Option<Quantity> {
        list.and_then(|l| l.get(name)).and_then(|t| t.0.parse().ok()).filter(|q: &Quantity| !q.is_zero())
    };
    let (mut any, mut guaranteed) = (false, true);
    for resources in &all {
        for name in ["cpu", "memory"] {
            let limit = amount(resources.and_then(|r| r.limits.as_ref()), name);
            let request = amount(resources.and_then(|r| r.requests.as_ref()), name);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn container(cpu: &str, memory: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn a_pod_asks_for_its_greatest_moment() {
        let mut sidecar = container("50m", "10Mi");
        sidecar["restartPolicy"] = "Always".into();
        let pod = spec(json!({
            "containers": [container("100m", "64Mi"), container("0.2", "64Mi")],
            "initContainers": [container("1", "1Mi"), sidecar, container("300m", "256Mi")],
            "overhead": {"cpu": "10m"},
        }));
        let want = Resources { cpu_milli: 1010, memory_bytes: 266 << 20, pods: 1, ..Resources::default() };
        assert_eq!(pod_requests(&pod), want);
        let gpu =
            spec(json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "2"}}}]}));
        assert_eq!(pod_requests(&gpu).extended, BTreeMap::from([("example.com/gpu".to_owned(), 2)]));
    }

    #[test]
    fn quality_of_service() {
        let of = |resources: Value| {
            qos_class(&spec(json!({"containers": [{"name": "c", "resources": resources}]})))
        };
        assert_eq!(of(json!({})), "BestEffort");
        assert_eq!(of(json!({"requests": {"cpu": "1"}})), "Burstable");
        assert_eq!(of(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
        assert_eq!(
            of(
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}})
            ),
            "Guaranteed"
        );
        assert_eq!(
            of(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}})),
            "Burstable"
        );
        assert_eq!(of(json!({"limits": {"cpu": "1"}})), "Burstable");
    }
}
