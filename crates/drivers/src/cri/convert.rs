//! The port's types to CRI's and back: pure.

use std::collections::HashMap;

use hitless_base::Timestamp;
use hitless_kubelet::ports::{
    Container, ContainerSpec, ContainerState, Image, Resources, Sandbox, SandboxSpec, Security,
};
use serde::Deserialize;

use super::proto;

/// Paths of `/proc` and `/sys` that a container sees as empty, unless it is privileged: Kubernetes' own list.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths of `/proc` that a container can read and not write, unless it is privileged.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The sandbox's configuration. `privileged` is that of the container made in it: containerd refuses
/// a privileged container in a sandbox whose configuration is not.
pub(super) fn sandbox_config(spec: &SandboxSpec, privileged: bool) -> proto::PodSandboxConfig {
    proto::PodSandboxConfig {
        metadata: Some(proto::PodSandboxMetadata {
            name: spec.name.clone(),
            uid: spec.uid.clone(),
            namespace: spec.namespace.clone(),
            attempt: spec.attempt,
        }),
        hostname: spec.hostname.clone(),
        log_directory: spec.log_directory.clone(),
        dns_config: spec.dns.as_ref().map(|dns| proto::DnsConfig {
            servers: dns.servers.clone(),
            searches: dns.searches.clone(),
            options: dns.options.clone(),
        }),
        port_mappings: spec
            .port_mappings
            .iter()
            .filter(|mapping| mapping.host_port != 0)
            .map(|mapping| proto::PortMapping {
                protocol: protocol(&mapping.protocol) as i32,
                container_port: mapping.container_port.into(),
                host_port: mapping.host_port.into(),
                host_ip: mapping.host_ip.clone(),
            })
            .collect(),
        labels: map(&spec.labels),
        annotations: map(&spec.annotations),
        linux: Some(proto::LinuxPodSandboxConfig {
            cgroup_parent: spec.cgroup_parent.clone(),
            security_context: Some(proto::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(spec)),
                privileged,
                seccomp: Some(unconfined()),
            }),
            sysctls: map(&spec.sysctls),
        }),
    }
}

pub(super) fn container_config(spec: &ContainerSpec, sandbox: &SandboxSpec) -> proto::ContainerConfig {
    proto::ContainerConfig {
        metadata: Some(proto::ContainerMetadata { name: spec.name.clone(), attempt: spec.attempt }),
        image: Some(image_spec(&spec.image)),
        command: spec.command.clone(),
        args: spec.args.clone(),
        working_dir: spec.working_dir.clone(),
        envs: spec
            .envs
            .iter()
            .map(|(key, value)| proto::KeyValue { key: key.clone(), value: value.clone().into_bytes() })
            .collect(),
        mounts: spec
            .mounts
            .iter()
            .map(|mount| proto::Mount {
                container_path: mount.container_path.clone(),
                host_path: mount.host_path.clone(),
                readonly: mount.readonly,
            })
            .collect(),
        labels: map(&spec.labels),
        annotations: map(&spec.annotations),
        log_path: spec.log_path.clone(),
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        tty: spec.tty,
        linux: Some(proto::LinuxContainerConfig {
            resources: Some(resources(&spec.resources)),
            security_context: Some(security(&spec.security, sandbox)),
        }),
    }
}

pub(super) fn image_spec(image: &str) -> proto::ImageSpec {
    proto::ImageSpec { image: image.to_owned() }
}

fn resources(resources: &Resources) -> proto::LinuxContainerResources {
    proto::LinuxContainerResources {
        cpu_period: resources.cpu_period_us,
        cpu_quota: resources.cpu_quota_us,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory_limit_bytes,
        oom_score_adj: resources.oom_score_adj,
    }
}

fn security(security: &Security, sandbox: &SandboxSpec) -> proto::LinuxContainerSecurityContext {
    let paths = |paths: &[&str]| match security.privileged {
        true => Vec::new(),
        false => paths.iter().map(ToString::to_string).collect(),
    };
    proto::LinuxContainerSecurityContext {
        capabilities: Some(proto::Capability {
            add_capabilities: security.add_capabilities.clone(),
            drop_capabilities: security.drop_capabilities.clone(),
        }),
        privileged: security.privileged,
        namespace_options: Some(namespaces(sandbox)),
        run_as_user: security.run_as_user.map(|value| proto::Int64Value { value }),
        run_as_group: security.run_as_group.map(|value| proto::Int64Value { value }),
        readonly_rootfs: security.readonly_rootfs,
        no_new_privs: security.no_new_privs,
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(unconfined()),
    }
}

