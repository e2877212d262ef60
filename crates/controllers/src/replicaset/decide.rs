//! From a ReplicaSet and its Pods to a plan: pure.

use std::{cmp::Reverse, collections::HashMap, sync::Arc, time::Duration};

use hitless_base::Timestamp;
use hitless_types::{meta, pod as read, selector};
use k8s_openapi::api::{
    apps::v1::{ReplicaSet, ReplicaSetStatus},
    core::v1::Pod,
};

/// Pods created or deleted in one round at the most, as in Kubernetes.
const BURST_PODS: usize = 500;

/// A ReplicaSet and the Pods that concern it.
pub struct Seen<'a> {
    replicaset: &'a ReplicaSet,
    /// Owned by it.
    owned: Vec<Arc<Pod>>,
    /// Without owner, and it selects them.
    orphans: Vec<Arc<Pod>>,
}

impl<'a> Seen<'a> {
    /// Picks out of `pods` those that the ReplicaSet owns or would take.
    #[must_use]
    pub fn new(replicaset: &'a ReplicaSet, pods: &[Arc<Pod>]) -> Self {
        let uid = replicaset.metadata.uid.as_deref();
        let mine = |pod: &&Arc<Pod>| pod.metadata.namespace == replicaset.metadata.namespace;
        let mut seen = Self { replicaset, owned: Vec::new(), orphans: Vec::new() };
        for pod in pods.iter().filter(mine) {
            match meta::controller_of(&pod.metadata) {
                Some(owner) if Some(owner.uid.as_str()) == uid => seen.owned.push(pod.clone()),
                None if seen.selects(pod) && is_active(pod) => seen.orphans.push(pod.clone()),
                _ => {}
            }
        }
        seen
    }

    fn selects(&self, pod: &Pod) -> bool {
        let Some(spec) = &self.replicaset.spec else { return false };
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        selector::from_label_selector(&spec.selector).is_ok_and(|s| s.matches(&labels))
    }
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Pods to make.
    pub create: usize,
    /// Names of Pods to delete, the least worth first.
    pub delete: Vec<String>,
    /// Names of Pods to take over.
    pub adopt: Vec<String>,
    /// Names of Pods to let go: they are owned but no longer selected.
    pub release: Vec<String>,
    /// Status to publish (without the conditions, which `apply` adds).
    pub status: ReplicaSetStatus,
    /// When to look again although nothing changes: a Pod will have been ready for long enough.
    pub look_again: Option<Duration>,
}

/// The plan for what was seen.
#[must_use]
pub fn decide(seen: &Seen<'_>, now: Timestamp, loop_on: bool) -> Plan {
    let rs = seen.replicaset;
    let spec = rs.spec.clone().unwrap_or_default();
    let deleting = rs.metadata.deletion_timestamp.is_some();
    let name_of = |pod: &Arc<Pod>| pod.metadata.name.clone().unwrap_or_default();
    let (kept, strayed): (Vec<_>, Vec<_>) = seen.owned.iter().cloned().partition(|pod| seen.selects(pod));
    let active: Vec<Arc<Pod>> = kept.iter().filter(|pod| is_active(pod)).cloned().collect();

    let mut plan = Plan {
        status: status(rs, &kept, &active, now, loop_on),
        look_again: look_again(&active, spec.min_ready_seconds.unwrap_or(0), now, loop_on),
        ..Plan::default()
    };
    if deleting {
        return plan;
    }
    plan.release = strayed.iter().filter(|pod| is_active(pod)).map(name_of).collect();
    plan.adopt = seen.orphans.iter().map(name_of).collect();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let have = active.len() + plan.adopt.len();
    if have < wanted {
        plan.create = (wanted - have).min(BURST_PODS);
    } else if have > wanted && plan.adopt.is_empty() {
        let surplus = (have - wanted).min(BURST_PODS);
        plan.delete = ranked_for_deletion(&active, now, loop_on).iter().take(surplus).map(name_of).collect();
    }
    plan
}

/// Neither at its end nor being deleted.
fn is_active(pod: &Pod) -> bool {
    !read::is_finished(pod) && !read::is_terminating(pod)
}

/// For how long the Pod has been available, if it is.
fn available_for(pod: &Pod, now: Timestamp, loop_on: bool) -> Option<Duration> {
    let since = read::available_since(pod, loop_on)?;
    Some(Duration::try_from(now.duration_since(since)).unwrap_or_default())
}

fn status(
    rs: &ReplicaSet,
    kept: &[Arc<Pod>],
    active: &[Arc<Pod>],
    now: Timestamp,
    loop_on: bool,
) -> ReplicaSetStatus {
    let spec = rs.spec.clone().unwrap_or_default();
    let min_ready = Duration::from_secs(u64::try_from(spec.min_ready_seconds.unwrap_or(0)).unwrap_or(0));
    let template_labels = spec
        .template
        .as_ref()
        .and_then(|t| t.metadata.as_ref())
        .and_then(|m| m.labels.clone())
        .unwrap_or_default();
    let count = |matches: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active.iter().filter(|p| matches(p)).count()).unwrap_or(i32::MAX)
    };
    let old = rs.status.clone().unwrap_or_default();
    let terminating = kept.iter().filter(|p| read::is_terminating(p) && !read::is_finished(p)).count();
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: Some(count(&|pod| {
            let labels = pod.metadata.labels.clone().unwrap_or_default();
            template_labels.iter().all(|(k, v)| labels.get(k) == Some(v))
        })),
        ready_replicas: Some(count(&read::is_ready)),
        available_replicas: Some(count(&|pod| {
            available_for(pod, now, loop_on).is_some_and(|d| d >= min_ready)
        })),
        terminating_replicas: Some(i32::try_from(terminating).unwrap_or(i32::MAX)),
        observed_generation: rs.metadata.generation,
        conditions: old.conditions,
    }
}

