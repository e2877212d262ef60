//! What a plan must hold, by example and by property.

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::snapshot::ServiceView;

fn node(name: &str, more: Value) -> Arc<NodeView> {
    let mut object = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {
            "allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    merge(&mut object, more);
    Arc::new(NodeView::new(&serde_json::from_value(object).unwrap()))
}

fn pod(name: &str, more: Value) -> Arc<PodView> {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name},
        "spec": {"containers": [{"name": "c"}]},
    });
    merge(&mut object, more);
    Arc::new(PodView::new(Arc::new(serde_json::from_value(object).unwrap())))
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn asks(requests: Value) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}})
}

fn snapshot(nodes: Vec<(Arc<NodeView>, Vec<Arc<PodView>>)>) -> Snapshot {
    Snapshot { nodes, ..Snapshot::default() }
}

fn empty(nodes: Vec<Arc<NodeView>>) -> Snapshot {
    snapshot(nodes.into_iter().map(|node| (node, vec![])).collect())
}

/// The node, or the message.
fn places(snapshot: &Snapshot, pending: &[Arc<PodView>]) -> Vec<String> {
    plan(snapshot, pending)
        .into_iter()
        .map(|decision| match decision.outcome {
            Outcome::Bind { node } => node,
            Outcome::Unschedulable { message } => message,
        })
        .collect()
}

fn place(snapshot: &Snapshot, pod: Arc<PodView>) -> String {
    places(snapshot, &[pod]).remove(0)
}

#[test]
fn says_why_in_kubernetes_words() {
    let cordoned = node("a", json!({"spec": {"unschedulable": true}}));
    let small = node("b", json!({}));
    let big = pod("p", asks(json!({"cpu": "3", "memory": "2Gi", "example.com/gpu": "1"})));
    assert_eq!(
        place(&empty(vec![cordoned, small]), big),
        "0/2 nodes are available: 1 Insufficient cpu, 1 Insufficient example.com/gpu, 1 Insufficient memory, \
         1 node(s) were unschedulable."
    );
    assert_eq!(place(&empty(vec![]), pod("p", json!({}))), "no nodes available to schedule pods");
    let full = (0..10).map(|n| pod(&n.to_string(), json!({}))).collect();
    assert_eq!(
        place(&snapshot(vec![(node("a", json!({})), full)]), pod("p", json!({}))),
        "0/1 nodes are available: 1 Too many pods."
    );
}

#[test]
fn a_node_is_ruled_out_by_cordon_taint_readiness_and_selector() {
    for (more, why) in [
        (json!({"spec": {"unschedulable": true}}), "node(s) were unschedulable"),
        (
            json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}),
            "node(s) had untolerated taint(s)",
        ),
        (
            json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}}),
            "node(s) had untolerated taint(s)",
        ),
        (
            json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
            "node(s) had untolerated taint(s)",
        ),
        (
            json!({"metadata": {"labels": {"disk": "hdd"}}}),
            "node(s) didn't match Pod's node affinity/selector",
        ),
    ] {
        let pod = pod("p", json!({"spec": {"nodeSelector": {"disk": "ssd"}}}));
        let selected = node("a", json!({"metadata": {"labels": {"disk": "ssd"}}}));
        assert_eq!(place(&empty(vec![selected.clone()]), pod.clone()), "a");
        let mut more = more;
        if more.get("metadata").is_none() {
            merge(&mut more, json!({"metadata": {"labels": {"disk": "ssd"}}}));
        }
        let message = place(&empty(vec![node("a", more)]), pod);
        assert_eq!(message, format!("0/1 nodes are available: 1 {why}."));
    }
}

