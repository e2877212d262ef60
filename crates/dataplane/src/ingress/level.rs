//! What the API says, as far as the ingress follows it: the consumer's level. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use hitless_base::Revision;
use hitless_client::Change;
use hitless_types::meta;
use k8s_openapi::api::{
    core::v1::{Secret, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressClass},
};

use super::{
    endpoint::EndpointId,
    records::{BackendRef, ClassRecord, IngressRecord, SecretRecord, ServiceRecord, SliceRecord},
    routes::Routing,
    table::endpoints_of,
};
use crate::consumer::Level;

/// One step of a stream of objects that are kept by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keyed<R> {
    /// All there are.
    Listed(Vec<(String, R)>),
    /// New or changed. None: changed to something that says nothing here.
    Applied(String, Option<R>),
    /// Gone.
    Deleted(String),
}

/// One step of any stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Of Ingresses.
    Ingress(Keyed<IngressRecord>),
    /// Of IngressClasses.
    Class(Keyed<ClassRecord>),
    /// Of Services.
    Service(Keyed<ServiceRecord>),
    /// Of Secrets.
    Secret(Keyed<SecretRecord>),
    /// Of EndpointSlices, which has come to the revision.
    Slice(Keyed<SliceRecord>, Revision),
    /// No EndpointSlice changed up to here.
    Reached(Revision),
}

fn keyed<K, R>(change: Change<K>, record: impl Fn(&K) -> Option<R>) -> Option<Keyed<R>>
where
    K: k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
{
    let key = |object: &K| meta::key(object.metadata());
    Some(match change {
        Change::Listed { objects, .. } => {
            Keyed::Listed(objects.iter().filter_map(|o| Some((key(o), record(o)?))).collect())
        }
        Change::Applied(object) => Keyed::Applied(key(&object), record(&object)),
        Change::Deleted(object) => Keyed::Deleted(key(&object)),
        Change::Reached(_) => return None,
    })
}

impl Step {
    /// Of the stream of Ingresses.
    #[must_use]
    pub fn of_ingress(change: Change<Ingress>) -> Option<Self> {
        keyed(change, |ingress| Some(IngressRecord::of(ingress))).map(Self::Ingress)
    }
    /// Of the stream of IngressClasses.
    #[must_use]
    pub fn of_class(change: Change<IngressClass>) -> Option<Self> {
        keyed(change, |class| Some(ClassRecord::of(class))).map(Self::Class)
    }
    /// Of the stream of Services.
    #[must_use]
    pub fn of_service(change: Change<Service>) -> Option<Self> {
        keyed(change, |service| Some(ServiceRecord::of(service))).map(Self::Service)
    }
    /// Of the stream of Secrets.
    #[must_use]
    pub fn of_secret(change: Change<Secret>) -> Option<Self> {
        keyed(change, SecretRecord::of).map(Self::Secret)
    }
    /// Of the stream of EndpointSlices.
    #[must_use]
    pub fn of_slice(change: Change<EndpointSlice>) -> Option<Self> {
        let revision = match &change {
            Change::Listed { revision, .. } | Change::Reached(revision) => *revision,
            Change::Applied(slice) | Change::Deleted(slice) => meta::revision(&slice.metadata),
        };
        let step = keyed(change, |slice| Some(SliceRecord::of(slice)));
        Some(step.map_or(Self::Reached(revision), |step| Self::Slice(step, revision)))
    }
}

/// Objects of one kind, and whether they were listed.
#[derive(Debug)]
struct Kept<R> {
    by_key: BTreeMap<String, R>,
    listed: bool,
}

impl<R> Default for Kept<R> {
    fn default() -> Self {
        Self { by_key: BTreeMap::new(), listed: false }
    }
}

impl<R: PartialEq> Kept<R> {
    /// Takes a step; gives each object that changed, before and after.
    fn take(&mut self, step: Keyed<R>, mut changed: impl FnMut(&str, Option<&R>, Option<&R>)) {
        match step {
            Keyed::Listed(objects) => {
                let mut before = std::mem::take(&mut self.by_key);
                for (key, after) in objects {
                    let old = before.remove(&key);
                    if old.as_ref() != Some(&after) {
                        changed(&key, old.as_ref(), Some(&after));
                    }
                    self.by_key.insert(key, after);
                }
                before.iter().for_each(|(key, old)| changed(key, Some(old), None));
                self.listed = true;
            }
            Keyed::Applied(key, Some(after)) => {
                let old = self.by_key.get(&key);
                if old != Some(&after) {
                    changed(&key, old, Some(&after));
                    self.by_key.insert(key, after);
                }
            }
            Keyed::Applied(key, None) | Keyed::Deleted(key) => {
                if let Some(old) = self.by_key.remove(&key) {
                    changed(&key, Some(&old), None);
                }
            }
        }
    }
}

/// A certificate that an Ingress asks for, with the Secret that holds it, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The hosts that it is for.
    pub hosts: Vec<String>,
    /// `namespace/name` of the Secret.
    pub secret: String,
    /// What it holds.
    pub held: Option<SecretRecord>,
}

