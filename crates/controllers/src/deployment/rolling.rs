//! How many replicas each ReplicaSet gets next: rolling update, recreate, and scaling in proportion. Pure.

use std::{collections::BTreeMap, sync::Arc};

use hitless_types::intstr;
use k8s_openapi::{
    api::apps::v1::{DeploymentSpec, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::decide::{DESIRED_REPLICAS, MAX_REPLICAS, Plan, Seen, available, spec_of, wants};

/// The steps that scale a ReplicaSet: name and replicas.
type Steps = Vec<(String, i32)>;

fn name_of(rs: &ReplicaSet) -> String {
    rs.metadata.name.clone().unwrap_or_default()
}

fn replicas(spec: &DeploymentSpec) -> i32 {
    spec.replicas.unwrap_or(1)
}

fn is_recreate(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// maxSurge (rounded up) and maxUnavailable (rounded down) in Pods; not both zero.
fn bounds(spec: &DeploymentSpec) -> (i32, i32) {
    if is_recreate(spec) {
        return (0, replicas(spec));
    }
    let rolling = spec.strategy.as_ref().and_then(|s| s.rolling_update.clone()).unwrap_or_default();
    let quarter = || IntOrString::String("25%".to_owned());
    let surge = rolling.max_surge.unwrap_or_else(quarter);
    let unavailable = rolling.max_unavailable.unwrap_or_else(quarter);
    // A value that is no percentage cannot be stored; should one turn up, one Pod at a time is the safe reading.
    let (surge, unavailable) =
        intstr::surge_and_unavailable(&surge, &unavailable, replicas(spec)).unwrap_or((1, 0));
    (surge.max(0), unavailable.clamp(0, replicas(spec)))
}

/// The fewest Pods that must be available.
pub(super) fn min_available(spec: &DeploymentSpec) -> i32 {
    replicas(spec) - bounds(spec).1
}

/// What a scaled ReplicaSet notes of its Deployment's size, so that a later change of it is recognised.
pub(super) fn size_annotations(spec: &DeploymentSpec) -> BTreeMap<String, String> {
    let (surge, _) = bounds(spec);
    BTreeMap::from([
        (DESIRED_REPLICAS.to_owned(), replicas(spec).to_string()),
        (MAX_REPLICAS.to_owned(), replicas(spec).saturating_add(surge).to_string()),
    ])
}

/// Whether the Deployment's own size has changed since its ReplicaSets were scaled.
pub(super) fn is_scaling(seen: &Seen<'_>) -> bool {
    let wanted = replicas(&spec_of(seen.deployment));
    seen.replicasets
        .iter()
        .filter(|rs| wants(rs) > 0)
        .any(|rs| noted(rs, DESIRED_REPLICAS).is_some_and(|noted| noted != wanted))
}

/// Active ReplicaSets whose size stays but that must note the Deployment's new one: scaling is over when all have.
pub(super) fn resized(seen: &Seen<'_>, plan: &Plan) -> Vec<(String, BTreeMap<String, String>)> {
    let stays =
        |rs: &&Arc<ReplicaSet>| wants(rs) > 0 && !plan.scale.iter().any(|(name, _)| *name == name_of(rs));
    let stale = |rs: &&Arc<ReplicaSet>| {
        let have = rs.metadata.annotations.as_ref();
        plan.size.iter().any(|(name, value)| have.and_then(|a| a.get(name)) != Some(value))
    };
    seen.replicasets.iter().filter(stays).filter(stale).map(|rs| (name_of(rs), plan.size.clone())).collect()
}

fn noted(rs: &ReplicaSet, name: &str) -> Option<i32> {
    rs.metadata.annotations.as_ref()?.get(name)?.parse().ok()
}

/// Replicas of the new ReplicaSet at its birth.
pub(super) fn first_size(seen: &Seen<'_>) -> i32 {
    let spec = spec_of(seen.deployment);
    if is_recreate(&spec) {
        return replicas(&spec);
    }
    grown(&spec, 0, total(seen))
}

fn total(seen: &Seen<'_>) -> i32 {
    seen.replicasets.iter().map(|rs| wants(rs)).sum()
}

/// The new ReplicaSet's next size when it has `have` and all together have `total`.
fn grown(spec: &DeploymentSpec, have: i32, total: i32) -> i32 {
    let (surge, _) = bounds(spec);
    let room = replicas(spec).saturating_add(surge) - total;
    have + room.clamp(0, (replicas(spec) - have).max(0))
}

/// One step of a rolling update: the new ReplicaSet grows as far as maxSurge allows, then the old ones shrink as
/// far as maxUnavailable allows, first by what is not available anyway.
pub(super) fn roll(seen: &Seen<'_>) -> Steps {
    let spec = spec_of(seen.deployment);
    let Some(new) = seen.new_replicaset() else { return Vec::new() };
    let have = wants(new);
    let next = if have > replicas(&spec) { replicas(&spec) } else { grown(&spec, have, total(seen)) };
    if next != have {
        return vec![(name_of(new), next)];
    }
    shrink_old(seen, &spec, new)
}

fn shrink_old(seen: &Seen<'_>, spec: &DeploymentSpec, new: &Arc<ReplicaSet>) -> Steps {
    let old: Vec<_> = seen.old_replicasets().into_iter().filter(|rs| wants(rs) > 0).collect();
    let min_available = min_available(spec);
    let new_unavailable = (wants(new) - available(new)).max(0);
    let mut may_go = total(seen) - min_available - new_unavailable;
    let mut sizes: Vec<(String, i32, i32)> =
        old.iter().map(|rs| (name_of(rs), wants(rs), available(rs))).collect();
    // What is not available costs nothing.
    let mut gone = 0;
    for (_, size, ready) in &mut sizes {
        let step = (*size - *ready).clamp(0, may_go.max(0));
        *size -= step;
        may_go -= step;
        gone += step;
    }
    // What is available goes only above the minimum.
    let ready_now: i32 = seen.replicasets.iter().map(|rs| available(rs)).sum();
    let mut above = (ready_now - min_available).min(total(seen) - gone - min_available - new_unavailable);
    for (_, size, _) in &mut sizes {
        let step = (*size).clamp(0, above.max(0));
        *size -= step;
        above -= step;
    }
    let before: Vec<_> = old.iter().map(|rs| wants(rs)).collect();
    sizes
        .into_iter()
        .zip(before)
        .filter(|((_, size, _), before)| size != before)
        .map(|((name, size, _), _)| (name, size))
        .collect()
}

/// `Recreate`: all old ones to zero; the new one to its size when no old Pod is left.
pub(super) fn recreate(seen: &Seen<'_>) -> Steps {
    let wanted = replicas(&spec_of(seen.deployment));
    let old: Steps =
        seen.old_replicasets().into_iter().filter(|rs| wants(rs) > 0).map(|rs| (name_of(rs), 0)).collect();
    if !old.is_empty() || seen.old_pods_left {
        return old;
    }
    seen.new_replicaset()
        .filter(|rs| wants(rs) != wanted)
        .map(|rs| vec![(name_of(rs), wanted)])
        .unwrap_or_default()
}

/// Spreads a changed size over the ReplicaSets in proportion to theirs; the largest takes what rounding leaves.
pub(super) fn proportional(seen: &Seen<'_>) -> Steps {
    let spec = spec_of(seen.deployment);
    let wanted = replicas(&spec);
    let new = seen.new_replicaset();
    let active: Vec<_> = seen.replicasets.iter().filter(|rs| wants(rs) > 0).collect();
    let only = match active.as_slice() {
        [] => new.or_else(|| seen.replicasets.last()),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(rs) = only {
        return if wants(rs) == wanted { Vec::new() } else { vec![(name_of(rs), wanted)] };
    }
    // The new one is whole: the rest are on their way out.
    if let Some(new) = new.filter(|rs| wants(rs) == wanted && available(rs) == wanted) {
        return active
            .iter()
            .filter(|rs| rs.metadata.uid != new.metadata.uid)
            .map(|rs| (name_of(rs), 0))
            .collect();
    }
    let (surge, _) = bounds(&spec);
    let allowed = if wanted > 0 { wanted.saturating_add(surge) } else { 0 };
    let to_add = allowed - total(seen);
    if to_add == 0 {
        return Vec::new();
    }
    share(active, allowed, to_add)
}

fn share(mut active: Vec<&Arc<ReplicaSet>>, allowed: i32, to_add: i32) -> Steps {
    // Growing: larger ones first, newest first among equals. Shrinking: larger ones first, oldest first among equals.
    if to_add > 0 {
        active.reverse();
    }
    active.sort_by_key(|rs| std::cmp::Reverse(wants(rs)));
    let mut added = 0;
    let mut sizes: Vec<(String, i32, i32)> = Vec::new();
    for rs in &active {
        let have = wants(rs);
        let base = noted(rs, MAX_REPLICAS)
            .filter(|n| *n > 0)
            .unwrap_or_else(|| active.iter().map(|r| wants(r)).sum());
        let exact = f64::from(have) * f64::from(allowed) / f64::from(base.max(1));
        #[expect(clippy::cast_possible_truncation, reason = "replica counts fit 32 bits")]
        let step = (exact.round() as i32) - have;
        let left = to_add - added;
        let step = if to_add > 0 { step.clamp(0, left) } else { step.clamp(left, 0) };
        added += step;
        sizes.push((name_of(rs), have, (have + step).max(0)));
    }
    if let Some(first) = sizes.first_mut() {
        first.2 = (first.2 + to_add - added).max(0);
    }
    sizes.into_iter().filter(|(_, have, next)| have != next).map(|(name, _, next)| (name, next)).collect()
}
