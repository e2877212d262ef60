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

/// Where clients connect to: a virtual address (a cluster IP; node addresses fit as well), protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// The virtual address.
    pub address: Ipv4Addr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, protocol, port } = self;
        let protocol = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{address}:{port}/{protocol}")
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
pub struct Class(u16);

impl Class {
    /// All classes, smallest first.
    pub const ALL: [Self; 5] = [Self(16), Self(64), Self(256), Self(1024), Self(4096)];
    /// The largest class: a service uses at most that many endpoints at a time.
    pub const LARGEST: Self = Self(4096);

    /// Slots in the class.
    #[must_use]
    pub fn slots(self) -> u16 {
        self.0
    }

    /// The class with that many slots.
    #[must_use]
    pub fn with_slots(slots: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.0 == slots)
    }

    /// The class for so many endpoints, of a service that is in `present` now (if it has one).
    ///
    /// At least two slots for each endpoint, so that none gets more than 1.5 times another's share. Shrinks only when the
    /// endpoints have become few, so that a service at the limit does not move back and forth.
    #[must_use]
    pub fn fit(endpoints: usize, present: Option<Self>) -> Self {
        let smallest = Self::ALL.into_iter().find(|c| usize::from(c.0) >= endpoints.saturating_mul(2));
        let smallest = smallest.unwrap_or(Self::LARGEST);
        match present {
            Some(present) if present > smallest && endpoints.saturating_mul(16) > usize::from(present.0) => {
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
    pub slot: u16,
}

/// Everything that the kernel holds for the service proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Which endpoint each slot names.
    pub slots: BTreeMap<SlotKey, Endpoint>,
    /// Services without an endpoint: connections are refused.
    pub refused: BTreeSet<ServicePort>,
    /// Addresses of all endpoints: who connects to himself through a service must be masqueraded.
    pub pods: BTreeSet<Ipv4Addr>,
}

/// One change of a [`Program`]: applied as one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Slots that were not there.
    pub slots_added: Vec<(SlotKey, Endpoint)>,
    /// Slots that get another endpoint.
    pub slots_replaced: Vec<(SlotKey, Endpoint)>,
    /// Slots that go.
    pub slots_removed: Vec<SlotKey>,
    /// Services to refuse from now on.
    pub refused_added: Vec<ServicePort>,
    /// Services no longer to refuse.
    pub refused_removed: Vec<ServicePort>,
    /// Addresses that have become an endpoint.
    pub pods_added: Vec<Ipv4Addr>,
    /// Addresses that are no longer an endpoint.
    pub pods_removed: Vec<Ipv4Addr>,
}

impl Batch {
    /// How many elements change.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots_added.len()
            + self.slots_replaced.len()
            + self.slots_removed.len()
            + self.refused_added.len()
            + self.refused_removed.len()
            + self.pods_added.len()
            + self.pods_removed.len()
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        step(&mut self.refused, &batch.refused_removed, &batch.refused_added)?;
        step(&mut self.pods, &batch.pods_removed, &batch.pods_added)
    }
}

fn step<T: Ord + Copy + fmt::Debug>(set: &mut BTreeSet<T>, removed: &[T], added: &[T]) -> Result<(), Misfit> {
    for item in removed {
        if !set.remove(item) {
            return Err(Misfit(format!("{item:?}"), "absent"));
        }
    }
    for item in added {
        if !set.insert(*item) {
            return Err(Misfit(format!("{item:?}"), "present"));
        }
    }
    Ok(())
}

/// The change that makes `new` of `old`.
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
    batch.refused_added = new.refused.difference(&old.refused).copied().collect();
    batch.refused_removed = old.refused.difference(&new.refused).copied().collect();
    batch.pods_added = new.pods.difference(&old.pods).copied().collect();
    batch.pods_removed = old.pods.difference(&new.pods).copied().collect();
    batch
}
