//! The ReplicaSet controller: as many Pods of a template as were asked for.
//!
//! Available means Ready and, with the loop on, Programmed: a rollout does not retire an old Pod before
//! the new one can be reached.

mod apply;
mod decide;
mod index;

use std::time::Duration;

use hitless_client::Outcome;

use crate::{Context, Informers};

pub use decide::{Plan, Seen, decide};

/// Keys worked on at the same time.
const WORKERS: usize = 4;

/// Starts it.
pub fn start(context: &Context, informers: &mut Informers) {
    let index = index::Index::new(informers);
    let apply = apply::Apply::new(context);
    let options = context.options.clone();
    context.work(&index.queue.clone(), WORKERS, move |key| {
        let (index, apply, options) = (index.clone(), apply.clone(), options.clone());
        async move {
            let (pods, pods_revision) = index.pods.snapshot();
            if !apply.fence.passed(&key, pods_revision) {
                // The Pod that is still to be seen brings the key back; the delay is only the belt to that.
                return Outcome::Again(Duration::from_millis(50));
            }
            let Some(replicaset) = index.replicasets.get(&key) else { return Outcome::Done };
            let seen = Seen::new(&replicaset, &pods);
            let plan = decide(&seen, options.clock.now(), options.loop_on);
            apply.carry_out(&key, &replicaset, plan).await
        }
    });
}
