//! Writes the loop's conditions and Events through the API, and asks it for the consumers.

use std::{sync::Arc, time::Duration};

use hitless_base::{Backoff, Revision, Timestamp};
use hitless_client::{Recorder, events::Note};
use hitless_termination::ledger::Lapsed;
use hitless_types::{EndpointConsumer, meta};
use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use super::decide::Action;
use crate::Context;

/// Writes under way at the same time.
const WRITES_MAX: usize = 64;
/// Tries of one write. Then the Pod is decided on anew.
const TRIES_MAX: u32 = 8;
/// Longest time for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after the API said that a Pod is gone.
const GONE_PAUSE: Duration = Duration::from_millis(250);

/// Pause after a list that did not come.
const LIST_PAUSE: Duration = Duration::from_millis(200);

/// What has come back from the API.
pub(super) enum Answer {
    /// A write has ended.
    Written { key: String, uid: Arc<str>, type_: &'static str, revision: Option<Revision> },
    /// All consumers, from the list of this number, asked for at `asked_at`. `None`: the API did not answer.
    Consumers { list: Option<Vec<EndpointConsumer>>, number: u64, asked_at: Timestamp },
}

#[derive(Clone)]
pub(super) struct Apply {
    context: Context,
    recorder: Recorder,
    writes: Arc<Semaphore>,
    answers: mpsc::UnboundedSender<Answer>,
}

impl Apply {
    /// Answers go to `answers`: at most one for each Pod and condition, and one list, are under way, so the channel is bounded by them.
    pub(super) fn new(context: &Context, answers: mpsc::UnboundedSender<Answer>) -> Self {
        let recorder = context.recorder("withdrawal-controller");
        Self { context: context.clone(), recorder, writes: Arc::new(Semaphore::new(WRITES_MAX)), answers }
    }

    /// Writes a condition, as a task of its own: no Pod waits for another one's write.
    pub(super) fn write(&self, action: Action) {
        let this = self.clone();
        self.context.tasks.spawn(async move {
            let revision = tokio::select! {
                () = this.context.cancel.cancelled() => return,
                revision = this.write_now(&action) => revision,
            };
            let Action { key, uid, type_, .. } = action;
            // Nobody listens any more only when the controller ends.
            let _ended = this.answers.send(Answer::Written { key, uid, type_, revision });
        });
    }

    /// The revision of the write; `None` if the Pod is gone or the write did not succeed.
    async fn write_now(&self, action: &Action) -> Option<Revision> {
        let _permit = self.writes.acquire().await.ok()?;
        let (namespace, name) = meta::split_key(&action.key);
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), namespace);
        tracing::debug!(pod = action.key, condition = action.type_, status = action.status, "writes");
        let (patch, params) = (Patch::Strategic(patch(action)), PatchParams::default());
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
        for _ in 0..TRIES_MAX {
            match tokio::time::timeout(CALL_TIMEOUT, api.patch_status(name, &params, &patch)).await {
                Ok(Ok(pod)) => {
                    self.note(action, &pod);
                    return Some(meta::revision(&pod.metadata));
                }
                Ok(Err(error)) if hitless_client::is_not_found(&error) => return self.gone().await,
                Ok(Err(error)) => {
                    tracing::debug!(pod = action.key, error = %hitless_base::chain(&error), "will write again");
                }
                Err(_elapsed) => tracing::debug!(pod = action.key, "no answer, will write again"),
            }
            self.context.options.clock.sleep(backoff.step_with_jitter()).await;
        }
        None
    }

    /// The Pod is gone, and the watch will tell in a moment: no need to decide anew before.
    async fn gone(&self) -> Option<Revision> {
        self.context.options.clock.sleep(GONE_PAUSE).await;
        None
    }

    fn note(&self, action: &Action, pod: &Pod) {
        if let Some(note) = action.note.clone() {
            self.recorder.record(pod, note);
        }
    }

    /// Asks for all consumers, as a task of its own.
    pub(super) fn list_consumers(&self, number: u64) {
        let this = self.clone();
        let asked_at = self.context.options.clock.now();
        self.context.tasks.spawn(async move {
            let call = tokio::time::timeout(CALL_TIMEOUT, list(this.context.client.clone()));
            let list = tokio::select! {
                () = this.context.cancel.cancelled() => return,
                list = call => list,
            };
            let list = match list {
                Ok(Ok(list)) => Some(list),
                failed => {
                    if let Ok(Err(error)) = failed {
                        tracing::debug!(error = %hitless_base::chain(&error), "consumers not listed");
                    }
                    this.context.options.clock.sleep(LIST_PAUSE).await;
                    None
                }
            };
            let _ended = this.answers.send(Answer::Consumers { list, number, asked_at });
        });
    }

    /// Tells of a consumer that is silent for longer than its lease, once, and deletes what is long dead.
    pub(super) fn lapsed(&self, lapsed: &Lapsed, consumer: &EndpointConsumer) {
        if lapsed.newly {
            let seconds = lapsed.silent_for_ms / 1000;
            let message = format!(
                "nothing was heard for {seconds} s, longer than the lease: no Pod waits for this consumer until it \
                 speaks again (it held revision {})",
                lapsed.holds
            );
            let about = ObjectReference {
                api_version: Some("hitless.dev/v1alpha1".to_owned()),
                kind: Some("EndpointConsumer".to_owned()),
                name: consumer.metadata.name.clone(),
                uid: consumer.metadata.uid.clone(),
                ..ObjectReference::default()
            };
            self.recorder.record_about(
                about,
                Note { reason: "LeaseExpired", message, warning: true, ..Note::default() },
            );
        }
        if lapsed.forgettable {
            let (api, meta) =
                (Api::<EndpointConsumer>::all(self.context.client.clone()), consumer.metadata.clone());
            let cancel = self.context.cancel.clone();
            self.context.tasks.spawn(async move {
                // Exactly what was silent: one that has registered again meanwhile stays.
                let exact = Preconditions { uid: meta.uid, resource_version: meta.resource_version };
                let params = DeleteParams { preconditions: Some(exact), ..DeleteParams::default() };
                let name = meta.name.unwrap_or_default();
                tokio::select! {
                    () = cancel.cancelled() => {}
                    deleted = api.delete(&name, &params) => {
                        if let Err(error) = deleted {
                            tracing::debug!(consumer = name, error = %hitless_base::chain(&error), "not deleted");
                        }
                    }
                }
            });
        }
    }
}

async fn list(client: Client) -> Result<Vec<EndpointConsumer>, kube::Error> {
    Ok(Api::all(client).list(&ListParams::default()).await?.items)
}

/// Only the loop's own condition, merged by its type; the uid makes it miss another Pod of the same name.
fn patch(action: &Action) -> Value {
    json!({
        "metadata": {"uid": &*action.uid},
        "status": {"conditions": [{
            "type": action.type_,
            "status": if action.status { "True" } else { "False" },
            "reason": action.reason,
            "message": action.message,
            "lastTransitionTime": Time(action.transition),
        }]}
    })
}
