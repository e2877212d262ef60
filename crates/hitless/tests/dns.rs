//! Names, as Pods and nodes ask for them, and traffic by the name of a headless Service while its Pods come and go.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use common::{Cluster, Space, is_ready, items, tools, until};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use hitless_drivers::node::netns;
use serde_json::{Value, json};

#[test]
fn dns() {
    let cluster = Cluster::up("dns");
    cluster.steps(
        3,
        &[
            ("a_rollout_of_a_headless_service", a_rollout_of_a_headless_service),
            ("names_from_a_pod", names_from_a_pod),
            ("names_from_a_node", names_from_a_node),
            ("without_records_nothing_settles", without_records_nothing_settles),
            ("what_users_see_of_it", what_users_see_of_it),
        ],
    );
}

/// A headless Service of the Pods with the label `name: app`.
fn headless(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"clusterIP": "None", "selector": {"name": "app"}, "ports": [{"name": "http", "port": 3000}]},
    })
}

/// Until it is told to stop.
const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

/// Pods with a resolver's configuration of each sort, in which the machine's own programs run.
fn clients(space: &Space) {
    let alone = json!({"dnsPolicy": "None", "dnsConfig": {
        "nameservers": [dns_address(space)], "searches": ["svc.cluster.local"], "options": [{"name": "ndots", "value": "2"}],
    }});
    let of_the_node = json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"});
    let all = [
        ("client", json!({"dnsConfig": {"searches": ["more.example"], "options": [{"name": "edns0"}]}})),
        ("of-the-node", of_the_node),
        ("alone", alone),
        ("as-the-node", json!({"dnsPolicy": "Default"})),
    ];
    for (name, spec) in all {
        tools::pod(space, name, FOREVER, spec);
    }
    for name in ["client", "of-the-node", "alone", "as-the-node"] {
        space.ready(name);
    }
}

/// Looks a name up in a Pod: name, time to live and address of each record, by address.
fn resolve(space: &Space, pod: &str, name: &str) -> Vec<Vec<String>> {
    let found = space.kubectl.ok(&["exec", pod, "--", "/web", "resolve", name]);
    let words = |line: &str| line.split(' ').map(str::to_owned).collect();
    let mut lines: Vec<Vec<String>> = found.lines().map(words).collect();
    lines.sort_by(|a, b| a[2].cmp(&b[2]));
    lines
}

fn names_from_a_pod(space: &Space) {
    let kubectl = &space.kubectl;
    let namespace = &kubectl.namespace;
    space.apply(&format!("{}\n{}\n{}", common::app(2, json!({})), headless("direct"), json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "alias"},
        "spec": {"type": "ExternalName", "externalName": format!("my-service.{namespace}.svc.cluster.local")},
    })));
    let named = json!({"hostname": "db-0", "subdomain": "direct", "setHostnameAsFQDN": true});
    space.pod("named", &["serve", "--port", "3000"], json!({}), named);
    kubectl.ok(&["label", "pod", "named", "name=app", "--overwrite"]);
    clients(space);
    space.ready("named");
    let pods = kubectl.until("three Pods are ready", &["pods", "-l", "name=app"], |pods| {
        pods.len() == 3 && pods.iter().all(is_ready)
    });
    let mut wanted: Vec<&str> = pods.iter().map(|pod| pod["status"]["podIP"].as_str().unwrap()).collect();
    wanted.sort_unstable();
    let service = kubectl.json(&["get", "service", "my-service"]);
    let cluster_ip = service["spec"]["clusterIP"].as_str().unwrap();
    let whole = format!("my-service.{namespace}.svc.cluster.local");
    assert_eq!(resolve(space, "client", "my-service"), [[&whole, "5", cluster_ip]]);
    let by_the_c_library = kubectl.ok(&["exec", "client", "--", "getent", "ahostsv4", "my-service"]);
    assert_eq!(by_the_c_library.split_whitespace().next(), Some(cluster_ip), "{by_the_c_library}");
    let alias = resolve(space, "client", "alias");
    assert_eq!(alias, [[&format!("alias.{namespace}.svc.cluster.local"), "5", cluster_ip]]);
    // The Pod that was labelled last may have to come into the records yet.
    until("all Pods are in the records", || {
        let found =
            ask(space, "node-1", &format!("direct.{namespace}.svc.cluster.local."), RecordType::A, false);
        (found.answers.len() == 3).then_some(())
    });
    let direct = resolve(space, "client", &format!("direct.{namespace}"));
    assert_eq!(direct.iter().map(|line| line[2].as_str()).collect::<Vec<_>>(), wanted);
    let one = resolve(space, "client", "db-0.direct");
    let address = kubectl.json(&["get", "pod", "named"])["status"]["podIP"].clone();
    let name_of_one = format!("db-0.direct.{namespace}.svc.cluster.local");
    assert_eq!(one, [[&name_of_one, "5", address.as_str().unwrap()]]);
    let missing = kubectl.refused(&["exec", "client", "--", "/web", "resolve", "no-such-service"]);
    assert!(missing.contains("no such name"), "{missing}");
    for pod in ["of-the-node", "alone"] {
        let name = format!("my-service.{namespace}");
        assert_eq!(resolve(space, pod, &name), [[&whole, "5", cluster_ip]], "{pod}");
    }
    resolvers_of_pods(space);
}

