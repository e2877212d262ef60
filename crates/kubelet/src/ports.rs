//! What the kubelet needs of the world, as traits: the container runtime behind CRI.
//!
//! `hitless-drivers` implements them over CRI; tests implement them in memory. Shapes follow CRI v1, names are its.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use hitless_base::Timestamp;
pub use hitless_termination::answers::Connection;

/// A call to the runtime that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The runtime knows no such sandbox, container or image.
    #[error("{0} not found")]
    NotFound(String),
    /// The call did not end in its time.
    #[error("the runtime did not answer {call} within {timeout_s} s")]
    Timeout {
        /// The CRI call.
        call: &'static str,
        /// The bound, in seconds.
        timeout_s: u64,
    },
    /// The runtime cannot be reached now.
    #[error("the container runtime cannot be reached: {0}")]
    Unavailable(String),
    /// The runtime's own words.
    #[error("{0}")]
    Failed(String),
}

/// One sandbox to run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SandboxSpec {
    /// Pod name, namespace and uid.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Uid.
    pub uid: String,
    /// Counts up when a Pod gets a new sandbox.
    pub attempt: u32,
    /// Host name inside the Pod; empty with the node's network.
    pub hostname: String,
    /// Directory of the containers' logs.
    pub log_directory: String,
    /// Parent cgroup, as a path that begins with `/`.
    pub cgroup_parent: String,
    /// CRI labels.
    pub labels: BTreeMap<String, String>,
    /// CRI annotations.
    pub annotations: BTreeMap<String, String>,
    /// Whether the Pod uses the node's network namespace.
    pub host_network: bool,
    /// Whether the Pod uses the node's pid namespace.
    pub host_pid: bool,
    /// Host ports (host port, container port, protocol word, host address).
    pub port_mappings: Vec<PortMapping>,
    /// Resolver configuration: servers, searches, options. Empty: the node's own.
    pub dns: Option<DnsConfig>,
    /// Sysctls of the Pod.
    pub sysctls: BTreeMap<String, String>,
}

/// Resolver configuration of a sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DnsConfig {
    /// Addresses.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options (`ndots:5`).
    pub options: Vec<String>,
}

/// A port of the node that leads to a port of the Pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PortMapping {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Port in the Pod.
    pub container_port: u16,
    /// Port on the node.
    pub host_port: u16,
    /// Address on the node; empty: all.
    pub host_ip: String,
}

/// What the runtime says of a sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sandbox {
    /// Runtime's id.
    pub id: String,
    /// Pod's uid, name and namespace.
    pub uid: String,
    /// Pod's name.
    pub name: String,
    /// Pod's namespace.
    pub namespace: String,
    /// Attempt.
    pub attempt: u32,
    /// Whether it is up (else stopped).
    pub ready: bool,
    /// Addresses, first the primary one. Empty in lists: only `sandbox_status` fills it.
    pub ips: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
}

/// A file or directory of the host inside a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mount {
    /// Path on the host.
    pub host_path: String,
    /// Path in the container.
    pub container_path: String,
    /// Whether it is read-only.
    pub readonly: bool,
}

/// One container to create.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerSpec {
    /// Name in the Pod.
    pub name: String,
    /// Counts restarts.
    pub attempt: u32,
    /// Image reference or id, present on the node.
    pub image: String,
    /// Entry point; empty: the image's.
    pub command: Vec<String>,
    /// Arguments; empty: the image's (unless `command` is given).
    pub args: Vec<String>,
    /// Working directory; empty: the image's.
    pub working_dir: String,
    /// Environment, in order.
    pub envs: Vec<(String, String)>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Log file, relative to the sandbox's log directory.
    pub log_path: String,
    /// Whether standard input stays open.
    pub stdin: bool,
    /// Whether standard input is closed when the first attachment to it ends.
    pub stdin_once: bool,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// Rights.
    pub security: Security,
}

/// cgroup limits of a container; zero: none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// CPU weight on cgroup v1's scale (2 to 262144).
    pub cpu_shares: i64,
    /// CPU quota in microseconds for each period.
    pub cpu_quota_us: i64,
    /// CPU period in microseconds.
    pub cpu_period_us: i64,
    /// Memory limit in bytes.
    pub memory_limit_bytes: i64,
    /// OOM score adjustment.
    pub oom_score_adj: i64,
}

/// Rights of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Security {
    /// All rights.
    pub privileged: bool,
    /// Read-only root file system.
    pub readonly_rootfs: bool,
    /// User id; `None`: the image's.
    pub run_as_user: Option<i64>,
    /// Group id.
    pub run_as_group: Option<i64>,
    /// `no_new_privs`.
    pub no_new_privs: bool,
    /// Capabilities added.
    pub add_capabilities: Vec<String>,
    /// Capabilities dropped.
    pub drop_capabilities: Vec<String>,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not started.
    #[default]
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime does not know.
    Unknown,
}

