//! Service.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::{Value, json};

use super::{AGE, Kind, NAME, ROW, column, typecheck, wide};
use crate::{
    field::FieldError,
    json::{Fields, is_unset, items, set, typed, within},
    names,
    table::{self, NONE},
};

pub(super) const SERVICE: Kind = Kind {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    status: true,
    default,
    validate,
    typecheck: typecheck::typecheck::<Service>,
    columns: &[
        NAME,
        column("Type", "string", "How the Service is reached."),
        column("Cluster-IP", "string", "Address inside the cluster."),
        column("External-IP", "string", "Addresses from outside."),
        column("Port(s)", "string", "Ports with their protocols."),
        AGE,
        wide("Selector", "string", "Labels of the Pods that it serves."),
    ],
    cells: |object, now| {
        let service: Service = typed(object);
        let spec = service.spec.clone().unwrap_or_default();
        let ports: Vec<_> = spec.ports.iter().flatten().map(port_text).collect();
        vec![
            table::name_of(&service.metadata),
            spec.type_.clone().unwrap_or_default().into(),
            table::or_none(spec.cluster_ip.as_deref()),
            external(&service, &spec).into(),
            if ports.is_empty() { NONE.into() } else { ports.join(",").into() },
            table::age_of(&service.metadata, now),
            table::labels_text(spec.selector.as_ref()).into(),
        ]
    },
    fields: &["spec.clusterIP", "spec.type"],
    name_faults: names::dns1035_label_faults,
    initial_status: |_| Some(json!({"loadBalancer": {}})),
    ..ROW
};

fn port_text(port: &ServicePort) -> String {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match port.node_port.unwrap_or_default() {
        0 => format!("{}/{protocol}", port.port),
        node_port => format!("{}:{node_port}/{protocol}", port.port),
    }
}

fn external(service: &Service, spec: &ServiceSpec) -> String {
    let mut all: Vec<String> = Vec::new();
    match spec.type_.as_deref().unwrap_or("ClusterIP") {
        "ExternalName" => return spec.external_name.clone().unwrap_or_default(),
        "LoadBalancer" => {
            let ingress = service
                .status
                .as_ref()
                .and_then(|s| s.load_balancer.as_ref())
                .and_then(|l| l.ingress.as_ref());
            all.extend(
                ingress.into_iter().flatten().filter_map(|i| i.ip.clone().or_else(|| i.hostname.clone())),
            );
            all.extend(spec.external_ips.iter().flatten().cloned());
            if all.is_empty() {
                return "<pending>".to_owned();
            }
        }
        _ => all.extend(spec.external_ips.iter().flatten().cloned()),
    }
    if all.is_empty() { NONE.to_owned() } else { all.join(",") }
}

fn default(object: &mut Value) {
    let Some(fields) = object.as_object_mut() else { return };
    within(fields, "spec", default_spec);
    within(fields, "status", |status| set(status, "loadBalancer", json!({})));
}

