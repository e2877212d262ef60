//! Objects through stock kubectl, with validation on: writing, patching, watching, owning, deleting, and Kubernetes' own words on what
//! is wrong.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::{io::BufRead, process::Stdio};

use common::{Cluster, Space, app, items, until};
use serde_json::{Value, json};

#[test]
fn objects_are_kept_as_kubernetes_keeps_them() {
    let cluster = Cluster::up("objects");
    cluster.steps(
        3,
        &[
            ("a_deletion_takes_what_it_owns", a_deletion_takes_what_it_owns),
            ("patches_labels_annotations", patches_labels_annotations),
            ("a_finalizer_holds_an_object", a_finalizer_holds_an_object),
            ("a_namespace_goes_with_all_that_is_in_it", a_namespace_goes_with_all_that_is_in_it),
            ("names_are_generated_and_conflicts_told", names_are_generated_and_conflicts_told),
            ("changes_are_watched", changes_are_watched),
            ("selectors_select", selectors_select),
            ("wrong_manifests_get_kubernetes_words", wrong_manifests_get_kubernetes_words),
            ("every_kind_is_served", every_kind_is_served),
        ],
    );
}

fn config_map(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1", "b": "2"}})
        .to_string()
}

fn patches_labels_annotations(space: &Space) {
    let kubectl = &space.kubectl;
    space.apply(&config_map("map"));
    let data = || kubectl.json(&["get", "configmap", "map"])["data"].clone();
    kubectl.ok(&[
        "patch",
        "configmap",
        "map",
        "--type=json",
        "-p",
        r#"[{"op":"replace","path":"/data/a","value":"9"}]"#,
    ]);
    assert_eq!(data(), json!({"a": "9", "b": "2"}));
    kubectl.ok(&["patch", "configmap", "map", "--type=merge", "-p", r#"{"data":{"a":null,"c":"3"}}"#]);
    assert_eq!(data(), json!({"b": "2", "c": "3"}));
    let refused = kubectl.refused(&[
        "patch",
        "configmap",
        "map",
        "--type=json",
        "-p",
        r#"[{"op":"test","path":"/data/b","value":"0"}]"#,
    ]);
    assert!(refused.contains("The request is invalid"), "{refused}");

    // Strategic merge knows that containers are merged by name.
    space.apply(&app(0, json!({})));
    let patch = r#"{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"A","value":"1"}]},{"name":"side","image":"hitless.dev/web:1"}]}}}}"#;
    kubectl.ok(&["patch", "deployment", "app", "--type=strategic", "-p", patch]);
    let deployment = kubectl.json(&["get", "deployment", "app"]);
    let containers = deployment["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 2, "{containers:?}");
    let web = containers.iter().find(|c| c["name"] == "web").unwrap();
    assert_eq!((&web["env"][0]["name"], &web["args"][2]), (&json!("A"), &json!("3000")));

    kubectl.ok(&["label", "configmap", "map", "tier=front"]);
    let refused = kubectl.refused(&["label", "configmap", "map", "tier=back"]);
    assert!(refused.contains("--overwrite is false"), "{refused}");
    kubectl.ok(&["label", "configmap", "map", "tier=back", "--overwrite"]);
    kubectl.ok(&["annotate", "configmap", "map", "note=this"]);
    let metadata = kubectl.json(&["get", "configmap", "map"])["metadata"].clone();
    assert_eq!(
        (&metadata["labels"]["tier"], &metadata["annotations"]["note"]),
        (&json!("back"), &json!("this"))
    );
    kubectl.ok(&["label", "configmap", "map", "tier-"]);
    kubectl.ok(&["annotate", "configmap", "map", "note-"]);
    let metadata = kubectl.json(&["get", "configmap", "map"])["metadata"].clone();
    assert!(metadata["labels"]["tier"].is_null() && metadata["annotations"]["note"].is_null(), "{metadata}");
}

fn a_finalizer_holds_an_object(space: &Space) {
    let kubectl = &space.kubectl;
    space.apply(&config_map("held"));
    kubectl.ok(&[
        "patch",
        "configmap",
        "held",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":["example.com/hold"]}}"#,
    ]);
    kubectl.ok(&["delete", "configmap", "held", "--wait=false"]);
    let held = kubectl.json(&["get", "configmap", "held"]);
    assert!(held["metadata"]["deletionTimestamp"].is_string(), "{held}");
    let refused = kubectl.refused(&[
        "patch",
        "configmap",
        "held",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":["example.com/hold","example.com/more"]}}"#,
    ]);
    assert!(refused.contains("no new finalizers can be added if the object is being deleted"), "{refused}");
    kubectl.ok(&["patch", "configmap", "held", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]);
    let refused = kubectl.refused(&["get", "configmap", "held"]);
    assert!(refused.contains("Error from server (NotFound): configmaps \"held\" not found"), "{refused}");
}

fn a_deletion_takes_what_it_owns(space: &Space) {
    let kubectl = &space.kubectl;
    let bring = || {
        space.apply(&app(2, json!({})));
        kubectl.until("both Pods run", &["pods", "-l", "name=app"], |pods| {
            pods.len() == 2 && pods.iter().all(common::is_ready)
        });
    };
    let none = |kind: &str| {
        kubectl.until(&format!("no {kind} is left"), &[kind, "-l", "name=app"], <[Value]>::is_empty)
    };
    bring();
    kubectl.ok(&["delete", "deployment", "app"]);
    none("replicasets");
    none("pods");

    bring();
    kubectl.ok(&["delete", "deployment", "app", "--cascade=orphan"]);
    let sets = kubectl.until("the ReplicaSet is let go", &["replicasets", "-l", "name=app"], |sets| {
        sets.len() == 1 && sets[0]["metadata"]["ownerReferences"].is_null()
    });
    let set = sets[0]["metadata"]["name"].as_str().unwrap();
    assert_eq!(kubectl.names(&["pods", "-l", "name=app"]).len(), 2, "the Pods run on");
    let pod = kubectl.names(&["pods", "-l", "name=app"])[0].clone();
    let owner = kubectl.json(&["get", "pod", &pod])["metadata"]["ownerReferences"][0].clone();
    assert_eq!((owner["kind"].as_str(), owner["name"].as_str()), (Some("ReplicaSet"), Some(set)));

    // A Deployment with the same selector takes the orphans again.
    space.apply(&app(2, json!({})));
    kubectl.until("the ReplicaSet is adopted", &["replicasets", "-l", "name=app"], |sets| {
        sets.len() == 1 && sets[0]["metadata"]["ownerReferences"][0]["name"] == "app"
    });
    kubectl.ok(&["delete", "deployment", "app", "--cascade=foreground"]);
    // In the foreground the owner goes last, and kubectl waits for it.
    assert_eq!(kubectl.names(&["replicasets,pods", "-l", "name=app"]), Vec::<String>::new());
}

fn a_namespace_goes_with_all_that_is_in_it(space: &Space) {
    let kubectl = common::Kubectl { namespace: "doomed".to_owned(), ..space.kubectl.clone() };
    kubectl.ok(&["create", "namespace", "doomed"]);
    until("its service account is there", || kubectl.try_json(&["get", "serviceaccount", "default"]));
    kubectl.with_input(&["apply", "-f", "-"], &app(1, json!({}))).succeeded();
    kubectl.with_input(&["apply", "-f", "-"], &config_map("map")).succeeded();
    kubectl.ok(&["delete", "namespace", "doomed"]);
    assert!(kubectl.refused(&["get", "namespace", "doomed"]).contains("NotFound"));
    for kind in [
        "pods",
        "deployments",
        "replicasets",
        "services",
        "configmaps",
        "serviceaccounts",
        "endpointslices",
        "endpoints",
    ] {
        assert_eq!(kubectl.names(&[kind]), Vec::<String>::new(), "{kind} of a namespace that is gone");
    }
    let refused = kubectl.with_input(&["create", "-f", "-"], &config_map("late"));
    assert!(!refused.ok && refused.all().contains("namespaces \"doomed\" not found"), "{}", refused.all());
}

fn names_are_generated_and_conflicts_told(space: &Space) {
    let kubectl = &space.kubectl;
    let generated =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "job-"}}).to_string();
    for _ in 0..2 {
        let said = kubectl.with_input(&["create", "-f", "-"], &generated).succeeded().stdout;
        assert!(said.starts_with("configmap/job-") && said.trim_end().ends_with(" created"), "{said}");
    }
    let names = kubectl.names(&["configmaps", "--field-selector", "metadata.name!=kube-root-ca.crt"]);
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.iter().all(|name| name.len() == "job-".len() + 5), "{names:?}");

    kubectl.with_input(&["create", "-f", "-"], &config_map("map")).succeeded();
    let twice = kubectl.with_input(&["create", "-f", "-"], &config_map("map"));
    assert!(
        !twice.ok
            && twice.stderr.contains("(AlreadyExists)")
            && twice.stderr.contains("configmaps \"map\" already exists"),
        "{}",
        twice.stderr
    );
    let old = kubectl.json(&["get", "configmap", "map"]);
    kubectl.ok(&["label", "configmap", "map", "changed=yes"]);
    let stale = kubectl.with_input(&["replace", "-f", "-"], &old.to_string());
    assert!(!stale.ok && stale.stderr.contains("(Conflict)"), "{}", stale.all());
    assert!(stale.stderr.contains(
        "the object has been modified; please apply your changes to the latest version and try again"
    ));
    assert_eq!(kubectl.json(&["get", "configmap", "map"])["metadata"]["labels"]["changed"], "yes");
}

