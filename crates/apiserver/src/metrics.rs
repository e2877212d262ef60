//! A handful of true figures in Prometheus' text form.

use std::sync::atomic::{AtomicI64, AtomicU64};

use hitless_base::Revision;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// What a request was.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) verb: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabels {
    verb: &'static str,
}

/// The server's figures.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter<u64, AtomicU64>>,
    durations: Family<VerbLabels, Histogram>,
    /// Watches that run.
    pub(crate) watches: Gauge<i64, AtomicI64>,
    /// Events sent to watches.
    pub(crate) events: Counter<u64, AtomicU64>,
    revision: Gauge<i64, AtomicI64>,
}

const DURATIONS_S: [f64; 9] = [0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.25, 1.0, 10.0];

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations: Family<VerbLabels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(DURATIONS_S.iter().copied()));
        let (watches, events, revision) = (Gauge::default(), Counter::default(), Gauge::default());
        registry.register("apiserver_request", "Requests that were answered", requests.clone());
        registry.register(
            "apiserver_request_duration_seconds",
            "Time to the head of the answer, watches left out",
            durations.clone(),
        );
        registry.register("apiserver_longrunning_requests", "Watches that run", watches.clone());
        registry.register("apiserver_watch_events", "Events sent to watches", events.clone());
        registry.register("hitless_store_revision", "Revision of the store", revision.clone());
        Self { registry, requests, durations, watches, events, revision }
    }

    pub(crate) fn answered(&self, labels: RequestLabels, seconds: f64) {
        if labels.verb != "watch" {
            self.durations.get_or_create(&VerbLabels { verb: labels.verb }).observe(seconds);
        }
        self.requests.get_or_create(&labels).inc();
    }

    /// The figures as text.
    pub(crate) fn text(&self, revision: Revision) -> String {
        self.revision.set(i64::try_from(revision.0).unwrap_or(i64::MAX));
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _written = text::encode(&mut out, &self.registry);
        out
    }
}
