//! Services as clients see them: node ports, traffic policies, affinity, terminating endpoints, UDP, the addresses that Pods see, many
//! endpoints, refusals, and what a restart of a node's agent does to connections.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use common::{Cluster, PATIENCE, Space, deployment, merge, service, tools, traffic, until};
use hitless_drivers::node::netns;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

#[test]
fn services() {
    let cluster = Cluster::up("proxy");
    cluster.steps(
        2,
        &[
            ("node_ports", node_ports),
            ("local_policies", local_policies),
            ("affinity_and_named_ports", affinity_and_named_ports),
            ("terminating_endpoints", terminating_endpoints),
            ("udp_flows", udp_flows),
            ("addresses_that_pods_see", addresses_that_pods_see),
            ("many_endpoints", many_endpoints),
            ("refusals", refusals),
        ],
    );
    // By itself: an agent ends in it.
    cluster.steps(1, &[("restart", restart)]);
}

/// The application with so many replicas and a Service with this over its spec; given are its cluster IP and its node port.
fn app(space: &Space, replicas: u32, pod: Value, over: Value) -> (String, String) {
    let mut workload = deployment(replicas, json!({}));
    merge(&mut workload["spec"]["template"]["spec"], pod);
    let mut front = service();
    merge(&mut front["spec"], over);
    space.apply(&format!("{workload}\n{front}"));
    space.kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
    let spec = space.kubectl.json(&["get", "service", "my-service"])["spec"].clone();
    (spec["clusterIP"].as_str().unwrap().to_owned(), spec["ports"][0]["nodePort"].to_string())
}

fn node_address(space: &Space, node: &str) -> String {
    let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
    space.kubectl.ok(&["get", "node", node, "-o", path])
}

fn node_ports(space: &Space) {
    let (_, port) = app(space, 2, json!({}), json!({"type": "NodePort"}));
    assert!((30_000..=32_767).contains(&port.parse::<u16>().unwrap()), "{port}");
    let pods: BTreeSet<_> = space.kubectl.names(&["pods"]).into_iter().collect();
    let cluster = &space.home.name;
    for node in ["node-1", "node-2"] {
        let target = format!("{}:{port}", node_address(space, node));
        let answered = (0..30).map(|i| match i % 3 {
            0 => traffic::get(cluster, "node-1", &target).unwrap(),
            1 => traffic::get(cluster, "node-2", &target).unwrap(),
            _ => traffic::get_from_outside(&target).unwrap(),
        });
        assert_eq!(answered.collect::<BTreeSet<_>>(), pods, "{target}");
    }
    // What Kubernetes refuses, in its words.
    for (wanted, words) in [
        (port.as_str(), "provided port is already allocated"),
        ("80", "provided port is not in the valid range. The range of valid ports is 30000-32767"),
    ] {
        let spec =
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": wanted.parse::<u16>().unwrap()}]});
        let other =
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "other"}, "spec": spec});
        let said = space.kubectl.with_input(&["apply", "-f", "-"], &other.to_string());
        let whole = format!("spec.ports[0].nodePort: Invalid value: {wanted}: {words}");
        assert!(!said.ok && said.all().contains(&whole), "{}", said.all());
    }
    // The port goes with the type, is free then, and refuses.
    space.kubectl.ok(&["patch", "service", "my-service", "-p", r#"{"spec": {"type": "ClusterIP"}}"#]);
    let spec = space.kubectl.json(&["get", "service", "my-service"])["spec"].clone();
    assert_eq!((&spec["ports"][0]["nodePort"], &spec["externalTrafficPolicy"]), (&Value::Null, &Value::Null));
    let target = format!("{}:{port}", node_address(space, "node-1"));
    until("the node port is gone", || {
        traffic::get_from_outside(&target).is_err_and(|error| error.contains("refused")).then_some(())
    });
    let again = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "again"}, "spec":
        {"type": "NodePort", "ports": [{"port": 80, "nodePort": port.parse::<u16>().unwrap()}]}});
    space.apply(&again.to_string());
}

