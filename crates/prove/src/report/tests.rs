//! The verdict: what passes, what does not, and what the JSON looks like.

use insta::assert_snapshot;

use super::*;
use crate::paths::path;

fn line(sent: u64, failed: u64) -> String {
    let ok = sent - failed;
    format!(r#"{{"summary":{{"sent":{sent},"ok":{ok},"failed":{failed},"hist":[[400,{ok}]]}}}}"#)
}

/// Enough traffic on each path; on one of them so many requests, of which some failed.
fn measured(sent: u64, failed: u64) -> Measured {
    let mut tally = Tally::default();
    for other in Path::all().filter(|other| *other != path("clusterip-pod/new")) {
        tally.take(&other.to_string(), other, &line(300, 0));
    }
    tally.take("clusterip-pod/new", path("clusterip-pod/new"), &line(sent, failed));
    Measured {
        scenario: Scenario::Delete,
        tally,
        stops: Vec::new(),
        expectations: Vec::new(),
        duration_s: 2.0,
        problems: Vec::new(),
    }
}

fn verdict(measured: Measured) -> ScenarioReport {
    judge(measured, &Options::default())
}

#[test]
fn it_passes_only_without_loss_with_enough_traffic_and_with_every_bound_kept() {
    let enough = 300;
    assert!(verdict(measured(enough, 0)).passed);
    assert!(!verdict(measured(enough, 1)).passed, "one lost request");

    let minimum = requests_min(path("clusterip-pod/new"), 2.0, &Options::default());
    let starved = verdict(measured(minimum - 1, 0));
    assert!(!starved.passed);
    let few = minimum - 1;
    let told = format!("clusterip-pod/new: {few} requests, too few for a verdict (at least {minimum})");
    assert_eq!(starved.problems, [told]);

    let unbound = Expectation { uid: "u".into(), pod: "web".into(), ms_min: 0.0, ms_max: 1.0 };
    assert!(!verdict(Measured { expectations: vec![unbound], ..measured(enough, 0) }).passed);

    let stuck = Measured { problems: vec!["it hung".into()], ..measured(enough, 0) };
    assert!(!verdict(stuck).passed);
}

#[test]
fn no_traffic_at_all_is_no_pass() {
    let mut silent = measured(0, 0);
    (silent.tally, silent.duration_s) = (Tally::default(), 0.0);
    assert!(!verdict(silent).passed);
    assert!(!Report::default().passed());
}

#[test]
fn requests_that_vanished_are_named() {
    let mut lost = measured(300, 0);
    lost.tally.take("another", path("clusterip-node/new"), r#"{"t":1,"sent":10,"ok":7,"failed":1}"#);
    let report = verdict(lost);
    assert_eq!(report.problems, ["clusterip-node/new: 2 requests are neither answered nor failed"]);
}

#[test]
fn percentiles_are_by_nearest_rank() {
    let times: Vec<f64> = (1..=200).rev().map(f64::from).collect();
    assert_eq!(withdrawal(&times), Withdrawal { p50: Some(100.0), p99: Some(198.0), max: Some(200.0) });
    assert_eq!(withdrawal(&[7.0]), Withdrawal { p50: Some(7.0), p99: Some(7.0), max: Some(7.0) });
    assert_eq!(withdrawal(&[]), Withdrawal::default());
}

#[test]
fn a_loss_on_a_new_connection_names_the_pod_stopped_last() {
    let at = |text: &str| -> Timestamp { text.parse().unwrap() };
    let stop = |pod: &str, keeps_alive, stopped_at: &str| Stop {
        pod: pod.into(),
        uid: pod.into(),
        node: "node-1".into(),
        keeps_alive,
        headless: false,
        deleted_at: None,
        stopped_at: Some(at(stopped_at)),
        gone_at: None,
    };
    let mut measured = measured(300, 0);
    measured.stops = vec![
        stop("first", false, "2026-01-01T00:00:01Z"),
        stop("second", false, "2026-01-01T00:00:02Z"),
        stop("third", false, "2026-01-01T00:00:03Z"),
        stop("other", true, "2026-01-01T00:00:02.1Z"),
    ];
    for (at_us, pod) in [(1_767_225_602_500_000_u64, ""), (1_767_225_600_000_000, r#","pod":"known""#)] {
        let line = format!(r#"{{"fail":{{"at_us":{at_us},"cause":"reset"{pod}}}}}"#);
        measured.tally.take("a", path("clusterip-node/new"), &line);
    }
    let pods: Vec<_> = verdict(measured).lost.into_iter().map(|lost| lost.pod.unwrap()).collect();
    assert_eq!(pods, ["known", "second?"]);
}

#[test]
fn the_json_is_what_was_promised() {
    let mut report = Report::default();
    report.take(Mode::Loop, vec![verdict(measured(300, 0))]);
    report.take(Mode::LoopOff, vec![verdict(measured(300, 9))]);
    assert_snapshot!(report.to_json().unwrap());
}
