//! Who asks, and what they may do.
//!
//! `system:masters` may do everything. A node (`system:node:NAME` in `system:nodes`) reads what it needs and writes
//! only what is its own; [`restrict`] says what must hold of the object itself. Everybody who has shown a certificate or token
//! may read discovery; who has not may ask for health and version only.

use hitless_types::kinds::Kind;
use serde_json::Value;

use crate::{codec::text, fault::Fault, route::Place};

/// Who asks: a certificate's common name and organisations, a token's account, or what the process says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User name.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
}

impl Identity {
    /// Somebody in these groups.
    #[must_use]
    pub fn new(name: &str, groups: &[&str]) -> Self {
        Self { name: name.to_owned(), groups: groups.iter().map(|g| (*g).to_owned()).collect() }
    }

    /// Whoever has not said who they are.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::new("system:anonymous", &["system:unauthenticated"])
    }

    /// The cluster's own rooms, and its administrator.
    #[must_use]
    pub fn master(name: &str) -> Self {
        Self::new(name, &["system:masters", "system:authenticated"])
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.name == "system:anonymous"
    }

    fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node's name, for a node.
    pub(crate) fn node(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|_| self.is_in("system:nodes"))
    }
}

const NODE_READS: [&str; 13] = [
    "pods",
    "services",
    "endpointslices",
    "endpoints",
    "ingresses",
    "ingressclasses",
    "configmaps",
    "secrets",
    "nodes",
    "leases",
    "endpointconsumers",
    "namespaces",
    "events",
];

/// Whether `identity` may do `verb` at `place`, as far as the path tells.
///
/// # Errors
/// 403 in Kubernetes' words.
pub(crate) fn authorize(identity: &Identity, verb: &str, place: &Place) -> Result<(), Fault> {
    if identity.is_in("system:masters") {
        return Ok(());
    }
    if let Some(node) = identity.node()
        && node_may(node, verb, place)
    {
        return Ok(());
    }
    let group = place.kind.group;
    let resource = if place.sub.is_empty() {
        place.kind.plural.to_owned()
    } else {
        format!("{}/{}", place.kind.plural, place.sub)
    };
    let scope = if place.namespace.is_empty() {
        " at the cluster scope".to_owned()
    } else {
        format!(" in the namespace {:?}", place.namespace)
    };
    let why =
        format!("User {:?} cannot {verb} resource {resource:?} in API group {group:?}{scope}", identity.name);
    Err(Fault::forbidden(place.kind, &place.name, &why))
}

fn node_may(node: &str, verb: &str, place: &Place) -> bool {
    let (plural, sub) = (place.kind.plural, place.sub.as_str());
    let own = place.name == node || (place.name.is_empty() && verb == "create");
    match (plural, sub, verb) {
        (_, "", "get" | "list" | "watch") => NODE_READS.contains(&plural),
        ("nodes", "" | "status", "create" | "update" | "patch") => own,
        ("leases", "", "create" | "update" | "patch" | "delete") => {
            own && place.namespace == hitless_types::well_known::NAMESPACE_NODE_LEASE
        }
        ("events", "", "create" | "update" | "patch") => true,
        // Bound to a Pod of its own: the handler sees to that.
        ("serviceaccounts", "token", "create") => true,
        ("pods", "status", "update" | "patch") | ("pods", "", "delete") => true,
        ("endpointconsumers", "", "create" | "update" | "patch" | "delete")
        | ("endpointconsumers", "status", "update" | "patch") => true,
        _ => false,
    }
}

/// What a node may write depends on the object: its own Node and Lease, Pods bound to it, its own consumers.
///
/// # Errors
/// 403 when the object is another node's.
pub(crate) fn restrict(identity: &Identity, kind: &Kind, object: &Value) -> Result<(), Fault> {
    let Some(node) = identity.node() else { return Ok(()) };
    let (owner, words) = match kind.plural {
        "pods" | "endpointconsumers" => (text(object, "/spec/nodeName"), "spec.nodeName"),
        "nodes" | "leases" => (text(object, "/metadata/name"), "name"),
        _ => return Ok(()),
    };
    if owner == node {
        return Ok(());
    }
    let name = text(object, "/metadata/name");
    let why = format!("node {node:?} can only write {} whose {words} is its own", kind.plural);
    Err(Fault::forbidden(kind, name, &why))
}

/// Whether `identity` may read a path that is no resource.
///
/// # Errors
/// 403 in Kubernetes' words.
pub(crate) fn authorize_path(identity: &Identity, verb: &str, path: &str, open: bool) -> Result<(), Fault> {
    if open || !identity.is_anonymous() {
        return Ok(());
    }
    let message = format!("forbidden: User {:?} cannot {verb} path {path:?}", identity.name);
    Err(Fault::other(403, "Forbidden", message))
}

#[cfg(test)]
mod tests {
    use hitless_types::kinds;
    use serde_json::json;

    use super::*;

    fn place(group: &str, plural: &str, namespace: &str, name: &str, sub: &str) -> Place {
        let kind = kinds::all().iter().find(|k| k.group == group && k.plural == plural).unwrap();
        Place { sub: sub.to_owned(), ..Place::object(kind, namespace, name) }
    }

    #[test]
    fn a_node_writes_only_its_own() {
        let node = Identity::new("system:node:n1", &["system:nodes"]);
        let may = |verb: &str, p: &Place| authorize(&node, verb, p).is_ok();
        assert!(may("list", &place("", "pods", "", "", "")));
        assert!(!may("create", &place("", "pods", "default", "", "")));
        assert!(may("patch", &place("", "nodes", "", "n1", "status")));
        assert!(!may("patch", &place("", "nodes", "", "n2", "status")));
        assert!(may("update", &place("coordination.k8s.io", "leases", "kube-node-lease", "n1", "")));
        assert!(!may("update", &place("coordination.k8s.io", "leases", "default", "n1", "")));
        assert!(!may("list", &place("apps", "deployments", "default", "", "")));
        let pod = kinds::by_path("", "v1", "pods").unwrap();
        assert!(restrict(&node, pod, &json!({"spec": {"nodeName": "n1"}})).is_ok());
        assert_eq!(
            restrict(&node, pod, &json!({"spec": {"nodeName": "n2"}})).map_err(|f| f.code()),
            Err(403)
        );
    }

    #[test]
    fn a_refusal_is_in_kubernetes_words() {
        let who = Identity::new("x", &[]);
        let fault = authorize(&who, "list", &place("", "pods", "y", "", "")).unwrap_err();
        assert_eq!(
            fault.message(),
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "y""#
        );
        assert!(authorize(&Identity::master("m"), "delete", &place("", "nodes", "", "n", "")).is_ok());
    }
}
