//! The downward API: fields of the Pod and resources of its containers as text.
//!
//! See <https://kubernetes.io/docs/concepts/workloads/pods/downward-api/>.

use std::collections::BTreeMap;

use hitless_types::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::options::Capacity;

/// A reference that means nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// No such field.
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    /// No such container.
    #[error("container {0} not found")]
    Container(String),
    /// No such resource.
    #[error("unsupported container resource : {0}")]
    Resource(String),
}

/// Addresses that the downward API shows; they are known only when the Pod runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The Pod's, the primary one first.
    pub pod_ips: Vec<String>,
    /// The node's.
    pub host_ip: String,
}

/// The text of `path` (`metadata.labels['app']`, `status.podIP`).
///
/// # Errors
/// A path that Kubernetes does not know.
pub fn field(pod: &Pod, addresses: &Addresses, path: &str) -> Result<String, FieldError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |t: Option<&String>| t.cloned().unwrap_or_default();
    if let Some((head, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match head {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(FieldError::Path(path.to_owned())),
        };
        return Ok(text(map.and_then(|m| m.get(key))));
    }
    Ok(match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "spec.nodeName" => text(spec.and_then(|s| s.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|s| s.service_account_name.as_ref())),
        "status.hostIP" | "status.hostIPs" => addresses.host_ip.clone(),
        "status.podIP" => addresses.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => addresses.pod_ips.join(","),
        _ => return Err(FieldError::Path(path.to_owned())),
    })
}

/// `key="value"` lines, as downward volumes show labels and annotations.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect();
    lines.join("\n")
}

/// The text of a container's resource; what has no limit shows the node's capacity.
///
/// # Errors
/// An unknown container or resource.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    capacity: &Capacity,
) -> Result<String, FieldError> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let container = match named {
        None => own,
        Some(name) => pod.spec.as_ref().and_then(|s| {
            s.containers.iter().chain(s.init_containers.iter().flatten()).find(|c| c.name == name)
        }),
    };
    let container = container.ok_or_else(|| FieldError::Container(named.unwrap_or_default().to_owned()))?;
    let (list, name) =
        selector.resource.split_once('.').ok_or_else(|| FieldError::Resource(selector.resource.clone()))?;
    let resources = container.resources.as_ref();
    let amounts = match list {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return Err(FieldError::Resource(selector.resource.clone())),
    };
    let whole = match (list, name) {
        ("limits", "cpu") => Quantity::from_milli(capacity.cpu_milli),
        ("limits", "memory") => Quantity::from_bytes(capacity.memory_bytes),
        ("limits", "ephemeral-storage") => Quantity::from_bytes(capacity.ephemeral_storage_bytes),
        ("requests", "cpu" | "memory" | "ephemeral-storage") => Quantity::default(),
        _ if name.starts_with("hugepages-") => Quantity::default(),
        _ => return Err(FieldError::Resource(selector.resource.clone())),
    };
    let amount =
        amounts.and_then(|a| a.get(name)).and_then(|q| q.0.parse().ok()).filter(|q: &Quantity| !q.is_zero());
    let amount = amount.unwrap_or(whole);
    let divisor: Quantity = selector.divisor.as_ref().and_then(|d| d.0.parse().ok()).unwrap_or_default();
    Ok(divide_up(&amount, &divisor, name == "cpu").to_string())
}

/// Whole units of `divisor` in `amount`, rounded up as Kubernetes does.
fn divide_up(amount: &Quantity, divisor: &Quantity, is_cpu: bool) -> i64 {
    let (amount, divisor) = match (divisor.is_zero(), is_cpu) {
        (true, true) => (amount.milli(), 1000),
        (true, false) => (amount.bytes(), 1),
        (false, true) => (amount.milli(), divisor.milli()),
        (false, false) => (amount.bytes(), divisor.bytes()),
    };
    let divisor = divisor.max(1);
    amount.div_euclid(divisor) + i64::from(amount.rem_euclid(divisor) != 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CAPACITY: Capacity =
        Capacity { cpu_milli: 2000, memory_bytes: 8 << 30, pods: 110, ephemeral_storage_bytes: 1 << 30 };

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "web", "b": "a \"q\""}},
            "spec": {"nodeName": "n1", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "64Mi"}}}]}
        }))
        .unwrap()
    }

    #[test]
    fn fields_of_the_pod() {
        let addresses =
            Addresses { pod_ips: vec!["10.0.0.1".into(), "fd::1".into()], host_ip: "1.2.3.4".into() };
        let of = |path: &str| field(&pod(), &addresses, path);
        assert_eq!(of("metadata.labels['app']").unwrap(), "web");
        assert_eq!(of("metadata.labels['none']").unwrap(), "");
        assert_eq!(of("metadata.labels").unwrap(), "app=\"web\"\nb=\"a \\\"q\\\"\"");
        assert_eq!(of("status.podIPs").unwrap(), "10.0.0.1,fd::1");
        assert_eq!(of("spec.nodeName").unwrap(), "n1");
        assert_eq!(of("spec.x"), Err(FieldError::Path("spec.x".into())));
    }

    #[test]
    fn resources_round_up_and_default_to_the_node() {
        let pod = pod();
        let own = pod.spec.as_ref().map(|s| &s.containers[0]);
        let of = |resource_: &str, divisor: &str| {
            let selector: ResourceFieldSelector =
                serde_json::from_value(json!({"resource": resource_, "divisor": divisor})).unwrap();
            resource(&pod, own, &selector, &CAPACITY).unwrap()
        };
        assert_eq!(of("limits.cpu", "0"), "2");
        assert_eq!(of("limits.cpu", "1m"), "1500");
        assert_eq!(of("requests.memory", "1Mi"), "64");
        assert_eq!(of("limits.memory", "1Gi"), "8");
    }
}
