//! What to do next for a Pod that is not being deleted. Pure: Pod, memory and time in, steps out.
//!
//! Nothing here remembers having asked for a step: each is asked for until memory shows that it is done, so a step that was
//! lost (the kubelet crashed) is simply asked for again, and one that was done (its container runs) is not.

use hitless_base::Timestamp;
use hitless_types::resources::is_sidecar;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::memory::{ImageState, Memory, Record};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Put volumes, hosts file and directories in place.
    SetUp,
    /// Run a sandbox.
    RunSandbox {
        /// Its attempt.
        attempt: u32,
    },
    /// Look whether the container's image is there, and pull it in the background if it is not and may be.
    CheckImage {
        /// The container.
        container: String,
    },
    /// Create and start a container; its image is there.
    Start {
        /// The container.
        container: String,
        /// How often it was restarted.
        attempt: u32,
    },
    /// Start a container that an earlier kubelet created.
    StartCreated {
        /// Runtime's id.
        id: String,
    },
    /// Stop the sandbox of a Pod that has run to its end: its address goes back, its logs stay.
    StopSandbox,
}

/// Steps to do now, and when to look again if nothing changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// `None`: only a change calls for another look.
    pub look_at: Option<Timestamp>,
}

impl Plan {
    fn look_at(&mut self, at: Timestamp) {
        self.look_at = Some(self.look_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// `Always`, `OnFailure` or `Never`.
#[must_use]
pub fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// Whether a container that has ended so is started again.
#[must_use]
pub fn restarts(spec: &PodSpec, container: &Container, init: bool, exit_code: i32) -> bool {
    if init && is_sidecar(container) {
        return true;
    }
    match restart_policy(spec) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        // An init container that has succeeded is done, whatever the policy.
        _ => !init || exit_code != 0,
    }
}

/// How far the init containers have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Init {
    /// All are done (sidecars: started).
    Done,
    /// This one is next, or runs.
    At(String),
    /// This one has failed for good.
    Failed(String),
}

/// How far the init containers have come. Once a main container was made in this sandbox, they are done.
#[must_use]
pub fn init_progress(spec: &PodSpec, memory: &Memory) -> Init {
    let sandbox = memory.sandbox.as_ref().map(|s| s.id.as_str());
    let main_made = spec.containers.iter().any(|c| {
        memory
            .latest(&c.name)
            .is_some_and(|r| Some(r.container.sandbox_id.as_str()) == sandbox || sandbox.is_none())
    });
    if main_made {
        return Init::Done;
    }
    for container in spec.init_containers.iter().flatten() {
        let record = memory.latest(&container.name);
        let sidecar = is_sidecar(container);
        let done = match record {
            Some(r) if sidecar => {
                r.running()
                    && !memory.is_post_starting(&container.name)
                    && memory.probed.get(&container.name).is_none_or(|p| p.started)
            }
            Some(r) => r.exited() && r.container.exit_code == 0 && in_sandbox(r, sandbox),
            None => false,
        };
        if done {
            continue;
        }
        if let Some(r) = record
            && r.exited()
            && in_sandbox(r, sandbox)
            && !restarts(spec, container, true, r.container.exit_code)
        {
            return Init::Failed(container.name.clone());
        }
        return Init::At(container.name.clone());
    }
    Init::Done
}

fn in_sandbox(record: &Record, sandbox: Option<&str>) -> bool {
    sandbox.is_none() || Some(record.container.sandbox_id.as_str()) == sandbox
}

/// Whether the Pod has run to its end: nothing runs, and nothing will be started again.
#[must_use]
pub fn is_over(spec: &PodSpec, memory: &Memory) -> bool {
    if memory.records().any(Record::running) {
        return false;
    }
    if memory.failed.is_some() {
        return true;
    }
    if matches!(init_progress(spec, memory), Init::Failed(_)) {
        return true;
    }
    !spec.containers.is_empty()
        && spec.containers.iter().all(|c| {
            memory
                .latest(&c.name)
                .is_some_and(|r| r.exited() && !restarts(spec, c, false, r.container.exit_code))
        })
}

/// What to do now.
#[must_use]
pub fn decide(pod: &Pod, memory: &Memory, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &pod.spec else { return plan };
    if is_over(spec, memory) {
        if memory.sandbox_up() {
            plan.steps.push(Step::StopSandbox);
        }
        return plan;
    }
    if memory.failed.is_some() {
        return plan;
    }
    if !memory.volumes_ready || !memory.sandbox_up() {
        if let Some(at) = memory.setup_retry_at.filter(|at| *at > now) {
            plan.look_at(at);
            return plan;
        }
        if !memory.volumes_ready {
            plan.steps.push(Step::SetUp);
        } else {
            let attempt = memory.sandbox.as_ref().map_or(0, |s| s.attempt.saturating_add(1));
            plan.steps.push(Step::RunSandbox { attempt });
        }
        return plan;
    }
    for sidecar in spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)) {
        if memory.latest(&sidecar.name).is_some() {
            want(spec, sidecar, true, memory, now, &mut plan);
        }
    }
    match init_progress(spec, memory) {
        Init::Failed(_) => {}
        Init::At(name) => {
            let container = spec.init_containers.iter().flatten().find(|c| c.name == name);
            if let Some(container) = container.filter(|c| !is_sidecar(c) || memory.latest(&c.name).is_none())
            {
                want(spec, container, true, memory, now, &mut plan);
            }
        }
        Init::Done => {
            for container in &spec.containers {
                want(spec, container, false, memory, now, &mut plan);
                // The containers after it wait for a container's postStart hook, as in Kubernetes.
                let hooked = container.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some());
                let name = &container.name;
                let to_begin = memory.latest(name).is_none_or(|r| !r.running() && !r.exited())
                    && !memory.waiting.contains_key(name);
                if memory.is_post_starting(name) || (hooked && to_begin) {
                    break;
                }
            }
        }
    }
    plan
}

/// The step that brings one container to run, if one is due.
fn want(spec: &PodSpec, container: &Container, init: bool, memory: &Memory, now: Timestamp, plan: &mut Plan) {
    let name = &container.name;
    let sandbox = memory.sandbox.as_ref().map(|s| s.id.as_str());
    let attempt = match memory.latest(name) {
        None => 0,
        Some(r) if r.running() => return,
        Some(r) if !r.exited() && in_sandbox(r, sandbox) => {
            plan.steps.push(Step::StartCreated { id: r.container.id.clone() });
            return;
        }
        Some(r) => {
            // A new sandbox runs init containers again; else only what the policy restarts.
            let again =
                (init && !in_sandbox(r, sandbox)) || restarts(spec, container, init, r.container.exit_code);
            if !again {
                return;
            }
            if let Some(restart) = memory.restarts.get(name).filter(|x| x.not_before > now) {
                plan.look_at(restart.not_before);
                return;
            }
            r.container.attempt.saturating_add(1)
        }
    };
    if let Some(at) = memory.waiting.get(name).and_then(|w| w.retry_at).filter(|at| *at > now) {
        plan.look_at(at);
        return;
    }
    match memory.images.get(name) {
        Some(ImageState::Pulling) => {}
        Some(ImageState::Present(_)) => plan.steps.push(Step::Start { container: name.clone(), attempt }),
        Some(ImageState::Held) | None => plan.steps.push(Step::CheckImage { container: name.clone() }),
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
