//! A Deployment behind a Service on two nodes, driven by stock kubectl: rollouts, scaling, endpoints, traffic, drain.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::{collections::BTreeSet, io::BufRead, process::Stdio, sync::atomic::AtomicBool};

use common::{Cluster, Space, app, is_ready, items, traffic, until};
use serde_json::{Value, json};

#[test]
fn a_workload_comes_changes_and_moves_without_a_lost_request() {
    let cluster = Cluster::up("work");
    cluster.steps(
        3,
        &[
            ("both_nodes_are_ready", both_nodes_are_ready),
            ("rollouts_go_forth_and_back", rollouts_go_forth_and_back),
            ("endpoints_follow_pods_and_labels", endpoints_follow_pods_and_labels),
            ("the_cluster_ip_leads_from_nodes_and_pods", the_cluster_ip_leads_from_nodes_and_pods),
            ("logs_are_shown_and_followed", logs_are_shown_and_followed),
            ("the_scheduler_heeds_selectors_and_resources", the_scheduler_heeds_selectors_and_resources),
        ],
    );
    // A drain moves the Pods of every namespace.
    cluster.steps(1, &[("a_drain_under_a_budget_loses_nothing", a_drain_under_a_budget_loses_nothing)]);
}

fn both_nodes_are_ready(space: &Space) {
    let shown = space.kubectl.ok(&["get", "nodes"]);
    for node in ["node-1", "node-2"] {
        let line = shown.lines().find(|line| line.starts_with(node)).unwrap_or_else(|| panic!("{shown}"));
        assert_eq!(line.split_whitespace().nth(1), Some("Ready"), "{shown}");
    }
    let consumers = space.kubectl.ok(&["get", "endpointconsumers"]);
    for consumer in ["service-proxy-node-1", "service-proxy-node-2"] {
        let line = consumers
            .lines()
            .find(|line| line.starts_with(consumer))
            .unwrap_or_else(|| panic!("{consumers}"));
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!((words[1], words[3]), ("ServiceProxy", "Proven"), "{consumers}");
        assert!(words[4].parse::<u64>().unwrap() > 0, "no revision is shown: {consumers}");
    }
}

/// What a Deployment's revisions were made with.
fn marks(space: &Space) -> BTreeSet<String> {
    let pods = space.kubectl.json(&["get", "pods", "-l", "name=app"]);
    let alive = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    let mark =
        |pod: &Value| pod["spec"]["containers"][0]["env"][0]["value"].as_str().unwrap_or("none").to_owned();
    items(&pods).iter().filter(alive).map(mark).collect()
}

fn rollouts_go_forth_and_back(space: &Space) {
    let applied = space.apply(&app(3, json!({})));
    assert!(
        applied.contains("deployment.apps/app created") && applied.contains("service/my-service created"),
        "{applied}"
    );
    let kubectl = &space.kubectl;
    let rolled = kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
    assert!(rolled.contains("deployment \"app\" successfully rolled out"), "{rolled}");

    let wide = kubectl.ok(&["get", "pods", "-o", "wide"]);
    let titles: Vec<&str> =
        wide.lines().next().unwrap().split("  ").map(str::trim).filter(|t| !t.is_empty()).collect();
    assert_eq!(
        titles,
        ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES"]
    );
    assert_eq!(
        wide.lines().filter(|line| line.contains("1/1") && line.contains("Running")).count(),
        3,
        "{wide}"
    );
    assert!(wide.contains("node-1") && wide.contains("node-2"), "Pods are not spread over the nodes: {wide}");
    let again = space.apply(&app(3, json!({})));
    assert!(again.contains("deployment.apps/app unchanged"), "{again}");

    let before = kubectl.names(&["pods", "-l", "name=app"]);
    kubectl.ok(&["rollout", "restart", "deployment/app"]);
    kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
    let after = kubectl.until("only new Pods are left", &["pods", "-l", "name=app"], |pods| {
        pods.len() == 3 && pods.iter().all(|pod| !before.iter().any(|old| pod["metadata"]["name"] == **old))
    });
    assert!(after.iter().all(is_ready));

    space.apply(&app(3, json!({"env": [{"name": "MARK", "value": "second"}]})));
    kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
    assert_eq!(marks(space), BTreeSet::from(["second".to_owned()]));
    let history = kubectl.ok(&["rollout", "history", "deployment/app"]);
    let revisions: Vec<&str> =
        history.lines().skip(2).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(revisions, ["1", "2", "3"], "{history}");
    let third = kubectl.ok(&["rollout", "history", "deployment/app", "--revision=3"]);
    assert!(third.contains("MARK") && third.contains("second"), "{third}");
    kubectl.ok(&["rollout", "undo", "deployment/app"]);
    kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
    assert_eq!(marks(space), BTreeSet::from(["none".to_owned()]));

    kubectl.ok(&["scale", "deployment/app", "--replicas=5"]);
    kubectl.until("five Pods are ready", &["pods", "-l", "name=app"], |pods| {
        pods.iter().filter(|p| is_ready(p)).count() == 5
    });
    kubectl.ok(&["scale", "deployment/app", "--replicas=1"]);
    kubectl.until("one Pod is left", &["pods", "-l", "name=app"], |pods| pods.len() == 1);
    let shown = kubectl.ok(&["get", "deployment", "app"]);
    assert!(shown.contains("1/1"), "{shown}");
}

