//! The Deployment controller: moves from one template to the next by way of ReplicaSets.
//!
//! It counts on `status.availableReplicas` of its ReplicaSets, which with the loop on means Ready and
//! Programmed: so an old Pod goes only when the consumers already route to the new one.

mod apply;
mod conditions;
mod decide;
mod index;
mod rolling;

use std::time::Duration;

use hitless_client::Outcome;

use crate::{Context, Informers};

pub use decide::{Plan, Seen, decide};

/// Keys worked on at the same time.
const WORKERS: usize = 2;

/// Starts it.
pub fn start(context: &Context, informers: &mut Informers) {
    let index = index::Index::new(informers);
    let apply = apply::Apply::new(context);
    let clock = context.options.clock.clone();
    context.work(&index.queue.clone(), WORKERS, move |key| {
        let (index, apply, clock) = (index.clone(), apply.clone(), clock.clone());
        async move {
            let (replicasets, seen_to) = index.replicasets.snapshot();
            if !apply.fence.passed(&key, seen_to) {
                return Outcome::Again(Duration::from_millis(50));
            }
            let Some(deployment) = index.deployments.get(&key) else { return Outcome::Done };
            let seen = Seen::new(&deployment, &replicasets, &index.pods);
            let plan = decide(&seen, clock.now());
            apply.carry_out(&key, &deployment, plan).await
        }
    });
}
