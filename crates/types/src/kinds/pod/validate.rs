//! What is wrong with a Pod's spec, in Kubernetes' words.

use k8s_openapi::api::core::v1::{PodSpec, Toleration, Volume};
use serde_json::Value;

use super::{
    container::{self, Scene},
    dns,
};
use crate::{field::FieldError, names, resources};

/// Adds the faults of `value` under `field` that `rule` finds.
pub(super) fn check_name(
    field: impl Into<String>,
    value: &str,
    rule: fn(&str) -> Vec<String>,
    faults: &mut Vec<FieldError>,
) {
    let field = field.into();
    faults.extend(rule(value).into_iter().map(|fault| FieldError::invalid(field.as_str(), value, &fault)));
}

/// Adds a fault where `value` is given and none of `supported`.
pub(super) fn check_word(
    field: impl Into<String>,
    value: Option<&str>,
    supported: &[&str],
    faults: &mut Vec<FieldError>,
) {
    if let Some(value) = value.filter(|v| !supported.contains(v)) {
        faults.push(FieldError::not_supported(field, value, supported));
    }
}

pub(super) fn validate_new(spec: &PodSpec, faults: &mut Vec<FieldError>) {
    if spec.ephemeral_containers.as_ref().is_some_and(|e| !e.is_empty()) {
        faults.push(FieldError::forbidden("spec.ephemeralContainers", "cannot be set on create"));
    }
    let node = spec.node_name.as_deref().unwrap_or_default();
    if !node.is_empty() && spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()) {
        faults.push(FieldError::forbidden(
            "spec.nodeName",
            "cannot be set until all schedulingGates have been cleared",
        ));
    }
}

/// Faults of the spec of a Pod or of a template at `at`.
pub(in crate::kinds) fn validate_spec(at: &str, spec: &PodSpec, faults: &mut Vec<FieldError>) {
    let volumes = check_volumes(at, spec.volumes.as_deref().unwrap_or_default(), faults);
    let scene = Scene { volumes: &volumes, grace_s: spec.termination_grace_period_seconds.unwrap_or(30) };
    if spec.containers.is_empty() {
        faults.push(FieldError::required(format!("{at}.containers"), ""));
    }
    let mut seen = Vec::new();
    for (i, one) in spec.containers.iter().enumerate() {
        container::validate(&format!("{at}.containers[{i}]"), one, &scene, &mut seen, faults);
    }
    for (i, one) in spec.init_containers.iter().flatten().enumerate() {
        let at = format!("{at}.initContainers[{i}]");
        container::validate(&at, one, &scene, &mut seen, faults);
        container::validate_init(&at, one, resources::is_sidecar(one), faults);
    }
    check_words(at, spec, faults);
    check_names(at, spec, faults);
    dns::validate(at, spec, faults);
    for (i, toleration) in spec.tolerations.iter().flatten().enumerate() {
        check_toleration(&format!("{at}.tolerations[{i}]"), toleration, faults);
    }
    if let Some(grace_s) = spec.termination_grace_period_seconds.filter(|s| *s < 0) {
        let field = format!("{at}.terminationGracePeriodSeconds");
        faults.push(FieldError::invalid(field, grace_s, "must be greater than or equal to 0"));
    }
    let deadline = spec.active_deadline_seconds;
    if let Some(seconds) = deadline.filter(|s| !(1..=i64::from(i32::MAX)).contains(s)) {
        let words = "must be between 1 and 2147483647, inclusive";
        faults.push(FieldError::invalid(format!("{at}.activeDeadlineSeconds"), seconds, words));
    }
}

fn check_words(at: &str, spec: &PodSpec, faults: &mut Vec<FieldError>) {
    let policies = ["Always", "Never", "OnFailure"];
    match spec.restart_policy.as_deref().unwrap_or_default() {
        "" => faults.push(FieldError::required(format!("{at}.restartPolicy"), "")),
        policy => check_word(format!("{at}.restartPolicy"), Some(policy), &policies, faults),
    }
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    check_word(format!("{at}.dnsPolicy"), spec.dns_policy.as_deref(), &policies, faults);
    let preemption = ["Never", "PreemptLowerPriority"];
    check_word(format!("{at}.preemptionPolicy"), spec.preemption_policy.as_deref(), &preemption, faults);
}

