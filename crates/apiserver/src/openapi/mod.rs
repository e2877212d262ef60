//! OpenAPI: which paths there are, what they take and for which kind.
//!
//! Version 3 is one document for each group and version, version 2 one for all, as JSON or in the protobuf encoding in
//! which kubectl asks for it. kubectl reads from them whether a kind takes `fieldValidation` and `dryRun`, what
//! `explain` shows, and by which keys it merges lists.
//!
//! A document is made when it is asked for and not kept: clients keep it, told apart by its tag.

mod gnostic;
mod schemas;
mod v2;

use hitless_types::{
    kinds::{Kind, Scope},
    schema::{self, Schema},
};
use serde_json::{Map, Value, json};

use crate::{
    discovery::{group_version_path, kinds_of},
    subresources::{self, Subresource},
};
use schemas::{Dialect, Schemas, name_of_kind};

pub(crate) use gnostic::{MEDIA as PROTOBUF_MEDIA, encode as to_protobuf};
pub(crate) use v2::document as document_v2;

/// The version 3 document of a group and version.
pub(crate) fn document(group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Schemas::new(Dialect::V3);
    for kind in kinds_of(group, version) {
        for path in paths_of(kind) {
            let operations = path.operations.iter().map(|o| (o.method.to_owned(), operation(o)));
            let mut item: Map<String, Value> = operations.collect();
            let parameters: Vec<Value> = path.parameters.iter().map(|name| path_parameter(name)).collect();
            if !parameters.is_empty() {
                item.insert("parameters".into(), parameters.into());
            }
            paths.insert(path.path, Value::Object(item));
        }
        add_schemas(&mut schemas, kind);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "components": {"schemas": schemas.finish()},
    })
}

fn add_schemas(schemas: &mut Schemas, kind: &Kind) {
    schemas.add_kind(kind);
    for sub in subresources::of(kind) {
        schemas.add_named(sub.group, sub.version, sub.kind);
    }
    schemas.add_named("meta", "v1", "DeleteOptions");
    schemas.add_named("meta", "v1", "Status");
}

fn path_parameter(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}})
}

/// A path and what can be done there, whichever version of OpenAPI says it.
struct Path {
    path: String,
    parameters: Vec<&'static str>,
    operations: Vec<Operation>,
}

struct Operation {
    method: &'static str,
    /// Kubernetes' word: `list`, `deletecollection`.
    action: &'static str,
    id: String,
    /// Group, version and kind of what it is about.
    gvk: (&'static str, &'static str, String),
    /// The schema of what comes back.
    answer: String,
    /// The schema of the body, where it has one that is an object of a kind.
    body: String,
    /// Media types of a patch.
    patches: &'static [&'static str],
}

const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const FOREIGN_PATCHES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

