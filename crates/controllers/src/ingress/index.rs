//! What the Ingress controller sees, and which Ingress is worth a look when something changes.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use hitless_client::{Cache, Queue};
use hitless_types::EndpointConsumer;
use k8s_openapi::api::{
    core::v1::Node,
    networking::v1::{Ingress, IngressClass},
};
use parking_lot::Mutex;

use super::decide;
use crate::Informers;

/// Nodes start and stop together; their changes share a look.
const BATCH: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub(super) struct Index {
    pub(super) queue: Queue,
    pub(super) ingresses: Cache<Ingress>,
    pub(super) classes: Cache<IngressClass>,
    pub(super) nodes: Cache<Node>,
    pub(super) consumers: Cache<EndpointConsumer>,
}

impl Index {
    pub(super) fn new(informers: &mut Informers) -> Self {
        let queue = Queue::new();
        // All of them, for a change that concerns all.
        let keys: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let (ask, known) = (queue.clone(), keys.clone());
        informers.ingresses.on_change(move |delta| {
            if delta.after.is_some() {
                known.lock().insert(delta.key.clone());
            } else {
                known.lock().remove(&delta.key);
            }
            ask.add(delta.key.clone());
        });
        let ask_all = {
            let queue = queue.clone();
            move || keys.lock().iter().for_each(|key| queue.add_after(key.clone(), BATCH))
        };
        let ask = ask_all.clone();
        informers.classes.on_change(move |_| ask());
        let ask = ask_all.clone();
        informers.nodes.on_change(move |delta| {
            // A node's heartbeat says nothing here.
            let before = delta.before.as_deref().and_then(decide::address);
            if before != delta.after.as_deref().and_then(decide::address) {
                ask();
            }
        });
        informers.consumers.on_change(move |delta| {
            // Nor does a watermark.
            let before = delta.before.as_deref().and_then(decide::node_served);
            if before != delta.after.as_deref().and_then(decide::node_served) {
                ask_all();
            }
        });
        Self {
            queue,
            ingresses: informers.ingresses.cache(),
            classes: informers.classes.cache(),
            nodes: informers.nodes.cache(),
            consumers: informers.consumers.cache(),
        }
    }
}
