//! One container: configuration, creation, start, its probes, and what is left when it has ended.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Seek, SeekFrom},
    path::Path,
    time::Duration,
};

use hitless_base::chain;
use hitless_client::events::Note;
use hitless_types::{meta, well_known::reason};
use k8s_openapi::api::core::v1::{Container as ContainerOfSpec, Pod};
use tokio::task::AbortHandle;

use super::{
    decide,
    memory::{ImageState, Probed, Waiting},
    spec::{self, Parts},
    worker::{Input, Worker, about},
};
use crate::{
    env::{self, ConfigError, Surroundings},
    logs,
    ports::{Container, ContainerSpec, ContainerState, Image, Mount},
    probe::{
        action,
        listens::{self, Listens},
        task::{Kind, ProbeTask},
    },
    sources, volumes,
};

/// Pause before a container whose configuration or creation failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Longest wait for the first list of Services.
const SERVICES_WAIT: Duration = Duration::from_secs(5);
/// A termination message is cut here.
const MESSAGE_LEN_MAX: u64 = 4096;
/// A message taken from the log is cut here.
const MESSAGE_FROM_LOG_LEN_MAX: usize = 2048;
/// A postStart hook is given up after this time.
const POST_START_TIMEOUT: Duration = Duration::from_secs(300);

impl Worker {
    fn refuse(&mut self, container: &str, reason: &'static str, message: String) {
        if self.memory.waiting.get(container).is_none_or(|w| w.message != message) {
            self.warn(reason::FAILED, format!("Error: {message}"));
        }
        let retry_at = self.ctx.clock.now().saturating_add(RETRY).ok();
        self.memory.waiting.insert(container.to_owned(), Waiting { reason, message, retry_at });
    }

    /// Creates and starts a container whose image is there.
    pub(super) async fn start(&mut self, name: &str, attempt: u32) {
        let pod = self.pod.clone();
        let Some(container) = spec::container(&pod, name) else { return };
        let Some(sandbox) = self.memory.sandbox.clone() else { return };
        let Some(image) = self.image_of(container).await else { return };
        let wanted = match self.configure(&pod, container, attempt, &image).await {
            Ok(wanted) => wanted,
            Err(words) => return self.refuse(name, "CreateContainerConfigError", words),
        };
        let sandbox_spec = spec::sandbox(&pod, &self.ctx.options, &self.dirs, sandbox.attempt);
        let created = self.ctx.runtime.create_container(&sandbox.id, &wanted, &sandbox_spec).await;
        let id = match created {
            Ok(id) => id,
            Err(error) => return self.refuse(name, "CreateContainerError", chain(&error)),
        };
        self.memory.images.remove(name);
        self.memory.waiting.remove(name);
        self.memory.put(
            Container {
                id: id.clone(),
                sandbox_id: sandbox.id,
                name: name.to_owned(),
                attempt,
                image: container.image.clone().unwrap_or_default(),
                image_ref: image.id,
                labels: wanted.labels,
                annotations: wanted.annotations,
                ..Container::default()
            },
            None,
        );
        self.note(reason::CREATED, format!("Created container: {name}"));
        self.start_created(&id).await;
        self.prune(name).await;
    }

    fn note(&self, reason: &'static str, message: String) {
        self.event(Note { reason, message, ..Note::default() });
    }

    /// The image, with its configuration. After a pull it is asked for anew.
    async fn image_of(&mut self, container: &ContainerOfSpec) -> Option<Image> {
        let name = container.image.clone().unwrap_or_default();
        match self.memory.images.get(&container.name) {
            Some(ImageState::Present(image)) if !image.id.is_empty() => return Some(image.clone()),
            Some(ImageState::Present(_)) => {}
            _ => return None,
        }
        let words = match self.ctx.runtime.image_status(&name).await {
            Ok(Some(image)) => return Some(image),
            Ok(None) => format!("image {name:?} is gone since it was pulled"),
            Err(error) => chain(&error),
        };
        self.memory.images.remove(&container.name);
        self.refuse(&container.name, "ImageInspectError", words);
        None
    }