fn local_policies(space: &Space) {
    let over =
        json!({"type": "NodePort", "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"});
    let (ip, port) = app(space, 1, json!({"nodeName": "node-1"}), over);
    let pod = space.kubectl.names(&["pods"])[0].clone();
    let cluster = &space.home.name;
    let here = format!("{}:{port}", node_address(space, "node-1"));
    let there = format!("{}:{port}", node_address(space, "node-2"));
    assert_eq!(traffic::get_from_outside(&here).as_ref(), Ok(&pod));
    let dropped = traffic::get_from_outside(&there).unwrap_err();
    assert!(!dropped.contains("refused"), "dropped, since another node serves it: {dropped}");
    assert_eq!(traffic::get(cluster, "node-2", &there).as_ref(), Ok(&pod), "the node's own may go anywhere");
    let inside = format!("{ip}:80");
    assert_eq!(traffic::get(cluster, "node-1", &inside).as_ref(), Ok(&pod));
    let dropped = traffic::get(cluster, "node-2", &inside).unwrap_err();
    assert!(!dropped.contains("refused"), "{dropped}");
}

fn affinity_and_named_ports(space: &Space) {
    let over = json!({"sessionAffinity": "ClientIP", "ports": [{"port": 80, "targetPort": "web"}]});
    let (ip, _) = app(space, 3, json!({}), json!({}));
    space.kubectl.ok(&["delete", "deployment", "app"]);
    space.kubectl.until("no Pods", &["pods", "-l", "name=app"], <[Value]>::is_empty);
    // The same name means another number on some Pods.
    let target = format!("{ip}:80");
    let mut front = service();
    merge(&mut front["spec"], over);
    space.apply(&front.to_string());
    let names: BTreeSet<String> = (0..3).map(|n| format!("web-{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        let number = 4000 + n;
        let mut pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"name": "app"}}});
        pod["spec"] = json!({"automountServiceAccountToken": false, "containers": [{
            "name": "web", "image": "hitless.dev/web:1", "args": ["serve", "--port", number.to_string()],
            "ports": [{"name": "web", "containerPort": number}]}]});
        space.apply(&pod.to_string());
    }
    for name in &names {
        space.ready(name);
        space.kubectl.ok(&[
            "wait",
            "--for=condition=hitless.dev/Programmed",
            &format!("pod/{name}"),
            "--timeout=60s",
        ]);
    }
    let cluster = &space.home.name;
    let stays = || {
        let seen: BTreeSet<_> = (0..15).map(|_| traffic::get(cluster, "node-1", &target).unwrap()).collect();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.into_iter().next().unwrap()
    };
    let first = stays();
    assert!(names.contains(&first), "{first}");
    space.kubectl.ok(&["delete", "pod", &first]);
    let second = stays();
    assert_ne!(first, second);
    // Whoever stays away for longer than the time may get to another.
    let short = r#"{"spec": {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}}"#;
    space.kubectl.ok(&["patch", "service", "my-service", "-p", short]);
    until("a client's time runs out", || {
        std::thread::sleep(Duration::from_millis(1300));
        (traffic::get(cluster, "node-1", &target).unwrap() != second).then_some(())
    });
    stays();
    // Without affinity all are reached, each at its own number.
    space.kubectl.ok(&["patch", "service", "my-service", "-p", r#"{"spec": {"sessionAffinity": "None"}}"#]);
    until("every Pod that is left answers", || {
        let seen: BTreeSet<_> =
            (0..20).filter_map(|_| traffic::get(cluster, "node-1", &target).ok()).collect();
        (seen.len() == 2).then_some(())
    });
    let config = r#"{"spec": {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}}"#;
    let refused = space.kubectl.refused(&["patch", "service", "my-service", "-p", config]);
    assert!(
        refused.contains("timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400"),
        "{refused}"
    );
}

fn refusals(space: &Space) {
    let (ip, port) = app(space, 1, json!({}), json!({"type": "NodePort"}));
    let cluster = &space.home.name;
    let targets = [format!("{ip}:80"), format!("{}:{port}", node_address(space, "node-1"))];
    for target in &targets {
        traffic::get(cluster, "node-1", target).unwrap();
    }
    space.kubectl.ok(&["scale", "deployment/app", "--replicas=0"]);
    space.kubectl.until("no Pods", &["pods", "-l", "name=app"], <[Value]>::is_empty);
    for target in &targets {
        let began = std::time::Instant::now();
        let refused = traffic::get(cluster, "node-1", target).unwrap_err();
        assert!(refused.contains("refused"), "{target}: {refused}");
        assert!(began.elapsed() < Duration::from_secs(1), "refused at once");
    }
    // Another proxy's business.
    let refuses =
        || traffic::get(cluster, "node-1", &targets[0]).is_err_and(|error| error.contains("refused"));
    space.kubectl.ok(&["label", "service", "my-service", "service.kubernetes.io/service-proxy-name=other"]);
    until("it is let go", || (!refuses()).then_some(()));
    space.kubectl.ok(&["label", "service", "my-service", "service.kubernetes.io/service-proxy-name-"]);
    until("it is taken back", || refuses().then_some(()));
}

/// A Pod with the label `name: app` on a node, with the machine's tools; Ready, and every proxy knows it.
fn pod(space: &Space, name: &str, node: &str, container: Value) {
    let mut base = tools::container("web", "");
    merge(&mut base, container);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"name": "app"}},
        "spec": {
            "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 60, "nodeName": node,
            "containers": [base], "volumes": tools::volumes().0,
        },
    });
    space.apply(&pod.to_string());
    space.ready(name);
    condition(space, name, "Programmed");
}

