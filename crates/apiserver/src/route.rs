//! What a path means. Pure: a path in, a target out; whether the method fits is the handler's matter.

use hitless_types::{
    kinds::{self, Kind, Scope},
    names,
};

use crate::{codec::stored_kind, query::decode};

/// Where a path leads.
#[derive(Clone)]
pub(crate) enum Target {
    /// `/`
    Root,
    /// `/livez`, `/readyz`, `/healthz`
    Health,
    /// `/version`
    Version,
    /// `/metrics`
    Metrics,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1` (with an empty group), `/apis/GROUP/VERSION`
    Resources(String, String),
    /// `/openapi/v2`
    OpenApiV2,
    /// `/openapi/v3`
    OpenApiIndex,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`
    OpenApi(String, String),
    /// A collection, an object or a subresource.
    Resource(Place),
}

/// A collection, an object or a subresource of a kind.
#[derive(Clone)]
pub(crate) struct Place {
    /// The kind.
    pub(crate) kind: &'static Kind,
    /// The namespace; empty for cluster-scoped kinds and for collections over all namespaces.
    pub(crate) namespace: String,
    /// The object; empty for a collection.
    pub(crate) name: String,
    /// The subresource; empty for the object itself.
    pub(crate) sub: String,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}/{}", self.kind.plural, self.namespace, self.name, self.sub)
    }
}

impl Place {
    /// The object of a kind.
    pub(crate) fn object(kind: &'static Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned(), sub: String::new() }
    }

    /// The key under which the object is stored.
    pub(crate) fn key(&self) -> String {
        key(self.kind, &self.namespace, &self.name)
    }
}

/// The key under which an object is stored.
pub(crate) fn key(kind: &'static Kind, namespace: &str, name: &str) -> String {
    let mut key = prefix(kind, namespace);
    key.push_str(name);
    key
}

/// What the keys of a kind begin with, in one namespace or (with none) in all.
pub(crate) fn prefix(kind: &'static Kind, namespace: &str) -> String {
    let kind = stored_kind(kind);
    let group = if kind.group.is_empty() { "core" } else { kind.group };
    let mut prefix = format!("/registry/{group}/{}/", kind.plural);
    if !namespace.is_empty() {
        prefix.push_str(namespace);
        prefix.push('/');
    }
    prefix
}

/// Reads a path. `None`: it leads nowhere.
pub(crate) fn parse(path: &str) -> Option<Target> {
    let parts: Vec<String> =
        path.trim_matches('/').split('/').filter(|p| !p.is_empty()).map(|p| decode(p, false)).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        [] => Some(Target::Root),
        ["livez" | "readyz" | "healthz", ..] => Some(Target::Health),
        ["version"] => Some(Target::Version),
        ["metrics"] => Some(Target::Metrics),
        ["api"] => Some(Target::CoreVersions),
        ["apis"] => Some(Target::Groups),
        ["openapi", "v2"] => Some(Target::OpenApiV2),
        ["openapi", "v3"] => Some(Target::OpenApiIndex),
        ["openapi", "v3", "api", version] => Some(Target::OpenApi(String::new(), (*version).to_owned())),
        ["openapi", "v3", "apis", group, version] => {
            Some(Target::OpenApi((*group).to_owned(), (*version).to_owned()))
        }
        ["api", version] => Some(Target::Resources(String::new(), (*version).to_owned())),
        ["apis", group] => Some(Target::Group((*group).to_owned())),
        ["apis", group, version] => Some(Target::Resources((*group).to_owned(), (*version).to_owned())),
        ["api", version, rest @ ..] => resource("", version, rest),
        ["apis", group, version, rest @ ..] => resource(group, version, rest),
        _ => None,
    }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Option<Target> {
    let place = |plural: &str, namespace: &str, name: &str, sub: &str| {
        let kind = kinds::by_path(group, version, plural)?;
        // A namespace is one segment of a path; anything else could reach another's keys. Names are looked at later.
        if !names::path_segment_faults(namespace).is_empty() {
            return None;
        }
        // A cluster-scoped kind has no namespaced path, and a namespaced object no path without a namespace.
        let fits = match kind.scope {
            Scope::Cluster => namespace.is_empty(),
            Scope::Namespaced => !namespace.is_empty() || name.is_empty(),
        };
        fits.then(|| {
            Target::Resource(Place {
                kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                sub: sub.to_owned(),
            })
        })
    };
    match rest {
        ["namespaces", name, sub @ ("status" | "finalize")] => place("namespaces", "", name, sub),
        ["namespaces", namespace, plural] => place(plural, namespace, "", ""),
        ["namespaces", namespace, plural, name] => place(plural, namespace, name, ""),
        ["namespaces", namespace, plural, name, sub] => place(plural, namespace, name, sub),
        [plural] => place(plural, "", "", ""),
        [plural, name] => place(plural, "", name, ""),
        [plural, name, sub] => place(plural, "", name, sub),
        _ => None,
    }
}
