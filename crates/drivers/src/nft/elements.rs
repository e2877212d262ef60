//! The table's sets and maps, and their elements: services and endpoints as the kernel keeps them.
//!
//! Each field of a key or value takes whole registers of 4 bytes: addresses and ports in network order from the first byte on,
//! a protocol in the first byte, a slot in the machine's order (as `numgen` puts it).

use std::net::Ipv4Addr;

use hitless_dataplane::{Batch, Class, Endpoint, KernelError, Program, Protocol, ServicePort, SlotKey};

use super::{
    layout::TABLE,
    message::{self, Attributes, Transaction, attribute, attributes, flag, kind},
    socket::Connection,
};

/// Services without endpoints.
pub const REFUSED: &str = "refused";
/// Endpoint addresses, each twice, so that one look-up of source and destination finds who reached himself.
pub const PODS: &str = "pods";

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

/// Creates all sets and maps.
pub fn write_sets(transaction: &mut Transaction) {
    const MAP: u32 = 0x8;
    let mut id = 0;
    let mut set = |name: &str, key: (u32, u32), data: Option<(u32, u32)>, user_data: &[u8]| {
        id += 1;
        transaction.push(kind::NEW_SET, flag::CREATE, |a| {
            a.string(1, TABLE);
            a.string(2, name);
            a.u32(3, if data.is_some() { MAP } else { 0 });
            a.u32(4, key.0);
            a.u32(5, key.1);
            if let Some((data_type, length)) = data {
                a.u32(6, data_type);
                a.u32(7, length);
            }
            a.u32(10, id);
            a.bytes(13, user_data);
        });
    };
    for class in Class::ALL {
        let key = (SERVICE_KEY << 6 | INTEGER, 16);
        set(&slots_map(class), key, Some((ADDRESS << 6 | PORT, 8)), &type_of::slots(class));
    }
    set(REFUSED, (SERVICE_KEY, 12), None, &type_of::plain());
    set(PODS, (ADDRESS << 6 | ADDRESS, 8), None, &type_of::plain());
}

/// Writes every element of a program into sets that are new.
pub fn write_all(transaction: &mut Transaction, program: &Program) {
    for class in Class::ALL {
        let of_class = program.slots.iter().filter(|(key, _)| key.class == class);
        let pairs = of_class.map(|(key, endpoint)| (slot_key(key), Some(endpoint_value(endpoint))));
        write(transaction, kind::NEW_ELEMENT, &slots_map(class), pairs);
    }
    write(
        transaction,
        kind::NEW_ELEMENT,
        REFUSED,
        program.refused.iter().map(|s| (service_key(s), NO_VALUE)),
    );
    write(transaction, kind::NEW_ELEMENT, PODS, program.pods.iter().map(|p| (pod_key(*p), NO_VALUE)));
}

/// Writes a change: first what goes, then what comes, since a key must not be there twice.
pub fn write_change(transaction: &mut Transaction, batch: &Batch) {
    for class in Class::ALL {
        let replaced = batch.slots_replaced.iter().map(|(key, _)| key);
        let gone = batch.slots_removed.iter().chain(replaced).filter(|key| key.class == class);
        write(
            transaction,
            kind::DELETE_ELEMENT,
            &slots_map(class),
            gone.map(|key| (slot_key(key), NO_VALUE)),
        );
    }
    write(
        transaction,
        kind::DELETE_ELEMENT,
        REFUSED,
        batch.refused_removed.iter().map(|s| (service_key(s), NO_VALUE)),
    );
    write(
        transaction,
        kind::DELETE_ELEMENT,
        PODS,
        batch.pods_removed.iter().map(|p| (pod_key(*p), NO_VALUE)),
    );
    for class in Class::ALL {
        let come =
            batch.slots_added.iter().chain(&batch.slots_replaced).filter(|(key, _)| key.class == class);
        let come = come.map(|(key, endpoint)| (slot_key(key), Some(endpoint_value(endpoint))));
        write(transaction, kind::NEW_ELEMENT, &slots_map(class), come);
    }
    write(
        transaction,
        kind::NEW_ELEMENT,
        REFUSED,
        batch.refused_added.iter().map(|s| (service_key(s), NO_VALUE)),
    );
    write(transaction, kind::NEW_ELEMENT, PODS, batch.pods_added.iter().map(|p| (pod_key(*p), NO_VALUE)));
}

const NO_VALUE: Option<[u8; 8]> = None;

fn write<K: AsRef<[u8]>>(
    transaction: &mut Transaction,
    kind: u16,
    set: &str,
    elements: impl Iterator<Item = (K, Option<[u8; 8]>)>,
) {
    let flags = if kind == kind::NEW_ELEMENT { flag::CREATE } else { 0 };
    let mut elements = elements.peekable();
    while elements.peek().is_some() {
        transaction.push(kind, flags, |a| {
            a.string(1, TABLE);
            a.string(2, set);
            a.nest(3, |list| {
                for (key, value) in elements.by_ref().take(ELEMENTS_PER_MESSAGE) {
                    list.nest(1, |element| {
                        element.nest(1, |data| data.bytes(1, key.as_ref()));
                        if let Some(value) = value {
                            element.nest(2, |data| data.bytes(1, &value));
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
            let slot = u16::try_from(slot).map_err(|_| strange())?;
            let endpoint = parse_endpoint(&value).ok_or_else(strange)?;
            program.slots.insert(SlotKey { service, class, slot }, endpoint);
        }
    }
    for (key, _) in read(connection, REFUSED)? {
        program.refused.insert(parse_service_key(&key).ok_or_else(strange)?);
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
            let value =
                |kind| attribute(element, kind).and_then(|data| attribute(data, 1)).unwrap_or_default();
            found.push((value(1).to_vec(), value(2).to_vec()));
        }
    })
}

fn service_key(service: &ServicePort) -> [u8; 12] {
    let [a, b, c, d] = service.address.octets();
    let [high, low] = service.port.to_be_bytes();
    [a, b, c, d, service.protocol.number(), 0, 0, 0, high, low, 0, 0]
}

fn slot_key(key: &SlotKey) -> Vec<u8> {
    [service_key(&key.service).as_slice(), &u32::from(key.slot).to_ne_bytes()].concat()
}

fn pod_key(address: Ipv4Addr) -> [u8; 8] {
    let [a, b, c, d] = address.octets();
    [a, b, c, d, a, b, c, d]
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
    Some(ServicePort {
        address: parse_address(bytes)?,
        protocol: Protocol::from_number(*bytes.get(4)?)?,
        port: parse_port(bytes, 8)?,
    })
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
        let numgen =
            expression(NUMGEN, &[number(0, 1), number(1, class.slots().into()), number(2, 0)].concat());
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
