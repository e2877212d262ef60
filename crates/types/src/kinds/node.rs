//! Node, and the Lease by which it is heard of.

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use serde_json::{Value, json};

use super::{AGE, Kind, NAME, ROW, Scope, column, typecheck, wide};
use crate::{
    field::FieldError,
    json::typed,
    names,
    table::{self, UNKNOWN},
};

pub(super) const NODE: Kind = Kind {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    scope: Scope::Cluster,
    status: true,
    default: |_| {},
    validate: validate_node,
    typecheck: typecheck::typecheck::<Node>,
    columns: &[
        NAME,
        column("Status", "string", "Whether the node is ready, and whether it takes new Pods."),
        column("Roles", "string", "From the labels node-role.kubernetes.io/ROLE."),
        AGE,
        column("Version", "string", "Version of the node's kubelet."),
        wide("Internal-IP", "string", "Address inside the cluster."),
        wide("External-IP", "string", "Address outside the cluster."),
        wide("OS-Image", "string", "Operating system."),
        wide("Kernel-Version", "string", "Kernel."),
        wide("Container-Runtime", "string", "Container runtime."),
    ],
    cells: |object, now| {
        let node: Node = typed(object);
        let info = node.status.as_ref().and_then(|s| s.node_info.clone()).unwrap_or_default();
        let known = |text: String| if text.is_empty() { UNKNOWN.to_owned() } else { text };
        vec![
            table::name_of(&node.metadata),
            node_state(&node).into(),
            roles(&node).into(),
            table::age_of(&node.metadata, now),
            info.kubelet_version.into(),
            address(&node, "InternalIP"),
            address(&node, "ExternalIP"),
            known(info.os_image).into(),
            known(info.kernel_version).into(),
            known(info.container_runtime_version).into(),
        ]
    },
    fields: &["spec.unschedulable"],
    initial_status: |object| Some(object.get("status").cloned().unwrap_or_else(|| json!({}))),
    ..ROW
};

fn node_state(node: &Node) -> String {
    let ready = node.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "Ready");
    let word = ready.map_or("Unknown", |c| if c.status == "True" { "Ready" } else { "NotReady" });
    let closed = node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or_default();
    format!("{word}{}", if closed { ",SchedulingDisabled" } else { "" })
}

fn roles(node: &Node) -> String {
    let labels = node.metadata.labels.iter().flatten();
    let mut roles: Vec<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None => (key == "kubernetes.io/role").then_some(value.as_str()),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { table::NONE.to_owned() } else { roles.join(",") }
}

fn address(node: &Node, type_: &str) -> Value {
    let mut all = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    table::or_none(all.find(|a| a.type_ == type_).map(|a| a.address.as_str()))
}

fn validate_node(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let spec = typed::<Node>(new).spec.unwrap_or_default();
    let mut seen = Vec::new();
    for (i, taint) in spec.taints.iter().flatten().enumerate() {
        let at = format!("spec.taints[{i}]");
        for fault in names::qualified_name_faults(&taint.key) {
            faults.push(FieldError::invalid(format!("{at}.key"), taint.key.as_str(), &fault));
        }
        for fault in names::label_value_faults(taint.value.as_deref().unwrap_or_default()) {
            faults.push(FieldError::invalid(format!("{at}.value"), taint.value.clone(), &fault));
        }
        if taint.effect.is_empty() {
            faults.push(FieldError::required(format!("{at}.effect"), ""));
        } else if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&taint.effect.as_str()) {
            let supported = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            faults.push(FieldError::not_supported(format!("{at}.effect"), taint.effect.as_str(), &supported));
        }
        if seen.contains(&(&taint.key, &taint.effect)) {
            faults.push(FieldError::duplicate(at, serde_json::to_value(taint).unwrap_or_default()));
        }
        seen.push((&taint.key, &taint.effect));
    }
    if let Some(old) = old {
        let old = typed::<Node>(old).spec.unwrap_or_default();
        let pod_cidr = old.pod_cidr.as_deref().unwrap_or_default();
        if !pod_cidr.is_empty() && old.pod_cidr != spec.pod_cidr {
            faults.push(FieldError::forbidden(
                "spec.podCIDRs",
                "node updates may not change podCIDR except from \"\" to valid",
            ));
        }
        let provider = old.provider_id.as_deref().unwrap_or_default();
        if !provider.is_empty() && old.provider_id != spec.provider_id {
            faults.push(FieldError::forbidden(
                "spec.providerID",
                "node updates may not change providerID except from \"\" to valid",
            ));
        }
    }
    faults
}

pub(super) const LEASE: Kind = Kind {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    validate: |new, _| {
        let spec = typed::<Lease>(new).spec.unwrap_or_default();
        let mut faults = Vec::new();
        if let Some(seconds) = spec.lease_duration_seconds.filter(|s| *s <= 0) {
            faults.push(FieldError::invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"));
        }
        if let Some(count) = spec.lease_transitions.filter(|c| *c < 0) {
            faults.push(FieldError::invalid(
                "spec.leaseTransitions",
                count,
                "must be greater than or equal to 0",
            ));
        }
        if spec.holder_identity.as_deref() == Some("") {
            faults.push(FieldError::invalid("spec.holderIdentity", "", "must not be empty"));
        }
        faults
    },
    typecheck: typecheck::typecheck::<Lease>,
    columns: &[NAME, column("Holder", "string", "Who holds the lease."), AGE],
    cells: |object, now| {
        let lease: Lease = typed(object);
        let holder = lease.spec.as_ref().and_then(|s| s.holder_identity.clone()).unwrap_or_default();
        vec![table::name_of(&lease.metadata), holder.into(), table::age_of(&lease.metadata, now)]
    },
    ..ROW
};
