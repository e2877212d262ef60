//! Deployment and ReplicaSet: a count of Pods from one template.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentStrategy, ReplicaSet},
        core::v1::{PodSpec, PodTemplateSpec},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use serde_json::{Value, json};

use super::{
    AGE, Kind, NAME, ROW, column,
    meta::{check_annotations, check_labels},
    pdb::check_count,
    pod, typecheck, wide,
};
use crate::{
    field::FieldError,
    intstr,
    json::{Fields, set, typed, within},
    selector, table,
};

pub(super) const DEPLOYMENT: Kind = Kind {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    status: true,
    scale: true,
    generation: true,
    default: |object| default(object, default_deployment),
    validate: validate_deployment,
    typecheck: typecheck::typecheck::<Deployment>,
    columns: &[
        NAME,
        column("Ready", "string", "Ready Pods of those wanted."),
        column("Up-to-date", "string", "Pods of the present template."),
        column("Available", "string", "Pods that have been ready for minReadySeconds."),
        AGE,
        wide("Containers", "string", "Names of the template's containers."),
        wide("Images", "string", "Images of the template's containers."),
        wide("Selector", "string", "Labels of its Pods."),
    ],
    cells: |object, now| {
        let deployment: Deployment = typed(object);
        let (spec, status) = (deployment.spec.unwrap_or_default(), deployment.status.unwrap_or_default());
        let (names, images) = containers(spec.template.spec.as_ref());
        vec![
            table::name_of(&deployment.metadata),
            format!("{}/{}", status.ready_replicas.unwrap_or(0), spec.replicas.unwrap_or(1)).into(),
            status.updated_replicas.unwrap_or(0).into(),
            status.available_replicas.unwrap_or(0).into(),
            table::age_of(&deployment.metadata, now),
            names.into(),
            images.into(),
            table::selector_text(&spec.selector).into(),
        ]
    },
    initial_status: |_| Some(json!({})),
    ..ROW
};

pub(super) const REPLICA_SET: Kind = Kind {
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    default: |object| default(object, |spec| set(spec, "replicas", 1)),
    validate: validate_replica_set,
    typecheck: typecheck::typecheck::<ReplicaSet>,
    columns: &[
        NAME,
        column("Desired", "integer", "Pods wanted."),
        column("Current", "integer", "Pods there are."),
        column("Ready", "integer", "Pods that are ready."),
        AGE,
        wide("Containers", "string", "Names of the template's containers."),
        wide("Images", "string", "Images of the template's containers."),
        wide("Selector", "string", "Labels of its Pods."),
    ],
    cells: |object, now| {
        let set: ReplicaSet = typed(object);
        let (spec, status) = (set.spec.unwrap_or_default(), set.status.unwrap_or_default());
        let (names, images) = containers(spec.template.as_ref().and_then(|t| t.spec.as_ref()));
        vec![
            table::name_of(&set.metadata),
            spec.replicas.unwrap_or(1).into(),
            status.replicas.into(),
            status.ready_replicas.unwrap_or(0).into(),
            table::age_of(&set.metadata, now),
            names.into(),
            images.into(),
            table::selector_text(&spec.selector).into(),
        ]
    },
    fields: &["status.replicas"],
    initial_status: |_| Some(json!({"replicas": 0})),
    ..DEPLOYMENT
};

fn containers(spec: Option<&PodSpec>) -> (String, String) {
    let all = || spec.into_iter().flat_map(|s| &s.containers);
    let names: Vec<_> = all().map(|c| c.name.as_str()).collect();
    let images: Vec<_> = all().map(|c| c.image.as_deref().unwrap_or_default()).collect();
    (names.join(","), images.join(","))
}

fn default(object: &mut Value, own: fn(&mut Fields)) {
    let Some(fields) = object.as_object_mut() else { return };
    within(fields, "spec", |spec| {
        own(spec);
        within(spec, "template", |template| within(template, "spec", pod::default_spec));
    });
}

fn default_deployment(spec: &mut Fields) {
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "progressDeadlineSeconds", 600);
    within(spec, "strategy", |strategy| {
        set(strategy, "type", "RollingUpdate");
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
            within(strategy, "rollingUpdate", |rolling| {
                set(rolling, "maxUnavailable", "25%");
                set(rolling, "maxSurge", "25%");
            });
        }
    });
}

fn not_negative(field: &str, value: Option<i32>, faults: &mut Vec<FieldError>) {
    if let Some(value) = value.filter(|v| *v < 0) {
        faults.push(FieldError::invalid(field, value, "must be greater than or equal to 0"));
    }
}

fn validate_deployment(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = typed::<Deployment>(new).spec.unwrap_or_default();
    let mut faults = Vec::new();
    not_negative("spec.replicas", spec.replicas, &mut faults);
    let given = new.pointer("/spec/selector").is_some();
    check_selector(given, &spec.selector, &spec.template, "deployment", &mut faults);
    check_template(&spec.template, &mut faults);
    check_strategy(&spec.strategy.clone().unwrap_or_default(), &mut faults);
    not_negative("spec.minReadySeconds", spec.min_ready_seconds, &mut faults);
    not_negative("spec.revisionHistoryLimit", spec.revision_history_limit, &mut faults);
    not_negative("spec.progressDeadlineSeconds", spec.progress_deadline_seconds, &mut faults);
    if spec.progress_deadline_seconds.is_some_and(|d| d >= 0 && d <= spec.min_ready_seconds.unwrap_or(0)) {
        let words = "must be greater than minReadySeconds";
        faults.push(FieldError::invalid(
            "spec.progressDeadlineSeconds",
            spec.progress_deadline_seconds,
            words,
        ));
    }
    if let Some(old) = old {
        let old = typed::<Deployment>(old).spec.unwrap_or_default();
        keeps_selector(&spec.selector, &old.selector, &mut faults);
    }
    faults
}

