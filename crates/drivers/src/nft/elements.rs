//! The table's sets and maps, and their elements: services and endpoints as the kernel keeps them.
//!
//! Each field of a key or value takes whole registers of 4 bytes: addresses and ports in network order from the first byte on,
//! a protocol in the first byte, a slot in the machine's order (as `numgen` puts it).

use std::net::Ipv4Addr;

use hitless_dataplane::{
    Batch, Class, Endpoint, Front, KernelError, NodePort, Program, Protocol, ServicePort, SlotKey, Step,
};

use super::{
    affinity,
    layout::TABLE,
    message::{self, Attributes, Transaction, attribute, attributes, flag, kind},
    socket::Connection,
};

/// Services without endpoints.
pub const REFUSED: &str = "refused";
/// Services without endpoints for some connections.
pub const DROPPED: &str = "dropped";
/// Node ports whose connections are masqueraded.
pub const NODE_PORTS: &str = "node-ports";
/// Node ports whose connections from outside keep their source.
pub const OUTSIDE_PORTS: &str = "outside-ports";
/// Services whose clients stay with an endpoint, and the chain that sees to it.
pub const AFFINITY: &str = "affinity";
/// Those services' endpoints.
pub const MEMBERS: &str = "members";
/// Those services' clients, each with his endpoint.
pub const CLIENTS: &str = "clients";
/// Endpoint addresses, each twice, so that one look-up of source and destination finds who reached himself.
pub const PODS: &str = "pods";

/// What stands for the address in the key of a node port, and of one for connections from outside: no packet goes there.
pub const NODE: Ipv4Addr = Ipv4Addr::new(0, 0, 0, 0);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(0, 0, 0, 1);

/// Clients that are remembered at a time; about 150 bytes each. Further ones are served and not remembered.
const CLIENTS_MAX: u32 = 1 << 18;

/// About 45 bytes each: so that a list stays below the 64 KiB of an attribute.
const ELEMENTS_PER_MESSAGE: usize = 1000;

/// Data types as nft numbers them, six bits each in a concatenation: for whoever lists the table.
const ADDRESS: u32 = 7;
const PROTOCOL: u32 = 12;
const PORT: u32 = 13;
const INTEGER: u32 = 4;
const SERVICE_KEY: u32 = ADDRESS << 12 | PROTOCOL << 6 | PORT;

/// The map of a class.
pub fn slots_map(class: Class) -> String {
    format!("slots-{}", class.slots())
}

/// What a set is: its key, and for a map its data, each as a type for nft and a length in bytes.
struct Set<'a> {
    name: &'a str,
    flags: u32,
    key: (u32, u32),
    data: Option<(u32, u32)>,
    size_max: Option<u32>,
    user_data: Vec<u8>,
}

impl<'a> Set<'a> {
    fn plain(name: &'a str, key: (u32, u32)) -> Self {
        Self { name, flags: 0, key, data: None, size_max: None, user_data: type_of::plain() }
    }
}

/// Creates all sets and maps.
pub fn write_sets(transaction: &mut Transaction) {
    const MAP: u32 = 0x8;
    const TIMEOUT: u32 = 0x10;
    const WRITTEN_BY_PACKETS: u32 = 0x20;
    const VERDICT: (u32, u32) = (0xffff_ff00, 16);
    const SERVICE: (u32, u32) = (SERVICE_KEY, 12);
    const PORT_KEY: (u32, u32) = (PROTOCOL << 6 | PORT, 8);
    const ENDPOINT: (u32, u32) = (ADDRESS << 6 | PORT, 8);
    let names: Vec<_> = Class::ALL.into_iter().map(|class| (class, slots_map(class))).collect();
    let mut sets: Vec<_> = names
        .iter()
        .map(|(class, name)| Set {
            flags: MAP,
            data: Some(ENDPOINT),
            user_data: type_of::slots(*class),
            ..Set::plain(name, (SERVICE_KEY << 6 | INTEGER, 16))
        })
        .collect();
    sets.extend([
        Set::plain(REFUSED, SERVICE),
        Set::plain(DROPPED, SERVICE),
        Set::plain(NODE_PORTS, PORT_KEY),
        Set::plain(OUTSIDE_PORTS, PORT_KEY),
        Set::plain(PODS, (ADDRESS << 6 | ADDRESS, 8)),
        Set::plain(MEMBERS, (SERVICE_KEY << 12 | ADDRESS << 6 | PORT, 20)),
        Set { flags: MAP, data: Some(VERDICT), ..Set::plain(AFFINITY, SERVICE) },
        Set {
            flags: MAP | TIMEOUT | WRITTEN_BY_PACKETS,
            data: Some(ENDPOINT),
            size_max: Some(CLIENTS_MAX),
            ..Set::plain(CLIENTS, (ADDRESS << 18 | SERVICE_KEY, 16))
        },
    ]);
    for (id, set) in (1..).zip(sets) {
        transaction.push(kind::NEW_SET, flag::CREATE, |a| {
            a.string(1, TABLE);
            a.string(2, set.name);
            a.u32(3, set.flags);
            a.u32(4, set.key.0);
            a.u32(5, set.key.1);
            if let Some((data_type, length)) = set.data {
                a.u32(6, data_type);
                a.u32(7, length);
            }
            if let Some(size) = set.size_max {
                a.nest(9, |description| description.u32(1, size));
            }
            a.u32(10, id);
            a.bytes(13, &set.user_data);
        });
    }
}

