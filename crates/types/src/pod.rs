//! Readings of a Pod that controllers, kubelet, loop and prover must agree on.

use hitless_base::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

use crate::{meta, well_known};

/// The condition of this type.
#[must_use]
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == type_)
}

/// Whether the condition of this type is `True`.
#[must_use]
pub fn condition_is_true(pod: &Pod, type_: &str) -> bool {
    condition(pod, type_).is_some_and(|c| c.status == "True")
}

/// Whether the Ready condition is True.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    condition_is_true(pod, "Ready")
}

/// Whether deletion has been asked for.
#[must_use]
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Phase as a word; `Pending` where none is set.
#[must_use]
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// Whether the Pod has run to its end (`Succeeded` or `Failed`).
#[must_use]
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// The node that the Pod is bound to.
#[must_use]
pub fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// Since when the Pod is available (Ready and, with the loop on, Programmed), or `None` if it is not.
///
/// A terminating Pod is not available.
#[must_use]
pub fn available_since(pod: &Pod, loop_on: bool) -> Option<Timestamp> {
    if is_terminating(pod) {
        return None;
    }
    let since = |type_| {
        condition(pod, type_)
            .filter(|c| c.status == "True")
            .map(|c| c.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0))
    };
    let ready = since("Ready")?;
    if loop_on { Some(ready.max(since(well_known::PROGRAMMED)?)) } else { Some(ready) }
}

/// The withdrawal budget that the Pod asks for, within its bound. Seconds.
#[must_use]
pub fn withdrawal_budget_s(pod: &Pod) -> u64 {
    meta::annotation(&pod.metadata, well_known::ANNOTATION_WITHDRAWAL_BUDGET)
        .and_then(|text| text.parse().ok())
        .unwrap_or(well_known::WITHDRAWAL_BUDGET_S_DEFAULT)
        .min(well_known::WITHDRAWAL_BUDGET_S_MAX)
}