/// What the runtime says of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    /// Runtime's id.
    pub id: String,
    /// Its sandbox.
    pub sandbox_id: String,
    /// Name in the Pod.
    pub name: String,
    /// Counts restarts.
    pub attempt: u32,
    /// State.
    pub state: ContainerState,
    /// Image reference as asked for.
    pub image: String,
    /// Image id (digest).
    pub image_ref: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// When it was started. Only from `container_status`.
    pub started_at: Option<Timestamp>,
    /// When it ended. Only from `container_status`.
    pub finished_at: Option<Timestamp>,
    /// Exit code. Only from `container_status`.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`. Only from `container_status`.
    pub reason: String,
    /// Further words. Only from `container_status`.
    pub message: String,
    /// Process id on the machine while it runs. Only from `container_status`.
    pub pid: Option<i32>,
    /// Log file on the host. Only from `container_status`.
    pub log_path: String,
}

/// What an image says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// Id (digest).
    pub id: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Signal that stops it, as in its configuration (`SIGQUIT`); empty: SIGTERM.
    pub stop_signal: String,
    /// Numeric user of the image, if it has one.
    pub uid: Option<i64>,
}

/// Credentials for a registry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Auth {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
}

/// What a command in a container gave back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExecOutput {
    /// Exit code.
    pub exit_code: i32,
    /// Standard output, bounded by the runtime (16 MiB).
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// Which standard streams of a command or container a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Error output; not with a terminal.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// A signal, by name (`SIGTERM`) or number (`15`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal(pub String);

/// The container runtime of one node.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Name and version, as `containerd://1.6.20`.
    async fn version(&self) -> Result<String, RuntimeError>;
    /// Whether runtime and network are ready; else why not.
    async fn ready(&self) -> Result<Result<(), String>, RuntimeError>;
    /// Starts a sandbox and gives its id.
    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<String, RuntimeError>;
    /// State of one sandbox, with its addresses.
    async fn sandbox_status(&self, id: &str) -> Result<Sandbox, RuntimeError>;
    /// All sandboxes (those that this kubelet made).
    async fn list_sandboxes(&self) -> Result<Vec<Sandbox>, RuntimeError>;
    /// Stops a sandbox: its containers are killed, its address goes back. Again is no error.
    async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError>;
    /// Removes a stopped sandbox. Again is no error.
    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError>;
    /// Creates a container and gives its id. `sandbox` is the spec that the sandbox was run with.
    async fn create_container(
        &self,
        sandbox_id: &str,
        container: &ContainerSpec,
        sandbox: &SandboxSpec,
    ) -> Result<String, RuntimeError>;
    /// Starts a created container.
    async fn start_container(&self, id: &str) -> Result<(), RuntimeError>;
    /// Sends `signal` to the container's first process at once and returns. The way is the shortest there is (pidfd), since
    /// the time from Withdrawn to the signal counts. `Ok(false)`: the container was not running any more.
    async fn signal_container(&self, id: &str, signal: &Signal) -> Result<bool, RuntimeError>;
    /// The TCP connections that others have opened to the container's network namespace and that are still open.
    async fn connections(&self, id: &str) -> Result<Vec<Connection>, RuntimeError>;
    /// Whether somebody listens on each of these TCP ports in the container's network namespace; true once the container has ended.
    async fn listens(&self, id: &str, ports: &[u16]) -> Result<bool, RuntimeError>;
    /// Resolves when the container no longer runs, or after `timeout`; gives whether it has ended.
    async fn wait_container(&self, id: &str, timeout: Duration) -> Result<bool, RuntimeError>;
    /// SIGKILL, and waits for the end. Again is no error.
    async fn kill_container(&self, id: &str) -> Result<(), RuntimeError>;
    /// Removes an ended container. Again is no error.
    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError>;
    /// All containers, without what only `container_status` fills.
    async fn list_containers(&self) -> Result<Vec<Container>, RuntimeError>;
    /// Everything about one container.
    async fn container_status(&self, id: &str) -> Result<Container, RuntimeError>;
    /// Runs a command in a container, to its end or for `timeout`.
    async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError>;
    /// Prepares a command in a container; its streams are had at the URL that comes back (SPDY/3.1, `v4.channel.k8s.io`).
    async fn exec_url(&self, id: &str, command: &[String], streams: Streams) -> Result<String, RuntimeError>;
    /// The URL of a running container's own streams.
    async fn attach_url(&self, id: &str, streams: Streams) -> Result<String, RuntimeError>;
    /// The URL at which a sandbox's ports are reached (SPDY/3.1, `portforward.k8s.io`).
    async fn port_forward_url(&self, sandbox_id: &str, ports: &[u16]) -> Result<String, RuntimeError>;
    /// The image, if it is on the node.
    async fn image_status(&self, image: &str) -> Result<Option<Image>, RuntimeError>;
    /// Whether the image is on the node because somebody has imported it there.
    async fn is_imported(&self, image: &str) -> Result<bool, RuntimeError>;
    /// Pulls an image and gives its id.
    async fn pull_image(&self, image: &str, auth: Option<&Auth>) -> Result<String, RuntimeError>;
    /// Opens the container's log file again after a rotation.
    async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError>;
    /// Resolves when something has happened to a container or sandbox since the last call (start, exit, removal), or after `timeout`.
    /// A hint only: what is, is asked with the calls above.
    async fn changed(&self, timeout: Duration);
}
