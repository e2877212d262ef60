//! Which slot of a service names which endpoint, kept with the least change.
//!
//! What must hold of each service that has endpoints: every slot names one of them; the endpoints' numbers of slots differ
//! by at most one; a step from one set of endpoints to another changes no more slots than those of the endpoints
//! that left or the shares of those that came, whichever is more (but for a change of class, which writes all).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    net::Ipv4Addr,
};

use crate::program::{
    Batch, Class, Endpoint, Front, NodePort, Program, Protocol, Routing, ServicePort, SlotKey, Step,
};

/// What is done with connections to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// No endpoint: refused.
    Refused,
    /// No endpoint for these connections: dropped.
    Dropped,
    /// One endpoint for each slot of the class; for how many seconds a client stays with its own.
    Slots { class: Class, slots: Vec<Endpoint>, affinity_s: Option<u32> },
}

/// The present assignment of all services.
#[derive(Clone, Debug, Default)]
pub struct SlotTable {
    services: HashMap<ServicePort, Target>,
    /// How many services name the address.
    pods: Counts<Ipv4Addr>,
    /// How many services have an affinity of so many seconds.
    timeouts: Counts<u32>,
}

impl SlotTable {
    /// An assignment without services.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what is to be done with services now (`None`: the service is gone) and gives the change for the kernel.
    ///
    /// Endpoints must be sorted and without duplicates; those beyond the largest class's slots are not used.
    pub fn change(&mut self, desired: &BTreeMap<ServicePort, Option<Routing>>) -> Batch {
        let mut batch = Batch::default();
        let (mut pods, mut timeouts) = (BTreeMap::new(), BTreeMap::new());
        let node_ports: BTreeMap<NodePort, Kinds> =
            desired.keys().filter_map(node_port).map(|port| (port, self.kinds(port))).collect();
        let mut flows = BTreeSet::new();
        for (service, routing) in desired {
            let old = self.services.remove(service);
            let new = routing.as_ref().map(|routing| target(old.as_ref(), routing));
            for (target, step) in [(&old, -1), (&new, 1)] {
                for address in target.iter().flat_map(addresses) {
                    self.pods.count(address, step, &mut pods);
                }
                if let Some(seconds) = target.as_ref().and_then(affinity) {
                    self.timeouts.count(seconds, step, &mut timeouts);
                }
            }
            write(&mut batch, *service, old.as_ref(), new.as_ref());
            if service.protocol == Protocol::Udp && strays(old.as_ref(), new.as_ref()) {
                flows.insert(service.destination());
            }
            if let Some(new) = new {
                self.services.insert(*service, new);
            }
        }
        batch.pods = self.pods.step_since(pods);
        batch.timeouts = self.timeouts.step_since(timeouts);
        for (port, before) in node_ports {
            let after = self.kinds(port);
            step(&mut batch.node_ports, port, before.is_alike(), after.is_alike());
            step(&mut batch.outside_ports, port, before.outside, after.outside);
        }
        batch.flows = flows.into_iter().map(|service| (service, self.flow_targets(service))).collect();
        batch
    }

    /// Everything, as the kernel is to hold it.
    #[must_use]
    pub fn program(&self) -> Program {
        let mut program = Program { pods: self.pods.keys().collect(), ..Program::default() };
        for (service, target) in &self.services {
            match target {
                Target::Refused => _ = program.refused.insert(*service),
                Target::Dropped => _ = program.dropped.insert(*service),
                Target::Slots { class, slots, affinity_s } => {
                    program.slots.extend(keys(*service, *class).zip(slots.iter().copied()));
                    if let Some(seconds) = affinity_s {
                        program.affinity.insert(*service, *seconds);
                        program.members.extend(slots.iter().map(|endpoint| (*service, *endpoint)));
                    }
                }
            }
            if let Some(port) = node_port(service) {
                let kinds = self.kinds(port);
                if kinds.is_alike() {
                    program.node_ports.insert(port);
                }
                if kinds.outside {
                    program.outside_ports.insert(port);
                }
            }
        }
        program
    }

    /// Which fronts a node port has now.
    fn kinds(&self, (protocol, port): NodePort) -> Kinds {
        let has = |front| self.services.contains_key(&ServicePort { front, protocol, port });
        Kinds { node: has(Front::Node), outside: has(Front::NodeOutside) }
    }

    /// All endpoints that flows with this destination may go to.
    fn flow_targets(&self, destination: ServicePort) -> BTreeSet<Endpoint> {
        let fronts = match destination.front {
            Front::Address(_) => &[destination.front][..],
            Front::Node | Front::NodeOutside => &[Front::Node, Front::NodeOutside],
        };
        let targets = fronts
            .iter()
            .filter_map(|front| self.services.get(&ServicePort { front: *front, ..destination }));
        targets.flat_map(|target| endpoints(Some(target))).collect()
    }
}

