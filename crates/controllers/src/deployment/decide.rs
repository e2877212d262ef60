//! From a Deployment and its ReplicaSets to a plan: pure.
//!
//! <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/>

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hitless_base::Timestamp;
use hitless_client::Cache;
use hitless_types::{meta, pod as read, selector, well_known};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec},
        core::v1::{Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use sha2::{Digest, Sha256};

use super::{conditions, rolling};
use crate::owner;

/// Annotation of a ReplicaSet: how many replicas its Deployment wanted when it was last scaled.
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// Annotation of a ReplicaSet: its Deployment's replicas and surge at that time.
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Annotation that kubectl keeps for itself and that is not handed down.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A Deployment and the ReplicaSets that it controls.
pub struct Seen<'a> {
    pub(super) deployment: &'a Deployment,
    /// Oldest first.
    pub(super) replicasets: Vec<Arc<ReplicaSet>>,
    /// ReplicaSets without a controller that the Deployment's selector selects.
    pub(super) orphans: Vec<Arc<ReplicaSet>>,
    /// Whether any Pod of an old ReplicaSet is still there, terminating ones too.
    pub(super) old_pods_left: bool,
}

impl<'a> Seen<'a> {
    /// Picks out what belongs to the Deployment.
    #[must_use]
    pub fn new(deployment: &'a Deployment, replicasets: &[Arc<ReplicaSet>], pods: &Cache<Pod>) -> Self {
        let uid = deployment.metadata.uid.as_deref();
        let mut mine: Vec<_> = replicasets
            .iter()
            .filter(|rs| rs.metadata.namespace == deployment.metadata.namespace)
            .filter(|rs| meta::controller_of(&rs.metadata).map(|o| o.uid.as_str()) == uid)
            .cloned()
            .collect();
        mine.sort_by_key(|rs| {
            (rs.metadata.creation_timestamp.clone().map(|t| t.0), rs.metadata.name.clone())
        });
        let orphans = orphans(deployment, replicasets);
        let mut seen = Self { deployment, replicasets: mine, orphans, old_pods_left: false };
        let recreate = spec_of(deployment).strategy.and_then(|s| s.type_).as_deref() == Some("Recreate");
        if recreate {
            let new_uid = seen.new_replicaset().and_then(|rs| rs.metadata.uid.clone());
            let old: Vec<_> = seen
                .replicasets
                .iter()
                .filter_map(|rs| rs.metadata.uid.clone())
                .filter(|u| Some(u) != new_uid.as_ref())
                .collect();
            seen.old_pods_left = pods.list().iter().any(|pod| {
                !read::is_finished(pod)
                    && meta::controller_of(&pod.metadata).is_some_and(|o| old.contains(&o.uid))
            });
        }
        seen
    }

    /// The ReplicaSet whose template is the Deployment's, the oldest if there are several.
    pub(super) fn new_replicaset(&self) -> Option<&Arc<ReplicaSet>> {
        let wanted = plain_template(&spec_of(self.deployment).template);
        self.replicasets.iter().find(|rs| {
            rs.spec.as_ref().and_then(|s| s.template.as_ref()).map(plain_template).as_ref() == Some(&wanted)
        })
    }

    /// All others, oldest first.
    pub(super) fn old_replicasets(&self) -> Vec<&Arc<ReplicaSet>> {
        let new = self.new_replicaset().and_then(|rs| rs.metadata.uid.clone());
        self.replicasets.iter().filter(|rs| rs.metadata.uid != new).collect()
    }
}

/// ReplicaSets of an earlier Deployment that was deleted with `--cascade=orphan`, say.
fn orphans(deployment: &Deployment, replicasets: &[Arc<ReplicaSet>]) -> Vec<Arc<ReplicaSet>> {
    let Ok(wanted) = selector::from_label_selector(&spec_of(deployment).selector) else { return Vec::new() };
    let none = BTreeMap::new();
    replicasets
        .iter()
        .filter(|rs| rs.metadata.namespace == deployment.metadata.namespace)
        .filter(|rs| rs.metadata.deletion_timestamp.is_none() && meta::controller_of(&rs.metadata).is_none())
        .filter(|rs| wanted.matches(rs.metadata.labels.as_ref().unwrap_or(&none)))
        .cloned()
        .collect()
}

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// ReplicaSets to take over. All else waits until they are the Deployment's own.
    pub adopt: Vec<String>,
    /// The ReplicaSet to make for the template, if there is none.
    pub create: Option<ReplicaSet>,
    /// ReplicaSets to scale: name and replicas.
    pub scale: Vec<(String, i32)>,
    /// ReplicaSets to annotate (beyond those that are scaled): name and annotations.
    pub annotate: Vec<(String, BTreeMap<String, String>)>,
    /// Annotations that every scaled ReplicaSet gets.
    pub size: BTreeMap<String, String>,
    /// ReplicaSets beyond the revision history to delete.
    pub delete: Vec<String>,
    /// Revision to show on the Deployment.
    pub revision: Option<String>,
    /// Status to publish.
    pub status: DeploymentStatus,
    /// When to look again although nothing changes: the progress deadline.
    pub look_again: Option<Duration>,
}

pub(super) fn spec_of(deployment: &Deployment) -> k8s_openapi::api::apps::v1::DeploymentSpec {
    deployment.spec.clone().unwrap_or_default()
}

