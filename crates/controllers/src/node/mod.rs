//! The node controller: taints say what the conditions say; a node that has fallen silent is Unknown, its Pods are
//! no longer Ready, and after their toleration they are evicted; Pods of a node that is gone go too.
//!
//! <https://kubernetes.io/docs/concepts/architecture/nodes/>

mod apply;
mod decide;

use std::{sync::Arc, time::Duration};

use hitless_base::Timestamp;
use hitless_client::{Cache, Outcome, Queue};
use hitless_types::pod as read;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use parking_lot::Mutex;

use crate::{Context, Informers};

pub use decide::{Plan, SILENT_AFTER, Seen, decide};

/// Starts it.
pub fn start(context: &Context, informers: &mut Informers) {
    let queue = Queue::new();
    let (nodes, leases, pods) = (informers.nodes.cache(), informers.leases.cache(), informers.pods.cache());
    let ask = queue.clone();
    informers.nodes.on_change(move |delta| ask.add(delta.key.clone()));
    // A Pod bound to a node that is not there is worth a look; one on a healthy node is not.
    let (ask, known) = (queue.clone(), nodes.clone());
    informers.pods.on_change(move |delta| {
        if let Some(node) = delta.after.as_ref().and_then(|pod| read::node_name(pod))
            && known.get(node).is_none()
        {
            ask.add_after(node, Duration::from_secs(10));
        }
    });
    let heard = Heard::default();
    let note = heard.clone();
    informers.leases.on_change(move |delta| {
        if let Some(lease) = &delta.after {
            note.take(lease);
        }
    });
    let apply = apply::Apply::new(context);
    let clock = context.options.clock.clone();
    let started = clock.now();
    context.work(&queue, 2, move |name| {
        let (nodes, leases, pods) = (nodes.clone(), leases.clone(), pods.clone());
        let (heard, apply, clock) = (heard.clone(), apply.clone(), clock.clone());
        async move {
            let seen = see(&name, &nodes, &leases, &pods, &heard, started);
            let plan = decide(&seen, clock.now());
            apply.carry_out(&name, &seen, plan).await
        }
    });
}

fn see(
    name: &str,
    nodes: &Cache<Node>,
    leases: &Cache<Lease>,
    pods: &Cache<Pod>,
    heard: &Heard,
    started: Timestamp,
) -> Seen {
    let lease = leases.get(&format!("{}/{name}", hitless_types::well_known::NAMESPACE_NODE_LEASE));
    Seen {
        node: nodes.get(name),
        // Before anything was heard, silence counts from this controller's own start: it may be the one that was away.
        heard: lease.and_then(|_| heard.last(name)).unwrap_or(started).max(started),
        pods: pods.list().into_iter().filter(|pod| read::node_name(pod) == Some(name)).collect(),
    }
}

/// When each node's lease was last seen to change, by this machine's clock: the nodes' own clocks need not agree.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<std::collections::HashMap<String, Timestamp>>>);

impl Heard {
    fn take(&self, lease: &Lease) {
        if let Some(name) = lease.metadata.name.clone() {
            self.0.lock().insert(name, Timestamp::now());
        }
    }

    fn last(&self, name: &str) -> Option<Timestamp> {
        self.0.lock().get(name).copied()
    }
}

/// How soon to look at a healthy node again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// `Again` at the plan's time, or at the ordinary one.
fn outcome(plan: &Plan) -> Outcome {
    plan.look_again.map_or(Outcome::Done, |after| Outcome::Again(after.min(LOOK_AGAIN)))
}
