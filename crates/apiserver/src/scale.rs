//! `/scale`: the count of a workload as `autoscaling/v1` Scale, whatever its kind.

use hitless_types::{kinds::Kind, selector};
use serde_json::{Value, json};

use crate::{
    codec::{child_mut, text},
    fault::Fault,
};

/// The object's Scale.
pub(crate) fn of(object: &Value) -> Value {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
    let meta = |field: &str| object.pointer(&format!("/metadata/{field}")).cloned().unwrap_or_default();
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": meta("name"), "namespace": meta("namespace"), "uid": meta("uid"),
            "resourceVersion": meta("resourceVersion"), "creationTimestamp": meta("creationTimestamp"),
        },
        "spec": {"replicas": number("/spec/replicas")},
        "status": {"replicas": number("/status/replicas"), "selector": selector_text(object.pointer("/spec/selector"))},
    })
}

/// The object with the count that the Scale wants. The Scale's resourceVersion, where it has one, is a condition.
///
/// # Errors
/// 400 for what is no Scale, 422 for a count that is none.
pub(crate) fn put(kind: &Kind, object: &Value, scale: &Value) -> Result<Value, Fault> {
    let said = text(scale, "/kind");
    if !said.is_empty() && said != "Scale" {
        return Err(Fault::bad_request(format!(
            "the object provided is unrecognized (must be of type Scale): it is a {said}"
        )));
    }
    let name = text(object, "/metadata/name");
    let replicas = match scale.pointer("/spec/replicas") {
        None | Some(Value::Null) => 0,
        Some(count) => match count.as_i64().filter(|c| *c <= i64::from(i32::MAX)) {
            Some(count) if count >= 0 => count,
            _ => {
                let words = "must be greater than or equal to 0";
                let fault = hitless_types::field::FieldError::invalid("spec.replicas", count.clone(), words);
                return Err(Fault::invalid(kind, name, vec![fault]));
            }
        },
    };
    let mut new = object.clone();
    child_mut(&mut new, "spec").insert("replicas".into(), replicas.into());
    for field in ["name", "namespace", "uid", "resourceVersion"] {
        if let Some(value) = scale.pointer(&format!("/metadata/{field}")).filter(|v| !v.is_null()) {
            child_mut(&mut new, "metadata").insert(field.into(), value.clone());
        }
    }
    Ok(new)
}

/// A label selector as text: `app=web,tier in (a,b)`.
fn selector_text(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return String::new() };
    let mut terms: Vec<String> = Vec::new();
    for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        terms.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for term in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let key = text(term, "/key");
        let mut values: Vec<&str> = term
            .get("values")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        values.sort_unstable();
        let list = values.join(",");
        terms.push(match text(term, "/operator") {
            "In" => format!("{key} in ({list})"),
            "NotIn" => format!("{key} notin ({list})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.sort();
    let text = terms.join(",");
    // What is written here can be read here.
    debug_assert!(selector::parse_labels(&text).is_ok());
    text
}

#[cfg(test)]
mod tests {
    use hitless_types::kinds;

    use super::*;

    #[test]
    fn a_scale_shows_and_sets_the_count() {
        let kind = kinds::by_path("apps", "v1", "deployments").unwrap();
        let object = json!({
            "metadata": {"name": "a", "namespace": "d", "resourceVersion": "5"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"b": "2", "a": "1"},
                "matchExpressions": [{"key": "t", "operator": "In", "values": ["y", "x"]}]}},
            "status": {"replicas": 2},
        });
        let scale = of(&object);
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "a=1,b=2,t in (x,y)"}));
        let new = put(kind, &object, &json!({"spec": {"replicas": 7}, "metadata": {"resourceVersion": "4"}}))
            .unwrap();
        assert_eq!((&new["spec"]["replicas"], &new["metadata"]["resourceVersion"]), (&json!(7), &json!("4")));
        assert_eq!(put(kind, &object, &json!({"spec": {"replicas": -1}})).map_err(|f| f.code()), Err(422));
    }
}
