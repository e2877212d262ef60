//! Writes an Ingress's addresses through the API.

use std::collections::BTreeSet;

use hitless_client::Outcome;
use hitless_types::meta;
use k8s_openapi::api::networking::v1::Ingress;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::Context;

#[derive(Clone)]
pub(super) struct Apply {
    context: Context,
}

impl Apply {
    pub(super) fn new(context: &Context) -> Self {
        Self { context: context.clone() }
    }

    /// The same addresses once more change nothing, so a cache that lags behind does no harm.
    pub(super) async fn carry_out(&self, key: &str, addresses: &BTreeSet<String>) -> Outcome {
        let (namespace, name) = meta::split_key(key);
        let api: Api<Ingress> = Api::namespaced(self.context.client.clone(), namespace);
        let entries: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": entries}}}));
        match api.patch_status(name, &PatchParams::default(), &patch).await {
            Ok(_) => Outcome::Done,
            Err(error) if hitless_client::is_not_found(&error) => Outcome::Done,
            Err(error) => {
                tracing::debug!(ingress = key, error = %hitless_base::chain(&error), "will try again");
                Outcome::Retry
            }
        }
    }
}
