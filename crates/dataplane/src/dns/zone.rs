//! All names of the cluster, at a revision of the EndpointSlice stream, and what they answer.
//!
//! Pure and immutable: a copy is cheap, and does not change when its original does. Answers follow the specification of DNS-based
//! service discovery in Kubernetes, schema 1.1.0 (<https://github.com/kubernetes/dns/blob/master/docs/specification.md>).
//!
//! What must hold: an address is in an answer only while some slice publishes it; the same question gets the same records, whatever
//! the order in which Services and slices came.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT},
};
use hitless_base::Revision;
use ipnet::IpNet;

use super::{
    records::{NamedPort, address_of},
    shards::Shards,
};

/// How long an answer may be kept, and so the settle time of DNS as a consumer. Seconds.
pub const TTL_S: u32 = 5;
/// Version of the schema of names.
const SCHEMA_VERSION: &str = "1.1.0";
/// Addresses in one answer: what fits into the largest message, with room to spare.
const ADDRESSES_MAX: usize = 1_500;
/// SRV records in one answer; each brings an address along.
const SRV_MAX: usize = 500;

/// What does not change while the server runs.
#[derive(Clone, Debug)]
pub struct Domain {
    /// `cluster.local.`
    pub name: Name,
    /// Labels of it.
    labels: usize,
    /// Address ranges for which the reverse names are ours: nobody else is asked about them.
    pub ranges: Vec<IpNet>,
}

impl Domain {
    /// The cluster's domain (`cluster.local`) and its ranges of addresses.
    ///
    /// # Errors
    /// The domain is no name.
    pub fn new(domain: &str, ranges: Vec<IpNet>) -> Result<Self, hickory_proto::ProtoError> {
        let mut name = Name::from_ascii(domain)?.to_lowercase();
        name.set_fqdn(true);
        Ok(Self { labels: name.iter().count(), name, ranges })
    }

    /// A name below the domain.
    pub(super) fn below(&self, labels: &[&str]) -> Option<Name> {
        let labels = labels.iter().map(|label| label.as_bytes()).chain(self.name.iter());
        let mut name = Name::from_labels(labels).ok()?;
        name.set_fqdn(true);
        Some(name)
    }
}

/// What a Service's name answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// `SERVICE.NAMESPACE.svc.DOMAIN.`
    pub name: Name,
    /// Addresses under the name itself.
    pub addresses: Vec<IpAddr>,
    /// Hosts below it, sorted by label; of a headless Service only.
    pub hosts: Vec<Host>,
    /// Ports of a Service with cluster IPs.
    pub ports: Vec<NamedPort>,
    /// The other name that it stands for.
    pub alias: Option<Name>,
    /// Whether there is nothing to find under the name, because it has no endpoint.
    pub is_vacant: bool,
}

/// An endpoint of a headless Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host {
    /// Its label below the Service's name.
    pub label: String,
    /// Its address.
    pub address: IpAddr,
    /// Its whole name.
    pub name: Name,
    /// Its ports.
    pub ports: Arc<[NamedPort]>,
}

/// What a question gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// These records.
    Found {
        /// What was asked for.
        answers: Vec<Record>,
        /// Addresses of the targets.
        additionals: Vec<Record>,
    },
    /// The name is there, but has no such records.
    NoData,
    /// There is no such name.
    NoName,
    /// Another name: its own records are to be found for the answer to be whole.
    Alias {
        /// The CNAME.
        record: Box<Record>,
        /// The other name.
        target: Name,
    },
    /// None of our names: others are to be asked.
    Elsewhere,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Zone {
    domain: Arc<Domain>,
    revision: Revision,
    /// `namespace/name` -> what it answers.
    services: Shards<Arc<str>, Arc<Names>>,
    /// Address -> names, each with the Service that it is of.
    reverse: Shards<IpAddr, Vec<(Arc<str>, Name)>>,
    namespaces: Arc<HashSet<String>>,
}

impl Zone {
    /// A zone without a Service.
    #[must_use]
    pub fn new(domain: Domain) -> Self {
        Self {
            domain: Arc::new(domain),
            revision: Revision::ZERO,
            services: Shards::default(),
            reverse: Shards::default(),
            namespaces: Arc::default(),
        }
    }

    /// The position of the EndpointSlice stream that the zone is true at.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How many Services have a name.
    #[must_use]
    pub fn services(&self) -> usize {
        self.services.len()
    }

