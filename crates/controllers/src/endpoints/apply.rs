//! Carries a Service's plan out through the API.

use hitless_client::Outcome;
use hitless_types::meta;
use k8s_openapi::api::core::v1::Endpoints;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};

use super::Plan;
use crate::{Context, fence::Fence};

#[derive(Clone)]
pub(super) struct Apply {
    context: Context,
    pub(super) fence: Fence,
}

impl Apply {
    pub(super) fn new(context: &Context) -> Self {
        Self { context: context.clone(), fence: Fence::default() }
    }

    fn api(&self, key: &str) -> Api<Endpoints> {
        Api::namespaced(self.context.client.clone(), meta::split_key(key).0)
    }

    pub(super) async fn carry_out(&self, key: &str, plan: Plan) -> Outcome {
        let (api, params) = (self.api(key), PostParams::default());
        let written = match plan {
            Plan::Nothing => return Outcome::Done,
            Plan::Create(endpoints) => api.create(&params, &endpoints).await,
            Plan::Update(endpoints) => api.replace(meta::split_key(key).1, &params, &endpoints).await,
        };
        match written {
            Ok(endpoints) => {
                self.fence.wrote(key, meta::revision(&endpoints.metadata));
                Outcome::Done
            }
            Err(error) => {
                tracing::debug!(endpoints = key, error = %hitless_base::chain(&error), "will try again");
                Outcome::Retry
            }
        }
    }

    /// The Service is gone, and its Endpoints go with it: they have no owner that the collector could follow.
    pub(super) async fn delete(&self, key: &str) -> Outcome {
        match self.api(key).delete(meta::split_key(key).1, &DeleteParams::default()).await {
            Ok(_) => Outcome::Done,
            Err(error) if hitless_client::is_not_found(&error) => Outcome::Done,
            Err(_) => Outcome::Retry,
        }
    }
}
