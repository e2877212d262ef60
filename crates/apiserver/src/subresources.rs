//! The subresources: which exist, of which kind their bodies are, and what may be done with them.
//!
//! `/status` and `/scale` follow from the table of kinds; the others are the server's own doing and are listed here.

use hitless_types::kinds::Kind;

/// A subresource as discovery and OpenAPI name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subresource {
    pub(crate) name: &'static str,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) verbs: &'static [&'static str],
}

/// What every kind can do.
pub(crate) const VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

const SCALE: Subresource = Subresource {
    name: "scale",
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
    verbs: &["get", "patch", "update"],
};

const fn own(
    name: &'static str,
    group: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> Subresource {
    Subresource { name, group, version: "v1", kind, verbs }
}

const OWN: [(&str, &str, Subresource); 8] = [
    ("", "pods", own("attach", "", "PodAttachOptions", &["create", "get"])),
    ("", "pods", own("binding", "", "Binding", &["create"])),
    ("", "pods", own("eviction", "policy", "Eviction", &["create"])),
    ("", "pods", own("exec", "", "PodExecOptions", &["create", "get"])),
    ("", "pods", own("portforward", "", "PodPortForwardOptions", &["create", "get"])),
    ("", "pods", own("log", "", "Pod", &["get"])),
    ("", "serviceaccounts", own("token", "authentication.k8s.io", "TokenRequest", &["create"])),
    ("", "namespaces", own("finalize", "", "Namespace", &["update"])),
];

/// Every subresource of a kind, in the order of their names.
pub(crate) fn of(kind: &Kind) -> Vec<Subresource> {
    let mut all: Vec<Subresource> = OWN
        .iter()
        .filter(|(group, plural, _)| *group == kind.group && *plural == kind.plural)
        .map(|o| o.2)
        .collect();
    if kind.scale {
        all.push(SCALE);
    }
    if kind.status {
        all.push(Subresource {
            name: "status",
            group: kind.group,
            version: kind.version,
            kind: kind.kind,
            verbs: &["get", "patch", "update"],
        });
    }
    all.sort_by_key(|s| s.name);
    all
}

/// Whether the kind has this subresource, and with this verb.
pub(crate) fn find(kind: &Kind, name: &str) -> Option<Subresource> {
    of(kind).into_iter().find(|s| s.name == name)
}
