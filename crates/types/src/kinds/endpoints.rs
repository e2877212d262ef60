//! Endpoints and EndpointSlice: who answers for a Service.

use k8s_openapi::api::{
    core::v1::{EndpointSubset, Endpoints},
    discovery::v1::EndpointSlice,
};
use serde_json::Value;

use super::{AGE, Kind, NAME, ROW, column, typecheck};
use crate::{
    field::FieldError,
    json::{items, set, typed},
    names,
    table::{self, NONE},
};

pub(super) const ENDPOINTS: Kind = Kind {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    default: |object| {
        let Some(fields) = object.as_object_mut() else { return };
        for subset in items(fields, "subsets") {
            for port in items(subset, "ports") {
                set(port, "protocol", "TCP");
            }
        }
    },
    validate: validate_endpoints,
    typecheck: typecheck::typecheck::<Endpoints>,
    columns: &[NAME, column("Endpoints", "string", "Ready addresses with their ports."), AGE],
    cells: |object, now| {
        let endpoints: Endpoints = typed(object);
        let all: Vec<_> = endpoints.subsets.iter().flatten().flat_map(addresses).collect();
        vec![
            table::name_of(&endpoints.metadata),
            table::cut_short(&all, 3, NONE).into(),
            table::age_of(&endpoints.metadata, now),
        ]
    },
    ..ROW
};

/// `IP:port` for each port and address, or the bare address where the subset has no ports.
fn addresses(subset: &EndpointSubset) -> Vec<String> {
    let host = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let ready = || subset.addresses.iter().flatten();
    match subset.ports.as_deref().unwrap_or_default() {
        [] => ready().map(|a| a.ip.clone()).collect(),
        ports => {
            ports.iter().flat_map(|p| ready().map(move |a| format!("{}:{}", host(&a.ip), p.port))).collect()
        }
    }
}

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

fn check_ip(field: String, ip: &str, faults: &mut Vec<FieldError>) {
    if ip.parse::<std::net::IpAddr>().is_err() {
        faults.push(FieldError::invalid(
            field,
            ip,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ));
    }
}

fn check_port(
    at: &str,
    port: Option<i32>,
    protocol: Option<&str>,
    name: Option<&str>,
    faults: &mut Vec<FieldError>,
) {
    if let Some(port) = port {
        for fault in names::port_number_faults(port.into()) {
            faults.push(FieldError::invalid(format!("{at}.port"), port, &fault));
        }
    }
    match protocol {
        Some(protocol) if !PROTOCOLS.contains(&protocol) => {
            faults.push(FieldError::not_supported(format!("{at}.protocol"), protocol, &PROTOCOLS));
        }
        None | Some("") => faults.push(FieldError::required(format!("{at}.protocol"), "")),
        Some(_) => {}
    }
    if let Some(name) = name.filter(|n| !n.is_empty()) {
        for fault in names::dns1123_label_faults(name) {
            faults.push(FieldError::invalid(format!("{at}.name"), name, &fault));
        }
    }
}

fn validate_endpoints(new: &Value, _old: Option<&Value>) -> Vec<FieldError> {
    let endpoints: Endpoints = typed(new);
    let mut faults = Vec::new();
    for (i, subset) in endpoints.subsets.iter().flatten().enumerate() {
        let (ready, not_ready) =
            (subset.addresses.iter().flatten(), subset.not_ready_addresses.iter().flatten());
        if ready.clone().count() + not_ready.clone().count() == 0 {
            faults.push(FieldError::required(
                format!("subsets[{i}]"),
                "must specify `addresses` or `notReadyAddresses`",
            ));
        }
        for (list, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            for (j, address) in addresses.enumerate() {
                check_ip(format!("subsets[{i}].{list}[{j}].ip"), &address.ip, &mut faults);
            }
        }
        let ports = subset.ports.as_deref().unwrap_or_default();
        for (j, port) in ports.iter().enumerate() {
            let at = format!("subsets[{i}].ports[{j}]");
            if ports.len() > 1 && port.name.as_deref().unwrap_or_default().is_empty() {
                faults.push(FieldError::required(format!("{at}.name"), ""));
            }
            check_port(&at, Some(port.port), port.protocol.as_deref(), port.name.as_deref(), &mut faults);
        }
    }
    faults
}

