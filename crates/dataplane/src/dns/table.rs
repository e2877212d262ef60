//! From Services and EndpointSlices, as they come, to the zone: which names there are, at a revision of the slices' stream.
//!
//! Pure. Only what changed is worked out again, and always from the level, never from the events' order.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use hickory_proto::rr::Name;
use hitless_base::Revision;
use hitless_client::Change;
use hitless_types::meta;
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};

use super::{
    records::{NamedPort, ServiceRecord, SliceRecord, Target},
    zone::{Domain, Host, Names, Zone},
};

/// One step of a stream, cut down to what names need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// All Services there are.
    ServicesListed(Vec<ServiceRecord>),
    /// A Service is new or changed.
    ServiceApplied(ServiceRecord),
    /// A Service (`namespace/name`) is gone.
    ServiceDeleted(String),
    /// All EndpointSlices there are, as of the revision.
    SlicesListed(Vec<SliceRecord>, Revision),
    /// An EndpointSlice is new or changed.
    SliceApplied(SliceRecord, Revision),
    /// An EndpointSlice (`namespace/name`) is gone.
    SliceDeleted(String, Revision),
    /// No EndpointSlice changed up to here.
    SlicesReached(Revision),
    /// All namespaces there are.
    NamespacesListed(HashSet<String>),
    /// A namespace is there (`true`) or gone.
    Namespace(String, bool),
}

impl Step {
    /// A step of the Service stream; bookmarks say nothing here.
    #[must_use]
    pub fn of_service(change: Change<Service>) -> Option<Self> {
        Some(match change {
            Change::Listed { objects, .. } => {
                Self::ServicesListed(objects.iter().map(ServiceRecord::of).collect())
            }
            Change::Applied(service) => Self::ServiceApplied(ServiceRecord::of(&service)),
            Change::Deleted(service) => Self::ServiceDeleted(meta::key(&service.metadata)),
            Change::Reached(_) => return None,
        })
    }

    /// A step of the EndpointSlice stream.
    #[must_use]
    pub fn of_slice(change: Change<EndpointSlice>) -> Self {
        let at = |slice: &EndpointSlice| meta::revision(&slice.metadata);
        match change {
            Change::Listed { objects, revision } => {
                Self::SlicesListed(objects.iter().map(SliceRecord::of).collect(), revision)
            }
            Change::Applied(slice) => Self::SliceApplied(SliceRecord::of(&slice), at(&slice)),
            Change::Deleted(slice) => Self::SliceDeleted(meta::key(&slice.metadata), at(&slice)),
            Change::Reached(revision) => Self::SlicesReached(revision),
        }
    }

    /// A step of the namespaces' stream; bookmarks say nothing here.
    #[must_use]
    pub fn of_namespace(change: Change<Namespace>) -> Option<Self> {
        let name = |namespace: Namespace| namespace.metadata.name.unwrap_or_default();
        Some(match change {
            Change::Listed { objects, .. } => Self::NamespacesListed(objects.into_iter().map(name).collect()),
            Change::Applied(namespace) => Self::Namespace(name(namespace), true),
            Change::Deleted(namespace) => Self::Namespace(name(namespace), false),
            Change::Reached(_) => return None,
        })
    }
}

/// Services, slices, namespaces, and the zone that follows from them.
#[derive(Debug)]
pub struct NameTable {
    services: HashMap<String, ServiceRecord>,
    slices: HashMap<String, SliceRecord>,
    by_service: HashMap<String, BTreeSet<String>>,
    namespaces: HashSet<String>,
    namespaces_changed: bool,
    dirty: HashSet<String>,
    zone: Zone,
    revision: Revision,
    services_listed: bool,
    slices_listed: bool,
    namespaces_listed: bool,
}

impl NameTable {
    /// An empty table, before any list.
    #[must_use]
    pub fn new(domain: Domain) -> Self {
        Self {
            services: HashMap::new(),
            slices: HashMap::new(),
            by_service: HashMap::new(),
            namespaces: HashSet::new(),
            namespaces_changed: false,
            dirty: HashSet::new(),
            zone: Zone::new(domain),
            revision: Revision::ZERO,
            services_listed: false,
            slices_listed: false,
            namespaces_listed: false,
        }
    }

