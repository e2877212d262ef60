//! What the runtime is asked for: sandboxes and containers, from the Pod's own spec.
//!
//! Labels and annotations carry what a kubelet that starts anew must know to adopt what runs.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use hitless_types::meta;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::{
    cgroup,
    env::{self, ConfigError},
    network,
    options::Options,
    ports::{self, ContainerSpec, Image, PortMapping, SandboxSpec, Security},
    volumes::PodDirs,
};

/// CRI label: the Pod's name.
pub const LABEL_POD_NAME: &str = "io.kubernetes.pod.name";
/// CRI label: the Pod's namespace.
pub const LABEL_POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// CRI label: the Pod's uid.
pub const LABEL_POD_UID: &str = "io.kubernetes.pod.uid";
/// CRI label: the container's name.
pub const LABEL_CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// CRI annotation: how often the container was restarted.
pub const ANNOTATION_RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// CRI annotation: hash of the container's spec.
pub const ANNOTATION_HASH: &str = "io.kubernetes.container.hash";
/// CRI annotation: grace period of the Pod, in seconds.
pub const ANNOTATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// CRI annotation: the container's preStop hook, as JSON.
pub const ANNOTATION_PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
/// CRI annotation: the container's ports, as JSON, for hooks that name one.
pub const ANNOTATION_PORTS: &str = "io.kubernetes.container.ports";
/// CRI annotation: the container's stop signal.
pub const ANNOTATION_STOP_SIGNAL: &str = "hitless.dev/stop-signal";

/// The Pod's grace period. Seconds.
#[must_use]
pub fn grace_s(pod: &Pod) -> i64 {
    pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30)
}

/// All containers by name: `true` for init containers.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = (&Container, bool)> {
    let init = spec.init_containers.iter().flatten().map(|c| (c, true));
    init.chain(spec.containers.iter().map(|c| (c, false)))
}

/// The container of this name.
#[must_use]
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    containers(pod.spec.as_ref()?).find(|(c, _)| c.name == name).map(|(c, _)| c)
}

/// A number that changes with the container's spec.
#[must_use]
pub fn hash(container: &Container) -> String {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(container).unwrap_or_default().hash(&mut hasher);
    format!("{:x}", hasher.finish())
}

fn pod_labels(pod: &Pod) -> BTreeMap<String, String> {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    BTreeMap::from([
        (LABEL_POD_NAME.to_owned(), text(&pod.metadata.name)),
        (LABEL_POD_NAMESPACE.to_owned(), text(&pod.metadata.namespace)),
        (LABEL_POD_UID.to_owned(), text(&pod.metadata.uid)),
    ])
}

/// The sandbox to run.
#[must_use]
pub fn sandbox(pod: &Pod, options: &Options, dirs: &PodDirs, attempt: u32) -> SandboxSpec {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let (namespace, uid) = (text(&pod.metadata.namespace), text(&pod.metadata.uid));
    let host_network = spec.host_network == Some(true);
    // A node without one leaves names to what the Pod itself asks for.
    let own_resolver = std::fs::read_to_string(&options.resolv_conf).unwrap_or_default();
    let sysctls = spec.security_context.as_ref().and_then(|s| s.sysctls.as_ref());
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(pod_labels(pod));
    SandboxSpec {
        name: text(&pod.metadata.name),
        attempt,
        hostname: if host_network {
            String::new()
        } else {
            network::kernel_hostname(pod, &options.cluster_domain)
        },
        log_directory: dirs.logs.display().to_string(),
        cgroup_parent: cgroup::pod_cgroup(&options.cgroup_parent, spec, &uid),
        labels,
        annotations: BTreeMap::from([(ANNOTATION_GRACE.to_owned(), grace_s(pod).to_string())]),
        host_network,
        host_pid: spec.host_pid == Some(true),
        port_mappings: port_mappings(spec),
        dns: network::dns(spec, &namespace, options.cluster_dns, &options.cluster_domain, &own_resolver),
        sysctls: sysctls.into_iter().flatten().map(|s| (s.name.clone(), s.value.clone())).collect(),
        namespace,
        uid,
    }
}

fn port_mappings(spec: &PodSpec) -> Vec<PortMapping> {
    if spec.host_network == Some(true) {
        return Vec::new();
    }
    let ports = containers(spec).flat_map(|(c, _)| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let host_port = u16::try_from(p.host_port.filter(|h| *h > 0)?).ok()?;
            Some(PortMapping {
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                container_port: u16::try_from(p.container_port).ok()?,
                host_port,
                host_ip: p.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

/// What a container is made from, beside its own spec.
pub struct Parts<'a> {
    /// The Pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Restarts so far.
    pub attempt: u32,
    /// The image, present on the node.
    pub image: &'a Image,
    /// The environment.
    pub envs: Vec<(String, String)>,
    /// Volume mounts, and those that the kubelet adds.
    pub mounts: Vec<ports::Mount>,
    /// The node's memory, in bytes.
    pub node_memory_bytes: i64,
}

/// The container to create.
///
/// # Errors
/// A security context that the image's user breaks.
pub fn container_spec(parts: Parts<'_>) -> Result<ContainerSpec, ConfigError> {
    let Parts { pod, container, attempt, image, envs, mounts, node_memory_bytes } = parts;
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let value = |name: &str| envs.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|text| env::expand(text, value)).collect()
    };
    let mut labels = pod_labels(pod);
    labels.insert(LABEL_CONTAINER_NAME.to_owned(), container.name.clone());
    Ok(ContainerSpec {
        name: container.name.clone(),
        attempt,
        image: if image.id.is_empty() {
            container.image.clone().unwrap_or_default()
        } else {
            image.id.clone()
        },
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts,
        labels,
        annotations: annotations(pod, container, attempt, image),
        log_path: PodDirs::log_path(&container.name, attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        resources: cgroup::resources(spec, container, node_memory_bytes),
        security: security(pod, spec, container, image)?,
        envs,
    })
}

fn annotations(pod: &Pod, container: &Container, attempt: u32, image: &Image) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([
        (ANNOTATION_RESTART_COUNT.to_owned(), attempt.to_string()),
        (ANNOTATION_HASH.to_owned(), hash(container)),
        (ANNOTATION_GRACE.to_owned(), grace_s(pod).to_string()),
        (ANNOTATION_STOP_SIGNAL.to_owned(), stop_signal(container, image)),
    ]);
    if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
        all.insert(ANNOTATION_PRE_STOP.to_owned(), serde_json::to_string(hook).unwrap_or_default());
        all.insert(ANNOTATION_PORTS.to_owned(), serde_json::to_string(&container.ports).unwrap_or_default());
    }
    all
}