/// What each sort of Pod finds in `/etc/resolv.conf`.
fn resolvers_of_pods(space: &Space) {
    let of_the_machine = std::fs::read_to_string("/etc/resolv.conf").unwrap();
    let lines = |text: &str, key: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with(key)).map(str::to_owned).collect()
    };
    let inside = |pod: &str| space.kubectl.ok(&["exec", pod, "--", "cat", "/etc/resolv.conf"]);
    let (dns, namespace) = (dns_address(space), &space.kubectl.namespace);
    let client = inside("client");
    assert_eq!(lines(&client, "nameserver"), [format!("nameserver {dns}")]);
    assert_eq!(lines(&client, "options"), ["options ndots:5 edns0"]);
    let search = lines(&client, "search").concat();
    let first = format!("search {namespace}.svc.cluster.local svc.cluster.local cluster.local");
    assert!(search.starts_with(&first) && search.ends_with(" more.example"), "{client}");
    let alone = inside("alone");
    assert_eq!(alone.trim(), format!("search svc.cluster.local\nnameserver {dns}\noptions ndots:2"));
    let as_the_node = inside("as-the-node");
    assert_eq!(lines(&as_the_node, "nameserver"), lines(&of_the_machine, "nameserver"));
}

/// Where the cluster's names are asked for.
fn dns_address(space: &Space) -> IpAddr {
    let dns = space.kubectl.json(&["get", "service", "kube-dns", "-n", "kube-system"]);
    dns["spec"]["clusterIP"].as_str().unwrap().parse().unwrap()
}

/// Asks the node's server, from its own network.
fn ask(space: &Space, node: &str, name: &str, type_: RecordType, tcp: bool) -> Message {
    let server = SocketAddr::new(dns_address(space), 53);
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), type_));
    let packet = message.to_vec().unwrap();
    let answer = netns::inside(&format!("hitless.{}.{node}", space.home.name), || {
        if tcp { over_tcp(server, &packet) } else { over_udp(server, &packet) }
    });
    let answer = answer.unwrap().unwrap_or_else(|error| panic!("{server} on {node}: {error}"));
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, 4711);
    answer
}

