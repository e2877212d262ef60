//! Bodies through their types: what is refused, what is unknown, and what comes out.

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde::Deserialize;

use super::*;

fn typed(object: &Value) -> Typed {
    (kind_of(object).typecheck)(object).unwrap()
}

fn refused(object: &Value) -> String {
    (kind_of(object).typecheck)(object).unwrap_err().message
}

#[test]
fn unknown_fields_are_named_by_their_path_and_left_out() {
    let mut body = with(app(), "/spec/replicsa", json!(3));
    body = with(body, "/spec/template/spec/containers/0/imagee", json!("x"));
    body = with(body, "/metadata/lables", json!({"a": "b"}));
    body["metadata"]["labels"] = json!({"free": "key"});
    let result = typed(&body);
    let mut unknown = result.unknown;
    unknown.sort();
    assert_eq!(unknown, ["metadata.lables", "spec.replicsa", "spec.template.spec.containers[0].imagee"]);
    assert_eq!(result.object, with(app(), "/metadata/labels", json!({"free": "key"})));
}

#[test]
fn wrong_types_are_refused_in_gos_words() {
    let prefix = r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal "#;
    for (at, value, words) in [
        (
            "/spec/replicas",
            json!("3"),
            "string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "/spec/replicas",
            json!(1.5),
            "number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "/spec/replicas",
            json!(3_000_000_000_i64),
            "number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        ("/spec/paused", json!("yes"), "string into Go struct field DeploymentSpec.spec.paused of type bool"),
        (
            "/spec/template/spec/containers/0/image",
            json!(1),
            "number into Go struct field Container.spec.template.spec.containers.image of type string",
        ),
        (
            "/spec/template/spec/containers",
            json!({}),
            "object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            "/spec/template/spec",
            json!([]),
            "array into Go struct field PodTemplateSpec.spec.template.spec of type v1.PodSpec",
        ),
        (
            "/metadata/labels",
            json!("a"),
            "string into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
        (
            "/metadata/labels",
            json!({"a": true}),
            "bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
    ] {
        assert_eq!(refused(&with(app(), at, value)), format!("{prefix}{words}"));
    }
    let quantity = with(my_pod(), "/spec/containers/0/resources", json!({"limits": {"cpu": "1 core"}}));
    assert!(refused(&quantity).ends_with(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    ));
    let secret = |data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": data}});
    assert!(refused(&secret(json!("ab!d"))).ends_with("illegal base64 data at input byte 2"));
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {}, "spec": {"renewTime": "soon"}});
    assert!(refused(&lease).contains("parsing time \"soon\""));
}

#[test]
fn what_comes_out_is_minimal_and_canonical() {
    let body = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "x", "labels": {}, "annotations": null, "creationTimestamp": "2026-11-21T10:00:00.123456+02:00", "finalizers": []},
        "spec": {
            "containers": [{
                "name": "c", "env": [{"name": "E", "value": ""}, {"name": "F", "value": null}], "args": [], "securityContext": {},
                "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}, "requests": {}},
                "livenessProbe": {"httpGet": {"port": "web"}}, "readinessProbe": {"tcpSocket": {"port": 80}},
            }],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "nodeSelector": null,
        },
        "status": {"startTime": "2026-11-21T10:00:00Z"},
    });
    let want = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "x", "creationTimestamp": "2026-11-21T08:00:00Z"},
        "spec": {
            "containers": [{
                "name": "c", "env": [{"name": "E", "value": ""}, {"name": "F"}], "securityContext": {},
                "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": "web"}}, "readinessProbe": {"tcpSocket": {"port": 80}},
            }],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
        "status": {"startTime": "2026-11-21T10:00:00Z"},
    });
    let result = typed(&body);
    assert_eq!(result, Typed { object: want, unknown: Vec::new() });
    // Key order is the author's, after apiVersion and kind.
    assert_eq!(typed(&my_pod()).object.to_string(), my_pod().to_string());
}

#[test]
fn times_keep_the_digits_that_kubernetes_writes() {
    let lease = |time: &str| {
        let body = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {}, "spec": {"renewTime": time}});
        typed(&body).object["spec"]["renewTime"].as_str().unwrap().to_owned()
    };
    assert_eq!(lease("2026-11-21T10:00:00Z"), "2026-11-21T10:00:00.000000Z");
    assert_eq!(lease("2026-11-21T10:00:00.5Z"), "2026-11-21T10:00:00.500000Z");
    assert_eq!(lease("2026-11-21T10:00:00.123456789Z"), "2026-11-21T10:00:00.123456Z");
    let created = |time: &str| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"creationTimestamp": time}});
        typed(&body).object["metadata"]["creationTimestamp"].as_str().unwrap().to_owned()
    };
    assert_eq!(created("2026-11-21T10:00:00.999999Z"), "2026-11-21T10:00:00Z");
    assert_eq!(created("2026-11-21T10:00:00Z"), "2026-11-21T10:00:00Z");
}

#[test]
fn an_endpoint_slice_without_endpoints_says_so() {
    let body = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "x"},
        "addressType": "IPv4", "endpoints": [], "ports": [],
    });
    assert_eq!(typed(&body).object, body);
}

#[test]
fn nothing_that_the_type_knows_is_lost() {
    let body = taken(my_pod());
    assert_eq!(Pod::deserialize(&body).unwrap(), Pod::deserialize(&typed(&body).object).unwrap());
    let back = serde_json::to_value(Pod::deserialize(&body).unwrap()).unwrap();
    assert_eq!(back, body);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "type": "Opaque", "data": {"k": "aGk=", "empty": ""}});
    assert_eq!(typed(&secret).object, secret);
}

/// Bodies that are nearly objects: real fields with values of any type.
fn any_body() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        Just("metadata"),
        Just("spec"),
        Just("status"),
        Just("name"),
        Just("labels"),
        Just("containers"),
        Just("image"),
        Just("ports"),
        Just("containerPort"),
        Just("resources"),
        Just("limits"),
        Just("cpu"),
        Just("replicas"),
        Just("selector"),
        Just("template"),
        Just("data"),
        Just("conditions"),
        Just("creationTimestamp"),
        Just("livenessProbe"),
        Just("httpGet"),
        Just("port"),
        Just("volumes"),
        Just("apiVersion"),
        Just("kind"),
        Just("endpoints"),
        Just("taints"),
        Just("matchLabels"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0.0..9.0).prop_map(Value::from),
        "[a-z0-9.:-]{0,6}".prop_map(Value::from),
        Just(json!("2026-11-21T10:00:00Z")),
        Just(json!({})),
        Just(json!([])),
    ];
    leaf.prop_recursive(6, 64, 5, move |inner| {
        prop_oneof![
            1 => proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            3 => proptest::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|all| Value::Object(all.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_body_is_taken_whole_or_refused(body in any_body()) {
        for kind in all() {
            if let Ok(Typed { mut object, .. }) = (kind.typecheck)(&body) {
                let again = (kind.typecheck)(&object).unwrap();
                prop_assert_eq!(&again.object, &object);
                prop_assert!(again.unknown.is_empty());
                (kind.default)(&mut object);
                let old = object.clone();
                let _ = (kind.validate)(&object, Some(&old));
                let _ = validate_meta(kind, &object, None);
                prop_assert_eq!((kind.cells)(&object, Timestamp::UNIX_EPOCH).len(), kind.columns.len());
            }
        }
    }
}