fn condition(space: &Space, pod: &str, condition: &str) {
    let what = format!("--for=condition=hitless.dev/{condition}");
    space.kubectl.ok(&["wait", &what, &format!("pod/{pod}"), "--timeout=60s"]);
}

/// Takes a Pod away that would stay for the rest of its grace period.
fn take_away(space: &Space, pod: &str) {
    space.kubectl.ok(&["delete", "pod", pod, "--force", "--grace-period=0", "--wait=false"]);
}

fn apply_service(space: &Space, over: Value) -> (String, String) {
    let mut front = service();
    merge(&mut front["spec"], over);
    space.apply(&front.to_string());
    let spec = space.kubectl.json(&["get", "service", "my-service"])["spec"].clone();
    (spec["clusterIP"].as_str().unwrap().to_owned(), spec["ports"][0]["nodePort"].to_string())
}

fn terminating_endpoints(space: &Space) {
    let server = json!({
        "command": ["/web", "serve", "--port", "3000", "--on-term", "slow=50"],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 3000}, "periodSeconds": 1},
    });
    let (ip, port) = apply_service(space, json!({"type": "NodePort", "externalTrafficPolicy": "Local"}));
    pod(space, "first", "node-1", server.clone());
    let cluster = &space.home.name;
    let (inside, outside) = (format!("{ip}:80"), format!("{}:{port}", node_address(space, "node-1")));
    let answers = |node: &str| -> BTreeSet<String> {
        (0..10).map(|_| traffic::get(cluster, node, &inside).unwrap()).collect()
    };
    let outside =
        || -> BTreeSet<String> { (0..10).map(|_| traffic::get_from_outside(&outside).unwrap()).collect() };
    let only = |name: &str| BTreeSet::from([name.to_owned()]);
    space.kubectl.ok(&["delete", "pod", "first", "--wait=false"]);
    condition(space, "first", "Withdrawn");
    // There is no other: whoever terminates and still serves goes on.
    assert_eq!(
        (answers("node-1"), answers("node-2"), outside()),
        (only("first"), only("first"), only("first"))
    );
    pod(space, "second", "node-2", server);
    // Now there is, but for clients from outside, whom policy leads to this node only.
    assert_eq!(
        (answers("node-1"), answers("node-2"), outside()),
        (only("second"), only("second"), only("first"))
    );
    ["first", "second"].iter().for_each(|name| take_away(space, name));
}

/// Answers each datagram and each connection with its own name, the client's address and what a datagram said.
const ECHO: &str = r#"exec perl -MIO::Socket::INET -MIO::Select -e '
    $udp = IO::Socket::INET->new(LocalPort => 5300, Proto => "udp") or die $!;
    $tcp = IO::Socket::INET->new(LocalPort => 5300, Proto => "tcp", Listen => 64, ReuseAddr => 1) or die $!;
    $both = IO::Select->new($udp, $tcp);
    while (1) { for $ready ($both->can_read) {
        if ($ready == $udp) {
            $udp->recv($said, 512);
            $udp->send("$ENV{HOSTNAME} " . $udp->peerhost . " $said");
        } elsif ($client = $tcp->accept) {
            print $client "$ENV{HOSTNAME} " . $client->peerhost . "\n";
            close $client;
        }
    } }'"#;

