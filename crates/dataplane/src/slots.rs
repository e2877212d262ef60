//! Which slot of a service names which endpoint, kept with the least change.
//!
//! What must hold of each service that has endpoints: every slot names one of them; the endpoints' numbers of slots differ
//! by at most one; a step from one set of endpoints to another changes no more slots than those of the endpoints
//! that left or the shares of those that came, whichever is more (but for a change of class, which writes all).

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::Ipv4Addr,
};

use crate::program::{Batch, Class, Endpoint, Program, ServicePort, SlotKey};

/// What is done with connections to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// No endpoint: refused.
    Refused,
    /// One endpoint for each slot of the class.
    Slots { class: Class, slots: Vec<Endpoint> },
}

/// The present assignment of all services.
#[derive(Clone, Debug, Default)]
pub struct SlotTable {
    services: HashMap<ServicePort, Target>,
    /// How many services name the address.
    pods: HashMap<Ipv4Addr, u32>,
}

impl SlotTable {
    /// An assignment without services.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the new endpoints of services (`None`: the service is gone) and gives the change for the kernel.
    ///
    /// Endpoints must be sorted and without duplicates; those beyond the largest class's slots are not used.
    pub fn change(&mut self, desired: &BTreeMap<ServicePort, Option<Vec<Endpoint>>>) -> Batch {
        let mut batch = Batch::default();
        let mut pods_before: BTreeMap<Ipv4Addr, bool> = BTreeMap::new();
        for (service, endpoints) in desired {
            let old = self.services.remove(service);
            let new = endpoints.as_ref().map(|endpoints| target(old.as_ref(), endpoints));
            for (target, step) in [(&old, -1), (&new, 1)] {
                for address in target.iter().flat_map(addresses) {
                    pods_before.entry(address).or_insert_with(|| self.pods.contains_key(&address));
                    self.count(address, step);
                }
            }
            write(&mut batch, *service, old.as_ref(), new.as_ref());
            if let Some(new) = new {
                self.services.insert(*service, new);
            }
        }
        for (address, before) in pods_before {
            match (before, self.pods.contains_key(&address)) {
                (false, true) => batch.pods_added.push(address),
                (true, false) => batch.pods_removed.push(address),
                _ => {}
            }
        }
        batch
    }

    /// Everything, as the kernel is to hold it.
    #[must_use]
    pub fn program(&self) -> Program {
        let mut program = Program { pods: self.pods.keys().copied().collect(), ..Program::default() };
        for (service, target) in &self.services {
            match target {
                Target::Refused => {
                    program.refused.insert(*service);
                }
                Target::Slots { class, slots } => {
                    program.slots.extend(keys(*service, *class).zip(slots.iter().copied()));
                }
            }
        }
        program
    }

    fn count(&mut self, address: Ipv4Addr, step: i32) {
        match self.pods.entry(address) {
            Entry::Occupied(mut entry) => {
                *entry.get_mut() = entry.get().saturating_add_signed(step);
                if *entry.get() == 0 {
                    entry.remove();
                }
            }
            Entry::Vacant(entry) if step > 0 => {
                entry.insert(1);
            }
            Entry::Vacant(_) => {}
        }
    }
}

