//! What the loop's controller sees: which slices name which Pods and how, which Services select them, and what has changed
//! since it last looked.
//!
//! Handlers keep an index by Pod, so that one Pod's turn costs what concerns that Pod, and leave keys in the [`Inbox`].
//! Invariant: the inbox is bounded by the number of Pods and consumers; a key in it says only that a look is due.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use hitless_base::Revision;
use hitless_client::{Cache, Delta};
use hitless_types::{EndpointConsumer, meta, pod as read, well_known};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::{Endpoint, EndpointSlice},
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::sight::{Named, Rotation, ServiceSight, Sight};
use crate::{
    Informers,
    endpointslice::{LABEL_HEADLESS, desired, index::Members},
};

/// What is worth a look.
#[derive(Default)]
pub(super) struct Dirty {
    /// Keys of Pods.
    pub(super) pods: HashSet<String>,
    /// Uids of Pods that are gone.
    pub(super) gone: HashSet<String>,
    /// Namespaces in which a Service has changed.
    pub(super) namespaces: HashSet<String>,
    /// Names of consumers; with uid and revision of those whose creation was seen as it happened.
    pub(super) consumers: HashMap<String, Option<(String, Revision)>>,
}

/// Where handlers leave what is worth a look.
#[derive(Default)]
pub(super) struct Inbox {
    dirty: Mutex<Dirty>,
    pub(super) wake: Notify,
}

impl Inbox {
    fn leave(&self, leave: impl FnOnce(&mut Dirty)) {
        leave(&mut self.dirty.lock());
        self.wake.notify_one();
    }

    pub(super) fn take(&self) -> Dirty {
        std::mem::take(&mut *self.dirty.lock())
    }
}

/// Slices as they concern Pods.
#[derive(Default)]
pub(super) struct Slices {
    /// Service -> slice -> its revision.
    by_service: HashMap<String, BTreeMap<String, Revision>>,
    /// Uid of a Pod -> slice -> how that names it.
    naming: HashMap<String, BTreeMap<String, Named>>,
    /// Uid of a Pod -> the last revision at which some slice ceased to have it in rotation.
    left: HashMap<String, Revision>,
    /// Uids of Pods that some slice of a headless Service has ceased to name: clients may have kept what DNS told of them.
    headless: HashSet<String>,
}

impl Slices {
    /// Takes a slice's step at `revision`; gives the uids and keys of the Pods for which it changes something.
    pub(super) fn take(&mut self, delta: &Delta<EndpointSlice>, revision: Revision) -> Vec<(String, String)> {
        let Some(slice) = delta.latest() else { return Vec::new() };
        let service = service_key(slice);
        // A Service's name cannot be changed in a slice of ours; where someone changes a label, the old place is emptied.
        if let Some(old) = delta.before.as_ref().map(|s| service_key(s)).filter(|old| *old != service) {
            self.drop_slice(&old, &delta.key);
        }
        if delta.after.is_some() {
            self.by_service.entry(service.clone()).or_default().insert(delta.key.clone(), revision);
        } else {
            self.drop_slice(&service, &delta.key);
        }
        let before = delta.before.as_deref().map(endpoints).unwrap_or_default();
        let after = delta.after.as_deref().map(endpoints).unwrap_or_default();
        let managed = is_managed(slice);
        let headless = slice.metadata.labels.as_ref().is_some_and(|l| l.contains_key(LABEL_HEADLESS));
        let mut changed = Vec::new();
        for (uid, (key, was)) in &before {
            if !after.contains_key(uid) {
                changed.push(((*uid).to_owned(), key.clone()));
                self.unname(uid, &delta.key);
                if *was != Rotation::Terminating {
                    self.left.insert((*uid).to_owned(), revision);
                }
            }
        }
        for (uid, (key, now)) in after {
            let was = before.get(uid).map(|(_, was)| *was);
            if was == Some(now) {
                continue;
            }
            if now == Rotation::Terminating && was.is_some() {
                self.left.insert(uid.to_owned(), revision);
            }
            let named = Named { service: service.clone(), managed, headless, rotation: now, since: revision };
            self.naming.entry(uid.to_owned()).or_default().insert(delta.key.clone(), named);
            changed.push((uid.to_owned(), key));
        }
        changed
    }

