//! The worker of one Pod: takes in what is, does what [`super::decide`] and the end of life say, and says how it stands.
//!
//! Level-triggered: each turn reads the newest Pod object and memory. Slow things (pulls, probes, hooks, waiting for an exit)
//! run as tasks that the worker owns and report to its inbox; the worker itself waits for nothing but short calls to the
//! runtime, so that a stop signal is never behind a slow one.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use hitless_base::{Backoff, Timestamp, chain};
use hitless_client::events::Note;
use hitless_termination::end_of_life::EndOfLife;
use hitless_types::{
    meta, pod as readings,
    well_known::{self, reason},
};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
};

use super::{
    decide::{self, Step},
    memory::{self, Memory},
    publish::Publisher,
    spec,
    status::{self, Since, View},
};
use crate::{
    context::Context,
    fieldref::Addresses,
    ports::{Container, ContainerState, RuntimeError, Sandbox},
    probe::{
        action::Outcome,
        task::{Kind, Verdict},
    },
    tokens::Tokens,
    volumes::PodDirs,
};

/// Reports waiting for the worker.
const INBOX_LEN: usize = 256;
/// Steps in one turn; more means that something does not settle, and the worker looks up before it goes on.
const ROUNDS_MAX: usize = 64;

/// What the runtime's lists say of one Pod.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// When the lists were asked for.
    pub taken: Instant,
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<Container>,
}

impl Held {
    /// Nothing is held, as of now.
    pub fn nothing() -> Self {
        Self { taken: Instant::now(), sandboxes: Vec::new(), containers: Vec::new() }
    }
}

/// What a worker's own tasks report.
pub(super) enum Input {
    Verdict(Verdict),
    HookEnded { container_id: String },
    PostStartEnded { container_id: String, outcome: Outcome },
    Exited { container_id: String },
    Pulled { container: String, image: String, took: Duration, result: Result<(), RuntimeError> },
}

