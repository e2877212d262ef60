//! Node ports, traffic policies, affinity and UDP flows under real connections, and a table that is taken over.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use hitless_dataplane::{Front, Kernel, Protocol, Routing, ServicePort, SlotTable, program::diff};
use tokio::net::UdpSocket;

use super::{
    CLUSTER_IP, Nft, NftOptions, Proxy, SERVICE, Traffic, endpoints,
    namespaces::{Namespace, World, connect, connect_from},
    pods, reached, to,
};

const NODE_PORT: ServicePort = ServicePort { front: Front::Node, protocol: Protocol::Tcp, port: 30_080 };
const OUTSIDE: ServicePort = ServicePort { front: Front::NodeOutside, ..NODE_PORT };
const DNS: ServicePort = ServicePort { front: Front::Address(CLUSTER_IP), protocol: Protocol::Udp, port: 53 };
const DNS_NODE_PORT: ServicePort = ServicePort { front: Front::Node, protocol: Protocol::Udp, port: 30_053 };
/// The node's address towards the client, and towards the Pods.
const NODE: [u8; 4] = [10, 2, 0, 1];
const NODE_INNER: [u8; 4] = [10, 3, 0, 1];

fn options() -> NftOptions {
    let net = Some("10.3.0.0/24".parse().unwrap());
    NftOptions { pod_cidr: net, node_pod_cidr: net }
}

/// Who answered and whom he saw, of some connections.
fn answers(from: &Namespace, address: [u8; 4]) -> BTreeSet<(u8, [u8; 4])> {
    from.run(move || async move {
        let mut seen = BTreeSet::new();
        for _ in 0..40 {
            let open = connect((address, 30_080).into()).await.unwrap();
            seen.insert((open.pod, open.seen_as));
        }
        seen
    })
}

fn failure(from: &Namespace, address: [u8; 4], port: u16) -> ErrorKind {
    from.run(move || async move { connect((address, port).into()).await.err().unwrap().kind() })
}

#[test]
fn a_node_port_answers_on_every_address_of_the_node_and_its_clients_are_masqueraded() {
    let world = World::new();
    let mut proxy = Proxy::with(&world.node, options(), &[]);
    proxy.change(&world.node, NODE_PORT, pods(&[2, 3]));
    let both = BTreeSet::from([(2, NODE_INNER), (3, NODE_INNER)]);
    for from in [&world.client, &world.node, &world.pods] {
        for address in [NODE, NODE_INNER] {
            assert_eq!(answers(from, address), both);
        }
    }
    assert_eq!(failure(&world.node, [127, 0, 0, 1], 30_080), ErrorKind::ConnectionRefused, "not on loopback");
    assert_eq!(failure(&world.client, NODE, 30_081), ErrorKind::ConnectionRefused, "no node port");
    let passing = failure(&world.client, [10, 3, 0, 5], 30_080);
    assert_eq!(passing, ErrorKind::ConnectionRefused, "not to the node, so not to the service");
    assert_eq!(proxy.read_back(&world.node).unwrap(), proxy.slots.program());

    proxy.change(&world.node, NODE_PORT, pods(&[]));
    for from in [&world.client, &world.node] {
        assert_eq!(failure(from, NODE, 30_080), ErrorKind::ConnectionRefused);
    }
    proxy.change(&world.node, NODE_PORT, None);
    assert_eq!(proxy.read_back(&world.node).unwrap(), proxy.slots.program());
}

#[test]
fn with_the_local_policy_clients_from_outside_reach_the_nodes_own_endpoints_and_keep_their_address() {
    let world = World::new();
    let mut proxy = Proxy::with(&world.node, options(), &[]);
    proxy.change(&world.node, NODE_PORT, pods(&[2]));
    proxy.change(&world.node, OUTSIDE, pods(&[3]));
    assert_eq!(answers(&world.client, NODE), BTreeSet::from([(3, [10, 2, 0, 2])]));
    // The node and its own Pods are not outside. (Here the Pod reaches itself.)
    let numbers = |from| answers(from, NODE).into_iter().map(|(pod, _)| pod).collect::<BTreeSet<_>>();
    for from in [&world.node, &world.pods] {
        assert_eq!(numbers(from), BTreeSet::from([2]));
    }

    // None here, but some elsewhere.
    let elsewhere = Routing { elsewhere: true, ..Routing::default() };
    proxy.change(&world.node, OUTSIDE, Some(elsewhere.clone()));
    assert_eq!(failure(&world.client, NODE, 30_080), ErrorKind::TimedOut);
    assert_eq!(numbers(&world.node), BTreeSet::from([2]));
    assert_eq!(proxy.read_back(&world.node).unwrap(), proxy.slots.program());
    proxy.change(&world.node, OUTSIDE, pods(&[]));
    assert_eq!(failure(&world.client, NODE, 30_080), ErrorKind::ConnectionRefused);
    // Back to the policy for all.
    proxy.change(&world.node, OUTSIDE, None);
    assert_eq!(numbers(&world.client), BTreeSet::from([2]));

    // The same for a cluster IP.
    proxy.change(&world.node, SERVICE, Some(elsewhere));
    let dropped = world.client.run(|| async { connect(to()).await.err().unwrap().kind() });
    assert_eq!(dropped, ErrorKind::TimedOut);
    proxy.change(&world.node, SERVICE, pods(&[4]));
    assert_eq!(reached(&world.client, 5), BTreeSet::from([4]));
}

