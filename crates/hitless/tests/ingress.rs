//! The ingress of each node, driven by stock kubectl, with traffic from outside the nodes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use common::{Cluster, Space, app, traffic::StopAtEnd, until};
use serde_json::json;

const HOST: &str = "app.example.org";
const TIMEOUT: Duration = Duration::from_secs(2);

#[test]
fn requests_from_outside_reach_pods_and_none_is_lost() {
    let cluster = Cluster::up("ing");
    cluster.steps(1, &[("a_rollout_and_deletions_through_the_ingress_lose_nothing", through_the_ingress)]);
}

/// One connection to an ingress; opened again where it was closed.
struct Client {
    target: SocketAddr,
    keep_alive: bool,
    open: Option<BufReader<TcpStream>>,
}

impl Client {
    fn new(target: &str, keep_alive: bool) -> Self {
        Self { target: format!("{target}:80").parse().unwrap(), keep_alive, open: None }
    }

    /// Status of the answer and the Pod that gave it, if one did.
    fn get(&mut self, host: &str, path: &str) -> Result<(u16, String), String> {
        let connection = match self.open.take().filter(|_| self.keep_alive) {
            Some(open) => Ok(open),
            None => TcpStream::connect_timeout(&self.target, TIMEOUT).map(BufReader::new),
        };
        let mut connection = connection.map_err(|error| format!("connect: {error}"))?;
        let answer = exchange(&mut connection, host, path).map_err(|error| error.to_string());
        self.open = Some(connection);
        answer
    }
}

fn exchange(connection: &mut BufReader<TcpStream>, host: &str, path: &str) -> std::io::Result<(u16, String)> {
    connection.get_ref().set_read_timeout(Some(TIMEOUT))?;
    connection.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let (mut status, mut pod, mut length) = (0, String::new(), 0);
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        match line.split_once(": ") {
            None if line.is_empty() => break,
            None => status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0),
            Some(("x-pod", name)) => pod = name.to_owned(),
            Some(("content-length", bytes)) => length = bytes.parse().unwrap(),
            Some(_) => {}
        }
    }
    connection.read_exact(&mut vec![0; length])?;
    Ok((status, pod))
}

/// Requests to each target in turn until `end`; gives how many were answered, by whom, and why the others were not.
fn stream(targets: &[String], keep_alive: bool, end: &AtomicBool) -> (usize, BTreeSet<String>, Vec<String>) {
    let mut clients: Vec<_> = targets.iter().map(|target| Client::new(target, keep_alive)).collect();
    let (mut answered, mut pods, mut failed) = (0, BTreeSet::new(), Vec::new());
    while !end.load(Ordering::Relaxed) {
        for client in &mut clients {
            match client.get(HOST, "/") {
                Ok((200, pod)) => {
                    answered += 1;
                    pods.insert(pod);
                }
                Ok((status, pod)) => failed.push(format!("{status} {pod}")),
                Err(cause) => failed.push(cause),
            }
        }
        std::thread::sleep(Duration::from_millis(4));
    }
    (answered, pods, failed)
}

fn through_the_ingress(space: &Space) {
    let kubectl = &space.kubectl;
    let classes = kubectl.ok(&["get", "ingressclass"]);
    assert!(classes.contains("hitless") && classes.contains("hitless.dev/ingress"), "{classes}");
    let backend = json!({"service": {"name": "my-service", "port": {"number": 80}}});
    let rule =
        json!({"host": HOST, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}});
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "my-ingress"},
        "spec": {"rules": [rule]},
    });
    kubectl.with_input(&["apply", "-f", "-"], &format!("{}{ingress}\n", app(3, json!({})))).succeeded();
    kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=140s"]);

    // Where it is served stands in its status, and each node's ingress is one of the loop's consumers.
    let nodes = kubectl.json(&["get", "nodes"]);
    let mut targets: Vec<String> = common::items(&nodes)
        .iter()
        .map(|node| {
            let addresses = node["status"]["addresses"].as_array().unwrap();
            let internal = addresses.iter().find(|address| address["type"] == "InternalIP").unwrap();
            internal["address"].as_str().unwrap().to_owned()
        })
        .collect();
    targets.sort();
    let wanted = targets.join(",");
    let shown = until("the addresses of the ingress", || {
        let shown = kubectl.ok(&["get", "ingress"]);
        shown.contains(&wanted).then_some(shown)
    });
    let words: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(words[..5], ["my-ingress", "hitless", HOST, &wanted, "80"], "{shown}");
    let consumers = kubectl.ok(&["get", "endpointconsumers"]);
    for name in ["ingress-node-1", "ingress-node-2"] {
        let line =
            consumers.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{consumers}"));
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!((words[1], words[3]), ("Ingress", "Proven"), "{consumers}");
    }
    let mut client = Client::new(&targets[0], true);
    until("the first answer", || client.get(HOST, "/").ok().filter(|(status, _)| *status == 200));
    assert_eq!(client.get("other.example.org", "/").unwrap().0, 404);

    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = StopAtEnd(&end);
        let streams = [false, true].map(|keep_alive| {
            let (targets, end) = (&targets, &end);
            scope.spawn(move || stream(targets, keep_alive, end))
        });
        kubectl.ok(&["rollout", "restart", "deployment/app"]);
        kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=140s"]);
        for _ in 0..2 {
            // One that is not on its way out already.
            let pods = kubectl.json(&["get", "pods", "-l", "name=app"]);
            let pod = common::items(&pods).into_iter().find(common::is_ready).expect("a Pod is ready");
            kubectl.ok(&["delete", "pod", pod["metadata"]["name"].as_str().unwrap()]);
            kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=140s"]);
        }
        drop(stop);
        for (kind, stream) in ["new connections", "kept-alive connections"].iter().zip(streams) {
            let (answered, pods, failed) = stream.join().unwrap();
            assert_eq!(failed, Vec::<String>::new(), "{kind}: {answered} answered");
            assert!(answered > 50, "{kind}: {answered}");
            assert!(pods.len() > 4, "{kind}: answered by {pods:?} alone");
        }
    });

    // With nobody left to serve it, it says so; with the Ingress gone, there is no such thing.
    kubectl.ok(&["scale", "deployment/app", "--replicas=0"]);
    until("503 without Pods", || client.get(HOST, "/").ok().filter(|(status, _)| *status == 503));
    kubectl.ok(&["delete", "ingress", "my-ingress"]);
    until("404 without Ingress", || client.get(HOST, "/").ok().filter(|(status, _)| *status == 404));
}