/// The addresses of the Service's endpoints, as `kubectl get endpoints` shows them.
fn endpoints(space: &Space) -> BTreeSet<String> {
    let shown = space.kubectl.ok(&["get", "endpoints", "my-service", "--no-headers"]);
    let addresses = shown.split_whitespace().nth(1).unwrap_or("<none>");
    addresses.split(',').filter(|address| *address != "<none>").map(str::to_owned).collect()
}

/// The addresses at which the Pods that a label selects are ready.
fn addresses(space: &Space, label: &str) -> BTreeSet<String> {
    let pods = space.kubectl.json(&["get", "pods", "-l", label]);
    let ready = items(&pods).into_iter().filter(is_ready);
    ready.map(|pod| format!("{}:3000", pod["status"]["podIP"].as_str().unwrap())).collect()
}

fn endpoints_follow_pods_and_labels(space: &Space) {
    space.apply(&app(3, json!({})));
    let kubectl = &space.kubectl;
    // One more that the Service selects and that is never ready.
    let probe = json!({"exec": {"command": ["/web", "false"]}, "periodSeconds": 1});
    space.pod("late", &["serve", "--port", "3000"], json!({"readinessProbe": probe}), json!({}));
    kubectl.ok(&["label", "pod", "late", "name=app", "--overwrite"]);
    kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
    kubectl.until("the late Pod runs", &["pod", "late"], |pods| pods[0]["status"]["phase"] == "Running");
    until("the endpoints are the ready Pods", || {
        let listed = endpoints(space);
        (listed.len() == 3 && listed == addresses(space, "name=app")).then_some(())
    });

    let shown = kubectl.ok(&["get", "services,endpoints"]);
    let service = shown.lines().find(|line| line.starts_with("service/my-service")).unwrap();
    assert!(service.contains("ClusterIP") && service.contains("80/TCP"), "{shown}");
    assert!(shown.lines().any(|line| line.starts_with("endpoints/my-service")), "{shown}");

    let out = kubectl.names(&["pods", "-l", "name=app,pod-template-hash"])[0].clone();
    let address = kubectl.ok(&["get", "pod", &out, "-o", "jsonpath={.status.podIP}"]);
    kubectl.ok(&["label", "pod", &out, "name=other", "--overwrite"]);
    until("the Pod with another label is replaced in the endpoints", || {
        let listed = endpoints(space);
        let gone = !listed.contains(&format!("{address}:3000"));
        (gone && listed.len() == 3 && listed == addresses(space, "name=app")).then_some(())
    });
    let orphan = kubectl.json(&["get", "pod", &out]);
    assert!(is_ready(&orphan), "it goes on running");
    assert!(
        orphan["metadata"]["ownerReferences"].is_null(),
        "its ReplicaSet let it go: {}",
        orphan["metadata"]
    );

    let slices = kubectl.json(&["get", "endpointslices", "-l", "kubernetes.io/service-name=my-service"]);
    let slice = &items(&slices)[0];
    assert_eq!(slice["metadata"]["ownerReferences"][0]["name"], "my-service");
    let late = kubectl.ok(&["get", "pod", "late", "-o", "jsonpath={.status.podIP}"]);
    let listed = slice["endpoints"].as_array().unwrap();
    let of_late = listed
        .iter()
        .find(|e| e["addresses"][0] == *late)
        .expect("a Pod that is not ready stands in the slice");
    assert_eq!(of_late["conditions"]["ready"], false);

    kubectl.ok(&["scale", "deployment/app", "--replicas=0"]);
    until("no endpoint is left", || endpoints(space).is_empty().then_some(()));
}

fn the_cluster_ip_leads_from_nodes_and_pods(space: &Space) {
    // A Pod on each node, so that each path crosses from one to the other.
    for node in ["node-1", "node-2"] {
        let on_node = json!({"nodeName": node});
        space.pod(node, &["serve", "--port", "3000"], json!({}), on_node);
        space.kubectl.ok(&["label", "pod", node, "name=app", "--overwrite"]);
    }
    space.apply(&common::service().to_string());
    for node in ["node-1", "node-2"] {
        space.ready(node);
    }
    let ip = space.kubectl.ok(&["get", "service", "my-service", "-o", "jsonpath={.spec.clusterIP}"]);
    let cluster = &space.home.name;
    for from in ["node-1", "node-2"] {
        let mut answered = BTreeSet::new();
        until(&format!("both Pods answer at the cluster IP, seen from {from}"), || {
            answered.extend(traffic::get(cluster, from, &format!("{ip}:80")).ok());
            (answered.len() == 2).then_some(())
        });
    }
    let address = |pod: &str| space.kubectl.ok(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]);
    let other = address("node-2");
    assert_eq!(traffic::get(cluster, "node-1", &format!("{other}:3000")).as_deref(), Ok("node-2"));

    // From a Pod on node-1: to the Pod on node-2, and to the cluster IP.
    for (name, target) in [("to-pod", format!("{other}:3000")), ("to-service", format!("{ip}:80"))] {
        let args = ["load", "--target", &target, "--mode", "new", "--rate", "40", "--duration", "1"];
        space.pod(name, &args, json!({}), json!({"nodeName": "node-1", "restartPolicy": "Never"}));
    }
    for name in ["to-pod", "to-service"] {
        space
            .kubectl
            .until("the generator is done", &["pod", name], |pods| pods[0]["status"]["phase"] == "Succeeded");
        let log = space.kubectl.ok(&["logs", name]);
        let summary: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        let summary = &summary["summary"];
        assert!(summary["ok"].as_u64().unwrap() >= 20 && summary["failed"] == 0, "{name}: {log}");
    }
}

