//! Services and EndpointSlices cut down to what names need.
//!
//! Pure. What follows from them stands in [`super::table`]; here only the reading, with absent fields resolved as the API
//! documents them.

use std::net::{IpAddr, Ipv6Addr};

use hitless_types::{meta, well_known};
use k8s_openapi::api::{
    core::v1::{Service, ServiceSpec},
    discovery::v1::{Endpoint, EndpointSlice},
};

/// A Service as DNS sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// `namespace/name`.
    pub key: String,
    /// What its name stands for.
    pub target: Target,
}

/// What a Service's name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Its cluster IPs; the ports are its own.
    ClusterIps(Vec<IpAddr>, Vec<NamedPort>),
    /// Its endpoints.
    Headless,
    /// Another name.
    External(String),
}

/// A port that has a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedPort {
    /// Its name; empty if it has none.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Its number.
    pub port: u16,
}

/// An EndpointSlice as DNS sees it: only endpoints whose addresses are to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceRecord {
    /// `namespace/name` of the slice.
    pub key: String,
    /// `namespace/name` of its Service.
    pub service: String,
    /// The numbers behind the Service's ports.
    pub ports: Vec<NamedPort>,
    /// Host label and address of each endpoint.
    pub hosts: Vec<(String, IpAddr)>,
}

impl ServiceRecord {
    /// What DNS needs of a Service.
    #[must_use]
    pub fn of(service: &Service) -> Self {
        let target = service.spec.as_ref().map_or_else(|| Target::ClusterIps(Vec::new(), Vec::new()), target);
        Self { key: meta::key(&service.metadata), target }
    }
}

fn target(spec: &ServiceSpec) -> Target {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Target::External(spec.external_name.clone().unwrap_or_default());
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        return Target::Headless;
    }
    let given = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in given.filter_map(|ip| ip.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let ports = spec.ports.iter().flatten();
    let ports = ports.filter_map(|p| named(p.name.as_deref(), p.protocol.as_deref(), p.port)).collect();
    Target::ClusterIps(addresses, ports)
}

fn named(name: Option<&str>, protocol: Option<&str>, port: i32) -> Option<NamedPort> {
    let protocol = protocol.filter(|p| !p.is_empty()).unwrap_or("TCP").to_ascii_lowercase();
    let name = name.unwrap_or_default().to_ascii_lowercase();
    Some(NamedPort { name, protocol, port: u16::try_from(port).ok()? })
}

impl SliceRecord {
    /// What DNS needs of a slice. One of names instead of addresses, or of no Service, has no endpoints.
    #[must_use]
    pub fn of(slice: &EndpointSlice) -> Self {
        let labels = slice.metadata.labels.as_ref();
        let name = labels.and_then(|l| l.get(well_known::LABEL_SERVICE_NAME)).map_or("", String::as_str);
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let ports = slice.ports.iter().flatten();
        let mut record = Self {
            key: meta::key(&slice.metadata),
            service: format!("{namespace}/{name}"),
            ports: ports.filter_map(|p| named(p.name.as_deref(), p.protocol.as_deref(), p.port?)).collect(),
            hosts: Vec::new(),
        };
        if !name.is_empty() && slice.address_type != "FQDN" {
            record.hosts = slice.endpoints.iter().flatten().filter_map(host).collect();
        }
        record
    }
}

/// Label and address of an endpoint that is to be published: a ready one, which with `publishNotReadyAddresses` each is.
/// Absent means ready. Only the first address counts: the API says that consumers may take all of them as the same.
fn host(endpoint: &Endpoint) -> Option<(String, IpAddr)> {
    if endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(false) {
        return None;
    }
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let given = endpoint.hostname.as_deref().filter(|name| !name.is_empty());
    Some((given.map_or_else(|| label_of(address), str::to_ascii_lowercase), address))
}

/// The label of an endpoint without a host name: its address, with hyphens, so that it can be told from all others.
#[must_use]
pub fn label_of(address: IpAddr) -> String {
    let dashed = address.to_string().replace(['.', ':'], "-");
    // `::1` must not begin with a hyphen, and `fd00::` must not end with one.
    let (head, tail) = (dashed.starts_with('-'), dashed.ends_with('-'));
    format!("{}{dashed}{}", if head { "0" } else { "" }, if tail { "0" } else { "" })
}

/// The address that a label like `10-1-2-3` or `fd00--1` stands for.
#[must_use]
pub fn address_of(label: &str) -> Option<IpAddr> {
    let dots = label.bytes().filter(|b| *b == b'-').count();
    if dots == 3
        && let Ok(address) = label.replace('-', ".").parse()
    {
        return Some(IpAddr::V4(address));
    }
    label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_endpoint_is_published_when_it_is_ready_or_says_nothing() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "Http", "port": 8080}, {"name": "none"}, {"port": 70000}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "hostname": "web-0"},
                {"addresses": ["10.0.0.2", "10.0.0.9"]},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": []},
                {"addresses": ["example.com"]},
            ],
        }))
        .unwrap();
        let record = SliceRecord::of(&slice);
        let hosts: Vec<_> = record.hosts.iter().map(|(label, ip)| format!("{label} {ip}")).collect();
        assert_eq!(hosts, ["web-0 10.0.0.1", "10-0-0-2 10.0.0.2"]);
        assert_eq!(record.ports, [NamedPort { name: "http".into(), protocol: "tcp".into(), port: 8080 }]);
        assert_eq!(record.service, "ns/web");
    }

    proptest! {
        #[test]
        fn an_address_is_found_again_by_its_label(v4 in any::<[u8; 4]>(), v6 in any::<[u16; 8]>()) {
            for address in [IpAddr::from(v4), IpAddr::from(v6), IpAddr::from([0_u16; 8])] {
                let label = label_of(address);
                prop_assert!(!label.starts_with('-') && !label.ends_with('-') && label.len() <= 63);
                prop_assert_eq!(address_of(&label), Some(address), "{}", label);
            }
        }

        #[test]
        fn any_label_is_an_address_or_none(label in "[0-9a-f-]{0,40}") {
            let _ = address_of(&label);
        }
    }
}
