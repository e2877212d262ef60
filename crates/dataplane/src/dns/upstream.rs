//! The resolvers that the machine itself asks, as `/etc/resolv.conf` names them. Pure reading of text.

use std::net::{IpAddr, SocketAddr};

/// As many as the system's own resolver asks.
const SERVERS_MAX: usize = 3;
const PORT: u16 = 53;

/// The name servers of a `resolv.conf`, in its order. Lines that make no sense are passed over, as the system's resolver does.
/// `own`: addresses that are this server's, which would ask itself.
#[must_use]
pub fn servers(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let (Some("nameserver"), Some(address)) = (words.next(), words.next()) else { continue };
        let Ok(address) = address.parse::<IpAddr>() else { continue };
        let server = SocketAddr::new(address, PORT);
        if !own.contains(&address) && !found.contains(&server) && found.len() < SERVERS_MAX {
            found.push(server);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_that_make_sense_and_are_not_oneself() {
        let text = "# written by hand\nsearch a b\nnameserver 10.0.0.1 # near\nnameserver\nnameserver nonsense\n\
            nameserver 10.150.0.10\n nameserver fd00::1\nnameserver 10.0.0.1\n;nameserver 9.9.9.9\n\
            nameserver 10.0.0.2\nnameserver 10.0.0.3\noptions ndots:5\n";
        let own = [IpAddr::from([10, 150, 0, 10])];
        let shown: Vec<_> = servers(text, &own).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.1:53", "[fd00::1]:53", "10.0.0.2:53"]);
        assert!(servers("", &own).is_empty());
    }
}