/// Kubernetes' default: no seccomp profile unless the Pod asks for one.
fn unconfined() -> proto::SecurityProfile {
    proto::SecurityProfile { profile_type: proto::security_profile::ProfileType::Unconfined as i32 }
}

fn namespaces(spec: &SandboxSpec) -> proto::NamespaceOption {
    use proto::NamespaceMode::{Container, Node, Pod};
    proto::NamespaceOption {
        network: if spec.host_network { Node } else { Pod } as i32,
        pid: if spec.host_pid { Node } else { Container } as i32,
        ipc: Pod as i32,
    }
}

fn protocol(word: &str) -> proto::Protocol {
    match word {
        "UDP" => proto::Protocol::Udp,
        "SCTP" => proto::Protocol::Sctp,
        _ => proto::Protocol::Tcp,
    }
}

fn map<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> HashMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// CRI's nanoseconds since 1970; zero stands for "never".
fn time(ns: i64) -> Option<Timestamp> {
    if ns <= 0 { None } else { Timestamp::from_nanosecond(ns.into()).ok() }
}

fn ready(state: i32) -> bool {
    state == proto::PodSandboxState::SandboxReady as i32
}

pub(super) fn sandbox(item: proto::PodSandbox) -> Sandbox {
    let metadata = item.metadata.unwrap_or_default();
    Sandbox {
        id: item.id,
        uid: metadata.uid,
        name: metadata.name,
        namespace: metadata.namespace,
        attempt: metadata.attempt,
        ready: ready(item.state),
        ips: Vec::new(),
        labels: item.labels.into_iter().collect(),
        created_at: time(item.created_at),
    }
}

pub(super) fn sandbox_of_status(status: proto::PodSandboxStatus) -> Sandbox {
    let metadata = status.metadata.unwrap_or_default();
    let network = status.network.unwrap_or_default();
    let ips = std::iter::once(network.ip)
        .chain(network.additional_ips.into_iter().map(|other| other.ip))
        .filter(|ip| !ip.is_empty())
        .collect();
    Sandbox {
        id: status.id,
        uid: metadata.uid,
        name: metadata.name,
        namespace: metadata.namespace,
        attempt: metadata.attempt,
        ready: ready(status.state),
        ips,
        labels: status.labels.into_iter().collect(),
        created_at: time(status.created_at),
    }
}

pub(super) fn container_state(state: i32) -> ContainerState {
    match proto::ContainerState::try_from(state) {
        Ok(proto::ContainerState::ContainerCreated) => ContainerState::Created,
        Ok(proto::ContainerState::ContainerRunning) => ContainerState::Running,
        Ok(proto::ContainerState::ContainerExited) => ContainerState::Exited,
        Ok(proto::ContainerState::ContainerUnknown) | Err(_) => ContainerState::Unknown,
    }
}

pub(super) fn container(item: proto::Container) -> Container {
    let metadata = item.metadata.unwrap_or_default();
    Container {
        id: item.id,
        sandbox_id: item.pod_sandbox_id,
        name: metadata.name,
        attempt: metadata.attempt,
        state: container_state(item.state),
        image: item.image.unwrap_or_default().image,
        image_ref: item.image_ref,
        labels: item.labels.into_iter().collect(),
        annotations: item.annotations.into_iter().collect(),
        created_at: time(item.created_at),
        ..Container::default()
    }
}

/// CRI's status does not name the sandbox; containerd's further words do.
pub(super) fn container_of_status(status: proto::ContainerStatus, info: &ContainerInfo) -> Container {
    let metadata = status.metadata.unwrap_or_default();
    let state = container_state(status.state);
    Container {
        id: status.id,
        sandbox_id: info.sandbox_id.clone(),
        name: metadata.name,
        attempt: metadata.attempt,
        state,
        image: status.image.unwrap_or_default().image,
        image_ref: status.image_ref,
        labels: status.labels.into_iter().collect(),
        annotations: status.annotations.into_iter().collect(),
        created_at: time(status.created_at),
        started_at: time(status.started_at),
        finished_at: time(status.finished_at),
        exit_code: status.exit_code,
        reason: status.reason,
        message: status.message,
        pid: (state == ContainerState::Running && info.pid > 0).then_some(info.pid),
        log_path: status.log_path,
    }
}

