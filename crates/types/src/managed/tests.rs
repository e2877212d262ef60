//! Applies and updates as authors see them, and what must hold whatever they do.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::kinds::{self, Kind};

fn kind(plural: &str) -> &'static Kind {
    kinds::all().iter().find(|kind| kind.plural == plural).unwrap()
}

fn by<'a>(manager: &'a str, now: &'a str) -> Writer<'a> {
    Writer { manager, subresource: "", now }
}

fn deployments() -> &'static Kind {
    kind("deployments")
}

fn applied(live: Option<&Value>, config: Value, manager: &str) -> Result<Value, ApplyError> {
    apply(deployments(), live, &config, by(manager, "t1"), false)
}

/// The fields that an author owns.
fn owned(object: &Value, manager: &str) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let own = entries.iter().filter(|entry| entry["manager"] == manager);
    own.flat_map(|entry| FieldSet::from_value(&entry["fieldsV1"]).unwrap().paths()).collect()
}

fn app(replicas: i64, containers: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app", "labels": {"app": "a"}},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": containers}},
        },
    })
}

fn web() -> Value {
    json!([{"name": "web", "image": "web:1", "ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "1"}]}])
}

#[test]
fn who_creates_owns_what_they_said() {
    let mut object = app(3, web());
    note_update(deployments(), None, &mut object, by("kubectl-create", "t0"));
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{
            "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "manager": "kubectl-create", "operation": "Update",
            "time": "t0",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:replicas": {}, "f:selector": {},
                    "f:template": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {
                        "f:containers": {"k:{\"name\":\"web\"}": {
                            ".": {}, "f:env": {".": {}, "k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}},
                            "f:image": {}, "f:name": {},
                            "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                                ".": {}, "f:containerPort": {},
                            }},
                        }},
                    }},
                },
            },
        }])
    );
}

#[test]
fn who_changes_a_field_takes_it() {
    let mut old = app(3, web());
    note_update(deployments(), None, &mut old, by("a", "t0"));
    let mut new = old.clone();
    new["spec"]["replicas"] = 4.into();
    note_update(deployments(), Some(&old), &mut new, by("b", "t1"));
    assert_eq!(owned(&new, "b"), [".spec.replicas"]);
    assert!(!owned(&new, "a").contains(&".spec.replicas".to_owned()));
    // The same again changes nothing, whoever says it, and without the entries too.
    let mut same = new.clone();
    same["metadata"].as_object_mut().unwrap().remove("managedFields");
    note_update(deployments(), Some(&new), &mut same, by("c", "t2"));
    assert_eq!(same, new);
    // A field that goes is nobody's.
    let mut less = new.clone();
    less["spec"].as_object_mut().unwrap().remove("replicas");
    note_update(deployments(), Some(&new), &mut less, by("c", "t2"));
    assert_eq!(owned(&less, "b"), Vec::<String>::new());
}

#[test]
fn a_status_is_written_apart() {
    let mut old = app(3, web());
    note_update(deployments(), None, &mut old, by("a", "t0"));
    let mut new = old.clone();
    new["status"] = json!({"replicas": 3, "conditions": [{"type": "Available", "status": "True"}]});
    let writer = Writer { manager: "controller", subresource: "status", now: "t1" };
    note_update(deployments(), Some(&old), &mut new, writer);
    let entry = &new["metadata"]["managedFields"][1];
    assert_eq!((&entry["subresource"], &entry["manager"]), (&json!("status"), &json!("controller")));
    assert!(owned(&new, "controller").contains(&".status.conditions[type=\"Available\"].status".to_owned()));
}

#[test]
fn what_is_stated_no_more_goes_and_what_others_own_stays() {
    let first = json!([{"name": "web", "image": "web:1", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]);
    let live = applied(None, app(3, first), "me").unwrap();
    // Somebody else adds a variable and a label.
    let mut other = live.clone();
    let env = &mut other["spec"]["template"]["spec"]["containers"][0]["env"];
    env.as_array_mut().unwrap().push(json!({"name": "C", "value": "3"}));
    other["metadata"]["labels"]["theirs"] = "x".into();
    note_update(deployments(), Some(&live), &mut other, by("them", "t2"));
    let second = json!([{"name": "web", "image": "web:2", "env": [{"name": "A", "value": "1"}]}]);
    let mut config = app(3, second);
    config["metadata"].as_object_mut().unwrap().remove("labels");
    let now = applied(Some(&other), config, "me").unwrap();
    let container = &now["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "web:2");
    assert_eq!(container["env"], json!([{"name": "A", "value": "1"}, {"name": "C", "value": "3"}]));
    assert_eq!(now["metadata"]["labels"], json!({"theirs": "x"}));
}

#[test]
fn a_container_that_somebody_else_filled_stays_for_them() {
    let two = json!([{"name": "web", "image": "web:1"}, {"name": "side", "image": "s:1"}]);
    let live = applied(None, app(1, two), "me").unwrap();
    let theirs = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app"},
        "spec": {"template": {"spec": {"containers": [{"name": "side", "workingDir": "/x"}]}}},
    });
    let live = applied(Some(&live), theirs, "them").unwrap();
    let now = applied(Some(&live), app(1, json!([{"name": "web", "image": "web:1"}])), "me").unwrap();
    let containers = &now["spec"]["template"]["spec"]["containers"];
    assert_eq!(*containers, json!([{"name": "web", "image": "web:1"}, {"name": "side", "workingDir": "/x"}]));
}

