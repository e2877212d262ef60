//! The rows together: what must hold of each, and the answers that users see.

mod defaults;
mod ingress;
mod pod_tables;
mod rows;
mod tables;
mod types;
mod updates;
mod validation;

use serde_json::{Value, json};

use super::*;

/// The object as the API server takes it: through its type, then defaulted.
fn taken(object: Value) -> Value {
    let kind = kind_of(&object);
    let mut object = (kind.typecheck)(&object).unwrap().object;
    (kind.default)(&mut object);
    object
}

fn kind_of(object: &Value) -> &'static Kind {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap().to_owned();
    by_gvk(&text("apiVersion"), &text("kind")).unwrap()
}

/// Everything that is wrong with the object, as users read it.
fn faults(new: &Value, old: Option<&Value>) -> String {
    let kind = kind_of(new);
    let mut all = validate_meta(kind, new, old);
    all.extend((kind.validate)(new, old));
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// `object` with `value` at `pointer`; the parent is there already.
fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match object.pointer_mut(parent).unwrap() {
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        Value::Object(fields) => {
            fields.insert(key.to_owned(), value);
        }
        other => panic!("{other} has no fields"),
    }
    object
}

/// A table as kubectl prints it; wide columns too if asked for.
fn table(objects: &[Value], wide: bool) -> String {
    let kind = kind_of(&objects[0]);
    let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    let shown: Vec<_> = kind.columns.iter().enumerate().filter(|(_, c)| wide || c.priority == 0).collect();
    let mut lines = vec![shown.iter().map(|(_, c)| c.name.to_uppercase()).collect::<Vec<_>>()];
    for object in objects {
        let cells = (kind.cells)(object, now);
        let text = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
        lines.push(shown.iter().map(|(i, _)| text(&cells[*i])).collect());
    }
    let width = |i: usize| lines.iter().map(|l| l[i].chars().count()).max().unwrap();
    let pad = |(i, cell): (usize, &String)| format!("{cell:<width$}   ", width = width(i));
    lines
        .iter()
        .map(|l| l.iter().enumerate().map(pad).collect::<String>().trim_end().to_owned() + "\n")
        .collect()
}

/// The Pod of scenario 1.
fn my_pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "my-pod", "namespace": "default"},
        "spec": {"containers": [{
            "name": "web", "image": "nginx", "ports": [{"name": "web", "containerPort": 80}],
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "15"]}}},
        }]},
    })
}

/// The Service of scenario 2.
fn my_service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "my-service", "namespace": "default"},
        "spec": {"ports": [{"port": 80, "targetPort": 3000}], "selector": {"name": "app"}},
    })
}

/// The Deployment of scenario 9.
fn app() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app", "namespace": "default"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"name": "app"}},
            "template": {
                "metadata": {"labels": {"name": "app"}},
                "spec": {"containers": [{"name": "app", "image": "nginx:1.19", "ports": [{"containerPort": 3000}]}]},
            },
        },
    })
}

/// The PodDisruptionBudget of scenario 11.
fn nginx_pdb() -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "nginx-pdb", "namespace": "default"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "nginx"}}},
    })
}

/// A registration of a service proxy.
fn consumer() -> Value {
    json!({
        "apiVersion": "hitless.dev/v1alpha1", "kind": "EndpointConsumer", "metadata": {"name": "service-proxy-node-1"},
        "spec": {"type": "ServiceProxy", "nodeName": "node-1", "incarnation": "7f3a", "ackClass": "Proven"},
    })
}