/// The addresses that a service names, each once.
fn addresses(target: &Target) -> Vec<Ipv4Addr> {
    let Target::Slots { slots, .. } = target else { return Vec::new() };
    let mut addresses: Vec<_> = slots.iter().map(|e| e.address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn keys(service: ServicePort, class: Class) -> impl Iterator<Item = SlotKey> {
    (0..class.slots()).map(move |slot| SlotKey { service, class, slot })
}

/// Adds to `batch` what makes `new` of `old` for one service.
fn write(batch: &mut Batch, service: ServicePort, old: Option<&Target>, new: Option<&Target>) {
    match (old == Some(&Target::Refused), new == Some(&Target::Refused)) {
        (true, false) => batch.refused_removed.push(service),
        (false, true) => batch.refused_added.push(service),
        _ => {}
    }
    let (old, new) = (assigned(old), assigned(new));
    if let (Some((old_class, old)), Some((class, new))) = (old, new)
        && old_class == class
    {
        let changed = keys(service, class).zip(new).zip(old).filter(|((_, new), old)| new != old);
        batch.slots_replaced.extend(changed.map(|((key, endpoint), _)| (key, *endpoint)));
        return;
    }
    if let Some((class, _)) = old {
        batch.slots_removed.extend(keys(service, class));
    }
    if let Some((class, slots)) = new {
        batch.slots_added.extend(keys(service, class).zip(slots.iter().copied()));
    }
}

fn assigned(target: Option<&Target>) -> Option<(Class, &[Endpoint])> {
    match target {
        Some(Target::Slots { class, slots }) => Some((*class, slots)),
        _ => None,
    }
}

fn target(old: Option<&Target>, endpoints: &[Endpoint]) -> Target {
    let endpoints = endpoints.get(..usize::from(Class::LARGEST.slots())).unwrap_or(endpoints);
    if endpoints.is_empty() {
        return Target::Refused;
    }
    let old = assigned(old);
    let class = Class::fit(endpoints.len(), old.map(|(class, _)| class));
    let old = old.filter(|(old_class, _)| *old_class == class).map_or(&[][..], |(_, slots)| slots);
    Target::Slots { class, slots: assign(usize::from(class.slots()), old, endpoints) }
}

/// Fills `count` slots with `endpoints` (not empty, no duplicates, at most `count`), keeping of `old` what can be kept.
///
/// Each endpoint gets `count / n` slots and `count % n` of them one more; whoever holds one more already keeps it.
fn assign(count: usize, old: &[Endpoint], endpoints: &[Endpoint]) -> Vec<Endpoint> {
    let (share, mut extras) = (count / endpoints.len(), count % endpoints.len());
    let mut held: HashMap<Endpoint, usize> = endpoints.iter().map(|e| (*e, 0)).collect();
    for endpoint in old {
        if let Some(held) = held.get_mut(endpoint) {
            *held += 1;
        }
    }
    // How many slots each may keep: its share, and one more while there are extras for those who hold more.
    let mut keep: HashMap<Endpoint, usize> = HashMap::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let over = held.get(endpoint).is_some_and(|held| *held > share) && extras > 0;
        extras -= usize::from(over);
        keep.insert(*endpoint, share + usize::from(over));
    }
    let mut slots: Vec<Option<Endpoint>> =
        old.iter().copied().map(Some).chain(std::iter::repeat(None)).take(count).collect();
    for slot in &mut slots {
        let kept = slot.and_then(|endpoint| keep.get_mut(&endpoint)).filter(|left| **left > 0);
        match kept {
            Some(left) => *left -= 1,
            None => *slot = None,
        }
    }
    // What is left of each one's share, and then the extras that nobody held, in the endpoints' order.
    let missing = endpoints.iter().flat_map(|e| std::iter::repeat_n(*e, keep.get(e).copied().unwrap_or(0)));
    let shares_full = |e: &&Endpoint| held.get(e).is_none_or(|held| *held <= share);
    let mut fill = missing.chain(endpoints.iter().filter(shares_full).copied());
    slots.into_iter().filter_map(|slot| slot.or_else(|| fill.next())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::program::{Protocol, diff};

    fn service(n: u8) -> ServicePort {
        ServicePort { address: Ipv4Addr::new(10, 96, 0, n), protocol: Protocol::Tcp, port: 80 }
    }

    fn endpoint(n: u16) -> Endpoint {
        let [high, low] = n.to_be_bytes();
        Endpoint { address: Ipv4Addr::new(10, 1, high, low), port: 3000 }
    }

    fn loads(slots: &[Endpoint]) -> HashMap<Endpoint, usize> {
        let mut loads = HashMap::new();
        for slot in slots {
            *loads.entry(*slot).or_default() += 1;
        }
        loads
    }

    fn sets(of: u16) -> impl Strategy<Value = Vec<Endpoint>> {
        prop::collection::btree_set(0..of, 1..=usize::from(of))
            .prop_map(|set| set.into_iter().map(endpoint).collect())
    }

    proptest! {
        /// Whatever was held before: all slots filled, only by listed endpoints, loads within one, change bounded.
        #[test]
        fn slots_are_filled_evenly_and_with_bounded_change(steps in prop::collection::vec(sets(16), 1..12), count in 16_usize..80) {
            let mut old: Vec<Endpoint> = Vec::new();
            let mut old_set: Vec<Endpoint> = Vec::new();
            for set in steps {
                let new = assign(count, &old, &set);
                prop_assert_eq!(new.len(), count);
                let loads = loads(&new);
                prop_assert!(loads.keys().all(|e| set.contains(e)));
                for e in &set {
                    let load = loads.get(e).copied().unwrap_or(0);
                    prop_assert!(load == count / set.len() || load == count / set.len() + 1, "{} of {}", load, count);
                }
                if !old.is_empty() {
                    let changed = old.iter().zip(&new).filter(|(a, b)| a != b).count();
                    let left = old.iter().filter(|e| !set.contains(e)).count();
                    let came = set.iter().filter(|e| !old_set.contains(e)).count();
                    prop_assert!(changed <= left.max(came * (count / set.len() + 1)), "{} changed, {} left, {} came", changed, left, came);
                }
                (old, old_set) = (new, set);
            }
        }

        /// The batch of each step, applied to what was, gives what is; and it is no longer than the plain difference.
        #[test]
        fn a_batch_makes_the_new_program_of_the_old(
            steps in prop::collection::vec(prop::collection::btree_map(0_u8..4, prop::option::of(prop::collection::btree_set(0_u16..40, 0..40)), 1..4), 1..10)
        ) {
            let mut table = SlotTable::new();
            let mut held = Program::default();
            let mut known: BTreeMap<u8, BTreeSet<u16>> = BTreeMap::new();
            for step in steps {
                let desired = step.iter().map(|(s, set)| (service(*s), set.as_ref().map(|set| set.iter().copied().map(endpoint).collect()))).collect();
                for (s, set) in step {
                    match set {
                        Some(set) => known.insert(s, set),
                        None => known.remove(&s),
                    };
                }
                let batch = table.change(&desired);
                let new = table.program();
                prop_assert_eq!(batch.len(), diff(&held, &new).len());
                held.apply(&batch).map_err(|e| TestCaseError::fail(e.to_string()))?;
                prop_assert_eq!(&held, &new);
                let refused: BTreeSet<_> = known.iter().filter(|(_, set)| set.is_empty()).map(|(s, _)| service(*s)).collect();
                prop_assert_eq!(&held.refused, &refused);
                let pods: BTreeSet<_> = known.values().flatten().map(|n| endpoint(*n).address).collect();
                prop_assert_eq!(&held.pods, &pods);
                let served: BTreeSet<_> = held.slots.keys().map(|k| k.service).collect();
                prop_assert!(known.iter().all(|(s, set)| served.contains(&service(*s)) != set.is_empty()));
            }
        }

        /// The difference of any two programs makes the one of the other.
        #[test]
        fn a_difference_is_complete(a in sets(40), b in sets(40), s in 0_u8..3, t in 0_u8..3) {
            let program = |s, set: &Vec<Endpoint>| {
                let mut table = SlotTable::new();
                table.change(&BTreeMap::from([(service(s), Some(set.clone())), (service(9), Some(Vec::new()))]));
                table.program()
            };
            let (mut old, new) = (program(s, &a), program(t, &b));
            let batch = diff(&old, &new);
            old.apply(&batch).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(old, new);
        }
    }

    #[test]
    fn one_endpoint_more_or_less_costs_its_own_slots() {
        let mut table = SlotTable::new();
        let five: Vec<_> = (0..5).map(endpoint).collect();
        table.change(&BTreeMap::from([(service(1), Some(five.clone()))]));
        let batch = table.change(&BTreeMap::from([(service(1), Some(five[..4].to_vec()))]));
        assert_eq!((batch.slots_replaced.len(), batch.pods_removed.len(), batch.len()), (3, 1, 4));
        let batch = table.change(&BTreeMap::from([(service(1), Some(five.clone()))]));
        assert_eq!((batch.slots_replaced.len(), batch.pods_added.len(), batch.len()), (3, 1, 4));
        assert!(table.change(&BTreeMap::from([(service(1), Some(five))])).is_empty());
    }

    #[test]
    fn a_class_has_room_and_does_not_flap() {
        assert_eq!(Class::fit(1, None).slots(), 16);
        assert_eq!(Class::fit(8, None).slots(), 16);
        assert_eq!(Class::fit(9, None).slots(), 64);
        let c64 = Class::with_slots(64);
        assert_eq!(Class::fit(8, c64).slots(), 64, "just below the limit it stays");
        assert_eq!(Class::fit(4, c64).slots(), 16);
        assert_eq!(Class::fit(33, c64).slots(), 256);
        assert_eq!(Class::fit(100_000, c64), Class::LARGEST);
    }

    #[test]
    fn more_endpoints_than_slots_use_the_first() {
        let many: Vec<_> = (0..5000).map(endpoint).collect();
        let Target::Slots { class, slots } = target(None, &many) else { panic!("no slots") };
        assert_eq!((class, slots.len()), (Class::LARGEST, 4096));
        assert_eq!(loads(&slots).len(), 4096);
    }
}
