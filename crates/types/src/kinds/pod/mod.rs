//! Pod: its row, and the parts that the templates of other kinds share.

mod container;
mod default;
mod dns;
mod table;
mod update;
mod validate;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{AGE, Kind, NAME, ROW, column, typecheck, wide};
use crate::{field::FieldError, json::typed, resources};

pub(super) use default::default_spec;
pub(super) use validate::validate_spec;

pub(super) const POD: Kind = Kind {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    status: true,
    generation: true,
    graceful: true,
    default: default::default_pod,
    validate: |new, old| {
        let spec = typed::<Pod>(new).spec.unwrap_or_default();
        let mut faults: Vec<FieldError> = Vec::new();
        validate_spec("spec", &spec, &mut faults);
        match old {
            None => validate::validate_new(&spec, &mut faults),
            Some(old) => {
                update::validate_update(&spec, &typed::<Pod>(old).spec.unwrap_or_default(), &mut faults)
            }
        }
        faults
    },
    typecheck: typecheck::typecheck::<Pod>,
    columns: &[
        NAME,
        column("Ready", "string", "Ready containers of all."),
        column("Status", "string", "What the Pod is doing."),
        column("Restarts", "string", "How often containers were restarted, and when last."),
        AGE,
        wide("IP", "string", "Address."),
        wide("Node", "string", "The node that it is bound to."),
        wide("Nominated Node", "string", "The node where room is being made for it."),
        wide("Readiness Gates", "string", "Readiness gates that are open."),
    ],
    cells: |object, now| table::cells(&typed(object), now),
    fields: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ],
    initial_status: |object| Some(initial_status(object)),
    ..ROW
};

fn initial_status(object: &Value) -> Value {
    let spec = typed::<Pod>(object).spec.unwrap_or_default();
    json!({"phase": "Pending", "qosClass": resources::qos_class(&spec)})
}

/// What `kubectl get` shows under STATUS: a reason of a container, `Terminating`, or the phase.
#[must_use]
pub fn status_text(pod: &Pod) -> String {
    table::summary(pod).status
}
