//! Cluster IPs: which are taken, and by whom. The stored Services are the truth; this is filled from them at start.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;
use parking_lot::Mutex;

/// The addresses that Services hold, each with its Service's uid.
pub(crate) struct ClusterIps {
    cidr: Ipv4Net,
    taken: Mutex<HashMap<Ipv4Addr, String>>,
}

/// Why a wanted address cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    /// It lies elsewhere.
    #[error(
        "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {cidr}"
    )]
    OutOfRange { ip: String, cidr: Ipv4Net },
    /// Somebody has it.
    #[error("failed to allocate IP {ip}: provided IP is already allocated")]
    Taken { ip: Ipv4Addr },
    /// Nothing is left.
    #[error("failed to allocate a serviceIP: range is full")]
    Full,
}

impl ClusterIps {
    pub(crate) fn new(cidr: Ipv4Net) -> Self {
        Self { cidr, taken: Mutex::new(HashMap::new()) }
    }

    /// The first address: the Service `kubernetes`.
    pub(crate) fn first(&self) -> Ipv4Addr {
        self.cidr.hosts().next().unwrap_or(self.cidr.addr())
    }

    /// Takes the wanted address for the Service with this uid.
    pub(crate) fn take(&self, wanted: &str, uid: &str) -> Result<(), AddressError> {
        let outside = || AddressError::OutOfRange { ip: wanted.to_owned(), cidr: self.cidr };
        let Ok(IpAddr::V4(ip)) = wanted.parse() else { return Err(outside()) };
        let ends = ip == self.cidr.network() || ip == self.cidr.broadcast();
        if !self.cidr.contains(&ip) || ends {
            return Err(outside());
        }
        let mut taken = self.taken.lock();
        match taken.get(&ip) {
            Some(owner) if owner != uid => Err(AddressError::Taken { ip }),
            _ => {
                taken.insert(ip, uid.to_owned());
                Ok(())
            }
        }
    }

    /// Takes some free address for the Service with this uid.
    pub(crate) fn take_any(&self, uid: &str) -> Result<Ipv4Addr, AddressError> {
        let mut taken = self.taken.lock();
        let (low, high) = (u32::from(self.cidr.network()), u32::from(self.cidr.broadcast()));
        let count = high.saturating_sub(low).saturating_sub(1);
        if count == 0 {
            return Err(AddressError::Full);
        }
        // From a random place on, so that an address that was just given back is not given out at once.
        let start = rand::random_range(0..count);
        let free = (0..count)
            .map(|step| Ipv4Addr::from(low + 1 + (start + step) % count))
            .find(|ip| !taken.contains_key(ip))
            .ok_or(AddressError::Full)?;
        taken.insert(free, uid.to_owned());
        Ok(free)
    }

    /// Gives the address back, if the Service with this uid holds it.
    pub(crate) fn give_back(&self, ip: &str, uid: &str) {
        if let Ok(ip) = ip.parse::<Ipv4Addr>() {
            let mut taken = self.taken.lock();
            if taken.get(&ip).is_some_and(|owner| owner == uid) {
                taken.remove(&ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_owner_and_can_be_given_back() {
        let ips = ClusterIps::new("10.96.0.0/29".parse().unwrap());
        assert_eq!(ips.first(), Ipv4Addr::new(10, 96, 0, 1));
        ips.take("10.96.0.1", "kubernetes").unwrap();
        assert!(matches!(ips.take("10.96.0.1", "x"), Err(AddressError::Taken { .. })));
        assert!(matches!(ips.take("10.97.0.1", "x"), Err(AddressError::OutOfRange { .. })));
        assert!(matches!(ips.take("10.96.0.7", "x"), Err(AddressError::OutOfRange { .. })));
        let given: Vec<_> = (0..5).map(|i| ips.take_any(&i.to_string()).unwrap()).collect();
        assert_eq!(ips.take_any("y"), Err(AddressError::Full));
        ips.give_back(&given[3].to_string(), "nobody");
        assert_eq!(ips.take_any("y"), Err(AddressError::Full));
        ips.give_back(&given[3].to_string(), "3");
        assert_eq!(ips.take_any("y"), Ok(given[3]));
    }
}
