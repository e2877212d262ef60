//! Ingress and IngressClass: which requests from outside go to which Service, and who carries that out.

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressClass, IngressRule, IngressSpec, IngressStatus,
};
use serde_json::{Value, json};

use super::{AGE, Kind, NAME, ROW, Scope, column, typecheck};
use crate::{
    field::FieldError,
    json::{object, set, typed},
    names,
    table::{self, NONE},
};

/// The kinds' group.
pub const GROUP: &str = "networking.k8s.io";
/// The annotation that named a class before `spec.ingressClassName` did.
pub const ANNOTATION_CLASS: &str = "kubernetes.io/ingress.class";
/// An IngressClass with this annotation set to `true` is given to each new Ingress that names none.
pub const ANNOTATION_DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// Longest name of a class's controller, in bytes.
const CONTROLLER_LEN_MAX: usize = 250;
/// Hosts that the table shows.
const HOSTS_SHOWN: usize = 3;

pub(super) const INGRESS: Kind = Kind {
    group: GROUP,
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    status: true,
    generation: true,
    validate,
    typecheck: typecheck::typecheck::<Ingress>,
    columns: &[
        NAME,
        column("Class", "string", "The IngressClass that carries it out."),
        column("Hosts", "string", "Hosts of its rules."),
        column("Address", "string", "Where it is reached."),
        column("Ports", "string", "Ports on which it is reached."),
        AGE,
    ],
    cells: |object, now| {
        let ingress: Ingress = typed(object);
        let spec = ingress.spec.unwrap_or_default();
        let ports = if spec.tls.as_ref().is_some_and(|tls| !tls.is_empty()) { "80, 443" } else { "80" };
        vec![
            table::name_of(&ingress.metadata),
            spec.ingress_class_name.clone().unwrap_or_else(|| NONE.to_owned()).into(),
            hosts_text(spec.rules.as_deref().unwrap_or_default()).into(),
            address_text(ingress.status.unwrap_or_default()).into(),
            ports.into(),
            table::age_of(&ingress.metadata, now),
        ]
    },
    initial_status: |_| Some(json!({"loadBalancer": {}})),
    ..ROW
};

pub(super) const INGRESS_CLASS: Kind = Kind {
    group: GROUP,
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    scope: Scope::Cluster,
    generation: true,
    default: default_class,
    validate: validate_class,
    typecheck: typecheck::typecheck::<IngressClass>,
    columns: &[
        NAME,
        column("Controller", "string", "Who carries Ingresses of this class out."),
        column("Parameters", "string", "The object that holds the controller's settings."),
        AGE,
    ],
    cells: |object, now| {
        let class: IngressClass = typed(object);
        let spec = class.spec.unwrap_or_default();
        let parameters = spec.parameters.map_or_else(
            || NONE.to_owned(),
            |p| match p.api_group.as_deref() {
                Some(group) => format!("{}.{group}/{}", p.kind, p.name),
                None => format!("{}/{}", p.kind, p.name),
            },
        );
        vec![
            table::name_of(&class.metadata),
            spec.controller.unwrap_or_default().into(),
            parameters.into(),
            table::age_of(&class.metadata, now),
        ]
    },
    ..ROW
};

fn hosts_text(rules: &[IngressRule]) -> String {
    let hosts: Vec<&str> = rules.iter().filter_map(|r| r.host.as_deref()).filter(|h| !h.is_empty()).collect();
    let shown = hosts.iter().take(HOSTS_SHOWN).copied().collect::<Vec<_>>().join(",");
    match rules.len().checked_sub(HOSTS_SHOWN) {
        _ if hosts.is_empty() => "*".to_owned(),
        Some(more) if more > 0 && hosts.len() >= HOSTS_SHOWN => format!("{shown} + {more} more..."),
        _ => shown,
    }
}

fn address_text(status: IngressStatus) -> String {
    let points = status.load_balancer.and_then(|l| l.ingress).unwrap_or_default();
    let mut all: Vec<String> =
        points.into_iter().filter_map(|p| p.ip.filter(|ip| !ip.is_empty()).or(p.hostname)).collect();
    all.sort();
    all.dedup();
    all.join(",")
}

fn default_class(value: &mut Value) {
    let parameters =
        value.as_object_mut().and_then(|c| object(c, "spec")).and_then(|s| object(s, "parameters"));
    if let Some(parameters) = parameters {
        set(parameters, "scope", "Cluster");
    }
}

fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let ingress: Ingress = typed(new);
    let spec = ingress.spec.unwrap_or_default();
    let mut faults = Vec::new();
    check_class_name(
        &spec,
        ingress.metadata.annotations.unwrap_or_default().get(ANNOTATION_CLASS),
        old,
        &mut faults,
    );
    let rules = spec.rules.as_deref().unwrap_or_default();
    if rules.is_empty() && spec.default_backend.is_none() {
        let words = "either `defaultBackend` or `rules` must be specified";
        faults.push(FieldError::invalid("spec", json!([]), words));
    }
    if let Some(backend) = &spec.default_backend {
        check_backend("spec.defaultBackend", backend, &mut faults);
    }
    for (i, rule) in rules.iter().enumerate() {
        check_rule(&format!("spec.rules[{i}]"), rule, &mut faults);
    }
    for (i, tls) in spec.tls.iter().flatten().enumerate() {
        for (j, host) in tls.hosts.iter().flatten().enumerate() {
            for fault in host_faults(host) {
                faults.push(FieldError::invalid(format!("spec.tls[{i}].hosts[{j}]"), host.as_str(), &fault));
            }
        }
        if let Some(secret) = tls.secret_name.as_deref().filter(|name| !name.is_empty()) {
            for fault in names::dns1123_subdomain_faults(secret) {
                faults.push(FieldError::invalid(format!("spec.tls[{i}].secretName"), secret, &fault));
            }
        }
    }
    check_status(new, &mut faults);
    faults
}

/// An Ingress that is created says its class in one way only.
fn check_class_name(
    spec: &IngressSpec,
    annotation: Option<&String>,
    old: Option<&Value>,
    faults: &mut Vec<FieldError>,
) {
    let Some(class) = spec.ingress_class_name.as_deref() else { return };
    if let Some(annotated) = annotation.filter(|annotated| old.is_none() && *annotated != class) {
        let words = "must match `ingressClassName` when both are specified";
        faults.push(FieldError::invalid(
            format!("annotations.{ANNOTATION_CLASS}"),
            annotated.as_str(),
            words,
        ));
    }
    for fault in names::dns1123_subdomain_faults(class) {
        faults.push(FieldError::invalid("spec.ingressClassName", class, &fault));
    }
}

fn check_status(object: &Value, faults: &mut Vec<FieldError>) {
    let status = typed::<Ingress>(object).status.unwrap_or_default();
    let points = status.load_balancer.and_then(|l| l.ingress).unwrap_or_default();
    for (i, point) in points.iter().enumerate() {
        let at = format!("status.loadBalancer.ingress[{i}]");
        let is_ip = |text: &str| text.parse::<std::net::IpAddr>().is_ok();
        if let Some(ip) = point.ip.as_deref().filter(|ip| !ip.is_empty() && !is_ip(ip)) {
            let words = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            faults.push(FieldError::invalid(format!("{at}.ip"), ip, words));
        }
        let Some(host) = point.hostname.as_deref().filter(|host| !host.is_empty()) else { continue };
        for fault in names::dns1123_subdomain_faults(host) {
            faults.push(FieldError::invalid(format!("{at}.hostname"), host, &fault));
        }
        if is_ip(host) {
            let words = "must be a DNS name, not an IP address";
            faults.push(FieldError::invalid(format!("{at}.hostname"), host, words));
        }
    }
}

/// A host is a name, or `*.` and a name.
fn host_faults(host: &str) -> Vec<String> {
    if host.contains('*') {
        names::wildcard_subdomain_faults(host)
    } else {
        names::dns1123_subdomain_faults(host)
    }
}

fn check_rule(at: &str, rule: &IngressRule, faults: &mut Vec<FieldError>) {
    let host = rule.host.as_deref().unwrap_or_default();
    if !host.is_empty() {
        if host.parse::<std::net::IpAddr>().is_ok() {
            let words = "must be a DNS name, not an IP address";
            faults.push(FieldError::invalid(format!("{at}.host"), host, words));
        }
        for fault in host_faults(host) {
            faults.push(FieldError::invalid(format!("{at}.host"), host, &fault));
        }
    }
    let Some(http) = &rule.http else { return };
    if http.paths.is_empty() {
        faults.push(FieldError::required(format!("{at}.http.paths"), ""));
    }
    for (i, path) in http.paths.iter().enumerate() {
        check_path(&format!("{at}.http.paths[{i}]"), path, faults);
    }
}

/// What would mean another path than it says.
const SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const SUFFIXES: [&str; 2] = ["/..", "/."];
const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];

fn check_path(at: &str, path: &HTTPIngressPath, faults: &mut Vec<FieldError>) {
    let text = path.path.as_deref().unwrap_or_default();
    let mut invalid = |words: String| faults.push(FieldError::invalid(format!("{at}.path"), text, &words));
    match path.path_type.as_str() {
        "" => {
            faults.push(FieldError::required(format!("{at}.pathType"), "pathType must be specified"));
            return;
        }
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                invalid("must be an absolute path".to_owned());
            }
            for sequence in SEQUENCES.iter().filter(|s| text.contains(**s)) {
                invalid(format!("must not contain '{sequence}'"));
            }
            for suffix in SUFFIXES.iter().filter(|s| text.ends_with(**s)) {
                invalid(format!("cannot end with '{suffix}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                invalid("must be an absolute path".to_owned());
            }
        }
        other => faults.push(FieldError::not_supported(format!("{at}.pathType"), other, &PATH_TYPES)),
    }
    check_backend(&format!("{at}.backend"), &path.backend, faults);
}