fn default_spec(spec: &mut Fields) {
    set(spec, "type", "ClusterIP");
    set(spec, "sessionAffinity", "None");
    let type_ = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if spec.get("sessionAffinity").and_then(Value::as_str) == Some("ClientIP") {
        within(spec, "sessionAffinityConfig", |config| {
            within(config, "clientIP", |client| set(client, "timeoutSeconds", 10_800));
        });
    } else {
        spec.shift_remove("sessionAffinityConfig");
    }
    for port in items(spec, "ports") {
        set(port, "protocol", "TCP");
        let target = port.get("targetPort");
        if is_unset(target) || target.and_then(Value::as_i64) == Some(0) {
            let number = port.get("port").cloned().unwrap_or_else(|| 0.into());
            port.insert("targetPort".to_owned(), number);
        }
    }
    if type_ == "ExternalName" {
        return;
    }
    set(spec, "internalTrafficPolicy", "Cluster");
    if type_ == "NodePort" || type_ == "LoadBalancer" {
        set(spec, "externalTrafficPolicy", "Cluster");
    }
    if type_ == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
    }
    let ip = spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !ip.is_empty() {
        set(spec, "clusterIPs", json!([ip]));
    } else if let Some(first) = spec.get("clusterIPs").and_then(|ips| ips.get(0)).cloned() {
        spec.insert("clusterIP".to_owned(), first);
    }
    set(spec, "ipFamilyPolicy", "SingleStack");
    set(spec, "ipFamilies", json!([if ip.contains(':') { "IPv6" } else { "IPv4" }]));
}

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = typed::<Service>(new).spec.unwrap_or_default();
    let mut faults = Vec::new();
    let type_ = spec.type_.as_deref().unwrap_or_default();
    if !TYPES.contains(&type_) {
        faults.push(FieldError::not_supported("spec.type", type_, &TYPES));
    }
    let headless = spec.cluster_ip.as_deref() == Some("None");
    if type_ == "ExternalName" {
        check_external_name(&spec, &mut faults);
    } else if spec.ports.as_ref().is_none_or(Vec::is_empty) && !headless {
        faults.push(FieldError::required("spec.ports", ""));
    }
    if headless && (type_ == "NodePort" || type_ == "LoadBalancer") {
        let words = format!("may not be set to 'None' for {type_} services");
        faults.push(FieldError::invalid("spec.clusterIPs[0]", "None", &words));
    }
    check_addresses(&spec, &mut faults);
    check_ports(&spec, &mut faults);
    for (key, value) in spec.selector.iter().flatten() {
        for fault in names::qualified_name_faults(key) {
            faults.push(FieldError::invalid("spec.selector", key.as_str(), &fault));
        }
        for fault in names::label_value_faults(value) {
            faults.push(FieldError::invalid("spec.selector", value.as_str(), &fault));
        }
    }
    check_policies(&spec, &mut faults);
    check_affinity(&spec, &mut faults);
    if let Some(old) = old {
        check_update(&spec, &typed::<Service>(old).spec.unwrap_or_default(), &mut faults);
    }
    faults
}

fn check_external_name(spec: &ServiceSpec, faults: &mut Vec<FieldError>) {
    let name = spec.external_name.as_deref().unwrap_or_default();
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        faults.push(FieldError::required("spec.externalName", ""));
    } else {
        for fault in names::dns1123_subdomain_faults(name) {
            faults.push(FieldError::invalid("spec.externalName", name, &fault));
        }
    }
    if spec.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty()) {
        faults.push(FieldError::forbidden("spec.clusterIPs", "may not be set when `type` is 'ExternalName'"));
    }
}

fn check_addresses(spec: &ServiceSpec, faults: &mut Vec<FieldError>) {
    let words = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    let bad = |ip: &str| ip.parse::<std::net::IpAddr>().is_err();
    if let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None" && bad(ip)) {
        faults.push(FieldError::invalid("spec.clusterIPs[0]", ip, words));
    }
    let first = spec.cluster_ips.iter().flatten().next();
    if let (Some(ip), Some(first)) = (spec.cluster_ip.as_ref().filter(|ip| !ip.is_empty()), first)
        && ip != first
    {
        let value = serde_json::to_value(&spec.cluster_ips).unwrap_or_default();
        faults.push(FieldError::invalid("spec.clusterIPs", value, "first value must match `clusterIP`"));
    }
    for (i, ip) in spec.external_ips.iter().flatten().enumerate().filter(|(_, ip)| bad(ip)) {
        faults.push(FieldError::invalid(format!("spec.externalIPs[{i}]"), ip.as_str(), words));
    }
}

