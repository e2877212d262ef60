//! The end of a Pod, and the stop of single containers: does what the end-of-life machine says.
//!
//! Between the turn that sees `Withdrawn` and the signal lies one call to the runtime and nothing else.

use std::{fs, sync::Arc, time::Duration};

use hitless_base::{Backoff, Timestamp, chain};
use hitless_client::{events::Note, is_conflict, is_not_found};
use hitless_termination::{
    answers::{ANSWERS_MS_MAX, waiting},
    end_of_life::{Action, ContainerEnd, Deletion, EndOfLife, Policy, Seen, SeenContainer, after_s},
};
use hitless_types::{meta, pod as readings, well_known, well_known::reason};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};

use super::{
    memory::Ending,
    spec,
    worker::{Input, Worker},
};
use crate::{
    cgroup,
    context::{Context, shown},
    ports::{ContainerState, Runtime, RuntimeError, Signal},
    probe::{action, task::Kind},
};

/// One wait for an exit; then it is waited again.
const WAIT_SLICE: Duration = Duration::from_secs(60);
/// A call of the API that takes longer is made again.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// An object that is still there so long after its deletion is deleted again (finalizers may hold it).
const DELETE_AGAIN: Duration = Duration::from_secs(10);
/// Tries to send a stop signal after a first failure.
const SIGNAL_TRIES: u32 = 5;
/// Rounds of one turn at the end of a Pod.
const ROUNDS_MAX: usize = 16;

/// One container as the machine sees it, owned.
struct Row {
    name: String,
    running: bool,
    has_pre_stop: bool,
    pre_stop_ended: bool,
}

impl Row {
    fn seen(&self) -> SeenContainer<'_> {
        SeenContainer {
            name: &self.name,
            running: self.running,
            has_pre_stop: self.has_pre_stop,
            pre_stop_ended: self.pre_stop_ended,
        }
    }
}

impl Worker {
    /// Whether and how the Pod's end was asked for.
    pub(super) fn deletion(&self) -> Option<Deletion> {
        if self.gone {
            return Some(Deletion::Gone);
        }
        let stamp = self.pod.metadata.deletion_timestamp.as_ref()?.0;
        let grace_s =
            self.pod.metadata.deletion_grace_period_seconds.unwrap_or_else(|| spec::grace_s(&self.pod));
        if grace_s <= 0 {
            return Some(Deletion::Forced);
        }
        let exact = meta::annotation(&self.pod.metadata, well_known::ANNOTATION_DELETED_AT)
            .and_then(|text| text.parse::<Timestamp>().ok());
        let span = Duration::from_secs(u64::try_from(grace_s).unwrap_or(0));
        let at = exact.or_else(|| stamp.saturating_sub(span).ok()).unwrap_or(stamp);
        Some(Deletion::Asked { grace_s, at })
    }

    fn row(&self, name: &str) -> Option<Row> {
        let record = self.memory.latest(name)?;
        let lifecycle = spec::container(&self.pod, name).and_then(|c| c.lifecycle.as_ref());
        Some(Row {
            name: name.to_owned(),
            running: record.running(),
            has_pre_stop: lifecycle.is_some_and(|l| l.pre_stop.is_some()),
            pre_stop_ended: self.memory.hooks_ended.contains(&record.container.id),
        })
    }

