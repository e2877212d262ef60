//! The service proxy against an API server and a kernel in memory.

mod fake;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use hitless_base::SystemClock;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::consumer::{
    LEASE_S, deregister,
    fake::{Api as FakeApi, Said, TestClock},
};
use fake::FakeKernel;

fn service(name: &str, ip: &str) -> Value {
    json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name, "namespace": "ns"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80}]}})
}

fn slice(name: &str, service: &str, pods: &[u8]) -> Value {
    let endpoints: Vec<_> = pods
        .iter()
        .map(|n| json!({"addresses": [format!("10.1.0.{n}")], "conditions": {"ready": true}}))
        .collect();
    json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": name, "namespace": "ns", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 3000}], "endpoints": endpoints})
}

/// A running proxy of node `n1`.
struct World {
    api: FakeApi,
    kernel: Arc<FakeKernel>,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), ConsumerError>>,
}

impl World {
    fn start(api: FakeApi, clock: Arc<dyn Clock>) -> Self {
        Self::on(api, FakeKernel::new(), clock)
    }

    fn on(api: FakeApi, kernel: Arc<FakeKernel>, clock: Arc<dyn Clock>) -> Self {
        let cancel = CancellationToken::new();
        let task = tokio::spawn(run(api.client(), "n1".to_owned(), kernel.clone(), clock, cancel.clone()));
        Self { api, kernel, cancel, task }
    }

    /// With service `a` at 10.96.0.1 and these Pods; waits until it has said so.
    async fn with_service(pods: &[u8], clock: Arc<dyn Clock>) -> Self {
        let api = FakeApi::default();
        api.put("services", service("a", "10.96.0.1"));
        let revision = api.put("endpointslices", slice("a-1", "a", pods));
        let world = Self::start(api, clock);
        world.until("the first report", |w| w.last_report() >= revision).await;
        world
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(60), wait).await;
        assert!(in_time.is_ok(), "no {what}: {:?}", self.api.said());
    }

    fn last_report(&self) -> u64 {
        self.api.reports().last().map_or(0, |(revision, _)| *revision)
    }

    /// The last bytes of the addresses that the kernel sends connections to.
    fn pods(&self) -> BTreeSet<u8> {
        self.kernel.program().unwrap_or_default().pods.iter().map(|a| a.octets()[3]).collect()
    }

    fn annotate(&self, lag: &str) {
        let mut own = self.api.get("endpointconsumers", "service-proxy-n1").unwrap();
        own["metadata"]["annotations"] = json!({"hitless.dev/fault-lag": lag});
        own["status"] = json!({"observedRevision": 1, "incarnation": own["spec"]["incarnation"]});
        self.api.put("endpointconsumers", own);
    }
}

#[tokio::test(start_paused = true)]
async fn it_registers_then_lists_then_programs_then_says_so() {
    let world = World::with_service(&[1, 2], TestClock::new()).await;
    let said = world.api.said();
    assert!(matches!(said[0], Said::Registered { .. }), "{said:?}");
    let listed = said.iter().filter(|s| matches!(s, Said::Listed("services" | "endpointslices"))).count();
    assert_eq!(listed, 2);
    let own = world.api.get("endpointconsumers", "service-proxy-n1").unwrap();
    assert_eq!(own["spec"]["type"], "ServiceProxy");
    assert_eq!(own["spec"]["nodeName"], "n1");
    assert_eq!(own["spec"]["ackClass"], "Proven");
    assert_eq!(world.pods(), BTreeSet::from([1, 2]));
    assert_eq!(world.kernel.commits(), (1, 0));

    let revision = world.api.put("endpointslices", slice("a-1", "a", &[2]));
    world.until("report of the change", |w| w.last_report() == revision).await;
    assert_eq!(world.pods(), BTreeSet::from([2]), "committed before it was said");
    assert_eq!(world.kernel.commits(), (1, 1));
    let incarnations: BTreeSet<_> = world.api.reports().into_iter().map(|(_, i)| i).collect();
    assert_eq!(incarnations, BTreeSet::from([world.api.incarnation()]));
}