fn validate_replica_set(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = typed::<ReplicaSet>(new).spec.unwrap_or_default();
    let mut faults = Vec::new();
    not_negative("spec.replicas", spec.replicas, &mut faults);
    not_negative("spec.minReadySeconds", spec.min_ready_seconds, &mut faults);
    let given = new.pointer("/spec/selector").is_some();
    let template = spec.template.clone().unwrap_or_default();
    check_selector(given, &spec.selector, &template, "deployment", &mut faults);
    check_template(&template, &mut faults);
    if let Some(old) = old {
        let old = typed::<ReplicaSet>(old).spec.unwrap_or_default();
        keeps_selector(&spec.selector, &old.selector, &mut faults);
    }
    faults
}

fn keeps_selector(new: &LabelSelector, old: &LabelSelector, faults: &mut Vec<FieldError>) {
    if new != old {
        let value = serde_json::to_value(new).unwrap_or_default();
        faults.push(FieldError::invalid("spec.selector", value, "field is immutable"));
    }
}

fn check_selector(
    given: bool,
    selector: &LabelSelector,
    template: &PodTemplateSpec,
    of: &str,
    faults: &mut Vec<FieldError>,
) {
    let value = || serde_json::to_value(selector).unwrap_or_default();
    if !given {
        faults.push(FieldError::required("spec.selector", ""));
    } else if selector == &LabelSelector::default() {
        let words = format!("empty selector is invalid for {of}");
        faults.push(FieldError::invalid("spec.selector", value(), &words));
    }
    let labels: BTreeMap<String, String> =
        template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    match selector::from_label_selector(selector) {
        Err(error) => faults.push(FieldError::invalid("spec.selector", value(), &error.message)),
        Ok(requirements) => {
            // As in Kubernetes, a selector that is not there matches nothing.
            if !given || !requirements.matches(&labels) {
                let labels = serde_json::to_value(&labels).unwrap_or_default();
                let words = "`selector` does not match template `labels`";
                faults.push(FieldError::invalid("spec.template.metadata.labels", labels, words));
            }
        }
    }
}

fn check_template(template: &PodTemplateSpec, faults: &mut Vec<FieldError>) {
    let meta = template.metadata.clone().unwrap_or_default();
    check_labels("spec.template.labels", meta.labels.as_ref(), faults);
    check_annotations("spec.template.annotations", meta.annotations.as_ref(), faults);
    let spec = template.spec.clone().unwrap_or_default();
    pod::validate_spec("spec.template.spec", &spec, faults);
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    if policy != "Always" {
        faults.push(FieldError::not_supported("spec.template.spec.restartPolicy", policy, &["Always"]));
    }
    if spec.active_deadline_seconds.is_some() {
        let words = "activeDeadlineSeconds in ReplicaSet is not Supported";
        faults.push(FieldError::forbidden("spec.template.spec.activeDeadlineSeconds", words));
    }
}

fn check_strategy(strategy: &DeploymentStrategy, faults: &mut Vec<FieldError>) {
    let type_ = strategy.type_.as_deref().unwrap_or_default();
    match type_ {
        "Recreate" => {
            if strategy.rolling_update.is_some() {
                let words = "may not be specified when strategy `type` is 'Recreate'";
                faults.push(FieldError::forbidden("spec.strategy.rollingUpdate", words));
            }
        }
        "RollingUpdate" => {
            let Some(rolling) = &strategy.rolling_update else {
                faults.push(FieldError::required(
                    "spec.strategy.rollingUpdate",
                    "this should be defaulted and never be nil",
                ));
                return;
            };
            let zero = IntOrString::Int(0);
            let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
            let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
            check_count("spec.strategy.rollingUpdate.maxUnavailable", unavailable, faults);
            check_surge("spec.strategy.rollingUpdate.maxSurge", surge, faults);
            if is_zero(unavailable) && is_zero(surge) {
                let value = serde_json::to_value(unavailable).unwrap_or_default();
                let words = "may not be 0 when `maxSurge` is 0";
                faults.push(FieldError::invalid("spec.strategy.rollingUpdate.maxUnavailable", value, words));
            }
        }
        _ => faults.push(FieldError::not_supported(
            "spec.strategy.type",
            type_,
            &["Recreate", "RollingUpdate"],
        )),
    }
}

/// Unlike maxUnavailable, a surge may be more than the whole.
fn check_surge(field: &str, value: &IntOrString, faults: &mut Vec<FieldError>) {
    let more_than_whole =
        matches!(value, IntOrString::String(text) if intstr::percent(text).is_some_and(|p| p > 100));
    if !more_than_whole {
        check_count(field, value, faults);
    }
}

fn is_zero(value: &IntOrString) -> bool {
    match value {
        IntOrString::Int(count) => *count == 0,
        IntOrString::String(text) => intstr::percent(text) == Some(0),
    }
}
