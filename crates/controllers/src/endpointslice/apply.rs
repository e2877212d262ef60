//! Carries a Service's plan out through the API.

use futures::future::join_all;
use hitless_base::Revision;
use hitless_client::{Outcome, Recorder, events::Note};
use hitless_types::meta;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api,
    api::{DeleteParams, PostParams, Preconditions},
};

use super::Plan;
use crate::{Context, fence::Fence};

#[derive(Clone)]
pub(super) struct Apply {
    context: Context,
    recorder: Recorder,
    pub(super) fence: Fence,
}

impl Apply {
    pub(super) fn new(context: &Context) -> Self {
        let recorder = context.recorder("endpoint-slice-controller");
        Self { context: context.clone(), recorder, fence: Fence::default() }
    }

    /// Creates and updates first, so that an endpoint that moves is listed twice for a moment rather than not at all.
    pub(super) async fn carry_out(&self, key: &str, service: &Service, plan: Plan) -> Outcome {
        let (namespace, _) = meta::split_key(key);
        let api: Api<EndpointSlice> = Api::namespaced(self.context.client.clone(), namespace);
        let params = PostParams::default();
        let creates = join_all(plan.create.iter().map(|slice| api.create(&params, slice)));
        let updates = join_all(plan.update.iter().map(|slice| {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            api.replace(name, &params, slice)
        }));
        let (created, updated) = futures::join!(creates, updates);
        let mut failure = None;
        for result in created.into_iter().chain(updated) {
            match result {
                Ok(slice) => self.fence.wrote(key, meta::revision(&slice.metadata)),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if failure.is_none() {
            for slice in &plan.delete {
                match delete(&api, slice).await {
                    Ok(revision) => self.fence.wrote(key, revision),
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
        }
        let Some(error) = failure else { return Outcome::Done };
        // A conflict or a slice that is gone means that the cache is behind: its next step brings the key back at once.
        // A namespace that is going (403) takes no new objects, and the Service will go with it.
        let expected = [403, 404, 409].iter().any(|code| hitless_client::is_code(&error, *code));
        if !expected {
            let message =
                format!("Error updating Endpoint Slices for Service {key}: {}", hitless_base::chain(&error));
            self.recorder.record(
                service,
                Note { reason: "FailedToUpdateEndpointSlices", message, warning: true, ..Note::default() },
            );
        }
        Outcome::Retry
    }
}

/// Deletes exactly what was seen; gives the revision after it, as far as the answer tells (zero where it does not).
async fn delete(api: &Api<EndpointSlice>, slice: &EndpointSlice) -> Result<Revision, kube::Error> {
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: slice.metadata.uid.clone(),
            resource_version: slice.metadata.resource_version.clone(),
        }),
        ..DeleteParams::default()
    };
    match api.delete(slice.metadata.name.as_deref().unwrap_or_default(), &params).await {
        Ok(answer) => Ok(answer.left().map(|slice| meta::revision(&slice.metadata)).unwrap_or_default()),
        Err(error) if hitless_client::is_not_found(&error) => Ok(Revision::ZERO),
        Err(error) => Err(error),
    }
}
