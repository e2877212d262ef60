//! The version 2 document: everything in one.

use serde_json::{Map, Value, json};

use super::{Operation, add_schemas, gvk, paths_of, query_parameters};
use crate::openapi::schemas::{Dialect, Schemas};

/// The document of all groups.
pub(crate) fn document() -> Value {
    let mut paths = Map::new();
    let mut schemas = Schemas::new(Dialect::V2);
    for kind in hitless_types::kinds::all() {
        for path in paths_of(kind) {
            let operations = path.operations.iter().map(|o| (o.method.to_owned(), operation(o)));
            let mut item: Map<String, Value> = operations.collect();
            let one = |name: &&str| json!({"name": name, "in": "path", "required": true, "type": "string"});
            let parameters: Vec<Value> = path.parameters.iter().map(one).collect();
            if !parameters.is_empty() {
                item.insert("parameters".into(), parameters.into());
            }
            paths.insert(path.path, Value::Object(item));
        }
        add_schemas(&mut schemas, kind);
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "definitions": schemas.finish(),
    })
}

/// Taken, but not announced here: kubectl asks this document only for kinds that version 3 does not have, and would then
/// look for them among custom resource definitions, of which there are none to list.
const UNSAID: &str = "fieldValidation";

fn operation(of: &Operation) -> Value {
    let mut parameters = Vec::new();
    if of.action == "patch" {
        parameters
            .push(json!({"name": "body", "in": "body", "required": true, "schema": {"type": "object"}}));
    } else if !of.body.is_empty() {
        let schema = Dialect::V2.reference(&of.body);
        let required = matches!(of.action, "post" | "put");
        parameters.push(json!({"name": "body", "in": "body", "required": required, "schema": schema}));
    }
    for (name, type_) in query_parameters(of.action).iter().filter(|(name, _)| *name != UNSAID) {
        parameters.push(json!({"name": name, "in": "query", "type": type_}));
    }
    let consumes = if of.action == "patch" { json!(of.patches) } else { json!(["*/*"]) };
    json!({
        "operationId": of.id,
        "consumes": consumes,
        "produces": ["application/json", "application/yaml"],
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "schema": Dialect::V2.reference(&of.answer)}},
        "x-kubernetes-action": of.action,
        "x-kubernetes-group-version-kind": gvk(&of.gvk),
    })
}