fn check_names(at: &str, spec: &PodSpec, faults: &mut Vec<FieldError>) {
    for (field, value, rule) in [
        ("nodeName", &spec.node_name, names::dns1123_subdomain_faults as fn(&str) -> Vec<String>),
        ("serviceAccountName", &spec.service_account_name, names::dns1123_subdomain_faults),
        ("hostname", &spec.hostname, names::dns1123_label_faults),
        ("subdomain", &spec.subdomain, names::dns1123_label_faults),
        ("priorityClassName", &spec.priority_class_name, names::dns1123_subdomain_faults),
    ] {
        if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
            check_name(format!("{at}.{field}"), value, rule, faults);
        }
    }
    for (key, value) in spec.node_selector.iter().flatten() {
        let field = format!("{at}.nodeSelector");
        check_name(field.as_str(), key, names::qualified_name_faults, faults);
        check_name(field, value, names::label_value_faults, faults);
    }
    for (i, secret) in spec.image_pull_secrets.iter().flatten().enumerate().filter(|(_, s)| s.name.is_empty())
    {
        let _ = secret;
        faults.push(FieldError::required(format!("{at}.imagePullSecrets[{i}].name"), ""));
    }
}

fn check_toleration(at: &str, toleration: &Toleration, faults: &mut Vec<FieldError>) {
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = toleration.value.as_deref().unwrap_or_default();
    let operator = toleration.operator.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    if !key.is_empty() {
        check_name(format!("{at}.key"), key, names::qualified_name_faults, faults);
    } else if operator != "Exists" {
        let words =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        faults.push(FieldError::invalid(format!("{at}.operator"), operator, words));
    }
    match operator {
        "" | "Equal" => check_name(format!("{at}.operator"), value, names::label_value_faults, faults),
        "Exists" => {
            if !value.is_empty() {
                let words = "value must be empty when `operator` is 'Exists'";
                faults.push(FieldError::invalid(format!("{at}.operator"), value, words));
            }
        }
        _ => faults.push(FieldError::not_supported(format!("{at}.operator"), operator, &["Equal", "Exists"])),
    }
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        let words = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        faults.push(FieldError::invalid(format!("{at}.effect"), effect, words));
    }
    if !effect.is_empty() {
        let effects = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
        check_word(format!("{at}.effect"), Some(effect), &effects, faults);
    }
}

/// Checks the volumes; returns the names that a mount may use.
fn check_volumes(at: &str, volumes: &[Volume], faults: &mut Vec<FieldError>) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    for (i, volume) in volumes.iter().enumerate() {
        let at = format!("{at}.volumes[{i}]");
        if volume.name.is_empty() {
            faults.push(FieldError::required(format!("{at}.name"), ""));
        } else {
            check_name(format!("{at}.name"), &volume.name, names::dns1123_label_faults, faults);
            if seen.contains(&volume.name) {
                faults.push(FieldError::duplicate(format!("{at}.name"), volume.name.as_str()));
            }
        }
        seen.push(volume.name.clone());
        check_source(&at, volume, faults);
    }
    seen
}

fn check_source(at: &str, volume: &Volume, faults: &mut Vec<FieldError>) {
    let Ok(Value::Object(fields)) = serde_json::to_value(volume) else { return };
    let sources: Vec<_> = fields.keys().filter(|key| *key != "name").collect();
    match sources.as_slice() {
        [] => faults.push(FieldError::required(at, "must specify a volume type")),
        [_] => {}
        [_, second, ..] => {
            faults.push(FieldError::forbidden(
                format!("{at}.{second}"),
                "may not specify more than 1 volume type",
            ));
        }
    }
    if volume.secret.as_ref().is_some_and(|s| s.secret_name.as_deref().unwrap_or_default().is_empty()) {
        faults.push(FieldError::required(format!("{at}.secret.secretName"), ""));
    }
    if volume.config_map.as_ref().is_some_and(|c| c.name.is_empty()) {
        faults.push(FieldError::required(format!("{at}.configMap.name"), ""));
    }
    if let Some(host) = &volume.host_path {
        if host.path.is_empty() {
            faults.push(FieldError::required(format!("{at}.hostPath.path"), ""));
        } else if host.path.split('/').any(|step| step == "..") {
            faults.push(FieldError::invalid(
                format!("{at}.hostPath"),
                host.path.as_str(),
                "must not contain '..'",
            ));
        }
    }
    for (kind, mode) in [
        ("secret", volume.secret.as_ref().and_then(|s| s.default_mode)),
        ("configMap", volume.config_map.as_ref().and_then(|c| c.default_mode)),
        ("projected", volume.projected.as_ref().and_then(|p| p.default_mode)),
    ] {
        if let Some(mode) = mode.filter(|m| !(0..=0o777).contains(m)) {
            let words = "must be a number between 0 and 0777 (octal), both inclusive";
            faults.push(FieldError::invalid(format!("{at}.{kind}.defaultMode"), mode, words));
        }
    }
}
