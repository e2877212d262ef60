//! A node's container runtime: sandboxes, containers and their processes, which take their time to start and to end.
//!
//! A process is told what to be by its arguments: `--boot-ms N` (it takes connections so long after its start) and `--exit-ms N`
//! (it ends so long after its stop signal; `never`: only when it is killed). It takes no connection any more from the moment of its
//! stop signal on: the worst that an application can do, and what the loop must make harmless.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use hitless_base::Timestamp;
use hitless_kubelet::ports::{
    Auth, Connection, Container, ContainerSpec, ContainerState, ExecOutput, Image, Runtime, RuntimeError,
    Sandbox, SandboxSpec, Signal, Streams,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::world::{Fact, Step, World};

/// What a process was told to be.
#[derive(Clone, Copy, Debug)]
struct Manner {
    boot: Duration,
    /// `None`: it ignores its stop signal.
    exit: Option<Duration>,
}

impl Manner {
    fn of(args: &[String]) -> Self {
        let value = |name: &str| {
            let at = args.iter().position(|arg| arg == name)?;
            args.get(at + 1)?.parse().ok().map(Duration::from_millis)
        };
        Self { boot: value("--boot-ms").unwrap_or_default(), exit: value("--exit-ms") }
    }
}

struct Process {
    container: Container,
    manner: Manner,
    started: Option<tokio::time::Instant>,
    accepts: bool,
    signalled: bool,
}

#[derive(Default)]
struct Held {
    sandboxes: BTreeMap<String, Sandbox>,
    processes: BTreeMap<String, Process>,
    count: u64,
    slow_ms: u64,
}

struct Inner {
    node: String,
    /// `10.42.1.`, say.
    net: String,
    world: World,
    held: Mutex<Held>,
    changes: watch::Sender<u64>,
}

/// The runtime of a node, which outlives every kubelet that uses it. Clones are the same one.
#[derive(Clone)]
pub struct SimRuntime(Arc<Inner>);

impl SimRuntime {
    /// A runtime that holds nothing; its Pods get addresses that begin with `net`.
    #[must_use]
    pub fn new(node: &str, net: &str, world: World) -> Self {
        let inner = Inner {
            node: node.to_owned(),
            net: net.to_owned(),
            world,
            held: Mutex::default(),
            changes: watch::Sender::new(0),
        };
        Self(Arc::new(inner))
    }

    /// From now on each call takes up to so many milliseconds more.
    pub fn be_slow(&self, ms_max: u64) {
        self.0.held.lock().slow_ms = ms_max;
    }

    /// What one kubelet holds of it.
    #[must_use]
    pub fn connect(&self) -> Connected {
        Connected {
            runtime: self.clone(),
            seen: tokio::sync::Mutex::new(self.0.changes.subscribe()),
            cut: Arc::default(),
        }
    }

    /// Nothing runs and nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let held = self.0.held.lock();
        held.sandboxes.is_empty() && held.processes.is_empty()
    }

    /// One of the running processes ends by itself, if there is one.
    pub fn crash_one(&self, which: u64) {
        let running: Vec<String> = {
            let held = self.0.held.lock();
            held.processes.iter().filter(|(_, p)| p.accepts).map(|(id, _)| id.clone()).collect()
        };
        let count = running.len() as u64;
        if let Some(id) = running.get(usize::try_from(which.checked_rem(count).unwrap_or(0)).unwrap_or(0)) {
            self.step(id, Step::Crashed);
            self.end(id, 1);
        }
    }

    fn touched(&self) {
        self.0.changes.send_modify(|n| *n += 1);
    }

    fn step(&self, id: &str, step: Step) {
        let fact = {
            let held = self.0.held.lock();
            let Some(process) = held.processes.get(id) else { return };
            let Some(sandbox) = held.sandboxes.get(&process.container.sandbox_id) else { return };
            Fact::Process {
                node: self.0.node.clone(),
                uid: sandbox.uid.clone(),
                pod: sandbox.name.clone(),
                ip: sandbox.ips.first().cloned().unwrap_or_default(),
                container: id.to_owned(),
                step,
            }
        };
        self.0.world.tell(&fact);
    }

    /// The process ends, if it runs.
    fn end(&self, id: &str, code: i32) {
        let ended = {
            let mut held = self.0.held.lock();
            let process = held.processes.get_mut(id);
            let running = process.filter(|p| p.container.state == ContainerState::Running);
            running.map(|p| {
                p.accepts = false;
                p.container.state = ContainerState::Exited;
                p.container.exit_code = code;
                p.container.reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
                p.container.finished_at = Some(Timestamp::now());
                p.container.pid = None;
            })
        };
        if ended.is_some() {
            self.step(id, Step::Ended);
            self.touched();
        }
    }

    /// Kills the process, if it runs.
    fn kill(&self, id: &str) {
        let ran = {
            let mut held = self.0.held.lock();
            let process = held.processes.get_mut(id);
            process.filter(|p| p.container.state == ContainerState::Running).map(|p| {
                p.accepts = false;
                p.signalled
            })
        };
        if ran == Some(false) {
            self.step(id, Step::Killed);
        }
        self.end(id, 137);
    }

    fn boots(&self, id: &str, boot: Duration) {
        let (runtime, id) = (self.clone(), id.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(boot).await;
            let up = {
                let mut held = runtime.0.held.lock();
                let process = held.processes.get_mut(&id);
                let up = process
                    .filter(|p| p.container.state == ContainerState::Running && !p.signalled)
                    .map(|p| p.accepts = true);
                up.is_some()
            };
            if up {
                runtime.step(&id, Step::Accepts);
            }
        });
    }
}