/// When the next Pod will have been ready for `min_ready_s`.
fn look_again(active: &[Arc<Pod>], min_ready_s: i32, now: Timestamp, loop_on: bool) -> Option<Duration> {
    let min_ready = Duration::from_secs(u64::try_from(min_ready_s).ok().filter(|s| *s > 0)?);
    active
        .iter()
        .filter_map(|pod| min_ready.checked_sub(available_for(pod, now, loop_on)?))
        .filter(|rest| !rest.is_zero())
        .min()
        .map(|rest| rest + Duration::from_millis(5))
}

/// The Pods in the order in which they may go, as Kubernetes ranks them: unassigned, then pending, then not ready,
/// then by deletion cost, then where several share a node, then the one that was ready last, then most restarts, then youngest.
fn ranked_for_deletion(active: &[Arc<Pod>], now: Timestamp, loop_on: bool) -> Vec<Arc<Pod>> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in active {
        *on_node.entry(read::node_name(pod).unwrap_or_default()).or_default() += 1;
    }
    let mut ranked = active.to_vec();
    ranked.sort_by_cached_key(|pod| {
        let phase = match read::phase(pod) {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        };
        let cost: i64 = meta::annotation(&pod.metadata, "controller.kubernetes.io/pod-deletion-cost")
            .and_then(|c| c.parse().ok())
            .unwrap_or(0);
        let together = on_node.get(read::node_name(pod).unwrap_or_default()).copied().unwrap_or(0);
        let restarts: i32 = pod
            .status
            .as_ref()
            .and_then(|s| s.container_statuses.as_ref())
            .map_or(0, |all| all.iter().map(|c| c.restart_count).max().unwrap_or(0));
        let created = pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        (
            read::node_name(pod).is_some(),
            phase,
            read::is_ready(pod),
            available_for(pod, now, loop_on).is_some(),
            cost,
            Reverse(together),
            available_for(pod, now, loop_on).unwrap_or_default(),
            Reverse(restarts),
            Reverse(created),
            pod.metadata.name.clone(),
        )
    });
    ranked
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn replicaset(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "rs-uid", "generation": 3},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                     "template": {"metadata": {"labels": {"app": "web"}}}}
        }))
        .unwrap()
    }

    fn pod(name: &str, ready: bool, programmed: bool, more: serde_json::Value) -> Arc<Pod> {
        let condition = |type_: &str, on: bool| json!({"type": type_, "status": if on { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let mut value = json!({
            "metadata": {"name": name, "namespace": "ns", "labels": {"app": "web"},
                         "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs-uid", "controller": true}]},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"phase": "Running", "conditions": [condition("Ready", ready), condition("hitless.dev/Programmed", programmed)]}
        });
        json_patch_merge(&mut value, &more);
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn json_patch_merge(into: &mut serde_json::Value, from: &serde_json::Value) {
        match (into, from) {
            (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
                for (k, v) in b {
                    json_patch_merge(a.entry(k.clone()).or_insert(serde_json::Value::Null), v);
                }
            }
            (a, b) => *a = b.clone(),
        }
    }

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().unwrap()
    }

    fn plan(replicas: i32, pods: &[Arc<Pod>]) -> Plan {
        let rs = replicaset(replicas);
        decide(&Seen::new(&rs, pods), now(), true)
    }

    #[test]
    fn makes_what_is_missing_and_counts_terminating_pods_as_gone() {
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:30Z"}});
        let plan = plan(3, &[pod("a", true, true, json!({})), pod("b", true, true, going)]);
        assert_eq!(plan.create, 2);
        assert_eq!(plan.status.replicas, 1);
        assert_eq!(plan.status.terminating_replicas, Some(1));
    }

    #[test]
    fn a_pod_that_no_consumer_routes_to_is_ready_but_not_available() {
        let plan = plan(2, &[pod("a", true, true, json!({})), pod("b", true, false, json!({}))]);
        assert_eq!((plan.status.ready_replicas, plan.status.available_replicas), (Some(2), Some(1)));
    }

    #[test]
    fn the_least_useful_pods_go_first() {
        let pods = [
            pod("old", true, true, json!({})),
            pod("unready", false, false, json!({})),
            pod(
                "unassigned",
                false,
                false,
                json!({"spec": {"nodeName": null}, "status": {"phase": "Pending"}}),
            ),
            pod(
                "cheap",
                true,
                true,
                json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}}),
            ),
        ];
        assert_eq!(plan(0, &pods).delete, ["unassigned", "unready", "cheap", "old"]);
        assert_eq!(plan(2, &pods).delete, ["unassigned", "unready"]);
    }

    #[test]
    fn takes_over_orphans_and_lets_strays_go() {
        let orphan = pod("orphan", true, true, json!({"metadata": {"ownerReferences": null}}));
        let stray = pod("stray", true, true, json!({"metadata": {"labels": {"app": "other"}}}));
        let plan = plan(2, &[orphan, stray]);
        assert_eq!(
            (plan.adopt, plan.release, plan.create),
            (vec!["orphan".to_owned()], vec!["stray".to_owned()], 1)
        );
    }

    #[test]
    fn looks_again_when_a_pod_will_have_been_ready_for_long_enough() {
        let mut rs = replicaset(1);
        rs.spec.as_mut().unwrap().min_ready_seconds = Some(70);
        let pods = [pod("a", true, true, json!({}))];
        let plan = decide(&Seen::new(&rs, &pods), now(), true);
        assert_eq!(plan.status.available_replicas, Some(0));
        assert_eq!(plan.look_again, Some(Duration::from_millis(10_005)));
    }
}