#[tokio::test(start_paused = true)]
async fn services_that_come_move_and_go_are_programmed() {
    let world = World::with_service(&[1], TestClock::new()).await;
    let addresses = |w: &World| -> BTreeSet<String> {
        let program = w.kernel.program().unwrap_or_default();
        program
            .slots
            .keys()
            .map(|k| k.service.to_string())
            .chain(program.refused.iter().map(|s| format!("!{s}")))
            .collect()
    };
    world.api.put("services", service("b", "10.96.0.2"));
    world
        .until("refusal", |w| {
            addresses(w) == ["!10.96.0.2:80/tcp", "10.96.0.1:80/tcp"].map(String::from).into()
        })
        .await;
    world.api.put("endpointslices", slice("b-1", "b", &[9]));
    world.api.put("services", service("a", "10.96.0.3"));
    world
        .until("move", |w| addresses(w) == ["10.96.0.2:80/tcp", "10.96.0.3:80/tcp"].map(String::from).into())
        .await;
    world.api.remove("services", "a");
    world.until("end", |w| addresses(w) == ["10.96.0.2:80/tcp"].map(String::from).into()).await;
    assert_eq!(world.pods(), BTreeSet::from([9]));
}

#[tokio::test(start_paused = true)]
async fn a_bookmark_moves_the_watermark_and_not_the_kernel() {
    let world = World::with_service(&[1], TestClock::new()).await;
    let revision = world.api.bookmark("endpointslices");
    world.until("report of the bookmark", |w| w.last_report() == revision).await;
    assert_eq!(world.kernel.commits(), (1, 0));
}

