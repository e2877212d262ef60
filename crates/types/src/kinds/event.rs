//! Event, in both of its API groups. Objects are stored as core/v1; events.k8s.io/v1 is another view of them.

use hitless_base::Timestamp;
use k8s_openapi::api::{
    core::v1::{Event, EventSeries, EventSource},
    events::v1::{Event as NewEvent, EventSeries as NewEventSeries},
};
use serde_json::Value;

use super::{Column, Kind, NAME, ROW, StoredAs, column, typecheck, wide};
use crate::{field::FieldError, json::typed, table};

const COLUMNS: &[Column] = &[
    column("Last Seen", "string", "Time since it happened last."),
    column("Type", "string", "Normal or Warning."),
    column("Reason", "string", "Why, in one word."),
    column("Object", "string", "What it is about."),
    wide("Subobject", "string", "Which part of the object."),
    wide("Source", "string", "Who says so."),
    column("Message", "string", "For people."),
    wide("First Seen", "string", "Time since it happened first."),
    wide("Count", "string", "How often."),
    Column { priority: 1, ..NAME },
];

pub(super) const CORE_EVENT: Kind = Kind {
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    validate,
    typecheck: typecheck::typecheck::<Event>,
    columns: COLUMNS,
    cells: |object, now| cells(&typed(object), now),
    fields: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    ..ROW
};

pub(super) const EVENT: Kind = Kind {
    group: "events.k8s.io",
    typecheck: typecheck::typecheck::<NewEvent>,
    validate: |new, old| validate(&to_core(new), old.map(to_core).as_ref()),
    cells: |object, now| cells(&typed(&to_core(object)), now),
    fields: &[
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reason",
        "reportingController",
        "type",
    ],
    stored_as: Some(&StoredAs {
        api_version: "v1",
        kind: "Event",
        to_stored: to_core,
        from_stored: from_core,
    }),
    ..CORE_EVENT
};

fn cells(event: &Event, now: Timestamp) -> Vec<Value> {
    let text = |t: &Option<String>| Value::from(t.clone().unwrap_or_default());
    let first =
        event.first_timestamp.as_ref().map(|t| t.0).or_else(|| event.event_time.as_ref().map(|t| t.0));
    let series = event.series.as_ref();
    let last = series
        .and_then(|s| s.last_observed_time.as_ref().map(|t| t.0))
        .or_else(|| event.last_timestamp.as_ref().map(|t| t.0))
        .or(first);
    let count = series.and_then(|s| s.count).or(event.count).unwrap_or_default().max(1);
    let about = &event.involved_object;
    let kind = about.kind.as_deref().unwrap_or_default().to_lowercase();
    let object = match about.name.as_deref().unwrap_or_default() {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        table::age(last, now).into(),
        text(&event.type_),
        text(&event.reason),
        object.into(),
        text(&about.field_path),
        source(event).into(),
        event.message.as_deref().unwrap_or_default().trim().into(),
        table::age(first, now).into(),
        count.to_string().into(),
        table::name_of(&event.metadata),
    ]
}

fn source(event: &Event) -> String {
    let old = event.source.clone().unwrap_or_default();
    let filled = |t: &Option<String>| t.clone().filter(|t| !t.is_empty());
    let who = filled(&old.component).or_else(|| filled(&event.reporting_component));
    let place = filled(&old.host).or_else(|| filled(&event.reporting_instance));
    [who, place].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Lenient as for core/v1: an Event must be about something in its own namespace.
fn validate(new: &Value, _old: Option<&Value>) -> Vec<FieldError> {
    let event: Event = typed(new);
    let about = event.involved_object.namespace.as_deref().unwrap_or_default();
    let own = event.metadata.namespace.as_deref().unwrap_or_default();
    // What is cluster-scoped has its events in `default` (or, from older clients, in kube-system).
    let fits = if about.is_empty() { matches!(own, "default" | "kube-system" | "") } else { about == own };
    if fits {
        return Vec::new();
    }
    vec![FieldError::invalid("involvedObject.namespace", about, "does not match event.namespace")]
}

/// `events.k8s.io/v1` to `v1`: the same facts under the older names.
fn to_core(object: &Value) -> Value {
    let event: NewEvent = typed(object);
    written(Event {
        action: event.action,
        count: event.deprecated_count,
        event_time: event.event_time,
        first_timestamp: event.deprecated_first_timestamp,
        involved_object: event.regarding.unwrap_or_default(),
        last_timestamp: event.deprecated_last_timestamp,
        message: event.note,
        metadata: event.metadata,
        reason: event.reason,
        related: event.related,
        reporting_component: event.reporting_controller,
        reporting_instance: event.reporting_instance,
        series: event
            .series
            .map(|s| EventSeries { count: Some(s.count), last_observed_time: Some(s.last_observed_time) }),
        source: event.deprecated_source,
        type_: event.type_,
    })
}

/// `v1` to `events.k8s.io/v1`.
fn from_core(object: &Value) -> Value {
    let event: Event = typed(object);
    let series = event.series.and_then(|s| {
        Some(NewEventSeries { count: s.count.unwrap_or_default(), last_observed_time: s.last_observed_time? })
    });
    written(NewEvent {
        action: event.action,
        deprecated_count: event.count,
        deprecated_first_timestamp: event.first_timestamp,
        deprecated_last_timestamp: event.last_timestamp,
        deprecated_source: event.source.filter(|s| *s != EventSource::default()),
        event_time: event.event_time,
        metadata: event.metadata,
        note: event.message,
        reason: event.reason,
        regarding: Some(event.involved_object),
        related: event.related,
        reporting_controller: event.reporting_component,
        reporting_instance: event.reporting_instance,
        series,
        type_: event.type_,
    })
}

fn written(event: impl serde::Serialize) -> Value {
    serde_json::to_value(event).unwrap_or_default()
}
