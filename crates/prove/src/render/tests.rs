//! What a user sees, as it is printed.

use insta::assert_snapshot;

use super::*;
use crate::{
    lines::Tally,
    paths::{Path, path},
    report::{Measured, Withdrawal, judge},
    withdrawal::Stop,
};

fn stop(pod: &str, stopped_at: Option<&str>) -> Stop {
    Stop {
        pod: pod.to_owned(),
        uid: pod.to_owned(),
        node: "node-1".to_owned(),
        keeps_alive: pod.contains("keep-alive"),
        headless: false,
        deleted_at: Some("2026-01-01T00:00:00Z".parse().unwrap()),
        stopped_at: stopped_at.map(|at| at.parse().unwrap()),
        gone_at: None,
    }
}

fn measured(failures: u64, problems: &[&str]) -> ScenarioReport {
    let mut tally = Tally::default();
    for path in Path::all() {
        let failed = if path == self::path("clusterip-node/new") { failures } else { 0 };
        for index in 0..failed.min(30) {
            let at_us = 1_767_225_600_200_000 + index * 3_333;
            tally.take(
                &path.to_string(),
                path,
                &format!(r#"{{"fail":{{"at_us":{at_us},"cause":"connection refused"}}}}"#),
            );
        }
        let ok = 1_500 - failed;
        let summary = format!(
            r#"{{"summary":{{"sent":1500,"ok":{ok},"failed":{failed},"hist":[[400,{ok}],[3100,20]]}}}}"#
        );
        tally.take(&path.to_string(), path, &summary);
    }
    let stops = vec![
        stop("web-new-5f7d8c9b6-abcde", Some("2026-01-01T00:00:00.008123Z")),
        stop("web-keep-alive-7c9d5b8f4d-fghij", None),
    ];
    let problems = problems.iter().map(|&text| text.to_owned()).collect();
    let measured = Measured {
        scenario: Scenario::Rollout,
        tally,
        stops,
        expectations: Vec::new(),
        duration_s: 4.2,
        problems,
    };
    judge(measured, &crate::Options::default())
}

#[test]
fn a_scenario_that_passed_with_its_comparison() {
    let mut own = measured(0, &[]);
    own.compare = Some(Compare {
        loop_off: Some(Box::new(measured(231, &[]))),
        sleep: Some(Box::new(ScenarioReport { duration_s: 18.9, ..measured(0, &["something went wrong"]) })),
    });
    let text = render(&Report { scenarios: vec![own] }, false);
    assert_snapshot!(text);
}

#[test]
fn a_scenario_that_failed_names_what_was_lost_and_what_it_waited_for() {
    let problem = "waited 120 s for deployment web-new to be rolled out; still missing: web-new-5f7d8c9b6-abcde is \
                   not hitless.dev/Programmed";
    let text = render(&Report { scenarios: vec![measured(25, &[problem])] }, false);
    assert_snapshot!(text);
}

#[test]
fn nothing_is_wider_than_100_columns_whatever_the_names() {
    let long = "x".repeat(150);
    let mut report = measured(3, &["word ".repeat(60).as_str()]);
    report.withdrawal_ms = Withdrawal { p50: Some(20_000.0), p99: None, max: Some(1e9) };
    for stop in &mut report.stops {
        (stop.pod, stop.node) = (long.clone(), long.clone());
    }
    for lost in &mut report.lost {
        (lost.pod, lost.cause) = (Some(long.clone()), long.clone());
    }
    for row in render(&Report { scenarios: vec![report] }, false).lines() {
        assert!(row.chars().count() <= WIDTH, "{row}");
    }
}

#[test]
fn colour_changes_nothing_but_colour() {
    let report = Report { scenarios: vec![measured(2, &["a problem"])] };
    let mut plain = String::new();
    for (index, part) in render(&report, true).split('\x1b').enumerate() {
        plain.push_str(if index == 0 { part } else { part.split_once('m').unwrap().1 });
    }
    assert_eq!(plain, render(&report, false));
    assert!(!render(&report, false).contains('\x1b'));
}

#[test]
fn numbers_are_grouped() {
    assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
}