/// The signal that stops the container: its own, its image's, or SIGTERM.
#[must_use]
pub fn stop_signal(container: &Container, image: &Image) -> String {
    let own = container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref());
    own.or(Some(image.stop_signal.as_str())).filter(|s| !s.is_empty()).unwrap_or("SIGTERM").to_owned()
}

fn security(
    pod: &Pod,
    spec: &PodSpec,
    container: &Container,
    image: &Image,
) -> Result<Security, ConfigError> {
    let of_pod = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let user = own.and_then(|s| s.run_as_user).or(of_pod.and_then(|s| s.run_as_user));
    let non_root = own.and_then(|s| s.run_as_non_root).or(of_pod.and_then(|s| s.run_as_non_root));
    let pod_name = || {
        format!(
            "{}_{}({})",
            meta::split_key(&meta::key(&pod.metadata)).1,
            pod.metadata.namespace.as_deref().unwrap_or_default(),
            pod.metadata.uid.as_deref().unwrap_or_default()
        )
    };
    if non_root == Some(true) {
        let name = &container.name;
        if user == Some(0) {
            return Err(ConfigError::Security(format!(
                "container's runAsUser breaks non-root policy (pod: {:?}, container: {name})",
                pod_name()
            )));
        }
        if user.is_none() && image.uid.unwrap_or(0) == 0 {
            return Err(ConfigError::Security(format!(
                "container has runAsNonRoot and image will run as root (pod: {:?}, container: {name})",
                pod_name()
            )));
        }
    }
    let capabilities = own.and_then(|s| s.capabilities.as_ref());
    let list = |l: Option<&Vec<String>>| l.cloned().unwrap_or_default();
    Ok(Security {
        privileged: own.and_then(|s| s.privileged) == Some(true),
        readonly_rootfs: own.and_then(|s| s.read_only_root_filesystem) == Some(true),
        run_as_user: user,
        run_as_group: own.and_then(|s| s.run_as_group).or(of_pod.and_then(|s| s.run_as_group)),
        no_new_privs: own.and_then(|s| s.allow_privilege_escalation) == Some(false),
        add_capabilities: list(capabilities.and_then(|c| c.add.as_ref())),
        drop_capabilities: list(capabilities.and_then(|c| c.drop.as_ref())),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a": "b"}},
            "spec": {"terminationGracePeriodSeconds": 7, "securityContext": {"runAsNonRoot": true},
            "containers": [{"name": "c", "image": "i", "args": ["-x=$(A)"],
                "ports": [{"containerPort": 80, "hostPort": 8080}],
                "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}]}}),
        )
        .unwrap()
    }

    fn spec_with(pod: &Pod, image: &Image) -> Result<ContainerSpec, ConfigError> {
        container_spec(Parts {
            pod,
            container: &pod.spec.as_ref().unwrap().containers[0],
            attempt: 3,
            image,
            envs: vec![("A".into(), "1".into())],
            mounts: vec![],
            node_memory_bytes: 1 << 30,
        })
    }

    #[test]
    fn what_a_new_kubelet_needs_is_on_the_container() {
        let image = Image { uid: Some(5), stop_signal: "SIGQUIT".into(), ..Image::default() };
        let c = spec_with(&pod(), &image).unwrap();
        assert_eq!(c.args, ["-x=1"]);
        assert_eq!(c.log_path, "c/3.log");
        assert_eq!(c.labels[LABEL_POD_UID], "u");
        assert_eq!(
            (c.annotations[ANNOTATION_STOP_SIGNAL].as_str(), c.annotations[ANNOTATION_GRACE].as_str()),
            ("SIGQUIT", "7")
        );
        assert_eq!(c.annotations[ANNOTATION_PRE_STOP], r#"{"sleep":{"seconds":1}}"#);
    }

    #[test]
    fn root_is_refused_where_it_is_forbidden() {
        let error = spec_with(&pod(), &Image::default()).unwrap_err().to_string();
        assert_eq!(
            error,
            "container has runAsNonRoot and image will run as root (pod: \"p_ns(u)\", container: c)"
        );
    }

    #[test]
    fn host_ports_lead_to_the_pod() {
        let options = Options::new("n", [127, 0, 0, 1].into(), "/r");
        let dirs = PodDirs::new(&options.root_dir, "ns", "p", "u");
        let s = sandbox(&pod(), &options, &dirs, 1);
        assert_eq!(
            (s.port_mappings[0].host_port, s.hostname.as_str(), s.log_directory.as_str()),
            (8080, "p", "/r/logs/ns_p_u")
        );
    }
}
