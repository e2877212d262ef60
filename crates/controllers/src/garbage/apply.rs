//! Sees a namespace's objects and carries the collector's steps out through the API.

use hitless_types::kinds::{self, Kind, Scope};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;

use super::decide::{Item, Step, decide};

/// One round over a namespace; gives how many steps were taken.
pub(super) async fn collect(client: &Client, namespace: &str) -> Result<usize, kube::Error> {
    let mut items = Vec::new();
    for kind in kinds::all().iter().filter(|kind| kind.scope == Scope::Namespaced && kind.kind != "Event") {
        let listed = api(client, kind, namespace).list_metadata(&ListParams::default()).await?;
        items.extend(listed.items.into_iter().map(|object| Item { kind, meta: object.metadata }));
    }
    let mut taken = 0;
    for step in decide(&items) {
        taken += usize::from(take(client, namespace, &items, step).await?);
    }
    Ok(taken)
}

fn api(client: &Client, kind: &Kind, namespace: &str) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: kind.group.to_owned(),
        version: kind.version.to_owned(),
        api_version: kind.api_version(),
        kind: kind.kind.to_owned(),
        plural: kind.plural.to_owned(),
    };
    match kind.scope {
        Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
        Scope::Cluster => Api::all_with(client.clone(), &resource),
    }
}

/// Takes one step; gives whether anything was done.
async fn take(client: &Client, namespace: &str, items: &[Item], step: Step) -> Result<bool, kube::Error> {
    let (at, patch) = match step {
        Step::DeleteIfGone { item, owners } => {
            for owner in &owners {
                if !is_gone(client, namespace, owner).await? {
                    return Ok(false);
                }
            }
            return delete(client, namespace, items.get(item), DeleteParams::background()).await;
        }
        Step::Delete { item, foreground } => {
            let params = if foreground { DeleteParams::foreground() } else { DeleteParams::background() };
            return delete(client, namespace, items.get(item), params).await;
        }
        Step::Disown { item, uids } => {
            let kept: Vec<_> = items
                .get(item)
                .and_then(|i| i.meta.owner_references.clone())
                .unwrap_or_default()
                .into_iter()
                .filter(|o| !uids.contains(&o.uid))
                .collect();
            (item, json!({"ownerReferences": kept}))
        }
        Step::Release { item, finalizer } => {
            let kept: Vec<_> = items
                .get(item)
                .and_then(|i| i.meta.finalizers.clone())
                .unwrap_or_default()
                .into_iter()
                .filter(|f| f != finalizer)
                .collect();
            (item, json!({"finalizers": kept}))
        }
    };
    let Some(item) = items.get(at) else { return Ok(false) };
    // The revision that was looked at goes along, so that a list that somebody changed meanwhile is not written over.
    let mut patch = json!({ "metadata": patch });
    if let Some(metadata) = patch.get_mut("metadata").and_then(|m| m.as_object_mut()) {
        metadata.insert("resourceVersion".to_owned(), json!(item.meta.resource_version));
    }
    let name = item.meta.name.as_deref().unwrap_or_default();
    let answer =
        api(client, item.kind, namespace).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
    settled(answer.map(|_| ()))
}

async fn delete(
    client: &Client,
    namespace: &str,
    item: Option<&Item>,
    params: DeleteParams,
) -> Result<bool, kube::Error> {
    let Some(item) = item else { return Ok(false) };
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: item.meta.uid.clone(), resource_version: None }),
        ..params
    };
    let name = item.meta.name.as_deref().unwrap_or_default();
    settled(api(client, item.kind, namespace).delete(name, &params).await.map(|_| ()))
}

/// A conflict or an object that is gone already is no failure: the next round sees what is.
fn settled(answer: Result<(), kube::Error>) -> Result<bool, kube::Error> {
    match answer {
        Ok(()) => Ok(true),
        Err(error) if hitless_client::is_not_found(&error) || hitless_client::is_conflict(&error) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether the API holds no object with the reference's name and uid. A kind that this cluster does not know cannot be judged.
async fn is_gone(client: &Client, namespace: &str, owner: &OwnerReference) -> Result<bool, kube::Error> {
    let Some(kind) = kinds::by_gvk(&owner.api_version, &owner.kind) else { return Ok(false) };
    let there = api(client, kind, namespace).get_metadata_opt(&owner.name).await?;
    Ok(there.is_none_or(|object| object.metadata.uid.as_ref() != Some(&owner.uid)))
}
