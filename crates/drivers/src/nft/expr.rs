//! The expressions that the rules are made of. Each function writes one, as an element of a rule's list.
//!
//! Registers are 4 bytes wide and numbered from 8; a value longer than one runs on into the next.

use ipnet::Ipv4Net;

use super::message::Attributes;

/// A register.
#[derive(Clone, Copy, Debug)]
pub struct Register(u8);

/// The registers used here.
pub const R0: Register = Register(8);
pub const R1: Register = Register(9);
pub const R2: Register = Register(10);
pub const R3: Register = Register(11);
pub const R4: Register = Register(12);
pub const R5: Register = Register(13);

const VERDICT: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const IPS_DNAT_DONE: u32 = 1 << 5;
const CT_STATE_NEW: u32 = 1 << 3;
const ADDRESS_LOCAL: u32 = 2;
/// Which address a `fib` expression looks at.
const SOURCE: u32 = 1;
const DESTINATION: u32 = 2;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// What a rule does to a set that packets fill.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Update {
    /// Adds an element that is not there.
    Add = 0,
    /// Gives an element its time anew.
    Refresh = 1,
    /// Takes an element away, if it is there.
    Delete = 2,
}

/// The expressions of one rule.
pub struct Expressions<'a, 'b>(pub &'a mut Attributes<'b>);

impl Expressions<'_, '_> {
    fn push(&mut self, name: &str, content: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.0.nest(1, |e| {
            e.string(1, name);
            e.nest(2, content);
        });
        self
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32, to: Register) -> &mut Self {
        self.push("payload", |a| {
            a.u32(1, to.0.into());
            a.u32(2, base);
            a.u32(3, offset);
            a.u32(4, length);
        })
    }

    /// `ip saddr`
    pub fn source_address(&mut self, to: Register) -> &mut Self {
        self.payload(NETWORK, 12, 4, to)
    }

    /// `ip daddr`
    pub fn destination_address(&mut self, to: Register) -> &mut Self {
        self.payload(NETWORK, 16, 4, to)
    }

    /// `ip protocol`
    pub fn protocol(&mut self, to: Register) -> &mut Self {
        self.payload(NETWORK, 9, 1, to)
    }

    /// `th dport`
    pub fn destination_port(&mut self, to: Register) -> &mut Self {
        self.payload(TRANSPORT, 2, 2, to)
    }

    /// A constant.
    pub fn constant(&mut self, value: [u8; 4], to: Register) -> &mut Self {
        self.push("immediate", |a| {
            a.u32(1, to.0.into());
            a.nest(2, |data| data.bytes(1, &value));
        })
    }

    /// `numgen random mod N`
    pub fn random(&mut self, modulus: u32, to: Register) -> &mut Self {
        const RANDOM: u32 = 1;
        self.push("numgen", |a| {
            a.u32(1, to.0.into());
            a.u32(2, modulus);
            a.u32(3, RANDOM);
            a.u32(4, 0);
        })
    }

    /// Goes on only if the set has the key that starts at `key`.
    pub fn is_in(&mut self, set: &str, key: Register) -> &mut Self {
        self.push("lookup", |a| {
            a.string(1, set);
            a.u32(2, key.0.into());
        })
    }

    /// Goes on only if the map has the key that starts at `key`; its value is put where `to` starts.
    pub fn map(&mut self, map: &str, key: Register, to: Register) -> &mut Self {
        self.push("lookup", |a| {
            a.string(1, map);
            a.u32(2, key.0.into());
            a.u32(3, to.0.into());
        })
    }

    /// `vmap`: goes where the map says, or on if it does not have the key that starts at `key`.
    pub fn verdict_map(&mut self, map: &str, key: Register) -> &mut Self {
        self.push("lookup", |a| {
            a.string(1, map);
            a.u32(2, key.0.into());
            a.u32(3, VERDICT);
        })
    }

    /// `add`, `update` or `delete` of a map's element, with a time to live. Goes on only if that can be done: there is a limit to a map's size.
    pub fn update_map(
        &mut self,
        how: Update,
        map: &str,
        key: Register,
        value: Register,
        ttl_s: u32,
    ) -> &mut Self {
        self.push("dynset", |a| {
            a.string(1, map);
            a.u32(3, how as u32);
            a.u32(4, key.0.into());
            a.u32(5, value.0.into());
            a.bytes(6, &(u64::from(ttl_s) * 1000).to_be_bytes());
        })
    }

    /// `dnat to` address and port
    pub fn dnat(&mut self, address: Register, port: Register) -> &mut Self {
        const DNAT: u32 = 1;
        const IPV4: u32 = 2;
        self.push("nat", |a| {
            a.u32(1, DNAT);
            a.u32(2, IPV4);
            a.u32(3, address.0.into());
            a.u32(5, port.0.into());
        })
    }

    /// `masquerade fully-random`: two connections at once do not draw the same port one after another.
    pub fn masquerade(&mut self) -> &mut Self {
        const FULLY_RANDOM: u32 = 0x10;
        self.push("masq", |a| a.u32(1, FULLY_RANDOM))
    }

