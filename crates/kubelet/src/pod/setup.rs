//! Before containers: directories, volumes, the sandbox and its address.

use std::{
    fs,
    time::{Duration, Instant},
};

use hitless_base::{Timestamp, chain};
use hitless_client::events::Note;
use hitless_types::well_known::reason;
use k8s_openapi::api::core::v1::{PodSpec, Volume};
use rand::Rng;

use super::{spec, worker::Worker};
use crate::{
    cgroup, network,
    ports::{RuntimeError, Sandbox},
    sources::{self, Sources},
    tokens,
    volumes::{self, Contents, VolumeError},
};

/// Volumes with content of the API are looked at again after this time, and up to a fifth more.
const REFRESH: Duration = Duration::from_secs(45);

impl Worker {
    pub(super) fn spec(&self) -> PodSpec {
        self.pod.spec.clone().unwrap_or_default()
    }

    fn retry_setup(&mut self) {
        let pause = self.setup_backoff.step();
        self.memory.setup_retry_at = self.ctx.clock.now().saturating_add(pause).ok();
    }

    /// Puts directories and volumes in place.
    pub(super) async fn set_up(&mut self) {
        for dir in [self.dirs.root.clone(), self.dirs.logs.clone()] {
            if let Err(error) = fs::create_dir_all(&dir) {
                self.warn("FailedMount", format!("error creating pod directory {}: {error}", dir.display()));
                return self.retry_setup();
            }
        }
        match self.prepare_volumes().await {
            Ok(()) => {
                self.memory.volumes_ready = true;
                self.memory.setup_retry_at = None;
                self.setup_backoff.reset();
                self.plan_refresh();
            }
            Err((volume, words)) => {
                self.warn("FailedMount", format!("MountVolume.SetUp failed for volume {volume:?} : {words}"));
                self.retry_setup();
            }
        }
    }

    async fn prepare_volumes(&mut self) -> Result<(), (String, String)> {
        let spec = self.spec();
        self.renew_tokens(&spec).await?;
        let sources = self.volume_sources(&spec).await?;
        let addresses = self.addresses();
        for volume in spec.volumes.iter().flatten() {
            match self.prepare_volume(&sources, &addresses, volume) {
                Ok(path) => {
                    self.volumes.insert(volume.name.clone(), path);
                }
                Err(error) => return Err((volume.name.clone(), chain(&error))),
            }
        }
        Ok(())
    }

    /// Asks for the tokens that are due. One that cannot be renewed is no failure while it is good.
    async fn renew_tokens(&mut self, spec: &PodSpec) -> Result<(), (String, String)> {
        let now = self.ctx.clock.now();
        let renewed = tokens::renew(&self.ctx.client, &self.pod, &mut self.tokens, now).await;
        let Err(error) = renewed else { return Ok(()) };
        let first_without = spec.volumes.iter().flatten().find(|v| {
            let alone = PodSpec { volumes: Some(vec![(*v).clone()]), ..PodSpec::default() };
            tokens::of_volumes(&alone).iter().any(|w| !self.tokens.contains_key(w))
        });
        first_without.map_or(Ok(()), |volume| Err((volume.name.clone(), chain(&error))))
    }

    async fn volume_sources(&self, spec: &PodSpec) -> Result<Sources, (String, String)> {
        let references = sources::of_volumes(spec);
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        let first_naming = |error: &sources::SourceError| {
            let named =
                spec.volumes.iter().flatten().find(|v| sources::of_volume(v).contains(&error.reference));
            named.map(|v| v.name.clone()).unwrap_or_default()
        };
        sources::fetch(&self.ctx.client, &namespace, references)
            .await
            .map_err(|error| (first_naming(&error), chain(&error)))
    }

    fn prepare_volume(
        &self,
        sources: &Sources,
        addresses: &crate::fieldref::Addresses,
        volume: &Volume,
    ) -> Result<std::path::PathBuf, VolumeError> {
        let contents = Contents {
            pod: &self.pod,
            addresses,
            sources,
            tokens: &self.tokens,
            capacity: &self.ctx.capacity,
        };
        let stamp = self.ctx.clock.now().as_nanosecond().to_string();
        volumes::prepare(&contents, &self.dirs, volume, &stamp)
    }

    fn plan_refresh(&mut self) {
        let any =
            self.pod.spec.as_ref().is_some_and(|s| s.volumes.iter().flatten().any(volumes::is_refreshed));
        let pause = REFRESH.mul_f64(rand::rng().random_range(1.0..1.2));
        self.refresh_at = any.then(|| self.ctx.clock.now().saturating_add(pause).ok()).flatten();
    }