pub(super) const ENDPOINT_SLICE: Kind = Kind {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    generation: true,
    default: |object| {
        let Some(fields) = object.as_object_mut() else { return };
        for port in items(fields, "ports") {
            port.entry("name").or_insert_with(|| "".into());
            set(port, "protocol", "TCP");
        }
    },
    validate: validate_slice,
    typecheck: typecheck::typecheck::<EndpointSlice>,
    columns: &[
        NAME,
        column("AddressType", "string", "IPv4, IPv6 or FQDN."),
        column("Ports", "string", "Ports of every endpoint."),
        column("Endpoints", "string", "Addresses, ready or not."),
        AGE,
    ],
    cells: |object, now| {
        let slice: EndpointSlice = typed(object);
        let port = |p: Option<i32>| p.map_or_else(|| "*".to_owned(), |p| p.to_string());
        let ports: Vec<_> = slice.ports.iter().flatten().map(|p| port(p.port)).collect();
        let addresses: Vec<_> = slice.endpoints.iter().flatten().flat_map(|e| e.addresses.clone()).collect();
        vec![
            table::name_of(&slice.metadata),
            slice.address_type.into(),
            table::cut_short(&ports, 3, "<unset>").into(),
            table::cut_short(&addresses, 3, "<unset>").into(),
            table::age_of(&slice.metadata, now),
        ]
    },
    ..ROW
};

const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];

fn validate_slice(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let slice: EndpointSlice = typed(new);
    let mut faults = Vec::new();
    let type_ = slice.address_type.as_str();
    if type_.is_empty() {
        faults.push(FieldError::required("addressType", ""));
    } else if !ADDRESS_TYPES.contains(&type_) {
        faults.push(FieldError::not_supported("addressType", type_, &ADDRESS_TYPES));
    }
    if old.map(typed::<EndpointSlice>).is_some_and(|o| o.address_type != slice.address_type) {
        faults.push(FieldError::invalid("addressType", type_, "field is immutable"));
    }
    let endpoints = slice.endpoints.as_deref().unwrap_or_default();
    if endpoints.len() > 1000 {
        faults.push(FieldError::invalid("endpoints", endpoints.len(), "must have at most 1000 items"));
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let at = format!("endpoints[{i}].addresses");
        if endpoint.addresses.is_empty() {
            faults.push(FieldError::required(at.as_str(), "must contain at least 1 address"));
        }
        for (j, address) in endpoint.addresses.iter().enumerate() {
            let parsed = address.parse::<std::net::IpAddr>();
            let fits = match type_ {
                "IPv4" => parsed.is_ok_and(|ip| ip.is_ipv4()),
                "IPv6" => parsed.is_ok_and(|ip| ip.is_ipv6()),
                _ => names::dns1123_subdomain_faults(address).is_empty(),
            };
            if !fits {
                let family = if type_ == "FQDN" { "fully qualified domain name" } else { type_ };
                faults.push(FieldError::invalid(
                    format!("{at}[{j}]"),
                    address.as_str(),
                    &format!("must be a valid {family} address"),
                ));
            }
        }
    }
    let mut seen = Vec::new();
    for (i, port) in slice.ports.iter().flatten().enumerate() {
        let at = format!("ports[{i}]");
        let name = port.name.as_deref().unwrap_or_default();
        if seen.contains(&name) {
            faults.push(FieldError::duplicate(format!("{at}.name"), name));
        }
        seen.push(name);
        check_port(&at, port.port, port.protocol.as_deref(), port.name.as_deref(), &mut faults);
    }
    faults
}