fn check_ports(spec: &ServiceSpec, faults: &mut Vec<FieldError>) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let (mut names_seen, mut numbers_seen, mut node_ports_seen) = (Vec::new(), Vec::new(), Vec::new());
    for (i, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{i}]");
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            if ports.len() > 1 {
                faults.push(FieldError::required(format!("{at}.name"), ""));
            }
        } else {
            for fault in names::dns1123_label_faults(name) {
                faults.push(FieldError::invalid(format!("{at}.name"), name, &fault));
            }
            if names_seen.contains(&name) {
                faults.push(FieldError::duplicate(format!("{at}.name"), name));
            }
            names_seen.push(name);
        }
        for fault in names::port_number_faults(port.port.into()) {
            faults.push(FieldError::invalid(format!("{at}.port"), port.port, &fault));
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        if !PROTOCOLS.contains(&protocol) {
            faults.push(FieldError::not_supported(format!("{at}.protocol"), protocol, &PROTOCOLS));
        }
        match &port.target_port {
            Some(IntOrString::Int(number)) => {
                for fault in names::port_number_faults((*number).into()) {
                    faults.push(FieldError::invalid(format!("{at}.targetPort"), *number, &fault));
                }
            }
            Some(IntOrString::String(text)) => {
                for fault in names::port_name_faults(text) {
                    faults.push(FieldError::invalid(format!("{at}.targetPort"), text.as_str(), &fault));
                }
            }
            None => {}
        }
        if port.node_port.unwrap_or_default() != 0
            && matches!(spec.type_.as_deref(), Some("ClusterIP" | "ExternalName"))
        {
            faults.push(FieldError::forbidden(
                format!("{at}.nodePort"),
                "may not be used when `type` is 'ClusterIP'",
            ));
        }
        if numbers_seen.contains(&(port.port, protocol)) {
            faults.push(FieldError::duplicate(at, json!({"protocol": protocol, "port": port.port})));
        }
        numbers_seen.push((port.port, protocol));
        if let Some(number) = port.node_port.filter(|number| *number != 0) {
            if node_ports_seen.contains(&(number, protocol)) {
                faults.push(FieldError::duplicate(format!("spec.ports[{i}].nodePort"), number));
            }
            node_ports_seen.push((number, protocol));
        }
    }
}

fn check_policies(spec: &ServiceSpec, faults: &mut Vec<FieldError>) {
    for (field, value, supported) in [
        ("spec.sessionAffinity", &spec.session_affinity, ["ClientIP", "None"]),
        ("spec.internalTrafficPolicy", &spec.internal_traffic_policy, ["Cluster", "Local"]),
        ("spec.externalTrafficPolicy", &spec.external_traffic_policy, ["Cluster", "Local"]),
    ] {
        if let Some(value) = value.as_deref().filter(|v| !v.is_empty() && !supported.contains(v)) {
            faults.push(FieldError::not_supported(field, value, &supported));
        }
    }
}

/// The longest that a client may be held to its Pod, in seconds.
const AFFINITY_SECONDS_MAX: i32 = 86_400;

fn check_affinity(spec: &ServiceSpec, faults: &mut Vec<FieldError>) {
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(seconds) = config.and_then(|client| client.timeout_seconds) else { return };
    if seconds <= 0 || seconds > AFFINITY_SECONDS_MAX {
        let at = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        let words = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
        faults.push(FieldError::invalid(at, seconds, &words));
    }
}

/// The cluster IP stays as long as the Service has one: whoever knows the Service knows it by this address.
fn check_update(new: &ServiceSpec, old: &ServiceSpec, faults: &mut Vec<FieldError>) {
    let old_ip = old.cluster_ip.as_deref().unwrap_or_default();
    let external = |spec: &ServiceSpec| spec.type_.as_deref() == Some("ExternalName");
    if old_ip.is_empty() || external(old) || external(new) || new.cluster_ip == old.cluster_ip {
        return;
    }
    let value = match new.cluster_ip.as_deref().unwrap_or_default() {
        "" => json!([]),
        ip => json!([ip]),
    };
    let words =
        if value == json!([]) { "primary clusterIP can not be unset" } else { "may not change once set" };
    faults.push(FieldError::invalid("spec.clusterIPs[0]", value, words));
}
