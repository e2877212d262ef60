//! `pods/binding`: the scheduler's word on which node a Pod runs.

use hitless_base::Timestamp;
use serde_json::{Value, json};

use crate::{
    codec::{child_mut, is_terminating, metadata_child_mut, text},
    core::seconds_text,
    delete::pods,
    fault::Fault,
};

/// The Pod as the Binding wants it.
///
/// # Errors
/// 400 for a target that is no node; 409 when the Pod is bound already or is going.
pub(crate) fn bind(pod: &Value, binding: &Value, now: Timestamp) -> Result<Value, Fault> {
    let name = text(pod, "/metadata/name");
    let target = text(binding, "/target/name");
    let kind = text(binding, "/target/kind");
    if target.is_empty() || !matches!(kind, "" | "Node") {
        return Err(Fault::bad_request(format!("Binding {name:?}: target must be a Node with a name")));
    }
    let conflict = |words: String| Err(Fault::conflict(pods()?, name, &words));
    for field in ["uid", "resourceVersion"] {
        let pointer = format!("/metadata/{field}");
        let (wanted, held) = (text(binding, &pointer), text(pod, &pointer));
        if !wanted.is_empty() && wanted != held {
            return conflict(format!(
                "Precondition failed: {field} in precondition: {wanted}, {field} in object meta: {held}"
            ));
        }
    }
    if is_terminating(pod) {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let bound = text(pod, "/spec/nodeName");
    if !bound.is_empty() {
        return conflict(format!("pod {name} is already assigned to node {bound:?}"));
    }
    let mut new = pod.clone();
    child_mut(&mut new, "spec").insert("nodeName".into(), target.into());
    for (key, value) in
        binding.pointer("/metadata/annotations").and_then(Value::as_object).into_iter().flatten()
    {
        metadata_child_mut(&mut new, "annotations").insert(key.clone(), value.clone());
    }
    set_condition(
        &mut new,
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": seconds_text(now)}),
    );
    Ok(new)
}

/// Puts a condition into the Pod's status in place of one of its type. The time of the last transition stays when the status does.
pub(crate) fn set_condition(pod: &mut Value, mut condition: Value) {
    let list = child_mut(pod, "status").entry("conditions").or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    let Value::Array(conditions) = list else { return };
    match conditions.iter_mut().find(|c| text(c, "/type") == text(&condition, "/type")) {
        Some(held) => {
            if held.get("status") == condition.get("status")
                && let (Some(time), Value::Object(map)) = (held.get("lastTransitionTime"), &mut condition)
            {
                map.insert("lastTransitionTime".into(), time.clone());
            }
            *held = condition;
        }
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_bound_once() {
        let now = Timestamp::from_second(0).unwrap();
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}});
        let binding = json!({"target": {"kind": "Node", "name": "n1"}});
        let bound = bind(&pod, &binding, now).unwrap();
        assert_eq!(bound["spec"]["nodeName"], "n1");
        assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
        let again = bind(&bound, &binding, now).unwrap_err();
        assert_eq!(again.code(), 409);
        assert!(again.message().contains(r#"pod p is already assigned to node "n1""#));
        assert_eq!(
            bind(&pod, &json!({"target": {"kind": "Pod", "name": "n1"}}), now).unwrap_err().code(),
            400
        );
        let wrong = json!({"metadata": {"uid": "v"}, "target": {"name": "n1"}});
        assert_eq!(bind(&pod, &wrong, now).unwrap_err().code(), 409);
    }
}