    pub(super) fn domain(&self) -> &Domain {
        &self.domain
    }

    pub(super) fn set_revision(&mut self, revision: Revision) {
        self.revision = revision;
    }

    pub(super) fn set_namespaces(&mut self, namespaces: HashSet<String>) {
        self.namespaces = Arc::new(namespaces);
    }

    /// Puts what a Service answers; `None`: it is gone.
    pub(super) fn set_service(&mut self, key: &str, names: Option<Names>) {
        let old = self.services.get(key).cloned();
        if old.as_deref() == names.as_ref() {
            return;
        }
        let key: Arc<str> = key.into();
        for (address, _) in old.iter().flat_map(|old| reverse_of(old)) {
            let mut left = self.reverse.get(&address).cloned().unwrap_or_default();
            left.retain(|(of, _)| *of != key);
            self.reverse.set(address, (!left.is_empty()).then_some(left));
        }
        for (address, name) in names.iter().flat_map(reverse_of) {
            let mut all = self.reverse.get(&address).cloned().unwrap_or_default();
            all.push((key.clone(), name));
            all.sort();
            self.reverse.set(address, Some(all));
        }
        self.services.set(key, names.map(Arc::new));
    }

    /// What the question gets. `turn` is where lists of addresses begin, so that not everybody takes the same first one.
    #[must_use]
    pub fn answer(&self, name: &Name, type_: RecordType, turn: usize) -> Answer {
        if self.domain.name.zone_of(name) {
            return self.answer_own(name, type_, turn);
        }
        match reverse_address(name) {
            Some(address) => self.answer_reverse(name, type_, address),
            None => Answer::Elsewhere,
        }
    }

    fn answer_own(&self, name: &Name, type_: RecordType, turn: usize) -> Answer {
        let all = usize::from(name.num_labels()).max(name.iter().count());
        let mut own: Vec<String> = Vec::with_capacity(5);
        for label in name.iter().take(all.saturating_sub(self.domain.labels)) {
            match std::str::from_utf8(label) {
                Ok(text) if own.len() < 5 => own.push(text.to_ascii_lowercase()),
                _ => return Answer::NoName,
            }
        }
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        match own[..] {
            [] => self.answer_apex(name, type_),
            ["dns-version"] => {
                let text = RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()]));
                only(name, type_, RecordType::TXT, vec![text])
            }
            ["svc" | "pod"] => Answer::NoData,
            [namespace, "svc" | "pod"] if self.namespaces.contains(namespace) => Answer::NoData,
            [label, namespace, "pod"] => self.answer_pod(name, type_, label, namespace),
            [service, namespace, "svc"] => match self.service(namespace, service) {
                Some(names) => names.answer(name, type_, turn),
                None => Answer::NoName,
            },
            [inner, service, namespace, "svc"] => match self.service(namespace, service) {
                Some(names) => names.answer_inner(name, type_, inner),
                None => Answer::NoName,
            },
            [port, protocol, service, namespace, "svc"] => match self.service(namespace, service) {
                Some(names) => names.answer_port(name, type_, (port, protocol), turn),
                None => Answer::NoName,
            },
            _ => Answer::NoName,
        }
    }

    fn service(&self, namespace: &str, service: &str) -> Option<&Names> {
        let mut key = String::with_capacity(namespace.len() + service.len() + 1);
        key.push_str(namespace);
        key.push('/');
        key.push_str(service);
        self.services.get(key.as_str()).map(|names| &**names).filter(|names| !names.is_vacant)
    }

    fn answer_apex(&self, name: &Name, type_: RecordType) -> Answer {
        match type_ {
            RecordType::SOA => only(name, type_, RecordType::SOA, vec![self.soa_data()]),
            RecordType::NS => only(name, type_, RecordType::NS, vec![RData::NS(NS(self.server_name()))]),
            _ => Answer::NoData,
        }
    }

    /// `10-1-2-3.NAMESPACE.pod`: whatever the address is, as Kubernetes answers it; deprecated there, and much used.
    fn answer_pod(&self, name: &Name, type_: RecordType, label: &str, namespace: &str) -> Answer {
        match address_of(label).filter(|_| self.namespaces.contains(namespace)) {
            Some(address) => addresses(name, type_, &[address], 0),
            None => Answer::NoName,
        }
    }

    fn answer_reverse(&self, name: &Name, type_: RecordType, address: IpAddr) -> Answer {
        match self.reverse.get(&address) {
            Some(names) => {
                let data = names.iter().map(|(_, name)| RData::PTR(PTR(name.clone()))).collect();
                only(name, type_, RecordType::PTR, data)
            }
            None if self.domain.ranges.iter().any(|range| range.contains(&address)) => Answer::NoName,
            None => Answer::Elsewhere,
        }
    }

    /// The record that goes with every negative answer: it says for how long that may be kept.
    #[must_use]
    pub fn soa(&self, asked: &Name) -> Record {
        let range = reverse_address(asked)
            .and_then(|address| self.domain.ranges.iter().find(|range| range.contains(&address)));
        let owner = range.map_or_else(|| self.domain.name.clone(), reverse_zone);
        Record::from_rdata(owner, TTL_S, self.soa_data())
    }

    fn server_name(&self) -> Name {
        self.domain.below(&["kube-dns", "kube-system", "svc"]).unwrap_or_else(|| self.domain.name.clone())
    }

    fn soa_data(&self) -> RData {
        let mailbox = self.domain.below(&["hostmaster"]).unwrap_or_else(|| self.domain.name.clone());
        // Serial numbers wrap around, so the lower half of the revision will do.
        let serial = u32::try_from(self.revision.0 & u64::from(u32::MAX)).unwrap_or_default();
        RData::SOA(SOA::new(self.server_name(), mailbox, serial, 7200, 1800, 86_400, TTL_S))
    }
}

