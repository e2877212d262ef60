//! A runtime in memory: sandboxes and containers that start at once, end when told, and count what is asked of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use hitless_base::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::ports::*;

#[derive(Default)]
pub struct State {
    pub sandboxes: BTreeMap<String, (Sandbox, SandboxSpec)>,
    pub containers: BTreeMap<String, (Container, ContainerSpec)>,
    pub images: BTreeSet<String>,
    /// Signals as they came: container name, signal, moment.
    pub signals: Vec<(String, String, Instant)>,
    pub kills: Vec<String>,
    pub pulls: usize,
    /// Ports on which a container listens, by its name; all, where nothing stands here.
    pub listening: std::collections::BTreeMap<String, Vec<u16>>,
    pub starts: BTreeMap<String, usize>,
    /// Containers whose process goes on after a stop signal.
    pub deaf: BTreeSet<String>,
    /// Exit codes of commands, by their first word; others succeed.
    pub exec_codes: BTreeMap<String, i32>,
    pub execs: Vec<Vec<String>>,
    /// A stop signal also makes all commands succeed again: what comes next is a new process.
    pub signal_heals: bool,
    /// Connections by container name.
    pub connections: BTreeMap<String, Vec<Connection>>,
    /// Where streams are had.
    pub streaming_url: Option<String>,
    next: u64,
}

#[derive(Clone)]
pub struct FakeRuntime {
    pub state: Arc<Mutex<State>>,
    changes: watch::Sender<u64>,
    seen: Arc<tokio::sync::Mutex<watch::Receiver<u64>>>,
}

impl FakeRuntime {
    pub fn new() -> Self {
        let (changes, seen) = watch::channel(0);
        let state = State { images: BTreeSet::from(["web:1".to_owned()]), ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), changes, seen: Arc::new(tokio::sync::Mutex::new(seen)) }
    }

    fn streaming_url(&self) -> Result<String, RuntimeError> {
        let url = self.state.lock().streaming_url.clone();
        url.ok_or_else(|| RuntimeError::Failed("this runtime has no streaming server".to_owned()))
    }

    fn touched(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// The newest container of this name ends.
    pub fn exit(&self, name: &str, code: i32) {
        let mut state = self.state.lock();
        let newest =
            state.containers.values_mut().filter(|(c, _)| c.name == name).max_by_key(|(c, _)| c.attempt);
        end(&mut newest.expect("the container is there").0, code);
        drop(state);
        self.touched();
    }

    pub fn running(&self, name: &str) -> Option<(Container, ContainerSpec)> {
        let state = self.state.lock();
        let mut all = state.containers.values();
        all.rfind(|(c, _)| c.name == name && c.state == ContainerState::Running).cloned()
    }

    fn container<T>(&self, id: &str, with: impl FnOnce(&mut Container) -> T) -> Result<T, RuntimeError> {
        let mut state = self.state.lock();
        let (container, _) =
            state.containers.get_mut(id).ok_or_else(|| RuntimeError::NotFound(id.to_owned()))?;
        Ok(with(container))
    }
}