fn changes_are_watched(space: &Space) {
    let kubectl = &space.kubectl;
    space.apply(&config_map("first"));
    let mut watching = kubectl
        .command(&[
            "get",
            "configmaps",
            "-w",
            "--output-watch-events",
            "--field-selector",
            "metadata.name!=kube-root-ca.crt",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap().split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    assert_eq!((next().as_str(), next().as_str()), ("EVENT NAME", "ADDED first"));
    space.apply(&config_map("second"));
    assert_eq!(next(), "ADDED second");
    kubectl.ok(&["label", "configmap", "first", "a=b"]);
    assert_eq!(next(), "MODIFIED first");
    kubectl.ok(&["delete", "configmap", "second"]);
    assert_eq!(next(), "DELETED second");
    watching.kill().unwrap();
    watching.wait().unwrap();
}

fn selectors_select(space: &Space) {
    let kubectl = &space.kubectl;
    for (name, tier) in [("one", "front"), ("two", "back"), ("three", "back")] {
        space.apply(&config_map(name));
        kubectl.ok(&["label", "configmap", name, &format!("tier={tier}")]);
    }
    assert_eq!(kubectl.names(&["configmaps", "-l", "tier=back"]), ["three", "two"]);
    assert_eq!(kubectl.names(&["configmaps", "-l", "tier in (front,middle)"]), ["one"]);
    assert_eq!(kubectl.names(&["configmaps", "-l", "tier,tier!=back"]), ["one"]);
    assert_eq!(kubectl.names(&["configmaps", "--field-selector", "metadata.name=two"]), ["two"]);
    let refused = kubectl.refused(&["get", "configmaps", "--field-selector", "data.a=1"]);
    assert!(refused.contains("\"data.a\" is not a known field selector"), "{refused}");
}

fn wrong_manifests_get_kubernetes_words(space: &Space) {
    let kubectl = &space.kubectl;
    let pod =
        |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": spec});
    let fine = json!({"name": "web", "image": "hitless.dev/web:1"});
    let mut misspelt = common::deployment(1, json!({}));
    misspelt["spec"]["replica"] = json!(3);
    let mut other = common::deployment(1, json!({}));
    other["spec"]["template"]["metadata"]["labels"]["name"] = json!("else");
    let refusals = [
        (misspelt, "unknown field \"spec.replica\""),
        (other, "`selector` does not match template `labels`"),
        (pod(json!({"containers": []})), "The Pod \"web\" is invalid: spec.containers: Required value"),
        (pod(json!({"containers": [fine, fine]})), "spec.containers[1].name: Duplicate value: \"web\""),
        (
            pod(
                json!({"containers": [{"name": "web", "image": "hitless.dev/web:1", "ports": [{"containerPort": 70000}]}]}),
            ),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "Not_A_Name"}}),
            "metadata.name: Invalid value: \"Not_A_Name\": a lowercase RFC 1123 subdomain",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 0}]}}),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
    ];
    for (manifest, words) in refusals {
        let said = kubectl.with_input(&["apply", "-f", "-"], &manifest.to_string());
        assert!(!said.ok && said.stderr.contains(words), "{manifest}\nwanted: {words}\ngot: {}", said.all());
    }
    space.apply(&app(0, json!({})));
    let patch = r#"{"spec":{"selector":{"matchLabels":{"name":"else"}},"template":{"metadata":{"labels":{"name":"else"}}}}}"#;
    let refused = kubectl.refused(&["patch", "deployment", "app", "-p", patch]);
    assert!(
        refused.contains("spec.selector: Invalid value") && refused.contains("field is immutable"),
        "{refused}"
    );
}

