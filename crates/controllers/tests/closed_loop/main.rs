//! The EndpointSlice controller and the loop's controller together, against an API in memory: from a Pod's change to
//! the condition that holds or frees its stop signal.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod fake;

use std::time::Duration;

use fake::{Fake, PATIENCE};
use hitless_controllers::{Context, Informers, context::Options, endpoints, endpointslice, withdrawal};
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const PROGRAMMED: &str = "hitless.dev/Programmed";
const WITHDRAWN: &str = "hitless.dev/Withdrawn";

struct Running {
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Running {
    fn start(fake: &Fake, options: Options) -> Self {
        let api = fake.clone();
        let client =
            kube::Client::new(tower::service_fn(move |request| api.clone().answer(request)), "default");
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let context = Context::new(client.clone(), options, &tasks, &cancel);
        let mut informers = Informers::new(&client);
        endpoints::start(&context, &mut informers);
        endpointslice::start(&context, &mut informers);
        withdrawal::start(&context, &mut informers);
        informers.start(&context);
        Self { tasks, cancel }
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        tokio::time::timeout(PATIENCE, self.tasks.wait()).await.expect("all tasks end when told to");
    }
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "ns", "uid": "service-web"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ports": [{"port": 80, "targetPort": 8080}]}
    })
}

fn consumer(name: &str) -> Value {
    json!({
        "apiVersion": "hitless.dev/v1alpha1", "kind": "EndpointConsumer", "metadata": {"name": name, "uid": name},
        "spec": {"type": "ServiceProxy", "incarnation": "i", "ackClass": "Proven", "leaseDurationSeconds": 40}
    })
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIP": "10.1.0.1",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
    })
}

/// Asks for the end of a Pod, as the API server notes it.
fn end(fake: &Fake, name: &str, budget_s: u64) {
    let mut pod = fake.get("pods", name).unwrap();
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:30Z");
    pod["metadata"]["annotations"] = json!({
        "hitless.dev/deleted-at": hitless_base::Timestamp::now().to_string(),
        "hitless.dev/withdrawal-budget-seconds": budget_s.to_string(),
    });
    fake.put("pods", pod);
}