#[test]
fn tolerations_open_cordoned_and_tainted_nodes() {
    let shut = node(
        "a",
        json!({"spec": {"unschedulable": true, "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}),
    );
    let tolerations = json!([
        {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "k", "value": "v"},
    ]);
    let bearing = pod("p", json!({"spec": {"tolerations": tolerations}}));
    assert_eq!(place(&empty(vec![shut]), bearing), "a");
}

#[test]
fn a_host_port_is_taken_once_for_each_node() {
    let with = |name: &str, port: Value| {
        pod(name, json!({"spec": {"containers": [{"name": "c", "ports": [port]}]}}))
    };
    let tcp = |name| with(name, json!({"containerPort": 80, "hostPort": 8080}));
    let nodes = empty(vec![node("a", json!({})), node("b", json!({}))]);
    assert_eq!(
        places(&nodes, &[tcp("1"), tcp("2"), tcp("3")]),
        ["a", "b", "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports."]
    );
    let one = empty(vec![node("a", json!({}))]);
    let udp = with("u", json!({"containerPort": 80, "hostPort": 8080, "protocol": "UDP"}));
    assert_eq!(places(&one, &[tcp("1"), udp]), ["a", "a"]);
    let at = |name, ip: &str| with(name, json!({"containerPort": 80, "hostPort": 8080, "hostIP": ip}));
    assert_eq!(places(&one, &[at("1", "10.0.0.1"), at("2", "10.0.0.2")]), ["a", "a"]);
    assert!(places(&one, &[at("1", "10.0.0.1"), at("2", "0.0.0.0")])[1].contains("free ports"));
}

#[test]
fn pods_of_one_controller_are_spread_before_room_counts() {
    let owner =
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]);
    let replica = |name: &str| pod(name, json!({"metadata": {"ownerReferences": owner}}));
    // Node b is nearly full, and still gets its share.
    let heavy = pod("heavy", asks(json!({"cpu": "1500m", "memory": "900Mi"})));
    let nodes = snapshot(vec![(node("a", json!({})), vec![]), (node("b", json!({})), vec![heavy])]);
    assert_eq!(
        places(&nodes, &[replica("1"), replica("2"), replica("3"), replica("4")]),
        ["a", "b", "a", "b"]
    );
    // One that is going does not push its replacement away.
    let mut going =
        json!({"metadata": {"ownerReferences": owner, "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    merge(&mut going, asks(json!({"cpu": "10m"})));
    let other = replica("old-b");
    let nodes = snapshot(vec![
        (node("a", json!({})), vec![pod("old-a", going)]),
        (node("b", json!({})), vec![other]),
    ]);
    assert_eq!(place(&nodes, replica("new")), "a");
}

#[test]
fn pods_of_one_service_are_spread_over_controllers() {
    let web = |name: &str| pod(name, json!({"metadata": {"labels": {"app": "web"}}}));
    let heavy = pod("heavy", asks(json!({"cpu": "1500m"})));
    let mut nodes =
        snapshot(vec![(node("a", json!({})), vec![web("old")]), (node("b", json!({})), vec![heavy])]);
    assert_eq!(place(&nodes, web("new")), "a", "without a Service, room decides");
    let service = json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": {"selector": {"app": "web"}}});
    nodes.services = vec![Arc::new(ServiceView::new(&serde_json::from_value(service).unwrap()).unwrap())];
    assert_eq!(place(&nodes, web("new")), "b");
}

#[test]
fn room_decides_between_equals_and_wishes_go_before() {
    let nodes = snapshot(vec![
        (node("a", json!({})), vec![pod("1", asks(json!({"cpu": "1"})))]),
        (node("b", json!({"metadata": {"labels": {"kind": "spare"}}})), vec![]),
        (node("c", json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}})), vec![]),
    ]);
    assert_eq!(place(&nodes, pod("p", json!({}))), "b");
    let wish = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 10, "preference": {"matchExpressions": [{"key": "kind", "operator": "NotIn", "values": ["spare"]}]}},
    ]}}}});
    assert_eq!(place(&nodes, pod("p", wish)), "a");
}