#[tokio::test]
async fn one_report_at_a_time_and_the_next_is_the_latest() {
    let world = World::with_service(&[1], Arc::new(SystemClock)).await;
    let gate = world.api.gate.clone().lock_owned().await;
    let before = world.api.reports().len();
    let first = world.api.put("endpointslices", slice("a-1", "a", &[1, 2]));
    world.until("report under way", |w| w.last_report() == first).await;
    let mut last = 0;
    for n in 3..40 {
        last = world.api.put("endpointslices", slice("a-1", "a", &[1, n]));
        world.until("commit", |w| w.pods() == BTreeSet::from([1, n])).await;
    }
    assert_eq!(world.api.reports().len(), before + 1, "one is under way");
    drop(gate);
    world.until("the latest", |w| w.last_report() == last).await;
    assert_eq!(world.api.reports().len(), before + 2);
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_refuses_is_not_said_and_is_built_anew() {
    let world = World::with_service(&[1], TestClock::new()).await;
    let held = world.last_report();
    world.kernel.fail(5);
    let first = world.api.put("endpointslices", slice("a-1", "a", &[2]));
    let second = world.api.put("endpointslices", slice("a-1", "a", &[3]));
    world.until("report", |w| w.last_report() == second).await;
    assert_eq!(world.pods(), BTreeSet::from([3]));
    assert_eq!(world.kernel.commits(), (2, 0), "built anew");
    let said: BTreeSet<_> = world.api.reports().into_iter().map(|(revision, _)| revision).collect();
    assert!(!said.contains(&first) && said.contains(&held));
    // And from then on it goes in changes again.
    let third = world.api.put("endpointslices", slice("a-1", "a", &[4]));
    world.until("report", |w| w.last_report() == third).await;
    assert_eq!(world.kernel.commits(), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn refused_or_deleted_it_registers_again_as_another() {
    let world = World::with_service(&[1], TestClock::new()).await;
    for round in 0..3 {
        let old = world.api.incarnation();
        let revision = match round {
            0 | 1 => {
                world.api.refuse(&[[409, 422][round]]);
                world.api.put("endpointslices", slice("a-1", "a", &[round as u8]))
            }
            _ => {
                world.api.remove("endpointconsumers", "service-proxy-n1");
                world.last_report()
            }
        };
        world
            .until("new incarnation", |w| {
                w.api.get("endpointconsumers", "service-proxy-n1").is_some() && w.api.incarnation() != old
            })
            .await;
        let new = world.api.incarnation();
        world.until("its report", |w| w.api.reports().last() == Some(&(revision, new.clone()))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_api_is_waited_out() {
    let world = World::with_service(&[1], TestClock::new()).await;
    let old = world.api.incarnation();
    world.api.refuse(&[500, 503, 500]);
    let before = world.api.reports().len();
    let revision = world.api.put("endpointslices", slice("a-1", "a", &[2]));
    world.until("four attempts", |w| w.api.reports().len() == before + 4).await;
    assert!(world.api.reports()[before..].iter().all(|report| *report == (revision, old.clone())));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.api.reports().len(), before + 4, "the fourth was taken");
}

#[tokio::test(start_paused = true)]
async fn silence_is_broken_in_time() {
    let world = World::with_service(&[1], TestClock::new()).await;
    let before = world.api.reports();
    tokio::time::sleep(Duration::from_secs(3 * LEASE_S)).await;
    let after = world.api.reports();
    assert!((before.len() + 8..=before.len() + 10).contains(&after.len()), "{after:?}");
    assert!(after[before.len()..].iter().all(|report| Some(report) == before.last()));
    assert_eq!(world.kernel.commits(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_another_hand_took_apart_is_built_anew() {
    let world = World::with_service(&[1], TestClock::new()).await;
    world.kernel.damage();
    world.until("repair", |w| w.pods() == BTreeSet::from([1])).await;
    assert_eq!(world.kernel.commits(), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_one_built_is_taken_over_and_not_built_anew() {
    let world = World::with_service(&[1, 2], TestClock::new()).await;
    world.cancel.cancel();
    world.task.await.unwrap().unwrap();
    let revision = world.api.put("endpointslices", slice("a-1", "a", &[2, 3]));
    let next = World::on(world.api, world.kernel, TestClock::new());
    next.until("report", |w| w.last_report() >= revision).await;
    assert_eq!(next.pods(), BTreeSet::from([2, 3]));
    assert_eq!(next.kernel.commits(), (1, 1), "one build in all, and the difference");
    // One that cannot be taken over is built anew.
    next.cancel.cancel();
    next.task.await.unwrap().unwrap();
    next.kernel.fail(1);
    let last = World::on(next.api, next.kernel, TestClock::new());
    last.until("report", |w| w.kernel.commits() == (2, 1)).await;
    assert_eq!(last.pods(), BTreeSet::from([2, 3]));
}

#[tokio::test(start_paused = true)]
async fn a_lag_delays_each_change_and_its_watermark() {
    let world = World::with_service(&[1], TestClock::new()).await;
    world.annotate("20s");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let held = world.last_report();
    let first = world.api.put("endpointslices", slice("a-1", "a", &[2]));
    tokio::time::sleep(Duration::from_secs(10)).await;
    let second = world.api.put("endpointslices", slice("a-1", "a", &[3]));
    tokio::time::sleep(Duration::from_millis(9_900)).await;
    assert_eq!((world.pods(), world.last_report()), (BTreeSet::from([1]), held), "not yet");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((world.pods(), world.last_report()), (BTreeSet::from([2]), first), "the first, and no more");
    // A lag that is no lag is none, also for what waits.
    world.annotate("soon");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((world.pods(), world.last_report()), (BTreeSet::from([3]), second));
}

#[tokio::test(start_paused = true)]
async fn a_lag_that_was_set_before_the_start_holds() {
    let world = World::with_service(&[1], TestClock::new()).await;
    world.annotate("5s");
    world.cancel.cancel();
    world.task.await.unwrap().unwrap();
    let world = World::start(world.api, TestClock::new());
    let listed = tokio::time::Instant::now();
    world.until("first build", |w| w.pods() == BTreeSet::from([1])).await;
    assert!(listed.elapsed() < Duration::from_secs(1), "the first list is not late");
    let changed = tokio::time::Instant::now();
    world.api.put("endpointslices", slice("a-1", "a", &[2]));
    world.until("change", |w| w.pods() == BTreeSet::from([2])).await;
    assert!(changed.elapsed() >= Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_set_back_gets_another_incarnation() {
    let world = World::with_service(&[1], TestClock::new()).await;
    let high = world.api.bookmark("endpointslices") + 50;
    while world.api.bookmark("endpointslices") < high {}
    world.until("high watermark", |w| w.last_report() == high).await;
    let old = world.api.incarnation();
    world.api.set_back(5);
    world.until("new incarnation", |w| w.api.incarnation() != old).await;
    world.until("low watermark", |w| w.last_report() < high).await;
    assert_eq!(world.api.reports().last().unwrap().1, world.api.incarnation());
    let lows = world.api.reports().into_iter().filter(|(revision, i)| *i == old && *revision > high).count();
    assert_eq!(lows, 0);
}

#[tokio::test(start_paused = true)]
async fn told_to_end_it_leaves_the_kernel_and_its_registration_as_they_are() {
    let world = World::with_service(&[1], TestClock::new()).await;
    world.cancel.cancel();
    world.task.await.unwrap().unwrap();
    assert_eq!(world.kernel.commits(), (1, 0));
    assert!(world.api.get("endpointconsumers", "service-proxy-n1").is_some());
    for _ in 0..2 {
        deregister(world.api.client(), &consumer_name("n1")).await.unwrap();
        assert_eq!(world.api.get("endpointconsumers", "service-proxy-n1"), None);
    }
}
