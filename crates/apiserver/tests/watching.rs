//! Watches, as a client sees them, over the real store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{CONFIG_MAPS, PODS, bench, bench_with, config_map, pod};
use hitless_apiserver::{Limits, Options};
use hitless_base::Revision;
use hitless_store::Store;
use rand::Rng;
use serde_json::{Value, json};

#[tokio::test]
async fn a_watch_shows_every_change_after_its_start() {
    let bench = bench().await;
    let list = bench.get(CONFIG_MAPS).await.ok();
    let from = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    bench.post(CONFIG_MAPS, config_map("a", json!({"k": "1"}))).await.ok();
    let mut events = bench.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={from}")).await;
    let added = events.next().await;
    assert_eq!((&added["type"], &added["object"]["kind"]), (&json!("ADDED"), &json!("ConfigMap")));
    let changed = bench.merge(&format!("{CONFIG_MAPS}/a"), json!({"data": {"k": "2"}})).await.ok();
    let modified = events.next().await;
    assert_eq!((&modified["type"], &modified["object"]), (&json!("MODIFIED"), &changed));
    bench.post("/api/v1/namespaces/kube-system/configmaps", config_map("other", json!({}))).await.ok();
    bench.delete(&format!("{CONFIG_MAPS}/a"), Value::Null).await.ok();
    let deleted = events.next().await;
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(deleted["object"]["metadata"]["resourceVersion"], bench.store_revision().to_string());
}

#[tokio::test]
async fn a_watch_without_a_revision_begins_with_what_there_is() {
    let bench = bench().await;
    bench.post(PODS, pod("p")).await.ok();
    let mut events = bench.watch(&format!("{PODS}?watch=1")).await;
    assert_eq!(events.brief().await, ("ADDED".into(), "p".into()));
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = bench.watch(&format!("{PODS}?{query}")).await;
    assert_eq!(events.brief().await, ("ADDED".into(), "p".into()));
    let mark = events.next().await;
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let bad = bench.get(&format!("{PODS}?watch=1&sendInitialEvents=true")).await;
    assert_eq!(bad.code, 422);
}

#[tokio::test]
async fn a_selector_shows_what_enters_and_leaves() {
    let bench = bench().await;
    let from = bench.store_revision();
    let mut by_label =
        bench.watch(&format!("{PODS}?watch=1&resourceVersion={from}&labelSelector=app%3Dblue")).await;
    let mut by_node =
        bench.watch(&format!("{PODS}?watch=1&resourceVersion={from}&fieldSelector=spec.nodeName%3Dn1")).await;
    bench.post(PODS, pod("p")).await.ok();
    let path = format!("{PODS}/p");
    bench.merge(&path, json!({"metadata": {"labels": {"app": "blue"}}})).await.ok();
    assert_eq!(by_label.brief().await, ("ADDED".into(), "p".into()));
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    bench.post(&format!("{path}/binding"), binding).await.ok();
    assert_eq!(by_label.brief().await, ("MODIFIED".into(), "p".into()));
    assert_eq!(by_node.brief().await, ("ADDED".into(), "p".into()));
    bench.merge(&path, json!({"metadata": {"labels": {"app": "green"}}})).await.ok();
    let left = by_label.next().await;
    assert_eq!(left["type"], "DELETED");
    assert_eq!(left["object"]["metadata"]["labels"]["app"], "blue");
    assert_eq!(left["object"]["metadata"]["resourceVersion"], bench.store_revision().to_string());
    assert_eq!(by_node.brief().await, ("MODIFIED".into(), "p".into()));
    bench.delete(&path, json!({"gracePeriodSeconds": 0})).await.ok();
    assert_eq!(by_node.brief().await, ("DELETED".into(), "p".into()));
}

#[tokio::test]
async fn forgotten_history_is_told_as_410() {
    let bench = bench().await;
    for i in 0..5 {
        bench.post(CONFIG_MAPS, config_map(&format!("c{i}"), json!({}))).await.ok();
    }
    bench.store.compact(Revision(bench.store_revision())).await.unwrap();
    let mut events = bench.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=1")).await;
    let error = events.next().await;
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(error["object"]["reason"], "Expired");
    assert_eq!(events.next_or_end().await, None);
}