fn logs_are_shown_and_followed(space: &Space) {
    space.pod("web", &["serve", "--port", "3000"], json!({}), json!({}));
    space.ready("web");
    let log = space.kubectl.ok(&["logs", "web"]);
    assert!(log.contains("\"listening\":3000"), "{log}");
    let mut following = space.kubectl.command(&["logs", "-f", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(following.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("listening"), "what was said before comes first");
    space.kubectl.ok(&["delete", "pod", "web", "--wait=false"]);
    let next = lines.next().expect("the log ended before the stop signal was told").unwrap();
    assert!(next.contains("SIGTERM"), "{next}");
    let rest: Vec<_> = lines.collect();
    assert!(following.wait().unwrap().success(), "the log's end is no error: {rest:?}");
    let refused = space.kubectl.refused(&["logs", "nobody"]);
    assert!(refused.contains("pods \"nobody\" not found"), "{refused}");
}

fn the_scheduler_heeds_selectors_and_resources(space: &Space) {
    let there = json!({"nodeSelector": {"kubernetes.io/hostname": "node-2"}});
    space.pod("there", &["serve", "--port", "3000"], json!({}), there);
    space.pod("nowhere", &["serve"], json!({}), json!({"nodeSelector": {"disk": "none-such"}}));
    space.pod("huge", &["serve"], json!({"resources": {"requests": {"cpu": "4000"}}}), json!({}));
    space.ready("there");
    let node = space.kubectl.ok(&["get", "pod", "there", "-o", "jsonpath={.spec.nodeName}"]);
    assert_eq!(node, "node-2");
    for (name, words) in
        [("nowhere", "node(s) didn't match Pod's node affinity/selector"), ("huge", "Insufficient cpu")]
    {
        space.event_at(name, "FailedScheduling");
        let pod = space.kubectl.json(&["get", "pod", name]);
        assert_eq!(common::condition(&pod, "PodScheduled"), Some("False"));
        let told = pod["status"]["conditions"].to_string();
        assert!(told.contains("0/2 nodes are available") && told.contains(words), "{told}");
    }
}

fn a_drain_under_a_budget_loses_nothing(space: &Space) {
    space.apply(&app(2, json!({})));
    space.apply(
        &json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "app"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"name": "app"}}},
        })
        .to_string(),
    );
    let kubectl = &space.kubectl;
    kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
    kubectl
        .until("the budget counts its Pods", &["pdb", "app"], |pdb| pdb[0]["status"]["currentHealthy"] == 2);
    let target = kubectl.ok(&["get", "service", "my-service", "-o", "jsonpath={.spec.clusterIP}"]) + ":80";
    let (end, cluster) = (AtomicBool::new(false), &space.home.name);
    let count = std::thread::scope(|scope| {
        let stream = scope.spawn(|| traffic::stream(cluster, "node-2", &target, &end));
        let outcome = std::panic::catch_unwind(|| {
            let drained = kubectl.ok(&["drain", "node-1", "--ignore-daemonsets", "--force", "--timeout=90s"]);
            assert!(drained.contains("node/node-1 drained"), "{drained}");
        });
        end.store(true, std::sync::atomic::Ordering::Relaxed);
        let count = stream.join().unwrap();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        count
    });
    assert_eq!(count.failed, Vec::<String>::new(), "of {} requests", count.answered + count.failed.len());
    assert!(count.answered > 10, "{count:?}");

    let nodes = kubectl.ok(&["get", "nodes"]);
    assert!(nodes.contains("Ready,SchedulingDisabled"), "{nodes}");
    let node = kubectl.json(&["get", "node", "node-1"]);
    assert_eq!(node["spec"]["taints"][0]["key"], "node.kubernetes.io/unschedulable");
    let pods = kubectl.json(&["get", "pods", "-l", "name=app"]);
    let places: BTreeSet<_> = items(&pods).iter().map(|p| p["spec"]["nodeName"].to_string()).collect();
    assert_eq!(places, BTreeSet::from(["\"node-2\"".to_owned()]), "every Pod has moved");
    kubectl.ok(&["uncordon", "node-1"]);
    let node = kubectl.json(&["get", "node", "node-1"]);
    assert!(node["spec"]["taints"].as_array().is_none_or(Vec::is_empty), "{}", node["spec"]);
}
