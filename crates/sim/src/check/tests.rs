//! Each rule can be broken: facts of a small world in which everything goes well, and one that does not.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::world::{Routes, Step};

const TO: &str = "10.96.0.9:80";

/// A world with two Pods behind a Service, both routed to by one node.
struct Small {
    checkers: Checkers,
    now_ms: u64,
    revision: u64,
}

impl Small {
    fn new() -> Self {
        let mut small = Self { checkers: Checkers::default(), now_ms: 0, revision: 0 };
        small.stored(
            "deployments/default/web",
            Some(json!({"spec": {"replicas": 2,
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}})),
        );
        small.stored(
            "services/default/web",
            Some(json!({"spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}})),
        );
        for pod in ["a", "b"] {
            small.stored(&format!("pods/default/{pod}"), Some(json!({"metadata": {"uid": pod}})));
            small.process(pod, Step::Started);
            small.process(pod, Step::Accepts);
        }
        small.slice(&["a", "b"]);
        small.routes(&["a", "b"]);
        small.see(Fact::Called {
            client: "proxy-1".into(),
            what: "PATCH /consumers/x/status".into(),
            code: 200,
        });
        small.see(Fact::Act { what: "Rollout".into(), costs: 0 });
        small
    }

    fn see(&mut self, fact: Fact) {
        self.now_ms += 1;
        self.checkers.see(Duration::from_millis(self.now_ms), &fact);
    }

    fn stored(&mut self, key: &str, object: Option<Value>) {
        self.revision += 1;
        self.see(Fact::Stored { revision: self.revision, key: key.to_owned(), object: object.map(Arc::new) });
    }

    fn process(&mut self, pod: &str, step: Step) {
        let (uid, container) = (pod.to_owned(), format!("c-{pod}"));
        let (node, ip, pod) = ("node-1".to_owned(), format!("10.42.1.{pod}"), pod.to_owned());
        self.see(Fact::Process { node, uid, pod, ip, container, step });
    }

    fn slice(&mut self, ready: &[&str]) {
        let endpoint =
            |pod: &&str| json!({"addresses": [format!("10.42.1.{pod}")], "targetRef": {"uid": pod}});
        let endpoints: Vec<Value> = ready.iter().map(endpoint).collect();
        let meta = json!({"namespace": "default", "labels": {"kubernetes.io/service-name": "web"}});
        let object = json!({"metadata": meta, "ports": [{"port": 8080}], "endpoints": endpoints});
        self.stored("endpointslices/default/web", Some(object));
    }

    fn routes(&mut self, pods: &[&str]) {
        let to = pods.iter().map(|pod| format!("10.42.1.{pod}:8080")).collect();
        let routes = Arc::new(Routes::from([(TO.to_owned(), to)]));
        self.see(Fact::Routes { node: "node-1".to_owned(), routes });
    }

    fn delete(&mut self, pod: &str, grace_s: u64) {
        let meta = json!({"uid": pod, "deletionTimestamp": "x", "deletionGracePeriodSeconds": grace_s});
        self.stored(&format!("pods/default/{pod}"), Some(json!({"metadata": meta})));
        self.see(Fact::Act { what: "Delete".into(), costs: 1 });
    }

    fn says(&mut self, revision: u64) {
        let (consumer, incarnation) = ("service-proxy-node-1".to_owned(), "i".to_owned());
        self.see(Fact::Said { consumer, incarnation, revision });
    }

    /// What was found, which must be one thing about this.
    #[track_caller]
    fn broke(&self, words: &str) {
        let violations = &self.checkers.violations;
        assert!(violations.len() == 1 && violations[0].contains(words), "{violations:?}");
    }
}

#[test]
fn a_pod_that_goes_as_it_should_breaks_nothing() {
    let mut small = Small::new();
    small.delete("a", 5);
    small.slice(&["b"]);
    small.routes(&["b"]);
    small.says(small.revision);
    small.process("a", Step::Signalled);
    small.process("a", Step::Ended);
    small.stored("pods/default/a", None);
    small.checkers.end(Duration::from_millis(small.now_ms));
    assert!(small.checkers.violations.is_empty(), "{:?}", small.checkers.violations);
}

#[test]
fn a_signal_before_the_kernel_has_let_go() {
    let mut small = Small::new();
    small.delete("a", 5);
    small.slice(&["b"]);
    small.process("a", Step::Signalled);
    small.broke("got its stop signal while node-1 routed");
}

#[test]
fn a_signal_that_comes_late() {
    let mut small = Small::new();
    small.delete("a", 5);
    small.slice(&["b"]);
    small.routes(&["b"]);
    small.now_ms += 400;
    small.process("a", Step::Signalled);
    small.broke("after nobody routed to it any more");
}

#[test]
fn a_signal_that_nobody_asked_for() {
    let mut small = Small::new();
    small.see(Fact::Act { what: "Crash".into(), costs: 1 });
    small.process("a", Step::Signalled);
    small.broke("nobody had asked for the end of default/a");
}

#[test]
fn a_kernel_that_begins_to_route_to_a_process_that_ends() {
    let mut small = Small::new();
    small.delete("a", 5);
    small.slice(&["b"]);
    small.routes(&["b"]);
    small.process("a", Step::Signalled);
    small.routes(&["a", "b"]);
    small.broke("had got its stop signal when node-1 routed");
}

#[test]
fn budget_and_force_excuse_it() {
    for (grace_s, waited_ms) in [(5, 30_000), (0, 0)] {
        let mut small = Small::new();
        small.delete("a", grace_s);
        small.now_ms += waited_ms;
        small.process("a", Step::Signalled);
        assert!(small.checkers.violations.is_empty(), "{:?}", small.checkers.violations);
    }
}

#[test]
fn a_watermark_that_falls_or_is_ahead_of_the_kernel() {
    let mut small = Small::new();
    small.says(small.revision);
    small.says(small.revision - 1);
    small.broke("falls from");
    let mut small = Small::new();
    small.slice(&["b"]);
    small.says(small.revision);
    small.broke("and its kernel routes");
}

#[test]
fn a_deletion_without_an_end() {
    let mut small = Small::new();
    small.delete("a", 5);
    small.slice(&["b"]);
    small.routes(&["b"]);
    small.now_ms += 60_000;
    small.checkers.end(Duration::from_millis(small.now_ms));
    small.broke("the deletion of default/a is late");
}

#[test]
fn an_endpoint_that_outlives_its_process() {
    let mut small = Small::new();
    small.see(Fact::Act { what: "Crash".into(), costs: 1 });
    small.process("a", Step::Crashed);
    small.process("a", Step::Ended);
    small.now_ms += 4_000;
    small.slice(&["b"]);
    small.broke("names the dead Pod a as ready");
}

#[test]
fn a_rollout_that_takes_more_than_was_promised() {
    let mut small = Small::new();
    small.routes(&["b"]);
    small.broke("to 1 processes that take connections, where 2 are promised");
    let mut small = Small::new();
    small.stored("replicasets/default/new", Some(json!({"spec": {"replicas": 2}})));
    small.stored("replicasets/default/old", Some(json!({"spec": {"replicas": 2}})));
    small.broke("ReplicaSets for 4 Pods where 3 are allowed");
}

#[test]
fn a_kernel_that_rests_with_other_routes_than_the_disk_says() {
    let mut small = Small::new();
    small.see(Fact::Act { what: "Crash".into(), costs: 2 });
    small.routes(&["a"]);
    small.checkers.end(Duration::from_millis(small.now_ms));
    small.broke("at rest node-1 routes");
}

#[test]
fn two_processes_of_one_pod_at_once() {
    let mut small = Small::new();
    let fact = |container: &str| Fact::Process {
        node: "node-1".into(),
        uid: "a".into(),
        pod: "a".into(),
        ip: "10.42.1.a".into(),
        container: container.into(),
        step: Step::Started,
    };
    small.see(Fact::Act { what: "Crash".into(), costs: 2 });
    small.see(fact("c-second"));
    small.broke("was started while another of its Pod still runs");
}
