//! The PodDisruptionBudget controller: how many Pods may be evicted right now.
//!
//! A Pod counts as healthy when it is Ready and, with the loop on, Programmed: an eviction is not let through on
//! the strength of a replacement that nobody routes to yet.
//! <https://kubernetes.io/docs/tasks/run-application/configure-pdb/>

mod apply;
mod decide;
mod index;

use hitless_client::Outcome;

use crate::{Context, Informers};

pub use decide::{Plan, Seen, decide};

/// Keys worked on at the same time.
const WORKERS: usize = 2;

/// Starts it.
pub fn start(context: &Context, informers: &mut Informers) {
    let index = index::Index::new(informers);
    let (client, options) = (context.client.clone(), context.options.clone());
    context.work(&index.queue.clone(), WORKERS, move |key| {
        let (index, client, options) = (index.clone(), client.clone(), options.clone());
        async move {
            let Some(budget) = index.budgets.get(&key) else { return Outcome::Done };
            let seen = index.seen(&budget);
            let plan = decide(&seen, options.clock.now(), options.loop_on);
            apply::carry_out(&client, &key, &budget, plan).await
        }
    });
}
