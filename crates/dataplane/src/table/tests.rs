//! The table's rules on objects as the API gives them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::program::{Front, Protocol};

fn service(name: &str, ip: &str, port: u16) -> TableChange {
    let service = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "ns", "resourceVersion": "1"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "web", "port": port, "targetPort": 3000}]}
    }))
    .unwrap();
    TableChange::of_service(Change::Applied(service)).unwrap()
}

/// Endpoints by letters: `r` ready, `n` not ready, `s` terminating and serving, `t` terminating and no longer serving,
/// `p` terminating but published as ready, `-` no conditions at all.
fn slice(name: &str, service: &str, revision: u64, states: &str) -> TableChange {
    let endpoints: Vec<_> = states
        .chars()
        .enumerate()
        .map(|(i, state)| {
            let conditions = match state {
                'r' => json!({"ready": true, "serving": true, "terminating": false}),
                'n' => json!({"ready": false, "serving": false, "terminating": false}),
                's' => json!({"ready": false, "serving": true, "terminating": true}),
                't' => json!({"ready": false, "serving": false, "terminating": true}),
                'p' => json!({"ready": true, "serving": false, "terminating": true}),
                _ => json!({}),
            };
            json!({"addresses": [format!("10.1.0.{i}")], "conditions": conditions})
        })
        .collect();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "ns", "resourceVersion": revision.to_string(),
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "web", "port": 3000, "protocol": "TCP"}],
        "endpoints": endpoints,
    }))
    .unwrap();
    TableChange::of_slice(Change::Applied(slice), "n1")
}

fn port(ip: &str, port: u16) -> ServicePort {
    ServicePort::at(ip.parse().unwrap(), Protocol::Tcp, port)
}

fn last_bytes(routing: Option<Routing>) -> Option<Vec<u8>> {
    routing.map(|r| r.endpoints.iter().map(|e| e.address.octets()[3]).collect())
}

#[test]
fn conditions_count_as_kep_1669_says() {
    for (states, expected) in [
        ("rnrst", vec![0, 2]),
        ("nst", vec![1]),
        ("nnt", vec![]),
        ("-n", vec![0]),
        ("pt", vec![0]),
        ("sp", vec![1]),
        ("", vec![]),
    ] {
        let mut table = EndpointTable::new();
        table.take(service("a", "10.96.0.1", 80));
        table.take(slice("a-1", "a", 7, states));
        assert_eq!(last_bytes(table.routing(port("10.96.0.1", 80))), Some(expected), "{states}");
    }
}

