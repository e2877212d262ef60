//! What a Pod costs before Kubernetes comes into it: its sandbox and its container, straight from containerd. For benchmarks.

use hitless_kubelet::ports::{ContainerSpec, Runtime, RuntimeError, SandboxSpec};

use super::Node;

/// A Pod that no API knows.
#[derive(Clone, Debug)]
pub struct BarePod {
    /// Its sandbox.
    pub sandbox: String,
    /// Its only container.
    pub container: String,
}

impl BarePod {
    /// Makes the sandbox and starts the container: a web server of the image, as Pods of benchmarks run it. `index` tells it from others.
    pub async fn start(node: &Node, image: &str, index: usize) -> Result<Self, RuntimeError> {
        let (spec, container) = specs(node, image, index);
        let sandbox = node.runtime.run_sandbox(&spec).await?;
        let container = node.runtime.create_container(&sandbox, &container, &spec).await?;
        node.runtime.start_container(&container).await?;
        Ok(Self { sandbox, container })
    }

    /// Takes it away, running or not.
    pub async fn remove(&self, node: &Node) -> Result<(), RuntimeError> {
        node.runtime.stop_sandbox(&self.sandbox).await?;
        node.runtime.remove_container(&self.container).await?;
        node.runtime.remove_sandbox(&self.sandbox).await
    }
}

/// What the kubelet would ask for. The directory of its logs is made.
pub fn specs(node: &Node, image: &str, index: usize) -> (SandboxSpec, ContainerSpec) {
    let name = format!("pod-{index}");
    let logs = node.plan.data_dir.join("logs").join(&name);
    // Without it the runtime refuses the sandbox, and says so.
    let _told_by_the_runtime = std::fs::create_dir_all(&logs);
    let sandbox = SandboxSpec {
        uid: format!("uid-{index}"),
        namespace: "default".into(),
        hostname: name.clone(),
        log_directory: logs.display().to_string(),
        cgroup_parent: node.plan.pods_cgroup.child(&name).as_str().into(),
        name,
        ..SandboxSpec::default()
    };
    let container = ContainerSpec {
        name: "web".into(),
        image: image.into(),
        args: vec!["serve".into()],
        log_path: "web.log".into(),
        ..ContainerSpec::default()
    };
    (sandbox, container)
}
