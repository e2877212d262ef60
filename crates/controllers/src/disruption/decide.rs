//! From a PodDisruptionBudget and its Pods to its status: pure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hitless_base::Timestamp;
use hitless_types::{
    intstr::{self, Round},
    pod as read,
};
use k8s_openapi::{
    api::{
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};

/// For how long an eviction that the API server let through is held against the budget although the Pod is not
/// being deleted, as in Kubernetes.
const DISRUPTED_FOR_MAX: Duration = Duration::from_secs(120);

/// A budget and the Pods that it selects.
pub struct Seen<'a> {
    /// The budget.
    pub budget: &'a PodDisruptionBudget,
    /// Every Pod that it selects.
    pub pods: Vec<Arc<Pod>>,
    /// How many Pods their controllers want; `None` when one has no controller with a scale.
    pub expected_of_controllers: Option<i32>,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub struct Plan {
    /// Status to publish.
    pub status: PodDisruptionBudgetStatus,
    /// When to look again although nothing changes.
    pub look_again: Option<Duration>,
}

/// The plan for what was seen.
#[must_use]
pub fn decide(seen: &Seen<'_>, now: Timestamp, loop_on: bool) -> Plan {
    let old = seen.budget.status.clone().unwrap_or_default();
    let (disrupted, look_again) = still_disrupted(seen, &old, now);
    let healthy = count(seen.pods.iter().filter(|pod| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        !disrupted.contains_key(name) && read::available_since(pod, loop_on).is_some()
    }));
    let (expected, desired, fault) = wanted(seen);
    let allowed = if fault.is_none() && expected > 0 { (healthy - desired).max(0) } else { 0 };
    let status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: seen.budget.metadata.generation,
        conditions: Some(vec![condition(seen.budget, &old, allowed, fault, now)]),
    };
    Plan { status, look_again }
}

fn count<T>(items: impl Iterator<Item = T>) -> i32 {
    i32::try_from(items.count()).unwrap_or(i32::MAX)
}

/// Expected and desired number of Pods, or why they cannot be told.
fn wanted(seen: &Seen<'_>) -> (i32, i32, Option<String>) {
    let spec = seen.budget.spec.clone().unwrap_or_default();
    let there = count(seen.pods.iter().filter(|pod| !read::is_finished(pod)));
    let percent = |v: &_| matches!(v, k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String(_));
    if let Some(value) = &spec.max_unavailable {
        let Some(expected) = seen.expected_of_controllers else {
            return (there, there, Some("found no controllers for some of the pods".to_owned()));
        };
        return match intstr::resolve(value, expected, Round::Up) {
            Ok(unavailable) => (expected, (expected - unavailable).max(0), None),
            Err(error) => (expected, expected, Some(error.to_string())),
        };
    }
    let Some(value) = &spec.min_available else { return (there, 0, None) };
    if !percent(value) {
        let desired = intstr::resolve(value, there, Round::Up).unwrap_or(there);
        return (there, desired, None);
    }
    let Some(expected) = seen.expected_of_controllers else {
        return (there, there, Some("found no controllers for some of the pods".to_owned()));
    };
    match intstr::resolve(value, expected, Round::Up) {
        Ok(desired) => (expected, desired, None),
        Err(error) => (expected, expected, Some(error.to_string())),
    }
}

/// Evictions that were let through and whose Pod is neither being deleted nor gone.
fn still_disrupted(
    seen: &Seen<'_>,
    old: &PodDisruptionBudgetStatus,
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let mut kept = BTreeMap::new();
    let mut look_again: Option<Duration> = None;
    for (name, at) in old.disrupted_pods.iter().flatten() {
        let alive = seen
            .pods
            .iter()
            .any(|pod| pod.metadata.name.as_ref() == Some(name) && !read::is_terminating(pod));
        let age = Duration::try_from(now.duration_since(at.0)).unwrap_or_default();
        if alive && age < DISRUPTED_FOR_MAX {
            kept.insert(name.clone(), at.clone());
            let rest = DISRUPTED_FOR_MAX - age;
            look_again = Some(look_again.map_or(rest, |sooner| sooner.min(rest)));
        }
    }
    (kept, look_again)
}