    /// One turn at the end of the Pod; gives when to look again.
    pub(super) async fn end_turn(&mut self, deletion: Deletion) -> Option<Timestamp> {
        let policy =
            Policy { loop_on: self.ctx.options.loop_on, budget_s: readings::withdrawal_budget_s(&self.pod) };
        let first = self.end.is_none();
        let mut end = self.end.take().unwrap_or_else(|| EndOfLife::new(policy));
        let mut look_at = None;
        for round in 0..ROUNDS_MAX {
            let rows: Vec<Row> = self.memory.containers.keys().filter_map(|name| self.row(name)).collect();
            let seen: Vec<SeenContainer<'_>> = rows.iter().map(Row::seen).collect();
            let withdrawn = readings::condition_is_true(&self.pod, well_known::WITHDRAWN);
            let waiting = if end.wants_answers(deletion, withdrawn) { self.waiting(&rows).await } else { 0 };
            let gate_closed = end.opened().is_none();
            let next = end.step(&Seen {
                now: self.ctx.clock.now(),
                deletion: if self.gone { Deletion::Gone } else { deletion },
                withdrawn,
                waiting,
                routable: self.memory.routable,
                containers: &seen,
                sandbox_present: !self.released,
            });
            let mut again = false;
            let mut retry_at = None;
            for action in next.actions {
                let done = self.act(action, deletion).await;
                again |= done.again;
                retry_at = [retry_at, done.retry_at].into_iter().flatten().min();
            }
            if gate_closed && end.unanswered() > 0 {
                self.say_unanswered(end.unanswered());
            }
            if first && round == 0 {
                self.begin_end(deletion, end.opened().is_none());
            }
            if next.done {
                self.finished = true;
                break;
            }
            again |= self.fold_if_changed().await;
            look_at = [next.look_at, retry_at].into_iter().flatten().min();
            if !again {
                break;
            }
        }
        // What the first look at a deletion changes of the status can wait; the withdrawal that begins now cannot.
        let withdrawing = first && end.opened().is_none();
        self.end = Some(end);
        self.sync_probes();
        if !withdrawing {
            self.publish(false);
        }
        look_at
    }

    /// Connections that came in before the Pod was withdrawn and wait for an answer. 0 where that cannot be known: a Pod in the
    /// node's own network shares its connections with the node.
    async fn waiting(&self, rows: &[Row]) -> usize {
        let shared = self.pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        let first = rows.iter().find(|row| row.running).and_then(|row| self.memory.latest(&row.name));
        let Some(record) = first.filter(|_| !shared) else { return 0 };
        match self.ctx.runtime.connections(&record.container.id).await {
            Ok(connections) => waiting(&connections),
            Err(error) => {
                tracing::warn!(container = record.container.id, error = %chain(&error), "connections not seen");
                0
            }
        }
    }

    fn say_unanswered(&self, count: usize) {
        let message = format!(
            "{count} connections that had come in before nobody routed to the pod were not answered within {ANSWERS_MS_MAX} ms"
        );
        self.warn(reason::UNANSWERED, message);
    }

    /// What is done once when the end is first seen; after the first step, so that nothing stands before a signal.
    fn begin_end(&mut self, deletion: Deletion, gate_closed: bool) {
        self.memory.images.clear();
        self.memory.ending.clear();
        if gate_closed && matches!(deletion, Deletion::Asked { .. }) {
            let message =
                "Deletion seen; hooks and stop signal wait until nobody routes to the pod".to_owned();
            self.event(Note { reason: reason::WITHDRAWING, message, ..Note::default() });
        }
    }

    async fn act(&mut self, action: Action, deletion: Deletion) -> Done {
        match action {
            Action::RunPreStop { container, until } => self.run_pre_stop(&container, until),
            Action::SendSignal { container, .. } => {
                self.send_signal(&container, &format!("Stopping container {container}")).await;
            }
            Action::Kill { container } => {
                let forced = matches!(deletion, Deletion::Forced | Deletion::Gone);
                self.kill(&container, forced);
            }
            Action::ReleaseSandbox => return self.release().await,
            Action::DeleteObject => return self.delete_object().await,
        }
        Done::default()
    }

