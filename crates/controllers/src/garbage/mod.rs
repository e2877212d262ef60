//! The garbage collector: what was made by something that is gone goes too; and the two other ways of deletion:
//! in the foreground (dependents first) and by orphaning.
//!
//! It works on one namespace at a time, from the metadata of every kind in the table, and asks the API for an owner
//! before it takes its absence for true. <https://kubernetes.io/docs/concepts/architecture/garbage-collection/>

mod apply;
mod decide;

use std::time::Duration;

use hitless_client::{Delta, Object, Outcome, Queue, Reflector};
use hitless_types::meta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{Context, Informers};

/// How often every namespace is looked at although nothing asked for it.
const SWEEP: Duration = Duration::from_secs(30);

/// How soon to look again while dependents are going.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Starts it.
pub fn start(context: &Context, informers: &mut Informers) {
    let queue = Queue::new();
    ask_on_end(&mut informers.deployments, &queue);
    ask_on_end(&mut informers.replicasets, &queue);
    ask_on_end(&mut informers.services, &queue);
    // A ReplicaSet that is deleted in the foreground waits for its last Pod.
    let (ask, all) = (queue.clone(), informers.replicasets.cache());
    informers.pods.on_change(move |delta| {
        let (Some(pod), None) = (&delta.before, &delta.after) else { return };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let owner =
            meta::controller_of(&pod.metadata).and_then(|o| all.get(&format!("{namespace}/{}", o.name)));
        if owner.is_some_and(|rs| is_held(&rs.metadata)) {
            ask.add(namespace);
        }
    });
    let ask = queue.clone();
    informers.namespaces.on_change(move |delta| ask.add_after(delta.key.clone(), SWEEP));
    let (namespaces, client) = (informers.namespaces.cache(), context.client.clone());
    context.work(&queue, 1, move |namespace| {
        let (namespaces, client) = (namespaces.clone(), client.clone());
        async move {
            if namespaces.get(&namespace).is_none() {
                return Outcome::Done;
            }
            match apply::collect(&client, &namespace).await {
                Ok(0) => Outcome::Again(SWEEP),
                Ok(_) => Outcome::Again(LOOK_AGAIN),
                Err(error) => {
                    tracing::debug!(namespace, error = %hitless_base::chain(&error), "will try again");
                    Outcome::Retry
                }
            }
        }
    });
}

/// Asks for a look at the namespace of whatever ends, or is being deleted and held by a finalizer.
fn ask_on_end<K: Object>(reflector: &mut Reflector<K>, queue: &Queue) {
    let ask = queue.clone();
    reflector.on_change(move |delta: &Delta<K>| {
        if delta.after.as_ref().is_none_or(|object| is_held(object.metadata())) {
            ask.add(meta::split_key(&delta.key).0);
        }
    });
}

/// Whether the object is being deleted and held by a finalizer.
fn is_held(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && meta.finalizers.as_ref().is_some_and(|all| !all.is_empty())
}
