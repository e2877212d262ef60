//! `pods/eviction`: deletion as far as disruption budgets allow it.
//!
//! Invariant: an eviction that a budget allows has taken one from `disruptionsAllowed`, with the budget's resourceVersion
//! as condition, before the Pod is deleted. So evictions at once cannot spend more than there is; the controller
//! gives back what it sees was not used.

use hitless_types::{
    kinds::{self, Kind},
    pod, selector,
    status::{ApiFault, Cause},
};
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    auth::Identity,
    binding::set_condition,
    codec::{as_map, child_mut, is_terminating, text},
    core::{Core, seconds_text},
    delete::{self, DeleteOptions},
    fault::Fault,
    query::Query,
    read,
    route::Place,
    strategy::Part,
    write::{self, How},
};

const DISRUPTION_BUDGET: &str = "DisruptionBudget";
/// Pods that a budget may remember as evicted and not yet gone.
const DISRUPTED_PODS_MAX: usize = 2000;
/// Asked for only while the budget's controller has not yet seen the budget's latest form. A budget that is spent says no
/// time, as in Kubernetes: client libraries wait out a time that they are told, unseen and up to ten times, so that
/// `kubectl drain` could neither say why it waits nor keep its own time limit.
const SETTLING_RETRY_S: u32 = 1;

/// Evicts a Pod.
///
/// # Errors
/// 429 when a budget does not allow it, 500 when two budgets select the Pod, and whatever a delete can give.
pub(crate) async fn evict(
    core: &Core,
    place: &Place,
    identity: &Identity,
    eviction: &Value,
) -> Result<(), Fault> {
    check_body(place, eviction)?;
    let body = eviction.get("deleteOptions").cloned().unwrap_or_default();
    let mut options = DeleteOptions::read(&body, &Query::default())?;
    let Some((_, object)) = core.load(place.kind, &place.namespace, &place.name).await? else {
        return Err(Fault::not_found(place.kind, &place.name));
    };
    if !needs_no_budget(&object)
        && let Some(budget) = budget_of(core, place, &object).await?
    {
        let pod: Pod = Pod::deserialize(&object).map_err(Fault::internal)?;
        let healthy = pod::available_since(&pod, core.options.loop_on).is_some();
        if healthy || !lets_unhealthy_go(&budget) {
            spend(core, &budget, place, options.dry_run).await?;
        }
    }
    // The Pod that was looked at, and no namesake that came meanwhile.
    options = options.only_uid(text(&object, "/metadata/uid"));
    if !options.dry_run && !is_terminating(&object) {
        note_target(core, place, identity).await?;
    }
    delete::delete(core, place, identity, &options).await.map(drop)
}

fn check_body(place: &Place, eviction: &Value) -> Result<(), Fault> {
    let said = text(eviction, "/kind");
    if !matches!(said, "" | "Eviction") {
        let message =
            format!("the object provided is unrecognized (must be of type Eviction): it is a {said}");
        return Err(Fault::bad_request(message));
    }
    let name = text(eviction, "/metadata/name");
    if !name.is_empty() && name != place.name {
        return Err(Fault::bad_request("name in URL does not match name in Eviction object"));
    }
    Ok(())
}

/// What does not serve, or no longer will, disrupts nothing.
fn needs_no_budget(pod: &Value) -> bool {
    is_terminating(pod) || matches!(text(pod, "/status/phase"), "Succeeded" | "Failed" | "Pending")
}

fn budgets() -> Result<&'static Kind, Fault> {
    kinds::by_path("policy", "v1", "poddisruptionbudgets").ok_or_else(Fault::no_resource)
}

async fn budget_of(core: &Core, place: &Place, pod: &Value) -> Result<Option<Value>, Fault> {
    let mut found = Vec::new();
    for budget in read::all(core, budgets()?, &place.namespace).await? {
        let Some(selector) = budget.pointer("/spec/selector").cloned() else { continue };
        let selector = serde_json::from_value(selector).map_err(Fault::internal)?;
        let requirements =
            selector::from_label_selector(&selector).map_err(|e| Fault::internal(e.message))?;
        if requirements.matches_object(pod) {
            found.push(budget);
        }
    }
    if found.len() > 1 {
        let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(Fault::other(500, "InternalError", message));
    }
    Ok(found.pop())
}

fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// A Pod that is not healthy may go without being counted when its policy says so, or when enough others are healthy.
fn lets_unhealthy_go(budget: &Value) -> bool {
    let desired = number(budget, "/status/desiredHealthy");
    let enough = number(budget, "/status/currentHealthy") >= desired && desired > 0;
    text(budget, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow" || enough
}

/// Takes one from what the budget allows.
async fn spend(core: &Core, budget: &Value, place: &Place, dry_run: bool) -> Result<(), Fault> {
    let _one_at_a_time = core.evictions.lock().await;
    let identity = Identity::master("system:apiserver");
    let how = How { dry_run, ..How::server(&identity) };
    let budget = Place::object(budgets()?, &place.namespace, text(budget, "/metadata/name"));
    let now = seconds_text(core.now());
    let change = |held: &Value| spent(held, &place.name, &now);
    write::update(core, &budget, Part::Status, &how, change).await.map(drop)
}

/// The budget after one more disruption. Pure.
fn spent(budget: &Value, pod: &str, now: &str) -> Result<Value, Fault> {
    let name = text(budget, "/metadata/name");
    let refuse = |message: String, retry_after_s: u32| {
        Fault::from(ApiFault::TooManyRequests {
            message: "Cannot evict pod as it would violate the pod's disruption budget.".to_owned(),
            retry_after_s,
            causes: vec![Cause { reason: DISRUPTION_BUDGET.to_owned(), message, field: String::new() }],
        })
    };
    if number(budget, "/status/observedGeneration") < number(budget, "/metadata/generation") {
        let words = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refuse(words, SETTLING_RETRY_S));
    }
    let allowed = number(budget, "/status/disruptionsAllowed");
    let remembered =
        budget.pointer("/status/disruptedPods").and_then(Value::as_object).map_or(0, |p| p.len());
    if allowed < 0 {
        return Err(Fault::forbidden(budgets()?, name, "pdb disruptions allowed is negative"));
    }
    if remembered > DISRUPTED_PODS_MAX {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Fault::forbidden(budgets()?, name, why));
    }
    if allowed == 0 {
        let (needed, healthy) =
            (number(budget, "/status/desiredHealthy"), number(budget, "/status/currentHealthy"));
        let words =
            format!("The disruption budget {name} needs {needed} healthy pods and has {healthy} currently");
        return Err(refuse(words, 0));
    }
    let mut new = budget.clone();
    let status = child_mut(&mut new, "status");
    status.insert("disruptionsAllowed".into(), (allowed - 1).into());
    as_map(status.entry("disruptedPods").or_insert(Value::Null)).insert(pod.into(), now.into());
    if allowed == 1 {
        let generation = number(budget, "/metadata/generation");
        set_condition(
            &mut new,
            json!({
                "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
                "observedGeneration": generation, "lastTransitionTime": now,
            }),
        );
    }
    Ok(new)
}

/// Says on the Pod why it goes.
async fn note_target(core: &Core, place: &Place, identity: &Identity) -> Result<(), Fault> {
    let how = How::server(identity);
    let pod = Place { sub: String::new(), ..place.clone() };
    let now = seconds_text(core.now());
    let change = |held: &Value| {
        let mut new = held.clone();
        set_condition(
            &mut new,
            json!({
                "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": now,
            }),
        );
        Ok(new)
    };
    write::update(core, &pod, Part::Status, &how, change).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i64) -> Value {
        json!({
            "metadata": {"name": "b", "generation": 1},
            "status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "desiredHealthy": 2, "currentHealthy": 2},
        })
    }

    #[test]
    fn a_budget_is_spent_one_by_one() {
        let after = spent(&budget(1), "p", "t").unwrap();
        assert_eq!(after["status"]["disruptionsAllowed"], 0);
        assert_eq!(after["status"]["disruptedPods"], json!({"p": "t"}));
        assert_eq!(after["status"]["conditions"][0]["status"], "False");
        let refused = spent(&after, "q", "t").unwrap_err();
        assert_eq!(refused.code(), 429);
        assert_eq!(refused.status()["details"].get("retryAfterSeconds"), None);
        assert_eq!(refused.message(), "Cannot evict pod as it would violate the pod's disruption budget.");
        assert_eq!(
            refused.status()["details"]["causes"][0]["message"],
            "The disruption budget b needs 2 healthy pods and has 2 currently"
        );
    }

    #[test]
    fn a_budget_that_was_changed_is_waited_for() {
        let mut changed = budget(1);
        changed["metadata"]["generation"] = 2.into();
        let refused = spent(&changed, "p", "t").unwrap_err();
        assert_eq!((refused.code(), &refused.status()["details"]["retryAfterSeconds"]), (429, &json!(1)));
    }
}
