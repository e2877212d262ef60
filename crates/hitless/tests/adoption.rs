//! kill -9 of the engine, at rest and in the middle of things: containers serve on, the next engine takes them over, none is started
//! twice and none is forgotten.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use common::{Cluster, Home, Space, deployment, is_ready, items, traffic, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

#[test]
fn the_next_engine_takes_over_what_runs() {
    let cluster = Cluster::up("adopt");
    cluster.steps(1, &[("nothing_is_lost_doubled_or_forgotten", nothing_is_lost_doubled_or_forgotten)]);
}

fn kill_engine(home: &Home) {
    kill_process(Pid::from_raw(home.engine()).unwrap(), Signal::KILL).unwrap();
}

/// Processes of the image's server under the cluster's cgroups, by Pod uid.
fn servers(home: &Home) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if !command.starts_with(b"/web") || !groups.contains(&format!("hitless-{}", home.name)) {
            continue;
        }
        let mut parts = groups.split(['/', '\n']).filter_map(|part| part.strip_prefix("pod"));
        let uid = parts.find(|uid| uid.len() == 36);
        let uid = uid.unwrap_or_else(|| panic!("a server outside of Pods: {groups}"));
        *count.entry(uid.to_owned()).or_default() += 1;
    }
    count
}

/// Container id and restarts of each Pod, by name.
fn containers(pods: &[Value]) -> BTreeSet<String> {
    let of = |pod: &Value| {
        let status = &pod["status"]["containerStatuses"][0];
        format!("{} {} {}", pod["metadata"]["name"], status["containerID"], status["restartCount"])
    };
    pods.iter().map(of).collect()
}

fn pods(space: &Space, replicas: usize) -> Vec<Value> {
    space.kubectl.until("as many Pods as wanted are there, all Ready", &["pods", "-l", "name=app"], |pods| {
        pods.len() == replicas && pods.iter().all(is_ready)
    })
}

/// Exactly one server for each Pod of the API, none without a Pod.
fn one_server_for_each(space: &Space) {
    until("each Pod has one server, and each server a Pod", || {
        let list = space.kubectl.json(&["get", "pods"]);
        let uids: BTreeMap<String, usize> =
            items(&list).iter().map(|p| (p["metadata"]["uid"].as_str().unwrap().to_owned(), 1)).collect();
        (servers(space.home) == uids).then_some(())
    });
    for pod in space.kubectl.names(&["pods"]) {
        let told = space.events(&pod);
        let started = told.iter().filter(|(_, reason)| reason == "Started").count();
        assert!(started <= 1, "{pod} was started {started} times: {told:?}");
    }
}

fn nothing_is_lost_doubled_or_forgotten(space: &Space) {
    space.apply(&format!("{}\n{}", deployment(4, json!({})), common::service()));
    space.kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
    let target =
        space.kubectl.ok(&["get", "service", "my-service", "-o", "jsonpath={.spec.clusterIP}"]) + ":80";
    let (stop, name) = (AtomicBool::new(false), &space.home.name);
    let count = std::thread::scope(|scope| {
        let stream = scope.spawn(|| traffic::stream(name, "node-2", &target, &stop));
        let outcome = std::panic::catch_unwind(|| {
            at_rest(space);
            in_the_middle_of_starts(space);
            in_the_middle_of_ends(space);
        });
        stop.store(true, Ordering::Relaxed);
        let count = stream.join().unwrap();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        count
    });
    assert_eq!(count.failed, Vec::<String>::new(), "of {} requests", count.answered + count.failed.len());
    assert!(count.answered > 100, "{count:?}");
}

fn at_rest(space: &Space) {
    let before = containers(&pods(space, 4));
    kill_engine(space.home);
    let up = space.home.up().succeeded();
    assert!(up.stdout.contains("taken over"), "{}", up.stdout);
    assert_eq!(containers(&pods(space, 4)), before, "the same containers, none started again");
    one_server_for_each(space);
}

fn in_the_middle_of_starts(space: &Space) {
    let before = containers(&pods(space, 4));
    space.kubectl.ok(&["scale", "deployment/app", "--replicas=8"]);
    // Somewhere between the first sandbox and the last readiness: when does not matter.
    std::thread::sleep(Duration::from_millis(150));
    kill_engine(space.home);
    space.home.up().succeeded();
    let after = containers(&pods(space, 8));
    assert!(before.is_subset(&after), "{before:#?} are not all in {after:#?}");
    one_server_for_each(space);
}

fn in_the_middle_of_ends(space: &Space) {
    space.kubectl.ok(&["rollout", "restart", "deployment/app"]);
    std::thread::sleep(Duration::from_millis(300));
    kill_engine(space.home);
    space.home.up().succeeded();
    space.kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=90s"]);
    pods(space, 8);
    one_server_for_each(space);
}