/// Writes every element of a program into sets that are new. The chains of its affinities must be there.
pub fn write_all(transaction: &mut Transaction, program: &Program) {
    let t = transaction;
    for class in Class::ALL {
        let of_class = program.slots.iter().filter(|(key, _)| key.class == class);
        write(t, kind::NEW_ELEMENT, &slots_map(class), of_class.map(|(key, endpoint)| slot(key, endpoint)));
    }
    write(t, kind::NEW_ELEMENT, REFUSED, program.refused.iter().map(service));
    write(t, kind::NEW_ELEMENT, DROPPED, program.dropped.iter().map(service));
    write(t, kind::NEW_ELEMENT, NODE_PORTS, program.node_ports.iter().map(node_port));
    write(t, kind::NEW_ELEMENT, OUTSIDE_PORTS, program.outside_ports.iter().map(node_port));
    write(t, kind::NEW_ELEMENT, AFFINITY, program.affinity.iter().map(|(s, seconds)| affine(s, *seconds)));
    write(t, kind::NEW_ELEMENT, MEMBERS, program.members.iter().map(member));
    write(t, kind::NEW_ELEMENT, PODS, program.pods.iter().map(pod));
}

/// Writes a change: first what goes, then what comes, since a key must not be there twice. The chains of new affinities must be there.
pub fn write_change(transaction: &mut Transaction, batch: &Batch) {
    for class in Class::ALL {
        let replaced = batch.slots_replaced.iter().map(|(key, _)| key);
        let gone = batch.slots_removed.iter().chain(replaced).filter(|key| key.class == class);
        write(
            transaction,
            kind::DELETE_ELEMENT,
            &slots_map(class),
            gone.map(|key| (slot_key(key), Value::None)),
        );
    }
    let adds = [false, true];
    for add in adds {
        write_step(transaction, add, AFFINITY, &batch.affinity, |(s, seconds)| affine(s, *seconds));
        write_step(transaction, add, REFUSED, &batch.refused, service);
        write_step(transaction, add, DROPPED, &batch.dropped, service);
        write_step(transaction, add, NODE_PORTS, &batch.node_ports, node_port);
        write_step(transaction, add, OUTSIDE_PORTS, &batch.outside_ports, node_port);
        write_step(transaction, add, MEMBERS, &batch.members, member);
        write_step(transaction, add, PODS, &batch.pods, pod);
    }
    for class in Class::ALL {
        let come =
            batch.slots_added.iter().chain(&batch.slots_replaced).filter(|(key, _)| key.class == class);
        write(
            transaction,
            kind::NEW_ELEMENT,
            &slots_map(class),
            come.map(|(key, endpoint)| slot(key, endpoint)),
        );
    }
}

/// What an element of a map holds.
enum Value {
    /// It is an element of a set.
    None,
    /// An endpoint.
    Endpoint([u8; 8]),
    /// A jump to this chain.
    Jump(String),
}

type Element = (Vec<u8>, Value);

fn slot(key: &SlotKey, endpoint: &Endpoint) -> Element {
    (slot_key(key), Value::Endpoint(endpoint_value(endpoint)))
}

fn service(service: &ServicePort) -> Element {
    (service_key(service).to_vec(), Value::None)
}

fn node_port((protocol, port): &NodePort) -> Element {
    let [high, low] = port.to_be_bytes();
    (vec![protocol.number(), 0, 0, 0, high, low, 0, 0], Value::None)
}