impl Names {
    fn answer(&self, name: &Name, type_: RecordType, turn: usize) -> Answer {
        if let Some(target) = &self.alias {
            let record = Record::from_rdata(name.clone(), TTL_S, RData::CNAME(CNAME(target.clone())));
            return match type_ {
                RecordType::CNAME | RecordType::ANY => {
                    Answer::Found { answers: vec![record], additionals: Vec::new() }
                }
                _ => Answer::Alias { record: Box::new(record), target: target.clone() },
            };
        }
        match type_ {
            RecordType::SRV => self.srv(name, |_| true, turn),
            _ => addresses(name, type_, &self.addresses, turn),
        }
    }

    /// A host, or the protocol above ports.
    fn answer_inner(&self, name: &Name, type_: RecordType, label: &str) -> Answer {
        if let Some(protocol) = label.strip_prefix('_') {
            let has = |port: &NamedPort| !port.name.is_empty() && port.protocol == protocol;
            let mut of_hosts = self.hosts.iter().flat_map(|host| host.ports.iter());
            return if self.ports.iter().any(has) || of_hosts.any(has) {
                Answer::NoData
            } else {
                Answer::NoName
            };
        }
        let from = self.hosts.partition_point(|host| host.label.as_str() < label);
        let of_label = self.hosts.iter().skip(from).take_while(|host| host.label == label);
        let mut found: Vec<IpAddr> = of_label.map(|host| host.address).collect();
        found.dedup();
        if found.is_empty() { Answer::NoName } else { addresses(name, type_, &found, 0) }
    }

    fn answer_port(&self, name: &Name, type_: RecordType, asked: (&str, &str), turn: usize) -> Answer {
        let (Some(port), Some(protocol)) = (asked.0.strip_prefix('_'), asked.1.strip_prefix('_')) else {
            return Answer::NoName;
        };
        // An unnamed port has no SRV record of its own.
        if port.is_empty() {
            return Answer::NoName;
        }
        match self.srv(name, |p| p.name == port && p.protocol == protocol, turn) {
            Answer::Found { .. } if !matches!(type_, RecordType::SRV | RecordType::ANY) => Answer::NoData,
            Answer::NoData => Answer::NoName,
            found => found,
        }
    }

