//! Readings of `metadata` that every room needs.

use hitless_base::Revision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// `namespace/name`, or `name` for what is cluster-scoped: the key of caches and work queues.
#[must_use]
pub fn key(meta: &ObjectMeta) -> String {
    let name = meta.name.as_deref().unwrap_or_default();
    match meta.namespace.as_deref() {
        Some(namespace) if !namespace.is_empty() => format!("{namespace}/{name}"),
        _ => name.to_owned(),
    }
}

/// Namespace and name of a key as [`key`] makes it; the namespace is empty for what is cluster-scoped.
#[must_use]
pub fn split_key(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

/// The object's resourceVersion; zero where it has none or it is not a number.
#[must_use]
pub fn revision(meta: &ObjectMeta) -> Revision {
    Revision::from_field(meta.resource_version.as_deref()).unwrap_or_default()
}

/// The owner that controls the object, if it has one.
#[must_use]
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|o| o.controller == Some(true))
}

/// The annotation's text.
#[must_use]
pub fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}