fn echo(space: &Space, name: &str, node: &str) {
    let probe = json!({"tcpSocket": {"port": 5300}, "periodSeconds": 1});
    pod(space, name, node, json!({"command": ["/bin/sh", "-c", ECHO], "readinessProbe": probe}));
}

/// Port 7 of a Service, TCP and UDP: its cluster IP and its node port.
fn echo_service(space: &Space) -> (SocketAddr, u16) {
    let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "port": 7, "targetPort": 5300, "protocol": protocol});
    let (ip, port) = apply_service(space, json!({"type": "NodePort", "ports": [port("TCP"), port("UDP")]}));
    let spec = space.kubectl.json(&["get", "service", "my-service"])["spec"].clone();
    assert_eq!(spec["ports"][1]["nodePort"].to_string(), port, "one number for both protocols");
    (format!("{ip}:7").parse().unwrap(), port.parse().unwrap())
}

/// In a node's network, or in the machine's own, which is outside.
fn inside<T: Send>(space: &Space, node: Option<&str>, work: impl FnOnce() -> T + Send) -> T {
    match node {
        Some(node) => netns::inside(&format!("hitless.{}.{node}", space.home.name), work).unwrap(),
        None => work(),
    }
}

/// A client that sends all its datagrams from one port.
struct Client(UdpSocket);