    /// What these slices and the Services that select the Pod say of it.
    pub(super) fn sight(&self, pod: &Pod, services: &[Arc<Service>]) -> Sight {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        // A slice of a third party may lack the label, so the Services are asked as well.
        let selected = services.iter().any(|service| desired::is_headless(service));
        let services = services.iter().map(|service| {
            let key = meta::key(&service.metadata);
            let revision = self.by_service.get(&key).and_then(|all| all.values().max().copied());
            ServiceSight { lists: desired::lists(service, pod), key, revision: revision.unwrap_or_default() }
        });
        let named: Vec<Named> =
            self.naming.get(uid).map(|n| n.values().cloned().collect()).unwrap_or_default();
        Sight {
            services: services.collect(),
            left: self.left.get(uid).copied(),
            headless: selected || named.iter().any(|n| n.headless) || self.headless.contains(uid),
            named,
        }
    }

    /// Nothing is remembered of a Pod that is gone.
    fn forget(&mut self, uid: &str) {
        self.left.remove(uid);
        self.headless.remove(uid);
    }

    fn drop_slice(&mut self, service: &str, slice: &str) {
        if let Some(slices) = self.by_service.get_mut(service) {
            slices.remove(slice);
            if slices.is_empty() {
                self.by_service.remove(service);
            }
        }
    }

    fn unname(&mut self, uid: &str, slice: &str) {
        if let Some(slices) = self.naming.get_mut(uid) {
            if slices.remove(slice).is_some_and(|named| named.headless) {
                self.headless.insert(uid.to_owned());
            }
            if slices.is_empty() {
                self.naming.remove(uid);
            }
        }
    }
}

/// Key of the Service that a slice says it belongs to.
fn service_key(slice: &EndpointSlice) -> String {
    let labels = slice.metadata.labels.as_ref();
    let name = labels.and_then(|l| l.get(well_known::LABEL_SERVICE_NAME)).map_or("", String::as_str);
    format!("{}/{name}", slice.metadata.namespace.as_deref().unwrap_or_default())
}

fn is_managed(slice: &EndpointSlice) -> bool {
    let manager = slice.metadata.labels.as_ref().and_then(|l| l.get(well_known::LABEL_MANAGED_BY));
    manager.is_some_and(|m| m == well_known::ENDPOINTSLICE_CONTROLLER)
}

/// Pods that a slice names: uid -> key and rotation.
fn endpoints(slice: &EndpointSlice) -> HashMap<&str, (String, Rotation)> {
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    let one = |endpoint: &'_ Endpoint| {
        let conditions = endpoint.conditions.as_ref();
        let rotation = if conditions.and_then(|c| c.terminating) == Some(true) {
            Rotation::Terminating
        } else if conditions.and_then(|c| c.ready) == Some(false) {
            Rotation::NotReady
        } else {
            // As the API says: an unknown state is to be taken as ready.
            Rotation::Ready
        };
        let name = endpoint.target_ref.as_ref()?.name.clone().unwrap_or_default();
        Some((format!("{namespace}/{name}"), rotation))
    };
    let all = slice.endpoints.iter().flatten();
    all.filter_map(|e| Some((e.target_ref.as_ref()?.uid.as_deref()?, one(e)?))).collect()
}

#[derive(Clone)]
pub(super) struct Index {
    pub(super) inbox: Arc<Inbox>,
    pub(super) pods: Cache<Pod>,
    pub(super) consumers: Cache<EndpointConsumer>,
    members: Members,
    slices: Arc<Mutex<Slices>>,
}

