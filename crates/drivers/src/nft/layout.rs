//! The table's sets, chains and rules: what never changes while the table stands.
//!
//! ```text
//! prerouting, output (nat)    -> services: for each class of slots, a random slot of (address, protocol, port) -> dnat
//!                             -> node-ports, if the address is the node's own: the same with a constant for the address
//!                             -> node-ports-outside, for connections from outside where a Service treats those apart
//!                             (each of the three first asks for affinity, see `affinity`)
//! prerouting-2, output-2      -> services, once more
//! postrouting (nat)           masquerade: a Pod that reached itself; the node's own connections; node ports; those from outside
//! prerouting-refuse, output-refuse (filter)   new connections to services without endpoints -> refuse, or dropped
//! ```
//!
//! Why `services` is asked twice: the kernel's commit is one step for each look-up, but not for a whole packet. A connection's first packet that
//! passes while a service moves to another class, or while the table is replaced, can miss the old state in one place and the new one in
//! another; on kernels before 6.17 a single hash look-up can do so as well. It would then stay untranslated for good. The second
//! look, all of it after the commit, finds the new state. Only packets that no service takes pay for it.

use std::{collections::BTreeSet, net::Ipv4Addr};

use hitless_dataplane::{Class, Front, KernelError, Program};
use ipnet::Ipv4Net;

use super::{
    NftOptions, affinity, elements,
    expr::{Expressions, R0, R1, R2, R3, Register},
    message::{self, Transaction, attribute, flag, kind},
    socket::Connection,
};

/// The table's name.
pub const TABLE: &str = "hitless";

const SERVICES: &str = "services";
const NODE_PORTS: &str = "node-ports";
const NODE_PORTS_OUTSIDE: &str = "node-ports-outside";
const REFUSE: &str = "refuse";
const REFUSE_NODE: &str = "refuse-node";
const REFUSE_OUTSIDE: &str = "refuse-outside";
const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

/// Node ports are not served on these: answers to them could not leave the node.
const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);

struct Hook {
    kind: &'static str,
    number: u32,
    priority: i32,
}

/// A chain as it is to be.
pub struct Chain {
    name: String,
    hook: Option<Hook>,
    rules: Vec<Rule>,
}

impl Chain {
    /// One that is jumped to.
    pub fn plain(name: impl Into<String>, rules: Vec<Rule>) -> Self {
        Self { name: name.into(), hook: None, rules }
    }
}

/// A rule, known by its comment.
pub struct Rule {
    comment: String,
    write: Box<dyn Fn(&mut Expressions<'_, '_>)>,
}

/// A rule of these expressions.
pub fn rule(comment: impl Into<String>, write: impl Fn(&mut Expressions<'_, '_>) + 'static) -> Rule {
    Rule { comment: comment.into(), write: Box::new(write) }
}

/// Puts the key of the service that a packet goes to into three registers.
pub fn service_key(e: &mut Expressions<'_, '_>, front: Front, [address, protocol, port]: [Register; 3]) {
    match front {
        Front::Address(_) => e.destination_address(address),
        Front::Node | Front::NodeOutside => e.constant(elements::address_of(front).octets(), address),
    };
    e.protocol(protocol).destination_port(port);
}

/// All chains that are there whatever the services, in an order in which each is known before it is jumped to; those with hooks last, so
/// that as little time as can be lies between their coming into the packets' way and the commit.
fn chains(options: NftOptions) -> Vec<Chain> {
    let base = |name: &str, kind, number, priority, rules| Chain {
        name: name.to_owned(),
        hook: Some(Hook { kind, number, priority }),
        rules,
    };
    let services = || vec![rule("to a service's endpoint", |e| _ = e.jump(SERVICES))];
    let address = Front::Address(Ipv4Addr::UNSPECIFIED);
    let mut to_services = endpoint_rules(address);
    to_services.push(rule("to a node port", |e| {
        e.destination_is_outside(LOOPBACK).destination_is_local().jump(NODE_PORTS);
    }));
    let mut to_node_ports = vec![rule("from outside, where that is told apart", move |e| {
        outside_port(e, options).go_to(NODE_PORTS_OUTSIDE);
    })];
    to_node_ports.extend(endpoint_rules(Front::Node));
    vec![
        Chain::plain(NODE_PORTS_OUTSIDE, endpoint_rules(Front::NodeOutside)),
        Chain::plain(NODE_PORTS, to_node_ports),
        Chain::plain(SERVICES, to_services),
        Chain::plain(
            REFUSE,
            vec![rule("tcp", |e| _ = e.is_tcp().reset()), rule("others", |e| _ = e.unreachable_port())],
        ),
        Chain::plain(REFUSE_OUTSIDE, refuse_rules(Front::NodeOutside)),
        Chain::plain(REFUSE_NODE, refuse_node_rules(options)),
        base("postrouting", "nat", POSTROUTING, 100, masquerade_rules(options)),
        base("prerouting-refuse", "filter", PREROUTING, -90, refuse_any_rules()),
        base("output-refuse", "filter", OUTPUT, -90, refuse_any_rules()),
        base("prerouting", "nat", PREROUTING, -100, services()),
        base("output", "nat", OUTPUT, -100, services()),
        base("prerouting-2", "nat", PREROUTING, -99, services()),
        base("output-2", "nat", OUTPUT, -99, services()),
    ]
}

