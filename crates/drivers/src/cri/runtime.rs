//! The `Runtime` port over CRI.

use std::{fs, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use hitless_base::Backoff;
use hitless_kubelet::ports::{
    Auth, Connection, Container, ContainerSpec, ContainerState, ExecOutput, Image, Runtime, RuntimeError,
    Sandbox, SandboxSpec, Signal, Streams,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    ASK, CHANGE, Containerd, IMPORTED, PULL, bounded,
    convert::{self, ContainerInfo},
    gone_is_fine,
    image_proto::{GetImageRequest, images_client::ImagesClient},
    in_namespace, proto, signal,
};
use crate::{
    pidfd::WatchedPidfd,
    sockets::{self, Sockets},
};

/// How long containerd may lag behind the kernel in saying that a container has ended.
const LAG: Duration = Duration::from_secs(5);
/// What an exec may take beyond its own bound: containerd has to kill the command and gather its output.
const EXEC_MARGIN: Duration = Duration::from_secs(5);

impl Containerd {
    async fn full_status(&self, id: &str) -> Result<Container, RuntimeError> {
        let request = proto::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let what = format!("container {id}");
        let answer = bounded("ContainerStatus", &what, ASK, self.runtime().container_status(request)).await?;
        let status = answer.status.ok_or(RuntimeError::NotFound(what))?;
        Ok(convert::container_of_status(status, &ContainerInfo::of(&answer.info)))
    }

    /// The container's first process; `None`: it does not run.
    async fn process(&self, id: &str) -> Result<Option<Arc<WatchedPidfd>>, RuntimeError> {
        if let Some(known) = self.processes.get(id) {
            return Ok(Some(known));
        }
        match self.full_status(id).await?.pid {
            Some(pid) => self.processes.adopt(id, pid).map_err(|error| {
                RuntimeError::Failed(format!("process {pid} of container {id} cannot be opened: {error}"))
            }),
            None => Ok(None),
        }
    }

    /// Whether one of these references was imported.
    async fn imported(&self, references: &[String]) -> Result<bool, RuntimeError> {
        for name in references {
            let request = in_namespace(GetImageRequest { name: name.clone() });
            let mut images = ImagesClient::new(self.channel.clone());
            match bounded("GetImage", name, ASK, images.get(request)).await {
                Ok(answer)
                    if answer.image.as_ref().is_some_and(|image| image.labels.contains_key(IMPORTED)) =>
                {
                    return Ok(true);
                }
                Ok(_) | Err(RuntimeError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Waits until containerd too says that the container has ended, so that its exit code can be had. Bounded.
    async fn settled(&self, id: &str) {
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(50));
        let end = Instant::now() + LAG;
        while Instant::now() < end {
            match self.full_status(id).await {
                Ok(status) if status.state == ContainerState::Running => {}
                Err(RuntimeError::Unavailable(_) | RuntimeError::Timeout { .. }) => {}
                Ok(_) | Err(_) => return,
            }
            tokio::time::sleep(backoff.step()).await;
        }
    }

    /// The TCP sockets of a running container's network namespace; `None`: it does not run.
    async fn sockets(&self, id: &str) -> Result<Option<Sockets>, RuntimeError> {
        let Some(process) = self.process(id).await? else { return Ok(None) };
        let failed = |error: io::Error| {
            let pid = process.process().pid();
            RuntimeError::Failed(format!("sockets of process {pid} of container {id}: {error}"))
        };
        let namespace =
            fs::File::open(format!("/proc/{}/ns/net", process.process().pid())).map_err(failed)?;
        // If the process has not ended by now, then what was opened is the namespace of the process that the pidfd names.
        if process.process().ended().map_err(failed)? {
            return Ok(None);
        }
        sockets::of(namespace).await.map(Some).map_err(failed)
    }
}

#[async_trait]
impl Runtime for Containerd {
    async fn version(&self) -> Result<String, RuntimeError> {
        let request = proto::VersionRequest { version: "v1".to_owned() };
        let answer = bounded("Version", "version", ASK, self.runtime().version(request)).await?;
        Ok(format!("{}://{}", answer.runtime_name, answer.runtime_version))
    }

    async fn ready(&self) -> Result<Result<(), String>, RuntimeError> {
        let request = proto::StatusRequest { verbose: false };
        let answer = bounded("Status", "status", ASK, self.runtime().status(request)).await?;
        let conditions = answer.status.unwrap_or_default().conditions;
        for kind in ["RuntimeReady", "NetworkReady"] {
            match conditions.iter().find(|condition| condition.r#type == kind) {
                Some(condition) if condition.status => {}
                Some(condition) => return Ok(Err(format!("{}: {}", condition.reason, condition.message))),
                None => return Ok(Err(format!("the runtime says nothing of {kind}"))),
            }
        }
        Ok(Ok(()))
    }

    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<String, RuntimeError> {
        let request = proto::RunPodSandboxRequest { config: Some(convert::sandbox_config(spec, false)) };
        let what = format!("sandbox image of {}/{}", spec.namespace, spec.name);
        let answer = bounded("RunPodSandbox", what, CHANGE, self.runtime().run_pod_sandbox(request)).await?;
        Ok(answer.pod_sandbox_id)
    }

    async fn sandbox_status(&self, id: &str) -> Result<Sandbox, RuntimeError> {
        let request = proto::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let what = format!("sandbox {id}");
        let answer =
            bounded("PodSandboxStatus", &what, ASK, self.runtime().pod_sandbox_status(request)).await?;
        answer.status.map(convert::sandbox_of_status).ok_or(RuntimeError::NotFound(what))
    }

    async fn list_sandboxes(&self) -> Result<Vec<Sandbox>, RuntimeError> {
        let request = proto::ListPodSandboxRequest {};
        let answer = bounded("ListPodSandbox", "list", ASK, self.runtime().list_pod_sandbox(request)).await?;
        Ok(answer.items.into_iter().map(convert::sandbox).collect())
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = proto::SandboxRef { pod_sandbox_id: id.to_owned() };
        let what = format!("sandbox {id}");
        let answer = bounded("StopPodSandbox", what, CHANGE, self.runtime().stop_pod_sandbox(request)).await;
        gone_is_fine(answer.map(drop))
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = proto::SandboxRef { pod_sandbox_id: id.to_owned() };
        let what = format!("sandbox {id}");
        let answer =
            bounded("RemovePodSandbox", what, CHANGE, self.runtime().remove_pod_sandbox(request)).await;
        gone_is_fine(answer.map(drop))
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        container: &ContainerSpec,
        sandbox: &SandboxSpec,
    ) -> Result<String, RuntimeError> {
        let request = proto::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(convert::container_config(container, sandbox)),
            sandbox_config: Some(convert::sandbox_config(sandbox, container.security.privileged)),
        };
        let what = format!("sandbox {sandbox_id} or image {}", container.image);
        let answer =
            bounded("CreateContainer", what, CHANGE, self.runtime().create_container(request)).await?;
        Ok(answer.container_id)
    }

    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = proto::ContainerRef { container_id: id.to_owned() };
        bounded("StartContainer", format!("container {id}"), CHANGE, self.runtime().start_container(request))
            .await?;
        // Opened now so that the stop signal finds it open. If it cannot be had now, the signal asks again.
        if let Err(error) = self.process(id).await {
            tracing::debug!(
                container = id,
                error = hitless_base::chain(&error),
                "the new process is not open yet"
            );
        }
        Ok(())
    }

    async fn signal_container(&self, id: &str, signal: &Signal) -> Result<bool, RuntimeError> {
        let number = signal::number(signal)?;
        let Some(process) = self.process(id).await? else { return Ok(false) };
        let process = process.process();
        process.send(number).map_err(|error| {
            RuntimeError::Failed(format!(
                "signal {} to process {} of container {id}: {error}",
                signal.0,
                process.pid()
            ))
        })
    }

    async fn connections(&self, id: &str) -> Result<Vec<Connection>, RuntimeError> {
        Ok(self.sockets(id).await?.map(Sockets::incoming).unwrap_or_default())
    }

    async fn listens(&self, id: &str, ports: &[u16]) -> Result<bool, RuntimeError> {
        Ok(self.sockets(id).await?.is_none_or(|sockets| sockets.listens(ports)))
    }

    async fn wait_container(&self, id: &str, bound: Duration) -> Result<bool, RuntimeError> {
        let end = Instant::now() + bound;
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(200));
        loop {
            match self.process(id).await {
                Ok(Some(process)) => {
                    match timeout_at(end, process.ended()).await {
                        Err(_) => return Ok(false),
                        Ok(Err(error)) => {
                            return Err(RuntimeError::Failed(format!("wait for container {id}: {error}")));
                        }
                        Ok(Ok(())) => {}
                    }
                    self.settled(id).await;
                    return Ok(true);
                }
                Ok(None) => {
                    self.settled(id).await;
                    return Ok(true);
                }
                Err(RuntimeError::NotFound(_)) => return Ok(true),
                // containerd restarts: the container runs on, and can be asked about soon.
                Err(RuntimeError::Unavailable(_)) if Instant::now() < end => {
                    let pause = backoff.step().min(end.saturating_duration_since(Instant::now()));
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn kill_container(&self, id: &str) -> Result<(), RuntimeError> {
        // Grace zero: SIGKILL at once, and the call waits for the end.
        let request = proto::StopContainerRequest { container_id: id.to_owned(), timeout: 0 };
        let what = format!("container {id}");
        let answer = bounded("StopContainer", what, CHANGE, self.runtime().stop_container(request)).await;
        gone_is_fine(answer.map(drop))
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = proto::ContainerRef { container_id: id.to_owned() };
        let what = format!("container {id}");
        let answer = bounded("RemoveContainer", what, CHANGE, self.runtime().remove_container(request)).await;
        gone_is_fine(answer.map(drop))?;
        self.processes.forget(id);
        Ok(())
    }

    async fn list_containers(&self) -> Result<Vec<Container>, RuntimeError> {
        let request = proto::ListContainersRequest {};
        let answer = bounded("ListContainers", "list", ASK, self.runtime().list_containers(request)).await?;
        let containers: Vec<_> = answer.containers.into_iter().map(convert::container).collect();
        self.processes.keep(|id| containers.iter().any(|container| container.id == id));
        Ok(containers)
    }

    async fn container_status(&self, id: &str) -> Result<Container, RuntimeError> {
        self.full_status(id).await
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        bound: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let bound = if bound.is_zero() { CHANGE } else { bound };
        let request = proto::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            // CRI counts whole seconds; this side holds the true bound when it is finer than that.
            timeout: i64::try_from(bound.as_millis().div_ceil(1000)).unwrap_or(i64::MAX),
        };
        let patience = if bound.subsec_nanos() == 0 { bound + EXEC_MARGIN } else { bound };
        let what = format!("container {id}");
        match bounded("ExecSync", what, patience, self.runtime().exec_sync(request)).await {
            Ok(answer) => {
                Ok(ExecOutput { exit_code: answer.exit_code, stdout: answer.stdout, stderr: answer.stderr })
            }
            Err(RuntimeError::Timeout { call, .. }) => {
                Err(RuntimeError::Timeout { call, timeout_s: bound.as_secs() })
            }
            Err(error) => Err(error),
        }
    }

    async fn exec_url(&self, id: &str, command: &[String], streams: Streams) -> Result<String, RuntimeError> {
        let Streams { stdin, stdout, stderr, tty } = streams;
        let (container_id, cmd) = (id.to_owned(), command.to_vec());
        let request = proto::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr };
        let what = format!("container {id}");
        bounded("Exec", what, ASK, self.runtime().exec(request)).await.map(|answer| answer.url)
    }

    async fn attach_url(&self, id: &str, streams: Streams) -> Result<String, RuntimeError> {
        let Streams { stdin, stdout, stderr, tty } = streams;
        let request = proto::AttachRequest { container_id: id.to_owned(), stdin, tty, stdout, stderr };
        let what = format!("container {id}");
        bounded("Attach", what, ASK, self.runtime().attach(request)).await.map(|answer| answer.url)
    }

    async fn port_forward_url(&self, sandbox_id: &str, ports: &[u16]) -> Result<String, RuntimeError> {
        let port = ports.iter().map(|port| i32::from(*port)).collect();
        let request = proto::PortForwardRequest { pod_sandbox_id: sandbox_id.to_owned(), port };
        let what = format!("sandbox {sandbox_id}");
        bounded("PortForward", what, ASK, self.runtime().port_forward(request)).await.map(|answer| answer.url)
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        let request = proto::ImageStatusRequest { image: Some(convert::image_spec(image)), verbose: true };
        match bounded("ImageStatus", image, ASK, self.images().image_status(request)).await {
            Ok(answer) => Ok(answer.image.map(|found| convert::image(found, &answer.info))),
            Err(RuntimeError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn is_imported(&self, image: &str) -> Result<bool, RuntimeError> {
        let request = proto::ImageStatusRequest { image: Some(convert::image_spec(image)), verbose: false };
        let answer = bounded("ImageStatus", image, ASK, self.images().image_status(request)).await?;
        self.imported(&answer.image.map(|found| found.repo_tags).unwrap_or_default()).await
    }

    async fn pull_image(&self, image: &str, auth: Option<&Auth>) -> Result<String, RuntimeError> {
        let request = proto::PullImageRequest {
            image: Some(convert::image_spec(image)),
            auth: auth.map(|auth| proto::AuthConfig {
                username: auth.username.clone(),
                password: auth.password.clone(),
            }),
        };
        let answer = match timeout(PULL, self.images().pull_image(request)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            // Kept in the runtime's own words: they say whether name, line or rights are at fault, and a user reads them.
            Ok(Err(status)) if status.code() == tonic::Code::NotFound => {
                return Err(RuntimeError::Failed(status.message().to_owned()));
            }
            Ok(Err(status)) => return Err(super::error("PullImage", image.to_owned(), PULL, &status)),
            Err(_) => return Err(RuntimeError::Timeout { call: "PullImage", timeout_s: PULL.as_secs() }),
        };
        Ok(answer.image_ref)
    }

    async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError> {
        let request = proto::ContainerRef { container_id: id.to_owned() };
        let what = format!("container {id}");
        bounded("ReopenContainerLog", what, ASK, self.runtime().reopen_container_log(request)).await.map(drop)
    }

    async fn changed(&self, bound: Duration) {
        let _whether = timeout(bound, self.happened.notified()).await;
    }
}