fn every_kind_is_served(space: &Space) {
    let kubectl = &space.kubectl;
    let known = kubectl.ok(&["api-resources", "--no-headers"]);
    for kind in [
        "Namespace",
        "Node",
        "Pod",
        "Service",
        "Endpoints",
        "EndpointSlice",
        "ConfigMap",
        "Secret",
        "ServiceAccount",
        "Event",
        "Lease",
        "Deployment",
        "ReplicaSet",
        "PodDisruptionBudget",
        "EndpointConsumer",
    ] {
        let line = known
            .lines()
            .find(|line| line.ends_with(&format!(" {kind}")))
            .unwrap_or_else(|| panic!("no {kind}: {known}"));
        let name = line.split_whitespace().next().unwrap();
        kubectl.ok(&["get", name, "--all-namespaces"]);
    }
    let leases = kubectl.json(&["get", "leases", "-n", "kube-node-lease"]);
    let holders: Vec<_> =
        items(&leases).iter().map(|l| l["spec"]["holderIdentity"].as_str().unwrap().to_owned()).collect();
    assert_eq!(holders, ["node-1", "node-2"]);
    let described = kubectl.ok(&["describe", "node", "node-1"]);
    assert!(described.contains("Ready") && described.contains("containerd://"), "{described}");
}
