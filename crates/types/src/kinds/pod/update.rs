//! What may change in a Pod once it is there.

use k8s_openapi::api::core::v1::{Container, PodSpec, Toleration};

use crate::field::FieldError;

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn validate_update(new: &PodSpec, old: &PodSpec, faults: &mut Vec<FieldError>) {
    let mut rest = new.clone();
    let same_count = |a: Option<&Vec<Container>>, b: Option<&Vec<Container>>| {
        a.map_or(0, Vec::len) == b.map_or(0, Vec::len)
    };
    if new.containers.len() != old.containers.len() {
        faults.push(FieldError::forbidden("spec.containers", "pod updates may not add or remove containers"));
        return;
    }
    if !same_count(new.init_containers.as_ref(), old.init_containers.as_ref()) {
        faults.push(FieldError::forbidden(
            "spec.initContainers",
            "pod updates may not add or remove containers",
        ));
        return;
    }
    take_images(&mut rest.containers, &old.containers);
    if let (Some(mine), Some(theirs)) = (&mut rest.init_containers, &old.init_containers) {
        take_images(mine, theirs);
    }
    check_deadline(new, old, faults);
    rest.active_deadline_seconds = old.active_deadline_seconds;
    let additions_only = keeps_tolerations(new.tolerations.as_deref(), old.tolerations.as_deref());
    if !additions_only {
        let words = "existing toleration can not be modified except its tolerationSeconds";
        faults.push(FieldError::forbidden("spec.tolerations", words));
    }
    rest.tolerations.clone_from(&old.tolerations);
    if old.termination_grace_period_seconds.is_some_and(|s| s < 0)
        && new.termination_grace_period_seconds == Some(1)
    {
        rest.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    let old_gates = old.scheduling_gates.as_deref().unwrap_or_default();
    if new.scheduling_gates.iter().flatten().all(|gate| old_gates.contains(gate)) {
        rest.scheduling_gates.clone_from(&old.scheduling_gates);
    } else {
        faults.push(FieldError::forbidden(
            "spec.schedulingGates",
            "only deletion is allowed, but found new scheduling gates",
        ));
    }
    if rest != *old {
        faults.push(FieldError::forbidden("spec", MAY_CHANGE));
    }
}

/// Images may change: they are taken from the old spec before the rest is compared.
fn take_images(new: &mut [Container], old: &[Container]) {
    for (mine, theirs) in new.iter_mut().zip(old) {
        mine.image.clone_from(&theirs.image);
    }
}

fn check_deadline(new: &PodSpec, old: &PodSpec, faults: &mut Vec<FieldError>) {
    let field = "spec.activeDeadlineSeconds";
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (None, Some(_)) => {
            faults.push(FieldError::invalid(
                field,
                serde_json::Value::Null,
                "must not update from a positive integer to nil value",
            ));
        }
        (Some(now), Some(before)) if now > before => {
            faults.push(FieldError::invalid(field, now, "must be less than or equal to previous value"));
        }
        _ => {}
    }
}

/// Whether each toleration that was there is there still, up to its tolerationSeconds.
fn keeps_tolerations(new: Option<&[Toleration]>, old: Option<&[Toleration]>) -> bool {
    let bare = |toleration: &Toleration| Toleration { toleration_seconds: None, ..toleration.clone() };
    let new: Vec<_> = new.unwrap_or_default().iter().map(bare).collect();
    old.unwrap_or_default().iter().map(bare).all(|toleration| new.contains(&toleration))
}
