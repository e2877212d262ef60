//! The Ingress controller: it writes into each Ingress where it is served, so that `kubectl get ingress` shows an address.
//!
//! The addresses are those of the Ready nodes whose ingress is registered as a consumer. Nothing is routed by what it writes.

mod apply;
mod decide;
mod index;

use hitless_client::Outcome;

use crate::{Context, Informers};

/// Ingresses worked on at the same time.
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
    let Some(ingress) = index.ingresses.get(key) else { return Outcome::Done };
    let (classes, nodes, consumers) = (index.classes.list(), index.nodes.list(), index.consumers.list());
    match decide::decide(&ingress, &classes, &nodes, &consumers) {
        None => Outcome::Done,
        Some(addresses) => apply.carry_out(key, &addresses).await,
    }
}
