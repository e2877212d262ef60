//! Carries a ReplicaSet's plan out through the API.

use futures::future::join_all;
use hitless_base::{Revision, Timestamp};
use hitless_client::{Outcome, Recorder, events::Note};
use hitless_types::meta;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::Plan;
use crate::{Context, fence::Fence, owner};

/// Calls under way at the same time for one ReplicaSet.
const CONCURRENT_CALLS: usize = 16;

/// What is done to one Pod.
#[derive(Clone, Copy)]
enum Step {
    Adopt,
    Release,
    Delete,
}

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
            recorder: context.recorder("replicaset-controller"),
            fence: Fence::default(),
        }
    }

    pub(super) async fn carry_out(&self, key: &str, rs: &ReplicaSet, plan: Plan) -> Outcome {
        let (namespace, _) = meta::split_key(key);
        let pods: Api<Pod> = Api::namespaced(self.context.client.clone(), namespace);
        let mut failure = None;
        for result in [
            self.adopt(&pods, &plan.adopt, rs, key).await,
            self.each(Step::Release, &pods, &plan.release, rs, key).await,
            self.each(Step::Delete, &pods, &plan.delete, rs, key).await,
            self.create(&pods, rs, plan.create, key).await,
        ] {
            failure = failure.or(result.err());
        }
        let status_written = self.write_status(rs, &plan, failure.as_ref()).await;
        match (failure, status_written, plan.look_again) {
            (Some(error), _, _) => {
                tracing::debug!(replicaset = key, error = %hitless_base::chain(&error), "will try again");
                Outcome::Retry
            }
            (None, Err(_), _) => Outcome::Retry,
            (None, Ok(()), Some(delay)) => Outcome::Again(delay),
            (None, Ok(()), None) => Outcome::Done,
        }
    }

    /// Takes Pods over. A ReplicaSet that is being deleted lets go of its Pods after it got its deletion timestamp; so one that the
    /// API shows without it now is not the one that let go, whatever the cache shows.
    async fn adopt(
        &self,
        pods: &Api<Pod>,
        orphans: &[String],
        rs: &ReplicaSet,
        key: &str,
    ) -> Result<(), kube::Error> {
        if orphans.is_empty() {
            return Ok(());
        }
        let (namespace, name) = meta::split_key(key);
        let now =
            Api::<ReplicaSet>::namespaced(self.context.client.clone(), namespace).get(name).await?.metadata;
        if now.uid != rs.metadata.uid || now.deletion_timestamp.is_some() {
            return Ok(());
        }
        self.each(Step::Adopt, pods, orphans, rs, key).await
    }

    /// One call for each name, several at a time; gives the first error.
    async fn each(
        &self,
        step: Step,
        api: &Api<Pod>,
        names: &[String],
        rs: &ReplicaSet,
        key: &str,
    ) -> Result<(), kube::Error> {
        let mut first = Ok(());
        for chunk in names.chunks(CONCURRENT_CALLS) {
            for result in join_all(chunk.iter().map(|name| self.call(step, api, name, rs))).await {
                match result {
                    Ok(revision) => self.fence.wrote(key, revision),
                    Err(error) if hitless_client::is_not_found(&error) => {}
                    Err(error) => first = first.and(Err(error)),
                }
            }
        }
        first
    }

    /// Changes one Pod and gives the revision of the change (zero where the Pod is gone at once).
    async fn call(
        &self,
        step: Step,
        api: &Api<Pod>,
        name: &str,
        rs: &ReplicaSet,
    ) -> Result<Revision, kube::Error> {
        let patch = match step {
            Step::Adopt => json!({"metadata": {"ownerReferences": [owner::controller_reference(rs)]}}),
            Step::Release => {
                let uid = rs.metadata.uid.as_deref().unwrap_or_default();
                json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": uid}]}})
            }
            Step::Delete => {
                let answer = api.delete(name, &DeleteParams::background()).await?;
                self.note(rs, "SuccessfulDelete", format!("Deleted pod: {name}"), false);
                return Ok(answer.left().map(|pod| meta::revision(&pod.metadata)).unwrap_or_default());
            }
        };
        let pod = api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
        Ok(meta::revision(&pod.metadata))
    }

    /// Makes `count` Pods: one, two, four ... at a time, so that a template that is refused does not cost many calls.
    async fn create(
        &self,
        api: &Api<Pod>,
        rs: &ReplicaSet,
        count: usize,
        key: &str,
    ) -> Result<(), kube::Error> {
        let (pod, params) = (pod_of(rs), PostParams::default());
        let (mut left, mut batch, mut first) = (count, 1, Ok(()));
        while left > 0 && first.is_ok() {
            let now = left.min(batch);
            for result in join_all((0..now).map(|_| api.create(&params, &pod))).await {
                match result {
                    Ok(pod) => {
                        self.fence.wrote(key, meta::revision(&pod.metadata));
                        let name = pod.metadata.name.unwrap_or_default();
                        self.note(rs, "SuccessfulCreate", format!("Created pod: {name}"), false);
                    }
                    Err(error) => {
                        self.note(rs, "FailedCreate", format!("Error creating: {}", api_words(&error)), true);
                        first = first.and(Err(error));
                    }
                }
            }
            left -= now;
            batch = (batch * 2).min(CONCURRENT_CALLS);
        }
        first
    }

    fn note(&self, rs: &ReplicaSet, reason: &'static str, message: String, warning: bool) {
        self.recorder.record(rs, Note { reason, message, warning, ..Note::default() });
    }

    async fn write_status(
        &self,
        rs: &ReplicaSet,
        plan: &Plan,
        failure: Option<&kube::Error>,
    ) -> Result<(), kube::Error> {
        let mut status = plan.status.clone();
        status.conditions = conditions(rs, failure, self.context.options.clock.now());
        if rs.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut next = rs.clone();
        next.status = Some(status);
        let (namespace, name) = (
            rs.metadata.namespace.as_deref().unwrap_or_default(),
            rs.metadata.name.as_deref().unwrap_or_default(),
        );
        let api: Api<ReplicaSet> = Api::namespaced(self.context.client.clone(), namespace);
        match api.replace_status(name, &PostParams::default(), &next).await {
            Ok(_) => Ok(()),
            Err(error) if hitless_client::is_not_found(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// `ReplicaFailure` while Pods cannot be made or deleted; nothing otherwise.
fn conditions(
    rs: &ReplicaSet,
    failure: Option<&kube::Error>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let error = failure?;
    let old = rs
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_ref())
        .and_then(|all| all.iter().find(|c| c.type_ == "ReplicaFailure"));
    let since = old.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(now));
    Some(vec![ReplicaSetCondition {
        type_: "ReplicaFailure".to_owned(),
        status: "True".to_owned(),
        reason: Some("FailedCreate".to_owned()),
        message: Some(api_words(error)),
        last_transition_time: Some(since),
    }])
}

/// The API server's own words.
fn api_words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => hitless_base::chain(other),
    }
}

/// A Pod of the ReplicaSet's template.
fn pod_of(rs: &ReplicaSet) -> Pod {
    let template = rs.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
    let from = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: rs.metadata.name.as_ref().map(|name| format!("{name}-")),
            namespace: rs.metadata.namespace.clone(),
            labels: from.labels,
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![owner::controller_reference(rs)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}