    fn run_pre_stop(&mut self, name: &str, until: Timestamp) {
        let Some(id) = self.memory.latest(name).map(|r| r.container.id.clone()) else { return };
        let Some(container) = spec::container(&self.pod, name) else { return };
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) else { return };
        let ip = self.addresses().pod_ips.first().cloned().unwrap_or_default();
        let hook = action::of_hook(hook, container.ports.as_deref().unwrap_or_default(), &ip);
        let (ctx, send, name) = (self.ctx.clone(), self.send.clone(), name.to_owned());
        let about = super::worker::about(&self.pod);
        self.tasks.spawn(async move {
            let began = ctx.clock.now();
            let timeout = Duration::try_from(until.duration_since(began)).unwrap_or(Duration::ZERO);
            let outcome = action::run(&hook, ctx.runtime.as_ref(), &id, timeout).await;
            let took = shown(ctx.clock.now().duration_since(began).unsigned_abs());
            let note = if outcome.is_success() {
                let message = format!("preStop hook of container {name} ran for {took}");
                Note { reason: reason::PRE_STOP, message, ..Note::default() }
            } else {
                let message = format!("PreStopHook failed: {}", outcome.words());
                Note { reason: reason::FAILED_PRE_STOP, message, warning: true, ..Note::default() }
            };
            let _worker_has_ended = send.send(Input::HookEnded { container_id: id }).await;
            ctx.recorder.record_about(about, note);
        });
    }

    /// Sends the stop signal; `words` say why.
    async fn send_signal(&mut self, name: &str, words: &str) {
        let Some(record) = self.memory.latest(name) else { return };
        let id = record.container.id.clone();
        let signal = record.container.annotations.get(spec::ANNOTATION_STOP_SIGNAL).map(String::as_str);
        let signal = Signal(signal.unwrap_or("SIGTERM").to_owned());
        let at = self.ctx.clock.now();
        match self.ctx.runtime.signal_container(&id, &signal).await {
            Ok(true) => {
                let message = words.to_owned();
                self.event(Note { reason: reason::KILLING, message, at: Some(at), ..Note::default() });
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(container = id, error = %chain(&error), "stop signal not sent, will try again");
                self.signal_again(id.clone(), signal);
            }
        }
        self.await_exit(id);
    }

    fn signal_again(&mut self, id: String, signal: Signal) {
        let ctx = self.ctx.clone();
        self.tasks.spawn(async move {
            let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
            for _ in 0..SIGNAL_TRIES {
                ctx.clock.sleep(backoff.step()).await;
                if ctx.runtime.signal_container(&id, &signal).await.is_ok() {
                    return;
                }
            }
        });
    }

    fn kill(&mut self, name: &str, forced: bool) {
        let Some(record) = self.memory.latest(name) else { return };
        let id = record.container.id.clone();
        if forced {
            let message = format!("Stopping container {name}");
            self.event(Note { reason: reason::KILLING, message, ..Note::default() });
        } else {
            let message = format!("Container {name} did not stop within its grace period, so it is killed");
            self.warn(reason::GRACE_EXCEEDED, message);
        }
        let (ctx, killed) = (self.ctx.clone(), id.clone());
        self.tasks.spawn(async move {
            if let Err(error) = ctx.runtime.kill_container(&killed).await {
                tracing::warn!(container = killed, error = %chain(&error), "container cannot be killed");
            }
        });
        self.await_exit(id);
    }

    /// Waits beside the worker for a container's end, once.
    fn await_exit(&mut self, id: String) {
        if !self.awaited.insert(id.clone()) {
            return;
        }
        let (runtime, send) = (self.ctx.runtime.clone(), self.send.clone());
        self.tasks.spawn(async move {
            until_ended(runtime.as_ref(), &id).await;
            let _worker_has_ended = send.send(Input::Exited { container_id: id }).await;
        });
    }

    /// Gives back what the Pod holds on this node, and says its last status beside that.
    async fn release(&mut self) -> Done {
        for (_, handle) in std::mem::take(&mut self.probes) {
            handle.abort();
        }
        self.publish(true);
        let settled = self.publisher.settled();
        let sandboxes: Vec<String> = self
            .memory
            .sandbox
            .iter()
            .map(|s| s.id.clone())
            .chain(self.memory.old_sandboxes.clone())
            .collect();
        let containers: Vec<String> = self
            .memory
            .records()
            .filter(|r| !sandboxes.contains(&r.container.sandbox_id))
            .map(|r| r.container.id.clone())
            .collect();
        let said = async {
            if !self.gone {
                settled.await;
            }
        };
        let (freed, ()) = tokio::join!(free(self.ctx.runtime.as_ref(), &sandboxes, &containers), said);
        if let Err(error) = freed {
            tracing::warn!(pod = meta::key(&self.pod.metadata), error = %chain(&error), "sandbox not released");
            let pause = self.delete_backoff.step();
            return Done { again: false, retry_at: self.later(pause) };
        }
        let held_anything = self.memory.holds_anything();
        remove_files(&self.ctx, &self.pod, &self.dirs);
        self.released = true;
        self.memory.sandbox = None;
        self.memory.old_sandboxes.clear();
        self.delete_backoff.reset();
        if held_anything {
            let message = "Sandbox, address and volumes are released".to_owned();
            self.event(Note { reason: reason::RELEASED, message, ..Note::default() });
        }
        Done { again: true, retry_at: None }
    }

    fn later(&self, pause: Duration) -> Option<Timestamp> {
        self.ctx.clock.now().saturating_add(pause).ok()
    }

    /// Deletes the object for good; the watch says when it is gone.
    async fn delete_object(&mut self) -> Done {
        if let Some(at) = self.delete_again_at.filter(|at| self.ctx.clock.now() < *at) {
            return Done { again: false, retry_at: Some(at) };
        }
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.ctx.client.clone(), &text(&self.pod.metadata.namespace));
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: self.pod.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        let name = text(&self.pod.metadata.name);
        let pause = match tokio::time::timeout(CALL_TIMEOUT, api.delete(&name, &params)).await {
            Ok(Ok(_)) => DELETE_AGAIN,
            // It is gone, or another Pod has its name by now.
            Ok(Err(error)) if is_not_found(&error) || is_conflict(&error) => {
                self.gone = true;
                return Done { again: true, retry_at: None };
            }
            Ok(Err(error)) => {
                tracing::warn!(pod = name, error = %chain(&error), "pod not deleted, will try again");
                self.delete_backoff.step()
            }
            Err(_) => self.delete_backoff.step(),
        };
        self.delete_again_at = self.later(pause);
        Done { again: false, retry_at: self.delete_again_at }
    }

    /// A probe has failed for good: the container is stopped, and started again by the restart policy.
    pub(super) fn begin_ending(&mut self, name: &str, kind: Kind) {
        if self.end.is_some() || self.memory.ending.contains_key(name) {
            return;
        }
        let Some(container) = spec::container(&self.pod, name) else { return };
        let own = kind.of(container).and_then(|p| p.termination_grace_period_seconds);
        let grace_s = own.unwrap_or_else(|| spec::grace_s(&self.pod));
        let word = kind.word().to_lowercase();
        let message = format!("Container {name} failed {word} probe, will be restarted");
        self.event(Note { reason: reason::KILLING, message, ..Note::default() });
        self.begin_ending_now(name, grace_s);
    }

    /// Begins to stop one container.
    pub(super) fn begin_ending_now(&mut self, name: &str, grace_s: i64) {
        if self.memory.latest(name).is_none_or(|r| !r.running()) {
            return;
        }
        let deadline = after_s(self.ctx.clock.now(), grace_s);
        let ending = Ending { deadline, end: ContainerEnd::default() };
        self.memory.ending.insert(name.to_owned(), ending);
    }

    /// A Pod that is active for longer than it may be is stopped, and has failed. Gives when that will be.
    pub(super) fn check_deadline(&mut self) -> Option<Timestamp> {
        let active_s = self.pod.spec.as_ref()?.active_deadline_seconds?;
        if self.memory.failed.is_some() {
            return None;
        }
        let at = after_s(self.memory.start_time?, active_s);
        if self.ctx.clock.now() < at {
            return Some(at);
        }
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        self.event(Note { reason: "DeadlineExceeded", message: message.clone(), ..Note::default() });
        self.memory.failed = Some(("DeadlineExceeded", message));
        for name in self.memory.containers.keys().cloned().collect::<Vec<_>>() {
            self.begin_ending_now(&name, spec::grace_s(&self.pod));
        }
        // Where nothing runs, the end is reached already: one more look.
        Some(self.ctx.clock.now())
    }

    /// Goes on with the stops that are under way; gives when to look again.
    pub(super) async fn step_endings(&mut self) -> Option<Timestamp> {
        let mut look_at: Option<Timestamp> = None;
        for name in self.memory.ending.keys().cloned().collect::<Vec<_>>() {
            let (Some(row), Some(ending)) = (self.row(&name), self.memory.ending.get_mut(&name)) else {
                continue;
            };
            let next = ending.end.step(self.ctx.clock.now(), row.seen(), ending.deadline, false);
            if next.done {
                self.memory.ending.remove(&name);
                continue;
            }
            look_at = [look_at, next.look_at].into_iter().flatten().min();
            for action in next.actions {
                match action {
                    Action::RunPreStop { container, until } => self.run_pre_stop(&container, until),
                    Action::SendSignal { container, .. } => {
                        self.send_signal(&container, &format!("Stopping container {container}")).await;
                    }
                    Action::Kill { container } => self.kill(&container, false),
                    Action::ReleaseSandbox | Action::DeleteObject => {}
                }
            }
        }
        look_at
    }
}