/// The revision of the only slice, once it names the Pod so.
async fn listed(fake: &Fake, name: &str, condition: &str) -> u64 {
    let named = |fake: &Fake| {
        let slices = fake.all("endpointslices");
        let slice = slices.iter().find(|s| {
            let endpoints = s["endpoints"].as_array().into_iter().flatten();
            endpoints
                .into_iter()
                .any(|e| e["targetRef"]["name"] == name && e["conditions"][condition] == true)
        })?;
        slice["metadata"]["resourceVersion"].as_str()?.parse::<u64>().ok()
    };
    fake.until(&format!("{name} is listed as {condition}"), |fake| named(fake).is_some()).await;
    named(fake).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_comes_and_goes_with_the_word_of_every_consumer() {
    let fake = Fake::new();
    for name in ["service-proxy-node-1", "service-proxy-node-2"] {
        fake.put("endpointconsumers", consumer(name));
    }
    fake.put("services", service());
    fake.put("pods", pod("p"));
    let running = Running::start(&fake, Options::default());

    let revision = listed(&fake, "p", "ready").await;
    fake.say("service-proxy-node-1", revision);
    fake.until("it says that it waits", |fake| fake.is("p", PROGRAMMED, "False", "WaitingForConsumers"))
        .await;
    let (_, _, message) = fake.condition("p", PROGRAMMED).unwrap();
    assert!(message.starts_with("waiting for service-proxy-node-2 (has not said any revision"), "{message}");
    fake.say("service-proxy-node-2", revision);
    fake.until("Programmed", |fake| fake.is("p", PROGRAMMED, "True", "Acknowledged")).await;
    fake.until("its Event", |fake| fake.events("Programmed").len() == 1).await;

    end(&fake, "p", 30);
    let revision = listed(&fake, "p", "terminating").await;
    fake.say("service-proxy-node-2", revision);
    fake.until("it says that it waits", |fake| fake.is("p", WITHDRAWN, "False", "WaitingForConsumers")).await;
    fake.say("service-proxy-node-1", revision + 7);
    fake.until("Withdrawn", |fake| fake.is("p", WITHDRAWN, "True", "Acknowledged")).await;
    fake.until("its Event", |fake| fake.events("Withdrawn").len() == 1).await;
    let marks = fake.events("Withdrawn")[0]["metadata"]["annotations"]["hitless.dev/watermarks"].clone();
    let marks: Value = serde_json::from_str(marks.as_str().unwrap()).unwrap();
    let told: Vec<_> = marks
        .as_array()
        .unwrap()
        .iter()
        .map(|m| {
            (m["consumer"].as_str().unwrap(), m["revision"].as_u64().unwrap(), m["target"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(
        told,
        [("service-proxy-node-1", revision + 7, revision), ("service-proxy-node-2", revision, revision)]
    );

    fake.delete("pods", "p");
    fake.until("the endpoint is gone", |fake| {
        fake.all("endpointslices")[0]["endpoints"].as_array().is_none_or(Vec::is_empty)
    })
    .await;
    running.stop().await;
    let patches = fake.writes().iter().filter(|w| w.starts_with("PATCH")).count();
    assert_eq!(patches, 4, "each answer is written once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_consumer_holds_a_pod_for_the_budget_and_is_named() {
    let fake = Fake::new();
    fake.put("endpointconsumers", consumer("mute"));
    fake.put("services", service());
    fake.put("pods", pod("p"));
    let running = Running::start(&fake, Options::default());
    listed(&fake, "p", "ready").await;
    end(&fake, "p", 1);
    fake.until("the budget ends it", |fake| fake.is("p", WITHDRAWN, "True", "WithdrawalBudgetSpent")).await;
    assert!(fake.condition("p", WITHDRAWN).unwrap().2.contains("mute (has not said any revision"));
    fake.until("a warning", |fake| {
        fake.events("WithdrawalBudgetSpent").iter().any(|e| e["type"] == "Warning")
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_no_service_selects_is_held_by_nobody() {
    let fake = Fake::new();
    fake.put("endpointconsumers", consumer("mute"));
    fake.put("pods", pod("p"));
    let running = Running::start(&fake, Options::default());
    fake.until("Programmed", |fake| fake.is("p", PROGRAMMED, "True", "NoEndpoints")).await;
    end(&fake, "p", 30);
    fake.until("Withdrawn", |fake| fake.is("p", WITHDRAWN, "True", "NoEndpoints")).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_no_consumer_a_list_shows_it_and_nobody_is_waited_for() {
    let fake = Fake::new();
    fake.put("services", service());
    fake.put("pods", pod("p"));
    let running = Running::start(&fake, Options::default());
    listed(&fake, "p", "ready").await;
    end(&fake, "p", 30);
    fake.until("Withdrawn", |fake| fake.is("p", WITHDRAWN, "True", "Acknowledged")).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_loop_off_no_condition_is_ever_written() {
    let fake = Fake::new();
    fake.put("services", service());
    fake.put("pods", pod("p"));
    let running = Running::start(&fake, Options { loop_on: false, ..Options::default() });
    listed(&fake, "p", "ready").await;
    end(&fake, "p", 30);
    listed(&fake, "p", "terminating").await;
    running.stop().await;
    assert!(fake.writes().iter().all(|w| !w.starts_with("PATCH")), "{:?}", fake.writes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_lags_behind_makes_no_second_slice() {
    let mut fake = Fake::new();
    fake.lag = ("endpointslices", Duration::from_millis(60));
    fake.put("services", service());
    let running = Running::start(&fake, Options::default());
    let listed = |fake: &Fake| {
        fake.all("endpointslices")
            .iter()
            .map(|s| s["endpoints"].as_array().map_or(0, Vec::len))
            .sum::<usize>()
    };
    for n in 0..20 {
        fake.put("pods", pod(&format!("p{n}")));
        // Each comes while the slice that was written for an earlier one is not yet to be seen.
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    fake.until("all are listed", |fake| listed(fake) == 20).await;
    fake.until("old clients see them too", |fake| {
        fake.get("endpoints", "web")
            .is_some_and(|e| e["subsets"][0]["addresses"].as_array().is_some_and(|a| a.len() == 20))
    })
    .await;
    running.stop().await;
    let creates = fake.writes().iter().filter(|w| *w == "POST endpointslices").count();
    assert_eq!((fake.all("endpointslices").len(), creates), (1, 1), "{:?}", fake.writes());
}
