//! The time from a Pod's deletion to its stop signal: collected from the API, no clock of our own.
//!
//! The deletion is the Pod's annotation `hitless.dev/deleted-at`, the stop signal the `eventTime` of the kubelet's
//! `Killing` event, both in microseconds. On a cluster that writes neither, nothing is measured, and that is what is shown.

use std::collections::BTreeMap;

use hitless_base::Timestamp;
use hitless_types::{meta, pod, well_known};
use k8s_openapi::api::core::v1::{Event, Pod};

use crate::manifests;

/// One Pod's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The Pod's name.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Its node.
    pub node: String,
    /// It belongs to the workload that kept-alive traffic goes to.
    pub keeps_alive: bool,
    /// Its address stood in DNS records, so that its end waits for their time to live.
    pub headless: bool,
    /// When its deletion was accepted.
    pub deleted_at: Option<Timestamp>,
    /// When its stop signal was sent.
    pub stopped_at: Option<Timestamp>,
    /// When it was seen to be gone.
    pub gone_at: Option<Timestamp>,
}

impl Stop {
    /// Delete to stop signal, in milliseconds.
    #[must_use]
    pub fn ms(&self) -> Option<f64> {
        Some((self.stopped_at?.duration_since(self.deleted_at?)).as_secs_f64() * 1000.0)
    }

    /// The stop signal, or where that is not known, the end.
    #[must_use]
    pub fn stopped_or_gone(&self) -> Option<Timestamp> {
        self.stopped_at.or(self.gone_at)
    }
}

/// How long a Pod's withdrawal must take.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expectation {
    pub uid: String,
    pub pod: String,
    /// Less would mean that the fault was not there, and so that nothing was proven.
    pub ms_min: f64,
    pub ms_max: f64,
}

impl Expectation {
    /// What speaks against it.
    pub fn problem(&self, stops: &[Stop]) -> Option<String> {
        let Some(ms) = stops.iter().find(|stop| stop.uid == self.uid).and_then(Stop::ms) else {
            return Some(format!("{}: the time from delete to stop signal is not known", self.pod));
        };
        if ms > self.ms_max {
            return Some(format!(
                "{}: delete to stop signal took {ms:.0} ms, at most {:.0} are allowed",
                self.pod, self.ms_max
            ));
        }
        (ms < self.ms_min).then(|| {
            format!(
                "{}: delete to stop signal took {ms:.0} ms; the lag of {:.0} had no effect",
                self.pod, self.ms_min
            )
        })
    }
}

/// The Pods that were seen to end, by uid.
#[derive(Default)]
pub(crate) struct Stops(BTreeMap<String, Stop>);

impl Stops {
    /// Takes one observation of a Pod of the workloads; `gone` when it is no longer there.
    pub fn saw(&mut self, object: &Pod, gone: bool, now: Timestamp) {
        if !gone && !pod::is_terminating(object) {
            return;
        }
        let metadata = &object.metadata;
        let uid = metadata.uid.clone().unwrap_or_default();
        let stop = self.0.entry(uid.clone()).or_insert_with(|| Stop {
            pod: metadata.name.clone().unwrap_or_default(),
            uid,
            node: pod::node_name(object).unwrap_or_default().to_owned(),
            keeps_alive: manifests::app_of(metadata).is_some_and(manifests::keeps_alive),
            headless: manifests::app_of(metadata).is_some_and(manifests::is_headless),
            deleted_at: None,
            stopped_at: None,
            gone_at: None,
        });
        let deleted_at = meta::annotation(metadata, well_known::ANNOTATION_DELETED_AT);
        stop.deleted_at = stop.deleted_at.or_else(|| deleted_at?.parse().ok());
        if gone {
            stop.gone_at.get_or_insert(now);
        }
    }

