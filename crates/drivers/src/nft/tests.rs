//! The table under real connections, in network namespaces of the tests' own.

mod namespaces;
mod services;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hitless_dataplane::{
    Batch, Endpoint, Front, Kernel, KernelError, Program, Protocol, Routing, ServicePort, SlotTable, Step,
};
use namespaces::{Namespace, Open, World, connect};
use tokio::net::UdpSocket;

use super::{Nft, NftOptions};

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const SERVICE: ServicePort =
    ServicePort { front: Front::Address(CLUSTER_IP), protocol: Protocol::Tcp, port: 80 };

fn to() -> SocketAddr {
    (CLUSTER_IP, 80).into()
}

fn endpoints(numbers: &[u8]) -> Vec<Endpoint> {
    numbers.iter().map(|n| Endpoint { address: Ipv4Addr::new(10, 3, 0, *n), port: 3000 }).collect()
}

fn pods(numbers: &[u8]) -> Option<Routing> {
    Some(endpoints(numbers).into())
}

/// A table in the node's namespace, and the slots that it holds.
struct Proxy {
    nft: Nft,
    slots: SlotTable,
}

impl Proxy {
    fn new(node: &Namespace, endpoints: &[u8]) -> Self {
        Self::with(node, NftOptions::default(), endpoints)
    }

    fn with(node: &Namespace, options: NftOptions, endpoints: &[u8]) -> Self {
        let mut slots = SlotTable::new();
        slots.change(&BTreeMap::from([(SERVICE, pods(endpoints))]));
        let program = slots.program();
        let nft = node.run(move || async move {
            let nft = Nft::open(options).unwrap();
            nft.replace_all(&program).await.unwrap();
            nft
        });
        Self { nft, slots }
    }

    fn change(&mut self, node: &Namespace, service: ServicePort, routing: Option<Routing>) {
        let batch = self.slots.change(&BTreeMap::from([(service, routing)]));
        let nft = self.nft.clone();
        node.run(move || async move { nft.apply(&batch).await.unwrap() });
    }

    fn read_back(&self, node: &Namespace) -> Result<Program, KernelError> {
        let nft = self.nft.clone();
        node.run(move || async move { nft.read_back().await })
    }
}

/// New connections one after another, until told to stop. Gives when each began and who answered it.
struct Traffic {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    result: std::sync::mpsc::Receiver<Result<Vec<(Instant, u8)>, String>>,
}

/// A count that is higher than any to wait for: `stop` then tells what failed.
const FAILED: u64 = u64::MAX / 2;

