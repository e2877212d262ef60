//! From a Pod and its Events to the steps of its life: pure.

use hitless_base::Timestamp;
use hitless_types::{meta, well_known};
use k8s_openapi::api::core::v1::{Event, Pod};
use serde::{Deserialize, Serialize};

/// One consumer's word on the way to `Programmed` or `Withdrawn`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watermark {
    /// The consumer.
    pub consumer: String,
    /// The revision that it holds.
    pub revision: u64,
    /// The revision that was waited for.
    pub target: u64,
    /// When it was heard.
    #[serde(default)]
    pub at: Option<Timestamp>,
    /// When the consumer's settle time after it had passed, where one was waited.
    #[serde(default, rename = "settledAt", skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<Timestamp>,
    /// What the word rests on.
    #[serde(default)]
    pub class: String,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// When it happened.
    pub at: Timestamp,
    /// Milliseconds since the first step of the same part (creation or end).
    pub after_ms: f64,
    /// One word: an Event's reason, or `Accepted` and `Deleted` for what the API server did.
    pub step: String,
    /// Who says so.
    pub by: String,
    /// For people.
    pub message: String,
    /// Whether it is a warning.
    pub warning: bool,
    /// The consumers' words, where the step waited for them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub watermarks: Vec<Watermark>,
}

/// A Pod's life.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Life {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The Pod's uid; empty if no Event carries it.
    pub uid: String,
    /// Whether the Pod is still there.
    pub exists: bool,
    /// From acceptance to Programmed.
    pub creation: Vec<Step>,
    /// From deletion to release; empty while nobody has asked for it.
    pub end: Vec<Step>,
}

/// Steps that belong to the end of a life.
const OF_THE_END: &[&str] = &[
    well_known::reason::WITHDRAWING,
    well_known::reason::WITHDRAWN,
    well_known::reason::WITHDRAWAL_BUDGET_SPENT,
    well_known::reason::UNANSWERED,
    well_known::reason::PRE_STOP,
    well_known::reason::FAILED_PRE_STOP,
    well_known::reason::GRACE_EXCEEDED,
    well_known::reason::RELEASED,
];

/// The life that these objects tell of. Of several Pods that had the name, the last one's.
pub fn life(namespace: &str, name: &str, pod: Option<&Pod>, events: &[Event]) -> Life {
    let newest = events.iter().max_by_key(|e| at(e)).and_then(|e| e.involved_object.uid.clone());
    let uid = pod.and_then(|p| p.metadata.uid.clone()).or(newest).unwrap_or_default();
    let mut steps: Vec<Step> = events
        .iter()
        .filter(|e| e.involved_object.uid.as_deref() == Some(uid.as_str()))
        .filter_map(step)
        .collect();
    steps.sort_by_key(|step| step.at);
    let annotated = |name: &str| {
        let from_pod = pod.and_then(|p| meta::annotation(&p.metadata, name));
        let mut of_events = events
            .iter()
            .filter(|e| e.involved_object.uid.as_deref() == Some(uid.as_str()))
            .filter_map(|e| meta::annotation(&e.metadata, name));
        from_pod.or_else(|| of_events.next()).and_then(|text| text.parse::<Timestamp>().ok())
    };
    let deleted_at = annotated(well_known::ANNOTATION_DELETED_AT);
    let first_of_end = steps.iter().filter(|s| OF_THE_END.contains(&s.step.as_str())).map(|s| s.at).min();
    let end_begins = deleted_at.into_iter().chain(first_of_end).min();
    let (mut creation, mut end): (Vec<Step>, Vec<Step>) =
        steps.into_iter().partition(|step| end_begins.is_none_or(|begin| step.at < begin));
    if let Some(accepted) = annotated(well_known::ANNOTATION_CREATED_AT) {
        creation.insert(0, api_step(accepted, "Accepted", "stored by the API server"));
    }
    if let Some(deleted) = deleted_at {
        end.insert(0, api_step(deleted, "Deleted", "deletion accepted by the API server"));
    }
    count_from_first(&mut creation);
    count_from_first(&mut end);
    Life { namespace: namespace.to_owned(), name: name.to_owned(), uid, exists: pod.is_some(), creation, end }
}

fn api_step(at: Timestamp, step: &str, message: &str) -> Step {
    Step {
        at,
        after_ms: 0.0,
        step: step.to_owned(),
        by: "apiserver".to_owned(),
        message: message.to_owned(),
        warning: false,
        watermarks: Vec::new(),
    }
}

fn at(event: &Event) -> Option<Timestamp> {
    event.event_time.as_ref().map(|t| t.0).or_else(|| event.last_timestamp.as_ref().map(|t| t.0))
}

fn step(event: &Event) -> Option<Step> {
    let watermarks = meta::annotation(&event.metadata, well_known::ANNOTATION_WATERMARKS)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    Some(Step {
        at: at(event)?,
        after_ms: 0.0,
        step: event.reason.clone().unwrap_or_default(),
        by: event.reporting_component.clone().unwrap_or_default(),
        message: event.message.clone().unwrap_or_default(),
        warning: event.type_.as_deref() == Some("Warning"),
        watermarks,
    })
}

fn count_from_first(steps: &mut [Step]) {
    let Some(first) = steps.first().map(|s| s.at) else { return };
    for step in steps {
        step.after_ms = step.at.duration_since(first).as_secs_f64() * 1e3;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(in super::super) fn sample() -> Life {
        let event =
            |micros: u32, reason: &str, by: &str, message: &str, annotations: serde_json::Value| -> Event {
                serde_json::from_value(json!({
                    "metadata": {"name": reason, "annotations": annotations},
                    "involvedObject": {"uid": "u", "name": "web"},
                    "eventTime": format!("2026-01-01T00:00:00.{micros:06}Z"),
                    "reason": reason, "message": message, "reportingComponent": by, "type": "Normal"
                }))
                .unwrap()
            };
        let marks = json!([{"consumer": "service-proxy-node-1", "revision": 41, "target": 40, "at": "2026-01-01T00:00:00.903200Z", "class": "Proven"},
            {"consumer": "dns-node-1", "revision": 40, "target": 40, "at": "2026-01-01T00:00:00.902000Z", "settledAt": "2026-01-01T00:00:05.902000Z", "class": "Proven"}]);
        let events = [
            event(904_000, "Withdrawn", "withdrawal-controller", "1 of 1 consumers have let go", json!({"hitless.dev/watermarks": marks.to_string()})),
            event(2_000, "Scheduled", "default-scheduler", "Successfully assigned ns/web to node-1", json!({})),
            event(905_000, "Killing", "kubelet", "Stopping container web", json!({"hitless.dev/deleted-at": "2026-01-01T00:00:00.900000Z"})),
            event(120_000, "Started", "kubelet", "Started container web", json!({})),
            serde_json::from_value(json!({"metadata": {"name": "old"}, "involvedObject": {"uid": "before", "name": "web"}, "eventTime": "2025-01-01T00:00:00Z", "reason": "Scheduled"})).unwrap(),
        ];
        life("ns", "web", None, &events)
    }

    #[test]
    fn steps_are_in_order_and_end_begins_with_the_deletion() {
        let life = sample();
        let words = |steps: &[Step]| {
            steps.iter().map(|s| format!("{} {:.0}", s.step, s.after_ms)).collect::<Vec<_>>()
        };
        assert_eq!(words(&life.creation), ["Scheduled 0", "Started 118"]);
        assert_eq!(words(&life.end), ["Deleted 0", "Withdrawn 4", "Killing 5"]);
        assert_eq!(life.end[1].watermarks[0].revision, 41);
    }
}
