//! The table's sets, chains and rules: what never changes while the table stands.
//!
//! ```text
//! prerouting, output (nat)    -> services: for each class of slots, a random slot of (address, protocol, port) -> dnat
//! prerouting-2, output-2      -> services, once more
//! postrouting (nat)           masquerade: a Pod that reached itself; the node's own connections; those from outside
//! prerouting-refuse, output-refuse (filter)   new connections to services without endpoints -> refuse
//! ```
//!
//! Why `services` is asked twice: the kernel's commit is one step for each look-up, but not for a whole packet. A connection's first packet that
//! passes while a service moves to another class, or while the table is replaced, can miss the old state in one place and the new one in
//! another; on kernels before 6.17 a single hash look-up can do so as well. It would then stay untranslated for good. The second
//! look, all of it after the commit, finds the new state. Only packets that no service takes pay for it.

use hitless_dataplane::{Class, KernelError};

use super::{
    NftOptions, elements,
    expr::{Expressions, R0, R1, R2, R3},
    message::{self, Transaction, attribute, flag, kind},
    socket::Connection,
};

/// The table's name.
pub const TABLE: &str = "hitless";

const SERVICES: &str = "services";
const REFUSE: &str = "refuse";
const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

struct Hook {
    kind: &'static str,
    number: u32,
    priority: i32,
}

struct Chain {
    name: &'static str,
    hook: Option<Hook>,
    rules: Vec<Rule>,
}

struct Rule {
    comment: String,
    write: Box<dyn Fn(&mut Expressions<'_, '_>)>,
}

fn rule(comment: impl Into<String>, write: impl Fn(&mut Expressions<'_, '_>) + 'static) -> Rule {
    Rule { comment: comment.into(), write: Box::new(write) }
}

/// All chains, in an order in which each is known before it is jumped to; those with hooks last, so that as little time as can be lies
/// between their coming into the packets' way and the commit.
fn chains(options: &NftOptions) -> Vec<Chain> {
    let chain = |name, rules| Chain { name, hook: None, rules };
    let base = |name, kind, number, priority, rules| Chain {
        name,
        hook: Some(Hook { kind, number, priority }),
        rules,
    };
    let services = || vec![rule("to a service's endpoint", |e| _ = e.jump(SERVICES))];
    let refuse = || {
        vec![rule("a service without endpoints", |e| {
            e.is_new()
                .destination_address(R0)
                .protocol(R1)
                .destination_port(R2)
                .is_in(elements::REFUSED, R0)
                .go_to(REFUSE);
        })]
    };
    vec![
        chain(SERVICES, Class::ALL.into_iter().map(slots_rule).collect()),
        chain(
            REFUSE,
            vec![rule("tcp", |e| _ = e.is_tcp().reset()), rule("others", |e| _ = e.unreachable_port())],
        ),
        base("postrouting", "nat", POSTROUTING, 100, masquerade_rules(options)),
        base("prerouting-refuse", "filter", PREROUTING, -90, refuse()),
        base("output-refuse", "filter", OUTPUT, -90, refuse()),
        base("prerouting", "nat", PREROUTING, -100, services()),
        base("output", "nat", OUTPUT, -100, services()),
        base("prerouting-2", "nat", PREROUTING, -99, services()),
        base("output-2", "nat", OUTPUT, -99, services()),
    ]
}

fn slots_rule(class: Class) -> Rule {
    rule(format!("services of {} slots", class.slots()), move |e| {
        e.destination_address(R0).protocol(R1).destination_port(R2).random(class.slots(), R3);
        e.map(&elements::slots_map(class), R0, R0).dnat(R0, R1);
    })
}

fn masquerade_rules(options: &NftOptions) -> Vec<Rule> {
    let mut rules = vec![
        rule("a Pod that reached itself", |e| {
            e.was_dnat().source_address(R0).destination_address(R1).is_in(elements::PODS, R0).masquerade();
        }),
        rule("from this node", |e| {
            e.was_dnat().source_is_local();
            e.destination_address(R0).destination_address(R1).is_in(elements::PODS, R0).masquerade();
        }),
    ];
    if let Some(net) = options.pod_cidr {
        rules.push(rule(format!("from outside of {net}"), move |e| {
            e.was_dnat().source_is_outside(net);
            e.destination_address(R0).destination_address(R1).is_in(elements::PODS, R0).masquerade();
        }));
    }
    rules
}

/// Takes the table away, whether it is there or not.
pub fn clear(transaction: &mut Transaction) {
    transaction.push(kind::NEW_TABLE, flag::CREATE, |a| a.string(1, TABLE));
    transaction.push(kind::DELETE_TABLE, 0, |a| a.string(1, TABLE));
}

/// Builds the table, with `fill` writing its elements before any packet comes its way.
pub fn build(transaction: &mut Transaction, options: &NftOptions, fill: impl FnOnce(&mut Transaction)) {
    transaction.push(kind::NEW_TABLE, flag::CREATE, |a| {
        a.string(1, TABLE);
        a.u32(2, 0);
    });
    elements::write_sets(transaction);
    fill(transaction);
    for chain in chains(options) {
        transaction.push(kind::NEW_CHAIN, flag::CREATE, |a| {
            a.string(1, TABLE);
            a.string(3, chain.name);
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
                a.string(2, chain.name);
                a.nest(4, |list| (rule.write)(&mut Expressions(list)));
                a.bytes(7, &comment(&rule.comment));
            });
        }
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
pub fn verify(connection: &mut Connection, options: &NftOptions) -> Result<(), KernelError> {
    let table = |a: &mut message::Attributes<'_>| a.string(1, TABLE);
    let of_table = |attributes: &[u8]| attribute(attributes, 1).map(message::text) == Some(TABLE);
    let mut present = connection.dump(kind::GET_CHAIN, table, Vec::new, |found, attributes| {
        if of_table(attributes) {
            let name = attribute(attributes, 3).map_or("", message::text).to_owned();
            found.push((name, attribute(attributes, 4).map(hook_numbers)));
        }
    })?;
    let mut expected: Vec<_> = chains(options)
        .iter()
        .map(|c| (c.name.to_owned(), c.hook.as_ref().map(|h| (h.number, h.priority.cast_unsigned()))))
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
    for chain in chains(options) {
        let present = rules.iter().filter(|(name, _)| name == chain.name).map(|(_, comment)| comment.clone());
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