    /// The position of the EndpointSlice stream that the table is true at. It falls only when a list says so.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Whether all streams have given their first list: before that nothing must be answered from the table.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.services_listed && self.slices_listed && self.namespaces_listed
    }

    /// Takes one step of a stream.
    pub fn take(&mut self, step: Step) {
        match step {
            Step::ServicesListed(services) => {
                let listed: HashSet<_> = services.iter().map(|s| s.key.clone()).collect();
                let gone: Vec<_> =
                    self.services.keys().filter(|key| !listed.contains(*key)).cloned().collect();
                gone.iter().for_each(|key| self.remove_service(key));
                services.into_iter().for_each(|service| self.put_service(service));
                self.services_listed = true;
            }
            Step::ServiceApplied(service) => self.put_service(service),
            Step::ServiceDeleted(key) => self.remove_service(&key),
            Step::SlicesListed(slices, revision) => {
                let listed: HashSet<_> = slices.iter().map(|s| s.key.clone()).collect();
                let gone: Vec<_> = self.slices.keys().filter(|key| !listed.contains(*key)).cloned().collect();
                gone.iter().for_each(|key| self.remove_slice(key));
                slices.into_iter().for_each(|slice| self.put_slice(slice));
                self.revision = revision;
                self.slices_listed = true;
            }
            Step::SliceApplied(slice, revision) => {
                self.put_slice(slice);
                self.revision = self.revision.max(revision);
            }
            Step::SliceDeleted(key, revision) => {
                self.remove_slice(&key);
                self.revision = self.revision.max(revision);
            }
            Step::SlicesReached(revision) => self.revision = self.revision.max(revision),
            Step::NamespacesListed(names) => {
                self.namespaces = names;
                self.namespaces_changed = true;
                self.namespaces_listed = true;
            }
            Step::Namespace(name, is_there) => {
                let changed =
                    if is_there { self.namespaces.insert(name) } else { self.namespaces.remove(&name) };
                self.namespaces_changed |= changed;
            }
        }
    }

    /// The zone as it is now. Works out what changed since the last call.
    pub fn zone(&mut self) -> Zone {
        for key in std::mem::take(&mut self.dirty) {
            let names = self.names(&key);
            self.zone.set_service(&key, names);
        }
        if std::mem::take(&mut self.namespaces_changed) {
            self.zone.set_namespaces(self.namespaces.clone());
        }
        self.zone.set_revision(self.revision);
        self.zone.clone()
    }

    /// What a Service answers now; `None`: there is no such Service, or its name cannot be said in DNS.
    fn names(&self, key: &str) -> Option<Names> {
        let service = self.services.get(key)?;
        let (namespace, label) = meta::split_key(key);
        let name = self.zone.domain().below(&[label, namespace, "svc"])?;
        let mut names = Names {
            name,
            addresses: Vec::new(),
            hosts: Vec::new(),
            ports: Vec::new(),
            alias: None,
            is_vacant: false,
        };
        match &service.target {
            Target::ClusterIps(addresses, ports) => {
                names.addresses.clone_from(addresses);
                names.ports.clone_from(ports);
            }
            Target::External(target) => {
                let mut target = Name::from_ascii(target).ok().filter(|name| !name.is_root())?;
                target.set_fqdn(true);
                names.alias = Some(target);
            }
            Target::Headless => {
                names.hosts = self.hosts(key, &names.name);
                let addresses: BTreeSet<IpAddr> = names.hosts.iter().map(|host| host.address).collect();
                names.addresses = addresses.into_iter().collect();
                // "If there are no ready endpoints for the headless service, the answer should be NXDOMAIN."
                names.is_vacant = names.hosts.is_empty();
            }
        }
        Some(names)
    }

    /// Endpoints of a headless Service: each label and address once, with the ports of all slices that have it.
    fn hosts(&self, key: &str, service: &Name) -> Vec<Host> {
        let mut found: BTreeMap<(&str, IpAddr), BTreeSet<NamedPort>> = BTreeMap::new();
        for slice in self.by_service.get(key).into_iter().flatten().filter_map(|key| self.slices.get(key)) {
            for (label, address) in &slice.hosts {
                found.entry((label, *address)).or_default().extend(slice.ports.iter().cloned());
            }
        }
        let hosts = found.into_iter().filter_map(|((label, address), ports)| {
            let mut name = service.prepend_label(label.as_bytes()).ok()?;
            name.set_fqdn(true);
            Some(Host {
                label: label.to_owned(),
                address,
                name,
                ports: ports.into_iter().collect::<Arc<[_]>>(),
            })
        });
        hosts.collect()
    }

    fn put_service(&mut self, service: ServiceRecord) {
        if self.services.get(&service.key) != Some(&service) {
            self.dirty.insert(service.key.clone());
            self.services.insert(service.key.clone(), service);
        }
    }

    fn remove_service(&mut self, key: &str) {
        if self.services.remove(key).is_some() {
            self.dirty.insert(key.to_owned());
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

    /// Slices say something of names only where the Service is headless.
    fn touch(&mut self, service: &str) {
        if self.services.get(service).is_some_and(|s| s.target == Target::Headless) {
            self.dirty.insert(service.to_owned());
        }
    }
}