fn over_udp(server: SocketAddr, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect(server)?;
    socket.send(packet)?;
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn over_tcp(server: SocketAddr, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&u16::try_from(packet.len()).unwrap().to_be_bytes())?;
    stream.write_all(packet)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn names_from_a_node(space: &Space) {
    let api = "kubernetes.default.svc.cluster.local.";
    let wanted =
        space.kubectl.json(&["get", "service", "kubernetes", "-n", "default"])["spec"]["clusterIP"].clone();
    for node in ["node-1", "node-2"] {
        for tcp in [false, true] {
            let answer = ask(space, node, api, RecordType::A, tcp);
            let shown: Vec<_> = answer.answers.iter().map(|r| format!("{} {}", r.ttl, r.data)).collect();
            assert_eq!(shown, [format!("5 {}", wanted.as_str().unwrap())]);
        }
    }
    let port = format!("_https._tcp.{api}");
    assert_eq!(
        ask(space, "node-1", &port, RecordType::SRV, false).answers[0].data.to_string(),
        format!("0 100 443 {api}")
    );
    let mut parts: Vec<&str> = wanted.as_str().unwrap().split('.').collect();
    parts.reverse();
    let back = format!("{}.in-addr.arpa.", parts.join("."));
    assert_eq!(ask(space, "node-1", &back, RecordType::PTR, false).answers[0].data.to_string(), api);
    let none = ask(space, "node-1", "nothing.default.svc.cluster.local.", RecordType::A, false);
    assert_eq!(none.metadata.response_code.to_string(), "Non-Existent Domain");
    assert_eq!(none.authorities[0].record_type(), RecordType::SOA);
}

/// The generator resolves the name as often as its records' time to live asks for, and connects anew for each request.
fn a_rollout_of_a_headless_service(space: &Space) {
    let kubectl = &space.kubectl;
    space.apply(&format!("{}\n{}", common::deployment(3, json!({})), headless("direct")));
    kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
    let load = ["load", "--target", "direct:3000", "--mode", "new", "--rate", "100", "--duration", "600"];
    space.pod("load", &load, json!({}), json!({"restartPolicy": "Never"}));
    until("requests are answered", || (sent(space)?.0 > 50).then_some(()));
    let old = kubectl.names(&["pods", "-l", "name=app"]);
    kubectl.ok(&["rollout", "restart", "deployment/app"]);
    kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=90s"]);
    kubectl.until("only new Pods are left", &["pods", "-l", "name=app"], |pods| {
        pods.len() == 3 && !pods.iter().any(|pod| old.iter().any(|name| pod["metadata"]["name"] == **name))
    });
    let (before, _) = sent(space).unwrap();
    // A client that holds a record for its whole life still has to find somebody there.
    until("requests after the last Pod", || (sent(space)?.0 > before + 600).then_some(()));
    let (answered, failed) = sent(space).unwrap();
    assert_eq!(failed, 0, "{answered} answered\n{}", kubectl.ok(&["logs", "load"]));

    let mut trace = Command::new(common::HITLESS);
    trace
        .args(["trace", &format!("pod/{}", old[0]), "-n", &kubectl.namespace, "--kubeconfig"])
        .arg(&kubectl.kubeconfig);
    let text = common::run(&mut trace).succeeded().stdout;
    let settled =
        text.lines().filter(|line| line.contains("dns-node-") && line.contains("settled, ")).count();
    assert_eq!(settled, 2, "{text}");
    let waited = stop_ms(space, &old[0]);
    assert!((5_000.0..15_000.0).contains(&waited), "{waited} ms\n{text}");
}

/// Answered and failed so far, as the generator says.
fn sent(space: &Space) -> Option<(u64, u64)> {
    let log = space.kubectl.run(&["logs", "load"]);
    let last = log.stdout.lines().rev().find_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        Some((line["ok"].as_u64()?, line["failed"].as_u64()?))
    });
    last.filter(|_| log.ok)
}

/// Milliseconds from a Pod's deletion to its stop signal.
fn stop_ms(space: &Space, pod: &str) -> f64 {
    let selector = format!("involvedObject.name={pod}");
    let events = space.kubectl.json(&["get", "events", "--field-selector", &selector]);
    let killing = items(&events).into_iter().find(|event| event["reason"] == "Killing").unwrap();
    let at = |text: &Value| text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let deleted = at(&killing["metadata"]["annotations"]["hitless.dev/deleted-at"]);
    at(&killing["eventTime"]).duration_since(deleted).as_secs_f64() * 1e3
}

/// A Pod of Services with cluster IPs alone does not wait for clients that might have kept its address: none has got it.
fn without_records_nothing_settles(space: &Space) {
    let kubectl = &space.kubectl;
    space.apply(&common::app(2, json!({})));
    kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
    let pod = kubectl.names(&["pods", "-l", "name=app"]).remove(0);
    let began = Instant::now();
    kubectl.ok(&["delete", "pod", &pod]);
    let (waited, took) = (stop_ms(space, &pod), began.elapsed());
    assert!(waited < 2_500.0, "{waited} ms of {took:?}");
}

fn what_users_see_of_it(space: &Space) {
    let kubectl = &space.kubectl;
    let shown = kubectl.ok(&["get", "service", "kube-dns", "-n", "kube-system", "--no-headers"]);
    assert!(shown.contains("53/UDP,53/TCP"), "{shown}");
    let consumers = kubectl.ok(&["get", "endpointconsumers", "-o", "wide"]);
    let line = consumers.lines().find(|line| line.starts_with("dns-node-1")).unwrap_or_default();
    for word in ["DNS", "node-1", "Proven", "5000ms Headless"] {
        assert!(line.contains(word), "{consumers}");
    }
    let wrong = kubectl.refused(&[
        "patch",
        "endpointconsumer",
        "dns-node-1",
        "--type=merge",
        "-p",
        r#"{"spec":{"settleScope":"Some"}}"#,
    ]);
    assert!(wrong.contains(r#"supported values: "All", "Headless""#), "{wrong}");
}
