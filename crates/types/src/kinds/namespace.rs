//! Namespace.

use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use super::{AGE, Kind, NAME, ROW, Scope, column, typecheck};
use crate::{
    json::{set, text, typed, within},
    names, table,
};

pub(super) const NAMESPACE: Kind = Kind {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    scope: Scope::Cluster,
    status: true,
    default,
    typecheck: typecheck::typecheck::<Namespace>,
    columns: &[NAME, column("Status", "string", "Whether the namespace is active or going."), AGE],
    cells: |object, now| {
        let namespace: Namespace = typed(object);
        let phase =
            namespace.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_else(|| "Active".to_owned());
        vec![table::name_of(&namespace.metadata), phase.into(), table::age_of(&namespace.metadata, now)]
    },
    fields: &["status.phase"],
    name_faults: names::dns1123_label_faults,
    initial_status: |_| Some(json!({"phase": "Active"})),
    ..ROW
};

/// The finalizer holds the namespace until its content is gone. A namespace that is going keeps what it has.
fn default(object: &mut Value) {
    let name = text(object, &["metadata", "name"]).to_owned();
    let going = object.pointer("/metadata/deletionTimestamp").is_some();
    let Some(fields) = object.as_object_mut() else { return };
    if !name.is_empty() {
        within(fields, "metadata", |meta| {
            within(meta, "labels", |labels| {
                labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
            })
        });
    }
    if !going {
        within(fields, "spec", |spec| set(spec, "finalizers", json!(["kubernetes"])));
        within(fields, "status", |status| set(status, "phase", "Active"));
    }
}