    /// What was seen, joined with the stop signals among these events. In the order of deletion.
    pub fn with_events(&self, events: &[Event]) -> Vec<Stop> {
        let mut stops = self.0.clone();
        for event in
            events.iter().filter(|event| event.reason.as_deref() == Some(well_known::reason::KILLING))
        {
            let (Some(uid), Some(at)) = (&event.involved_object.uid, &event.event_time) else { continue };
            if let Some(stop) = stops.get_mut(uid) {
                // The first one after the deletion: an earlier one was a restart.
                let counts = stop.deleted_at.is_none_or(|deleted_at| at.0 >= deleted_at);
                if counts && stop.stopped_at.is_none_or(|known| at.0 < known) {
                    stop.stopped_at = Some(at.0);
                }
            }
        }
        let mut stops: Vec<Stop> = stops.into_values().collect();
        stops.sort_by(|a, b| (a.deleted_at, &a.pod).cmp(&(b.deleted_at, &b.pod)));
        stops
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn pod(uid: &str, deleted_at: Option<&str>) -> Pod {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": format!("pod-{uid}"), "uid": uid, "labels": {"app": "web-keep-alive"}},
            "spec": {"nodeName": "node-1", "containers": []},
        }))
        .unwrap();
        if let Some(text) = deleted_at {
            pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:30Z")).unwrap();
            pod.metadata.annotations =
                Some([(well_known::ANNOTATION_DELETED_AT.to_owned(), text.to_owned())].into());
        }
        pod
    }

    fn killing(uid: &str, at: &str) -> Event {
        serde_json::from_value(json!({
            "metadata": {"name": "e"}, "reason": "Killing", "eventTime": at, "involvedObject": {"uid": uid},
        }))
        .unwrap()
    }

    #[test]
    fn the_first_stop_signal_after_the_deletion_counts() {
        let mut stops = Stops::default();
        stops.saw(&pod("a", None), false, at("2026-01-01T00:00:00Z"));
        stops.saw(&pod("a", Some("2026-01-01T00:00:00.500000Z")), false, at("2026-01-01T00:00:01Z"));
        stops.saw(&pod("a", Some("2026-01-01T00:00:00.500000Z")), true, at("2026-01-01T00:00:02Z"));
        let events = [
            killing("a", "2026-01-01T00:00:00.100000Z"),
            killing("a", "2026-01-01T00:00:00.900000Z"),
            killing("a", "2026-01-01T00:00:00.512345Z"),
            killing("b", "2026-01-01T00:00:00.501000Z"),
        ];
        let ends = stops.with_events(&events);
        assert_eq!(ends.len(), 1);
        assert_eq!(ends[0].ms(), Some(12.345));
        assert_eq!(ends[0].gone_at, Some(at("2026-01-01T00:00:02Z")));
        assert!(ends[0].keeps_alive);
    }

    #[test]
    fn a_pod_taken_by_force_is_seen_although_it_never_was_terminating() {
        let mut stops = Stops::default();
        stops.saw(&pod("a", None), true, at("2026-01-01T00:00:02Z"));
        let ends = stops.with_events(&[]);
        assert_eq!((ends[0].ms(), ends[0].stopped_or_gone()), (None, Some(at("2026-01-01T00:00:02Z"))));
    }

    #[test]
    fn an_expectation_holds_from_both_sides() {
        let mut stops = Stops::default();
        stops.saw(&pod("a", Some("2026-01-01T00:00:00.000000Z")), true, at("2026-01-01T00:00:02Z"));
        let ends = stops.with_events(&[killing("a", "2026-01-01T00:00:01.100000Z")]);
        let problem =
            |ms_min, ms_max| Expectation { uid: "a".into(), pod: "a".into(), ms_min, ms_max }.problem(&ends);
        assert_eq!(problem(1000.0, 1250.0), None);
        assert!(problem(1000.0, 1050.0).unwrap().contains("at most 1050"));
        assert!(problem(1200.0, 1500.0).unwrap().contains("had no effect"));
        let unknown = Expectation { uid: "b".into(), pod: "b".into(), ms_min: 0.0, ms_max: 1.0 };
        assert!(unknown.problem(&ends).unwrap().contains("not known"));
    }
}
