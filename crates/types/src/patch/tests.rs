//! Patches as kubectl sends them, and the rules that hold for any.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::kinds;

fn kind(name: &str) -> &'static Kind {
    kinds::all().iter().find(|k| k.kind == name).unwrap()
}

fn merged(name: &str, mut doc: Value, patch: Value) -> Value {
    strategic_merge(&mut doc, &patch, kind(name)).unwrap();
    doc
}

fn pod(containers: Value) -> Value {
    json!({"spec": {"containers": containers}})
}

#[test]
fn json_patch_does_all_or_nothing() {
    let mut doc = json!({"a": [1, 2], "b": {"c": 1}});
    let patch = json!([{"op": "add", "path": "/a/-", "value": 3}, {"op": "remove", "path": "/b/c"}, {"op": "test", "path": "/a/0", "value": 1}]);
    json_patch(&mut doc, &patch).unwrap();
    assert_eq!(doc, json!({"a": [1, 2, 3], "b": {}}));
    let before = doc.clone();
    let failing = json!([{"op": "remove", "path": "/a"}, {"op": "test", "path": "/b", "value": 1}]);
    assert!(matches!(json_patch(&mut doc, &failing), Err(PatchError::Failed { .. })));
    assert_eq!(doc, before);
    assert!(matches!(json_patch(&mut doc, &json!({"a": 1})), Err(PatchError::NotOperations { .. })));
}

#[test]
fn json_patch_is_bounded() {
    let one = json!({"op": "test", "path": "", "value": {}});
    let many = Value::Array(vec![one; OPERATIONS_MAX + 1]);
    assert!(matches!(json_patch(&mut json!({}), &many), Err(PatchError::TooManyOperations { .. })));
    let doubling: Vec<_> =
        (0..64).map(|i| json!({"op": "copy", "from": "/a", "path": format!("/a/x{i}")})).collect();
    let grown = json_patch(&mut json!({"a": {"s": "0123456789"}}), &Value::Array(doubling));
    assert!(matches!(grown, Err(PatchError::TooLarge { .. })));
}

#[test]
fn merge_patch_is_rfc_7386() {
    for (doc, patch, want) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b", "b": 1}), json!({"a": null}), json!({"b": 1})),
        (json!({"a": [1]}), json!({"a": [2]}), json!({"a": [2]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": "foo"}), json!({"a": {"b": {"c": null, "d": 1}}}), json!({"a": {"b": {"d": 1}}})),
        (json!([1]), json!({"a": 1}), json!({"a": 1})),
        (json!({"a": 1}), json!("x"), json!("x")),
    ] {
        let mut out = doc;
        merge_patch(&mut out, &patch);
        assert_eq!(out, want);
    }
}

#[test]
fn containers_are_merged_by_name() {
    let doc = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}], "ports": [{"containerPort": 80}]},
        {"name": "b", "image": "b:1"},
    ]}}}});
    let patch = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "3"}, {"name": "X", "$patch": "delete"}], "ports": [{"containerPort": 80, "name": "web"}]},
    ]}}}});
    assert_eq!(
        merged("Deployment", doc, patch),
        json!({"spec": {"template": {"spec": {"containers": [
            {"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "3"}], "ports": [{"containerPort": 80, "name": "web"}]},
            {"name": "b", "image": "b:1"},
        ]}}}})
    );
}

#[test]
fn a_new_element_comes_first_unless_an_order_is_given() {
    let doc = || pod(json!([{"name": "a"}, {"name": "b"}]));
    assert_eq!(
        merged("Pod", doc(), pod(json!([{"name": "n"}]))),
        pod(json!([{"name": "n"}, {"name": "a"}, {"name": "b"}]))
    );
    let mut patch = pod(json!([{"name": "n", "image": "i"}]));
    patch["spec"]["$setElementOrder/containers"] = json!([{"name": "b"}, {"name": "n"}, {"name": "a"}]);
    assert_eq!(
        merged("Pod", doc(), patch.clone()),
        pod(json!([{"name": "b"}, {"name": "n", "image": "i"}, {"name": "a"}]))
    );
    patch["spec"]["$setElementOrder/containers"] = json!([{"name": "a"}]);
    assert!(strategic_merge(&mut doc(), &patch, kind("Pod")).is_err());
}

#[test]
fn what_others_added_stays_where_it_was() {
    let doc = pod(json!([{"name": "injected"}, {"name": "a"}, {"name": "b"}]));
    let mut patch = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}});
    patch["spec"]["containers"] = json!([{"name": "a", "image": "x"}]);
    assert_eq!(
        merged("Pod", doc, patch),
        pod(json!([{"name": "injected"}, {"name": "b"}, {"name": "a", "image": "x"}]))
    );
}

#[test]
fn directives() {
    let doc = || pod(json!([{"name": "a"}, {"name": "b"}]));
    assert_eq!(
        merged("Pod", doc(), pod(json!([{"$patch": "delete", "name": "a"}]))),
        pod(json!([{"name": "b"}]))
    );
    assert_eq!(
        merged("Pod", doc(), pod(json!([{"$patch": "replace"}, {"name": "c"}]))),
        pod(json!([{"name": "c"}]))
    );
    assert_eq!(
        merged("Pod", doc(), json!({"spec": {"$patch": "replace", "nodeName": "n"}})),
        json!({"spec": {"nodeName": "n"}})
    );
    assert_eq!(merged("Pod", doc(), json!({"spec": {"$patch": "delete"}})), json!({"spec": {}}));
    let strategy = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let recreate = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    assert_eq!(merged("Deployment", strategy, recreate), json!({"spec": {"strategy": {"type": "Recreate"}}}));
    let finalizers = |list: Value| json!({"metadata": {"finalizers": list}});
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/a"], "finalizers": ["x/c"]}});
    assert_eq!(merged("Pod", finalizers(json!(["x/a", "x/b"])), patch), finalizers(json!(["x/c", "x/b"])));
    for bad in [
        pod(json!([{"image": "x"}])),
        pod(json!([{"$patch": "delete"}])),
        pod(json!(["x"])),
        json!({"spec": {"$patch": "near"}}),
        json!({"spec": {"$retainKeys": ["x"], "nodeName": "n"}}),
        json!([1]),
    ] {
        let mut same = doc();
        assert!(strategic_merge(&mut same, &bad, kind("Pod")).is_err(), "{bad}");
        assert_eq!(same, doc());
    }
}