/// A Service with this over its spec, and a slice of its port `web`; endpoints by letters as above, those in capitals on node `n1`.
fn policied(spec: Value, states: &str) -> EndpointTable {
    let mut object = json!({
        "metadata": {"name": "a", "namespace": "ns", "resourceVersion": "1"},
        "spec": {"type": "NodePort", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [
            {"name": "web", "port": 80, "nodePort": 30080}, {"name": "admin", "port": 81, "nodePort": 30081}]},
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    let mut table = EndpointTable::new();
    table.take(TableChange::of_service(Change::Applied(serde_json::from_value(object).unwrap())).unwrap());
    let TableChange::SliceApplied(mut slice, revision) = slice("a-1", "a", 7, &states.to_lowercase()) else {
        panic!("no slice");
    };
    for (endpoint, state) in slice.endpoints.iter_mut().zip(states.chars()) {
        endpoint.local = state.is_uppercase();
    }
    table.take(TableChange::SliceApplied(slice, revision));
    table
}

fn node_port(front: Front, port: u16) -> ServicePort {
    ServicePort { front, protocol: Protocol::Tcp, port }
}

#[test]
fn policies_choose_among_the_nodes_own_endpoints_by_the_same_rules() {
    let (inward, outward) =
        (json!({"internalTrafficPolicy": "Local"}), json!({"externalTrafficPolicy": "Local"}));
    let ip = port("10.96.0.1", 80);
    let (node, outside) = (node_port(Front::Node, 30_080), node_port(Front::NodeOutside, 30_080));
    // What the Local half of a Service gives, and whether it drops for want of an endpoint here.
    for (states, here, dropped) in [
        ("rRsS", vec![1], false),
        ("rsS", vec![2], false),
        ("rnN", vec![], true),
        ("sn", vec![], true),
        ("nN", vec![], false),
        ("", vec![], false),
    ] {
        for (table, local) in
            [(policied(inward.clone(), states), ip), (policied(outward.clone(), states), outside)]
        {
            let routing = table.routing(local).unwrap();
            assert_eq!(routing.elsewhere, dropped, "{states}");
            assert_eq!(last_bytes(Some(routing)), Some(here.clone()), "{states}");
        }
    }
    let table = policied(inward, "rR");
    assert_eq!(last_bytes(table.routing(node)), Some(vec![0, 1]), "a node port is not the inside");
    assert_eq!(table.routing(outside), None, "nothing is told apart");
    let table = policied(outward, "rR");
    assert_eq!(last_bytes(table.routing(ip)), Some(vec![0, 1]));
    assert_eq!(last_bytes(table.routing(node)), Some(vec![0, 1]), "from the node and its Pods");
}

#[test]
fn node_ports_go_by_the_name_of_their_port_and_only_where_the_type_has_them() {
    let mut table = policied(json!({}), "r");
    assert_eq!(last_bytes(table.routing(node_port(Front::Node, 30_080))), Some(vec![0]));
    assert_eq!(last_bytes(table.routing(node_port(Front::Node, 30_081))), Some(vec![]), "no slice has it");
    assert_eq!(table.take_dirty().len(), 4);
    let mut inward = policied(json!({"type": "ClusterIP"}), "r");
    assert_eq!(inward.take_dirty().len(), 2, "left over from another type");
}

#[test]
fn a_port_name_may_mean_another_number_on_each_pod() {
    let mut table = EndpointTable::new();
    table.take(service("a", "10.96.0.1", 80));
    table.take(slice("a-1", "a", 7, "r"));
    let TableChange::SliceApplied(mut other, revision) = slice("a-2", "a", 8, "nr") else {
        panic!("no slice")
    };
    other.ports[0].port = 4000;
    table.take(TableChange::SliceApplied(other, revision));
    let found = table.routing(port("10.96.0.1", 80)).unwrap().endpoints;
    assert_eq!(found.iter().map(|e| e.port).collect::<Vec<_>>(), [3000, 4000]);
}

#[test]
fn affinity_has_a_time_and_is_none_by_default() {
    let seconds = |spec| policied(spec, "r").routing(port("10.96.0.1", 80)).unwrap().affinity_s;
    assert_eq!(seconds(json!({})), None);
    assert_eq!(seconds(json!({"sessionAffinity": "ClientIP"})), Some(10_800));
    let config = json!({"clientIP": {"timeoutSeconds": 5}});
    assert_eq!(seconds(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config})), Some(5));
}

#[test]
fn the_fallback_to_terminating_ones_looks_at_all_slices_of_the_service() {
    let mut table = EndpointTable::new();
    table.take(service("a", "10.96.0.1", 80));
    table.take(slice("a-1", "a", 7, "s"));
    table.take(slice("a-2", "a", 8, "nr"));
    assert_eq!(last_bytes(table.routing(port("10.96.0.1", 80))), Some(vec![1]));
    table.take(slice("a-2", "a", 9, "nn"));
    assert_eq!(last_bytes(table.routing(port("10.96.0.1", 80))), Some(vec![0]));
    assert_eq!(table.revision(), Revision(9));
}

#[test]
fn what_is_dirty_is_what_changed_and_nothing_else() {
    let mut table = EndpointTable::new();
    table.take(service("a", "10.96.0.1", 80));
    table.take(service("b", "10.96.0.2", 80));
    assert_eq!(table.take_dirty().len(), 2);
    table.take(slice("a-1", "a", 7, "r"));
    let dirty = table.take_dirty();
    assert_eq!(dirty.keys().copied().collect::<Vec<_>>(), [port("10.96.0.1", 80)]);
    table.take(slice("a-1", "a", 8, "r"));
    assert!(table.take_dirty().is_empty(), "only the revision moved");
    assert_eq!(table.revision(), Revision(8));
    table.take(service("a", "10.96.0.1", 81));
    let dirty = table.take_dirty();
    assert_eq!(dirty.get(&port("10.96.0.1", 80)), Some(&None));
    assert_eq!(last_bytes(dirty.get(&port("10.96.0.1", 81)).cloned().flatten()), Some(vec![0]));
}

#[test]
fn an_address_that_moves_to_another_service_is_never_without_owner() {
    let mut table = EndpointTable::new();
    table.take(service("old", "10.96.0.1", 80));
    table.take(slice("old-1", "old", 3, "r"));
    table.take(slice("new-1", "new", 4, "nr"));
    // The new Service comes before word of the old one's deletion.
    table.take(service("new", "10.96.0.1", 80));
    table.take(TableChange::ServiceDeleted("ns/old".into()));
    assert_eq!(last_bytes(table.take_dirty().remove(&port("10.96.0.1", 80)).flatten()), Some(vec![1]));
}

