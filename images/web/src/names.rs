//! Looks names up as a Pod's `/etc/resolv.conf` says: servers, search domains, ndots. IPv4 addresses only.
//!
//! The program is linked statically, and the C library's own resolver does not work so. What must hold: an address is used for no longer
//! than its record lives, counted from when the answer came, as the strictest of clients would; a name that cannot be looked up is a
//! failure that is seen.

use std::{
    collections::hash_map::RandomState,
    fs,
    hash::BuildHasher,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const TRIES: u32 = 3;
const TRY_WITHIN: Duration = Duration::from_millis(700);
const TYPE_A: u16 = 1;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The name that had them, of those that were tried.
    pub name: String,
    /// Its addresses, in the order of the answer.
    pub addresses: Vec<Ipv4Addr>,
    /// For how long they may be used.
    pub ttl: Duration,
}

/// Where names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    searches: Vec<String>,
    ndots: usize,
}

impl Resolver {
    /// As the system is set up.
    pub fn of_system() -> Result<Self, String> {
        let text =
            fs::read_to_string(RESOLV_CONF).map_err(|error| format!("cannot read {RESOLV_CONF}: {error}"))?;
        let resolver = Self::parse(&text);
        if resolver.servers.is_empty() { Err(format!("{RESOLV_CONF} names no server")) } else { Ok(resolver) }
    }

    fn parse(text: &str) -> Self {
        let mut resolver = Self { servers: Vec::new(), searches: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    resolver.servers.extend(address.map(|address| SocketAddr::new(address, 53)));
                }
                Some("search") => resolver.searches = words.map(str::to_owned).collect(),
                Some("options") => {
                    let ndots = words.find_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    resolver.ndots = ndots.unwrap_or(resolver.ndots);
                }
                _ => {}
            }
        }
        resolver
    }

    /// The names to try, in order.
    fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let mut all: Vec<String> = self.searches.iter().map(|search| format!("{name}.{search}")).collect();
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        all.insert(if dots >= self.ndots { 0 } else { all.len() }, name.to_owned());
        all
    }

    /// The addresses of a name; none is an error.
    pub fn look_up(&self, name: &str) -> Result<Found, String> {
        for candidate in self.candidates(name) {
            let (addresses, ttl) = self.ask(&candidate)?;
            if !addresses.is_empty() {
                return Ok(Found { name: candidate, addresses, ttl });
            }
        }
        Err(format!("{name}: no such name, or it has no address"))
    }

    /// The addresses of this very name, perhaps none.
    fn ask(&self, name: &str) -> Result<(Vec<Ipv4Addr>, Duration), String> {
        let mut last = String::new();
        for _ in 0..TRIES {
            for server in &self.servers {
                match ask_server(*server, name) {
                    Ok(answer) => return Ok(answer),
                    Err(error) => last = format!("{server}: {error}"),
                }
            }
        }
        Err(format!("{name} cannot be looked up: {last}"))
    }
}

fn ask_server(server: SocketAddr, name: &str) -> io::Result<(Vec<Ipv4Addr>, Duration)> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    let id = u16::try_from(RandomState::new().hash_one(name) & 0xffff).unwrap_or(0);
    socket.send(&query(id, name).ok_or(io::ErrorKind::InvalidInput)?)?;
    let until = Instant::now() + TRY_WITHIN;
    let mut buffer = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let length = socket.recv(&mut buffer)?;
        let packet = buffer.get(..length).unwrap_or_default();
        if packet.get(..2) == Some(&id.to_be_bytes()) {
            return parse_answer(packet);
        }
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

fn query(id: u16, name: &str) -> Option<Vec<u8>> {
    let mut packet = Vec::with_capacity(64);
    packet.extend_from_slice(&id.to_be_bytes());
    packet.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        packet.push(length);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend_from_slice(&[0, 0, 1, 0, 1]);
    Some(packet)
}

/// The address records of an answer and the shortest of their lives.
fn parse_answer(packet: &[u8]) -> io::Result<(Vec<Ipv4Addr>, Duration)> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let code = packet.get(3).ok_or_else(bad)? & 0x0f;
    // 0: there it is; 3: there is no such name. All else is no answer.
    if code != 0 && code != 3 {
        return Err(io::Error::other(format!("answers with code {code}")));
    }
    let questions = u16_at(packet, 4).ok_or_else(bad)?;
    let answers = u16_at(packet, 6).ok_or_else(bad)?;
    let mut at = 12;
    for _ in 0..questions {
        at = after_name(packet, at).ok_or_else(bad)? + 4;
    }
    let (mut addresses, mut ttl_s) = (Vec::new(), u32::MAX);
    for _ in 0..answers {
        at = after_name(packet, at).ok_or_else(bad)?;
        let type_ = u16_at(packet, at).ok_or_else(bad)?;
        let ttl = packet.get(at + 4..at + 8).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
        let length = usize::from(u16_at(packet, at + 8).ok_or_else(bad)?);
        let data = packet.get(at + 10..at + 10 + length).ok_or_else(bad)?;
        if type_ == TYPE_A
            && let Ok(octets) = <[u8; 4]>::try_from(data)
        {
            addresses.push(octets.into());
        }
        ttl_s = ttl_s.min(ttl.ok_or_else(bad)?);
        at += 10 + length;
    }
    Ok((addresses, Duration::from_secs(ttl_s.into())))
}

fn u16_at(packet: &[u8], at: usize) -> Option<u16> {
    packet.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

/// Where the name that begins at `at` ends; a pointer ends it.
fn after_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tried_as_the_resolver_is_set_up() {
        let resolver = Resolver::parse("nameserver 10.0.0.10\nsearch a.b c\noptions ndots:2 edns0\n");
        assert_eq!(resolver.candidates("x"), ["x.a.b", "x.c", "x"]);
        assert_eq!(resolver.candidates("x.y.z"), ["x.y.z", "x.y.z.a.b", "x.y.z.c"]);
        assert_eq!(resolver.candidates("x."), ["x."]);
        assert_eq!(resolver.servers, ["10.0.0.10:53".parse().unwrap()]);
    }

    #[test]
    fn an_answer_gives_its_addresses_and_the_shortest_life() {
        let mut packet = query(7, "web.ns").unwrap();
        (packet[2], packet[7]) = (0x81, 2);
        for (ttl, last) in [(9_u8, 1_u8), (5, 2)] {
            packet.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, ttl, 0, 4, 10, 0, 0, last]);
        }
        let (addresses, ttl) = parse_answer(&packet).unwrap();
        assert_eq!(addresses, [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]);
        assert_eq!(ttl, Duration::from_secs(5));
        for cut in 0..packet.len() {
            assert!(parse_answer(&packet[..cut]).is_err(), "{cut} bytes");
        }
        packet[3] = 2;
        assert!(parse_answer(&packet).is_err(), "SERVFAIL is no answer");
        assert!(query(1, &"a".repeat(64)).is_none() && query(1, "a..b").is_none());
    }
}