impl Traffic {
    fn start(from: &Namespace) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), count.clone());
        let result = from.start(move || async move {
            let mut seen = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                match connect(to()).await {
                    Ok(open) => seen.push((began, open.pod)),
                    Err(error) => {
                        counted.store(FAILED, Ordering::Relaxed);
                        return Err(format!("connection {} failed: {error}", seen.len()));
                    }
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(seen)
        });
        Self { stop, count, result }
    }

    /// Waits until so many connections more were made, or the traffic has failed.
    fn more(&self, connections: u64) {
        let target = (self.count.load(Ordering::Relaxed) + connections).min(FAILED);
        let until = Instant::now() + Duration::from_secs(20);
        while self.count.load(Ordering::Relaxed) < target {
            assert!(Instant::now() < until, "no traffic");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn stop(self) -> Vec<(Instant, u8)> {
        self.stop.store(true, Ordering::Relaxed);
        self.result.recv_timeout(Duration::from_secs(20)).unwrap().unwrap()
    }
}

fn reached(from: &Namespace, connections: usize) -> BTreeSet<u8> {
    from.run(move || async move {
        let mut seen = BTreeSet::new();
        for _ in 0..connections {
            seen.insert(connect(to()).await.unwrap().pod);
        }
        seen
    })
}

#[test]
fn the_cluster_ip_reaches_every_endpoint_from_the_node_and_through_it() {
    let world = World::new();
    let proxy = Proxy::new(&world.node, &[2, 3, 4]);
    for from in [&world.node, &world.client] {
        assert_eq!(reached(from, 100), BTreeSet::from([2, 3, 4]));
    }
    assert_eq!(proxy.read_back(&world.node).unwrap(), proxy.slots.program());
    let listing = world.node.sh("nft list table ip hitless");
    for line in [
        "dnat ip to ip daddr . ip protocol . th dport . numgen random mod 64 map @slots-64",
        "10.96.0.1 . tcp . 80 . 15 : 10.3.0.",
    ] {
        assert!(listing.contains(line), "{line} is not in\n{listing}");
    }
}

#[test]
fn sources_are_kept_but_where_the_answer_would_not_come_back() {
    let world = World::new();
    let proxy = Proxy::new(&world.node, &[2]);
    let seen_as = |from: &Namespace| from.run(|| async { connect(to()).await.unwrap().seen_as });
    assert_eq!(seen_as(&world.client), [10, 2, 0, 2], "a Pod of another range keeps its address");
    assert_eq!(seen_as(&world.node), [10, 3, 0, 1], "the node is seen as what the Pod can answer to");
    assert_eq!(seen_as(&world.pods), [10, 3, 0, 1], "a Pod that reaches itself");
    let pod_cidr = Some("10.3.0.0/24".parse().unwrap());
    let options = NftOptions { pod_cidr, node_pod_cidr: None };
    let program = proxy.slots.program();
    world.node.run(move || async move { Nft::open(options).unwrap().replace_all(&program).await.unwrap() });
    assert_eq!(seen_as(&world.client), [10, 3, 0, 1], "from outside of the Pod range");
}

#[test]
fn a_removed_endpoint_gets_no_new_connection_once_apply_is_back_and_keeps_the_old_ones() {
    let world = World::new();
    let mut proxy = Proxy::new(&world.node, &[2, 3, 4]);
    let mut held: Vec<Open> = world.client.run(|| async {
        let mut held = Vec::new();
        while !held.iter().any(|open: &Open| open.pod == 3) {
            held.push(connect(to()).await.unwrap());
        }
        held
    });
    let traffic = [Traffic::start(&world.client), Traffic::start(&world.node)];
    for round in 0..20 {
        traffic[round % 2].more(20);
        proxy.change(&world.node, SERVICE, pods(&[2, 4]));
        let from = Instant::now();
        traffic[round % 2].more(20);
        let until = Instant::now();
        proxy.change(&world.node, SERVICE, pods(&[2, 3, 4]));
        if round == 19 {
            for traffic in traffic {
                let seen = traffic.stop();
                assert!(seen.iter().any(|(_, pod)| *pod == 3), "the test never reached the endpoint");
                let wrong =
                    seen.iter().filter(|(began, pod)| *began > from && *began < until && *pod == 3).count();
                assert_eq!(wrong, 0);
            }
            break;
        }
    }
    proxy.change(&world.node, SERVICE, pods(&[2, 4]));
    world.client.run(move || async move {
        for open in &mut held {
            open.ping().await.unwrap();
        }
    });
    assert_eq!(reached(&world.client, 100), BTreeSet::from([2, 4]));
}

#[test]
fn no_connection_fails_while_the_table_is_replaced_and_services_change_class() {
    let world = World::new();
    let mut proxy = Proxy::new(&world.node, &[2, 3]);
    let mut held = world.client.run(|| async { connect(to()).await.unwrap() });
    let traffic = [Traffic::start(&world.client), Traffic::start(&world.node), Traffic::start(&world.client)];
    let many: Vec<Endpoint> = (2..10)
        .flat_map(|n| endpoints(&[n]))
        .chain(endpoints(&[2, 3, 4, 5]).into_iter().map(|e| Endpoint { port: 3001, ..e }))
        .collect();
    // Ports 3001 answer as well, so that there are endpoints enough for a larger class.
    for n in 2..6_u8 {
        world.pods.sh(&format!("nft add table ip t; nft 'add chain ip t c {{ type nat hook prerouting priority -100; }}'; nft add rule ip t c ip daddr 10.3.0.{n} tcp dport 3001 redirect to :3000"));
    }
    for round in 0..40 {
        traffic[round % 3].more(3);
        if round % 2 == 0 {
            proxy.change(&world.node, SERVICE, Some(many.clone().into()));
        } else {
            proxy.change(&world.node, SERVICE, pods(&[2, 3]));
        }
        traffic[round % 3].more(3);
        let (nft, program) = (proxy.nft.clone(), proxy.slots.program());
        world.node.run(move || async move { nft.replace_all(&program).await.unwrap() });
    }
    let made: usize = traffic.into_iter().map(|t| t.stop().len()).sum();
    assert!(made > 100);
    world.client.run(move || async move { held.ping().await.unwrap() });
    assert_eq!(proxy.read_back(&world.node).unwrap(), proxy.slots.program());
}

#[test]
fn services_without_endpoints_refuse_at_once() {
    let world = World::new();
    let mut proxy = Proxy::new(&world.node, &[2]);
    let mut held = world.client.run(|| async { connect(to()).await.unwrap() });
    let udp = ServicePort { protocol: Protocol::Udp, ..SERVICE };
    proxy.change(&world.node, SERVICE, pods(&[]));
    proxy.change(&world.node, udp, pods(&[]));
    for from in [&world.node, &world.client] {
        let median = from.run(|| async {
            let mut times = Vec::new();
            for _ in 0..20 {
                let began = Instant::now();
                let error = connect(to()).await.err().unwrap();
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
                times.push(began.elapsed());
            }
            let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
            socket.connect(to()).await.unwrap();
            // On the node itself a datagram is refused before it leaves: send says so, in the kernel's way.
            match socket.send(b"x").await {
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
                Ok(_) => {
                    let answer =
                        tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut [0; 9])).await.unwrap();
                    assert_eq!(answer.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
                }
            }
            times.sort();
            times[10]
        });
        // A kernel that holds back its refusals (as it does with ICMP) would make most wait for the second attempt, a second later.
        assert!(median < Duration::from_millis(900), "refused only after {median:?}");
    }
    proxy.change(&world.node, SERVICE, pods(&[3]));
    proxy.change(&world.node, udp, pods(&[4]));
    assert_eq!(reached(&world.client, 5), BTreeSet::from([3]));
    let answer = world.client.run(|| async {
        let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        socket.connect(to()).await.unwrap();
        socket.send(b"x").await.unwrap();
        let mut answer = [0; 9];
        tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut answer)).await.unwrap().unwrap();
        answer[0]
    });
    assert_eq!(answer, 4);
    world.client.run(move || async move { held.ping().await.unwrap() });
}

