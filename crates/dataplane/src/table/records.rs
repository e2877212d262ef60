//! Services and EndpointSlices cut down to what routing needs, so that the table and the delay line stay small.
//!
//! What is not served here (headless Services, ExternalName, IPv6, SCTP, and Services that a label gives to another proxy) is left out
//! at this door.

use std::net::Ipv4Addr;

use hitless_types::{meta, well_known};
use k8s_openapi::api::{
    core::v1::{Service, ServiceSpec},
    discovery::v1::{self as discovery, EndpointSlice},
};

use crate::program::{Protocol, ServicePort};

/// A Service's virtual addresses and ports. Without addresses if it is headless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// `namespace/name`.
    pub key: String,
    /// IPv4 cluster IPs.
    pub addresses: Vec<Ipv4Addr>,
    /// Ports of protocols that are served here.
    pub ports: Vec<PortRecord>,
}

/// A port by name, as Services and slices agree on it. For a Service the port that clients use, for a slice the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRecord {
    /// Empty if the Service's one port has no name.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// An EndpointSlice of IPv4 addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceRecord {
    /// `namespace/name` of the slice.
    pub key: String,
    /// `namespace/name` of its Service.
    pub service: String,
    /// Target ports.
    pub ports: Vec<PortRecord>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointRecord>,
}

/// An endpoint and its conditions, absent ones resolved as the API documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointRecord {
    /// The Pod's address.
    pub address: Ipv4Addr,
    /// Absent: ready.
    pub ready: bool,
    /// Absent: as ready.
    pub serving: bool,
    /// Absent: not terminating.
    pub terminating: bool,
}

impl ServiceRecord {
    /// What routing needs of a Service.
    #[must_use]
    pub fn of(service: &Service) -> Self {
        let key = meta::key(&service.metadata);
        let labels = service.metadata.labels.as_ref();
        let is_another_s = labels.is_some_and(|l| l.contains_key(well_known::LABEL_SERVICE_PROXY_NAME));
        let is_served = |s: &&ServiceSpec| s.type_.as_deref() != Some("ExternalName") && !is_another_s;
        let Some(spec) = service.spec.as_ref().filter(is_served) else {
            return Self { key, addresses: Vec::new(), ports: Vec::new() };
        };
        let mut addresses: Vec<Ipv4Addr> = spec
            .cluster_ip
            .iter()
            .chain(spec.cluster_ips.iter().flatten())
            .filter_map(|ip| ip.parse().ok())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            Some(PortRecord {
                name: port.name.clone().unwrap_or_default(),
                protocol: Protocol::from_name(port.protocol.as_deref())?,
                port: u16::try_from(port.port).ok()?,
            })
        });
        Self { key, addresses, ports: ports.collect() }
    }

    /// Every (address, protocol, port) that the Service answers on. NodePorts will be more of these.
    pub fn service_ports(&self) -> impl Iterator<Item = ServicePort> + '_ {
        self.addresses.iter().flat_map(|address| {
            self.ports.iter().map(|p| ServicePort { address: *address, protocol: p.protocol, port: p.port })
        })
    }
}

impl SliceRecord {
    /// What routing needs of a slice. One of another address type, or of no Service, has no endpoints.
    #[must_use]
    pub fn of(slice: &EndpointSlice) -> Self {
        let labels = slice.metadata.labels.as_ref();
        let name = labels.and_then(|l| l.get(well_known::LABEL_SERVICE_NAME)).map_or("", String::as_str);
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let usable = slice.address_type == "IPv4" && !name.is_empty();
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            Some(PortRecord {
                name: port.name.clone().unwrap_or_default(),
                protocol: Protocol::from_name(port.protocol.as_deref())?,
                port: u16::try_from(port.port?).ok()?,
            })
        });
        Self {
            key: meta::key(&slice.metadata),
            service: format!("{namespace}/{name}"),
            ports: ports.collect(),
            endpoints: slice
                .endpoints
                .iter()
                .flatten()
                .filter(|_| usable)
                .filter_map(EndpointRecord::of)
                .collect(),
        }
    }
}

impl EndpointRecord {
    /// Only the first address counts: the API says that consumers may take all addresses of an endpoint as the same.
    fn of(endpoint: &discovery::Endpoint) -> Option<Self> {
        let address = endpoint.addresses.first()?.parse().ok()?;
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        Some(Self {
            address,
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
        })
    }
}
