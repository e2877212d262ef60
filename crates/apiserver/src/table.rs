//! Objects as `kubectl get` shows them: `meta.k8s.io/v1` Table, and PartialObjectMetadata.

use hitless_base::Timestamp;
use hitless_types::kinds::Kind;
use serde_json::{Value, json};

use crate::negotiate::IncludeObject;

/// The object's metadata alone.
pub(crate) fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}

/// A Table of these objects. `metadata` is the list's, or the one object's `resourceVersion`.
pub(crate) fn table<'o>(
    kind: &Kind,
    objects: impl IntoIterator<Item = &'o Value>,
    metadata: Value,
    include: IncludeObject,
    headers: bool,
    now: Timestamp,
) -> Value {
    let rows: Vec<Value> = objects.into_iter().map(|object| row(kind, object, include, now)).collect();
    let columns = if headers { columns(kind) } else { Value::Null };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

fn columns(kind: &Kind) -> Value {
    let one = |c: &hitless_types::kinds::Column| {
        json!({
            "name": c.name, "type": c.type_, "format": c.format, "description": c.description, "priority": c.priority,
        })
    };
    kind.columns.iter().map(one).collect()
}

fn row(kind: &Kind, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
    let shown = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => partial(object),
        IncludeObject::Object => object.clone(),
    };
    json!({ "cells": (kind.cells)(object, now), "object": shown })
}