#[test]
fn affinity_keeps_together_and_anti_affinity_apart() {
    let term =
        json!([{"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "kubernetes.io/hostname"}]);
    let labels = json!({"labels": {"app": "x"}});
    let with = |name: &str, kind: &str| {
        let affinity = json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": term}});
        pod(name, json!({"metadata": labels, "spec": {"affinity": affinity}}))
    };
    let nodes = empty(vec![node("a", json!({})), node("b", json!({}))]);
    let apart = ["1", "2", "3"].map(|name| with(name, "podAntiAffinity"));
    assert_eq!(
        places(&nodes, &apart),
        ["a", "b", "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."]
    );
    // Those that are there keep others out, too.
    let plain = pod("plain", json!({"metadata": labels}));
    let there = snapshot(vec![(node("a", json!({})), vec![with("1", "podAntiAffinity")])]);
    assert_eq!(
        place(&there, plain),
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."
    );
    // The first of a series starts anywhere, the others follow it.
    let together = ["1", "2", "3"].map(|name| with(name, "podAffinity"));
    assert_eq!(places(&nodes, &together), ["a", "a", "a"]);
    let stranger = pod(
        "s",
        json!({"spec": {"affinity": {"podAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": term}}}}),
    );
    assert_eq!(
        place(&nodes, stranger),
        "0/2 nodes are available: 2 node(s) didn't match pod affinity rules."
    );
}

#[test]
fn pod_affinity_stays_in_its_namespaces() {
    let term = |more: Value| {
        let mut term =
            json!({"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "kubernetes.io/hostname"});
        merge(&mut term, more);
        let affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        pod("p", json!({"spec": {"affinity": affinity}}))
    };
    let other = pod("o", json!({"metadata": {"namespace": "other", "labels": {"app": "x"}}}));
    let mut nodes = snapshot(vec![(node("a", json!({})), vec![other])]);
    nodes.namespaces.insert("other".into(), [("team".to_owned(), "blue".to_owned())].into());
    assert_eq!(place(&nodes, term(json!({}))), "a");
    assert_ne!(place(&nodes, term(json!({"namespaces": ["other"]}))), "a");
    assert_ne!(place(&nodes, term(json!({"namespaceSelector": {"matchLabels": {"team": "blue"}}}))), "a");
    assert_ne!(place(&nodes, term(json!({"namespaceSelector": {}}))), "a");
    assert_eq!(place(&nodes, term(json!({"namespaceSelector": {"matchLabels": {"team": "red"}}}))), "a");
}

/// A node that a Pod without words of its own cannot be on, by construction.
#[derive(Clone, Debug)]
struct Made {
    cpu: i64,
    pods: i64,
    shut: bool,
    group: u8,
}

/// What a Pod asks for: CPU in thousandths, a group of nodes, and whether it bears closed ones.
type Asked = (i64, Option<u8>, bool);

fn world() -> impl Strategy<Value = (Vec<Made>, Vec<Asked>)> {
    let node = (0..3000_i64, 0..6_i64, prop::bool::weighted(0.25), 0..3_u8)
        .prop_map(|(cpu, pods, shut, group)| Made { cpu, pods, shut, group });
    let pod = (0..1200_i64, prop::option::of(0..3_u8), prop::bool::weighted(0.2));
    (prop::collection::vec(node, 0..6), prop::collection::vec(pod, 0..24))
}

fn build(nodes: &[Made], pods: &[Asked]) -> (Snapshot, Vec<Arc<PodView>>) {
    let nodes = nodes.iter().enumerate().map(|(number, made)| {
        let taints = if made.shut { json!([{"key": "shut", "effect": "NoSchedule"}]) } else { json!([]) };
        node(
            &format!("n{number}"),
            json!({
                "metadata": {"labels": {"group": made.group.to_string()}},
                "spec": {"taints": taints},
                "status": {"allocatable": {"cpu": format!("{}m", made.cpu), "pods": made.pods.to_string()}},
            }),
        )
    });
    let pods = pods.iter().enumerate().map(|(number, (cpu, group, bears))| {
        let mut more = asks(json!({"cpu": format!("{cpu}m")}));
        if let Some(group) = group {
            merge(&mut more, json!({"spec": {"nodeSelector": {"group": group.to_string()}}}));
        }
        if *bears {
            merge(&mut more, json!({"spec": {"tolerations": [{"key": "shut", "operator": "Exists"}]}}));
        }
        pod(&format!("p{number}"), more)
    });
    (empty(nodes.collect()), pods.collect())
}

proptest! {
    #[test]
    fn never_past_capacity_never_where_excluded_and_never_idle_while_there_is_room((nodes, pods) in world()) {
        let (snapshot, pending) = build(&nodes, &pods);
        let decisions = plan(&snapshot, &pending);
        prop_assert_eq!(&decisions, &plan(&snapshot, &pending), "the same again");
        prop_assert_eq!(decisions.len(), pending.len());
        let mut used: HashMap<String, (i64, i64)> = HashMap::new();
        for ((decision, view), (cpu, group, bears)) in decisions.iter().zip(&pending).zip(&pods) {
            prop_assert_eq!(&decision.pod, &view.key);
            let fits = |number: usize, made: &Made| {
                let (cpu_used, pods_used) = used.get(&format!("n{number}")).copied().unwrap_or_default();
                (*cpu == 0 || cpu_used + cpu <= made.cpu)
                    && pods_used < made.pods
                    && (*bears || !made.shut)
                    && group.is_none_or(|group| group == made.group)
            };
            match &decision.outcome {
                Outcome::Bind { node } => {
                    let number: usize = node[1..].parse().unwrap();
                    prop_assert!(fits(number, &nodes[number]), "{} does not fit {node}", view.key);
                    let used = used.entry(node.clone()).or_default();
                    *used = (used.0 + cpu, used.1 + 1);
                }
                Outcome::Unschedulable { message } => {
                    let room = nodes.iter().enumerate().find(|(number, made)| fits(*number, made));
                    prop_assert!(room.is_none(), "{} fits {room:?}, but: {message}", view.key);
                }
            }
        }
    }

    #[test]
    fn equal_replicas_differ_by_one_at_most(count in 0..40_usize, nodes in 1..5_usize) {
        let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]);
        let pending: Vec<_> =
            (0..count).map(|n| pod(&n.to_string(), json!({"metadata": {"ownerReferences": owner}}))).collect();
        let big = json!({"status": {"allocatable": {"pods": "110"}}});
        let snapshot = empty((0..nodes).map(|n| node(&format!("n{n}"), big.clone())).collect());
        let mut counts = vec![0_usize; nodes];
        for place in places(&snapshot, &pending) {
            counts[place[1..].parse::<usize>().unwrap()] += 1;
        }
        prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
    }
}
