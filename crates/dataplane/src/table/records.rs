//! Services and EndpointSlices cut down to what routing needs, so that the table and the delay line stay small.
//!
//! What is not served here (headless Services, ExternalName, IPv6, SCTP, and Services that a label gives to another proxy) is left out
//! at this door.

use std::net::Ipv4Addr;

use hitless_types::{meta, well_known};
use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{self as discovery, EndpointSlice},
};

use crate::program::{Front, Protocol, ServicePort};

/// The seconds of `sessionAffinity: ClientIP` where the Service does not say.
const AFFINITY_S: u32 = 10_800;

/// A Service's virtual addresses, ports and policies. Without addresses if it is headless, with nothing if another proxy serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// `namespace/name`.
    pub key: String,
    /// IPv4 cluster IPs.
    pub addresses: Vec<Ipv4Addr>,
    /// Ports of protocols that are served here, each with its node port, if it has one.
    pub ports: Vec<(PortRecord, Option<u16>)>,
    /// `internalTrafficPolicy: Local`: cluster IPs lead to the node's own endpoints only.
    pub is_internal_local: bool,
    /// `externalTrafficPolicy: Local`: so do node ports, for connections from outside.
    pub is_external_local: bool,
    /// `sessionAffinity: ClientIP`: for how many seconds after its last new connection a client stays with its endpoint.
    pub affinity_s: Option<u32>,
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
    /// It is on this node.
    pub local: bool,
}

impl ServiceRecord {
    /// What routing needs of a Service.
    #[must_use]
    pub fn of(service: &Service) -> Self {
        let mut record = Self {
            key: meta::key(&service.metadata),
            addresses: Vec::new(),
            ports: Vec::new(),
            is_internal_local: false,
            is_external_local: false,
            affinity_s: None,
        };
        let labels = service.metadata.labels.as_ref();
        if labels.is_some_and(|labels| labels.contains_key(well_known::LABEL_SERVICE_PROXY_NAME)) {
            return record;
        }
        let Some(spec) = service.spec.as_ref().filter(|s| s.type_.as_deref() != Some("ExternalName")) else {
            return record;
        };
        let ips = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
        record.addresses = ips.filter_map(|ip| ip.parse().ok()).collect();
        record.addresses.sort_unstable();
        record.addresses.dedup();
        let outward = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            let record = PortRecord {
                name: port.name.clone().unwrap_or_default(),
                protocol: Protocol::from_name(port.protocol.as_deref())?,
                port: u16::try_from(port.port).ok()?,
            };
            let node_port = port.node_port.and_then(|number| u16::try_from(number).ok());
            Some((record, node_port.filter(|number| outward && *number != 0)))
        });
        record.ports = ports.collect();
        record.is_internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
        record.is_external_local = spec.external_traffic_policy.as_deref() == Some("Local");
        if spec.session_affinity.as_deref() == Some("ClientIP") {
            let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let seconds = config.and_then(|client| u32::try_from(client.timeout_seconds?).ok());
            record.affinity_s = Some(seconds.filter(|s| *s > 0).unwrap_or(AFFINITY_S));
        }
        record
    }

    /// Everything that the Service answers on.
    pub fn service_ports(&self) -> impl Iterator<Item = ServicePort> + '_ {
        self.ports.iter().flat_map(|(record, node_port)| {
            let protocol = record.protocol;
            let at = move |front, port| ServicePort { front, protocol, port };
            let addresses =
                self.addresses.iter().map(move |address| at(Front::Address(*address), record.port));
            let node = node_port.map(|port| at(Front::Node, port));
            let outside =
                node_port.filter(|_| self.is_external_local).map(|port| at(Front::NodeOutside, port));
            addresses.chain(node).chain(outside)
        })
    }

    /// The name of the port that is meant, and whether policy leads these connections to the node's own endpoints only.
    pub fn find(&self, port: ServicePort) -> Option<(&str, bool)> {
        let of_protocol = || self.ports.iter().filter(|(record, _)| record.protocol == port.protocol);
        let (found, is_local) = match port.front {
            Front::Address(_) => {
                (of_protocol().find(|(record, _)| record.port == port.port), self.is_internal_local)
            }
            Front::Node => (of_protocol().find(|(_, node_port)| *node_port == Some(port.port)), false),
            Front::NodeOutside => (of_protocol().find(|(_, node_port)| *node_port == Some(port.port)), true),
        };
        found.map(|(record, _)| (record.name.as_str(), is_local))
    }
}

impl SliceRecord {
    /// What routing on this node needs of a slice. One of another address type, or of no Service, has no endpoints.
    #[must_use]
    pub fn of(slice: &EndpointSlice, node_name: &str) -> Self {
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
                .filter_map(|endpoint| EndpointRecord::of(endpoint, node_name))
                .collect(),
        }
    }
}

impl EndpointRecord {
    /// Only the first address counts: the API says that consumers may take all addresses of an endpoint as the same.
    fn of(endpoint: &discovery::Endpoint, node_name: &str) -> Option<Self> {
        let address = endpoint.addresses.first()?.parse().ok()?;
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        Some(Self {
            address,
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
            local: endpoint.node_name.as_deref() == Some(node_name),
        })
    }
}
