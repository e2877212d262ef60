//! What the kernel is to hold, and the difference between two such states.
//!
//! A service is a fixed number of slots (its class), each of which names one endpoint; the kernel draws a slot
//! at random for each new connection. So a changed endpoint costs its own slots and no rule.
//!
//! What must hold: a [`Batch`] names each element at most once, and is applied whole or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
};

/// A transport protocol that services can have here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The protocol's number in an IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The protocol with this number in an IP header.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }

    /// The protocol by Kubernetes' name; absent means TCP. SCTP is not served.
    #[must_use]
    pub fn from_name(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some(_) => None,
        }
    }
}

/// What clients connect to, but for the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Front {
    /// A virtual address: a cluster IP.
    Address(Ipv4Addr),
    /// A node port, on every address of the node's own but the loopback's.
    Node,
    /// The same for connections from elsewhere than the node and its own Pods, of a Service that treats those apart
    /// (`externalTrafficPolicy: Local`). There is always a [`Front::Node`] beside it.
    NodeOutside,
}

/// Where clients connect to, protocol and port included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// The virtual address, or the node's own ones.
    pub front: Front,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl ServicePort {
    /// At a virtual address.
    #[must_use]
    pub fn at(address: Ipv4Addr, protocol: Protocol, port: u16) -> Self {
        Self { front: Front::Address(address), protocol, port }
    }

    /// What the destination of a packet to it tells: connections from outside are not told apart.
    #[must_use]
    pub fn destination(self) -> Self {
        match self.front {
            Front::Address(_) => self,
            Front::Node | Front::NodeOutside => Self { front: Front::Node, ..self },
        }
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.front {
            Front::Address(address) => write!(f, "{address}")?,
            Front::Node => f.write_str("node")?,
            Front::NodeOutside => f.write_str("node-from-outside")?,
        }
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, ":{}/{protocol}", self.port)
    }
}

/// What is to be done with connections to a service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// Sorted, each once.
    pub endpoints: Vec<Endpoint>,
    /// If there are no endpoints: the Service has some, which its policy keeps from these connections. They are then dropped and not refused:
    /// another node would have served them.
    pub elsewhere: bool,
    /// How many seconds after its last new connection a client stays with its endpoint. `None`: each connection goes anywhere.
    pub affinity_s: Option<u32>,
}

impl From<Vec<Endpoint>> for Routing {
    fn from(endpoints: Vec<Endpoint>) -> Self {
        Self { endpoints, ..Self::default() }
    }
}

/// Where connections go to: a Pod's address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The Pod's address.
    pub address: Ipv4Addr,
    /// The target port.
    pub port: u16,
}

/// How many slots a service has. One map and one rule in the kernel for each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(u32);

impl Class {
    /// All classes, smallest first.
    pub const ALL: [Self; 7] =
        [Self(16), Self(64), Self(256), Self(1024), Self(4096), Self(16_384), Self(65_536)];
    /// The largest class: a service uses at most that many endpoints at a time.
    pub const LARGEST: Self = Self(65_536);

    /// Slots in the class.
    #[must_use]
    pub fn slots(self) -> u32 {
        self.0
    }

    /// Slots in the class, as a number of endpoints.
    #[must_use]
    pub fn endpoints_max(self) -> usize {
        // Invariant: a class's number is at most 65,536.
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// The class with that many slots.
    #[must_use]
    pub fn with_slots(slots: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.0 == slots)
    }

    /// The class for so many endpoints, of a service that is in `present` now (if it has one).
    ///
    /// At least two slots for each endpoint, so that none gets more than 1.5 times another's share. Shrinks only when the
    /// endpoints have become few, so that a service at the limit does not move back and forth.
    #[must_use]
    pub fn fit(endpoints: usize, present: Option<Self>) -> Self {
        let smallest = Self::ALL.into_iter().find(|c| c.endpoints_max() >= endpoints.saturating_mul(2));
        let smallest = smallest.unwrap_or(Self::LARGEST);
        match present {
            Some(present) if present > smallest && endpoints.saturating_mul(16) > present.endpoints_max() => {
                present
            }
            _ => smallest,
        }
    }
}

/// One element of a slot map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotKey {
    /// Whose slot.
    pub service: ServicePort,
    /// Which map.
    pub class: Class,
    /// 0 to `class.slots() - 1`.
    pub slot: u32,
}

