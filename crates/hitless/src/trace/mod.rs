//! `hitless trace pod/NAME`: the life of a Pod step by step, with each consumer's watermark.
//!
//! It reads the Pod (while it is there) and its Events through the API, nothing else: so it works against any cluster
//! whose Events carry the moment, and after the Pod has gone.

mod life;
mod render;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{Api, Client, api::ListParams};

use crate::fault::Fault;

pub use life::Life;

/// The Pod's life as far as the API holds it.
pub async fn of_pod(client: &Client, namespace: &str, name: &str) -> Result<Life> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let pod = pods.get_opt(name).await?;
    let selector = format!("involvedObject.kind=Pod,involvedObject.name={name}");
    let events = events.list(&ListParams::default().fields(&selector)).await?.items;
    if pod.is_none() && events.is_empty() {
        return Err(Fault::failed(
            format!("pods {name:?} not found in namespace {namespace:?}, and no Events of it either"),
            "`kubectl get pods -A` lists the Pods there are; Events are kept for one hour after a Pod's end",
        )
        .into());
    }
    Ok(life::life(namespace, name, pod.as_ref(), &events))
}

/// The life as text for a terminal of 100 columns.
pub use render::text;