fn paths_of(kind: &'static Kind) -> Vec<Path> {
    let root = format!("/{}", group_version_path(kind.group, kind.version));
    let namespaced = kind.scope == Scope::Namespaced;
    let collection = match namespaced {
        false => format!("{root}/{}", kind.plural),
        true => format!("{root}/namespaces/{{namespace}}/{}", kind.plural),
    };
    let within: Vec<&'static str> = if namespaced { vec!["namespace"] } else { Vec::new() };
    let named: Vec<&'static str> = within.iter().copied().chain(["name"]).collect();
    let own = |methods: &[(&'static str, &'static str)], of: &str| -> Vec<Operation> {
        methods.iter().map(|(method, action)| own_operation(kind, method, action, of)).collect()
    };
    let mut paths = Vec::new();
    if namespaced {
        let operations = own(&[("get", "list")], "ForAllNamespaces");
        paths.push(Path { path: format!("{root}/{}", kind.plural), parameters: Vec::new(), operations });
    }
    let operations = own(&[("get", "list"), ("post", "post"), ("delete", "deletecollection")], "");
    paths.push(Path { path: collection.clone(), parameters: within, operations });
    let operations = own(&[("get", "get"), ("put", "put"), ("patch", "patch"), ("delete", "delete")], "");
    paths.push(Path { path: format!("{collection}/{{name}}"), parameters: named.clone(), operations });
    for sub in subresources::of(kind) {
        let operations = sub_operations(kind, &sub);
        let path = format!("{collection}/{{name}}/{}", sub.name);
        paths.push(Path { path, parameters: named.clone(), operations });
    }
    paths
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn operation_id(kind: &Kind, action: &str, tail: &str) -> String {
    let group = if kind.group.is_empty() { "core" } else { kind.group.split('.').next().unwrap_or_default() };
    let verb = match action {
        "get" => "read",
        "post" => "create",
        "put" => "replace",
        "deletecollection" => "deleteCollection",
        other => other,
    };
    let scope = if kind.scope == Scope::Namespaced && tail != "ForAllNamespaces" { "Namespaced" } else { "" };
    format!("{verb}{}{}{scope}{}{tail}", capital(group), capital(kind.version), kind.kind)
}

fn own_operation(kind: &'static Kind, method: &'static str, action: &'static str, tail: &str) -> Operation {
    let name = name_of_kind(kind.group, kind.version, kind.kind);
    let status = name_of_kind("meta", "v1", "Status");
    let options = name_of_kind("meta", "v1", "DeleteOptions");
    let (answer, body) = match action {
        "list" => (format!("{name}List"), String::new()),
        "delete" | "deletecollection" => (status, options),
        "post" | "put" => (name.clone(), name),
        _ => (name, String::new()),
    };
    Operation {
        method,
        action,
        id: operation_id(kind, action, tail),
        gvk: (kind.group, kind.version, kind.kind.to_owned()),
        answer,
        body,
        patches: if kind.is_native() { &PATCHES } else { &FOREIGN_PATCHES },
    }
}

fn sub_operations(kind: &'static Kind, sub: &Subresource) -> Vec<Operation> {
    // Options of a stream are parameters and no body: they have no schema.
    let is_known = Schema::get().named(&schema::type_name(sub.group, sub.version, sub.kind)).is_some();
    let name = if is_known { name_of_kind(sub.group, sub.version, sub.kind) } else { String::new() };
    let one = |verb: &&str| {
        let (method, action) = match *verb {
            "get" => ("get", "get"),
            "create" => ("post", "post"),
            "update" => ("put", "put"),
            "patch" => ("patch", "patch"),
            _ => return None,
        };
        Some(Operation {
            method,
            action,
            id: operation_id(kind, action, &capital(sub.name)),
            gvk: (sub.group, sub.version, sub.kind.to_owned()),
            answer: name.clone(),
            body: if matches!(action, "post" | "put") { name.clone() } else { String::new() },
            patches: if kind.is_native() { &PATCHES } else { &FOREIGN_PATCHES },
        })
    };
    sub.verbs.iter().filter_map(one).collect()
}

fn gvk((group, version, kind): &(&str, &str, String)) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn operation(of: &Operation) -> Value {
    let answer = Dialect::V3.reference(&of.answer);
    let mut parameters = Vec::new();
    for (name, type_) in query_parameters(of.action) {
        parameters.push(json!({"name": name, "in": "query", "schema": {"type": type_, "uniqueItems": true}}));
    }
    let mut operation = json!({
        "operationId": of.id,
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": answer}}}},
        "x-kubernetes-action": of.action,
        "x-kubernetes-group-version-kind": gvk(&of.gvk),
    });
    let body = || Dialect::V3.reference(&of.body);
    let content = match of.action {
        "patch" => {
            let patch = |media: &&str| ((*media).to_owned(), json!({"schema": {"type": "object"}}));
            Some(Value::Object(of.patches.iter().map(patch).collect()))
        }
        _ if of.body.is_empty() => None,
        _ => Some(json!({"application/json": {"schema": body()}, "application/yaml": {"schema": body()}})),
    };
    if let (Some(content), Value::Object(map)) = (content, &mut operation) {
        map.insert("requestBody".into(), json!({ "content": content }));
    }
    operation
}

fn query_parameters(action: &str) -> &'static [(&'static str, &'static str)] {
    match action {
        "patch" => &[
            ("pretty", "string"),
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("force", "boolean"),
        ],
        "post" | "put" => &[
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
            ("allowWatchBookmarks", "boolean"),
            ("sendInitialEvents", "boolean"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("timeoutSeconds", "integer"),
        ],
        _ => &[("pretty", "string")],
    }
}

#[cfg(test)]
mod tests;