#[tokio::test]
async fn a_watch_of_one_object_shows_that_one() {
    let bench = bench().await;
    let from = bench.store_revision();
    let query = format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}&fieldSelector=metadata.name%3Da");
    let mut events = bench.watch(&query).await;
    let mut by_path = bench.watch(&format!("{CONFIG_MAPS}/a?watch=1&resourceVersion={from}")).await;
    bench.post(CONFIG_MAPS, config_map("a-longer", json!({}))).await.ok();
    bench.post(CONFIG_MAPS, config_map("a", json!({}))).await.ok();
    assert_eq!(events.brief().await, ("ADDED".into(), "a".into()));
    assert_eq!(by_path.brief().await, ("ADDED".into(), "a".into()));
}

#[tokio::test]
async fn bookmarks_come_while_other_keys_change_and_at_the_end() {
    let limits = Limits { bookmark_period: Duration::from_millis(50), ..Limits::default() };
    let bench = bench_with(Options { limits, ..Options::default() }).await;
    let from = bench.store_revision();
    let query = format!("{PODS}?watch=1&resourceVersion={from}&allowWatchBookmarks=true&timeoutSeconds=1");
    let mut events = bench.watch(&query).await;
    bench.post(CONFIG_MAPS, config_map("a", json!({}))).await.ok();
    let now = bench.store_revision().to_string();
    let mut last = None;
    while let Some(event) = events.next_or_end().await {
        assert_eq!((&event["type"], &event["object"]["kind"]), (&json!("BOOKMARK"), &json!("Pod")));
        last = event["object"]["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    }
    assert_eq!(last, Some(now));
}

#[tokio::test]
async fn the_servers_end_ends_watches() {
    let bench = bench().await;
    let mut events = bench.watch(&format!("{PODS}?watch=1")).await;
    bench.server.end_watches();
    assert_eq!(events.next_or_end().await, None);
}

#[tokio::test]
async fn a_table_is_watched_row_by_row_with_its_columns_once() {
    let bench = bench().await;
    bench.post(PODS, pod("a")).await.ok();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut events = bench.watch_as(&format!("{PODS}?watch=1"), accept).await;
    let first = events.next().await;
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    assert!(first["object"]["columnDefinitions"].is_array());
    bench.post(PODS, pod("b")).await.ok();
    let second = events.next().await;
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
    assert!(second["object"]["columnDefinitions"].is_null());
}

const CONSUMERS: &str = "/apis/hitless.dev/v1alpha1/endpointconsumers";

fn consumer(name: &str, incarnation: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": "ServiceProxy", "nodeName": "n1", "incarnation": incarnation}})
}

fn word(incarnation: &str, observed: u64) -> Value {
    json!({"status": {"incarnation": incarnation, "observedRevision": observed}})
}

#[tokio::test]
async fn a_watermark_is_volatile_and_watched() {
    let bench = bench().await;
    let made = bench.post(CONSUMERS, consumer("p", "one")).await.ok();
    let at = bench.store_revision();
    let mut events = bench.watch(&format!("{CONSUMERS}?watch=1&resourceVersion={at}")).await;
    let path = format!("{CONSUMERS}/p");
    let said = bench.merge(&format!("{path}/status"), word("one", at)).await.ok();
    assert_eq!(said["status"]["observedRevision"], at);
    assert!(said["status"]["renewTime"].is_string());
    assert_eq!(said["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    assert_eq!(bench.store_revision(), at, "a watermark is not a write");
    let event = events.next().await;
    assert_eq!((&event["type"], &event["object"]), (&json!("MODIFIED"), &said));
    assert_eq!(bench.get(&path).await.ok(), said);
    assert_eq!(bench.get(CONSUMERS).await.ok()["items"][0]["status"], said["status"]);
    // A watch that begins now gets the present state.
    let mut late = bench.watch(&format!("{CONSUMERS}?watch=1&resourceVersion={at}")).await;
    assert_eq!(late.next().await["object"]["status"], said["status"]);
}

#[tokio::test]
async fn a_watermark_that_cannot_be_true_is_refused() {
    let bench = bench().await;
    bench.post(CONSUMERS, consumer("p", "one")).await.ok();
    let path = format!("{CONSUMERS}/p/status");
    let reached = bench.store_revision();
    assert_eq!(bench.merge(&path, word("two", 1)).await.code, 409);
    assert_eq!(bench.merge(&path, word("one", reached + 1)).await.code, 422);
    bench.merge(&path, word("one", reached)).await.ok();
    assert_eq!(bench.merge(&path, word("one", reached - 1)).await.code, 409);
    assert_eq!(
        bench.merge(&path, json!({"status": {"incarnation": "one", "observedRevision": -1}})).await.code,
        400
    );
    // A new incarnation starts anew, and does not inherit.
    let again = bench.merge(&format!("{CONSUMERS}/p"), json!({"spec": {"incarnation": "two"}})).await.ok();
    assert!(again.get("status").is_none(), "{again}");
    assert_eq!(bench.merge(&path, word("one", reached)).await.code, 409);
    bench.merge(&path, word("two", 1)).await.ok();
}

#[tokio::test]
async fn a_status_never_comes_before_its_object() {
    let bench = bench().await;
    let from = bench.store_revision();
    let mut events = bench.watch(&format!("{CONSUMERS}?watch=1&resourceVersion={from}")).await;
    bench.post(CONSUMERS, consumer("p", "one")).await.ok();
    bench.merge(&format!("{CONSUMERS}/p/status"), word("one", 1)).await.ok();
    let first = events.next().await;
    assert_eq!((&first["type"], &first["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("p")));
}

/// What a client knows from a watch: each event must fit what came before it.
fn apply(known: &mut BTreeMap<String, Value>, mut event: Value) {
    let (word, object) = (event["type"].take(), event["object"].take());
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    match word.as_str().unwrap() {
        "ADDED" => assert!(known.insert(name.clone(), object).is_none(), "{name} was there"),
        "MODIFIED" => assert!(known.insert(name.clone(), object).is_some(), "{name} was not there"),
        "DELETED" => assert!(known.remove(&name).is_some(), "{name} was not there"),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn whatever_happens_a_watch_ends_up_with_what_a_list_shows() {
    let bench = bench().await;
    let from = bench.store_revision();
    let watches = ["", "labelSelector=app%3Dx", "fieldSelector=metadata.name%3Dc1"];
    let mut all = Vec::new();
    for selector in watches {
        let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}&{selector}");
        all.push((selector, bench.watch(&path).await, BTreeMap::new()));
    }
    let mut random = <rand::rngs::SmallRng as rand::SeedableRng>::seed_from_u64(7);
    for step in 0..300 {
        let name = format!("c{}", random.random_range(0..4));
        let label = if random.random_bool(0.5) { "x" } else { "y" };
        let path = format!("{CONFIG_MAPS}/{name}");
        match random.random_range(0..4) {
            0 => drop(bench.delete(&path, Value::Null).await),
            1 => drop(bench.merge(&path, json!({"data": {"step": step.to_string()}})).await),
            2 => drop(bench.merge(&path, json!({"metadata": {"labels": {"app": label}}})).await),
            _ => {
                let mut object = config_map(&name, json!({}));
                object["metadata"]["labels"] = json!({ "app": label });
                drop(bench.post(CONFIG_MAPS, object).await);
            }
        }
    }
    // The last change is seen by all.
    bench.delete(&format!("{CONFIG_MAPS}/c1"), Value::Null).await;
    let mut last = config_map("c1", json!({"last": "yes"}));
    last["metadata"]["labels"] = json!({"app": "x"});
    bench.post(CONFIG_MAPS, last).await.ok();
    for (selector, mut events, mut known) in all {
        loop {
            apply(&mut known, events.next().await);
            if known.get("c1").is_some_and(|c| c["data"]["last"] == "yes") {
                break;
            }
        }
        let list = bench.get(&format!("{CONFIG_MAPS}?{selector}")).await.ok();
        let mut listed = BTreeMap::new();
        for item in list["items"].as_array().unwrap() {
            let mut item = item.clone();
            item["apiVersion"] = "v1".into();
            item["kind"] = "ConfigMap".into();
            listed.insert(item["metadata"]["name"].as_str().unwrap().to_owned(), item);
        }
        assert_eq!(known, listed, "{selector}");
    }
}

#[tokio::test]
async fn watches_are_counted_and_bounded() {
    let limits = Limits { watches_max: 1, ..Limits::default() };
    let bench = bench_with(Options { limits, ..Options::default() }).await;
    let first = bench.watch(&format!("{PODS}?watch=1")).await;
    assert_eq!(bench.get(&format!("{PODS}?watch=1")).await.code, 429);
    drop(first);
    bench.watch(&format!("{PODS}?watch=1")).await;
}