    /// SRV records of the ports that fit, and the addresses that they lead to.
    fn srv(&self, name: &Name, fits: impl Fn(&NamedPort) -> bool, turn: usize) -> Answer {
        let (mut answers, mut additionals) = (Vec::new(), Vec::new());
        let srv = |port: u16, target: &Name| {
            Record::from_rdata(name.clone(), TTL_S, RData::SRV(SRV::new(0, 100, port, target.clone())))
        };
        // The same number over two protocols, and a host of two addresses, are one record.
        let mut named = HashSet::new();
        for port in self.ports.iter().filter(|port| fits(port)) {
            if named.insert(("", port.port)) {
                answers.push(srv(port.port, &self.name));
            }
        }
        if !answers.is_empty() {
            additionals.extend(self.addresses.iter().map(|ip| address_record(&self.name, *ip)));
        }
        for host in turned(&self.hosts, turn).take(SRV_MAX) {
            let mut leads_there = false;
            for port in host.ports.iter().filter(|port| fits(port)) {
                leads_there = true;
                if named.insert((host.label.as_str(), port.port)) {
                    answers.push(srv(port.port, &host.name));
                }
            }
            if leads_there {
                additionals.push(address_record(&host.name, host.address));
            }
        }
        answers.truncate(SRV_MAX);
        if answers.is_empty() { Answer::NoData } else { Answer::Found { answers, additionals } }
    }
}

/// The address records of a type; none: the name is there all the same.
fn addresses(name: &Name, type_: RecordType, all: &[IpAddr], turn: usize) -> Answer {
    let wanted = |ip: &&IpAddr| match type_ {
        RecordType::A => ip.is_ipv4(),
        RecordType::AAAA => ip.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    };
    let found = turned(all, turn).filter(wanted).take(ADDRESSES_MAX);
    let answers: Vec<Record> = found.map(|ip| address_record(name, *ip)).collect();
    if answers.is_empty() { Answer::NoData } else { Answer::Found { answers, additionals: Vec::new() } }
}

/// All of them, beginning at another one each time.
fn turned<T>(all: &[T], turn: usize) -> impl Iterator<Item = &T> {
    let from = turn.checked_rem(all.len()).unwrap_or(0);
    let (head, tail) = all.split_at(from);
    tail.iter().chain(head)
}

fn address_record(name: &Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    Record::from_rdata(name.clone(), TTL_S, data)
}

/// Records of the one type that the name has.
fn only(name: &Name, asked: RecordType, has: RecordType, data: Vec<RData>) -> Answer {
    if asked != has && asked != RecordType::ANY {
        return Answer::NoData;
    }
    let answers = data.into_iter().map(|data| Record::from_rdata(name.clone(), TTL_S, data)).collect();
    Answer::Found { answers, additionals: Vec::new() }
}

/// The addresses that lead back to a Service's names.
fn reverse_of(names: &Names) -> Vec<(IpAddr, Name)> {
    if names.is_vacant || names.alias.is_some() {
        return Vec::new();
    }
    let mut all: Vec<_> = names.hosts.iter().map(|host| (host.address, host.name.clone())).collect();
    if names.hosts.is_empty() {
        all.extend(names.addresses.iter().map(|ip| (*ip, names.name.clone())));
    }
    all.sort();
    all.dedup();
    all
}

/// The address of a whole reverse name.
fn reverse_address(name: &Name) -> Option<IpAddr> {
    let labels: Vec<&[u8]> = name.iter().collect();
    let (own, zone) = labels.split_at(labels.len().checked_sub(2)?);
    let is = |kind: &[u8]| {
        let [first, second] = zone else { return false };
        first.eq_ignore_ascii_case(kind) && second.eq_ignore_ascii_case(b"arpa")
    };
    let text = |label: &&[u8]| std::str::from_utf8(label).ok().map(str::to_owned);
    if own.len() == 4 && is(b"in-addr") {
        let parts: Vec<String> = own.iter().rev().map(text).collect::<Option<_>>()?;
        return parts.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    if own.len() == 32 && is(b"ip6") {
        let mut nibbles = own.iter().rev().map(|label| match label {
            [digit] => char::from(*digit).to_digit(16),
            _ => None,
        });
        let bits = nibbles.try_fold(0_u128, |bits, nibble| Some(bits << 4 | u128::from(nibble?)))?;
        return Some(IpAddr::V6(Ipv6Addr::from_bits(bits)));
    }
    None
}

/// The name of a range's reverse zone: of the whole labels that all its addresses share.
fn reverse_zone(range: &IpNet) -> Name {
    let whole = Name::from(range.network());
    let keep = match range {
        IpNet::V4(net) => usize::from(net.prefix_len() / 8) + 2,
        IpNet::V6(net) => usize::from(net.prefix_len() / 4) + 2,
    };
    let mut name = whole.trim_to(keep);
    name.set_fqdn(true);
    name
}
