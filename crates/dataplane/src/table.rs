//! The endpoint table: who serves which service address, at a revision of the EndpointSlice stream.
//!
//! Pure. It takes Services and EndpointSlices as they come and says which service ports want another look; what
//! such a port's endpoints are is then worked out from the level, never from the events' order.
//!
//! What must hold: an endpoint is listed only while some slice lists it as usable, by the rules of KEP-1669: ready ones; if no
//! endpoint of the port is ready, those that terminate and still serve. Where policy leads to the node's own endpoints only, both
//! halves of the rule are about those.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use hitless_base::Revision;
use hitless_client::Change;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use crate::program::{Endpoint, Routing, ServicePort};

mod records;
pub use records::{EndpointRecord, ServiceRecord, SliceRecord};

/// `namespace/name` of a Service.
pub type ServiceKey = String;

/// One step of either stream, cut down to what routing needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableChange {
    /// All Services there are.
    ServicesListed(Vec<ServiceRecord>),
    /// A Service is new or changed.
    ServiceApplied(ServiceRecord),
    /// A Service is gone.
    ServiceDeleted(ServiceKey),
    /// All EndpointSlices there are, as of the revision.
    SlicesListed(Vec<SliceRecord>, Revision),
    /// An EndpointSlice is new or changed.
    SliceApplied(SliceRecord, Revision),
    /// An EndpointSlice (`namespace/name`) is gone.
    SliceDeleted(String, Revision),
    /// No EndpointSlice changed up to here.
    SlicesReached(Revision),
}

impl TableChange {
    /// A step of the Service stream; bookmarks say nothing here.
    #[must_use]
    pub fn of_service(change: Change<Service>) -> Option<Self> {
        Some(match change {
            Change::Listed { objects, .. } => {
                Self::ServicesListed(objects.iter().map(ServiceRecord::of).collect())
            }
            Change::Applied(service) => Self::ServiceApplied(ServiceRecord::of(&service)),
            Change::Deleted(service) => Self::ServiceDeleted(hitless_types::meta::key(&service.metadata)),
            Change::Reached(_) => return None,
        })
    }

    /// A step of the EndpointSlice stream, as this node sees it.
    #[must_use]
    pub fn of_slice(change: Change<EndpointSlice>, node_name: &str) -> Self {
        let at = |slice: &EndpointSlice| hitless_types::meta::revision(&slice.metadata);
        match change {
            Change::Listed { objects, revision } => {
                let records = objects.iter().map(|slice| SliceRecord::of(slice, node_name));
                Self::SlicesListed(records.collect(), revision)
            }
            Change::Applied(slice) => Self::SliceApplied(SliceRecord::of(&slice, node_name), at(&slice)),
            Change::Deleted(slice) => {
                Self::SliceDeleted(hitless_types::meta::key(&slice.metadata), at(&slice))
            }
            Change::Reached(revision) => Self::SlicesReached(revision),
        }
    }
}

/// Services, slices, and what follows from them.
#[derive(Debug, Default)]
pub struct EndpointTable {
    services: HashMap<ServiceKey, ServiceRecord>,
    slices: HashMap<String, SliceRecord>,
    by_service: HashMap<ServiceKey, BTreeSet<String>>,
    /// Who claims a service port. More than one only while a Service replaces another under the same address:
    /// the first by name has it.
    claims: HashMap<ServicePort, BTreeSet<ServiceKey>>,
    dirty: HashSet<ServicePort>,
    revision: Revision,
    services_listed: bool,
    slices_listed: bool,
}

