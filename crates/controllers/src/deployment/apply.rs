//! Carries a Deployment's plan out through the API.

use hitless_client::{Outcome, Recorder, events::Note};
use hitless_types::{meta, well_known};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::Plan;
use crate::{Context, fence::Fence, owner};

#[derive(Clone)]
pub(super) struct Apply {
    context: Context,
    recorder: Recorder,
    pub(super) fence: Fence,
}

impl Apply {
    pub(super) fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            recorder: context.recorder("deployment-controller"),
            fence: Fence::default(),
        }
    }

    pub(super) async fn carry_out(&self, key: &str, deployment: &Deployment, plan: Plan) -> Outcome {
        match self.try_all(key, deployment, &plan).await {
            Ok(()) => plan.look_again.map_or(Outcome::Done, Outcome::Again),
            Err(error) if hitless_client::is_not_found(&error) => Outcome::Done,
            Err(error) => {
                tracing::debug!(deployment = key, error = %hitless_base::chain(&error), "will try again");
                Outcome::Retry
            }
        }
    }

    async fn try_all(&self, key: &str, deployment: &Deployment, plan: &Plan) -> Result<(), kube::Error> {
        let (namespace, name) = meta::split_key(key);
        let replicasets: Api<ReplicaSet> = Api::namespaced(self.context.client.clone(), namespace);
        let deployments: Api<Deployment> = Api::namespaced(self.context.client.clone(), namespace);
        if !plan.adopt.is_empty() {
            self.adopt(key, deployment, &replicasets, &deployments, &plan.adopt).await?;
        }
        if let Some(new) = &plan.create {
            self.create(key, deployment, &replicasets, &deployments, new).await?;
        }
        for (rs, replicas) in &plan.scale {
            let patch = json!({"metadata": {"annotations": plan.size}, "spec": {"replicas": replicas}});
            let before = replicasets.patch(rs, &PatchParams::default(), &Patch::Merge(patch)).await?;
            self.fence.wrote(key, meta::revision(&before.metadata));
            let message = format!("Scaled replica set {rs} to {replicas}");
            self.recorder
                .record(deployment, Note { reason: "ScalingReplicaSet", message, ..Note::default() });
        }
        for (rs, annotations) in &plan.annotate {
            let patch = json!({"metadata": {"annotations": annotations}});
            let after = replicasets.patch(rs, &PatchParams::default(), &Patch::Merge(patch)).await?;
            self.fence.wrote(key, meta::revision(&after.metadata));
        }
        for rs in &plan.delete {
            match replicasets.delete(rs, &DeleteParams::background()).await {
                Err(error) if !hitless_client::is_not_found(&error) => return Err(error),
                _ => {}
            }
        }
        if let Some(revision) = &plan.revision
            && meta::annotation(&deployment.metadata, well_known::ANNOTATION_DEPLOYMENT_REVISION)
                != Some(revision)
        {
            let patch =
                json!({"metadata": {"annotations": {well_known::ANNOTATION_DEPLOYMENT_REVISION: revision}}});
            deployments.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        if deployment.status.as_ref() != Some(&plan.status) {
            // The conditions of a Deployment are all this controller's, so they are replaced together.
            let patch = json!({"status": plan.status});
            deployments.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Ok(())
    }

    /// Takes ReplicaSets over. A Deployment that is being deleted lets go of them after it got its deletion timestamp; so one that
    /// the API shows without it now is not the one that let go, whatever the cache shows.
    async fn adopt(
        &self,
        key: &str,
        deployment: &Deployment,
        replicasets: &Api<ReplicaSet>,
        deployments: &Api<Deployment>,
        orphans: &[String],
    ) -> Result<(), kube::Error> {
        let (_, name) = meta::split_key(key);
        let now = deployments.get(name).await?.metadata;
        if now.uid != deployment.metadata.uid || now.deletion_timestamp.is_some() {
            return Ok(());
        }
        let patch = json!({"metadata": {"ownerReferences": [owner::controller_reference(deployment)]}});
        for rs in orphans {
            let adopted = replicasets.patch(rs, &PatchParams::default(), &Patch::Strategic(&patch)).await?;
            self.fence.wrote(key, meta::revision(&adopted.metadata));
        }
        Ok(())
    }

    /// Makes the new ReplicaSet. A name that another template has taken counts as a collision, and the next hash differs.
    async fn create(
        &self,
        key: &str,
        deployment: &Deployment,
        replicasets: &Api<ReplicaSet>,
        deployments: &Api<Deployment>,
        new: &ReplicaSet,
    ) -> Result<(), kube::Error> {
        match replicasets.create(&PostParams::default(), new).await {
            Ok(made) => {
                self.fence.wrote(key, meta::revision(&made.metadata));
                let replicas = made.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
                let message = format!(
                    "Scaled up replica set {} from 0 to {replicas}",
                    made.metadata.name.unwrap_or_default()
                );
                self.recorder
                    .record(deployment, Note { reason: "ScalingReplicaSet", message, ..Note::default() });
                Ok(())
            }
            Err(error) if hitless_client::is_conflict(&error) => {
                let name = new.metadata.name.as_deref().unwrap_or_default();
                let there = replicasets.get(name).await?;
                let mine =
                    meta::controller_of(&there.metadata).map(|o| &o.uid) == deployment.metadata.uid.as_ref();
                if mine {
                    // Made by an earlier round that the cache does not show yet.
                    self.fence.wrote(key, meta::revision(&there.metadata));
                    return Ok(());
                }
                let collisions = deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0) + 1;
                let patch = json!({"status": {"collisionCount": collisions}});
                let name = deployment.metadata.name.as_deref().unwrap_or_default();
                deployments.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }
}