    async fn configure(
        &self,
        pod: &Pod,
        container: &ContainerOfSpec,
        attempt: u32,
        image: &Image,
    ) -> Result<ContainerSpec, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let references = sources::of_container(container);
        let sources = sources::fetch(&self.ctx.client, namespace, references).await.map_err(|e| chain(&e))?;
        if tokio::time::timeout(SERVICES_WAIT, self.ctx.services.synced()).await.is_err() {
            return Err("services have not yet been read at least once, cannot construct envvars".to_owned());
        }
        let (services, addresses) = (self.ctx.services.list(), self.addresses());
        let around = Surroundings {
            pod,
            addresses: &addresses,
            sources: &sources,
            services: &services,
            capacity: &self.ctx.capacity,
        };
        let envs = env::build(&around, container).map_err(|e| e.to_string())?;
        let mounts = self.mounts(container, attempt, &envs).map_err(|e| e.to_string())?;
        let node_memory_bytes = self.ctx.capacity.memory_bytes;
        spec::container_spec(Parts { pod, container, attempt, image, envs, mounts, node_memory_bytes })
            .map_err(|e| e.to_string())
    }

    /// The Pod's own mounts, and those for `/etc/hosts` and the termination message.
    fn mounts(
        &self,
        container: &ContainerOfSpec,
        attempt: u32,
        envs: &[(String, String)],
    ) -> Result<Vec<Mount>, ConfigError> {
        let value = |name: &str| envs.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        let mut mounts = volumes::mounts(container, &self.volumes, |text| env::expand(text, value))?;
        let io = |error: std::io::Error| ConfigError::Mount(format!("failed to prepare files: {error}"));
        if !mounts.iter().any(|m| m.container_path == "/etc/hosts") {
            let hosts = self.dirs.hosts();
            if !hosts.exists() {
                self.write_hosts();
            }
            mounts.push(mount(&hosts, "/etc/hosts"));
        }
        let path = container.termination_message_path.as_deref().filter(|p| !p.is_empty());
        let file = self.dirs.termination(&container.name, attempt);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).map_err(io)?;
        }
        fs::write(&file, b"").map_err(io)?;
        // Any user of the container may write there.
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666)).map_err(io)?;
        mounts.push(mount(&file, path.unwrap_or("/dev/termination-log")));
        fs::create_dir_all(self.dirs.logs.join(&container.name)).map_err(io)?;
        Ok(mounts)
    }

    /// Starts a created container.
    pub(super) async fn start_created(&mut self, id: &str) {
        let started = self.ctx.runtime.start_container(id).await;
        let Some(name) = self.memory.by_id(id).map(|r| r.container.name.clone()) else { return };
        let failed = started.is_err();
        match started {
            Ok(()) => self.note(reason::STARTED, format!("Started container {name}")),
            Err(error) => self.warn(reason::FAILED, format!("Error: {}", chain(&error))),
        }
        // Whether it runs, or has failed to start (which counts as an end), is what the runtime says of it.
        self.look_at_container(id).await;
        let not_started =
            self.memory.by_id(id).filter(|r| !r.running() && !r.exited()).map(|r| r.container.clone());
        if let (Some(container), true) = (not_started, failed) {
            self.observe(Container {
                state: ContainerState::Exited,
                exit_code: 128,
                reason: "StartError".to_owned(),
                finished_at: Some(self.ctx.clock.now()),
                ..container
            });
        }
        self.run_post_start(&name, id);
    }

    /// Begins the container's postStart hook. Until it has ended the container does not count as running.
    fn run_post_start(&mut self, name: &str, id: &str) {
        if self.memory.by_id(id).is_none_or(|r| !r.running()) {
            return;
        }
        let Some(container) = spec::container(&self.pod, name) else { return };
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return };
        let ip = self.addresses().pod_ips.first().cloned().unwrap_or_default();
        let hook = action::of_hook(hook, container.ports.as_deref().unwrap_or_default(), &ip);
        let (runtime, send, id) = (self.ctx.runtime.clone(), self.send.clone(), id.to_owned());
        self.memory.post_starting.insert(id.clone());
        self.tasks.spawn(async move {
            let outcome = action::run(&hook, runtime.as_ref(), &id, POST_START_TIMEOUT).await;
            let ended = Input::PostStartEnded { container_id: id, outcome };
            let _worker_has_ended = send.send(ended).await;
        });
    }

    /// A restart that is held back is told as an Event.
    pub(super) fn tell_back_off(&self, name: &str) {
        let pod = self.pod.clone();
        let (Some(spec), Some(record)) = (pod.spec.as_ref(), self.memory.latest(name)) else { return };
        let Some((container, init)) = spec::containers(spec).find(|(c, _)| c.name == name) else { return };
        let held = self.memory.restarts.get(name).is_some_and(|r| !r.delay.is_zero());
        let again = self.end.is_none() && decide::restarts(spec, container, init, record.container.exit_code);
        if held && again {
            let text = |t: &Option<String>| t.clone().unwrap_or_default();
            let meta = &pod.metadata;
            let (pod_name, namespace, uid) = (text(&meta.name), text(&meta.namespace), text(&meta.uid));
            let words =
                format!("Back-off restarting failed container {name} in pod {pod_name}_{namespace}({uid})");
            self.warn(reason::BACK_OFF, words);
        }
    }

    /// Keeps a container's newest record and the one before; older ones go, with their logs.
    async fn prune(&mut self, name: &str) {
        let attempts: Vec<(u32, String)> = self
            .memory
            .containers
            .get(name)
            .map(|all| all.iter().rev().skip(2).map(|(a, r)| (*a, r.container.id.clone())).collect())
            .unwrap_or_default();
        for (attempt, id) in attempts {
            if let Err(error) = self.ctx.runtime.remove_container(&id).await {
                tracing::debug!(container = id, %error, "old container cannot be removed");
                continue;
            }
            self.adopted.remove(&id);
            self.memory.hooks_ended.remove(&id);
            if let Some(all) = self.memory.containers.get_mut(name) {
                all.remove(&attempt);
            }
            for file in [
                self.dirs.logs.join(volumes::PodDirs::log_path(name, attempt)),
                self.dirs.termination(name, attempt),
            ] {
                let _absent = fs::remove_file(file);
            }
        }
    }

    /// What the container left as its last words.
    pub(super) fn termination_message(&self, container: &Container) -> String {
        let path = self.dirs.termination(&container.name, container.attempt);
        let mut text = Vec::new();
        if let Ok(file) = fs::File::open(path) {
            let _unreadable = file.take(MESSAGE_LEN_MAX).read_to_end(&mut text);
        }
        let policy = spec::container(&self.pod, &container.name)
            .and_then(|c| c.termination_message_policy.as_deref())
            .unwrap_or("File");
        if text.is_empty() && policy == "FallbackToLogsOnError" && container.exit_code != 0 {
            let log = self.dirs.logs.join(volumes::PodDirs::log_path(&container.name, container.attempt));
            return last_words(&log);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Brings probe tasks in line with what runs.
    pub(super) fn sync_probes(&mut self) {
        let pod = self.pod.clone();
        let Some(spec) = pod.spec.as_ref() else { return };
        let stopping = self.end.is_some();
        let mut wanted: Vec<(Kind, &ContainerOfSpec, String)> = Vec::new();
        for (container, init) in spec::containers(spec) {
            if init && !hitless_types::resources::is_sidecar(container) {
                continue;
            }
            let Some(record) = self.memory.latest(&container.name).filter(|r| r.running()) else { continue };
            if self.memory.is_post_starting(&container.name) {
                continue;
            }
            let id = record.container.id.clone();
            let started = self.probed(&pod, container, &id);
            let ending = self.memory.ending.contains_key(&container.name);
            for kind in [Kind::Startup, Kind::Readiness, Kind::Liveness] {
                let due = match kind {
                    Kind::Startup => !started && !stopping && !ending,
                    Kind::Readiness => started,
                    Kind::Liveness => started && !stopping && !ending,
                };
                if due && kind.of(container).is_some() {
                    wanted.push((kind, container, id.clone()));
                }
            }
        }
        let mut running: BTreeMap<(String, Kind), AbortHandle> = BTreeMap::new();
        for (kind, container, id) in wanted {
            let key = (id, kind);
            let handle = match self.probes.remove(&key) {
                Some(handle) => Some(handle),
                None => self.start_probe(&pod, container, kind, &key.0),
            };
            if let Some(handle) = handle {
                running.insert(key, handle);
            }
        }
        for handle in std::mem::replace(&mut self.probes, running).into_values() {
            handle.abort();
        }
    }

    /// What is known of a running container by its probes; made when it is first seen. Gives whether it is started.
    fn probed(&mut self, pod: &Pod, container: &ContainerOfSpec, id: &str) -> bool {
        let current = self.memory.probed.get(&container.name).filter(|p| p.container_id == id);
        if let Some(probed) = current {
            return probed.started;
        }
        let mut probed = Probed {
            container_id: id.to_owned(),
            started: container.startup_probe.is_none(),
            ready: container.readiness_probe.is_none(),
        };
        let ports = listens::awaited(container);
        if !self.adopted.contains(id) && !ports.is_empty() {
            probed.ready = false;
            let wait = Listens {
                container: container.name.clone(),
                container_id: id.to_owned(),
                ports,
                runtime: self.ctx.runtime.clone(),
                clock: self.ctx.clock.clone(),
            };
            self.tasks.spawn(wait.run::<Input>(self.send.clone()));
        }
        if self.adopted.contains(id) {
            // A new kubelet goes on from what the API shows: a Pod that serves must not fall out of its Services.
            let shown = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
            let full_id = format!("{}://{id}", self.ctx.runtime_name);
            let own = shown.into_iter().flatten().find(|s| s.container_id.as_deref() == Some(&full_id));
            probed.started |= own.is_some_and(|s| s.started == Some(true));
            probed.ready |= own.is_some_and(|s| s.ready);
        }
        let started = probed.started;
        self.memory.probed.insert(container.name.clone(), probed);
        started
    }

    fn start_probe(
        &mut self,
        pod: &Pod,
        container: &ContainerOfSpec,
        kind: Kind,
        id: &str,
    ) -> Option<AbortHandle> {
        let probe = kind.of(container)?.clone();
        let ip = self.addresses().pod_ips.first().cloned().unwrap_or_default();
        let task = ProbeTask {
            kind,
            action: action::of_probe(&probe, container.ports.as_deref().unwrap_or_default(), &ip),
            probe,
            container: container.name.clone(),
            container_id: id.to_owned(),
            started_at: self.memory.by_id(id).and_then(|r| r.container.started_at),
            adopted: self.adopted.contains(id),
            about: about(pod),
            runtime: self.ctx.runtime.clone(),
            recorder: self.ctx.recorder.clone(),
            clock: self.ctx.clock.clone(),
        };
        tracing::trace!(pod = meta::key(&pod.metadata), container = container.name, ?kind, "probing");
        Some(self.tasks.spawn(task.run::<Input>(self.send.clone())))
    }
}

fn mount(host: &Path, container: &str) -> Mount {
    Mount { host_path: host.display().to_string(), container_path: container.to_owned(), readonly: false }
}

/// The end of a log, without times and streams.
fn last_words(log: &Path) -> String {
    let Ok(mut file) = fs::File::open(log) else { return String::new() };
    let len = file.metadata().map_or(0, |m| m.len());
    let from = len.saturating_sub(4 * MESSAGE_FROM_LOG_LEN_MAX as u64);
    let mut raw = Vec::new();
    if file.seek(SeekFrom::Start(from)).is_err() || file.read_to_end(&mut raw).is_err() {
        return String::new();
    }
    let mut text: Vec<u8> = Vec::new();
    for line in raw.split_inclusive(|b| *b == b'\n') {
        if let Some(line) = logs::parse(line) {
            text.extend_from_slice(line.content);
            if !line.partial {
                text.push(b'\n');
            }
        }
    }
    let from = text.len().saturating_sub(MESSAGE_FROM_LOG_LEN_MAX);
    String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
}
