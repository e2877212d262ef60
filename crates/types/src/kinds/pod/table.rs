//! A Pod's row of `kubectl get`: above all the one word that says what it is doing.

use hitless_base::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus,
};
use serde_json::Value;

use crate::{pod, resources, table};

/// What the containers come to.
pub(super) struct Summary {
    pub(super) status: String,
    ready: usize,
    total: usize,
    restarts: i32,
    restarted_at: Option<Timestamp>,
}

pub(super) fn cells(pod: &Pod, now: Timestamp) -> Vec<Value> {
    let sum = summary(pod);
    let restarts = match sum.restarted_at {
        Some(at) if sum.restarts > 0 => format!("{} ({} ago)", sum.restarts, table::age(Some(at), now)),
        _ => sum.restarts.to_string(),
    };
    let status = pod.status.as_ref();
    let ip =
        status.and_then(|s| s.pod_ips.as_ref()?.first().map(|ip| ip.ip.as_str()).or(s.pod_ip.as_deref()));
    vec![
        table::name_of(&pod.metadata),
        format!("{}/{}", sum.ready, sum.total).into(),
        sum.status.into(),
        restarts.into(),
        table::age_of(&pod.metadata, now),
        table::or_none(ip.or(status.and_then(|s| s.pod_ip.as_deref()))),
        table::or_none(pod::node_name(pod)),
        table::or_none(status.and_then(|s| s.nominated_node_name.as_deref())),
        gates(pod).into(),
    ]
}

fn gates(pod: &Pod) -> String {
    let gates = pod.spec.as_ref().and_then(|s| s.readiness_gates.as_deref()).unwrap_or_default();
    let open = gates.iter().filter(|g| pod::condition_is_true(pod, &g.condition_type)).count();
    if gates.is_empty() { table::NONE.to_owned() } else { format!("{open}/{}", gates.len()) }
}

pub(super) fn summary(pod: &Pod) -> Summary {
    let (spec, status) = (pod.spec.clone().unwrap_or_default(), pod.status.clone().unwrap_or_default());
    let sidecars = spec.init_containers.iter().flatten().filter(|c| resources::is_sidecar(c)).count();
    let mut sum = Summary {
        status: first_word(pod, &status),
        ready: 0,
        total: spec.containers.len() + sidecars,
        restarts: 0,
        restarted_at: None,
    };
    let mut of_sidecars = Restarts::default();
    let mut all = Restarts::default();
    let initializing = init_state(&spec, &status, &mut sum, &mut all, &mut of_sidecars);
    if !initializing || pod::condition_is_true(pod, "Initialized") {
        all = of_sidecars;
        main_state(pod, &status, &mut sum, &mut all);
    }
    (sum.restarts, sum.restarted_at) = (all.count, all.last);
    if pod::is_terminating(pod) {
        if status.reason.as_deref() == Some("NodeLost") {
            sum.status = "Unknown".to_owned();
        } else if !pod::is_finished(pod) {
            sum.status = "Terminating".to_owned();
        }
    }
    sum
}

/// The phase, unless the Pod itself says more.
fn first_word(pod: &Pod, status: &PodStatus) -> String {
    let gated =
        pod::condition(pod, "PodScheduled").is_some_and(|c| c.reason.as_deref() == Some("SchedulingGated"));
    match status.reason.as_deref() {
        _ if gated => "SchedulingGated".to_owned(),
        Some(reason) if !reason.is_empty() => reason.to_owned(),
        _ => pod::phase(pod).to_owned(),
    }
}

#[derive(Default)]
struct Restarts {
    count: i32,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &ContainerStatus) {
        self.count += container.restart_count;
        let ended = container.last_state.as_ref().and_then(|s| s.terminated.as_ref()?.finished_at.as_ref());
        self.last = self.last.max(ended.map(|t| t.0));
    }
}

/// Whether an init container is still to finish; then it gives the word.
fn init_state(
    spec: &PodSpec,
    status: &PodStatus,
    sum: &mut Summary,
    all: &mut Restarts,
    of_sidecars: &mut Restarts,
) -> bool {
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    for (i, container) in status.init_container_statuses.iter().flatten().enumerate() {
        let sidecar = inits.iter().any(|c| c.name == container.name && resources::is_sidecar(c));
        all.add(container);
        if sidecar {
            of_sidecars.add(container);
        }
        let state = container.state.clone().unwrap_or_default();
        if state.terminated.as_ref().is_some_and(|t| t.exit_code == 0) {
            continue;
        }
        if sidecar && container.started == Some(true) {
            sum.ready += usize::from(container.ready);
            continue;
        }
        sum.status = match (&state.terminated, waiting_reason(&state)) {
            (Some(ended), _) => format!("Init:{}", ended_word(ended)),
            (None, Some(reason)) if reason != "PodInitializing" => format!("Init:{reason}"),
            _ => format!("Init:{i}/{}", inits.len()),
        };
        return true;
    }
    false
}

fn main_state(pod: &Pod, status: &PodStatus, sum: &mut Summary, restarts: &mut Restarts) {
    let mut running = false;
    for container in status.container_statuses.iter().flatten().rev() {
        restarts.add(container);
        let state = container.state.clone().unwrap_or_default();
        if let Some(reason) = waiting_reason(&state) {
            sum.status = reason.to_owned();
        } else if let Some(ended) = &state.terminated {
            sum.status = ended_word(ended);
        } else if container.ready && state.running.is_some() {
            running = true;
            sum.ready += 1;
        }
    }
    // One container may have completed while others go on.
    if sum.status == "Completed" && running {
        sum.status = if pod::is_ready(pod) { "Running" } else { "NotReady" }.to_owned();
    }
}

fn waiting_reason(state: &ContainerState) -> Option<&str> {
    state.waiting.as_ref()?.reason.as_deref().filter(|r| !r.is_empty())
}

fn ended_word(ended: &ContainerStateTerminated) -> String {
    match (ended.reason.as_deref().unwrap_or_default(), ended.signal.unwrap_or_default()) {
        ("", 0) => format!("ExitCode:{}", ended.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}
