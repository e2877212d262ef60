//! How a cluster ends: by Ctrl-C, by `down`, and after kill -9. Whatever happens, nothing of it is left; and a node's agent may die without
//! its containers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use common::{Cluster, Home, Space, app, deployment, items, leftovers, run, traffic, until};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn alive(pid: i32) -> bool {
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
}

#[track_caller]
fn nothing_left(home: &Home) {
    assert_eq!(leftovers::of(&home.name, &home.data_dir()), Vec::<String>::new());
}

/// `hitless up` in the foreground, its lines read up to the first that contains `until`.
fn foreground(home: &Home, until: &str) -> (Child, Vec<String>) {
    let mut up =
        home.hitless("up", &["--port", "0"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(up.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    while let Some(line) = lines.next() {
        said.push(line.unwrap());
        if said.last().unwrap().contains(until) {
            // The rest must be read, or a full pipe would hold the cluster up.
            std::thread::spawn(move || lines.for_each(drop));
            return (up, said);
        }
    }
    panic!("it ended without saying {until:?}: {said:?} {:?}", up.wait_with_output());
}

/// Its exit code, within a bound.
fn end(mut up: Child) -> Option<i32> {
    let bound = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = up.try_wait().unwrap() {
            return status.code();
        }
        if std::time::Instant::now() > bound {
            let _gone = up.kill();
            panic!("it did not end within 60 s");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn ctrl_c_leaves_nothing_at_any_time() {
    let home = Home::new("ctrlc");
    // In the middle of the start: with the first step done, and with the first node's containerd up.
    for step in ["network", "containerd ready"] {
        let (up, _) = foreground(&home, step);
        signal(i32::try_from(up.id()).unwrap(), Signal::INT);
        assert_eq!(end(up), Some(130), "after {step:?}");
        nothing_left(&home);
    }
    let (up, said) = foreground(&home, "Ctrl-C stops it");
    let export = said
        .iter()
        .find_map(|line| line.trim().strip_prefix("export KUBECONFIG="))
        .expect("how to point kubectl at it");
    assert_eq!(std::path::Path::new(export), home.kubectl().kubeconfig);
    assert!(said.iter().any(|line| line.contains("is ready after")), "{said:?}");
    home.kubectl().with_input(&["apply", "-f", "-"], &app(2, json!({}))).succeeded();
    home.kubectl().ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
    signal(i32::try_from(up.id()).unwrap(), Signal::INT);
    assert_eq!(end(up), Some(0));
    nothing_left(&home);
}

#[test]
fn down_and_up_after_kill_leave_nothing_and_keep_objects() {
    let home = Home::new("kill");
    let up = home.up().succeeded();
    assert!(
        up.stdout.contains("is ready after") && up.stdout.contains(&format!("down --name {}", home.name)),
        "{}",
        up.stdout
    );
    home.kubectl().with_input(&["apply", "-f", "-"], &app(2, json!({}))).succeeded();
    home.kubectl().ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);

    for more in [&["--port", "0"][..], &["--port", "0", "--detach"]] {
        let twice = run(&mut home.hitless("up", more)).ended_with(2);
        let words = [
            format!("the cluster {:?} is up already", home.name),
            format!("hitless down --name {}", home.name),
        ];
        assert!(words.iter().all(|word| twice.contains(word)), "{twice}");
    }
    home.kubectl().ok(&["get", "deployment", "app"]);

    signal(home.engine(), Signal::KILL);
    home.up().succeeded();
    home.kubectl().ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
    let pods = home.kubectl().until("as many Pods as asked for are there", &["pods"], |pods| {
        pods.len() == 2 && pods.iter().all(common::is_ready)
    });
    let target =
        home.kubectl().ok(&["get", "service", "my-service", "-o", "jsonpath={.spec.clusterIP}"]) + ":80";
    let names: BTreeSet<_> =
        pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    let answered = until("the cluster IP answers again", || traffic::get(&home.name, "node-1", &target).ok());
    assert!(names.contains(&answered), "{answered} is none of {names:?}");

    signal(home.engine(), Signal::KILL);
    let left = leftovers::of(&home.name, &home.data_dir());
    for what in ["network namespace", "mount", "process", "cgroup", "link", "table"] {
        assert!(left.iter().any(|line| line.starts_with(what)), "this test cannot see a {what}: {left:#?}");
    }
    let down = home.down().succeeded();
    assert!(down.stdout.contains("has no engine any more"), "{}", down.stdout);
    nothing_left(&home);
    assert!(home.cluster_dir().join("store").exists(), "objects outlive a cluster");
    home.down().succeeded();

    // A clean end, and what `--purge` means.
    home.up().succeeded();
    home.kubectl().ok(&["get", "deployment", "app"]);
    let down = home.down().succeeded();
    assert!(down.stdout.contains("stopped"), "{}", down.stdout);
    nothing_left(&home);
    run(&mut home.hitless("down", &["--purge"])).succeeded();
    assert!(!home.cluster_dir().exists());
}

/// The process of a node's agent.
fn agent(home: &Home, node: &str) -> Option<i32> {
    let config = format!("/run/hitless/{}/{node}/agent.json", home.name);
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
        words.contains(&config.as_bytes()).then_some(pid)
    })
}

#[test]
fn a_node_agents_death_harms_no_container() {
    let cluster = Cluster::up("agent");
    cluster.steps(
        1,
        &[
            ("containers_go_on_and_are_adopted", containers_go_on_and_are_adopted),
            ("a_deletion_meanwhile_is_not_lost", a_deletion_meanwhile_is_not_lost),
        ],
    );
}

fn on_node_1(space: &Space, replicas: u32) {
    let mut app = deployment(replicas, json!({}));
    app["spec"]["template"]["spec"]["nodeName"] = json!("node-1");
    space.apply(&format!("{app}\n{}", common::service()));
    space.kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
}

fn containers_go_on_and_are_adopted(space: &Space) {
    on_node_1(space, 2);
    let containers = || {
        let pods = space.kubectl.json(&["get", "pods", "-l", "name=app"]);
        let of = |pod: &serde_json::Value| {
            let status = &pod["status"]["containerStatuses"][0];
            (
                pod["metadata"]["name"].to_string(),
                status["containerID"].to_string(),
                status["restartCount"].as_u64().unwrap(),
            )
        };
        items(&pods).iter().map(of).collect::<BTreeSet<_>>()
    };
    let before = containers();
    assert_eq!(before.len(), 2);
    let target =
        space.kubectl.ok(&["get", "service", "my-service", "-o", "jsonpath={.spec.clusterIP}"]) + ":80";
    let (stop, name) = (AtomicBool::new(false), &space.home.name);
    let count = std::thread::scope(|scope| {
        let stream = scope.spawn(|| traffic::stream(name, "node-2", &target, &stop));
        let outcome = std::panic::catch_unwind(|| {
            let old = agent(space.home, "node-1").expect("the agent runs");
            signal(old, Signal::KILL);
            until("the agent is started again", || {
                agent(space.home, "node-1").filter(|pid| *pid != old && alive(*pid))
            });
            // The new agent works when a Pod that is created now becomes Ready.
            space.pod("after", &["serve", "--port", "3001"], json!({}), json!({"nodeName": "node-1"}));
            space.ready("after");
        });
        stop.store(true, Ordering::Relaxed);
        let count = stream.join().unwrap();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        count
    });
    assert_eq!(containers(), before, "the same containers, none started again");
    assert_eq!(count.failed, Vec::<String>::new(), "of {} requests", count.answered + count.failed.len());
    assert!(count.answered > 10, "{count:?}");
    let nodes = space.kubectl.ok(&["get", "nodes", "--no-headers"]);
    assert!(nodes.lines().all(|line| line.split_whitespace().nth(1) == Some("Ready")), "{nodes}");
}

fn a_deletion_meanwhile_is_not_lost(space: &Space) {
    on_node_1(space, 1);
    let pod = space.kubectl.names(&["pods", "-l", "name=app"])[0].clone();
    space.kubectl.ok(&["scale", "deployment/app", "--replicas=0"]);
    signal(agent(space.home, "node-1").expect("the agent runs"), Signal::KILL);
    space.kubectl.until("the Pod is gone", &["pods", "-l", "name=app"], <[serde_json::Value]>::is_empty);
    space.event_at(&pod, "Withdrawn");
}