#[test]
fn another_value_for_what_somebody_else_owns_is_a_conflict() {
    let mut live = app(3, web());
    note_update(deployments(), None, &mut live, by("kubectl-create", "t0"));
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app"}, "spec": {"replicas": 5}});
    let refused = applied(Some(&live), config.clone(), "me").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-create\" using apps/v1: .spec.replicas"
    );
    let forced = apply(deployments(), Some(&live), &config, by("me", "t1"), true).unwrap();
    assert_eq!(
        (&forced["spec"]["replicas"], owned(&forced, "me")),
        (&json!(5), vec![".spec.replicas".to_owned()])
    );
    assert!(!owned(&forced, "kubectl-create").contains(&".spec.replicas".to_owned()));
    // The same value is shared.
    let same = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app"}, "spec": {"replicas": 3}});
    let shared = applied(Some(&live), same, "me").unwrap();
    assert!(owned(&shared, "kubectl-create").contains(&".spec.replicas".to_owned()));
    assert_eq!(owned(&shared, "me"), [".spec.replicas"]);
    let mut two = config;
    two["metadata"]["labels"] = json!({"app": "b"});
    let refused = applied(Some(&live), two, "me").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-create\" using apps/v1:\n- .metadata.labels.app\n- .spec.replicas"
    );
}

#[test]
fn kubectl_goes_on_with_what_it_applied_from_the_clients_side() {
    let mut live = app(3, web());
    live["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": app(3, web()).to_string()});
    note_update(deployments(), None, &mut live, by("kubectl-client-side-apply", "t0"));
    let config = app(5, web());
    assert!(applied(Some(&live), config.clone(), "me").is_err());
    let now = applied(Some(&live), config.clone(), "kubectl").unwrap();
    assert_eq!(now["spec"]["replicas"], 5);
    let noted =
        now["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(noted).unwrap()["spec"]["replicas"], 5);
    // What somebody else has changed since is theirs.
    let mut changed = live.clone();
    changed["spec"]["replicas"] = 4.into();
    note_update(deployments(), Some(&live), &mut changed, by("them", "t1"));
    assert!(applied(Some(&changed), config, "kubectl").is_err());
}

#[test]
fn lists_have_keys() {
    let keyless = app(1, json!([{"image": "web:1"}]));
    let refused = applied(None, keyless, "me").unwrap_err().to_string();
    assert!(
        refused.starts_with(".spec.template.spec.containers: element 0: associative list with keys"),
        "{refused}"
    );
    let twice = app(1, json!([{"name": "a"}, {"name": "a"}]));
    let refused = applied(None, twice, "me").unwrap_err().to_string();
    assert_eq!(refused, ".spec.template.spec.containers: duplicate entries for key {\"name\":\"a\"}");
    // One port number with two protocols is two ports.
    let ports = json!([{"containerPort": 53}, {"containerPort": 53, "protocol": "UDP"}]);
    let config = app(1, json!([{"name": "dns", "image": "d", "ports": ports.clone()}]));
    let live = applied(None, config.clone(), "me").unwrap();
    assert_eq!(live["spec"]["template"]["spec"]["containers"][0]["ports"], ports);
    assert_eq!(applied(Some(&live), config, "me").unwrap(), live);
}

#[test]
fn an_object_that_nobody_noted_gets_its_first_entries() {
    let live = app(3, web());
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app"}, "spec": {"replicas": 5}});
    let refused = applied(Some(&live), config.clone(), "me").unwrap_err().to_string();
    assert!(
        refused.contains("conflict with \"before-first-apply\" using apps/v1: .spec.replicas"),
        "{refused}"
    );
    let mut updated = live.clone();
    updated["spec"]["replicas"] = 4.into();
    note_update(deployments(), Some(&live), &mut updated, by("them", "t1"));
    assert_eq!(updated["metadata"].get("managedFields"), None);
}

#[test]
fn entries_can_be_written_and_forgotten() {
    let mut live = app(3, web());
    note_update(deployments(), None, &mut live, by("a", "t0"));
    let mut moved = live.clone();
    moved["metadata"]["managedFields"][0]["manager"] = "b".into();
    moved["metadata"]["managedFields"][0]["operation"] = "Apply".into();
    note_update(deployments(), Some(&live), &mut moved, by("c", "t1"));
    assert_eq!(moved["metadata"]["managedFields"].as_array().unwrap().len(), 1);
    assert!(!owned(&moved, "b").is_empty());
    let mut forgotten = moved.clone();
    forgotten["metadata"]["managedFields"] = json!([{}]);
    note_update(deployments(), Some(&moved), &mut forgotten, by("c", "t1"));
    assert_eq!(forgotten["metadata"].get("managedFields"), None);
}

