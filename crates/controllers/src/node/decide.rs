//! From a node, its last word and its Pods to a plan: pure.

use std::{sync::Arc, time::Duration};

use hitless_base::Timestamp;
use hitless_types::{pod as read, well_known};
use k8s_openapi::{
    api::core::v1::{Node, Pod, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
};

/// A node that says nothing for this long is Unknown, as in Kubernetes.
pub const SILENT_AFTER: Duration = Duration::from_secs(50);

/// Taints that this controller sets and takes away; all others are left alone.
const OWN_TAINTS: &[&str] =
    &[well_known::TAINT_NOT_READY, well_known::TAINT_UNREACHABLE, well_known::TAINT_UNSCHEDULABLE];

/// A node as it is seen.
pub struct Seen {
    /// The node; `None`: there are only Pods that name it.
    pub node: Option<Arc<Node>>,
    /// When it was last heard of.
    pub heard: Timestamp,
    /// Pods bound to it.
    pub pods: Vec<Arc<Pod>>,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Mark the node's conditions Unknown.
    pub mark_unknown: bool,
    /// The node's taints, if they have to change.
    pub taints: Option<Vec<Taint>>,
    /// Pods (by name and namespace) that are to be shown as not Ready, since nobody can say how they are.
    pub not_ready: Vec<(String, String)>,
    /// Pods to evict: they do not tolerate the taint any longer.
    pub evict: Vec<(String, String)>,
    /// Pods to remove at once: their node is gone, and nobody will ever stop them.
    pub remove: Vec<(String, String)>,
    /// When to look again; `None`: when something changes.
    pub look_again: Option<Duration>,
}

/// The plan for what was seen.
#[must_use]
pub fn decide(seen: &Seen, now: Timestamp) -> Plan {
    let name_of = |pod: &Arc<Pod>| {
        (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
    };
    let Some(node) = &seen.node else {
        return Plan { remove: seen.pods.iter().map(name_of).collect(), ..Plan::default() };
    };
    let silent = Duration::try_from(now.duration_since(seen.heard)).unwrap_or_default() >= SILENT_AFTER;
    let ready = if silent { "Unknown" } else { ready_status(node) };
    let taints = taints(node, ready, now);
    let mut plan = Plan {
        mark_unknown: silent && ready_status(node) != "Unknown",
        look_again: Some(Duration::from_secs(5)),
        ..Plan::default()
    };
    if ready != "True" {
        plan.not_ready = seen.pods.iter().filter(|pod| silent && read::is_ready(pod)).map(name_of).collect();
        for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
            let since = taint.time_added.as_ref().map_or(now, |t| t.0);
            let borne = Duration::try_from(now.duration_since(since)).unwrap_or_default();
            plan.evict.extend(
                seen.pods
                    .iter()
                    .filter(|pod| !read::is_terminating(pod) && !tolerates(pod, taint, borne))
                    .map(name_of),
            );
        }
    }
    if node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default() != taints {
        plan.taints = Some(taints);
    }
    plan
}

fn ready_status(node: &Node) -> &str {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions
        .and_then(|all| all.iter().find(|c| c.type_ == "Ready"))
        .map_or("Unknown", |c| c.status.as_str())
}

/// The node's taints as they should be: others' as they are, our own by condition.
fn taints(node: &Node, ready: &str, now: Timestamp) -> Vec<Taint> {
    let spec = node.spec.clone().unwrap_or_default();
    let had = spec.taints.unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match ready {
        "True" => {}
        "False" => wanted.extend([
            (well_known::TAINT_NOT_READY, "NoSchedule"),
            (well_known::TAINT_NOT_READY, "NoExecute"),
        ]),
        _ => wanted.extend([
            (well_known::TAINT_UNREACHABLE, "NoSchedule"),
            (well_known::TAINT_UNREACHABLE, "NoExecute"),
        ]),
    }
    if spec.unschedulable.unwrap_or(false) {
        wanted.push((well_known::TAINT_UNSCHEDULABLE, "NoSchedule"));
    }
    let mut taints: Vec<Taint> = had
        .iter()
        .filter(|t| {
            !OWN_TAINTS.contains(&t.key.as_str()) || wanted.contains(&(t.key.as_str(), t.effect.as_str()))
        })
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|t| t.key == key && t.effect == effect) {
            let time_added = Some(Time(now));
            taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added });
        }
    }
    taints
}