impl Client {
    fn new(space: &Space, node: Option<&str>, to: SocketAddr) -> Self {
        let socket = inside(space, node, || UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        Self(socket)
    }

    /// Who answers, and whom he saw. A datagram may be lost, so it is sent again; `n` tells late answers from those to this question.
    fn ask(&self, n: u32) -> (String, IpAddr) {
        let end = Instant::now() + PATIENCE;
        let mut answer = [0; 512];
        while Instant::now() < end {
            self.0.send(n.to_string().as_bytes()).unwrap();
            while let Ok(length) = self.0.recv(&mut answer) {
                let answer = std::str::from_utf8(&answer[..length]).unwrap();
                let words: Vec<&str> = answer.split(' ').collect();
                if words[2] == n.to_string() {
                    return (words[0].to_owned(), words[1].parse().unwrap());
                }
            }
        }
        panic!("no answer to datagram {n}");
    }
}

fn udp_flows(space: &Space) {
    let (ip, port) = echo_service(space);
    echo(space, "first", "node-1");
    echo(space, "second", "node-2");
    let node: SocketAddr = format!("{}:{port}", node_address(space, "node-1")).parse().unwrap();
    let clients: Vec<Client> =
        (0..20)
            .map(|n| {
                if n % 2 == 0 {
                    Client::new(space, Some("node-1"), ip)
                } else {
                    Client::new(space, None, node)
                }
            })
            .collect();
    let ask = |n| -> Vec<String> { clients.iter().map(|client| client.ask(n).0).collect() };
    let before = ask(1);
    for (way, what) in ["the cluster IP", "the node port"].iter().enumerate() {
        let seen: BTreeSet<_> = before.iter().skip(way).step_by(2).collect();
        assert_eq!(seen.len(), 2, "{what} reaches both: {before:?}");
    }
    assert_eq!(ask(2), before, "each goes on with the one that it has");
    // It goes on as a process, and would answer.
    space.kubectl.ok(&["delete", "pod", "first", "--wait=false"]);
    condition(space, "first", "Withdrawn");
    assert_eq!(ask(3).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(["second".to_owned()]));
    ["first", "second"].iter().for_each(|name| take_away(space, name));
}

/// Connects from a node's network or from outside: who answers, whom he saw, and who the client is.
fn connect(space: &Space, node: Option<&str>, to: SocketAddr) -> (String, IpAddr, IpAddr) {
    let (answer, own) = inside(space, node, || {
        let mut socket = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        (answer, socket.local_addr().unwrap().ip())
    });
    let (name, seen) = seen(&answer);
    (name, seen, own)
}

fn seen(answer: &str) -> (String, IpAddr) {
    let (name, address) = answer.trim().split_once(' ').unwrap_or_else(|| panic!("{answer:?}"));
    (name.to_owned(), address.parse().unwrap())
}

fn addresses_that_pods_see(space: &Space) {
    let (ip, port) = echo_service(space);
    echo(space, "first", "node-1");
    echo(space, "second", "node-2");
    let both = BTreeSet::from(["first".to_owned(), "second".to_owned()]);
    // A Pod keeps its address, but where it reaches itself: the answer would not pass the node otherwise.
    let own = space.kubectl.json(&["get", "pod", "first"])["status"]["podIP"].clone();
    let own: IpAddr = own.as_str().unwrap().parse().unwrap();
    let script = format!(
        "for (1..20) {{ $s = IO::Socket::INET->new(PeerAddr => \"{ip}\", Timeout => 5) or die $@; print <$s> }}"
    );
    let output = space.kubectl.ok(&["exec", "first", "--", "perl", "-MIO::Socket::INET", "-e", &script]);
    let answers: BTreeSet<_> = output.lines().map(seen).collect();
    assert_eq!(answers.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>(), both);
    for (name, seen) in answers {
        assert_eq!(seen == own, name == "second", "{name} saw {seen} of {own}");
    }
    // A node has its own address; who comes from outside through a node port has that node's.
    let node_1: IpAddr = node_address(space, "node-1").parse().unwrap();
    let at_node = SocketAddr::new(node_1, port);
    for (from, to) in [(Some("node-1"), ip), (None, at_node)] {
        let answers: Vec<_> = (0..20).map(|_| connect(space, from, to)).collect();
        assert_eq!(answers.iter().map(|(name, ..)| name.clone()).collect::<BTreeSet<_>>(), both);
        for (name, seen, own) in answers {
            let masqueraded = if name == "second" { seen == node_1 } else { from.is_some() || seen != own };
            assert!(masqueraded, "{name} saw {seen} of {own} on the way to {to}");
        }
    }
    // But with the local policy.
    space.kubectl.ok(&[
        "patch",
        "service",
        "my-service",
        "-p",
        r#"{"spec": {"externalTrafficPolicy": "Local"}}"#,
    ]);
    until("clients from outside reach the node's own Pod and keep their address", || {
        (0..10).all(|_| matches!(connect(space, None, at_node), (name, seen, own) if name == "first" && seen == own)).then_some(())
    });
    let client = Client::new(space, None, at_node);
    assert_eq!(client.ask(1), ("first".to_owned(), client.0.local_addr().unwrap().ip()));
    ["first", "second"].iter().for_each(|name| take_away(space, name));
}

/// A Service without a selector whose one EndpointSlice is written by hand: addresses of node 1's own, so many that their class of
/// slots is another than before, and another again.
fn many_endpoints(space: &Space) {
    const PORT: u16 = 3990;
    let address = |n: u8| format!("198.51.100.{n}");
    let namespace = format!("hitless.{}.node-1", space.home.name);
    let addresses: Vec<String> =
        (1..=100).map(|n| format!("address add {}/32 dev lo\n", address(n))).collect();
    common::run_with_input(Command::new("ip").args(["-n", &namespace, "-batch", "-"]), &addresses.concat())
        .succeeded();
    let mut front = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "many"}});
    front["spec"] = json!({"ports": [{"port": 80, "targetPort": PORT}]});
    let slice = |count: u8| {
        let endpoints: Vec<Value> = (1..=count).map(|n| json!({"addresses": [address(n)]})).collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "many", "labels": {"kubernetes.io/service-name": "many"}},
            "ports": [{"port": PORT, "protocol": "TCP"}], "endpoints": endpoints,
        });
        space.apply(&slice.to_string());
    };
    space.apply(&front.to_string());
    slice(3);
    let ip = space.kubectl.json(&["get", "service", "many"])["spec"]["clusterIP"].clone();
    let to: SocketAddr = format!("{}:80", ip.as_str().unwrap()).parse().unwrap();
    let listener = inside(space, Some("node-1"), || TcpListener::bind(("0.0.0.0", PORT)).unwrap());
    let own = listener.try_clone().unwrap();
    let end = AtomicBool::new(false);
    // Which endpoint a new connection gets to.
    let reached = || -> std::io::Result<String> {
        let mut socket = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok((mut socket, _)) = own.accept() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let _its_client_sees =
                    socket.write_all(socket.local_addr().unwrap().ip().to_string().as_bytes());
            }
        });
        let stream = scope.spawn(|| {
            inside(space, Some("node-1"), || {
                until("the first three are reached", || reached().ok());
                let mut failed = Vec::new();
                while !end.load(Ordering::Relaxed) {
                    failed.extend(reached().err().map(|error| error.to_string()));
                }
                failed
            })
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for count in [3, 100, 20, 2] {
                slice(count);
                let all: BTreeSet<_> = (1..=count).map(address).collect();
                until(&format!("{count} endpoints are reached and no other"), || {
                    let seen: BTreeSet<_> = inside(space, Some("node-1"), || {
                        (0..u32::from(count) * 12).filter_map(|_| reached().ok()).collect()
                    });
                    (seen == all).then_some(())
                });
            }
        }));
        end.store(true, Ordering::Relaxed);
        let failed = stream.join().unwrap();
        let _ends_the_listener = inside(space, Some("node-1"), || TcpStream::connect(("127.0.0.1", PORT)));
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert_eq!(failed, Vec::<String>::new());
    });
}