#[test]
fn headless_external_and_foreign_things_are_left_out() {
    let mut table = EndpointTable::new();
    table.take(service("headless", "None", 80));
    let external = serde_json::from_value(json!({
        "metadata": {"name": "x", "namespace": "ns"},
        "spec": {"type": "ExternalName", "externalName": "example.org", "clusterIP": "10.96.0.9", "ports": [{"port": 80}]}
    }))
    .unwrap();
    table.take(TableChange::of_service(Change::Applied(external)).unwrap());
    assert!(table.take_dirty().is_empty());
}

#[test]
fn a_service_that_names_another_proxy_is_let_go_and_taken_back() {
    let service = |labels: Value| {
        let service = serde_json::from_value(json!({
            "metadata": {"name": "a", "namespace": "ns", "labels": labels},
            "spec": {"type": "NodePort", "clusterIP": "10.96.0.1", "ports": [{"port": 80, "nodePort": 30_080}]}
        }));
        TableChange::of_service(Change::Applied(service.unwrap())).unwrap()
    };
    let mut table = EndpointTable::new();
    table.take(slice("a-1", "a", 7, "r"));
    let both = [node_port(Front::Node, 30_080), port("10.96.0.1", 80)];
    for (labels, served) in [
        (json!({}), true),
        (json!({"service.kubernetes.io/service-proxy-name": ""}), false),
        (json!({"other": "label"}), true),
        (json!({"service.kubernetes.io/service-proxy-name": "mesh"}), false),
    ] {
        table.take(service(labels));
        let dirty = table.take_dirty();
        assert_eq!(dirty.keys().copied().collect::<BTreeSet<_>>(), BTreeSet::from(both));
        assert!(dirty.values().all(|routing| routing.is_some() == served), "{dirty:?}");
    }
}

#[test]
fn complete_only_after_both_lists_and_a_new_list_drops_what_it_does_not_name() {
    let mut table = EndpointTable::new();
    table.take(TableChange::SlicesListed(Vec::new(), Revision(5)));
    assert!(!table.is_complete());
    table.take(TableChange::ServicesListed(Vec::new()));
    assert!(table.is_complete());
    table.take(service("a", "10.96.0.1", 80));
    table.take(slice("a-1", "a", 7, "r"));
    table.take_dirty();
    table.take(TableChange::SlicesListed(Vec::new(), Revision(9)));
    assert_eq!(table.take_dirty(), BTreeMap::from([(port("10.96.0.1", 80), Some(Routing::default()))]));
    table.take(TableChange::ServicesListed(Vec::new()));
    assert_eq!(table.take_dirty(), BTreeMap::from([(port("10.96.0.1", 80), None)]));
}

fn steps() -> impl Strategy<Value = Vec<TableChange>> {
    let step = prop_oneof![
        (0_u8..3, 0_u8..2, 80_u16..82).prop_map(|(s, ip, p)| service(
            &format!("s{s}"),
            &format!("10.96.0.{ip}"),
            p
        )),
        (0_u8..3).prop_map(|s| TableChange::ServiceDeleted(format!("ns/s{s}"))),
        (0_u8..4, 0_u8..3, "[rnst-]{0,3}").prop_map(|(n, s, states)| slice(
            &format!("e{n}"),
            &format!("s{s}"),
            1,
            &states
        )),
        (0_u8..4).prop_map(|n| TableChange::SliceDeleted(format!("ns/e{n}"), Revision(1))),
    ];
    prop::collection::vec(step, 0..30)
}

proptest! {
    /// Following what is dirty, step by step, ends where looking at everything ends; and the order of a list does not matter.
    #[test]
    fn increments_add_up_to_the_level(steps in steps()) {
        let mut table = EndpointTable::new();
        let mut followed: BTreeMap<ServicePort, Routing> = BTreeMap::new();
        for step in steps {
            table.take(step);
            for (port, endpoints) in table.take_dirty() {
                match endpoints {
                    Some(endpoints) => followed.insert(port, endpoints),
                    None => followed.remove(&port),
                };
            }
        }
        let mut fresh = EndpointTable::new();
        let (mut services, slices): (Vec<_>, Vec<_>) = (table.services.values().cloned().collect(), table.slices.values().cloned().collect());
        services.reverse();
        fresh.take(TableChange::SlicesListed(slices, Revision(1)));
        fresh.take(TableChange::ServicesListed(services));
        let level: BTreeMap<_, _> = fresh.take_dirty().into_iter().filter_map(|(p, e)| Some((p, e?))).collect();
        prop_assert_eq!(followed, level);
    }
}