#[test]
fn a_refused_change_changes_nothing_and_says_why() {
    let node = Namespace::new();
    let proxy = Proxy::new(&node, &[2, 3]);
    let before = proxy.read_back(&node).unwrap();
    let absent = ServicePort { port: 81, ..SERVICE };
    let refused = Step { added: vec![SERVICE], removed: vec![absent] };
    let batch = Batch { refused, ..Batch::default() };
    let nft = proxy.nft.clone();
    let error = node.run(move || async move { nft.apply(&batch).await.unwrap_err() });
    assert!(
        matches!(&error, KernelError::Refused { reason } if reason.contains("delete elements") && reason.contains("No such file")),
        "{error}"
    );
    assert_eq!(proxy.read_back(&node).unwrap(), before);
}

#[test]
fn other_hands_are_noticed_and_undone() {
    let node = Namespace::new();
    let proxy = Proxy::new(&node, &[2]);
    for damage in [
        "nft flush chain ip hitless services",
        "nft delete chain ip hitless prerouting-2",
        "nft flush ruleset",
    ] {
        node.sh(damage);
        let nft = proxy.nft.clone();
        let found = node.run(move || async move { nft.verify().await });
        assert!(matches!(found, Err(KernelError::Foreign { .. })), "{damage}");
        let (nft, program) = (proxy.nft.clone(), proxy.slots.program());
        node.run(move || async move { nft.replace_all(&program).await.unwrap() });
        assert_eq!(proxy.read_back(&node).unwrap(), proxy.slots.program());
    }
    let nft = proxy.nft.clone();
    node.run(move || async move {
        nft.remove().await.unwrap();
        nft.remove().await.unwrap();
    });
    assert_eq!(node.sh("nft list ruleset"), "");
}

#[test]
fn many_services_fit_one_transaction_and_one_change_stays_small() {
    let node = Namespace::new();
    let mut slots = SlotTable::new();
    let service = |n: u16| ServicePort::at(Ipv4Addr::from(0x0a60_0000 + u32::from(n)), Protocol::Tcp, 80);
    let endpoints = |n: u16| {
        (0..5_u32)
            .map(|e| Endpoint { address: Ipv4Addr::from(0x0a01_0000 + u32::from(n) * 5 + e), port: 3000 })
            .collect::<Vec<_>>()
    };
    slots.change(&(0..2000).map(|n| (service(n), Some(endpoints(n).into()))).collect());
    let program = slots.program();
    assert_eq!(program.slots.len(), 32_000);
    let one_less = slots.change(&BTreeMap::from([(service(7), Some(endpoints(7)[1..].to_vec().into()))]));
    assert_eq!(one_less.len(), 5);
    let (built, changed, after) = node.run(move || async move {
        let nft = Nft::open(NftOptions::default()).unwrap();
        let began = Instant::now();
        nft.replace_all(&program).await.unwrap();
        let built = began.elapsed();
        // The kernel goes on resizing a large table after the commit, and a dump meanwhile may miss some of it.
        for attempt in 0.. {
            let held = nft.read_back().await.unwrap();
            if held == program {
                break;
            }
            assert!(attempt < 50, "{} of {} slots", held.slots.len(), program.slots.len());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let began = Instant::now();
        nft.apply(&one_less).await.unwrap();
        (built, began.elapsed(), nft.read_back().await.unwrap())
    });
    assert_eq!(after, slots.program());
    let addresses: HashSet<_> =
        after.slots.iter().filter(|(k, _)| k.service == service(7)).map(|(_, e)| e.address).collect();
    assert_eq!(addresses.len(), 4);
    println!("32,000 elements in {built:?}; one endpoint of them in {changed:?}");
}