#[test]
fn entries_do_not_grow_without_end() {
    let mut live = app(3, web());
    note_update(deployments(), None, &mut live, by("first", "t00"));
    for i in 0..50 {
        let mut new = live.clone();
        new["metadata"]["labels"][format!("l{i}")] = "x".into();
        let (name, now) = (format!("m{i:02}"), format!("t{:02}", i + 1));
        note_update(deployments(), Some(&live), &mut new, by(&name, &now));
        live = new;
    }
    assert_eq!(live["metadata"]["managedFields"].as_array().unwrap().len(), 10);
    assert!(owned(&live, "ancient-changes").contains(&".metadata.labels.l7".to_owned()));
    assert_eq!(owned(&live, "m49"), [".metadata.labels.l49"]);
}

/// Labels, replicas and containers: what authors quarrel about.
fn configs() -> impl Strategy<Value = Value> {
    let labels = prop::collection::btree_map("[a-c]", "[xy]", 0..3);
    let env = prop::collection::btree_map("[A-C]", "[12]", 0..3);
    let containers = prop::collection::btree_map("[p-r]", (prop::option::of("[ij]"), env), 0..3);
    (labels, prop::option::of(0..3_i64), containers).prop_map(|(labels, replicas, containers)| {
        let mut config =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app"}, "spec": {}});
        if !labels.is_empty() {
            config["metadata"]["labels"] = json!(labels);
        }
        if let Some(replicas) = replicas {
            config["spec"]["replicas"] = replicas.into();
        }
        let list: Vec<Value> = containers
            .into_iter()
            .map(|(name, (image, env))| {
                let mut container = json!({ "name": name });
                if let Some(image) = image {
                    container["image"] = image.into();
                }
                if !env.is_empty() {
                    container["env"] = env.iter().map(|(k, v)| json!({"name": k, "value": v})).collect();
                }
                container
            })
            .collect();
        if !list.is_empty() {
            config["spec"]["template"] = json!({"spec": {"containers": list}});
        }
        config
    })
}

fn stripped(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    object
}

fn states(object: &Value, config: &Value) -> bool {
    match (object, config) {
        (Value::Object(held), Value::Object(wanted)) => {
            wanted.iter().all(|(name, value)| held.get(name).is_some_and(|held| states(held, value)))
        }
        (Value::Array(held), Value::Array(wanted)) => wanted.iter().all(|wanted| {
            let same = |held: &&Value| held["name"] == wanted["name"];
            held.iter().find(same).is_some_and(|held| states(held, wanted))
        }),
        _ => object == config,
    }
}

proptest! {
    #[test]
    fn an_apply_holds_all_that_it_states_and_changes_nothing_when_repeated(
        steps in prop::collection::vec((0..3_usize, configs()), 1..8),
    ) {
        let mut live: Option<Value> = None;
        for (who, config) in steps {
            let manager = ["a", "b", "c"][who];
            let now = apply(deployments(), live.as_ref(), &config, by(manager, "t"), true).unwrap();
            prop_assert!(states(&now, &config), "{now} {config}");
            let again = apply(deployments(), Some(&now), &config, by(manager, "t9"), false).unwrap();
            prop_assert_eq!(&again, &now);
            live = Some(now);
        }
    }

    #[test]
    fn what_only_one_author_ever_stated_goes_with_their_last_word(config in configs(), other in configs()) {
        let bare = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app"}});
        let theirs = apply(deployments(), None, &other, by("b", "t"), false).unwrap();
        let both = apply(deployments(), Some(&theirs), &config, by("a", "t"), true).unwrap();
        let gone = apply(deployments(), Some(&both), &bare, by("a", "t"), false).unwrap();
        prop_assert_eq!(owned(&gone, "a"), Vec::<String>::new());
        // Whatever is left, somebody else had stated.
        let left = stripped(&gone);
        prop_assert!(states(&stripped(&both), &left) && owned(&gone, "b").len() <= owned(&theirs, "b").len());
        let alone = apply(deployments(), None, &config, by("a", "t"), false).unwrap();
        let none = apply(deployments(), Some(&alone), &bare, by("a", "t"), false).unwrap();
        prop_assert_eq!(none["spec"]["template"].get("spec"), None);
        prop_assert_eq!(none["metadata"].get("labels"), None);
    }

    #[test]
    fn a_field_has_at_most_one_author_of_its_present_value_by_update(
        steps in prop::collection::vec((0..3_usize, configs()), 1..8),
    ) {
        let mut live = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app"}, "spec": {}});
        let mut first = live.clone();
        note_update(deployments(), None, &mut first, by("a", "t"));
        live["metadata"]["managedFields"] = json!([{"manager": "z", "operation": "Update", "apiVersion": "apps/v1",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:paused": {}}}}]);
        for (who, config) in steps {
            let manager = ["a", "b", "c"][who];
            let mut new = config.clone();
            new["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
            note_update(deployments(), Some(&live), &mut new, by(manager, "t"));
            let mut seen = std::collections::BTreeSet::new();
            for name in ["a", "b", "c"] {
                for path in owned(&new, name) {
                    prop_assert!(seen.insert(path.clone()), "{path} twice: {new}");
                }
            }
            live = new;
        }
    }
}
