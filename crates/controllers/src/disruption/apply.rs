//! Publishes a PodDisruptionBudget's status.

use hitless_client::Outcome;
use hitless_types::meta;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{Api, Client, api::PostParams};

use super::Plan;

/// Writes the status if it changed. The API server writes there too (it takes an eviction off the allowance), so the write carries the
/// resourceVersion that was looked at, and a conflict means to look again.
pub(super) async fn carry_out(
    client: &Client,
    key: &str,
    budget: &PodDisruptionBudget,
    plan: Plan,
) -> Outcome {
    if budget.status.as_ref() != Some(&plan.status) {
        let (namespace, name) = meta::split_key(key);
        let api: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), namespace);
        let mut next = budget.clone();
        next.status = Some(plan.status);
        match api.replace_status(name, &PostParams::default(), &next).await {
            Ok(_) => {}
            Err(error) if hitless_client::is_not_found(&error) => return Outcome::Done,
            Err(_) => return Outcome::Retry,
        }
    }
    plan.look_again.map_or(Outcome::Done, Outcome::Again)
}
