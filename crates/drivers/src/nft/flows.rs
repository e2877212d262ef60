//! UDP flows in connection tracking: those that go where a new one would not are ended.
//!
//! A UDP client has no connection that could end: as long as it sends from one port, connection tracking takes its datagrams to the endpoint
//! that the first one went to, though that be gone; or to none, if there was none then. So after each commit that takes an endpoint from a UDP
//! service, or gives it its first one, the flows to that service are looked at, and only those that go elsewhere than to one of its endpoints
//! are taken away. The next datagram is then a new flow.
//!
//! What must hold: this runs after the commit, or a datagram between the two would begin the old flow anew; and no flow is touched that goes to
//! something else than the services in question. TCP is left alone.

use std::{collections::HashSet, net::Ipv4Addr};

use hitless_dataplane::{Endpoint, Flows, Front, KernelError, Protocol, ServicePort};

use super::{
    message::{attribute, kind},
    socket::Connection,
};

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const ENOENT: i32 = 2;

/// A flow as connection tracking has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    /// Where the client sends to.
    to: Endpoint,
    /// Who answers him.
    from: Endpoint,
    /// What names it for its end.
    original: Vec<u8>,
    id: Vec<u8>,
    zone: Option<Vec<u8>>,
}

/// Ends the flows to these services that go elsewhere than to one of the endpoints given. Returns how many.
pub fn end_strays(connection: &mut Connection, allowed: &Flows) -> Result<usize, KernelError> {
    if allowed.is_empty() {
        return Ok(0);
    }
    let own = if allowed.keys().any(|service| service.front == Front::Node) {
        connection.own_addresses()?
    } else {
        HashSet::new()
    };
    let only_udp = |a: &mut super::message::Attributes<'_>| {
        const PROTOCOL_NUMBER: u32 = 1 << 3;
        a.nest(TUPLE_ORIGINAL, |tuple| {
            tuple.nest(2, |protocol| protocol.bytes(1, &[Protocol::Udp.number()]))
        });
        a.nest(FILTER, |filter| filter.bytes(1, &PROTOCOL_NUMBER.to_ne_bytes()));
    };
    let strays = connection.dump(kind::GET_FLOW, only_udp, Vec::new, |found, attributes| {
        if let Some(flow) = parse(attributes).filter(|flow| is_stray(flow, allowed, &own)) {
            found.push(flow);
        }
    })?;
    for flow in &strays {
        let ended = connection.request(kind::DELETE_FLOW, |a| {
            a.nest(TUPLE_ORIGINAL, |tuple| tuple.raw(&flow.original));
            a.bytes(ID, &flow.id);
            if let Some(zone) = &flow.zone {
                a.bytes(ZONE, zone);
            }
        });
        match ended {
            // It ended by itself.
            Err(KernelError::Io(error)) if error.raw_os_error() == Some(ENOENT) => {}
            other => other?,
        }
    }
    Ok(strays.len())
}

fn is_stray(flow: &Flow, allowed: &Flows, own: &HashSet<Ipv4Addr>) -> bool {
    let at_address = ServicePort::at(flow.to.address, Protocol::Udp, flow.to.port);
    let at_node = ServicePort { front: Front::Node, ..at_address };
    let endpoints =
        allowed.get(&at_address).or_else(|| allowed.get(&at_node).filter(|_| own.contains(&flow.to.address)));
    let Some(endpoints) = endpoints else { return false };
    let translated = flow.to != flow.from;
    // One that was never translated is from before there was an endpoint; without any it does no harm, and on a node port that is gone it is
    // none of the proxy's business.
    !endpoints.contains(&flow.from) && (translated || !endpoints.is_empty())
}

fn parse(attributes: &[u8]) -> Option<Flow> {
    let original = attribute(attributes, TUPLE_ORIGINAL)?;
    Some(Flow {
        to: end(original, 2, 3)?,
        from: end(attribute(attributes, TUPLE_REPLY)?, 1, 2)?,
        original: original.to_vec(),
        id: attribute(attributes, ID)?.to_vec(),
        zone: attribute(attributes, ZONE).map(<[u8]>::to_vec),
    })
}

/// One end of a tuple.
fn end(tuple: &[u8], address: u16, port: u16) -> Option<Endpoint> {
    let octets: [u8; 4] = attribute(attribute(tuple, 1)?, address)?.try_into().ok()?;
    let port = attribute(attribute(tuple, 2)?, port)?.try_into().ok()?;
    Some(Endpoint { address: octets.into(), port: u16::from_be_bytes(port) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_stray_goes_elsewhere_than_its_service_does_now() {
        let at = |address: [u8; 4], port| Endpoint { address: address.into(), port };
        let (vip, node, pod, other) =
            (at([10, 96, 0, 1], 53), at([10, 2, 0, 1], 30_053), at([10, 3, 0, 2], 53), at([10, 3, 0, 3], 53));
        let own = HashSet::from([node.address]);
        let is_stray = |to, from, allowed: &[(Front, Endpoint, &[Endpoint])]| {
            let flow = Flow { to, from, original: Vec::new(), id: Vec::new(), zone: None };
            let allowed = allowed.iter().map(|(front, at, endpoints)| {
                let service = ServicePort { front: *front, protocol: Protocol::Udp, port: at.port };
                (service, endpoints.iter().copied().collect::<BTreeSet<_>>())
            });
            super::is_stray(&flow, &allowed.collect(), &own)
        };
        let cluster_ip = Front::Address(vip.address);
        assert!(is_stray(vip, other, &[(cluster_ip, vip, &[pod])]));
        assert!(!is_stray(vip, pod, &[(cluster_ip, vip, &[pod])]));
        assert!(is_stray(vip, vip, &[(cluster_ip, vip, &[pod])]), "from before there was an endpoint");
        assert!(is_stray(vip, pod, &[(cluster_ip, vip, &[])]), "the last one has left");
        assert!(is_stray(node, other, &[(Front::Node, node, &[pod])]));
        assert!(!is_stray(node, node, &[(Front::Node, node, &[])]), "a daemon's own");
        let elsewhere = at([192, 0, 2, 1], 30_053);
        assert!(!is_stray(elsewhere, elsewhere, &[(Front::Node, node, &[pod])]), "passing by");
        assert!(!is_stray(elsewhere, other, &[(Front::Node, node, &[pod])]), "somebody else's translation");
        let own_pod = at(node.address.octets(), 30_053);
        assert!(!is_stray(node, own_pod, &[(Front::Node, node, &[own_pod])]), "a Pod in the node's network");
        assert!(!is_stray(vip, other, &[(Front::Node, node, &[pod])]), "not asked about");
    }
}