fn end(container: &mut Container, code: i32) {
    if container.state == ContainerState::Running {
        container.state = ContainerState::Exited;
        container.exit_code = code;
        container.finished_at = Some(Timestamp::now());
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<String, RuntimeError> {
        Ok("containerd://1.0".to_owned())
    }
    async fn ready(&self) -> Result<Result<(), String>, RuntimeError> {
        Ok(Ok(()))
    }
    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<String, RuntimeError> {
        let mut state = self.state.lock();
        state.next += 1;
        let id = format!("s{}", state.next);
        let sandbox = Sandbox {
            id: id.clone(),
            uid: spec.uid.clone(),
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            attempt: spec.attempt,
            ready: true,
            ips: vec!["127.0.0.1".to_owned()],
            labels: spec.labels.clone(),
            created_at: None,
        };
        state.sandboxes.insert(id.clone(), (sandbox, spec.clone()));
        drop(state);
        self.touched();
        Ok(id)
    }
    async fn sandbox_status(&self, id: &str) -> Result<Sandbox, RuntimeError> {
        let state = self.state.lock();
        state.sandboxes.get(id).map(|s| s.0.clone()).ok_or_else(|| RuntimeError::NotFound(id.to_owned()))
    }
    async fn list_sandboxes(&self) -> Result<Vec<Sandbox>, RuntimeError> {
        let state = self.state.lock();
        Ok(state.sandboxes.values().map(|s| Sandbox { ips: vec![], ..s.0.clone() }).collect())
    }
    async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let mut state = self.state.lock();
        if let Some((sandbox, _)) = state.sandboxes.get_mut(id) {
            sandbox.ready = false;
        }
        for (container, _) in state.containers.values_mut().filter(|(c, _)| c.sandbox_id == id) {
            end(container, 137);
        }
        drop(state);
        self.touched();
        Ok(())
    }
    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let mut state = self.state.lock();
        state.sandboxes.remove(id);
        state.containers.retain(|_, (c, _)| c.sandbox_id != id);
        drop(state);
        self.touched();
        Ok(())
    }
    async fn create_container(
        &self,
        sandbox_id: &str,
        spec: &ContainerSpec,
        _sandbox: &SandboxSpec,
    ) -> Result<String, RuntimeError> {
        let mut state = self.state.lock();
        state.next += 1;
        let id = format!("c{}", state.next);
        let container = Container {
            id: id.clone(),
            sandbox_id: sandbox_id.to_owned(),
            name: spec.name.clone(),
            attempt: spec.attempt,
            image: spec.image.clone(),
            labels: spec.labels.clone(),
            annotations: spec.annotations.clone(),
            ..Container::default()
        };
        state.containers.insert(id.clone(), (container, spec.clone()));
        drop(state);
        self.touched();
        Ok(id)
    }
    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let name = self.container(id, |c| {
            assert_eq!(c.state, ContainerState::Created, "started twice");
            c.state = ContainerState::Running;
            c.started_at = Some(Timestamp::now());
            c.name.clone()
        })?;
        *self.state.lock().starts.entry(name).or_default() += 1;
        self.touched();
        Ok(())
    }
    async fn signal_container(&self, id: &str, signal: &Signal) -> Result<bool, RuntimeError> {
        let at = Instant::now();
        let name = self.container(id, |c| c.name.clone())?;
        let deaf = {
            let mut state = self.state.lock();
            state.signals.push((name.clone(), signal.0.clone(), at));
            if state.signal_heals {
                state.exec_codes.clear();
            }
            state.deaf.contains(&name)
        };
        let ran = self.container(id, |c| {
            let ran = c.state == ContainerState::Running;
            if !deaf {
                end(c, 0);
            }
            ran
        })?;
        self.touched();
        Ok(ran)
    }
    async fn connections(&self, id: &str) -> Result<Vec<Connection>, RuntimeError> {
        let name = self.container(id, |c| c.name.clone())?;
        Ok(self.state.lock().connections.get(&name).cloned().unwrap_or_default())
    }
    async fn listens(&self, id: &str, ports: &[u16]) -> Result<bool, RuntimeError> {
        let name = self.container(id, |c| c.name.clone())?;
        let state = self.state.lock();
        Ok(state.listening.get(&name).is_none_or(|open| ports.iter().all(|port| open.contains(port))))
    }
    async fn wait_container(&self, id: &str, timeout: Duration) -> Result<bool, RuntimeError> {
        let mut changes = self.changes.subscribe();
        let ended = async {
            loop {
                if self.container(id, |c| c.state != ContainerState::Running)? {
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
        let name = self.container(id, |c| {
            end(c, 137);
            c.name.clone()
        })?;
        self.state.lock().kills.push(name);
        self.touched();
        Ok(())
    }
    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.state.lock().containers.remove(id);
        self.touched();
        Ok(())
    }
    async fn list_containers(&self) -> Result<Vec<Container>, RuntimeError> {
        let state = self.state.lock();
        Ok(state.containers.values().map(|(c, _)| Container { started_at: None, ..c.clone() }).collect())
    }
    async fn container_status(&self, id: &str) -> Result<Container, RuntimeError> {
        // As CRI has it: the status does not name the sandbox.
        self.container(id, |c| Container { sandbox_id: String::new(), ..c.clone() })
    }
    async fn exec_sync(
        &self,
        _id: &str,
        command: &[String],
        _: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let mut state = self.state.lock();
        state.execs.push(command.to_vec());
        let exit_code = command.first().and_then(|c| state.exec_codes.get(c)).copied().unwrap_or(0);
        Ok(ExecOutput { exit_code, stdout: b"out".to_vec(), stderr: Vec::new() })
    }
    async fn exec_url(&self, _: &str, _: &[String], _: Streams) -> Result<String, RuntimeError> {
        self.streaming_url()
    }
    async fn attach_url(&self, _: &str, _: Streams) -> Result<String, RuntimeError> {
        self.streaming_url()
    }
    async fn port_forward_url(&self, _: &str, _: &[u16]) -> Result<String, RuntimeError> {
        self.streaming_url()
    }
    async fn image_status(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        let there = self.state.lock().images.contains(image);
        Ok(there.then(|| Image {
            id: image.to_owned(),
            stop_signal: "SIGQUIT".to_owned(),
            ..Image::default()
        }))
    }
    async fn is_imported(&self, image: &str) -> Result<bool, RuntimeError> {
        Ok(image.starts_with("imported"))
    }
    async fn pull_image(&self, image: &str, _: Option<&Auth>) -> Result<String, RuntimeError> {
        self.state.lock().pulls += 1;
        Err(RuntimeError::Failed(format!("no registry holds {image}")))
    }
    async fn reopen_log(&self, _: &str) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn changed(&self, timeout: Duration) {
        let mut seen = self.seen.lock().await;
        let _timed_out = tokio::time::timeout(timeout, seen.changed()).await;
    }
}
