//! The chains that keep clients with their endpoint (`sessionAffinity: ClientIP`): three for each time that some service has.
//!
//! ```text
//! map affinity  (service) -> jump affinity-SECONDS                          which services, written by the proxy
//! map clients   (client, service) -> endpoint, with a time to live          who is with whom, written by packets
//! set members   (service, endpoint)                                         who may still be chosen, written by the proxy
//! ```
//!
//! A new connection of a known client refreshes his time and goes where his last one went, if that endpoint is still there. Any other draws
//! a slot and notes it. If `clients` is full, nothing is noted and the chain ends: the plain slots take the connection.

use hitless_dataplane::{Class, Front};

use super::{
    elements::{self, CLIENTS, MEMBERS},
    expr::{Expressions, R0, R1, R2, R3, R4, R5, Update},
    layout::{Chain, rule, service_key},
};

/// What the names of these chains begin with.
const PREFIX: &str = "affinity-";

/// The chain that keeps clients of services with this front for so long.
pub fn chain_name(front: Front, seconds: u32) -> String {
    let kind = match front {
        Front::Address(_) => "",
        Front::Node => "node-",
        Front::NodeOutside => "outside-",
    };
    format!("{PREFIX}{kind}{seconds}")
}

/// The seconds in a chain's name. `None`: it is no chain of this kind.
pub fn seconds_of(chain: &str) -> Option<u32> {
    chain.strip_prefix(PREFIX)?.rsplit('-').next()?.parse().ok()
}

/// The chains of one time.
pub fn chains(seconds: u32) -> Vec<Chain> {
    // Any address will do: the chain reads the packet's own.
    let address = Front::Address(std::net::Ipv4Addr::UNSPECIFIED);
    [address, Front::Node, Front::NodeOutside].into_iter().map(|front| chain(front, seconds)).collect()
}

fn chain(front: Front, seconds: u32) -> Chain {
    let keys = move |e: &mut Expressions<'_, '_>| {
        e.source_address(R0);
        service_key(e, front, [R1, R2, R3]);
    };
    let known = rule("a client that is with an endpoint", move |e| {
        keys(e);
        e.map(CLIENTS, R0, R4).is_in(MEMBERS, R1);
        e.update_map(Update::Refresh, CLIENTS, R0, R4, seconds).dnat(R4, R5);
    });
    let drawn = Class::ALL.into_iter().map(|class| {
        rule(format!("others, of {} slots", class.slots()), move |e| {
            keys(e);
            e.random(class.slots(), R4).map(&elements::slots_map(class), R1, R4);
            // What is known of him names an endpoint that has left.
            e.update_map(Update::Delete, CLIENTS, R0, R4, seconds);
            e.update_map(Update::Add, CLIENTS, R0, R4, seconds).dnat(R4, R5);
        })
    });
    Chain::plain(chain_name(front, seconds), std::iter::once(known).chain(drawn).collect())
}
