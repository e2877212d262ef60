//! What is out of bounds gets Kubernetes' answer, within a bound: bodies, names, points in time, and clients that ask for
//! much and take little.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::time::{Duration, Instant};

use axum::body::Body;
use common::{CONFIG_MAPS, DEPLOYMENTS, PODS, bench, bench_over, config_map, deployment, pod};
use hitless_apiserver::Options;
use serde_json::{Value, json};

#[tokio::test]
async fn fields_that_stand_twice_are_refused_or_told() {
    let bench = bench().await;
    let text = r#"{"metadata":{"name":"a"},"data":{"k":"1","k":"2"}}"#;
    let strict =
        bench.call("POST", &format!("{CONFIG_MAPS}?fieldValidation=Strict"), "application/json", text).await;
    assert_eq!(
        strict.refusal(),
        (
            400,
            r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: duplicate field "data.k""#
        )
    );
    let warned = bench.call("POST", CONFIG_MAPS, "application/json", text).await;
    assert_eq!(warned.warnings, [r#"299 - "duplicate field \"data.k\"""#]);
    assert_eq!(warned.ok()["data"]["k"], "2");
    let path = format!("{CONFIG_MAPS}/a?fieldValidation=Ignore");
    assert!(bench.call("PUT", &path, "application/json", text).await.warnings.is_empty());
    let yaml = "metadata: {name: b}\ndata:\n  k: \"1\"\n  k: \"2\"\n";
    let path = format!("{CONFIG_MAPS}?fieldValidation=Strict");
    assert_eq!(bench.call("POST", &path, "application/yaml", yaml).await.code, 400);
    assert_eq!(bench.call("POST", CONFIG_MAPS, "application/yaml", yaml).await.warnings.len(), 1);
}

#[tokio::test]
async fn a_path_leads_to_one_object_or_nowhere() {
    let bench = bench().await;
    for (path, code) in [
        (format!("{CONFIG_MAPS}/.."), 400),
        (format!("{CONFIG_MAPS}/%2e%2e"), 400),
        (format!("{CONFIG_MAPS}/a%2Fb"), 400),
        (format!("{CONFIG_MAPS}/a%2525b"), 400),
        (format!("{CONFIG_MAPS}/../secrets/x"), 404),
        ("/api/v1/namespaces/../configmaps/kube-root-ca.crt".to_owned(), 404),
        ("/api/v1/namespaces/a%2Fb/configmaps".to_owned(), 404),
        ("/api/v1/../../etc/passwd".to_owned(), 404),
        (format!("{CONFIG_MAPS}/x/y/z/w"), 404),
    ] {
        assert_eq!(bench.get(&path).await.code, code, "{path}");
    }
    let refused = bench.delete(&format!("{CONFIG_MAPS}/%2e%2e"), Value::Null).await;
    assert_eq!(refused.refusal(), (400, r#"Name parameter invalid: "..": may not be '..'"#));
}

#[tokio::test]
async fn values_out_of_bounds_are_named() {
    let bench = bench().await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut object = pod("p");
        change(&mut object);
        object
    };
    for (object, code, words) in [
        (with(&|p| p["metadata"]["name"] = "A_b".into()), 422, "metadata.name: Invalid value"),
        (with(&|p| p["metadata"]["name"] = "a".repeat(254).into()), 422, "must be no more than 253"),
        (
            with(&|p| p["metadata"]["labels"] = json!({"a": "x".repeat(64)})),
            422,
            "metadata.labels: Invalid value",
        ),
        (
            with(&|p| p["metadata"]["labels"] = json!({"a": 1})),
            400,
            "cannot unmarshal number into Go struct field",
        ),
        (
            with(&|p| p["spec"]["containers"][0]["ports"] = json!([{"containerPort": 70000}])),
            422,
            "must be between 1 and 65535",
        ),
        (
            with(&|p| p["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1 kg"}})),
            400,
            "quantities must match",
        ),
        (
            with(&|p| p["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "-1"}})),
            422,
            "must be greater than or equal to 0",
        ),
        (
            with(&|p| p["spec"]["containers"] = json!("web")),
            400,
            "cannot unmarshal string into Go struct field",
        ),
        (with(&|p| p["spec"]["terminationGracePeriodSeconds"] = json!(1e30)), 400, "cannot unmarshal number"),
    ] {
        let refused = bench.post(PODS, object).await;
        assert_eq!(refused.code, code, "{}", refused.body);
        assert!(refused.refusal().1.contains(words), "{words}: {}", refused.body);
    }
    let large = config_map("large", json!({"k": "x".repeat(1024 * 1024 + 1)}));
    let refused = bench.post(CONFIG_MAPS, large).await;
    assert!(matches!(refused.code, 413 | 422), "{}", refused.code);
    let deep = "[".repeat(100_000);
    for media in ["application/json", "application/yaml"] {
        assert_eq!(bench.call("POST", CONFIG_MAPS, media, deep.clone()).await.code, 400);
    }
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n";
    let began = Instant::now();
    let path = format!("{CONFIG_MAPS}/bomb?fieldManager=me");
    assert_eq!(bench.call("PATCH", &path, "application/apply-patch+yaml", bomb).await.code, 400);
    assert_eq!(bench.call("POST", CONFIG_MAPS, "application/yaml", bomb).await.code, 400);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn points_in_time_that_cannot_be_had_are_told() {
    let bench = bench().await;
    for i in 0..3 {
        bench.post(CONFIG_MAPS, config_map(&format!("c{i}"), json!({}))).await.ok();
    }
    let first = bench.get(&format!("{CONFIG_MAPS}?limit=1")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let refused = bench.get(&format!("{CONFIG_MAPS}?limit=1&continue={token}&resourceVersion=7")).await;
    assert_eq!(refused.refusal(), (400, "specifying resource version is not allowed when using continue"));
    assert_eq!(bench.get(&format!("{CONFIG_MAPS}?continue=nonsense")).await.code, 400);
    let far = bench.store_revision() + 1000;
    let future = bench.get(&format!("{CONFIG_MAPS}?resourceVersion={far}")).await;
    assert_eq!(
        (future.code, &future.body["details"]["causes"][0]["reason"]),
        (504, &json!("ResourceVersionTooLarge"))
    );
    let mut events = bench.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={far}")).await;
    assert_eq!(events.next().await["object"]["code"], 410);
    assert_eq!(bench.get(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=x")).await.code, 400);
    let stale = json!({"preconditions": {"resourceVersion": "1"}});
    assert_eq!(bench.delete(&format!("{CONFIG_MAPS}/c0"), stale).await.code, 409);
    let other = json!({"preconditions": {"uid": "another"}});
    assert_eq!(bench.delete(&format!("{CONFIG_MAPS}/c0"), other).await.code, 409);
    let listed =
        bench.delete(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Dc1"), Value::Null).await.ok();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    let left = bench.get(CONFIG_MAPS).await.ok();
    let names: Vec<&Value> =
        left["items"].as_array().unwrap().iter().map(|c| &c["metadata"]["name"]).collect();
    assert!(names.contains(&&json!("c0")) && !names.contains(&&json!("c1")), "{names:?}");
}

#[tokio::test]
async fn a_client_that_stops_reading_its_watch_costs_no_memory_and_lists_anew() {
    let store = hitless_store::Options { history_events_max: 64, ..hitless_store::Options::default() };
    let bench = bench_over(store, Options::default()).await;
    let from = bench.store_revision();
    let mut stuck = bench.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}")).await;
    bench.post(CONFIG_MAPS, config_map("c", json!({}))).await.ok();
    for i in 0..300 {
        bench.merge(&format!("{CONFIG_MAPS}/c"), json!({"data": {"i": i.to_string()}})).await.ok();
    }
    let mut seen = 0;
    let last = loop {
        let event = stuck.next().await;
        if event["type"] == "ERROR" {
            break event;
        }
        seen += 1;
    };
    assert_eq!((&last["object"]["code"], &last["object"]["reason"]), (&json!(410), &json!("Expired")));
    assert!(seen <= 300, "{seen}");
    assert_eq!(stuck.next_or_end().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_watches_each_get_the_event() {
    let bench = bench().await;
    bench.post(DEPLOYMENTS, deployment("other", 1)).await.ok();
    let from = bench.store_revision();
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}");
    let before = resident_kib();
    let mut watches = Vec::new();
    for _ in 0..10_000 {
        watches.push(bench.watch(&path).await);
    }
    let each_kib = resident_kib().saturating_sub(before) / 10_000;
    assert!(each_kib < 16, "{each_kib} KiB for a watch");
    bench.post(CONFIG_MAPS, config_map("c", json!({}))).await.ok();
    for events in &mut watches {
        assert_eq!(events.brief().await, ("ADDED".to_owned(), "c".to_owned()));
    }
    // The server is as it was for others.
    let began = Instant::now();
    bench.call("GET", &format!("{CONFIG_MAPS}/c"), "", Body::empty()).await.ok();
    assert!(began.elapsed() < Duration::from_secs(2));
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