/// What leads a connection to an endpoint.
fn endpoint_rules(front: Front) -> Vec<Rule> {
    let affine = rule("clients that stay with an endpoint", move |e| {
        service_key(e, front, [R0, R1, R2]);
        e.verdict_map(elements::AFFINITY, R0);
    });
    let slots = Class::ALL.into_iter().map(move |class| {
        rule(format!("services of {} slots", class.slots()), move |e| {
            service_key(e, front, [R0, R1, R2]);
            e.random(class.slots(), R3).map(&elements::slots_map(class), R0, R0).dnat(R0, R1);
        })
    });
    std::iter::once(affine).chain(slots).collect()
}

/// Goes on only with connections from outside to a node port that tells those apart.
fn outside_port<'e, 'a, 'b>(
    e: &'e mut Expressions<'a, 'b>,
    options: NftOptions,
) -> &'e mut Expressions<'a, 'b> {
    e.protocol(R0).destination_port(R1).is_in(elements::OUTSIDE_PORTS, R0).source_is_foreign();
    match options.node_pod_cidr {
        Some(net) => e.source_is_outside(net),
        None => e,
    }
}

fn refuse_any_rules() -> Vec<Rule> {
    let mut rules = refuse_rules(Front::Address(Ipv4Addr::UNSPECIFIED));
    rules.push(rule("to a node port", |e| {
        e.is_new().destination_is_outside(LOOPBACK).destination_is_local().jump(REFUSE_NODE);
    }));
    rules
}

fn refuse_node_rules(options: NftOptions) -> Vec<Rule> {
    let mut rules = vec![rule("from outside, where that is told apart", move |e| {
        outside_port(e, options).go_to(REFUSE_OUTSIDE);
    })];
    rules.extend(refuse_rules(Front::Node));
    rules
}

fn refuse_rules(front: Front) -> Vec<Rule> {
    vec![
        rule("a service without endpoints", move |e| {
            e.is_new();
            service_key(e, front, [R0, R1, R2]);
            e.is_in(elements::REFUSED, R0).go_to(REFUSE);
        }),
        rule("a service without endpoints for these connections", move |e| {
            e.is_new();
            service_key(e, front, [R0, R1, R2]);
            e.is_in(elements::DROPPED, R0).drop_packet();
        }),
    ]
}

fn masquerade_rules(options: NftOptions) -> Vec<Rule> {
    let to_pod = |e: &mut Expressions<'_, '_>| {
        e.destination_address(R0).destination_address(R1).is_in(elements::PODS, R0);
    };
    let mut rules = vec![
        rule("a Pod that reached itself", |e| {
            e.was_dnat().source_address(R0).destination_address(R1).is_in(elements::PODS, R0).masquerade();
        }),
        rule("from this node", move |e| {
            e.was_dnat().source_is_local();
            to_pod(e);
            e.masquerade();
        }),
        // Whoever came through a node port may not know the way that the Pod's own answer would take.
        rule("to a node port", move |e| {
            e.was_dnat().protocol(R0).original_port(R1).is_in(elements::NODE_PORTS, R0);
            to_pod(e);
            e.masquerade();
        }),
    ];
    if let Some(net) = options.pod_cidr {
        // These reach Pods of this node only, so their answers come by here.
        rules.push(rule("to a node port that keeps the source", move |e| {
            e.was_dnat().protocol(R0).original_port(R1).is_in(elements::OUTSIDE_PORTS, R0);
            if let Some(own) = options.node_pod_cidr {
                e.destination_is_inside(own);
            }
            e.go_back();
        }));
        rules.push(rule(format!("from outside of {net}"), move |e| {
            e.was_dnat().source_is_outside(net);
            to_pod(e);
            e.masquerade();
        }));
    }
    rules
}

/// Takes the table away, whether it is there or not.
pub fn clear(transaction: &mut Transaction) {
    transaction.push(kind::NEW_TABLE, flag::CREATE, |a| a.string(1, TABLE));
    transaction.push(kind::DELETE_TABLE, 0, |a| a.string(1, TABLE));
}