/// What containerd says of a container beyond CRI's fields.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct ContainerInfo {
    #[serde(rename = "sandboxID")]
    pub(super) sandbox_id: String,
    pub(super) pid: i32,
}

impl ContainerInfo {
    pub(super) fn of(info: &HashMap<String, String>) -> Self {
        info.get("info").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ImageInfo {
    #[serde(rename = "imageSpec")]
    spec: ImageInfoSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ImageInfoSpec {
    config: ImageInfoConfig,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ImageInfoConfig {
    #[serde(rename = "StopSignal")]
    stop_signal: String,
}

pub(super) fn image(image: proto::Image, info: &HashMap<String, String>) -> Image {
    let details: ImageInfo =
        info.get("info").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    Image {
        id: image.id,
        size_bytes: image.size,
        stop_signal: details.spec.config.stop_signal,
        uid: image.uid.map(|uid| uid.value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(text: &str) -> HashMap<String, String> {
        HashMap::from([("info".to_owned(), text.to_owned())])
    }

    #[test]
    fn the_pid_is_in_containerds_further_words_and_only_while_it_runs() {
        let words =
            info(r#"{"sandboxID":"s","pid":42,"removing":false,"runtimeSpec":{"process":{"pid":1}}}"#);
        let found = ContainerInfo::of(&words);
        assert_eq!(found, ContainerInfo { sandbox_id: "s".into(), pid: 42 });
        let status = |state: proto::ContainerState| proto::ContainerStatus {
            state: state as i32,
            ..Default::default()
        };
        let running = container_of_status(status(proto::ContainerState::ContainerRunning), &found);
        assert_eq!((running.pid, running.sandbox_id.as_str()), (Some(42), "s"));
        assert_eq!(container_of_status(status(proto::ContainerState::ContainerExited), &found).pid, None);
        assert_eq!(ContainerInfo::of(&info("not json")), ContainerInfo::default());
    }

    #[test]
    fn an_images_stop_signal_is_that_of_its_configuration() {
        let words = info(r#"{"chainID":"x","imageSpec":{"config":{"StopSignal":"SIGQUIT","Env":["A=1"]}}}"#);
        assert_eq!(image(proto::Image::default(), &words).stop_signal, "SIGQUIT");
        assert_eq!(image(proto::Image::default(), &HashMap::new()).stop_signal, "");
    }

    #[test]
    fn a_privileged_container_sees_all_of_proc() {
        let sandbox = SandboxSpec::default();
        let masked =
            |privileged| security(&Security { privileged, ..Security::default() }, &sandbox).masked_paths;
        assert!(masked(false).iter().any(|path| path == "/proc/kcore"));
        assert!(masked(true).is_empty());
    }

    #[test]
    fn namespaces_are_the_nodes_where_the_pod_says_so() {
        let spec = SandboxSpec { host_network: true, ..SandboxSpec::default() };
        let options = namespaces(&spec);
        assert_eq!(options.network, proto::NamespaceMode::Node as i32);
        assert_eq!(options.pid, proto::NamespaceMode::Container as i32);
        assert_eq!(options.ipc, proto::NamespaceMode::Pod as i32);
    }

    #[test]
    fn a_time_of_zero_is_none() {
        assert_eq!(time(0), None);
        assert_eq!(time(1_500_000_000).unwrap().as_millisecond(), 1500);
    }

    #[test]
    fn a_port_without_a_host_port_is_not_mapped() {
        use hitless_kubelet::ports::PortMapping;
        let mapping = |host_port| PortMapping {
            protocol: "UDP".into(),
            container_port: 53,
            host_port,
            host_ip: String::new(),
        };
        let spec = SandboxSpec { port_mappings: vec![mapping(0), mapping(5353)], ..SandboxSpec::default() };
        let mappings = sandbox_config(&spec, false).port_mappings;
        assert_eq!(mappings.len(), 1);
        assert_eq!((mappings[0].host_port, mappings[0].protocol), (5353, proto::Protocol::Udp as i32));
    }
}