/// Replicas that a ReplicaSet asks for.
pub(super) fn wants(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// Replicas of a ReplicaSet that are available.
pub(super) fn available(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

/// The plan for what was seen.
#[must_use]
pub fn decide(seen: &Seen<'_>, now: Timestamp) -> Plan {
    let deployment = seen.deployment;
    let spec = spec_of(deployment);
    if deployment.metadata.deletion_timestamp.is_none() && !seen.orphans.is_empty() {
        let adopt = seen.orphans.iter().filter_map(|rs| rs.metadata.name.clone()).collect();
        let status = deployment.status.clone().unwrap_or_default();
        return Plan { adopt, status, ..Plan::default() };
    }
    let mut plan = Plan { size: rolling::size_annotations(&spec), ..Plan::default() };
    if deployment.metadata.deletion_timestamp.is_none() {
        if spec.paused.unwrap_or(false) {
            plan.scale = rolling::proportional(seen);
            plan.annotate = rolling::resized(seen, &plan);
        } else if rolling::is_scaling(seen) {
            plan.scale = rolling::proportional(seen);
            plan.annotate = rolling::resized(seen, &plan);
            // A new template's ReplicaSet is made when the present ones have their new sizes, as in Kubernetes: made now, it would
            // fill the room that they grow into.
            if seen.new_replicaset().is_some() {
                revise(seen, &mut plan);
            }
        } else {
            revise(seen, &mut plan);
            if plan.create.is_none() {
                plan.scale = if spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate") {
                    rolling::recreate(seen)
                } else {
                    rolling::roll(seen)
                };
            } else if spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate") {
                // The old Pods go first; the new ReplicaSet is made when none is left.
                plan.scale = rolling::recreate(seen);
                if seen.old_pods_left || !plan.scale.is_empty() {
                    plan.create = None;
                }
            }
        }
        plan.delete = history_to_delete(seen);
    }
    let (status, look_again) = conditions::status(seen, &plan, now);
    plan.status = status;
    plan.look_again = look_again;
    plan
}

/// Makes the template's ReplicaSet, or brings its revision up to date.
fn revise(seen: &Seen<'_>, plan: &mut Plan) {
    let highest_old = seen.old_replicasets().iter().map(|rs| revision_of(&rs.metadata)).max().unwrap_or(0);
    match seen.new_replicaset() {
        Some(rs) => {
            let mine = revision_of(&rs.metadata);
            let revision = if mine > highest_old { mine } else { highest_old + 1 };
            let mut wanted = handed_down(seen.deployment);
            wanted.insert(well_known::ANNOTATION_DEPLOYMENT_REVISION.to_owned(), revision.to_string());
            let have = rs.metadata.annotations.clone().unwrap_or_default();
            if wanted.iter().any(|(k, v)| have.get(k) != Some(v)) {
                plan.annotate.push((rs.metadata.name.clone().unwrap_or_default(), wanted));
            }
            plan.revision = Some(revision.to_string());
        }
        None => {
            let revision = highest_old + 1;
            plan.create = Some(new_replicaset(seen, revision, &plan.size));
            plan.revision = Some(revision.to_string());
        }
    }
}

/// A ReplicaSet for the Deployment's template.
fn new_replicaset(seen: &Seen<'_>, revision: i64, size: &BTreeMap<String, String>) -> ReplicaSet {
    let deployment = seen.deployment;
    let spec = spec_of(deployment);
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(well_known::LABEL_POD_TEMPLATE_HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    selector
        .match_labels
        .get_or_insert_default()
        .insert(well_known::LABEL_POD_TEMPLATE_HASH.to_owned(), hash.clone());
    let mut annotations = handed_down(deployment);
    annotations.extend(size.clone());
    annotations.insert(well_known::ANNOTATION_DEPLOYMENT_REVISION.to_owned(), revision.to_string());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default())),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![owner::controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(rolling::first_size(seen)),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// Annotations of the Deployment that its ReplicaSets carry too.
fn handed_down(deployment: &Deployment) -> BTreeMap<String, String> {
    let own = [LAST_APPLIED, well_known::ANNOTATION_DEPLOYMENT_REVISION, DESIRED_REPLICAS, MAX_REPLICAS];
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| !own.contains(&name.as_str()));
    annotations
}

/// The revision that a ReplicaSet carries; 0 for none.
pub(super) fn revision_of(meta: &ObjectMeta) -> i64 {
    meta::annotation(meta, well_known::ANNOTATION_DEPLOYMENT_REVISION)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// Old ReplicaSets without Pods beyond `revisionHistoryLimit`, the oldest revisions first.
fn history_to_delete(seen: &Seen<'_>) -> Vec<String> {
    let limit = usize::try_from(spec_of(seen.deployment).revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let idle = |rs: &&&Arc<ReplicaSet>| {
        wants(rs) == 0
            && rs.metadata.deletion_timestamp.is_none()
            && rs
                .status
                .as_ref()
                .is_some_and(|s| s.replicas == 0 && s.observed_generation == rs.metadata.generation)
    };
    let old = seen.old_replicasets();
    let mut idle: Vec<_> = old.iter().filter(idle).collect();
    idle.sort_by_key(|rs| revision_of(&rs.metadata));
    let surplus = idle.len().saturating_sub(limit);
    idle.into_iter().take(surplus).filter_map(|rs| rs.metadata.name.clone()).collect()
}

/// A template as it is compared: without the hash label that the controller itself adds.
fn plain_template(template: &PodTemplateSpec) -> serde_json::Value {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(well_known::LABEL_POD_TEMPLATE_HASH);
    }
    serde_json::to_value(&template).unwrap_or_default()
}

/// Ten characters that name a template: from the same safe alphabet as Kubernetes' hashes, so that no word arises.
fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut digest = Sha256::new();
    digest.update(plain_template(template).to_string());
    if collisions > 0 {
        digest.update(collisions.to_be_bytes());
    }
    digest
        .finalize()
        .iter()
        .take(10)
        .filter_map(|byte| ALPHABET.get(usize::from(*byte) % ALPHABET.len()))
        .map(|byte| char::from(*byte))
        .collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
