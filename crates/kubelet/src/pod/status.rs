//! What is said of a Pod: its status, from spec and memory. Pure.
//!
//! Only what the kubelet owns is here: conditions of others (`hitless.dev/Programmed`, `hitless.dev/Withdrawn`) are never in it.
//! See <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>.

use std::collections::BTreeMap;

use hitless_base::Timestamp;
use hitless_types::{pod as readings, resources};
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    decide::{self, Init},
    memory::{Memory, Record, Waiting},
};
use crate::fieldref::Addresses;

/// Status and start of validity of each condition that the kubelet owns.
pub type Since = BTreeMap<String, (String, Timestamp)>;

/// What the status is made from, beside Pod and memory.
pub struct View<'a> {
    /// Now.
    pub now: Timestamp,
    /// Addresses of Pod and node.
    pub addresses: &'a Addresses,
    /// `containerd`.
    pub runtime: &'a str,
    /// The Pod is being deleted.
    pub terminating: bool,
    /// The Pod's end has come: what has ended stays ended, whatever the restart policy.
    pub ended: bool,
    /// While terminating, a Ready that has fallen stays down: the endpoint must not become routable again.
    pub ready_before: bool,
}

/// The Pod's status. `since` keeps each condition's time of transition and is brought up to date.
#[must_use]
pub fn build(pod: &Pod, memory: &Memory, view: &View<'_>, since: &mut Since) -> PodStatus {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let phase = phase(spec, memory, view.ended);
    let of = |list: Option<&[Container]>, init: bool| -> Vec<ContainerStatus> {
        list.unwrap_or_default().iter().map(|c| container(pod, spec, c, init, memory, view)).collect()
    };
    let main = of(Some(&spec.containers), false);
    let init = of(spec.init_containers.as_deref(), true);
    let said = conditions(pod, spec, memory, view, phase, &main, &init);
    let conditions = dated(said, pod.metadata.generation, view.now, since);
    let (reason, message) = match &memory.failed {
        Some((reason, message)) => (Some((*reason).to_owned()), Some(message.clone())),
        None => (None, None),
    };
    let ips = &view.addresses.pod_ips;
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        container_statuses: Some(main),
        init_container_statuses: (!init.is_empty()).then_some(init),
        host_ip: Some(view.addresses.host_ip.clone()),
        host_ips: Some(vec![HostIP { ip: view.addresses.host_ip.clone() }]),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        qos_class: Some(resources::qos_class(spec).to_owned()),
        start_time: memory.start_time.map(Time),
        observed_generation: pod.metadata.generation,
        reason,
        message,
        ..PodStatus::default()
    }
}

/// `Pending`, `Running`, `Succeeded` or `Failed`.
fn phase(spec: &PodSpec, memory: &Memory, ended: bool) -> &'static str {
    // Failed is for good, so it is said only when nothing runs any more.
    if memory.failed.is_some() && !memory.records().any(Record::running) {
        return "Failed";
    }
    let records: Vec<Option<&Record>> = spec.containers.iter().map(|c| memory.latest(&c.name)).collect();
    let codes_ok = |records: &[Option<&Record>]| records.iter().flatten().all(|r| r.container.exit_code == 0);
    if ended {
        let ok = records.iter().all(Option::is_some) && codes_ok(&records) && !records.is_empty();
        return if ok { "Succeeded" } else { "Failed" };
    }
    match decide::init_progress(spec, memory) {
        Init::Failed(_) => return "Failed",
        Init::At(_) => return "Pending",
        Init::Done => {}
    }
    if records.iter().any(Option::is_none) || records.is_empty() {
        return "Pending";
    }
    if decide::is_over(spec, memory) {
        return if codes_ok(&records) { "Succeeded" } else { "Failed" };
    }
    let only_created = records.iter().flatten().all(|r| !r.running() && !r.exited());
    if only_created { "Pending" } else { "Running" }
}

fn waiting(reason: &str, message: String) -> ContainerState {
    let message = Some(message).filter(|m| !m.is_empty());
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ContainerState::default()
    }
}

