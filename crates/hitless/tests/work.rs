//! Work that lasts: a queue's workers over many rollouts (scenario 13), and WebSockets that stay open while their server is replaced.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use common::{Cluster, Space, condition, items, until};
use hitless_drivers::node::netns;
use serde_json::{Value, json};

const ROLLOUTS: u64 = 20;
const HOST: &str = "ws.example.org";
const TIMEOUT: Duration = Duration::from_secs(5);

#[test]
fn long_work_and_open_connections_outlive_rollouts() {
    let cluster = Cluster::up("work13");
    cluster.steps(
        1,
        &[
            ("websockets_echo_while_their_server_is_replaced", websockets),
            ("twenty_rollouts_lose_no_task_and_run_none_twice", tasks),
        ],
    );
}

/// A request to the queue from a node's network, as JSON or text.
fn ask(space: &Space, target: &str, request: &str) -> Result<String, String> {
    let target: SocketAddr = target.parse().unwrap();
    let exchange = || -> std::io::Result<String> {
        let mut socket = TcpStream::connect_timeout(&target, TIMEOUT)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        write!(socket, "{request} HTTP/1.1\r\nHost: queue\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let node = format!("hitless.{}.node-1", space.home.name);
    let answer = netns::inside(&node, exchange).unwrap().map_err(|error| error.to_string())?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(answer),
    }
}

fn queue_state(space: &Space, target: &str) -> Value {
    serde_json::from_str(&ask(space, target, "GET /state").unwrap()).unwrap()
}

fn cluster_ip(space: &Space, service: &str) -> String {
    space.kubectl.ok(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"]) + ":80"
}

fn service_of(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"name": name}, "ports": [{"port": 80, "targetPort": 3000}]},
    })
}

/// Three workers, each at up to four tasks at once; a rollout brings three new ones and then ends the old ones.
fn workers() -> Value {
    let args = ["work", "--queue", "queue:80", "--task-ms", "300", "--at-once", "4"];
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "workers"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"name": "workers"}},
            "strategy": {"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": {"name": "workers"}},
                "spec": {
                    "automountServiceAccountToken": false,
                    "containers": [{"name": "web", "image": "hitless.dev/web:1", "args": args}],
                },
            },
        },
    })
}

fn tasks(space: &Space) {
    let kubectl = &space.kubectl;
    let probe = json!({"readinessProbe": {"httpGet": {"path": "/readyz", "port": 3000}, "periodSeconds": 1}});
    // A task that is taken and not done within the lease is given to another: at once lost and run twice.
    space.pod("queue", &["queue", "--port", "3000", "--lease", "20"], probe, json!({}));
    space.apply(&service_of("queue").to_string());
    space.ready("queue");
    let target = cluster_ip(space, "queue");
    until("the queue answers", || ask(space, &target, "GET /state").ok());
    space.apply(&workers().to_string());
    kubectl.ok(&["rollout", "status", "deployment/workers", "--timeout=60s"]);

    let end = AtomicBool::new(false);
    let added = std::thread::scope(|scope| {
        let adding = scope.spawn(|| {
            let mut added = 0;
            while !end.load(Ordering::Relaxed) {
                ask(space, &target, "POST /tasks?count=2").expect("the queue takes tasks");
                added += 2;
                std::thread::sleep(Duration::from_millis(100));
            }
            added
        });
        let outcome = std::panic::catch_unwind(|| {
            for _ in 0..ROLLOUTS {
                kubectl.ok(&["rollout", "restart", "deployment/workers"]);
                kubectl.ok(&["rollout", "status", "deployment/workers", "--timeout=60s"]);
            }
        });
        end.store(true, Ordering::Relaxed);
        let added: u64 = adding.join().unwrap();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        added
    });
    let state = until("all tasks are done", || {
        let state = queue_state(space, &target);
        (state["done"] == added).then_some(state)
    });
    let counts = ["added", "waiting", "taken", "done", "taken_twice", "done_twice", "done_unknown"];
    assert_eq!(counts.map(|name| state[name].as_u64().unwrap()), [added, 0, 0, added, 0, 0, 0], "{state}");
    // The figures mean something only if every release had a part in the work.
    let workers = state["workers"].as_object().unwrap();
    let pods: std::collections::BTreeSet<&str> = workers
        .iter()
        .filter(|(_, counts)| counts["taken"].as_u64() > Some(0))
        .map(|(name, _)| name.split('/').next().unwrap())
        .collect();
    assert!(pods.len() as u64 > 2 * ROLLOUTS, "only {} Pods had work: {pods:?}", pods.len());
    assert!(workers.values().all(|counts| counts["taken"] == counts["done"]), "{state}");
    eprintln!("{added} tasks by {} Pods", pods.len());
}