fn affine(numbers: &[u8], seconds: u32) -> Option<Routing> {
    Some(Routing { affinity_s: Some(seconds), ..endpoints(numbers).into() })
}

/// Who answers the client with this address; always the same.
fn stays(world: &World, client: [u8; 4], address: [u8; 4], port: u16) -> u8 {
    let seen: BTreeSet<u8> = world.client.run(move || async move {
        let mut seen = BTreeSet::new();
        for _ in 0..20 {
            seen.insert(connect_from(client.into(), (address, port).into()).await.unwrap().pod);
        }
        seen
    });
    assert_eq!(seen.len(), 1, "{client:?} reached {seen:?}");
    seen.into_iter().next().unwrap()
}

#[test]
fn a_client_stays_with_its_endpoint_as_long_as_that_is_there_and_its_time_has_not_run_out() {
    let world = World::new();
    world.client.sh("for n in 3 4 5 6 7 8 9; do ip addr add 10.2.0.$n/24 dev eth0; done");
    let mut proxy = Proxy::with(&world.node, options(), &[]);
    proxy.change(&world.node, SERVICE, affine(&[2, 3, 4], 3600));
    proxy.change(&world.node, NODE_PORT, affine(&[2, 3, 4], 3600));
    let vip = CLUSTER_IP.octets();
    let clients: Vec<[u8; 4]> = (2..10).map(|n| [10, 2, 0, n]).collect();
    let with = |proxy: &Proxy| -> BTreeMap<[u8; 4], u8> {
        assert_eq!(proxy.read_back(&world.node).unwrap(), proxy.slots.program());
        clients.iter().map(|client| (*client, stays(&world, *client, vip, 80))).collect()
    };
    let first = with(&proxy);
    stays(&world, clients[0], NODE, 30_080);
    // Somebody leaves: only his clients move, and not back when he returns.
    let left = first[&clients[0]];
    let others: Vec<u8> = [2, 3, 4].into_iter().filter(|n| *n != left).collect();
    proxy.change(&world.node, SERVICE, affine(&others, 3600));
    let second = with(&proxy);
    for client in &clients {
        let moved = first[client] == left;
        assert_eq!(first[client] != second[client], moved, "{client:?}: {first:?}, then {second:?}");
    }
    proxy.change(&world.node, SERVICE, affine(&[2, 3, 4, 5, 6, 7, 8, 9], 3600));
    assert_eq!(with(&proxy), second);
    // Another class of slots, and a table that is taken over by the next proxy.
    take_over(&mut proxy, &world.node);
    assert_eq!(with(&proxy), second);

    // One second: what is remembered goes by itself.
    world.node.sh("nft flush map ip hitless clients");
    proxy.change(&world.node, SERVICE, affine(&[2, 3, 4], 1));
    world.client.run(|| async { connect(to()).await.unwrap() });
    let remembered = || world.node.sh("nft list map ip hitless clients").contains("10.2.0.2");
    assert!(remembered());
    let until = Instant::now() + Duration::from_secs(20);
    while remembered() {
        assert!(Instant::now() < until, "it is remembered for good");
        std::thread::sleep(Duration::from_millis(50));
    }
    // No chain is left that no service needs.
    proxy.change(&world.node, NODE_PORT, None);
    proxy.change(&world.node, SERVICE, pods(&[2, 3]));
    assert!(!world.node.sh("nft list table ip hitless").contains("affinity-"));
    assert_eq!(reached(&world.client, 60), BTreeSet::from([2, 3]));
}

/// What a proxy does that was started anew: it reads what is there and changes what differs.
fn take_over(proxy: &mut Proxy, node: &Namespace) {
    let mut slots = SlotTable::new();
    let before = proxy.slots.program();
    let routings: BTreeMap<_, _> = before
        .slots
        .iter()
        .map(|(key, endpoint)| (key.service, *endpoint))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .fold(BTreeMap::new(), |mut all: BTreeMap<ServicePort, Routing>, (service, endpoint)| {
            let routing = all.entry(service).or_default();
            routing.endpoints.push(endpoint);
            routing.affinity_s = before.affinity.get(&service).copied();
            all
        });
    slots.change(&routings.into_iter().map(|(service, routing)| (service, Some(routing))).collect());
    let program = slots.program();
    proxy.nft = node.run(move || async move {
        let nft = Nft::open(options()).unwrap();
        let present = nft.read_back().await.unwrap();
        nft.apply(&diff(&present, &program)).await.unwrap();
        nft
    });
    proxy.slots = slots;
}