/// Which fronts a node port has.
#[derive(Clone, Copy)]
struct Kinds {
    node: bool,
    outside: bool,
}

impl Kinds {
    /// Connections from everywhere are treated alike.
    fn is_alike(self) -> bool {
        self.node && !self.outside
    }
}

fn node_port(service: &ServicePort) -> Option<NodePort> {
    (!matches!(service.front, Front::Address(_))).then_some((service.protocol, service.port))
}

fn step<T>(step: &mut Step<T>, item: T, before: bool, after: bool) {
    match (before, after) {
        (false, true) => step.added.push(item),
        (true, false) => step.removed.push(item),
        _ => {}
    }
}

/// How many services need each of some things.
#[derive(Clone, Debug)]
struct Counts<T>(HashMap<T, u32>);

impl<T> Default for Counts<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Copy + Ord + Hash> Counts<T> {
    /// One more or one less; notes in `before` whether the thing was needed when it was first touched.
    fn count(&mut self, item: T, step: i32, before: &mut BTreeMap<T, bool>) {
        before.entry(item).or_insert_with(|| self.0.contains_key(&item));
        let count = self.0.entry(item).or_default();
        *count = count.saturating_add_signed(step);
        if *count == 0 {
            self.0.remove(&item);
        }
    }

    fn step_since(&self, before: BTreeMap<T, bool>) -> Step<T> {
        let mut all = Step::default();
        for (item, before) in before {
            step(&mut all, item, before, self.0.contains_key(&item));
        }
        all
    }

    fn keys(&self) -> impl Iterator<Item = T> + '_ {
        self.0.keys().copied()
    }
}

