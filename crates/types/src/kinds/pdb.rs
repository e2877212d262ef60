//! PodDisruptionBudget.

use k8s_openapi::{api::policy::v1::PodDisruptionBudget, apimachinery::pkg::util::intstr::IntOrString};
use serde_json::{Value, json};

use super::{AGE, Kind, NAME, ROW, column, typecheck};
use crate::{field::FieldError, intstr, json::typed, selector, table};

pub(super) const POD_DISRUPTION_BUDGET: Kind = Kind {
    group: "policy",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    status: true,
    generation: true,
    validate,
    typecheck: typecheck::typecheck::<PodDisruptionBudget>,
    columns: &[
        NAME,
        column("Min Available", "string", "Pods that must be available after an eviction."),
        column("Max Unavailable", "string", "Pods that may be unavailable after an eviction."),
        column("Allowed Disruptions", "integer", "Evictions allowed now."),
        AGE,
    ],
    cells: |object, now| {
        let pdb: PodDisruptionBudget = typed(object);
        let spec = pdb.spec.unwrap_or_default();
        let count = |value: Option<IntOrString>| match value {
            None => Value::from("N/A"),
            Some(IntOrString::Int(n)) => n.to_string().into(),
            Some(IntOrString::String(text)) => text.into(),
        };
        let allowed = pdb.status.and_then(|s| s.disruptions_allowed).unwrap_or_default();
        vec![
            table::name_of(&pdb.metadata),
            count(spec.min_available),
            count(spec.max_unavailable),
            allowed.into(),
            table::age_of(&pdb.metadata, now),
        ]
    },
    initial_status: |_| {
        Some(json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}))
    },
    ..ROW
};

fn validate(new: &Value, _old: Option<&Value>) -> Vec<FieldError> {
    let spec = typed::<PodDisruptionBudget>(new).spec.unwrap_or_default();
    let mut faults = Vec::new();
    if spec.min_available.is_some() && spec.max_unavailable.is_some() {
        let value = serde_json::to_value(&spec).unwrap_or_default();
        faults.push(FieldError::invalid("spec", value, "minAvailable and maxUnavailable cannot be both set"));
    }
    for (name, value) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
        if let Some(value) = value {
            check_count(&format!("spec.{name}"), value, &mut faults);
        }
    }
    if let Some(Err(error)) = spec.selector.as_ref().map(selector::from_label_selector) {
        let value = serde_json::to_value(&spec.selector).unwrap_or_default();
        faults.push(FieldError::invalid("spec.selector", value, &error.message));
    }
    let policies = ["AlwaysAllow", "IfHealthyBudget"];
    if let Some(policy) = spec.unhealthy_pod_eviction_policy.as_deref().filter(|p| !policies.contains(p)) {
        faults.push(FieldError::not_supported("spec.unhealthyPodEvictionPolicy", policy, &policies));
    }
    faults
}

/// A count that is not negative, or a percentage of at most 100.
pub(super) fn check_count(field: &str, value: &IntOrString, faults: &mut Vec<FieldError>) {
    match value {
        IntOrString::Int(n) if *n < 0 => {
            faults.push(FieldError::invalid(field, *n, "must be greater than or equal to 0"));
        }
        IntOrString::Int(_) => {}
        IntOrString::String(text) => match intstr::percent(text) {
            None => faults.push(FieldError::invalid(
                field,
                text.as_str(),
                "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
            )),
            Some(percent) if percent > 100 => {
                faults.push(FieldError::invalid(field, text.as_str(), "must not be greater than 100%"));
            }
            Some(_) => {}
        },
    }
}