    /// `drop`
    pub fn drop_packet(&mut self) -> &mut Self {
        self.verdict(0, None)
    }

    /// `return`
    pub fn go_back(&mut self) -> &mut Self {
        self.verdict(-5, None)
    }

    /// `jump CHAIN`
    pub fn jump(&mut self, chain: &str) -> &mut Self {
        self.verdict(-3, Some(chain))
    }

    /// `goto CHAIN`
    pub fn go_to(&mut self, chain: &str) -> &mut Self {
        self.verdict(-4, Some(chain))
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) -> &mut Self {
        self.push("immediate", |a| {
            a.u32(1, VERDICT);
            a.nest(2, |data| {
                data.nest(2, |verdict| {
                    verdict.u32(1, code.cast_unsigned());
                    if let Some(chain) = chain {
                        verdict.string(2, chain);
                    }
                });
            });
        })
    }

    /// `reject with tcp reset`
    pub fn reset(&mut self) -> &mut Self {
        self.push("reject", |a| {
            a.u32(1, 1);
            a.bytes(2, &[0]);
        })
    }

    /// `reject with icmp port-unreachable`
    pub fn unreachable_port(&mut self) -> &mut Self {
        self.push("reject", |a| {
            a.u32(1, 0);
            a.bytes(2, &[3]);
        })
    }

    /// `ct status dnat`
    pub fn was_dnat(&mut self) -> &mut Self {
        const STATUS: u32 = 2;
        self.conntrack_bits(STATUS, IPS_DNAT_DONE)
    }

    /// `ct state new`
    pub fn is_new(&mut self) -> &mut Self {
        const STATE: u32 = 0;
        self.conntrack_bits(STATE, CT_STATE_NEW)
    }

    fn conntrack_bits(&mut self, key: u32, bits: u32) -> &mut Self {
        self.push("ct", |a| {
            a.u32(2, key);
            a.u32(1, R0.0.into());
        });
        self.and(R0, bits.to_ne_bytes()).compare(R0, NOT_EQUAL, &[0; 4])
    }

    /// `ct original proto-dst`: the port that the client asked for.
    pub fn original_port(&mut self, to: Register) -> &mut Self {
        const PROTO_DST: u32 = 12;
        const ORIGINAL: u8 = 0;
        self.push("ct", |a| {
            a.u32(2, PROTO_DST);
            a.u32(1, to.0.into());
            a.bytes(3, &[ORIGINAL]);
        })
    }

    /// `fib saddr type local`
    pub fn source_is_local(&mut self) -> &mut Self {
        self.address_type(SOURCE).compare(R0, EQUAL, &ADDRESS_LOCAL.to_ne_bytes())
    }

    /// `fib saddr type != local`
    pub fn source_is_foreign(&mut self) -> &mut Self {
        self.address_type(SOURCE).compare(R0, NOT_EQUAL, &ADDRESS_LOCAL.to_ne_bytes())
    }

    /// `fib daddr type local`
    pub fn destination_is_local(&mut self) -> &mut Self {
        self.address_type(DESTINATION).compare(R0, EQUAL, &ADDRESS_LOCAL.to_ne_bytes())
    }

    fn address_type(&mut self, of: u32) -> &mut Self {
        const RESULT_TYPE: u32 = 3;
        self.push("fib", |a| {
            a.u32(1, R0.0.into());
            a.u32(2, RESULT_TYPE);
            a.u32(3, of);
        })
    }

    /// `ip saddr != NET`
    pub fn source_is_outside(&mut self, net: Ipv4Net) -> &mut Self {
        self.source_address(R0).compare_net(NOT_EQUAL, net)
    }

    /// `ip daddr != NET`
    pub fn destination_is_outside(&mut self, net: Ipv4Net) -> &mut Self {
        self.destination_address(R0).compare_net(NOT_EQUAL, net)
    }

    /// `ip daddr NET`
    pub fn destination_is_inside(&mut self, net: Ipv4Net) -> &mut Self {
        self.destination_address(R0).compare_net(EQUAL, net)
    }

    fn compare_net(&mut self, how: u32, net: Ipv4Net) -> &mut Self {
        self.and(R0, net.netmask().octets()).compare(R0, how, &net.network().octets())
    }

    /// `ip protocol tcp`
    pub fn is_tcp(&mut self) -> &mut Self {
        self.protocol(R0).compare(R0, EQUAL, &[6])
    }

    fn and(&mut self, register: Register, mask: [u8; 4]) -> &mut Self {
        self.push("bitwise", |a| {
            a.u32(1, register.0.into());
            a.u32(2, register.0.into());
            a.u32(3, 4);
            a.nest(4, |data| data.bytes(1, &mask));
            a.nest(5, |data| data.bytes(1, &[0; 4]));
        })
    }

    fn compare(&mut self, register: Register, how: u32, value: &[u8]) -> &mut Self {
        self.push("cmp", |a| {
            a.u32(1, register.0.into());
            a.u32(2, how);
            a.nest(3, |data| data.bytes(1, value));
        })
    }
}