/// The process of a node's agent.
fn agent(space: &Space, node: &str) -> Option<i32> {
    let config = format!("/run/hitless/{}/{node}/agent.json", space.home.name);
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        command.split(|byte| *byte == 0).any(|word| word == config.as_bytes()).then_some(pid)
    })
}

/// One request on a connection that stays open; gives the head of the answer.
fn ask(connection: &mut TcpStream) -> String {
    connection.write_all(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let head = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap().trim().parse();
    connection.read_exact(&mut vec![0; length.unwrap()]).unwrap();
    head
}

fn restart(space: &Space) {
    let (ip, port) = app(space, 2, json!({}), json!({"type": "NodePort"}));
    let targets = [format!("{ip}:80"), format!("{}:{port}", node_address(space, "node-1"))];
    let cluster = &space.home.name;
    let mut open: Vec<TcpStream> = targets
        .iter()
        .map(|target| {
            let connect = || TcpStream::connect(target.as_str()).unwrap();
            let connection = netns::inside(&format!("hitless.{cluster}.node-1"), connect).unwrap();
            connection.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            connection
        })
        .collect();
    open.iter_mut().for_each(|connection| assert!(ask(connection).starts_with("http/1.1 200")));
    let own = ["get", "endpointconsumer", "service-proxy-node-1"];
    let incarnation = || space.kubectl.try_json(&own).map(|own| own["spec"]["incarnation"].to_string());
    let before = incarnation().unwrap();
    let end = AtomicBool::new(false);
    let counts = std::thread::scope(|scope| {
        let streams: Vec<_> = targets
            .iter()
            .map(|target| scope.spawn(|| traffic::stream(cluster, "node-1", target, &end)))
            .collect();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let pid = agent(space, "node-1").expect("the agent runs");
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
            open.iter_mut().for_each(|connection| assert!(ask(connection).starts_with("http/1.1 200")));
            until("the proxy has registered anew", || incarnation().filter(|now| *now != before));
            // It programs again when a Pod that comes now is Programmed, which needs every proxy's word.
            space.kubectl.ok(&["scale", "deployment/app", "--replicas=3"]);
            space.kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
            open.iter_mut().for_each(|connection| assert!(ask(connection).starts_with("http/1.1 200")));
        }));
        end.store(true, Ordering::Relaxed);
        let counts: Vec<_> = streams.into_iter().map(|stream| stream.join().unwrap()).collect();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        counts
    });
    for count in counts {
        assert_eq!(count.failed, Vec::<String>::new(), "of {} requests", count.answered + count.failed.len());
        assert!(count.answered > 10, "{count:?}");
    }
}