/// The endpoints that a service names, each once.
fn endpoints(target: Option<&Target>) -> BTreeSet<Endpoint> {
    match target {
        Some(Target::Slots { slots, .. }) => slots.iter().copied().collect(),
        _ => BTreeSet::new(),
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

fn affinity(target: &Target) -> Option<u32> {
    match target {
        Target::Slots { affinity_s, .. } => *affinity_s,
        _ => None,
    }
}

/// Whether there may be flows that do not go where new ones would: to an endpoint that has left, or to none, from before there was one.
fn strays(old: Option<&Target>, new: Option<&Target>) -> bool {
    let (old, new) = (endpoints(old), endpoints(new));
    old.is_empty() != new.is_empty() || !old.is_subset(&new)
}

fn keys(service: ServicePort, class: Class) -> impl Iterator<Item = SlotKey> {
    (0..class.slots()).map(move |slot| SlotKey { service, class, slot })
}

/// Adds to `batch` what makes `new` of `old` for one service.
fn write(batch: &mut Batch, service: ServicePort, old: Option<&Target>, new: Option<&Target>) {
    let is = |what: Target| (old == Some(&what), new == Some(&what));
    let (before, after) = is(Target::Refused);
    step(&mut batch.refused, service, before, after);
    let (before, after) = is(Target::Dropped);
    step(&mut batch.dropped, service, before, after);
    let (seconds_before, seconds) = (old.and_then(affinity), new.and_then(affinity));
    if seconds_before != seconds {
        batch.affinity.removed.extend(seconds_before.map(|seconds| (service, seconds)));
        batch.affinity.added.extend(seconds.map(|seconds| (service, seconds)));
    }
    if seconds_before.is_some() || seconds.is_some() {
        let members = |target: Option<&Target>| endpoints(target.filter(|t| affinity(t).is_some()));
        let (before, after) = (members(old), members(new));
        batch.members.removed.extend(before.difference(&after).map(|endpoint| (service, *endpoint)));
        batch.members.added.extend(after.difference(&before).map(|endpoint| (service, *endpoint)));
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
        Some(Target::Slots { class, slots, .. }) => Some((*class, slots)),
        _ => None,
    }
}

fn target(old: Option<&Target>, routing: &Routing) -> Target {
    let endpoints = routing.endpoints.get(..Class::LARGEST.endpoints_max()).unwrap_or(&routing.endpoints);
    if endpoints.is_empty() {
        return if routing.elsewhere { Target::Dropped } else { Target::Refused };
    }
    let old = assigned(old);
    let class = Class::fit(endpoints.len(), old.map(|(class, _)| class));
    let old = old.filter(|(old_class, _)| *old_class == class).map_or(&[][..], |(_, slots)| slots);
    let slots = assign(class.endpoints_max(), old, endpoints);
    Target::Slots { class, slots, affinity_s: routing.affinity_s }
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
    use proptest::prelude::*;

    use super::*;
    use crate::program::diff;

    fn service(n: u8) -> ServicePort {
        ServicePort::at(Ipv4Addr::new(10, 96, 0, n), Protocol::Tcp, 80)
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

    /// Two cluster IPs, TCP and UDP, and a UDP node port with and without connections from outside apart.
    fn any_front(n: u8) -> ServicePort {
        let node = |front| ServicePort { front, protocol: Protocol::Udp, port: 30_053 };
        match n {
            0 | 1 => service(n),
            2 => ServicePort { protocol: Protocol::Udp, ..service(2) },
            3 => node(Front::Node),
            _ => node(Front::NodeOutside),
        }
    }

    fn routings() -> impl Strategy<Value = Routing> {
        (prop::collection::btree_set(0_u16..40, 0..40), any::<bool>(), prop::option::of(1_u32..3)).prop_map(
            |(set, elsewhere, affinity_s)| Routing {
                endpoints: set.into_iter().map(endpoint).collect(),
                elsewhere,
                affinity_s,
            },
        )
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
            steps in prop::collection::vec(prop::collection::btree_map(0_u8..5, prop::option::of(routings()), 1..4), 1..10)
        ) {
            let mut table = SlotTable::new();
            let mut held = Program::default();
            let mut known: BTreeMap<ServicePort, Routing> = BTreeMap::new();
            for step in steps {
                let desired: BTreeMap<_, _> = step.into_iter().map(|(s, routing)| (any_front(s), routing)).collect();
                for (service, routing) in desired.clone() {
                    match routing {
                        Some(routing) => known.insert(service, routing),
                        None => known.remove(&service),
                    };
                }
                let batch = table.change(&desired);
                let new = table.program();
                prop_assert_eq!(batch.len(), diff(&held, &new).len());
                let flows_before = held.flows();
                held.apply(&batch).map_err(|e| TestCaseError::fail(e.to_string()))?;
                prop_assert_eq!(&held, &new);
                let empty = |elsewhere| known.iter().filter(|(_, r)| r.endpoints.is_empty() && r.elsewhere == elsewhere).map(|(s, _)| *s).collect::<BTreeSet<_>>();
                prop_assert_eq!(&held.refused, &empty(false));
                prop_assert_eq!(&held.dropped, &empty(true));
                let pods: BTreeSet<_> = known.values().flat_map(|r| &r.endpoints).map(|e| e.address).collect();
                prop_assert_eq!(&held.pods, &pods);
                let served: BTreeSet<_> = held.slots.keys().map(|k| k.service).collect();
                prop_assert!(known.iter().all(|(s, r)| served.contains(s) != r.endpoints.is_empty()));
                for (service, seconds) in &held.affinity {
                    prop_assert_eq!(known[service].affinity_s, Some(*seconds));
                    let members = held.members.iter().filter(|(s, _)| s == service).map(|(_, e)| *e).collect::<Vec<_>>();
                    prop_assert_eq!(&members, &known[service].endpoints);
                }
                // A flow to an endpoint that no service with its destination names any more is looked at, with the endpoints that are left.
                let flows = held.flows();
                for (service, targets) in flows_before {
                    let now = flows.get(&service).cloned().unwrap_or_default();
                    if !targets.is_subset(&now) {
                        prop_assert_eq!(batch.flows.get(&service), Some(&now));
                    }
                }
            }
        }

        /// The difference of any two programs makes the one of the other.
        #[test]
        fn a_difference_is_complete(a in sets(40), b in sets(40), s in 0_u8..3, t in 0_u8..3) {
            let program = |s, set: &Vec<Endpoint>| {
                let mut table = SlotTable::new();
                table.change(&BTreeMap::from([(service(s), Some(set.clone().into())), (service(9), Some(Routing::default()))]));
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
        table.change(&BTreeMap::from([(service(1), Some(five.clone().into()))]));
        let batch = table.change(&BTreeMap::from([(service(1), Some(five[..4].to_vec().into()))]));
        assert_eq!((batch.slots_replaced.len(), batch.pods.removed.len(), batch.len()), (3, 1, 4));
        let batch = table.change(&BTreeMap::from([(service(1), Some(five.clone().into()))]));
        assert_eq!((batch.slots_replaced.len(), batch.pods.added.len(), batch.len()), (3, 1, 4));
        assert!(table.change(&BTreeMap::from([(service(1), Some(five.into()))])).is_empty());
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
    fn thousands_of_endpoints_have_a_class_and_more_than_the_largest_use_the_first() {
        let endpoint = |n: u32| Endpoint { address: Ipv4Addr::from(0x0a00_0000 + n), port: 3000 };
        let many = |count| target(None, &(0..count).map(endpoint).collect::<Vec<_>>().into());
        for (count, wanted, used) in [(5000, 16_384, 5000), (70_000, 65_536, 65_536)] {
            let Target::Slots { class, slots, .. } = many(count) else { panic!("no slots") };
            assert_eq!((class.slots(), slots.len()), (wanted, class.endpoints_max()));
            assert_eq!(loads(&slots).len(), used);
        }
    }
}
