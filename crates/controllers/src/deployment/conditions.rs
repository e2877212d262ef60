//! A Deployment's status and conditions. Pure.

use std::{sync::Arc, time::Duration};

use hitless_base::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    decide::{Plan, Seen, spec_of, wants},
    rolling,
};

/// The status for what was seen, and when the progress deadline is due.
pub(super) fn status(seen: &Seen<'_>, plan: &Plan, now: Timestamp) -> (DeploymentStatus, Option<Duration>) {
    let old = seen.deployment.status.clone().unwrap_or_default();
    let sum = |of: &dyn Fn(&ReplicaSet) -> i32| seen.replicasets.iter().map(|rs| of(rs)).sum::<i32>();
    let field = |rs: &ReplicaSet, pick: &dyn Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| {
        rs.status.as_ref().map_or(0, pick)
    };
    let available = sum(&|rs| field(rs, &|s| s.available_replicas.unwrap_or(0)));
    let mut status = DeploymentStatus {
        observed_generation: seen.deployment.metadata.generation,
        replicas: Some(sum(&|rs| field(rs, &|s| s.replicas))),
        updated_replicas: Some(seen.new_replicaset().map_or(0, |rs| field(rs, &|s| s.replicas))),
        ready_replicas: Some(sum(&|rs| field(rs, &|s| s.ready_replicas.unwrap_or(0)))),
        available_replicas: Some(available),
        unavailable_replicas: Some((sum(&wants) - available).max(0)),
        terminating_replicas: Some(sum(&|rs| field(rs, &|s| s.terminating_replicas.unwrap_or(0)))),
        collision_count: old.collision_count,
        conditions: None,
    };
    let (progressing, look_again) = progressing(seen, &status, plan, now);
    let mut conditions = vec![available_condition(seen.deployment, available)];
    conditions.extend(progressing);
    conditions.extend(failure(&seen.replicasets));
    let old = old.conditions.unwrap_or_default();
    status.conditions = Some(conditions.into_iter().map(|c| merged(&old, c, now)).collect());
    (status, look_again)
}

/// A condition with its times: the transition's from before if the status is the same, the update's if nothing has changed.
fn merged(old: &[DeploymentCondition], mut new: DeploymentCondition, now: Timestamp) -> DeploymentCondition {
    let before = old.iter().find(|c| c.type_ == new.type_);
    let same_status = before.filter(|c| c.status == new.status);
    let same = before.filter(|c| c.status == new.status && c.reason == new.reason);
    new.last_transition_time = same_status.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now)));
    if new.last_update_time.is_none() {
        new.last_update_time = same.and_then(|c| c.last_update_time.clone()).or(Some(Time(now)));
    }
    new
}

fn condition(type_: &str, on: bool, reason: &str, message: String) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: if on { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        ..DeploymentCondition::default()
    }
}

fn available_condition(deployment: &Deployment, available: i32) -> DeploymentCondition {
    if available >= rolling::min_available(&spec_of(deployment)) {
        condition(
            "Available",
            true,
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.".to_owned(),
        )
    } else {
        condition(
            "Available",
            false,
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.".to_owned(),
        )
    }
}

fn failure(replicasets: &[Arc<ReplicaSet>]) -> Option<DeploymentCondition> {
    let failed = replicasets
        .iter()
        .filter_map(|rs| rs.status.as_ref()?.conditions.as_ref())
        .flatten()
        .find(|c| c.type_ == "ReplicaFailure")?;
    Some(condition(
        "ReplicaFailure",
        true,
        failed.reason.as_deref().unwrap_or("FailedCreate"),
        failed.message.clone().unwrap_or_default(),
    ))
}

/// Whether everything is new, there and available, and nothing of the old is left.
fn complete(seen: &Seen<'_>, status: &DeploymentStatus) -> bool {
    let wanted = spec_of(seen.deployment).replicas.unwrap_or(1);
    status.updated_replicas == Some(wanted)
        && status.replicas == Some(wanted)
        && status.available_replicas == Some(wanted)
}

fn progressing(
    seen: &Seen<'_>,
    status: &DeploymentStatus,
    plan: &Plan,
    now: Timestamp,
) -> (Option<DeploymentCondition>, Option<Duration>) {
    let spec = spec_of(seen.deployment);
    let name = seen.deployment.metadata.name.clone().unwrap_or_default();
    let old = seen.deployment.status.as_ref();
    let before =
        old.and_then(|s| s.conditions.as_ref()).and_then(|all| all.iter().find(|c| c.type_ == "Progressing"));
    if spec.paused.unwrap_or(false) {
        return (
            Some(condition("Progressing", true, "DeploymentPaused", "Deployment is paused".to_owned())),
            None,
        );
    }
    let replicaset = plan
        .create
        .as_ref()
        .and_then(|rs| rs.metadata.name.clone())
        .or_else(|| seen.new_replicaset().and_then(|rs| rs.metadata.name.clone()));
    let subject =
        replicaset.map_or_else(|| format!("Deployment \"{name}\""), |rs| format!("ReplicaSet \"{rs}\""));
    if plan.create.is_some() {
        return (
            Some(condition(
                "Progressing",
                true,
                "NewReplicaSetCreated",
                format!("Created new {subject}").replace("ReplicaSet", "replica set"),
            )),
            None,
        );
    }
    if complete(seen, status) {
        return (
            Some(condition(
                "Progressing",
                true,
                "NewReplicaSetAvailable",
                format!("{subject} has successfully progressed."),
            )),
            None,
        );
    }
    let moved = old.is_none_or(|old| {
        status.updated_replicas > old.updated_replicas
            || status.ready_replicas > old.ready_replicas
            || status.available_replicas > old.available_replicas
            || status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0)
                < old.replicas.unwrap_or(0) - old.updated_replicas.unwrap_or(0)
    });
    let was_complete = before.is_some_and(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"));
    let fresh = || {
        let mut c = condition("Progressing", true, "ReplicaSetUpdated", format!("{subject} is progressing."));
        c.last_update_time = Some(Time(now));
        c
    };
    let deadline_s = u64::try_from(spec.progress_deadline_seconds.unwrap_or(600)).unwrap_or(600);
    let deadline = Duration::from_secs(deadline_s);
    let Some(before) = before.filter(|_| !moved && !was_complete) else {
        return (Some(fresh()), Some(deadline));
    };
    let since = before.last_update_time.as_ref().map_or(now, |t| t.0);
    let silent = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    if before.reason.as_deref() == Some("ProgressDeadlineExceeded") || silent >= deadline {
        return (
            Some(condition(
                "Progressing",
                false,
                "ProgressDeadlineExceeded",
                format!("{subject} has timed out progressing."),
            )),
            None,
        );
    }
    (Some(before.clone()), Some(deadline.saturating_sub(silent) + Duration::from_millis(10)))
}
