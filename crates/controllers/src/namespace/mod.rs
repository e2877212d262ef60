//! A namespace that is being deleted is emptied, kind by kind, and then let go.
//!
//! The kinds come from the table, so a new kind needs nothing here.

use std::time::Duration;

use hitless_client::{Outcome, Queue};
use hitless_types::kinds::{self, Kind, Scope};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams},
};

use crate::{Context, Informers};

/// The finalizer of every namespace.
const FINALIZER: &str = "kubernetes";

/// How soon to look again whether what was deleted has gone.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Starts it.
pub fn start(context: &Context, informers: &mut Informers) {
    let queue = Queue::new();
    let namespaces = informers.namespaces.cache();
    let ask = queue.clone();
    informers.namespaces.on_change(move |delta| {
        if delta.after.as_ref().is_some_and(|namespace| is_to_be_emptied(namespace)) {
            ask.add(delta.key.clone());
        }
    });
    let client = context.client.clone();
    context.work(&queue, 2, move |name| {
        let (namespaces, client) = (namespaces.clone(), client.clone());
        async move {
            let Some(namespace) = namespaces.get(&name).filter(|n| is_to_be_emptied(n)) else {
                return Outcome::Done;
            };
            match empty(&client, &name).await {
                Ok(0) => finalize(&client, &namespace).await,
                Ok(_) => Outcome::Again(LOOK_AGAIN),
                Err(_) => Outcome::Retry,
            }
        }
    });
}

fn is_to_be_emptied(namespace: &Namespace) -> bool {
    let held = namespace
        .spec
        .as_ref()
        .and_then(|s| s.finalizers.as_ref())
        .is_some_and(|all| all.iter().any(|f| f == FINALIZER));
    namespace.metadata.deletion_timestamp.is_some() && held
}

/// Kinds in the order in which they go: what makes other objects goes before what it makes.
fn in_order() -> Vec<&'static Kind> {
    let mut kinds: Vec<_> = kinds::all().iter().filter(|kind| kind.scope == Scope::Namespaced).collect();
    kinds.sort_by_key(|kind| match kind.kind {
        "Deployment" => 0,
        "ReplicaSet" => 1,
        // Services go after the Pods, so that a Pod's withdrawal still has its endpoint's end to see.
        "Pod" => 2,
        "Event" => 4,
        _ => 3,
    });
    kinds
}

/// Asks for the deletion of everything in the namespace, and gives how much is still there.
async fn empty(client: &Client, namespace: &str) -> Result<usize, kube::Error> {
    for kind in in_order() {
        let resource = ApiResource {
            group: kind.group.to_owned(),
            version: kind.version.to_owned(),
            api_version: kind.api_version(),
            kind: kind.kind.to_owned(),
            plural: kind.plural.to_owned(),
        };
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        let there = api.list_metadata(&ListParams::default()).await?.items;
        if there.is_empty() {
            continue;
        }
        if there.iter().any(|object| object.metadata.deletion_timestamp.is_none()) {
            api.delete_collection(&DeleteParams::background(), &ListParams::default()).await?;
        }
        // Events are no reason to wait; all else has to be gone before the next kind's turn.
        if kind.kind != "Event" {
            let left = api.list_metadata(&ListParams::default()).await?.items.len();
            if left > 0 {
                return Ok(left);
            }
        }
    }
    Ok(0)
}

/// Takes the finalizer off, so that the API server lets the namespace go.
async fn finalize(client: &Client, namespace: &Namespace) -> Outcome {
    let mut next = namespace.clone();
    let spec = next.spec.get_or_insert_default();
    spec.finalizers.get_or_insert_default().retain(|f| f != FINALIZER);
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let Ok(body) = serde_json::to_vec(&next) else { return Outcome::Done };
    let request = http::Request::put(format!("/api/v1/namespaces/{name}/finalize"))
        .header("content-type", "application/json")
        .body(body);
    let Ok(request) = request else { return Outcome::Done };
    match client.request::<serde_json::Value>(request).await {
        Ok(_) => Outcome::Done,
        Err(error) if hitless_client::is_not_found(&error) => Outcome::Done,
        Err(_) => Outcome::Retry,
    }
}
