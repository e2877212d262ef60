//! The Endpoints controller: the old single object for each Service, for clients that do not read EndpointSlices.
//!
//! Nothing of the loop depends on it, so it may be a little behind.

mod apply;
mod decide;
mod index;
#[cfg(test)]
mod tests;

use std::time::Duration;

use hitless_client::Outcome;

use crate::{Context, Informers, endpointslice::desired};

pub use decide::{Plan, decide};

/// Services worked on at the same time.
const WORKERS: usize = 2;

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
    if !apply.fence.passed(key, index.endpoints.revision()) {
        return Outcome::Again(Duration::from_millis(50));
    }
    let present = index.endpoints.get(key);
    let Some(service) = index.members.service(key) else {
        // Endpoints that never had a Service (leader elections of old clients) are not this controller's.
        return match present {
            Some(endpoints) if decide::is_managed(&endpoints) => apply.delete(key).await,
            _ => Outcome::Done,
        };
    };
    if !desired::has_endpoints(&service) {
        return Outcome::Done;
    }
    apply.carry_out(key, decide(&service, &index.members.pods_of(&service), present.as_deref())).await
}