/// Builds the table, with its elements before any packet comes its way.
pub fn build(transaction: &mut Transaction, options: NftOptions, program: &Program) {
    transaction.push(kind::NEW_TABLE, flag::CREATE, |a| {
        a.string(1, TABLE);
        a.u32(2, 0);
    });
    elements::write_sets(transaction);
    for seconds in program.timeouts() {
        add_affinity(transaction, seconds);
    }
    elements::write_all(transaction, program);
    chains(options).iter().for_each(|chain| add(transaction, chain));
}

/// Adds the chains of a time that some service's affinity has from now on.
pub fn add_affinity(transaction: &mut Transaction, seconds: u32) {
    affinity::chains(seconds).iter().for_each(|chain| add(transaction, chain));
}

/// Takes the chains of a time away that no service's affinity has any more.
pub fn remove_affinity(transaction: &mut Transaction, seconds: u32) {
    for chain in affinity::chains(seconds) {
        transaction.push(kind::DELETE_CHAIN, 0, |a| {
            a.string(1, TABLE);
            a.string(3, &chain.name);
        });
    }
}

fn add(transaction: &mut Transaction, chain: &Chain) {
    transaction.push(kind::NEW_CHAIN, flag::CREATE, |a| {
        a.string(1, TABLE);
        a.string(3, &chain.name);
        if let Some(hook) = &chain.hook {
            a.nest(4, |h| {
                h.u32(1, hook.number);
                h.u32(2, hook.priority.cast_unsigned());
            });
            a.u32(5, 1); // policy accept
            a.string(7, hook.kind);
        }
    });
    for rule in &chain.rules {
        transaction.push(kind::NEW_RULE, flag::CREATE | flag::APPEND, |a| {
            a.string(1, TABLE);
            a.string(2, &chain.name);
            a.nest(4, |list| (rule.write)(&mut Expressions(list)));
            a.bytes(7, &comment(&rule.comment));
        });
    }
}

/// User data with which nft shows a rule's comment: type 0, length, text with a zero byte.
fn comment(text: &str) -> Vec<u8> {
    let mut data = vec![0, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
    data.extend_from_slice(text.as_bytes());
    data.push(0);
    data
}

/// Whether chains and rules are there as they were built: each chain's hook and priority, and each rule in its place, by its comment
/// (a rule that was replaced by hand has lost it).
pub fn verify(connection: &mut Connection, options: NftOptions) -> Result<(), KernelError> {
    let table = |a: &mut message::Attributes<'_>| a.string(1, TABLE);
    let of_table = |attributes: &[u8]| attribute(attributes, 1).map(message::text) == Some(TABLE);
    let mut present = connection.dump(kind::GET_CHAIN, table, Vec::new, |found, attributes| {
        if of_table(attributes) {
            let name = attribute(attributes, 3).map_or("", message::text).to_owned();
            found.push((name, attribute(attributes, 4).map(hook_numbers)));
        }
    })?;
    let times: BTreeSet<u32> = present.iter().filter_map(|(name, _)| affinity::seconds_of(name)).collect();
    let all: Vec<Chain> =
        chains(options).into_iter().chain(times.into_iter().flat_map(affinity::chains)).collect();
    let mut expected: Vec<_> = all
        .iter()
        .map(|c| (c.name.clone(), c.hook.as_ref().map(|h| (h.number, h.priority.cast_unsigned()))))
        .collect();
    present.sort();
    expected.sort();
    if present != expected {
        return Err(KernelError::Foreign { reason: "chains are missing or changed".to_owned() });
    }
    let rules = connection.dump(kind::GET_RULE, table, Vec::new, |found, attributes| {
        if of_table(attributes) {
            let chain = attribute(attributes, 2).map_or("", message::text).to_owned();
            found.push((chain, attribute(attributes, 7).unwrap_or_default().to_vec()));
        }
    })?;
    for chain in all {
        let present =
            rules.iter().filter(|(name, _)| *name == chain.name).map(|(_, comment)| comment.clone());
        if !present.eq(chain.rules.iter().map(|rule| comment(&rule.comment))) {
            return Err(KernelError::Foreign {
                reason: format!("rules of chain {} are missing or changed", chain.name),
            });
        }
    }
    Ok(())
}

fn hook_numbers(hook: &[u8]) -> (u32, u32) {
    let number =
        |kind| attribute(hook, kind).and_then(|v| v.try_into().ok()).map_or(u32::MAX, u32::from_be_bytes);
    (number(1), number(2))
}