/// A node port without its address: what the kernel tells connections through it by after they were translated.
pub type NodePort = (Protocol, u16);

/// Everything that the kernel holds for the service proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Which endpoint each slot names.
    pub slots: BTreeMap<SlotKey, Endpoint>,
    /// Services without an endpoint: connections are refused.
    pub refused: BTreeSet<ServicePort>,
    /// Services whose endpoints are kept from these connections by policy: they are dropped.
    pub dropped: BTreeSet<ServicePort>,
    /// Node ports that treat connections from everywhere alike: these are masqueraded.
    pub node_ports: BTreeSet<NodePort>,
    /// Node ports that treat connections from outside apart ([`Front::NodeOutside`]): those keep their source.
    pub outside_ports: BTreeSet<NodePort>,
    /// Services whose clients stay with an endpoint, and for how many seconds.
    pub affinity: BTreeMap<ServicePort, u32>,
    /// The endpoints of those: whoever stays with one that is not there chooses anew.
    pub members: BTreeSet<(ServicePort, Endpoint)>,
    /// Addresses of all endpoints: who connects to himself through a service must be masqueraded.
    pub pods: BTreeSet<Ipv4Addr>,
}

/// What comes into a set and what leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<T> {
    /// Was not there.
    pub added: Vec<T>,
    /// Was there.
    pub removed: Vec<T>,
}

impl<T> Default for Step<T> {
    fn default() -> Self {
        Self { added: Vec::new(), removed: Vec::new() }
    }
}

impl<T> Step<T> {
    /// How many elements change.
    #[must_use]
    pub fn len(&self) -> usize {
        self.added.len() + self.removed.len()
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which endpoints the UDP flows to a service may go to; those that go elsewhere are to end. Keys are [`ServicePort::destination`]s.
pub type Flows = BTreeMap<ServicePort, BTreeSet<Endpoint>>;

/// One change of a [`Program`]: applied as one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Slots that were not there.
    pub slots_added: Vec<(SlotKey, Endpoint)>,
    /// Slots that get another endpoint.
    pub slots_replaced: Vec<(SlotKey, Endpoint)>,
    /// Slots that go.
    pub slots_removed: Vec<SlotKey>,
    /// Services to refuse.
    pub refused: Step<ServicePort>,
    /// Services to drop connections to.
    pub dropped: Step<ServicePort>,
    /// Node ports to masquerade.
    pub node_ports: Step<NodePort>,
    /// Node ports that tell connections from outside apart.
    pub outside_ports: Step<NodePort>,
    /// Services with affinity, and their seconds. One whose seconds change is removed with the old and added with the new.
    pub affinity: Step<(ServicePort, u32)>,
    /// Seconds of affinity that no service had before, and those that none has any more.
    pub timeouts: Step<u32>,
    /// Endpoints of services with affinity.
    pub members: Step<(ServicePort, Endpoint)>,
    /// Addresses of endpoints.
    pub pods: Step<Ipv4Addr>,
    /// UDP services whose flows want another look once the rest is in force: an endpoint has left, or there was none before. (A TCP
    /// connection is left alone: it ends with its endpoint, and its client notices.)
    pub flows: Flows,
}

impl Batch {
    /// How many elements of the tables change.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots_added.len()
            + self.slots_replaced.len()
            + self.slots_removed.len()
            + self.refused.len()
            + self.dropped.len()
            + self.node_ports.len()
            + self.outside_ports.len()
            + self.affinity.len()
            + self.timeouts.len()
            + self.members.len()
            + self.pods.len()
    }

    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.flows.is_empty()
    }
}

