//! EndpointConsumer: the project's own kind.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use serde::Deserialize;
use serde_json::Value;

use super::{AGE, Kind, NAME, ROW, Scope, column, typecheck, wide};
use crate::{
    AckClass, EndpointConsumer, SettleScope,
    field::FieldError,
    json::{set, typed, within},
    table, well_known,
};

/// Longest settle time, in milliseconds.
const SETTLE_MS_MAX: i64 = 600_000;

pub(super) const ENDPOINT_CONSUMER: Kind = Kind {
    group: well_known::GROUP,
    version: well_known::VERSION,
    kind: "EndpointConsumer",
    plural: "endpointconsumers",
    singular: "endpointconsumer",
    short_names: &["epc"],
    scope: Scope::Cluster,
    status: true,
    volatile_status: true,
    generation: true,
    default: |object| {
        let Some(fields) = object.as_object_mut() else { return };
        within(fields, "spec", |spec| {
            set(spec, "ackClass", "Asserted");
            set(spec, "settleMilliseconds", 0);
            set(spec, "settleScope", SettleScope::All.name());
            set(spec, "leaseDurationSeconds", 40);
        });
    },
    validate,
    typecheck: |value| {
        let api_version = format!("{}/{}", well_known::GROUP, well_known::VERSION);
        typecheck::typecheck_as::<Shape>(&api_version, well_known::VERSION, "EndpointConsumer", value)
    },
    columns: &[
        NAME,
        column("Type", "string", "What kind of consumer it is."),
        column("Node", "string", "The node that it serves."),
        column("Ack", "string", "What its acknowledgement rests on."),
        column("Revision", "integer", "Its data plane holds every EndpointSlice change up to this revision."),
        column("Last-Heard", "string", "Time since its last word."),
        AGE,
        wide("Incarnation", "string", "Changes with every start of the consumer."),
        wide("Settle", "string", "Waited after its acknowledgement."),
        wide("Lease", "string", "Silence longer than this takes it out of the required set."),
    ],
    cells: |object, now| {
        let consumer: EndpointConsumer = typed(object);
        let (spec, status) = (consumer.spec, consumer.status.unwrap_or_default());
        let ack = match spec.ack_class {
            AckClass::Proven => "Proven",
            AckClass::Asserted => "Asserted",
            AckClass::TimeBounded => "TimeBounded",
        };
        vec![
            table::name_of(&consumer.metadata),
            spec.type_.into(),
            table::or_none(spec.node_name.as_deref()),
            ack.into(),
            status.observed_revision.into(),
            table::age(status.renew_time.map(|t| t.0), now).into(),
            table::age_of(&consumer.metadata, now),
            spec.incarnation.into(),
            settle(spec.settle_milliseconds, spec.settle_scope).into(),
            format!("{}s", spec.lease_duration_seconds).into(),
        ]
    },
    ..ROW
};

/// `5000ms Headless`; the scope where it makes a difference.
fn settle(ms: u64, scope: SettleScope) -> String {
    match scope {
        SettleScope::Headless if ms > 0 => format!("{ms}ms {}", scope.name()),
        _ => format!("{ms}ms"),
    }
}

/// The kind's fields with looser types than [`EndpointConsumer`], so that a value out of bounds is a fault of its
/// field (422) and not of the whole body (400). Serves type checking and validation only.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Shape {
    api_version: Option<String>,
    kind: Option<String>,
    metadata: ObjectMeta,
    spec: SpecShape,
    status: Option<StatusShape>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpecShape {
    #[serde(rename = "type")]
    type_: String,
    node_name: Option<String>,
    incarnation: String,
    ack_class: Option<String>,
    settle_milliseconds: Option<i64>,
    settle_scope: Option<String>,
    lease_duration_seconds: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StatusShape {
    observed_revision: u64,
    incarnation: String,
    renew_time: Option<MicroTime>,
}

fn validate(new: &Value, _old: Option<&Value>) -> Vec<FieldError> {
    let spec = typed::<Shape>(new).spec;
    let mut faults = Vec::new();
    if spec.type_.is_empty() {
        faults.push(FieldError::required("spec.type", ""));
    }
    if spec.incarnation.is_empty() {
        faults.push(FieldError::required("spec.incarnation", ""));
    }
    let classes = ["Proven", "Asserted", "TimeBounded"];
    if let Some(class) = spec.ack_class.as_deref().filter(|c| !classes.contains(c)) {
        faults.push(FieldError::not_supported("spec.ackClass", class, &classes));
    }
    if let Some(settle_ms) = spec.settle_milliseconds.filter(|ms| !(0..=SETTLE_MS_MAX).contains(ms)) {
        let words = format!("must be between 0 and {SETTLE_MS_MAX}, inclusive");
        faults.push(FieldError::invalid("spec.settleMilliseconds", settle_ms, &words));
    }
    let scopes = SettleScope::ALL.map(SettleScope::name);
    if let Some(scope) = spec.settle_scope.as_deref().filter(|s| !scopes.contains(s)) {
        faults.push(FieldError::not_supported("spec.settleScope", scope, &scopes));
    }
    if let Some(lease_s) = spec.lease_duration_seconds.filter(|s| !(1..=3600).contains(s)) {
        let words = "must be between 1 and 3600, inclusive";
        faults.push(FieldError::invalid("spec.leaseDurationSeconds", lease_s, words));
    }
    if spec.node_name.as_deref() == Some("") {
        faults.push(FieldError::invalid("spec.nodeName", "", "must not be empty where it is given"));
    }
    faults
}