#[test]
fn lists_without_a_key_are_replaced() {
    let taints = |list: Value| json!({"spec": {"taints": list}});
    assert_eq!(
        merged("Node", taints(json!([{"key": "a"}])), taints(json!([{"key": "b"}]))),
        taints(json!([{"key": "b"}]))
    );
    let subsets = |ip: &str| json!({"subsets": [{"addresses": [{"ip": ip}]}]});
    assert_eq!(merged("Endpoints", subsets("10.0.0.1"), subsets("10.0.0.2")), subsets("10.0.0.2"));
    let budget = |labels: Value| json!({"spec": {"selector": {"matchLabels": labels}}});
    assert_eq!(
        merged("PodDisruptionBudget", budget(json!({"a": "1"})), budget(json!({"b": "1"}))),
        budget(json!({"b": "1"}))
    );
}

#[test]
fn conditions_are_merged_by_type_and_nulls_delete() {
    let doc = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "x"}, {"type": "Other", "status": "True"}]}});
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": null}]}});
    let want = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "True"}]}});
    assert_eq!(merged("Pod", doc.clone(), patch.clone()), want);
    assert_eq!(merged("Node", doc, patch), want);
}

#[test]
fn own_kinds_refuse_it() {
    assert!(matches!(
        strategic_merge(&mut json!({}), &json!({}), kind("EndpointConsumer")),
        Err(PatchError::NotStrategic)
    ));
}

/// Values with the names that mean something to a merge, and the directives.
fn any_value() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        Just("spec"),
        Just("metadata"),
        Just("containers"),
        Just("env"),
        Just("ports"),
        Just("volumes"),
        Just("name"),
        Just("containerPort"),
        Just("finalizers"),
        Just("labels"),
        Just("$patch"),
        Just("$retainKeys"),
        Just("$setElementOrder/containers"),
        Just("$deleteFromPrimitiveList/finalizers"),
        Just("x"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..3_i32).prop_map(Value::from),
        prop_oneof![Just("a"), Just("b"), Just("replace"), Just("delete"), Just("merge")]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::vec((key.clone(), inner), 0..5)
                .prop_map(|all| Value::Object(all.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

/// A list of containers with distinct names, in any order.
fn named(with_directive: bool) -> impl Strategy<Value = Vec<Value>> {
    let one = (
        "[a-f]",
        proptest::option::of(0..3_u8),
        proptest::bool::weighted(if with_directive { 0.2 } else { 0.0 }),
    );
    proptest::collection::vec(one, 0..6).prop_map(|all| {
        let mut seen = Vec::new();
        let mut list = Vec::new();
        for (name, image, delete) in all {
            if !seen.contains(&name) {
                let mut item = json!({"name": name});
                if let Some(image) = image {
                    item["image"] = image.into();
                }
                if delete {
                    item["$patch"] = "delete".into();
                }
                seen.push(name);
                list.push(item);
            }
        }
        list
    })
}

proptest! {
    #[test]
    fn no_pair_of_values_panics(doc in any_value(), patch in any_value()) {
        for kind in kinds::all() {
            let _ = strategic_merge(&mut doc.clone(), &patch, kind);
        }
        merge_patch(&mut doc.clone(), &patch);
        let _ = json_patch(&mut doc.clone(), &patch);
    }

    #[test]
    fn a_merge_patch_twice_is_once(doc in any_value(), patch in any_value()) {
        let mut once = doc;
        merge_patch(&mut once, &patch);
        let mut twice = once.clone();
        merge_patch(&mut twice, &patch);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn a_strategic_merge_twice_is_once(own in named(false), change in named(true)) {
        let mut once = pod(Value::Array(own));
        let patch = pod(Value::Array(change));
        strategic_merge(&mut once, &patch, kind("Pod")).unwrap();
        let mut twice = once.clone();
        strategic_merge(&mut twice, &patch, kind("Pod")).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn an_order_is_respected(own in named(false), change in named(false)) {
        let mut patch = pod(Value::Array(change.clone()));
        patch["spec"]["$setElementOrder/containers"] = Value::Array(change.clone());
        let mut doc = pod(Value::Array(own.clone()));
        strategic_merge(&mut doc, &patch, kind("Pod")).unwrap();
        let names = |list: &[Value]| list.iter().map(|c| c["name"].clone()).collect::<Vec<_>>();
        let (wanted, had) = (names(&change), names(&own));
        let result = names(doc["spec"]["containers"].as_array().unwrap());
        let named: Vec<_> = result.iter().filter(|n| wanted.contains(n)).cloned().collect();
        prop_assert_eq!(&named, &wanted, "what the patch names stands in its order");
        let others: Vec<_> = result.iter().filter(|n| !wanted.contains(n)).cloned().collect();
        let kept: Vec<_> = had.iter().filter(|n| !wanted.contains(n)).cloned().collect();
        prop_assert_eq!(others, kept, "what it does not name keeps its order");
    }
}
