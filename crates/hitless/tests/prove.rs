//! `hitless prove`: the report's shape, the verdict, and that losses are counted where there are some.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::{
    collections::BTreeSet,
    process::Command,
    sync::{Mutex, PoisonError},
};

use common::{Cluster, HITLESS, Home, leftovers, run};
use serde_json::Value;

/// The ways of requests, in the order of the report; each with new connections and with kept-alive ones.
const WAYS: &[&str] = &["clusterip-node", "clusterip-pod", "nodeport", "ingress", "dns-headless"];

/// Two runs at once would measure how two cores are shared, and nothing else.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The keys of an object.
fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}")).keys().map(String::as_str).collect()
}

/// The one scenario of a report, whose shape is checked.
fn scenario(json: &str) -> Value {
    let report: Value =
        serde_json::from_str(json).unwrap_or_else(|error| panic!("no JSON ({error}):\n{json}"));
    assert_eq!(keys(&report), BTreeSet::from(["scenarios"]));
    assert_eq!(report["scenarios"].as_array().unwrap().len(), 1);
    let scenario = report["scenarios"][0].clone();
    assert_eq!(
        keys(&scenario),
        BTreeSet::from(["scenario", "requests", "failed", "paths", "withdrawal_ms", "duration_s", "passed"])
    );
    assert_eq!(keys(&scenario["withdrawal_ms"]), BTreeSet::from(["p50", "p99", "max"]));
    let paths = scenario["paths"].as_array().unwrap();
    for path in paths {
        assert_eq!(keys(path), BTreeSet::from(["path", "requests", "failed", "p50_ms", "p99_ms"]));
        assert!(path["requests"].as_u64().unwrap() > 0, "no traffic: {path}");
    }
    let names: Vec<&str> = paths.iter().map(|path| path["path"].as_str().unwrap()).collect();
    let wanted: Vec<String> =
        WAYS.iter().flat_map(|way| [format!("{way}/new"), format!("{way}/keep-alive")]).collect();
    assert_eq!(names, wanted);
    for count in ["requests", "failed"] {
        let sum: u64 = paths.iter().map(|path| path[count].as_u64().unwrap()).sum();
        assert_eq!(scenario[count], sum, "{count} is the sum of the paths'");
    }
    scenario
}

#[test]
fn on_a_running_cluster_a_rollout_loses_nothing_and_force_is_seen_to_lose() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::up("prove");
    let kubeconfig = cluster.home.cluster_dir().join("admin.kubeconfig");
    let prove = |scenario: &str| {
        run(Command::new(HITLESS).args(["prove", scenario, "--json", "-", "--kubeconfig"]).arg(&kubeconfig))
    };
    let rollout = prove("rollout");
    let report = scenario(&rollout.stdout);
    assert_eq!(
        (&report["scenario"], &report["failed"]),
        (&"rollout".into(), &0.into()),
        "{}",
        rollout.stderr
    );
    assert_eq!((&report["passed"], rollout.code), (&true.into(), Some(0)), "{}", rollout.stderr);
    assert!(report["withdrawal_ms"]["p50"].as_f64().unwrap() > 0.0, "{report}");

    let force = prove("force");
    let report = scenario(&force.stdout);
    assert!(
        report["failed"].as_u64().unwrap() > 0,
        "Pods were taken away by force, and nothing was lost: {report}"
    );
    assert_eq!((&report["passed"], force.code), (&false.into(), Some(1)), "{}", force.stderr);
    let told =
        |word: &str| force.stderr.lines().any(|line| line.contains(word) && line.contains("clusterip-"));
    assert!(
        told("web-new-") || told("web-keep-alive-"),
        "no loss is told with its path and Pod: {}",
        force.stderr
    );

    let left = cluster.home.kubectl().names(&["namespaces"]);
    assert!(left.iter().all(|name| !name.contains("prove")), "prove leaves its namespaces: {left:?}");
    let compare = run(Command::new(HITLESS).args(["prove", "--compare", "--kubeconfig"]).arg(&kubeconfig));
    assert_eq!(compare.code, Some(2), "only a cluster of one's own can be switched");

    let same_name = run(&mut cluster.home.hitless("prove", &["delete"]));
    assert_eq!(same_name.code, Some(2), "{}", same_name.all());
    assert!(same_name.stderr.contains("being started, used or taken away by process"), "{}", same_name.all());
    assert_eq!(cluster.home.kubectl().names(&["nodes"]).len(), 2, "the cluster of that name is left alone");
}

#[test]
fn by_itself_it_brings_a_cluster_and_takes_it_away() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let home = Home::new("own");
    let file = home.path().join("report.json");
    let prove =
        run(home.hitless("prove", &["delete", "--requests", "6000", "--json"]).arg(&file)).succeeded();
    assert!(
        prove.stdout.contains("clusterip-node/new") && prove.stdout.contains("PASSED"),
        "{}",
        prove.all()
    );
    let report = scenario(&std::fs::read_to_string(&file).unwrap());
    assert_eq!((&report["failed"], &report["passed"]), (&0.into(), &true.into()));
    // Once over it would be about half as many.
    assert!(report["requests"].as_u64().unwrap() >= 6000, "{report}");
    assert_eq!(leftovers::of(&home.name, &home.data_dir()), Vec::<String>::new());
}