/// A Pod that opens WebSockets and keeps them open until it is deleted.
fn client(space: &Space, name: &str, target: &str) {
    let args = ["ws", "--target", target, "--host", HOST, "--connections", "20", "--every-ms", "100"];
    let args = [&args[..], &["--duration", "3600"]].concat();
    space.pod(name, &args, json!({"ports": null}), json!({"restartPolicy": "Never"}));
}

fn websockets(space: &Space) {
    let kubectl = &space.kubectl;
    let mut server = common::deployment(
        2,
        json!({"args": ["serve", "--port", "3000", "--on-term", "finish", "--finish-within", "50"]}),
    );
    server["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(60);
    let backend = json!({"service": {"name": "my-service", "port": {"number": 80}}});
    let rule =
        json!({"host": HOST, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}});
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "ws"},
        "spec": {"rules": [rule]},
    });
    space.apply(&format!("{server}\n{}\n{ingress}\n", common::service()));
    kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
    let node = items(&kubectl.json(&["get", "nodes"]))[0].clone();
    let addresses = node["status"]["addresses"].as_array().unwrap().clone();
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP").unwrap();
    let ingress = format!("{}:80", internal["address"].as_str().unwrap());
    until("the ingress knows the host", || {
        let mut socket = TcpStream::connect_timeout(&ingress.parse().unwrap(), TIMEOUT).ok()?;
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        write!(socket, "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(())
    });

    let clients = [("direct", cluster_ip(space, "my-service")), ("ingress", ingress)];
    for (name, target) in &clients {
        client(space, name, target);
    }
    for (name, _) in &clients {
        until(&format!("{name} has opened all"), || {
            let log = kubectl.run(&["logs", name]);
            log.stdout.lines().any(|line| line.contains(r#""open":20,"#)).then_some(())
        });
    }
    // Every server is replaced while they are open; the old ones stay for as long as they have clients.
    let before = kubectl.names(&["pods", "-l", "name=app"]);
    kubectl.ok(&["rollout", "restart", "deployment/app"]);
    kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
    let told = kubectl.until("the old servers are told to stop", &["pods", "-l", "name=app"], |pods| {
        pods.iter().filter(|pod| condition(pod, "hitless.dev/Withdrawn") == Some("True")).count() == 2
    });
    assert_eq!(told.len(), 4, "{told:?}");
    for name in &before {
        until(&format!("{name} has its stop signal"), || {
            kubectl.run(&["logs", name]).stdout.contains(r#""signal":"SIGTERM""#).then_some(())
        });
    }
    // Each message is sent after the one before it came back: some of these were sent after the stop signal.
    std::thread::scope(|scope| {
        let logs = clients
            .each_ref()
            .map(|(name, _)| (name, scope.spawn(|| kubectl.run(&["logs", "-f", name]).succeeded().stdout)));
        for (name, _) in &clients {
            let echoed = last(&kubectl.ok(&["logs", name]))["echoed"].as_u64().unwrap();
            until(&format!("messages of {name} still come back"), || {
                let now = last(&kubectl.ok(&["logs", name]))["echoed"].as_u64()?;
                (now > echoed + 40).then_some(())
            });
        }
        assert_eq!(kubectl.names(&["pods", "-l", "name=app"]).len(), 4, "a server left its clients");
        kubectl.ok(&["delete", "pod", "direct", "ingress", "--wait=false"]);
        for (name, log) in logs {
            let log = log.join().unwrap();
            let summary = &last(&log)["summary"];
            for (figure, count) in [("opened", 20), ("closed", 20), ("failed", 0)] {
                assert_eq!(summary[figure], count, "{name}: {log}");
            }
            let pods: Vec<&String> = summary["pods"].as_object().unwrap().keys().collect();
            assert!(pods.iter().all(|pod| before.contains(pod)), "{name}: {pods:?} are not of {before:?}");
        }
    });
    // With their last client they go.
    kubectl.until("only the new servers are left", &["pods", "-l", "name=app"], |pods| {
        pods.len() == 2 && pods.iter().all(common::is_ready)
    });
}

/// A log's last line.
fn last(log: &str) -> Value {
    let line = log.lines().last().unwrap_or_else(|| panic!("nothing in the log"));
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}
