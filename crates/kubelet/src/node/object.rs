//! The Node object and its status. Pure.

use std::collections::BTreeMap;

use hitless_base::Timestamp;
use hitless_types::{quantity::Quantity, well_known};
use k8s_openapi::{
    api::core::v1::{
        DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
        NodeSystemInfo,
    },
    apimachinery::pkg::{
        api::resource::Quantity as Text,
        apis::meta::v1::{ObjectMeta, Time},
    },
};

use super::machine::{Machine, Pressure, architecture};
use crate::options::{Capacity, Options};

/// The Kubernetes version that this kubelet speaks.
pub const KUBELET_VERSION: &str = "v1.36.0";

/// What is so now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Why the runtime is not ready; `None`: it is.
    pub not_ready: Option<String>,
    /// What is short.
    pub pressure: Pressure,
    /// `containerd://1.6.20`.
    pub runtime_version: String,
}

/// The labels that every node carries, and those of the options.
#[must_use]
pub fn labels(options: &Options) -> BTreeMap<String, String> {
    let mut labels = options.labels.clone();
    for (key, value) in [
        (well_known::LABEL_HOSTNAME, options.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// The Node as it registers.
#[must_use]
pub fn node(options: &Options) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(options.node_name.clone()),
            labels: Some(labels(options)),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: options.pod_cidr.clone(),
            pod_cidrs: options.pod_cidr.clone().map(|c| vec![c]),
            ..NodeSpec::default()
        }),
        ..Node::default()
    }
}

/// Amounts as a `ResourceList`.
#[must_use]
pub fn resource_list(capacity: &Capacity) -> BTreeMap<String, Text> {
    BTreeMap::from([
        ("cpu".to_owned(), Text(Quantity::from_milli(capacity.cpu_milli).to_string())),
        ("memory".to_owned(), Text(format!("{}Ki", capacity.memory_bytes / 1024))),
        ("pods".to_owned(), Text(Quantity::from_count(capacity.pods).to_string())),
        ("ephemeral-storage".to_owned(), Text(format!("{}Ki", capacity.ephemeral_storage_bytes / 1024))),
    ])
}

/// The status. `before`: the conditions that the API shows, for their times of transition.
#[must_use]
pub fn status(
    options: &Options,
    capacity: &Capacity,
    machine: &Machine,
    observed: &Observed,
    before: &[NodeCondition],
    now: Timestamp,
) -> NodeStatus {
    let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    let port = options.serving.as_ref().map_or(10250, |s| i32::from(s.address.port()));
    let list = resource_list(capacity);
    NodeStatus {
        addresses: Some(vec![
            address("InternalIP", options.node_ip.to_string()),
            address("Hostname", options.node_name.clone()),
        ]),
        allocatable: Some(list.clone()),
        capacity: Some(list),
        conditions: Some(conditions(observed, before, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port }) }),
        node_info: Some(NodeSystemInfo {
            architecture: architecture().to_owned(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: observed.runtime_version.clone(),
            kernel_version: machine.kernel_version.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: KUBELET_VERSION.to_owned(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            swap: None,
        }),
        ..NodeStatus::default()
    }
}

/// What the conditions say of the node's readiness; `None`: nothing.
pub fn ready_status(conditions: &[NodeCondition]) -> Option<&str> {
    conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.status.as_str())
}

fn conditions(observed: &Observed, before: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let p = observed.pressure;
    let pressure = |short: bool, yes: (&'static str, &'static str), no: (&'static str, &'static str)| {
        let (reason, message) = if short { yes } else { no };
        (short, reason, message.to_owned())
    };
    let (ready, why) = match &observed.not_ready {
        None => (true, "kubelet is posting ready status".to_owned()),
        Some(words) => (false, words.clone()),
    };
    let rows = [
        (
            "MemoryPressure",
            pressure(
                p.memory,
                ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
                ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ),
        ),
        (
            "DiskPressure",
            pressure(
                p.disk,
                ("KubeletHasDiskPressure", "kubelet has disk pressure"),
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ),
        ),
        (
            "PIDPressure",
            pressure(
                p.pid,
                ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ),
        ),
        ("Ready", (ready, if ready { "KubeletReady" } else { "KubeletNotReady" }, why)),
    ];
    rows.into_iter()
        .map(|(type_, (yes, reason, message))| {
            let status = if yes { "True" } else { "False" };
            let same = before.iter().find(|c| c.type_ == type_ && c.status == status);
            let since = same.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(now));
            NodeCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: Some(since),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions_keep_their_time_until_they_turn() {
        let at = |s: i64| Timestamp::from_second(1_800_000_000 + s).unwrap();
        let good = Observed {
            not_ready: None,
            pressure: Pressure::default(),
            runtime_version: "containerd://1".into(),
        };
        let first = conditions(&good, &[], at(0));
        let second = conditions(&good, &first, at(9));
        assert!(second.iter().all(|c| c.last_transition_time == Some(Time(at(0)))));
        let bad = Observed { not_ready: Some("container runtime is down".into()), ..good };
        let third = conditions(&bad, &second, at(10));
        let ready = third.iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("KubeletNotReady")));
        assert_eq!(ready.last_transition_time, Some(Time(at(10))));
    }

    #[test]
    fn what_the_node_has() {
        let c =
            Capacity { cpu_milli: 2000, memory_bytes: 8 << 30, pods: 110, ephemeral_storage_bytes: 1 << 20 };
        let list = resource_list(&c);
        let shown: Vec<_> = list.iter().map(|(k, v)| format!("{k}={}", v.0)).collect();
        assert_eq!(shown, ["cpu=2", "ephemeral-storage=1024Ki", "memory=8388608Ki", "pods=110"]);
    }
}
