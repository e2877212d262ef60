//! What the Endpoints controller sees, and which Service is worth a look when something changes.

use std::time::Duration;

use hitless_client::{Cache, Queue};
use k8s_openapi::api::core::v1::Endpoints;

use crate::{Informers, endpointslice::index::Members};

/// Endpoints are for old clients; nothing in the loop waits for them. So several changes share a write, and the slices go first.
const BATCH: Duration = Duration::from_millis(25);

#[derive(Clone)]
pub(super) struct Index {
    pub(super) queue: Queue,
    pub(super) members: Members,
    pub(super) endpoints: Cache<Endpoints>,
}

impl Index {
    pub(super) fn new(informers: &mut Informers) -> Self {
        let (queue, members) = (Queue::new(), Members::default());
        let (ask, all) = (queue.clone(), members.clone());
        informers.pods.on_change(move |delta| {
            all.take_pod(delta).into_iter().for_each(|key| ask.add_after(key, BATCH));
        });
        let (ask, all) = (queue.clone(), members.clone());
        informers.services.on_change(move |delta| {
            all.take_service(delta);
            ask.add_after(delta.key.clone(), BATCH);
        });
        let ask = queue.clone();
        informers.endpoints.on_change(move |delta| ask.add_after(delta.key.clone(), BATCH));
        Self { queue, members, endpoints: informers.endpoints.cache() }
    }
}