impl EndpointTable {
    /// An empty table, before any list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The position of the EndpointSlice stream that the table is true at. It falls only when a list says so.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Whether both streams have given their first list: before that the table must not be programmed.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.services_listed && self.slices_listed
    }

    /// Takes one step of a stream.
    pub fn take(&mut self, change: TableChange) {
        match change {
            TableChange::ServicesListed(services) => {
                let listed: HashSet<_> = services.iter().map(|s| s.key.clone()).collect();
                let gone: Vec<_> =
                    self.services.keys().filter(|key| !listed.contains(*key)).cloned().collect();
                gone.iter().for_each(|key| self.remove_service(key));
                services.into_iter().for_each(|service| self.put_service(service));
                self.services_listed = true;
            }
            TableChange::ServiceApplied(service) => self.put_service(service),
            TableChange::ServiceDeleted(key) => self.remove_service(&key),
            TableChange::SlicesListed(slices, revision) => {
                let listed: HashSet<_> = slices.iter().map(|s| s.key.clone()).collect();
                let gone: Vec<_> = self.slices.keys().filter(|key| !listed.contains(*key)).cloned().collect();
                gone.iter().for_each(|key| self.remove_slice(key));
                slices.into_iter().for_each(|slice| self.put_slice(slice));
                self.revision = revision;
                self.slices_listed = true;
            }
            TableChange::SliceApplied(slice, revision) => {
                self.put_slice(slice);
                self.revision = self.revision.max(revision);
            }
            TableChange::SliceDeleted(key, revision) => {
                self.remove_slice(&key);
                self.revision = self.revision.max(revision);
            }
            TableChange::SlicesReached(revision) => self.revision = self.revision.max(revision),
        }
    }

    /// What changed since the last call: each service port with what is to be done with its connections now;
    /// `None`: the service port is gone. Some may turn out as they were.
    pub fn take_dirty(&mut self) -> BTreeMap<ServicePort, Option<Routing>> {
        std::mem::take(&mut self.dirty).into_iter().map(|port| (port, self.routing(port))).collect()
    }

    /// What is to be done with connections to a service port; `None`: no Service has it.
    #[must_use]
    pub fn routing(&self, port: ServicePort) -> Option<Routing> {
        let key = self.claims.get(&port)?.first()?;
        let service = self.services.get(key)?;
        let (name, is_local) = service.find(port)?;
        let (mut everywhere, mut here) = (Usable::default(), Usable::default());
        for slice in self.by_service.get(key).into_iter().flatten().filter_map(|key| self.slices.get(key)) {
            for target in slice.ports.iter().filter(|p| p.name == name && p.protocol == port.protocol) {
                for record in &slice.endpoints {
                    let endpoint = Endpoint { address: record.address, port: target.port };
                    everywhere.take(record, endpoint);
                    if is_local && record.local {
                        here.take(record, endpoint);
                    }
                }
            }
        }
        let (endpoints, elsewhere) = if is_local {
            (here.endpoints(), !everywhere.is_empty())
        } else {
            (everywhere.endpoints(), false)
        };
        Some(Routing {
            elsewhere: elsewhere && endpoints.is_empty(),
            endpoints,
            affinity_s: service.affinity_s,
        })
    }

    fn put_service(&mut self, service: ServiceRecord) {
        if self.services.get(&service.key) == Some(&service) {
            return;
        }
        self.remove_service(&service.key);
        for port in service.service_ports() {
            self.claims.entry(port).or_default().insert(service.key.clone());
            self.dirty.insert(port);
        }
        self.services.insert(service.key.clone(), service);
    }

    fn remove_service(&mut self, key: &str) {
        let Some(service) = self.services.remove(key) else { return };
        for port in service.service_ports() {
            self.dirty.insert(port);
            if let Some(claims) = self.claims.get_mut(&port) {
                claims.remove(key);
                if claims.is_empty() {
                    self.claims.remove(&port);
                }
            }
        }
    }

    fn put_slice(&mut self, slice: SliceRecord) {
        if self.slices.get(&slice.key) == Some(&slice) {
            return;
        }
        self.remove_slice(&slice.key);
        self.by_service.entry(slice.service.clone()).or_default().insert(slice.key.clone());
        self.touch(&slice.service);
        self.slices.insert(slice.key.clone(), slice);
    }

    fn remove_slice(&mut self, key: &str) {
        let Some(slice) = self.slices.remove(key) else { return };
        if let Some(slices) = self.by_service.get_mut(&slice.service) {
            slices.remove(key);
            if slices.is_empty() {
                self.by_service.remove(&slice.service);
            }
        }
        self.touch(&slice.service);
    }

    fn touch(&mut self, service: &str) {
        let ports = self.services.get(service).into_iter().flat_map(ServiceRecord::service_ports);
        self.dirty.extend(ports);
    }
}

/// The endpoints that may be used, by the rules of KEP-1669.
#[derive(Default)]
struct Usable {
    ready: BTreeSet<Endpoint>,
    serving_terminating: BTreeSet<Endpoint>,
}

impl Usable {
    fn take(&mut self, record: &EndpointRecord, endpoint: Endpoint) {
        if record.ready {
            self.ready.insert(endpoint);
        } else if record.serving && record.terminating {
            self.serving_terminating.insert(endpoint);
        }
    }

    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.serving_terminating.is_empty()
    }

    fn endpoints(self) -> Vec<Endpoint> {
        let usable = if self.ready.is_empty() { self.serving_terminating } else { self.ready };
        usable.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