/// Whether the Pod still bears the taint after `borne`.
fn tolerates(pod: &Pod, taint: &Taint, borne: Duration) -> bool {
    pod.spec.as_ref().and_then(|s| s.tolerations.as_ref()).into_iter().flatten().any(|t| {
        let key = t.key.as_deref().unwrap_or_default();
        let matches_key =
            if key.is_empty() { t.operator.as_deref() == Some("Exists") } else { key == taint.key };
        let matches_value = t.operator.as_deref() == Some("Exists")
            || t.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
        let matches_effect = t.effect.as_deref().is_none_or(|e| e.is_empty() || e == taint.effect);
        let in_time =
            t.toleration_seconds.is_none_or(|s| borne < Duration::from_secs(u64::try_from(s).unwrap_or(0)));
        matches_key && matches_value && matches_effect && in_time
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(ready: &str, unschedulable: bool, taints: serde_json::Value) -> Option<Arc<Node>> {
        Some(Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": "n"}, "spec": {"unschedulable": unschedulable, "taints": taints},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}}),
            )
            .unwrap(),
        ))
    }

    fn pod(tolerations: serde_json::Value) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [], "tolerations": tolerations},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]}}))
            .unwrap(),
        )
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn a_cordoned_node_is_tainted_and_an_uncordoned_one_is_not() {
        let seen = Seen {
            node: node("True", true, json!([{"key": "mine", "effect": "NoSchedule"}])),
            heard: at(0),
            pods: vec![],
        };
        let taints = decide(&seen, at(1)).taints.unwrap();
        assert_eq!(
            taints.iter().map(|t| t.key.as_str()).collect::<Vec<_>>(),
            ["mine", well_known::TAINT_UNSCHEDULABLE]
        );
        let seen = Seen {
            node: node("True", false, serde_json::to_value(&taints).unwrap()),
            heard: at(0),
            pods: vec![],
        };
        assert_eq!(decide(&seen, at(1)).taints.unwrap().len(), 1);
    }

    #[test]
    fn silence_makes_pods_not_ready_and_evicts_them_when_they_no_longer_bear_it() {
        let tolerant = json!([{"key": well_known::TAINT_UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
        let seen =
            Seen { node: node("True", false, json!([])), heard: at(0), pods: vec![pod(tolerant.clone())] };
        assert_eq!(
            decide(&seen, at(49)),
            Plan { look_again: Some(Duration::from_secs(5)), ..Plan::default() }
        );
        let plan = decide(&seen, at(51));
        assert!(plan.mark_unknown && plan.not_ready.len() == 1 && plan.evict.is_empty());
        let tainted = node("Unknown", false, serde_json::to_value(plan.taints.unwrap()).unwrap());
        let seen = Seen { node: tainted, heard: at(0), pods: vec![pod(tolerant)] };
        assert!(decide(&seen, at(350)).evict.is_empty());
        assert_eq!(decide(&seen, at(351)).evict, [("ns".to_owned(), "p".to_owned())]);
        let intolerant = Seen { pods: vec![pod(json!([]))], ..seen };
        assert_eq!(decide(&intolerant, at(52)).evict.len(), 1);
    }

    #[test]
    fn pods_of_a_node_that_is_gone_are_removed() {
        let seen = Seen { node: None, heard: at(0), pods: vec![pod(json!([]))] };
        assert_eq!(decide(&seen, at(1)).remove.len(), 1);
    }
}