    /// Brings volumes up to date when it is time; gives when it will be. A failure keeps what is there.
    pub(super) async fn refresh_volumes(&mut self) -> Option<Timestamp> {
        if self.refresh_at.is_some_and(|at| at <= self.ctx.clock.now()) {
            if let Err((volume, words)) = self.prepare_volumes().await {
                tracing::debug!(volume, words, "volume not refreshed");
            }
            self.plan_refresh();
        }
        self.refresh_at
    }

    /// Runs a sandbox in place of the one before, and learns its address.
    pub(super) async fn run_sandbox(&mut self, attempt: u32) {
        if let Some(old) = self.memory.sandbox.clone() {
            // Whatever still runs in a dead sandbox must not run beside its successor.
            if let Err(error) = self.ctx.runtime.stop_sandbox(&old.id).await {
                tracing::warn!(sandbox = old.id, %error, "old sandbox cannot be stopped");
                return self.retry_setup();
            }
            let inside: Vec<String> =
                self.memory.records().filter(|r| !r.exited()).map(|r| r.container.id.clone()).collect();
            for id in inside {
                self.look_at_container(&id).await;
            }
        }
        let wanted = spec::sandbox(&self.pod, &self.ctx.options, &self.dirs, attempt);
        let figures = cgroup::pod_figures(&self.spec());
        if let Err(error) =
            cgroup::write_pod_cgroup(&self.ctx.options.cgroup_fs, &wanted.cgroup_parent, &figures)
        {
            // Each container's own limits hold without it.
            tracing::warn!(cgroup = wanted.cgroup_parent, %error, "the Pod's own limits cannot be set");
        }
        match self.new_sandbox(&wanted).await {
            Ok(sandbox) => {
                let words = sandbox.ips.join(", ");
                if let Some(old) = self.memory.sandbox.replace(sandbox) {
                    self.memory.old_sandboxes.insert(old.id);
                }
                self.memory.sandbox_seen = Some(Instant::now());
                self.memory.setup_retry_at = None;
                self.setup_backoff.reset();
                let message = if wanted.host_network {
                    "Sandbox is up in the node's network".to_owned()
                } else {
                    format!("Sandbox is up with address {words}")
                };
                self.event(Note { reason: reason::SANDBOX_READY, message, ..Note::default() });
                self.write_hosts();
            }
            Err(error) => {
                self.warn(
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {}", chain(&error)),
                );
                self.retry_setup();
            }
        }
    }

    async fn new_sandbox(&self, wanted: &crate::ports::SandboxSpec) -> Result<Sandbox, RuntimeError> {
        let id = self.ctx.runtime.run_sandbox(wanted).await?;
        let sandbox = self.ctx.runtime.sandbox_status(&id).await?;
        if sandbox.ips.is_empty() && !wanted.host_network {
            // Without an address nobody could reach it: it is of no use.
            self.ctx.runtime.stop_sandbox(&id).await?;
            self.ctx.runtime.remove_sandbox(&id).await?;
            return Err(RuntimeError::Failed("the sandbox has no address".to_owned()));
        }
        Ok(Sandbox { attempt: wanted.attempt, ready: true, ..sandbox })
    }

    /// Writes the managed `/etc/hosts`.
    pub(super) fn write_hosts(&self) {
        let host_network = self.pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true));
        let own = host_network.then(|| fs::read_to_string("/etc/hosts").unwrap_or_default());
        let domain = &self.ctx.options.cluster_domain;
        let text = network::hosts_file(&self.pod, &self.addresses().pod_ips, domain, own.as_deref());
        let path = self.dirs.hosts();
        if let Err(error) = fs::write(&path, text) {
            tracing::warn!(path = %path.display(), %error, "hosts file cannot be written");
        }
    }

    /// Stops the sandbox of a Pod that has run to its end. Its containers and logs stay until it is deleted.
    pub(super) async fn stop_sandbox(&mut self) {
        let Some(id) = self.memory.sandbox.as_ref().map(|s| s.id.clone()) else { return };
        match self.ctx.runtime.stop_sandbox(&id).await {
            Ok(()) | Err(RuntimeError::NotFound(_)) => {
                self.memory.sandbox_lost();
                let running: Vec<String> =
                    self.memory.records().filter(|r| !r.exited()).map(|r| r.container.id.clone()).collect();
                for id in running {
                    self.look_at_container(&id).await;
                }
            }
            Err(error) => tracing::warn!(sandbox = id, %error, "sandbox cannot be stopped"),
        }
    }
}