fn terminated(record: &Record, runtime: &str) -> ContainerState {
    let c = &record.container;
    let reason = match c.reason.as_str() {
        "" if c.exit_code == 0 => "Completed",
        "" => "Error",
        other => other,
    };
    let message = record.message.clone().filter(|m| !m.is_empty()).or_else(|| Some(c.message.clone()));
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(container_id(runtime, &c.id)),
            exit_code: c.exit_code,
            started_at: c.started_at.map(Time),
            finished_at: c.finished_at.map(Time),
            reason: Some(reason.to_owned()),
            message: message.filter(|m| !m.is_empty()),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

fn container_id(runtime: &str, id: &str) -> String {
    format!("{runtime}://{id}")
}

/// The words of `CrashLoopBackOff`.
#[must_use]
pub fn back_off_message(pod: &Pod, container: &str, delay: std::time::Duration) -> String {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let (name, namespace, uid) =
        (text(&pod.metadata.name), text(&pod.metadata.namespace), text(&pod.metadata.uid));
    format!(
        "back-off {} restarting failed container={container} pod={name}_{namespace}({uid})",
        go_duration(delay)
    )
}

/// As Go prints whole seconds: `10s`, `1m20s`, `5m0s`.
fn go_duration(d: std::time::Duration) -> String {
    let s = d.as_secs();
    if s < 60 { format!("{s}s") } else { format!("{}m{}s", s / 60, s % 60) }
}

fn container(
    pod: &Pod,
    spec: &PodSpec,
    c: &Container,
    init: bool,
    memory: &Memory,
    view: &View<'_>,
) -> ContainerStatus {
    let mut status = ContainerStatus {
        name: c.name.clone(),
        image: c.image.clone().unwrap_or_default(),
        started: Some(false),
        ..ContainerStatus::default()
    };
    let held = memory.waiting.get(&c.name);
    let Some(record) = memory.latest(&c.name) else {
        status.state = Some(not_there(spec, held, view));
        return status;
    };
    status.restart_count = i32::try_from(record.container.attempt).unwrap_or(i32::MAX);
    status.container_id = Some(container_id(view.runtime, &record.container.id));
    status.image_id = record.container.image_ref.clone();
    // The runtime may know the image by its id only; people know it by its name.
    if !record.container.image.is_empty() && !record.container.image.starts_with("sha256:") {
        status.image = record.container.image.clone();
    }
    let previous = memory.previous(&c.name).filter(|p| p.exited()).map(|p| terminated(p, view.runtime));
    if record.running() && memory.post_starting.contains(&record.container.id) {
        status.state = Some(not_there(spec, None, view));
        status.last_state = previous;
    } else if record.running() {
        let probed = memory.probed.get(&c.name).filter(|p| p.container_id == record.container.id);
        status.state = Some(ContainerState {
            running: Some(ContainerStateRunning { started_at: record.container.started_at.map(Time) }),
            ..ContainerState::default()
        });
        status.started = Some(probed.is_some_and(|p| p.started));
        status.ready = probed.is_some_and(|p| p.started && p.ready);
        status.last_state = previous;
    } else if record.exited() {
        let again = !view.terminating
            && !view.ended
            && memory.failed.is_none()
            && !decide::is_over(spec, memory)
            && decide::restarts(spec, c, init, record.container.exit_code);
        let restart = memory.restarts.get(&c.name).filter(|r| again && r.not_before > view.now);
        let own = terminated(record, view.runtime);
        // An init container that has succeeded counts as ready.
        status.ready = init && record.container.exit_code == 0;
        match (held.filter(|_| again), restart) {
            (Some(w), _) => {
                status.state = Some(waiting(w.reason, w.message.clone()));
                status.last_state = Some(own);
            }
            (None, Some(r)) => {
                status.state = Some(waiting("CrashLoopBackOff", back_off_message(pod, &c.name, r.delay)));
                status.last_state = Some(own);
            }
            (None, None) => {
                status.state = Some(own);
                status.last_state = previous;
            }
        }
    } else {
        let words = held.map_or(("ContainerCreating", String::new()), |w| (w.reason, w.message.clone()));
        status.state = Some(waiting(words.0, words.1));
        status.last_state = previous;
    }
    status
}

/// The state of a container that the runtime has never held.
fn not_there(spec: &PodSpec, held: Option<&Waiting>, view: &View<'_>) -> ContainerState {
    if view.ended {
        return never_ran();
    }
    match held {
        Some(w) => waiting(w.reason, w.message.clone()),
        None if spec.init_containers.as_ref().is_some_and(|i| !i.is_empty()) => {
            waiting("PodInitializing", String::new())
        }
        None => waiting("ContainerCreating", String::new()),
    }
}

/// A container of a Pod that was ended before it ran.
fn never_ran() -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

/// One condition before it has a time.
struct Said {
    type_: &'static str,
    ok: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Said {
    fn yes(type_: &'static str) -> Self {
        Self { type_, ok: true, reason: None, message: None }
    }

    fn no(type_: &'static str, reason: &'static str, message: Option<String>) -> Self {
        Self { type_, ok: false, reason: Some(reason), message }
    }
}

fn bracketed(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

/// What is to be said of the Pod, in the order in which it is shown.
fn conditions(
    pod: &Pod,
    spec: &PodSpec,
    memory: &Memory,
    view: &View<'_>,
    phase: &str,
    main: &[ContainerStatus],
    init: &[ContainerStatus],
) -> [Said; 5] {
    let has_address = memory.sandbox_up() && !view.addresses.pod_ips.is_empty();
    let ready_to_start = if has_address {
        Said::yes("PodReadyToStartContainers")
    } else {
        Said { ok: false, ..Said::yes("PodReadyToStartContainers") }
    };
    let initialized = initialized(spec, memory, phase, init);
    let containers_ready = containers_ready(phase, main, init, spec);
    let mut ready = match pod_ready(pod, spec, &containers_ready) {
        Ok(()) => Said::yes("Ready"),
        Err((reason, message)) => Said::no("Ready", reason, message),
    };
    if view.terminating && ready.ok && !view.ready_before {
        let message = Some("the pod is being deleted and is not made ready again".to_owned());
        ready = Said::no("Ready", "PodTerminating", message);
    }
    [ready_to_start, initialized, ready, containers_ready, Said::yes("PodScheduled")]
}

/// Each with the time since when it has been said.
fn dated(said: [Said; 5], generation: Option<i64>, now: Timestamp, since: &mut Since) -> Vec<PodCondition> {
    said.into_iter()
        .map(|said| {
            let status = if said.ok { "True" } else { "False" };
            let entry = since.entry(said.type_.to_owned()).or_insert_with(|| (status.to_owned(), now));
            if entry.0 != status {
                *entry = (status.to_owned(), now);
            }
            PodCondition {
                type_: said.type_.to_owned(),
                status: status.to_owned(),
                reason: said.reason.map(str::to_owned),
                message: said.message,
                last_transition_time: Some(Time(entry.1)),
                observed_generation: generation,
                ..PodCondition::default()
            }
        })
        .collect()
}

fn initialized(spec: &PodSpec, memory: &Memory, phase: &str, init: &[ContainerStatus]) -> Said {
    if phase == "Succeeded" {
        return Said { reason: Some("PodCompleted"), ..Said::yes("Initialized") };
    }
    if decide::init_progress(spec, memory) == Init::Done {
        return Said::yes("Initialized");
    }
    let incomplete: Vec<&str> = init.iter().filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    let message = format!("containers with incomplete status: {}", bracketed(&incomplete));
    Said::no("Initialized", "ContainersNotInitialized", Some(message))
}

fn containers_ready(phase: &str, main: &[ContainerStatus], init: &[ContainerStatus], spec: &PodSpec) -> Said {
    match phase {
        "Succeeded" => return Said::no("ContainersReady", "PodCompleted", None),
        "Failed" => return Said::no("ContainersReady", "PodFailed", None),
        _ => {}
    }
    let sidecars: Vec<&str> = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| resources::is_sidecar(c))
        .map(|c| c.name.as_str())
        .collect();
    let unready: Vec<&str> = init
        .iter()
        .filter(|s| sidecars.contains(&s.name.as_str()))
        .chain(main)
        .filter(|s| !s.ready)
        .map(|s| s.name.as_str())
        .collect();
    if unready.is_empty() {
        return Said::yes("ContainersReady");
    }
    let message = format!("containers with unready status: {}", bracketed(&unready));
    Said::no("ContainersReady", "ContainersNotReady", Some(message))
}

fn pod_ready(
    pod: &Pod,
    spec: &PodSpec,
    containers_ready: &Said,
) -> Result<(), (&'static str, Option<String>)> {
    if !containers_ready.ok {
        return Err((containers_ready.reason.unwrap_or_default(), containers_ready.message.clone()));
    }
    let mut words = Vec::new();
    for gate in spec.readiness_gates.iter().flatten() {
        match readings::condition(pod, &gate.condition_type) {
            None => words.push(format!(
                "corresponding condition of pod readiness gate {:?} does not exist.",
                gate.condition_type
            )),
            Some(c) if c.status != "True" => words.push(format!(
                "the status of pod readiness gate {:?} is not \"True\", but {}",
                gate.condition_type, c.status
            )),
            Some(_) => {}
        }
    }
    if words.is_empty() { Ok(()) } else { Err(("ReadinessGatesNotReady", Some(words.join(", ")))) }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
