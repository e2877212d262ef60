//! OpenAPI v3: which paths there are, what they take and for which kind, one document for each group and version.
//!
//! kubectl reads from it whether a kind takes `fieldValidation` and `dryRun`. Schemas are open objects: the server checks
//! fields itself. Strategic merge patches are taken but not announced here, because kubectl would then look in the
//! schemas for merge keys; unannounced, it works them out from its own types, with the same result.

use hitless_types::kinds::{Kind, Scope};
use serde_json::{Map, Value, json};

use crate::{
    discovery::{group_version_path, kinds_of},
    subresources::{self, Subresource},
};

/// The document of a group and version.
pub(crate) fn document(group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for kind in kinds_of(group, version) {
        add_kind(&mut paths, kind);
        schemas.insert(
            schema_name(kind),
            json!({
                "type": "object",
                "description": format!("{} of {}", kind.kind, kind.api_version()),
                "properties": {
                    "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
                },
                "x-kubernetes-group-version-kind": [gvk(kind.group, kind.version, kind.kind)],
                "x-kubernetes-preserve-unknown-fields": true,
            }),
        );
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn schema_name(kind: &Kind) -> String {
    let group = if kind.group.is_empty() { "core" } else { kind.group };
    format!("{group}.{}.{}", kind.version, kind.kind)
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn add_kind(paths: &mut Map<String, Value>, kind: &Kind) {
    let root = format!("/{}", group_version_path(kind.group, kind.version));
    let collection = match kind.scope {
        Scope::Cluster => format!("{root}/{}", kind.plural),
        Scope::Namespaced => format!("{root}/namespaces/{{namespace}}/{}", kind.plural),
    };
    let own = (gvk(kind.group, kind.version, kind.kind), schema_name(kind));
    if kind.scope == Scope::Namespaced {
        paths.insert(format!("{root}/{}", kind.plural), json!({"get": operation("list", &own)}));
    }
    let item = path_item(&[("get", "list"), ("post", "post"), ("delete", "deletecollection")], &own);
    paths.insert(collection.clone(), item);
    let methods = [("get", "get"), ("put", "put"), ("patch", "patch"), ("delete", "delete")];
    paths.insert(format!("{collection}/{{name}}"), path_item(&methods, &own));
    for sub in subresources::of(kind) {
        paths.insert(format!("{collection}/{{name}}/{}", sub.name), sub_item(&sub));
    }
}

fn sub_item(sub: &Subresource) -> Value {
    let own = (gvk(sub.group, sub.version, sub.kind), String::new());
    let methods: Vec<(&str, &str)> = sub
        .verbs
        .iter()
        .filter_map(|verb| match *verb {
            "get" => Some(("get", "get")),
            "create" => Some(("post", "post")),
            "update" => Some(("put", "put")),
            "patch" => Some(("patch", "patch")),
            _ => None,
        })
        .collect();
    path_item(&methods, &own)
}

fn path_item(methods: &[(&str, &str)], own: &(Value, String)) -> Value {
    let operations = methods.iter().map(|(method, action)| ((*method).to_owned(), operation(action, own)));
    Value::Object(operations.collect())
}

fn operation(action: &str, (gvk, schema): &(Value, String)) -> Value {
    let schema = if schema.is_empty() {
        json!({"type": "object"})
    } else {
        json!({ "$ref": format!("#/components/schemas/{schema}") })
    };
    let mut operation = json!({
        "parameters": parameters(action),
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk,
    });
    let content = match action {
        "post" | "put" => {
            Some(json!({"application/json": {"schema": schema}, "application/yaml": {"schema": schema}}))
        }
        "patch" => Some(json!({
            "application/json-patch+json": {"schema": {"type": "array", "items": {"type": "object"}}},
            "application/merge-patch+json": {"schema": {"type": "object"}},
        })),
        _ => None,
    };
    if let (Some(content), Value::Object(map)) = (content, &mut operation) {
        map.insert("requestBody".into(), json!({ "content": content }));
    }
    operation
}

fn parameters(action: &str) -> Value {
    let named: &[(&str, &str)] = match action {
        "post" | "put" | "patch" => &[
            ("pretty", "string"),
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
        ],
        "delete" | "deletecollection" => {
            &[("dryRun", "string"), ("gracePeriodSeconds", "integer"), ("propagationPolicy", "string")]
        }
        "list" => &[
            ("labelSelector", "string"),
            ("fieldSelector", "string"),
            ("limit", "integer"),
            ("continue", "string"),
            ("watch", "boolean"),
            ("resourceVersion", "string"),
            ("timeoutSeconds", "integer"),
        ],
        _ => &[("pretty", "string")],
    };
    named
        .iter()
        .map(|(name, type_)| json!({"name": name, "in": "query", "schema": {"type": type_}}))
        .collect()
}