impl Index {
    pub(super) fn new(informers: &mut Informers) -> Self {
        let index = Self {
            inbox: Arc::default(),
            pods: informers.pods.cache(),
            consumers: informers.consumers.cache(),
            members: Members::default(),
            slices: Arc::default(),
        };
        let this = index.clone();
        informers.pods.on_change(move |delta| this.take_pod(delta));
        let this = index.clone();
        informers.services.on_change(move |delta| {
            this.members.take_service(delta);
            let namespace = meta::split_key(&delta.key).0.to_owned();
            this.inbox.leave(|dirty| dirty.namespaces.extend([namespace]));
        });
        let (this, cache) = (index.clone(), informers.endpointslices.cache());
        informers.endpointslices.on_change(move |delta| this.take_slice(delta, cache.revision()));
        let this = index.clone();
        informers.consumers.on_change(move |delta| this.take_consumer(delta));
        index
    }

    fn take_pod(&self, delta: &Delta<Pod>) {
        let uid = |pod: &Option<Arc<Pod>>| pod.as_ref().and_then(|p| p.metadata.uid.clone());
        let (before, after) = (uid(&delta.before), uid(&delta.after));
        let gone = before.filter(|uid| after.as_ref() != Some(uid));
        if let Some(uid) = &gone {
            self.slices.lock().forget(uid);
        }
        if gone.is_some() || !same_to_the_loop(delta) {
            self.inbox.leave(|dirty| {
                dirty.gone.extend(gone);
                if delta.after.is_some() {
                    dirty.pods.insert(delta.key.clone());
                }
            });
        }
    }

    fn take_slice(&self, delta: &Delta<EndpointSlice>, position: Revision) {
        // A slice that a new list does not hold any more was deleted at a revision up to the list's.
        let revision = match &delta.after {
            None if delta.listed => position,
            _ => delta.latest().map(|s| meta::revision(&s.metadata)).unwrap_or_default(),
        };
        let mut slices = self.slices.lock();
        let changed = slices.take(delta, revision);
        // A Pod that is gone must not be remembered: nothing would make it be forgotten again.
        for (uid, key) in &changed {
            let exists = self.pods.get(key).is_some_and(|pod| pod.metadata.uid.as_ref() == Some(uid));
            if !exists {
                slices.forget(uid);
            }
        }
        drop(slices);
        if !changed.is_empty() {
            self.inbox.leave(|dirty| dirty.pods.extend(changed.into_iter().map(|(_, key)| key)));
        }
    }

    fn take_consumer(&self, delta: &Delta<EndpointConsumer>) {
        // Only a creation that was seen as it happened, before any word, tells when the registration was made.
        let created = match (&delta.before, &delta.after) {
            (None, Some(after)) if !delta.listed && after.status.is_none() => {
                after.metadata.uid.clone().map(|uid| (uid, meta::revision(&after.metadata)))
            }
            _ => None,
        };
        self.inbox.leave(|dirty| {
            let entry = dirty.consumers.entry(delta.key.clone()).or_default();
            if created.is_some() {
                *entry = created;
            }
        });
    }

    /// Everything about a Pod that the loop decides from.
    pub(super) fn sight(&self, pod: &Pod) -> Sight {
        self.slices.lock().sight(pod, &self.members.services_for(pod))
    }
}

/// Whether a Pod's step changes nothing that the loop looks at.
fn same_to_the_loop(delta: &Delta<Pod>) -> bool {
    let (Some(before), Some(after)) = (&delta.before, &delta.after) else { return false };
    let told = |type_| read::condition(before, type_) == read::condition(after, type_);
    told("Ready")
        && told(well_known::PROGRAMMED)
        && told(well_known::WITHDRAWN)
        && read::is_terminating(before) == read::is_terminating(after)
        && read::is_finished(before) == read::is_finished(after)
        && before.metadata.labels == after.metadata.labels
        && before.metadata.uid == after.metadata.uid
        && desired::addresses(before).eq(desired::addresses(after))
}
