//! Facts of the Kubernetes API that a strategic merge needs: which lists are merged, and by which key.
//!
//! They are the `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key` of Kubernetes' published OpenAPI.
//! What is not here is merged if it is an object, and replaced if it is a list.

use crate::kinds::Kind;

/// The type of an object, as far as merging must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Pod,
    Workload,
    Node,
    Service,
    ServiceAccount,
    Namespace,
    Budget,
    WorkloadSpec,
    NodeSpec,
    ServiceSpec,
    BudgetSpec,
    PodTemplate,
    PodSpec,
    Container,
    Meta,
    PodStatus,
    NodeStatus,
    Status,
    /// Metadata is known, nothing else.
    Other,
    /// Nothing is known.
    Plain,
}

/// What becomes of a field that the patch names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// An object, merged field by field; a list or a scalar, replaced.
    Default(Type),
    /// A list of objects, merged by this key.
    ByKey(&'static str, Type),
    /// A list of scalars, merged as a set.
    Set,
    /// Replaced, even if it is an object.
    Replace,
}

pub(super) fn root(kind: &Kind) -> Type {
    match (kind.group, kind.kind) {
        ("", "Pod") => Type::Pod,
        ("", "Node") => Type::Node,
        ("", "Service") => Type::Service,
        ("", "ServiceAccount") => Type::ServiceAccount,
        ("", "Namespace") => Type::Namespace,
        ("apps", _) => Type::Workload,
        ("policy", "PodDisruptionBudget") => Type::Budget,
        _ => Type::Other,
    }
}

pub(super) fn rule(of: Type, field: &str) -> Rule {
    use Rule::{ByKey, Default, Replace, Set};
    match (of, field) {
        (Type::Plain, _) => Default(Type::Plain),
        (Type::Meta, "ownerReferences") => ByKey("uid", Type::Plain),
        (Type::Meta, "finalizers") => Set,
        (Type::Pod | Type::PodTemplate, "spec") => Default(Type::PodSpec),
        (Type::Pod, "status") => Default(Type::PodStatus),
        (Type::Workload, "spec") => Default(Type::WorkloadSpec),
        (Type::WorkloadSpec, "template") => Default(Type::PodTemplate),
        (Type::Node, "spec") => Default(Type::NodeSpec),
        (Type::Node, "status") => Default(Type::NodeStatus),
        (Type::Service, "spec") => Default(Type::ServiceSpec),
        (Type::ServiceSpec, "ports") => ByKey("port", Type::Plain),
        (Type::ServiceAccount, "secrets") => ByKey("name", Type::Plain),
        (Type::Budget, "spec") => Default(Type::BudgetSpec),
        (Type::BudgetSpec, "selector") => Replace,
        (Type::NodeSpec, "podCIDRs") => Set,
        (Type::PodSpec, "containers" | "initContainers" | "ephemeralContainers") => {
            ByKey("name", Type::Container)
        }
        (Type::PodSpec, "volumes" | "imagePullSecrets" | "schedulingGates" | "resourceClaims") => {
            ByKey("name", Type::Plain)
        }
        (Type::PodSpec, "hostAliases") => ByKey("ip", Type::Plain),
        (Type::PodSpec, "topologySpreadConstraints") => ByKey("topologyKey", Type::Plain),
        (Type::Container, "ports") => ByKey("containerPort", Type::Plain),
        (Type::Container, "env") => ByKey("name", Type::Plain),
        (Type::Container, "volumeMounts") => ByKey("mountPath", Type::Plain),
        (Type::Container, "volumeDevices") => ByKey("devicePath", Type::Plain),
        (Type::PodStatus | Type::NodeStatus | Type::Status, "conditions") => ByKey("type", Type::Plain),
        (Type::PodStatus, "podIPs" | "hostIPs") => ByKey("ip", Type::Plain),
        (Type::PodStatus, "resourceClaimStatuses") => ByKey("name", Type::Plain),
        (Type::NodeStatus, "addresses") => ByKey("type", Type::Plain),
        (Type::Workload | Type::Service | Type::Namespace | Type::Budget, "status") => Default(Type::Status),
        (
            Type::Pod
            | Type::Workload
            | Type::Node
            | Type::Service
            | Type::ServiceAccount
            | Type::Namespace
            | Type::Budget
            | Type::PodTemplate
            | Type::Other,
            "metadata",
        ) => Default(Type::Meta),
        _ => Default(Type::Plain),
    }
}