/// What an action led to.
#[derive(Default)]
struct Done {
    /// Another step is due now.
    again: bool,
    /// It failed: not before this.
    retry_at: Option<Timestamp>,
}

/// Resolves when the runtime says that the container has ended.
pub(crate) async fn until_ended(runtime: &dyn Runtime, id: &str) {
    let mut backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(500));
    loop {
        match runtime.wait_container(id, WAIT_SLICE).await {
            Ok(false) => continue,
            Ok(true) | Err(RuntimeError::NotFound(_)) => {}
            Err(_) => tokio::time::sleep(backoff.step()).await,
        }
        // The process may be gone a moment before the runtime has noticed: its exit code comes with that.
        match runtime.container_status(id).await {
            Ok(c) if matches!(c.state, ContainerState::Running) => tokio::time::sleep(backoff.step()).await,
            Ok(_) | Err(RuntimeError::NotFound(_)) => return,
            Err(_) => tokio::time::sleep(backoff.step()).await,
        }
    }
}

/// Stops and removes sandboxes with all that is in them, and containers that are in none of them.
async fn free(
    runtime: &dyn Runtime,
    sandboxes: &[String],
    containers: &[String],
) -> Result<(), RuntimeError> {
    let absent_is_fine = |result: Result<(), RuntimeError>| match result {
        Err(RuntimeError::NotFound(_)) => Ok(()),
        other => other,
    };
    for id in containers {
        absent_is_fine(runtime.remove_container(id).await)?;
    }
    for id in sandboxes {
        absent_is_fine(runtime.stop_sandbox(id).await)?;
        absent_is_fine(runtime.remove_sandbox(id).await)?;
    }
    Ok(())
}

/// Takes the Pod's volumes, logs and cgroups away.
fn remove_files(ctx: &Arc<Context>, pod: &Pod, dirs: &crate::volumes::PodDirs) {
    for dir in [&dirs.root, &dirs.logs] {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(dir = %dir.display(), %error, "cannot be removed");
            }
            _ => {}
        }
    }
    if let (Some(spec), Some(uid)) = (&pod.spec, &pod.metadata.uid) {
        let cgroup = cgroup::pod_cgroup(&ctx.options.cgroup_parent, spec, uid);
        cgroup::remove_pod_cgroup(&ctx.options.cgroup_fs, &cgroup);
    }
}