fn condition(
    budget: &PodDisruptionBudget,
    old: &PodDisruptionBudgetStatus,
    allowed: i32,
    fault: Option<String>,
    now: Timestamp,
) -> Condition {
    let (on, reason, message) = match fault {
        Some(words) => ("False", "SyncFailed", words),
        None if allowed > 0 => ("True", "SufficientPods", String::new()),
        None => ("False", "InsufficientPods", String::new()),
    };
    let before = old.conditions.iter().flatten().find(|c| c.type_ == "DisruptionAllowed" && c.status == on);
    Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: on.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: before.map_or(Time(now), |c| c.last_transition_time.clone()),
        observed_generation: budget.metadata.generation,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn budget(spec: serde_json::Value) -> PodDisruptionBudget {
        serde_json::from_value(
            json!({"metadata": {"name": "b", "namespace": "ns", "generation": 1}, "spec": spec}),
        )
        .unwrap()
    }

    fn pod(name: &str, programmed: bool) -> Arc<Pod> {
        let on = |yes: bool| if yes { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"containers": []},
                "status": {"phase": "Running", "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                    {"type": "hitless.dev/Programmed", "status": on(programmed), "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
            .unwrap(),
        )
    }

    fn plan(
        spec: serde_json::Value,
        pods: Vec<Arc<Pod>>,
        expected: Option<i32>,
        loop_on: bool,
    ) -> PodDisruptionBudgetStatus {
        let budget = budget(spec);
        decide(
            &Seen { budget: &budget, pods, expected_of_controllers: expected },
            "2026-01-01T00:01:00Z".parse().unwrap(),
            loop_on,
        )
        .status
    }

    #[test]
    fn what_nobody_routes_to_is_not_healthy() {
        let pods = || vec![pod("a", true), pod("b", false)];
        assert_eq!(plan(json!({"minAvailable": 1}), pods(), Some(2), true).disruptions_allowed, Some(0));
        assert_eq!(plan(json!({"minAvailable": 1}), pods(), Some(2), false).disruptions_allowed, Some(1));
    }

    #[test]
    fn counts_against_what_the_controllers_want() {
        let pods = || vec![pod("a", true), pod("b", true), pod("c", true)];
        let status = plan(json!({"maxUnavailable": 1}), pods(), Some(4), true);
        assert_eq!(
            (status.expected_pods, status.desired_healthy, status.disruptions_allowed),
            (Some(4), Some(3), Some(0))
        );
        let status = plan(json!({"minAvailable": "50%"}), pods(), Some(3), true);
        assert_eq!((status.desired_healthy, status.disruptions_allowed), (Some(2), Some(1)));
        let status = plan(json!({"maxUnavailable": 1}), pods(), None, true);
        assert_eq!(
            (status.disruptions_allowed, status.conditions.unwrap()[0].reason.as_str()),
            (Some(0), "SyncFailed")
        );
    }

    #[test]
    fn an_eviction_under_way_counts_until_the_pod_is_being_deleted() {
        let mut budget = budget(json!({"minAvailable": 1}));
        budget.status = serde_json::from_value(
            json!({"disruptedPods": {"a": "2026-01-01T00:00:30Z", "gone": "2026-01-01T00:00:30Z"},
            "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0, "disruptionsAllowed": 0}),
        )
        .unwrap();
        let seen = Seen {
            budget: &budget,
            pods: vec![pod("a", true), pod("b", true)],
            expected_of_controllers: Some(2),
        };
        let plan = decide(&seen, "2026-01-01T00:01:00Z".parse().unwrap(), true);
        assert_eq!((plan.status.current_healthy, plan.status.disruptions_allowed), (Some(1), Some(0)));
        assert_eq!(plan.status.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(plan.look_again, Some(Duration::from_secs(90)));
    }
}