impl From<Verdict> for Input {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

/// What a worker starts from.
pub(crate) struct WorkerStart {
    pub ctx: Arc<Context>,
    /// The newest Pod object; `None`: it is gone from the API.
    pub pod: watch::Receiver<Option<Arc<Pod>>>,
    /// The newest lists.
    pub held: watch::Receiver<Arc<Held>>,
    /// The Pod as first known (made from the runtime's labels, for orphans).
    pub first: Arc<Pod>,
}

/// The worker of one Pod.
pub(crate) struct Worker {
    pub(super) ctx: Arc<Context>,
    pod_rx: watch::Receiver<Option<Arc<Pod>>>,
    held_rx: watch::Receiver<Arc<Held>>,
    pub(super) pod: Arc<Pod>,
    pub(super) gone: bool,
    pub(super) memory: Memory,
    pub(super) dirs: PodDirs,
    pub(super) volumes: BTreeMap<String, PathBuf>,
    pub(super) tokens: Tokens,
    pub(super) setup_backoff: Backoff,
    pub(super) image_backoffs: BTreeMap<String, Backoff>,
    pub(super) refresh_at: Option<Timestamp>,
    pub(super) send: mpsc::Sender<Input>,
    inbox: mpsc::Receiver<Input>,
    pub(super) tasks: JoinSet<()>,
    pub(super) probes: BTreeMap<(String, Kind), AbortHandle>,
    pub(super) awaited: BTreeSet<String>,
    pub(super) adopted: BTreeSet<String>,
    pub(super) end: Option<EndOfLife>,
    pub(super) delete_backoff: Backoff,
    pub(super) delete_again_at: Option<Timestamp>,
    pub(super) publisher: Publisher,
    pub(super) since: Since,
    pub(super) ready_before: bool,
    pub(super) finished: bool,
    pub(super) released: bool,
}

impl Worker {
    pub fn new(start: WorkerStart) -> Self {
        let WorkerStart { ctx, pod, mut held, first } = start;
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let meta = &first.metadata;
        let dirs =
            PodDirs::new(&ctx.options.root_dir, &text(&meta.namespace), &text(&meta.name), &text(&meta.uid));
        let (send, inbox) = mpsc::channel(INBOX_LEN);
        let mut tasks = JoinSet::new();
        let ready_before = readings::is_ready(&first);
        let (publisher, writer) = Publisher::new(ctx.clone(), &first, about(&first), ready_before);
        tasks.spawn(writer);
        let status = first.status.as_ref();
        let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let since = conditions
            .iter()
            .filter_map(|c| Some((c.type_.clone(), (c.status.clone(), c.last_transition_time.as_ref()?.0))))
            .collect();
        let memory = Memory {
            start_time: status
                .and_then(|s| s.start_time.as_ref())
                .map(|t| t.0)
                .or_else(|| Some(ctx.clock.now())),
            routable: status.is_some_and(|s| s.pod_ip.is_some()),
            ..Memory::default()
        };
        held.mark_changed();
        let gone = pod.borrow().is_none();
        Self {
            ctx,
            pod_rx: pod,
            held_rx: held,
            pod: first,
            gone,
            memory,
            dirs,
            volumes: BTreeMap::new(),
            tokens: Tokens::new(),
            setup_backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(20)),
            image_backoffs: BTreeMap::new(),
            refresh_at: None,
            send,
            inbox,
            tasks,
            probes: BTreeMap::new(),
            awaited: BTreeSet::new(),
            adopted: BTreeSet::new(),
            end: None,
            delete_backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(5)),
            delete_again_at: None,
            publisher,
            since,
            ready_before,
            finished: false,
            released: false,
        }
    }

    /// Works until nothing of the Pod is left, here or in the API. Dropping the future leaves containers running.
    pub async fn run(mut self) {
        // What runs already is taken in before anything is decided: nothing is started twice.
        self.fold().await;
        loop {
            let look_at = self.turn().await;
            if self.finished {
                return;
            }
            self.wait(look_at).await;
        }
    }

    async fn wait(&mut self, look_at: Option<Timestamp>) {
        let pause = look_at.map(|at| {
            let left = at.duration_since(self.ctx.clock.now());
            Duration::try_from(left).unwrap_or(Duration::ZERO)
        });
        let sleep = async {
            match pause {
                Some(pause) => self.ctx.clock.sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = self.pod_rx.changed() => {
                if changed.is_err() {
                    // The registry has let go of this worker: the kubelet ends, and Pods go on without it.
                    self.finished = true;
                }
            }
            Some(input) = self.inbox.recv() => self.take(input).await,
            Ok(()) = self.held_rx.changed() => self.held_rx.mark_changed(),
            Some(_ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
            () = sleep => {}
        }
        while let Ok(input) = self.inbox.try_recv() {
            self.take(input).await;
        }
        while self.tasks.try_join_next().is_some() {}
    }

    /// Does all that can be done now; gives when to look again.
    async fn turn(&mut self) -> Option<Timestamp> {
        self.take_pod();
        if let Some(deletion) = self.deletion() {
            return self.end_turn(deletion).await;
        }
        self.publisher.seen(&self.pod);
        self.fold_if_changed().await;
        if readings::is_finished(&self.pod) {
            // A Pod that has finished never runs again, whatever the runtime has forgotten of it.
            if self.memory.sandbox_up() {
                self.apply(Step::StopSandbox).await;
            }
            if self.publisher.said_anything() {
                self.publish(false);
            }
            return None;
        }
        let mut look_at = None;
        for _ in 0..ROUNDS_MAX {
            let plan = decide::decide(&self.pod, &self.memory, self.ctx.clock.now());
            look_at = plan.look_at;
            if plan.steps.is_empty() {
                break;
            }
            for step in plan.steps {
                self.apply(step).await;
                self.sync_probes();
                self.publish(false);
                self.take_pod();
                if let Some(deletion) = self.deletion() {
                    return self.end_turn(deletion).await;
                }
            }
        }
        let deadline = self.check_deadline();
        let endings = self.step_endings().await;
        let refresh = self.refresh_volumes().await;
        self.sync_probes();
        self.publish(false);
        [look_at, deadline, endings, refresh].into_iter().flatten().min()
    }

    fn take_pod(&mut self) {
        match self.pod_rx.borrow_and_update().clone() {
            Some(pod) => self.pod = pod,
            None => self.gone = true,
        }
    }

    async fn apply(&mut self, step: Step) {
        match step {
            Step::SetUp => self.set_up().await,
            Step::RunSandbox { attempt } => self.run_sandbox(attempt).await,
            Step::CheckImage { container } => self.check_image(&container).await,
            Step::Start { container, attempt } => self.start(&container, attempt).await,
            Step::StartCreated { id } => self.start_created(&id).await,
            Step::StopSandbox => self.stop_sandbox().await,
        }
    }

    async fn take(&mut self, input: Input) {
        match input {
            Input::Verdict(verdict) => self.take_verdict(verdict),
            Input::HookEnded { container_id } => {
                self.memory.hooks_ended.insert(container_id);
            }
            Input::PostStartEnded { container_id, outcome } => self.take_post_start(&container_id, &outcome),
            Input::Exited { container_id } => {
                self.awaited.remove(&container_id);
                self.look_at_container(&container_id).await;
            }
            Input::Pulled { container, image, took, result } => {
                self.take_pull(&container, &image, took, result)
            }
        }
    }

    fn take_verdict(&mut self, verdict: Verdict) {
        let name = verdict.container.as_str();
        if self.memory.latest(name).is_none_or(|r| r.container.id != verdict.container_id || !r.running()) {
            return;
        }
        let Some(probed) = self.memory.probed.get_mut(name) else { return };
        match (verdict.kind, verdict.ok) {
            (Kind::Startup, true) => probed.started = true,
            (Kind::Readiness, ok) => probed.ready = ok,
            (Kind::Liveness, true) => {}
            (Kind::Startup | Kind::Liveness, false) => self.begin_ending(name, verdict.kind),
        }
    }

    /// Takes the newest lists in, if there are newer ones. Gives whether there were.
    pub(super) async fn fold_if_changed(&mut self) -> bool {
        let changed = self.held_rx.has_changed().unwrap_or(false);
        if changed {
            self.fold().await;
        }
        changed
    }

    /// Brings memory in line with the runtime's lists.
    async fn fold(&mut self) {
        let held = self.held_rx.borrow_and_update().clone();
        self.fold_sandboxes(&held).await;
        for listed in &held.containers {
            let known = self.memory.by_id(&listed.id);
            if known.is_none_or(|r| r.container.state != listed.state) {
                // A list older than the record must not undo what this worker did since.
                if known.is_some_and(|r| r.exited()) {
                    continue;
                }
                if known.is_none() {
                    self.adopted.insert(listed.id.clone());
                }
                self.look_at_listed(listed).await;
            }
        }
        let lost: Vec<Container> = self
            .memory
            .records()
            .filter(|r| r.seen < held.taken && !r.exited())
            .filter(|r| !held.containers.iter().any(|c| c.id == r.container.id))
            .map(|r| r.container.clone())
            .collect();
        for container in lost {
            self.observe(Container {
                state: ContainerState::Exited,
                exit_code: 137,
                reason: "ContainerStatusUnknown".to_owned(),
                message: "The container could not be located when the pod was looked at".to_owned(),
                finished_at: Some(self.ctx.clock.now()),
                ..container
            });
        }
    }

    async fn fold_sandboxes(&mut self, held: &Held) {
        let newest = held.sandboxes.iter().max_by_key(|s| (s.attempt, s.ready));
        for other in held.sandboxes.iter().filter(|s| newest.is_some_and(|n| n.id != s.id)) {
            if self.memory.sandbox.as_ref().is_none_or(|own| own.id != other.id) {
                self.memory.old_sandboxes.insert(other.id.clone());
            }
        }
        let own = self.memory.sandbox.as_ref();
        let listed_own = own.and_then(|own| held.sandboxes.iter().find(|s| s.id == own.id));
        let older_than_own = self.memory.sandbox_seen.is_some_and(|seen| seen >= held.taken);
        match (own, newest) {
            (Some(_), _) if older_than_own => {}
            (Some(own), Some(new)) if new.id != own.id && new.attempt > own.attempt => {
                self.memory.old_sandboxes.insert(own.id.clone());
                self.adopt_sandbox(new).await;
            }
            (None, Some(new)) => self.adopt_sandbox(new).await,
            (Some(own), _) => {
                if own.ready && listed_own.is_none_or(|s| !s.ready) {
                    self.memory.sandbox_lost();
                }
            }
            (None, None) => {}
        }
    }

    async fn adopt_sandbox(&mut self, listed: &Sandbox) {
        if self.released {
            return;
        }
        match self.ctx.runtime.sandbox_status(&listed.id).await {
            Ok(sandbox) => {
                self.memory.sandbox = Some(Sandbox { attempt: listed.attempt, ..sandbox });
                self.memory.sandbox_seen = Some(Instant::now());
            }
            Err(RuntimeError::NotFound(_)) => {}
            Err(error) => tracing::warn!(sandbox = listed.id, %error, "sandbox cannot be looked at"),
        }
    }

    /// Asks the runtime about a container of its list: what the status leaves out is as listed.
    async fn look_at_listed(&mut self, listed: &Container) {
        match self.ctx.runtime.container_status(&listed.id).await {
            Ok(container) => self.observe(memory::completed(container, listed)),
            Err(RuntimeError::NotFound(_)) => {}
            Err(error) => {
                tracing::warn!(container = listed.id, error = %chain(&error), "container cannot be looked at")
            }
        }
    }

    /// Asks the runtime about one container and takes the answer in.
    pub(super) async fn look_at_container(&mut self, id: &str) {
        match self.ctx.runtime.container_status(id).await {
            Ok(container) => {
                let container = match self.memory.by_id(id) {
                    Some(known) => memory::completed(container, &known.container),
                    None => container,
                };
                self.observe(container);
            }
            Err(RuntimeError::NotFound(_)) => {
                if let Some(record) = self.memory.by_id(id).filter(|r| !r.exited()) {
                    let container = record.container.clone();
                    self.observe(Container {
                        state: ContainerState::Exited,
                        exit_code: 137,
                        reason: "ContainerStatusUnknown".to_owned(),
                        finished_at: Some(self.ctx.clock.now()),
                        ..container
                    });
                }
            }
            Err(error) => {
                tracing::warn!(container = id, error = %chain(&error), "container cannot be looked at")
            }
        }
    }

    /// Takes in what a container is now; tells of its end once.
    pub(super) fn observe(&mut self, container: Container) {
        let over = matches!(container.state, ContainerState::Exited | ContainerState::Unknown);
        let message = over.then(|| self.termination_message(&container));
        let (name, code, at) = (container.name.clone(), container.exit_code, container.finished_at);
        let adopted = self.adopted.contains(&container.id);
        if self.memory.put(container, message) && !adopted {
            let message = format!("Container {name} exited with code {code}");
            self.event(Note { reason: reason::EXITED, message, at, ..Note::default() });
            self.tell_back_off(&name);
        }
    }

    /// Addresses of the Pod and its node, as far as they are known.
    pub(super) fn addresses(&self) -> Addresses {
        let node_ip = self.ctx.options.node_ip.to_string();
        let host_network = self.pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true));
        let pod_ips = match &self.memory.sandbox {
            Some(_) if host_network => vec![node_ip.clone()],
            Some(sandbox) => sandbox.ips.clone(),
            None => Vec::new(),
        };
        Addresses { pod_ips, host_ip: node_ip }
    }

    /// Says how the Pod stands. Nothing is said of a Pod that is gone, or before it is known that it is there.
    pub(super) fn publish(&mut self, ended: bool) {
        if self.gone || self.released {
            return;
        }
        let addresses = self.addresses();
        let terminating = readings::is_terminating(&self.pod);
        let view = View {
            now: self.ctx.clock.now(),
            addresses: &addresses,
            runtime: &self.ctx.runtime_name,
            terminating,
            ended,
            ready_before: self.ready_before,
        };
        let status = status::build(&self.pod, &self.memory, &view, &mut self.since);
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        self.ready_before = ready;
        self.memory.routable |= status.pod_ip.is_some();
        self.publisher.want(&status);
    }

    /// Records an Event about the Pod.
    pub(super) fn event(&self, mut note: Note) {
        note.annotations.extend(moments(&self.pod));
        self.ctx.recorder.record_about(about(&self.pod), note);
    }

    /// Records a Warning about the Pod.
    pub(super) fn warn(&self, reason: &'static str, message: String) {
        self.event(Note { reason, message, warning: true, ..Note::default() });
    }

    fn take_post_start(&mut self, container_id: &str, outcome: &Outcome) {
        self.memory.post_starting.remove(container_id);
        if outcome.is_success() {
            return;
        }
        let Some(name) = self.memory.by_id(container_id).map(|r| r.container.name.clone()) else { return };
        // What the hook said may be secret, so it stands in the log and not in the Event, as in Kubernetes.
        tracing::warn!(
            pod = meta::key(&self.pod.metadata),
            container = name,
            words = outcome.words(),
            "postStart hook failed"
        );
        self.warn("FailedPostStartHook", "PostStartHook failed".to_owned());
        if self.memory.latest(&name).is_some_and(|r| r.container.id == container_id) {
            self.begin_ending_now(&name, spec::grace_s(&self.pod));
        }
    }
}

/// When the API server took the Pod, and its deletion: carried by its Events, so that its life can be told when it has gone.
fn moments(pod: &Pod) -> impl Iterator<Item = (String, String)> {
    [well_known::ANNOTATION_CREATED_AT, well_known::ANNOTATION_DELETED_AT]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), meta::annotation(&pod.metadata, name)?.to_owned())))
}

/// The Pod as Events name it.
pub(crate) fn about(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}