fn affine(service: &ServicePort, seconds: u32) -> Element {
    let chain = affinity::chain_name(service.front, seconds);
    (service_key(service).to_vec(), Value::Jump(chain))
}

fn member((service, endpoint): &(ServicePort, Endpoint)) -> Element {
    ([service_key(service).as_slice(), &endpoint_value(endpoint)].concat(), Value::None)
}

fn pod(address: &Ipv4Addr) -> Element {
    let [a, b, c, d] = address.octets();
    (vec![a, b, c, d, a, b, c, d], Value::None)
}

fn write_step<T>(
    transaction: &mut Transaction,
    add: bool,
    set: &str,
    step: &Step<T>,
    element: impl Fn(&T) -> Element,
) {
    if add {
        write(transaction, kind::NEW_ELEMENT, set, step.added.iter().map(element));
    } else {
        let keys = step.removed.iter().map(|item| (element(item).0, Value::None));
        write(transaction, kind::DELETE_ELEMENT, set, keys);
    }
}

fn write(transaction: &mut Transaction, kind: u16, set: &str, elements: impl Iterator<Item = Element>) {
    const JUMP: i32 = -3;
    let flags = if kind == kind::NEW_ELEMENT { flag::CREATE } else { 0 };
    let mut elements = elements.peekable();
    while elements.peek().is_some() {
        transaction.push(kind, flags, |a| {
            a.string(1, TABLE);
            a.string(2, set);
            a.nest(3, |list| {
                for (key, value) in elements.by_ref().take(ELEMENTS_PER_MESSAGE) {
                    list.nest(1, |element| {
                        element.nest(1, |data| data.bytes(1, &key));
                        match value {
                            Value::None => {}
                            Value::Endpoint(value) => element.nest(2, |data| data.bytes(1, &value)),
                            Value::Jump(chain) => element.nest(2, |data| {
                                data.nest(2, |verdict| {
                                    verdict.u32(1, JUMP.cast_unsigned());
                                    verdict.string(2, &chain);
                                });
                            }),
                        }
                    });
                }
            });
        });
    }
}

/// Everything that the sets hold.
pub fn read_all(connection: &mut Connection) -> Result<Program, KernelError> {
    let mut program = Program::default();
    for class in Class::ALL {
        for (key, value) in read(connection, &slots_map(class))? {
            let (service, slot) =
                parse_service_key(&key).zip(message::u32_ne(&key, 12)).ok_or_else(strange)?;
            let endpoint = parse_endpoint(&value).ok_or_else(strange)?;
            program.slots.insert(SlotKey { service, class, slot }, endpoint);
        }
    }
    let services = |connection: &mut Connection, set| -> Result<Vec<ServicePort>, KernelError> {
        read(connection, set)?.iter().map(|(key, _)| parse_service_key(key).ok_or_else(strange)).collect()
    };
    program.refused = services(connection, REFUSED)?.into_iter().collect();
    program.dropped = services(connection, DROPPED)?.into_iter().collect();
    for (set, ports) in [(NODE_PORTS, &mut program.node_ports), (OUTSIDE_PORTS, &mut program.outside_ports)] {
        for (key, _) in read(connection, set)? {
            ports.insert(parse_node_port(&key).ok_or_else(strange)?);
        }
    }
    for (key, value) in read(connection, AFFINITY)? {
        let chain = attribute(&value, 2).map(message::text).and_then(affinity::seconds_of);
        let (service, seconds) = parse_service_key(&key).zip(chain).ok_or_else(strange)?;
        program.affinity.insert(service, seconds);
    }
    for (key, _) in read(connection, MEMBERS)? {
        let endpoint = key.get(12..).and_then(parse_endpoint);
        program.members.insert(parse_service_key(&key).zip(endpoint).ok_or_else(strange)?);
    }
    for (key, _) in read(connection, PODS)? {
        program.pods.insert(parse_address(&key).ok_or_else(strange)?);
    }
    Ok(program)
}

fn strange() -> KernelError {
    KernelError::Foreign { reason: "an element that no service has".to_owned() }
}

type Pair = (Vec<u8>, Vec<u8>);