/// What one kubelet holds of the runtime: with the kubelet's process ends its connection.
pub struct Connected {
    runtime: SimRuntime,
    seen: tokio::sync::Mutex<watch::Receiver<u64>>,
    cut: Arc<AtomicBool>,
}

impl Connected {
    /// What ends the connection when it is set.
    #[must_use]
    pub fn cutter(&self) -> Arc<AtomicBool> {
        self.cut.clone()
    }

    /// A call takes its time, and finds the connection cut when its caller has been killed.
    async fn call(&self, ms_max: u64) -> Result<(), RuntimeError> {
        let slow_ms = self.runtime.0.held.lock().slow_ms;
        self.runtime.0.world.pause(0..=ms_max + slow_ms).await;
        match self.cut.load(Ordering::Relaxed) {
            true => Err(RuntimeError::Unavailable("the kubelet's process has ended".to_owned())),
            false => Ok(()),
        }
    }

    fn container<T>(&self, id: &str, with: impl FnOnce(&mut Process) -> T) -> Result<T, RuntimeError> {
        let mut held = self.runtime.0.held.lock();
        held.processes.get_mut(id).map(with).ok_or_else(|| RuntimeError::NotFound(id.to_owned()))
    }
}

fn no_streams() -> RuntimeError {
    RuntimeError::Failed("this runtime has no streams".to_owned())
}

#[async_trait]
impl Runtime for Connected {
    async fn version(&self) -> Result<String, RuntimeError> {
        self.call(1).await?;
        Ok("containerd://1.6.20".to_owned())
    }

    async fn ready(&self) -> Result<Result<(), String>, RuntimeError> {
        self.call(1).await?;
        Ok(Ok(()))
    }

    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<String, RuntimeError> {
        self.call(60).await?;
        let inner = &self.runtime.0;
        let id = {
            let mut held = inner.held.lock();
            held.count += 1;
            let id = format!("{}-s{}", inner.node, held.count);
            // The lowest address that is free, so that addresses come back to other Pods soon.
            let taken = |ip: &String| held.sandboxes.values().any(|s| s.ready && s.ips.contains(ip));
            let ip = (2..255).map(|n| format!("{}{n}", inner.net)).find(|ip| !taken(ip));
            let ip = ip.ok_or_else(|| RuntimeError::Failed("no addresses left".to_owned()))?;
            let sandbox = Sandbox {
                id: id.clone(),
                uid: spec.uid.clone(),
                name: spec.name.clone(),
                namespace: spec.namespace.clone(),
                attempt: spec.attempt,
                ready: true,
                ips: vec![ip],
                labels: spec.labels.clone(),
                created_at: Some(Timestamp::now()),
            };
            held.sandboxes.insert(id.clone(), sandbox);
            id
        };
        self.runtime.touched();
        Ok(id)
    }

    async fn sandbox_status(&self, id: &str) -> Result<Sandbox, RuntimeError> {
        self.call(1).await?;
        let held = self.runtime.0.held.lock();
        held.sandboxes.get(id).cloned().ok_or_else(|| RuntimeError::NotFound(id.to_owned()))
    }

    async fn list_sandboxes(&self) -> Result<Vec<Sandbox>, RuntimeError> {
        self.call(1).await?;
        let held = self.runtime.0.held.lock();
        Ok(held.sandboxes.values().map(|s| Sandbox { ips: Vec::new(), ..s.clone() }).collect())
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.call(20).await?;
        let inside: Vec<String> = {
            let held = self.runtime.0.held.lock();
            let of = held.processes.iter().filter(|(_, p)| p.container.sandbox_id == id);
            of.map(|(id, _)| id.clone()).collect()
        };
        inside.iter().for_each(|id| self.runtime.kill(id));
        if let Some(sandbox) = self.runtime.0.held.lock().sandboxes.get_mut(id) {
            sandbox.ready = false;
        }
        self.runtime.touched();
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.call(10).await?;
        let mut held = self.runtime.0.held.lock();
        held.sandboxes.remove(id);
        held.processes.retain(|_, p| p.container.sandbox_id != id);
        drop(held);
        self.runtime.touched();
        Ok(())
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        spec: &ContainerSpec,
        _: &SandboxSpec,
    ) -> Result<String, RuntimeError> {
        self.call(10).await?;
        let id = {
            let mut held = self.runtime.0.held.lock();
            if !held.sandboxes.get(sandbox_id).is_some_and(|s| s.ready) {
                return Err(RuntimeError::NotFound(sandbox_id.to_owned()));
            }
            held.count += 1;
            let id = format!("{}-c{}", self.runtime.0.node, held.count);
            let container = Container {
                id: id.clone(),
                sandbox_id: sandbox_id.to_owned(),
                name: spec.name.clone(),
                attempt: spec.attempt,
                image: spec.image.clone(),
                image_ref: spec.image.clone(),
                labels: spec.labels.clone(),
                annotations: spec.annotations.clone(),
                created_at: Some(Timestamp::now()),
                ..Container::default()
            };
            let manner = Manner::of(&spec.args);
            let process = Process { container, manner, started: None, accepts: false, signalled: false };
            held.processes.insert(id.clone(), process);
            id
        };
        self.runtime.touched();
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.call(25).await?;
        let boot = self.container(id, |p| {
            if p.container.state != ContainerState::Created {
                return Err(RuntimeError::Failed(format!("{id} was started before")));
            }
            p.container.state = ContainerState::Running;
            p.container.started_at = Some(Timestamp::now());
            p.container.pid = Some(1);
            p.started = Some(tokio::time::Instant::now());
            Ok(p.manner.boot)
        })??;
        self.runtime.step(id, Step::Started);
        self.runtime.boots(id, boot);
        self.runtime.touched();
        Ok(())
    }

