//! Writes a plan through the API: bindings, the condition `PodScheduled`, and Events.

use std::time::Duration;

use hitless_base::Timestamp;
use hitless_client::{Recorder, events::Note};
use hitless_types::{
    meta, pod as reading,
    well_known::{ANNOTATION_CREATED_AT, reason},
};
use k8s_openapi::{
    api::core::v1::{Binding, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::snapshot::PodView;

/// How long the API may take to answer one write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a write did not take place, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API refused it, or could not be reached.
    #[error("the API did not take it")]
    Api(#[from] kube::Error),
    /// The API did not answer in time. It may have taken the write.
    #[error("the API did not answer within {} s", WRITE_TIMEOUT.as_secs())]
    Timeout,
}

impl WriteError {
    /// The Pod has gone, has another identity, or has a node already: nothing is left to do.
    #[must_use]
    pub fn is_moot(&self) -> bool {
        matches!(self, Self::Api(error) if hitless_client::is_not_found(error) || hitless_client::is_conflict(error))
    }
}

async fn within<T>(write: impl Future<Output = Result<T, kube::Error>>) -> Result<T, WriteError> {
    match tokio::time::timeout(WRITE_TIMEOUT, write).await {
        Ok(done) => Ok(done?),
        Err(_elapsed) => Err(WriteError::Timeout),
    }
}

fn api(client: &Client, pod: &PodView) -> Api<Pod> {
    Api::namespaced(client.clone(), &pod.namespace)
}

fn name(pod: &PodView) -> &str {
    pod.object.metadata.name.as_deref().unwrap_or_default()
}

/// Binds the Pod to the node.
pub async fn bind(client: &Client, pod: &PodView, node: &str) -> Result<(), WriteError> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: pod.object.metadata.name.clone(),
            namespace: pod.object.metadata.namespace.clone(),
            // Of this Pod, and not of another that has taken its name meanwhile.
            uid: pod.object.metadata.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let (api, options) = (api(client, pod), PostParams::default());
    let posted = api.create_subresource::<_, serde_json::Value>("binding", name(pod), &options, &binding);
    within(posted).await.map(drop)
}

/// Says that the Pod was given a node.
pub fn tell_scheduled(events: &Recorder, pod: &PodView, node: &str, at: Timestamp) {
    let message = format!("Successfully assigned {} to {node}", pod.key);
    // Carried along so that the Pod's life can be told when it has gone.
    let created = ANNOTATION_CREATED_AT;
    let annotations = meta::annotation(&pod.object.metadata, created)
        .map(|moment| (created.to_owned(), moment.to_owned()))
        .into_iter()
        .collect();
    events.record(
        &*pod.object,
        Note { reason: reason::SCHEDULED, message, at: Some(at), annotations, ..Note::default() },
    );
}

/// Says why the Pod was given none.
pub fn tell_failed(events: &Recorder, pod: &PodView, message: &str, at: Timestamp) {
    let message = message.to_owned();
    let note =
        Note { reason: reason::FAILED_SCHEDULING, message, warning: true, at: Some(at), ..Note::default() };
    events.record(&*pod.object, note);
}

/// The patch that makes the Pod's condition say `message`; `None` if it says so already.
#[must_use]
pub fn condition_patch(pod: &Pod, message: &str, now: Timestamp) -> Option<serde_json::Value> {
    let there = reading::condition(pod, "PodScheduled").filter(|condition| condition.status == "False");
    let says =
        |reason: Option<&str>, text: Option<&str>| reason == Some("Unschedulable") && text == Some(message);
    if there.is_some_and(|condition| says(condition.reason.as_deref(), condition.message.as_deref())) {
        return None;
    }
    let since = there.and_then(|condition| condition.last_transition_time.clone()).unwrap_or(Time(now));
    Some(json!({
        // A Pod that has taken the name meanwhile is not meant.
        "metadata": {"uid": pod.metadata.uid},
        "status": {"conditions": [{
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": since,
        }]},
    }))
}

/// Writes a patch of [`condition_patch`].
pub async fn patch_condition(
    client: &Client,
    pod: &PodView,
    patch: &serde_json::Value,
) -> Result<(), WriteError> {
    let (api, options, patch) = (api(client, pod), PatchParams::default(), Patch::Strategic(patch));
    within(api.patch_status(name(pod), &options, &patch)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(conditions: serde_json::Value) -> Pod {
        let object = json!({"metadata": {"name": "p", "uid": "u"}, "status": {"conditions": conditions}});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn the_condition_is_written_once_and_keeps_the_time_of_its_transition() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let patch = condition_patch(&pod(json!([])), "full", now).unwrap();
        let [condition] = &patch["status"]["conditions"].as_array().unwrap()[..] else { panic!("{patch}") };
        assert_eq!(condition["lastTransitionTime"], "2026-01-02T03:04:05Z");
        assert_eq!(condition["message"], "full");
        let written = pod(json!([condition]));
        assert_eq!(condition_patch(&written, "full", now), None);
        let later: Timestamp = "2026-01-02T04:00:00Z".parse().unwrap();
        let other = condition_patch(&written, "other", later).unwrap();
        assert_eq!(other["status"]["conditions"][0]["lastTransitionTime"], "2026-01-02T03:04:05Z");
    }
}