/// A batch does not fit the program that it was to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the change does not fit: {0} is {1}")]
pub struct Misfit(String, &'static str);

impl Program {
    /// Takes a change as strictly as the kernel does: what is added must be absent, what is replaced or removed must be there.
    /// After an error the program is changed in part and of no more use.
    pub fn apply(&mut self, batch: &Batch) -> Result<(), Misfit> {
        let misfit = |what: &dyn fmt::Debug, how| Misfit(format!("{what:?}"), how);
        for key in &batch.slots_removed {
            self.slots.remove(key).ok_or_else(|| misfit(key, "absent"))?;
        }
        for (key, endpoint) in &batch.slots_replaced {
            *self.slots.get_mut(key).ok_or_else(|| misfit(key, "absent"))? = *endpoint;
        }
        for (key, endpoint) in &batch.slots_added {
            if self.slots.insert(*key, *endpoint).is_some() {
                return Err(misfit(key, "present"));
            }
        }
        let timeouts = self.timeouts();
        for (service, seconds) in &batch.affinity.removed {
            if self.affinity.remove(service) != Some(*seconds) {
                return Err(misfit(service, "absent"));
            }
        }
        for (service, seconds) in &batch.affinity.added {
            if self.affinity.insert(*service, *seconds).is_some() {
                return Err(misfit(service, "present"));
            }
        }
        let mut stepped = timeouts;
        step(&mut stepped, &batch.timeouts)?;
        if stepped != self.timeouts() {
            return Err(misfit(&stepped, "not what services have"));
        }
        step(&mut self.refused, &batch.refused)?;
        step(&mut self.dropped, &batch.dropped)?;
        step(&mut self.node_ports, &batch.node_ports)?;
        step(&mut self.outside_ports, &batch.outside_ports)?;
        step(&mut self.members, &batch.members)?;
        step(&mut self.pods, &batch.pods)
    }

    /// The seconds of affinity that some service has.
    #[must_use]
    pub fn timeouts(&self) -> BTreeSet<u32> {
        self.affinity.values().copied().collect()
    }

    /// Where the UDP flows to each service may go.
    #[must_use]
    pub fn flows(&self) -> Flows {
        let mut flows = Flows::new();
        let udp = |service: &ServicePort| service.protocol == Protocol::Udp;
        for service in self.refused.iter().chain(&self.dropped).filter(|s| udp(s)) {
            flows.entry(service.destination()).or_default();
        }
        for (key, endpoint) in self.slots.iter().filter(|(key, _)| udp(&key.service)) {
            flows.entry(key.service.destination()).or_default().insert(*endpoint);
        }
        flows
    }
}

fn step<T: Ord + Copy + fmt::Debug>(set: &mut BTreeSet<T>, step: &Step<T>) -> Result<(), Misfit> {
    for item in &step.removed {
        if !set.remove(item) {
            return Err(Misfit(format!("{item:?}"), "absent"));
        }
    }
    for item in &step.added {
        if !set.insert(*item) {
            return Err(Misfit(format!("{item:?}"), "present"));
        }
    }
    Ok(())
}

fn step_between<T: Ord + Copy>(old: &BTreeSet<T>, new: &BTreeSet<T>) -> Step<T> {
    Step { added: new.difference(old).copied().collect(), removed: old.difference(new).copied().collect() }
}

/// The change that makes `new` of `old`, with another look at every UDP flow: what flows there are is not known from `old`.
#[must_use]
pub fn diff(old: &Program, new: &Program) -> Batch {
    let mut batch = Batch::default();
    for (key, endpoint) in &new.slots {
        match old.slots.get(key) {
            None => batch.slots_added.push((*key, *endpoint)),
            Some(before) if before != endpoint => batch.slots_replaced.push((*key, *endpoint)),
            Some(_) => {}
        }
    }
    batch.slots_removed = old.slots.keys().filter(|key| !new.slots.contains_key(key)).copied().collect();
    batch.refused = step_between(&old.refused, &new.refused);
    batch.dropped = step_between(&old.dropped, &new.dropped);
    batch.node_ports = step_between(&old.node_ports, &new.node_ports);
    batch.outside_ports = step_between(&old.outside_ports, &new.outside_ports);
    let pairs = |program: &Program| -> BTreeSet<(ServicePort, u32)> {
        program.affinity.iter().map(|(service, seconds)| (*service, *seconds)).collect()
    };
    batch.affinity = step_between(&pairs(old), &pairs(new));
    batch.timeouts = step_between(&old.timeouts(), &new.timeouts());
    batch.members = step_between(&old.members, &new.members);
    batch.pods = step_between(&old.pods, &new.pods);
    batch.flows = new.flows();
    // Flows to what is no longer a service end as well.
    let mut gone = old.flows();
    gone.retain(|service, _| !batch.flows.contains_key(service));
    batch.flows.extend(gone.into_keys().map(|service| (service, BTreeSet::new())));
    batch
}