    async fn signal_container(&self, id: &str, _: &Signal) -> Result<bool, RuntimeError> {
        self.call(0).await?;
        let (ran, first, exit) = self.container(id, |p| {
            let ran = p.container.state == ContainerState::Running;
            let first = ran && !std::mem::replace(&mut p.signalled, true);
            p.accepts = false;
            (ran, first, p.manner.exit)
        })?;
        if first {
            self.runtime.step(id, Step::Signalled);
            if let Some(exit) = exit {
                let (runtime, id) = (self.runtime.clone(), id.to_owned());
                tokio::spawn(async move {
                    tokio::time::sleep(exit).await;
                    runtime.end(&id, 0);
                });
            }
        }
        Ok(ran)
    }

    async fn connections(&self, _: &str) -> Result<Vec<Connection>, RuntimeError> {
        Ok(Vec::new())
    }

    async fn is_imported(&self, _: &str) -> Result<bool, RuntimeError> {
        Ok(false)
    }

    async fn listens(&self, _: &str, _: &[u16]) -> Result<bool, RuntimeError> {
        Ok(true)
    }

    async fn wait_container(&self, id: &str, timeout: Duration) -> Result<bool, RuntimeError> {
        let mut changes = self.runtime.0.changes.subscribe();
        let ended = async {
            loop {
                if self.container(id, |p| p.container.state == ContainerState::Exited)? {
                    return Ok(true);
                }
                if changes.changed().await.is_err() {
                    return Ok(false);
                }
            }
        };
        tokio::time::timeout(timeout, ended).await.unwrap_or(Ok(false))
    }

    async fn kill_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.call(5).await?;
        self.container(id, |_| ())?;
        self.runtime.kill(id);
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.call(5).await?;
        self.runtime.0.held.lock().processes.remove(id);
        self.runtime.touched();
        Ok(())
    }

    async fn list_containers(&self) -> Result<Vec<Container>, RuntimeError> {
        self.call(1).await?;
        let held = self.runtime.0.held.lock();
        let bare = |c: &Container| Container { started_at: None, finished_at: None, pid: None, ..c.clone() };
        Ok(held.processes.values().map(|p| bare(&p.container)).collect())
    }

    async fn container_status(&self, id: &str) -> Result<Container, RuntimeError> {
        self.call(1).await?;
        // As CRI has it: the status does not name the sandbox.
        self.container(id, |p| Container { sandbox_id: String::new(), ..p.container.clone() })
    }

    /// Whatever the command is, it asks whether the process takes connections.
    async fn exec_sync(&self, id: &str, _: &[String], _: Duration) -> Result<ExecOutput, RuntimeError> {
        self.call(5).await?;
        let accepts = self.container(id, |p| p.accepts)?;
        Ok(ExecOutput { exit_code: i32::from(!accepts), ..ExecOutput::default() })
    }

    async fn exec_url(&self, _: &str, _: &[String], _: Streams) -> Result<String, RuntimeError> {
        Err(no_streams())
    }

    async fn attach_url(&self, _: &str, _: Streams) -> Result<String, RuntimeError> {
        Err(no_streams())
    }

    async fn port_forward_url(&self, _: &str, _: &[u16]) -> Result<String, RuntimeError> {
        Err(no_streams())
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        self.call(1).await?;
        Ok(Some(Image { id: image.to_owned(), ..Image::default() }))
    }

    async fn pull_image(&self, image: &str, _: Option<&Auth>) -> Result<String, RuntimeError> {
        self.call(100).await?;
        Ok(image.to_owned())
    }

    async fn reopen_log(&self, _: &str) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn changed(&self, timeout: Duration) {
        let mut seen = self.seen.lock().await;
        let _timed_out = tokio::time::timeout(timeout, seen.changed()).await;
    }
}