#[test]
fn taking_a_table_over_and_building_it_anew_interrupts_nothing() {
    let world = World::new();
    let mut proxy = Proxy::with(&world.node, options(), &[2, 3]);
    proxy.change(&world.node, SERVICE, pods(&[2, 3, 4]));
    let mut held = world.client.run(|| async { connect(to()).await.unwrap() });
    let traffic = [Traffic::start(&world.client), Traffic::start(&world.node)];
    for round in 0..20 {
        traffic[round % 2].more(3);
        take_over(&mut proxy, &world.node);
        traffic[round % 2].more(3);
        let program = proxy.slots.program();
        proxy.nft = world.node.run(move || async move {
            let nft = Nft::open(options()).unwrap();
            nft.replace_all(&program).await.unwrap();
            nft
        });
    }
    for traffic in traffic {
        assert!(!traffic.stop().is_empty());
    }
    world.client.run(move || async move { held.ping().await.unwrap() });
}

/// A UDP client that keeps its port.
struct Client(UdpSocket);

impl Client {
    async fn new(address: [u8; 4], port: u16) -> Self {
        let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        socket.connect((Ipv4Addr::from(address), port)).await.unwrap();
        Self(socket)
    }

    /// Who answers; `None`: the datagram was refused. A datagram may get lost while a flow ends, so it is sent again.
    async fn ask(&self) -> Option<u8> {
        let mut answer = [0; 9];
        for _ in 0..20 {
            if self.0.send(b"x").await.is_err() {
                return None;
            }
            match tokio::time::timeout(Duration::from_millis(200), self.0.recv(&mut answer)).await {
                Ok(Ok(_)) => return Some(answer[0]),
                Ok(Err(_)) => return None,
                Err(_) => {}
            }
        }
        panic!("no answer");
    }
}

#[test]
fn udp_flows_leave_with_their_endpoint_and_others_stay() {
    let world = World::new();
    let mut proxy = Proxy::with(&world.node, options(), &[2, 3]);
    let other = ServicePort { port: 54, ..DNS };
    proxy.change(&world.node, DNS, pods(&[2, 3, 4]));
    proxy.change(&world.node, other, pods(&[2]));
    // From before the service: nobody listens on the node.
    let early = world.client.run(|| async {
        let early = Client::new(NODE, 30_053).await;
        assert_eq!(early.ask().await, None);
        early
    });
    proxy.change(&world.node, DNS_NODE_PORT, pods(&[5]));
    let (early_answer, flows, elsewhere, mut held) = world.client.run(|| async move {
        let mut flows = Vec::new();
        for _ in 0..40 {
            let client = Client::new(CLUSTER_IP.octets(), 53).await;
            flows.push((client.ask().await.unwrap(), client));
        }
        let elsewhere = Client::new(CLUSTER_IP.octets(), 54).await;
        assert_eq!(elsewhere.ask().await, Some(2));
        let mut held = Vec::new();
        while !held.iter().any(|open: &super::Open| open.pod == 2) {
            held.push(connect(to()).await.unwrap());
        }
        (early.ask().await, flows, elsewhere, held)
    });
    assert_eq!(early_answer, Some(5), "the flow from before there was an endpoint has ended");
    assert_eq!(flows.iter().map(|(pod, _)| *pod).collect::<BTreeSet<_>>(), BTreeSet::from([2, 3, 4]));

    proxy.change(&world.node, DNS, pods(&[3, 4]));
    proxy.change(&world.node, SERVICE, pods(&[3]));
    let before: Vec<u8> = flows.iter().map(|(pod, _)| *pod).collect();
    let (after, elsewhere) = world.client.run(move || async move {
        let mut after = Vec::new();
        for (_, client) in &flows {
            after.push(client.ask().await.unwrap());
        }
        for open in &mut held {
            open.ping().await.unwrap();
        }
        (after, elsewhere.ask().await)
    });
    for (before, after) in before.into_iter().zip(after) {
        match before {
            2 => assert!(matches!(after, 3 | 4), "a flow went on to an endpoint that has left"),
            stayed => assert_eq!(after, stayed, "a flow was ended that nobody had to"),
        }
    }
    assert_eq!(elsewhere, Some(2), "another service's flow to the same Pod");
}
