//! The EndpointSlice controller: who stands behind each Service, in slices of at most a hundred endpoints.
//!
//! A terminating Pod stays listed, as terminating, until it is gone: consumers may go on routing to it while nothing else
//! serves, and the loop sees that it was taken out of rotation. The time from a Pod's event to the slice being
//! written is part of every deletion, so the way is short: an index by namespace, a worker for each Service, one write.

mod apply;
mod decide;
pub(crate) mod desired;
pub(crate) mod index;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use hitless_client::Outcome;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::{Context, Informers};

pub(crate) use decide::LABEL_HEADLESS;
pub use decide::{Plan, SLICE_ENDPOINTS_MAX, decide};
pub use desired::Group;

/// Services worked on at the same time.
const WORKERS: usize = 4;

/// Starts it.
pub fn start(context: &Context, informers: &mut Informers) {
    let index = index::Index::new(informers);
    let apply = apply::Apply::new(context);
    context.work(&index.queue.clone(), WORKERS, move |key| {
        let (index, apply) = (index.clone(), apply.clone());
        async move { sync(&key, &index, &apply).await }
    });
}

async fn sync(key: &str, index: &index::Index, apply: &apply::Apply) -> Outcome {
    // A Service that is gone, or no longer selects: its slices belong to the collector, or to whoever writes them now.
    let Some(service) = index.members.service(key).filter(|s| desired::has_endpoints(s)) else {
        return Outcome::Done;
    };
    let (slices, revision) = index.slices.snapshot();
    if !apply.fence.passed(key, revision) {
        tracing::debug!(service = key, %revision, "waits for what it wrote");
        // The slice that is still to be seen brings the key back; the delay is only the belt to that.
        return Outcome::Again(Duration::from_millis(20));
    }
    let present: Vec<Arc<EndpointSlice>> =
        slices.into_iter().filter(|s| index::owner_key(s).as_deref() == Some(key)).collect();
    let mut plan = decide(&service, &index.members.pods_of(&service), &present, &|node| index.zone_of(node));
    if service.metadata.deletion_timestamp.is_some() {
        // Present slices are kept true until the Service is gone; new ones would only be in the collector's way.
        plan.create.clear();
    }
    if plan.is_empty() { Outcome::Done } else { apply.carry_out(key, &service, plan).await }
}