/// What changed.
#[derive(Debug, Default)]
pub struct Dirty {
    /// The routes, if they may be other than before. Every backend is among `endpoints` then.
    pub routing: Option<Routing>,
    /// The certificates, if they may be other than before.
    pub certificates: Option<Vec<Certificate>>,
    /// Backends whose endpoints may be other than before. A Service or port that is not there has none.
    pub endpoints: HashMap<BackendRef, Vec<EndpointId>>,
}

/// All that the ingress knows.
#[derive(Debug, Default)]
pub struct IngressLevel {
    ingresses: Kept<IngressRecord>,
    classes: Kept<ClassRecord>,
    services: Kept<ServiceRecord>,
    secrets: Kept<SecretRecord>,
    slices: Kept<SliceRecord>,
    slices_of: HashMap<String, BTreeSet<String>>,
    /// Backends in use, by Service.
    backends: HashMap<String, BTreeSet<BackendRef>>,
    /// Secrets in use.
    certificates: Vec<(Vec<String>, String)>,
    routes_dirty: bool,
    secrets_dirty: bool,
    services_dirty: HashSet<String>,
    revision: Revision,
}

impl IngressLevel {
    fn endpoints(&self, backend: &BackendRef) -> Vec<EndpointId> {
        let slices = self.slices_of.get(&backend.service).into_iter().flatten();
        let slices = slices.filter_map(|key| self.slices.by_key.get(key));
        let service = self.services.by_key.get(&backend.service);
        endpoints_of(service, &backend.port, slices).unwrap_or_default()
    }

    fn take_slice(&mut self, step: Keyed<SliceRecord>) {
        let Self { slices, slices_of, services_dirty, .. } = self;
        slices.take(step, |key, before, after| {
            for slice in [before, after].into_iter().flatten() {
                services_dirty.insert(slice.service.clone());
            }
            if let Some(before) = before
                && let Some(keys) = slices_of.get_mut(&before.service)
            {
                keys.remove(key);
                if keys.is_empty() {
                    slices_of.remove(&before.service);
                }
            }
            if let Some(after) = after {
                slices_of.entry(after.service.clone()).or_default().insert(key.to_owned());
            }
        });
    }

    fn rebuild(&mut self) -> Routing {
        let classes = &self.classes.by_key;
        let served = self.ingresses.by_key.values().filter(|ingress| ingress.is_served(classes.values()));
        let routing = Routing::build(served);
        self.backends.clear();
        for backend in &routing.backends {
            self.backends.entry(backend.service.clone()).or_default().insert(backend.clone());
        }
        self.certificates = routing.tls.iter().map(|tls| (tls.hosts.clone(), tls.secret.clone())).collect();
        routing
    }
}

impl Level for IngressLevel {
    type Step = Step;
    type Dirty = Dirty;

    fn take(&mut self, step: Step) {
        match step {
            Step::Ingress(step) => self.ingresses.take(step, |_, _, _| self.routes_dirty = true),
            Step::Class(step) => self.classes.take(step, |_, _, _| self.routes_dirty = true),
            Step::Service(step) => {
                let dirty = &mut self.services_dirty;
                self.services.take(step, |key, _, _| {
                    dirty.insert(key.to_owned());
                });
            }
            Step::Secret(step) => {
                let (dirty, used) = (&mut self.secrets_dirty, &self.certificates);
                self.secrets.take(step, |key, _, _| *dirty |= used.iter().any(|(_, secret)| secret == key));
            }
            Step::Slice(step, revision) => {
                // Only a list may set the position back.
                let listed = matches!(step, Keyed::Listed(_));
                self.take_slice(step);
                self.revision = if listed { revision } else { self.revision.max(revision) };
            }
            Step::Reached(revision) => self.revision = self.revision.max(revision),
        }
    }

    fn is_complete(&self) -> bool {
        self.ingresses.listed
            && self.classes.listed
            && self.services.listed
            && self.secrets.listed
            && self.slices.listed
    }

    fn revision(&self) -> Revision {
        self.revision
    }

    fn take_dirty(&mut self) -> Dirty {
        let mut dirty = Dirty::default();
        let services = std::mem::take(&mut self.services_dirty);
        if std::mem::take(&mut self.routes_dirty) {
            let routing = self.rebuild();
            dirty.endpoints =
                routing.backends.iter().map(|backend| (backend.clone(), self.endpoints(backend))).collect();
            dirty.routing = Some(routing);
            self.secrets_dirty = true;
        } else {
            for backend in services.iter().filter_map(|service| self.backends.get(service)).flatten() {
                dirty.endpoints.insert(backend.clone(), self.endpoints(backend));
            }
        }
        if std::mem::take(&mut self.secrets_dirty) {
            let certificate = |(hosts, secret): &(Vec<String>, String)| Certificate {
                hosts: hosts.clone(),
                secret: secret.clone(),
                held: self.secrets.by_key.get(secret).cloned(),
            };
            dirty.certificates = Some(self.certificates.iter().map(certificate).collect());
        }
        dirty
    }
}