fn check_backend(at: &str, backend: &IngressBackend, faults: &mut Vec<FieldError>) {
    let service = match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => {
            faults.push(FieldError::invalid(at, "", "cannot set both resource and service backends"));
            return;
        }
        (None, None) => {
            faults.push(FieldError::invalid(at, "", "resource or service backend is required"));
            return;
        }
        (Some(resource), None) => {
            let group = resource.api_group.as_deref();
            check_reference(&format!("{at}.resource"), group, &resource.kind, &resource.name, faults);
            return;
        }
        (None, Some(service)) => service,
    };
    if service.name.is_empty() {
        faults.push(FieldError::required(format!("{at}.service.name"), ""));
    } else {
        for fault in names::dns1035_label_faults(&service.name) {
            faults.push(FieldError::invalid(format!("{at}.service.name"), service.name.as_str(), &fault));
        }
    }
    let port = service.port.clone().unwrap_or_default();
    let (name, number) = (port.name.unwrap_or_default(), port.number.unwrap_or_default());
    match (name.as_str(), number) {
        ("", 0) => faults.push(FieldError::required(at, "port name or number is required")),
        ("", number) => {
            for fault in names::port_number_faults(number.into()) {
                faults.push(FieldError::invalid(format!("{at}.service.port.number"), number, &fault));
            }
        }
        (name, 0) => {
            for fault in names::port_name_faults(name) {
                faults.push(FieldError::invalid(format!("{at}.service.port.name"), name, &fault));
            }
        }
        _ => faults.push(FieldError::invalid(at, "", "cannot set both port name & port number")),
    }
}

/// A reference to an object of any kind.
fn check_reference(at: &str, group: Option<&str>, kind: &str, name: &str, faults: &mut Vec<FieldError>) {
    if let Some(group) = group {
        for fault in names::dns1123_subdomain_faults(group) {
            faults.push(FieldError::invalid(format!("{at}.apiGroup"), group, &fault));
        }
    }
    for (field, text) in [("kind", kind), ("name", name)] {
        if text.is_empty() {
            faults.push(FieldError::required(format!("{at}.{field}"), &format!("{field} is required")));
        }
        for fault in names::path_segment_faults(text) {
            faults.push(FieldError::invalid(format!("{at}.{field}"), text, &fault));
        }
    }
}

fn validate_class(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = typed::<IngressClass>(new).spec.unwrap_or_default();
    let mut faults = Vec::new();
    let controller = spec.controller.as_deref().unwrap_or_default();
    check_controller(controller, &mut faults);
    if let Some(parameters) = &spec.parameters {
        let at = "spec.parameters";
        check_reference(at, parameters.api_group.as_deref(), &parameters.kind, &parameters.name, &mut faults);
        let namespace = parameters.namespace.as_deref();
        match (parameters.scope.as_deref().unwrap_or_default(), namespace) {
            ("Cluster", None) => {}
            ("Cluster", Some(_)) => {
                let words = "parameters.scope is set to 'Cluster'";
                faults.push(FieldError::forbidden("spec.parameters.namespace", words));
            }
            ("Namespace", None | Some("")) => {
                let words = "parameters.scope is set to 'Namespace'";
                faults.push(FieldError::required("spec.parameters.namespace", words));
            }
            ("Namespace", Some(namespace)) => {
                for fault in names::dns1123_label_faults(namespace) {
                    faults.push(FieldError::invalid("spec.parameters.namespace", namespace, &fault));
                }
            }
            ("", _) => faults.push(FieldError::required("spec.parameters.scope", "")),
            (other, _) => {
                let supported = ["Cluster", "Namespace"];
                faults.push(FieldError::not_supported("spec.parameters.scope", other, &supported));
            }
        }
    }
    if let Some(old) = old {
        let held = typed::<IngressClass>(old).spec.unwrap_or_default().controller.unwrap_or_default();
        if held != controller {
            faults.push(FieldError::invalid("spec.controller", controller, "field is immutable"));
        }
    }
    faults
}

/// `acme.io/foo`: a domain and a path.
fn check_controller(controller: &str, faults: &mut Vec<FieldError>) {
    let at = "spec.controller";
    if controller.len() > CONTROLLER_LEN_MAX {
        faults.push(FieldError::too_long(at, CONTROLLER_LEN_MAX));
    }
    if controller.is_empty() {
        faults.push(FieldError::required(at, ""));
        return;
    }
    let Some((domain, path)) = controller.split_once('/').filter(|(d, p)| !d.is_empty() && !p.is_empty())
    else {
        let words = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        faults.push(FieldError::invalid(at, controller, words));
        return;
    };
    for fault in names::dns1123_subdomain_faults(domain) {
        faults.push(FieldError::invalid(at, domain, &fault));
    }
    if !path.bytes().all(|c| c.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&c)) {
        let words = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        faults.push(FieldError::invalid(at, path, words));
    }
}
