//! Ingress and IngressClass: defaults, tables, and what is refused.

use super::*;

fn my_ingress() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "my-ingress", "namespace": "default", "creationTimestamp": "2026-11-21T11:57:47Z"},
        "spec": {"rules": [{"http": {"paths": [{
            "path": "/", "pathType": "Prefix",
            "backend": {"service": {"name": "my-service", "port": {"number": 80}}},
        }]}}]},
    })
}

fn my_class() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "hitless", "creationTimestamp": "2026-11-21T11:57:47Z"},
        "spec": {
            "controller": "hitless.dev/ingress",
            "parameters": {"apiGroup": "k8s.example.com", "kind": "Settings", "name": "external"},
        },
    })
}

fn ingress(pointer: &str, value: Value) -> String {
    faults(&taken(with(my_ingress(), pointer, value)), None)
}

fn path(field: &str, value: Value) -> String {
    ingress(&format!("/spec/rules/0/http/paths/0/{field}"), value)
}

fn class(pointer: &str, value: Value) -> String {
    faults(&taken(with(my_class(), pointer, value)), None)
}

#[test]
fn the_manifest_of_the_scenarios_is_taken_as_it_stands() {
    let object = taken(my_ingress());
    assert_eq!(object["spec"], my_ingress()["spec"]);
    assert_eq!(faults(&object, None), "");
    let class = taken(my_class());
    assert_eq!(class["spec"]["parameters"]["scope"], "Cluster");
    assert_eq!(faults(&class, Some(&class)), "");
}

#[test]
fn tables() {
    let host = |name: &str| json!({"host": name});
    let mut full = with(my_ingress(), "/spec/ingressClassName", json!("hitless"));
    full["spec"]["rules"] = json!([host("a.b"), host("b.b"), host("*.c"), host("d.b"), host("e.b")]);
    full["spec"]["tls"] = json!([{"hosts": ["a.b"], "secretName": "s"}]);
    full["status"] =
        json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.2"}, {"ip": "10.0.0.1"}, {"hostname": "x.y"}]}});
    insta::assert_snapshot!(table(&[my_ingress(), full], true), @r##"
    NAME         CLASS     HOSTS                     ADDRESS                 PORTS     AGE
    my-ingress   <none>    *                                                 80        2m13s
    my-ingress   hitless   a.b,b.b,*.c + 2 more...   10.0.0.1,10.0.0.2,x.y   80, 443   2m13s
    "##);
    insta::assert_snapshot!(table(&[my_class()], false), @r##"
    NAME      CONTROLLER            PARAMETERS                          AGE
    hitless   hitless.dev/ingress   Settings.k8s.example.com/external   2m13s
    "##);
}

#[test]
fn rules_and_backends() {
    let at = "spec.rules[0].http.paths[0]";
    let backend = |value: Value| path("backend", value);
    let service = |name: &str, port: Value| backend(json!({"service": {"name": name, "port": port}}));
    for (said, wanted) in [
        (
            ingress("/spec", json!({})),
            "spec: Invalid value: []: either `defaultBackend` or `rules` must be specified".into(),
        ),
        (ingress("/spec/rules/0/http/paths", json!([])), "spec.rules[0].http.paths: Required value".into()),
        (path("pathType", Value::Null), format!("{at}.pathType: Required value: pathType must be specified")),
        (
            path("pathType", json!("Regex")),
            format!(
                "{at}.pathType: Unsupported value: \"Regex\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\""
            ),
        ),
        (path("path", json!("a")), format!("{at}.path: Invalid value: \"a\": must be an absolute path")),
        (
            path("path", json!("/a/../b")),
            format!("{at}.path: Invalid value: \"/a/../b\": must not contain '/../'"),
        ),
        (
            path("path", json!("/a%2Fb")),
            format!("{at}.path: Invalid value: \"/a%2Fb\": must not contain '%2F'"),
        ),
        (path("path", json!("/a/..")), format!("{at}.path: Invalid value: \"/a/..\": cannot end with '/..'")),
        (
            backend(json!({})),
            format!("{at}.backend: Invalid value: \"\": resource or service backend is required"),
        ),
        (service("", json!({"number": 80})), format!("{at}.backend.service.name: Required value")),
        (service("s", json!({})), format!("{at}.backend: Required value: port name or number is required")),
        (
            service("s", json!({"number": 80, "name": "web"})),
            format!("{at}.backend: Invalid value: \"\": cannot set both port name & port number"),
        ),
        (
            service("s", json!({"number": 70000})),
            format!(
                "{at}.backend.service.port.number: Invalid value: 70000: must be between 1 and 65535, inclusive"
            ),
        ),
        (
            backend(json!({"resource": {"kind": "a/b", "name": ""}})),
            format!(
                "{at}.backend.resource.kind: Invalid value: \"a/b\": may not contain '/'\n{at}.backend.resource.name: Required value: name is required"
            ),
        ),
        (
            ingress("/spec/rules/0/host", json!("10.0.0.1")),
            "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address".into(),
        ),
    ] {
        assert_eq!(said, wanted);
    }
    assert_eq!(path("path", json!("/é")), "");
    assert_eq!(ingress("/spec/rules/0/host", json!("*.example.com")), "");
    let wild = ingress("/spec/rules/0/host", json!("a.*.com"));
    assert!(wild.starts_with("spec.rules[0].host: Invalid value: \"a.*.com\": a wildcard DNS-1123 subdomain must start with '*.'"), "{wild}");
    let hosts = ingress("/spec/tls", json!([{"hosts": ["ok.example", "-"], "secretName": "S"}]));
    assert!(
        hosts.contains("spec.tls[0].hosts[1]: ") && hosts.contains("spec.tls[0].secretName: "),
        "{hosts}"
    );
}

#[test]
fn a_class_is_named_in_one_way() {
    let mut both = with(my_ingress(), "/spec/ingressClassName", json!("a"));
    both["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "b"});
    assert_eq!(
        faults(&both, None),
        "annotations.kubernetes.io/ingress.class: Invalid value: \"b\": must match `ingressClassName` when both are specified"
    );
    assert_eq!(faults(&both, Some(&both)), "");
}

#[test]
fn classes() {
    for (said, wanted) in [
        (class("/spec/controller", json!("")), "spec.controller: Required value"),
        (
            class("/spec/controller", json!("plain")),
            "spec.controller: Invalid value: \"plain\": must be a domain-prefixed path (such as \"acme.io/foo\")",
        ),
        (
            class("/spec/controller", json!("a.b/c d")),
            "spec.controller: Invalid value: \"c d\": Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')",
        ),
        (
            class("/spec/parameters/namespace", json!("n")),
            "spec.parameters.namespace: Forbidden: parameters.scope is set to 'Cluster'",
        ),
        (
            class("/spec/parameters/scope", json!("Namespace")),
            "spec.parameters.namespace: Required value: parameters.scope is set to 'Namespace'",
        ),
        (
            class("/spec/parameters/scope", json!("World")),
            "spec.parameters.scope: Unsupported value: \"World\": supported values: \"Cluster\", \"Namespace\"",
        ),
    ] {
        assert_eq!(said, wanted);
    }
    let old = taken(my_class());
    let new = with(old.clone(), "/spec/controller", json!("a.b/c"));
    assert_eq!(faults(&new, Some(&old)), "spec.controller: Invalid value: \"a.b/c\": field is immutable");
}
