//! What may not change once an object is there.

use super::*;

/// What is wrong with changing the field at `pointer` of `object` to `value`.
fn change(object: &Value, pointer: &str, value: Value) -> String {
    faults(&taken(with(object.clone(), pointer, value)), Some(object))
}

#[test]
fn pods() {
    let old = taken(my_pod());
    for (pointer, value) in [
        ("/spec/containers/0/image", json!("nginx:2")),
        ("/spec/activeDeadlineSeconds", json!(60)),
        ("/spec/tolerations", json!([{"key": "a", "operator": "Exists"}])),
        ("/metadata/labels", json!({"a": "b"})),
        ("/status/phase", json!("Running")),
    ] {
        assert_eq!(change(&old, pointer, value), "", "{pointer}");
    }
    let words = "spec: Forbidden: pod updates may not change fields other than";
    for (pointer, value) in [
        ("/spec/containers/0/args", json!(["x"])),
        ("/spec/nodeName", json!("node-1")),
        ("/spec/terminationGracePeriodSeconds", json!(60)),
    ] {
        assert!(change(&old, pointer, value).starts_with(words), "{pointer}");
    }
    let two = json!([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]);
    let mut tolerant = old.clone();
    tolerant["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists", "effect": "NoExecute"}]);
    tolerant["spec"]["activeDeadlineSeconds"] = 60.into();
    let all = [
        change(&old, "/spec/containers", two),
        change(&old, "/spec/containers/0/image", json!("")),
        change(&tolerant, "/spec/tolerations", json!([{"key": "b", "operator": "Exists"}])),
        change(&tolerant, "/spec/activeDeadlineSeconds", json!(61)),
        change(&old, "/metadata/name", json!("other")),
    ];
    insta::assert_snapshot!(all.join("\n"), @r##"
    spec.containers: Forbidden: pod updates may not add or remove containers
    spec.containers[0].image: Required value
    spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds
    spec.activeDeadlineSeconds: Invalid value: 61: must be less than or equal to previous value
    metadata.name: Invalid value: "other": field is immutable
    "##);
    assert_eq!(change(&tolerant, "/spec/tolerations/0/tolerationSeconds", json!(5)), "");
}

#[test]
fn selectors_addresses_and_what_is_sealed() {
    let deployment = taken(app());
    let mut moved = with(deployment.clone(), "/spec/selector/matchLabels", json!({"name": "b"}));
    moved["spec"]["template"]["metadata"]["labels"] = json!({"name": "b"});
    let service = taken(with(my_service(), "/spec/clusterIP", json!("10.96.0.10")));
    let mut readdressed = service.clone();
    readdressed["spec"]["clusterIP"] = "10.96.0.11".into();
    readdressed["spec"]["clusterIPs"] = json!(["10.96.0.11"]);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "x"}, "data": {"a": "1"}, "immutable": true});
    let secret = taken(
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "m", "namespace": "x"}, "data": {"a": "aGk="}, "immutable": true}),
    );
    let mut going = with(map.clone(), "/metadata/deletionTimestamp", json!("2026-11-21T10:00:00Z"));
    going["metadata"]["finalizers"] = json!(["a.b/c"]);
    let all = [
        faults(&moved, Some(&deployment)),
        faults(&readdressed, Some(&service)),
        change(&map, "/data/a", json!("2")),
        change(&map, "/immutable", json!(false)),
        change(&secret, "/data", json!({})),
        change(&secret, "/type", json!("x")),
        change(&going, "/metadata/finalizers", json!(["a.b/c", "a.b/d"])),
    ];
    insta::assert_snapshot!(all.join("\n"), @r##"
    spec.selector: Invalid value: {"matchLabels":{"name":"b"}}: field is immutable
    spec.clusterIPs[0]: Invalid value: ["10.96.0.11"]: may not change once set
    data: Forbidden: field is immutable when `immutable` is set
    immutable: Forbidden: field is immutable when `immutable` is set
    data: Forbidden: field is immutable when `immutable` is set
    type: Invalid value: "x": field is immutable
    metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"a.b/d"}
    "##);
    assert_eq!(change(&going, "/metadata/finalizers", json!([])), "");
    assert_eq!(change(&service, "/spec/selector", json!({"a": "b"})), "");
    let image = change(&deployment, "/spec/template/spec/containers/0/image", json!("nginx:2"));
    assert_eq!(image, "");
}