fn read(connection: &mut Connection, set: &str) -> Result<Vec<Pair>, KernelError> {
    let which = |a: &mut Attributes<'_>| {
        a.string(1, TABLE);
        a.string(2, set);
    };
    connection.dump(kind::GET_ELEMENT, which, Vec::new, |found: &mut Vec<Pair>, message| {
        for (_, element) in attribute(message, 3).into_iter().flat_map(attributes) {
            let key = attribute(element, 1).and_then(|data| attribute(data, 1)).unwrap_or_default();
            // Plain data, or a verdict.
            let value = attribute(element, 2);
            let value = value.and_then(|data| attribute(data, 1).or(attribute(data, 2))).unwrap_or_default();
            found.push((key.to_vec(), value.to_vec()));
        }
    })
}

fn service_key(service: &ServicePort) -> [u8; 12] {
    let [a, b, c, d] = address_of(service.front).octets();
    let [high, low] = service.port.to_be_bytes();
    [a, b, c, d, service.protocol.number(), 0, 0, 0, high, low, 0, 0]
}

/// What stands in a key for the address.
pub fn address_of(front: Front) -> Ipv4Addr {
    match front {
        Front::Address(address) => address,
        Front::Node => NODE,
        Front::NodeOutside => OUTSIDE,
    }
}

fn slot_key(key: &SlotKey) -> Vec<u8> {
    [service_key(&key.service).as_slice(), &key.slot.to_ne_bytes()].concat()
}

fn endpoint_value(endpoint: &Endpoint) -> [u8; 8] {
    let [a, b, c, d] = endpoint.address.octets();
    let [high, low] = endpoint.port.to_be_bytes();
    [a, b, c, d, high, low, 0, 0]
}

fn parse_address(bytes: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}

fn parse_port(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn parse_service_key(bytes: &[u8]) -> Option<ServicePort> {
    let front = match parse_address(bytes)? {
        NODE => Front::Node,
        OUTSIDE => Front::NodeOutside,
        address => Front::Address(address),
    };
    Some(ServicePort { front, protocol: Protocol::from_number(*bytes.get(4)?)?, port: parse_port(bytes, 8)? })
}

fn parse_node_port(bytes: &[u8]) -> Option<NodePort> {
    Some((Protocol::from_number(*bytes.first()?)?, parse_port(bytes, 4)?))
}

fn parse_endpoint(bytes: &[u8]) -> Option<Endpoint> {
    Some(Endpoint { address: parse_address(bytes)?, port: parse_port(bytes, 4)? })
}

/// User data of sets: says to nft what the fields of a key are, so that `nft list table ip hitless` can show them. The kernel does not look at it.
mod type_of {
    use super::Class;

    const KEY_ORDER: u8 = 0;
    const DATA_ORDER: u8 = 1;
    const KEY_TYPE: u8 = 3;
    const DATA_TYPE: u8 = 4;
    const PAYLOAD: u32 = 7;
    const CONCATENATION: u32 = 13;
    const NUMGEN: u32 = 23;
    const IPV4: u32 = 12;
    const TRANSPORT: u32 = 11;

    /// No more than that the key's order is not one.
    pub fn plain() -> Vec<u8> {
        number(KEY_ORDER, 0)
    }

    /// `ip daddr . ip protocol . th dport . numgen random mod N : ip daddr . th dport`
    pub fn slots(class: Class) -> Vec<u8> {
        let address = payload(IPV4, 12);
        let port = payload(TRANSPORT, 2);
        let numgen = expression(NUMGEN, &[number(0, 1), number(1, class.slots()), number(2, 0)].concat());
        let key = concatenation(&[address.clone(), payload(IPV4, 9), port.clone(), numgen]);
        let data = concatenation(&[address, port]);
        [number(KEY_ORDER, 0), number(DATA_ORDER, 0), block(KEY_TYPE, &key), block(DATA_TYPE, &data)].concat()
    }

    fn payload(protocol: u32, field: u32) -> Vec<u8> {
        expression(PAYLOAD, &[number(0, protocol), number(1, field)].concat())
    }

    fn concatenation(parts: &[Vec<u8>]) -> Vec<u8> {
        let parts: Vec<u8> = (0_u8..).zip(parts).flat_map(|(n, part)| block(n, part)).collect();
        expression(CONCATENATION, &parts)
    }

    fn expression(kind: u32, content: &[u8]) -> Vec<u8> {
        [number(0, kind), block(1, content)].concat()
    }

    fn number(kind: u8, value: u32) -> Vec<u8> {
        block(kind, &value.to_ne_bytes())
    }

    fn block(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut block = vec![kind, u8::try_from(content.len()).unwrap_or(u8::MAX)];
        block.extend_from_slice(content);
        block
    }
}
