//! Metadata's rules, the same for all kinds.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{Kind, Scope};
use crate::{field::FieldError, json::typed, names};

/// Most that all annotations of an object hold together, keys and values, in bytes.
const ANNOTATIONS_LEN_MAX: usize = 256 * 1024;

/// What is wrong with the object's metadata; `old` is given on update.
#[must_use]
pub fn validate_meta(kind: &Kind, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let read = |object: &Value| object.get("metadata").map(typed::<ObjectMeta>).unwrap_or_default();
    let meta = read(new);
    let mut faults = Vec::new();
    check_name(kind, &meta, &mut faults);
    check_namespace(kind, &meta, &mut faults);
    check_labels("metadata.labels", meta.labels.as_ref(), &mut faults);
    check_annotations("metadata.annotations", meta.annotations.as_ref(), &mut faults);
    check_owners(&meta, &mut faults);
    for finalizer in meta.finalizers.iter().flatten() {
        let broken = names::qualified_name_faults(finalizer);
        for fault in &broken {
            faults.push(FieldError::invalid("metadata.finalizers", finalizer.as_str(), fault));
        }
        let standard = matches!(finalizer.as_str(), "kubernetes" | "orphan" | "foregroundDeletion");
        if broken.is_empty() && !finalizer.contains('/') && !standard {
            let words = "name is neither a standard finalizer name nor is it fully qualified";
            faults.push(FieldError::invalid("metadata.finalizers", finalizer.as_str(), words));
        }
    }
    if let Some(old) = old {
        check_update(&meta, &read(old), &mut faults);
    }
    faults
}

fn check_name(kind: &Kind, meta: &ObjectMeta, faults: &mut Vec<FieldError>) {
    let prefix = meta.generate_name.as_deref().unwrap_or_default();
    if !prefix.is_empty() {
        // What follows is a suffix of letters and digits, so a dash at the end is fine.
        let stem = match prefix.strip_suffix('-') {
            Some(stem) if !stem.is_empty() => format!("{stem}a"),
            _ => prefix.to_owned(),
        };
        for fault in (kind.name_faults)(&stem) {
            faults.push(FieldError::invalid("metadata.generateName", prefix, &fault));
        }
    }
    match meta.name.as_deref().unwrap_or_default() {
        "" if prefix.is_empty() => {
            faults.push(FieldError::required("metadata.name", "name or generateName is required"))
        }
        "" => {}
        name => {
            for fault in (kind.name_faults)(name) {
                faults.push(FieldError::invalid("metadata.name", name, &fault));
            }
        }
    }
}

fn check_namespace(kind: &Kind, meta: &ObjectMeta, faults: &mut Vec<FieldError>) {
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    match (kind.scope, namespace) {
        (Scope::Namespaced, "") => faults.push(FieldError::required("metadata.namespace", "")),
        (Scope::Namespaced, namespace) => {
            for fault in names::dns1123_label_faults(namespace) {
                faults.push(FieldError::invalid("metadata.namespace", namespace, &fault));
            }
        }
        (Scope::Cluster, "") => {}
        (Scope::Cluster, _) => {
            faults.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"))
        }
    }
}

/// Faults of a map of labels under `field`.
pub(super) fn check_labels(
    field: &str,
    labels: Option<&BTreeMap<String, String>>,
    faults: &mut Vec<FieldError>,
) {
    for (key, value) in labels.into_iter().flatten() {
        for fault in names::qualified_name_faults(key) {
            faults.push(FieldError::invalid(field, key.as_str(), &fault));
        }
        for fault in names::label_value_faults(value) {
            faults.push(FieldError::invalid(field, value.as_str(), &fault));
        }
    }
}

/// Faults of a map of annotations under `field`.
pub(super) fn check_annotations(
    field: &str,
    all: Option<&BTreeMap<String, String>>,
    faults: &mut Vec<FieldError>,
) {
    let mut len = 0_usize;
    for (key, value) in all.into_iter().flatten() {
        // The rule is that of labels, but capitals are fine in the prefix.
        for fault in names::qualified_name_faults(&key.to_lowercase()) {
            faults.push(FieldError::invalid(field, key.as_str(), &fault));
        }
        len += key.len() + value.len();
    }
    if len > ANNOTATIONS_LEN_MAX {
        faults.push(FieldError::too_long(field, ANNOTATIONS_LEN_MAX));
    }
}

fn check_owners(meta: &ObjectMeta, faults: &mut Vec<FieldError>) {
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    for owner in owners {
        for (field, text, words) in [
            ("apiVersion", &owner.api_version, "version must not be empty"),
            ("kind", &owner.kind, "kind must not be empty"),
            ("name", &owner.name, "name must not be empty"),
            ("uid", &owner.uid, "uid must not be empty"),
        ] {
            if text.is_empty() {
                faults.push(FieldError::invalid(format!("metadata.ownerReferences.{field}"), "", words));
            }
        }
        if owner.kind == "Event" && owner.api_version == "v1" {
            let value = serde_json::to_value(owner).unwrap_or_default();
            faults.push(FieldError::invalid(
                "metadata.ownerReferences",
                value,
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
    }
    let mut controllers = owners.iter().filter(|o| o.controller == Some(true));
    if let (Some(first), Some(second)) = (controllers.next(), controllers.next()) {
        let words = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {}/{} and {}/{}",
            first.kind, first.name, second.kind, second.name
        );
        let value = serde_json::to_value(owners).unwrap_or_default();
        faults.push(FieldError::invalid("metadata.ownerReferences", value, &words));
    }
}

fn check_update(new: &ObjectMeta, old: &ObjectMeta, faults: &mut Vec<FieldError>) {
    for (field, now, before) in [
        ("metadata.name", &new.name, &old.name),
        ("metadata.namespace", &new.namespace, &old.namespace),
        ("metadata.uid", &new.uid, &old.uid),
    ] {
        // What a writer leaves out stays: only another value is a change.
        if now.is_some() && now != before {
            faults.push(FieldError::invalid(field, now.clone(), "field is immutable"));
        }
    }
    if old.deletion_timestamp.is_some() {
        let had = old.finalizers.as_deref().unwrap_or_default();
        let added: Vec<_> = new.finalizers.iter().flatten().filter(|f| !had.contains(f)).collect();
        if !added.is_empty() {
            let words = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join(", ")
            );
            faults.push(FieldError::forbidden("metadata.finalizers", &words));
        }
    }
}
