//! A machine to try things on, and short words for what the tests do on it.

use std::{
    future::Future,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use hitless_drivers::{
    cri::Containerd,
    node::{
        self, Node,
        cgroup::Cgroups,
        clean,
        import::{self, Archive},
        netns,
        plan::{ClusterPlan, NodePlan, Paths},
        programs::Programs,
        slots,
    },
};
use hitless_kubelet::ports::{ContainerSpec, Runtime, SandboxSpec};

/// A bound for what is quick when nothing else runs; the machine may be busy.
pub const SOON: Duration = Duration::from_secs(30);

/// Everything that a test may use. Dropping it takes the cluster away.
pub struct Lab {
    pub name: String,
    pub paths: Paths,
    pub programs: Programs,
    pub cgroups: Cgroups,
    machine: String,
    _directory: tempfile::TempDir,
}

/// Runs the test in a network namespace of its own.
pub fn on_a_machine<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Arc<Lab>) -> F + Send) {
    // Other runs of this same test may be under way on this machine.
    let name = format!("t{}-{name}", std::process::id());
    let directory = tempfile::tempdir().unwrap();
    let paths = Paths { run: directory.path().join("run"), data: directory.path().join("data") };
    let machine = format!("test-machine-{name}");
    let lab = Lab {
        name,
        paths,
        programs: Programs::find().unwrap(),
        cgroups: Cgroups::detect().unwrap(),
        machine: machine.clone(),
        _directory: directory,
    };
    netns::create(&machine).unwrap();
    let ended = netns::inside(&machine, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let lab = Arc::new(lab);
        // Kept until after the test, so that the cluster is taken away from within the machine's namespace.
        let ended =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(test(lab.clone()))));
        drop(runtime);
        assert_eq!(Arc::strong_count(&lab), 1, "the test has kept the lab");
        drop(lab);
        ended
    });
    if let Err(panic) = ended.unwrap() {
        std::panic::resume_unwind(panic);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let report = runtime.block_on(clean::sweep(&self.name, &self.paths)).unwrap();
        netns::delete(&self.machine).unwrap();
        if !report.left.is_empty() {
            eprintln!("left of {}: {:?}", self.name, report.left);
        }
    }
}

impl Lab {
    /// A cluster of so many nodes, with the project's images.
    pub async fn cluster(&self, nodes: u8) -> (ClusterPlan, Vec<Node>) {
        let plan = slots::claim(&self.name, nodes, None, &self.paths).await.unwrap();
        node::prepare(&plan, &self.programs, &self.cgroups).await.unwrap();
        let all = plan.nodes.iter().map(|node| async {
            let up = node::bring_up(node, &self.programs, &self.cgroups).await.unwrap();
            self.import(&up).await;
            up
        });
        let nodes = futures::future::join_all(all).await;
        (plan, nodes)
    }

    pub async fn import(&self, node: &Node) -> usize {
        let archives = hitless_images::archives().unwrap();
        let archives: Vec<_> = archives
            .iter()
            .map(|archive| Archive { reference: archive.reference, id: &archive.id, tar: &archive.tar })
            .collect();
        import::import(&node.plan, &self.programs, &node.runtime, &archives).await.unwrap()
    }

    /// What is left of the cluster must be nothing.
    pub async fn assert_clean(&self) {
        let left = clean::survey(&self.name, &self.paths).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(slots::of_cluster(&self.name, &self.paths).unwrap(), None);
    }
}

/// A Pod with one container that runs the project's server.
pub struct Pod {
    pub sandbox: String,
    pub container: String,
    pub ip: IpAddr,
    pub log: PathBuf,
}

pub fn sandbox_spec(node: &NodePlan, name: &str) -> SandboxSpec {
    SandboxSpec {
        name: name.into(),
        namespace: "default".into(),
        uid: format!("uid-{name}"),
        hostname: name.into(),
        log_directory: node.data_dir.join("logs").join(name).display().to_string(),
        cgroup_parent: node.pods_cgroup.child(&format!("pod-{name}")).as_str().into(),
        ..SandboxSpec::default()
    }
}

pub fn web_spec(args: &[&str]) -> ContainerSpec {
    ContainerSpec {
        name: "web".into(),
        image: hitless_images::WEB.into(),
        args: args.iter().map(ToString::to_string).collect(),
        log_path: "web.log".into(),
        envs: vec![("COLOUR".into(), "green".into())],
        ..ContainerSpec::default()
    }
}

pub async fn run_pod(node: &Node, spec: SandboxSpec, container: &ContainerSpec) -> Pod {
    let runtime = &node.runtime;
    std::fs::create_dir_all(&spec.log_directory).unwrap();
    let sandbox = runtime.run_sandbox(&spec).await.unwrap();
    let ip = runtime.sandbox_status(&sandbox).await.unwrap().ips.first().map(|ip| ip.parse().unwrap());
    let container_id = runtime.create_container(&sandbox, container, &spec).await.unwrap();
    runtime.start_container(&container_id).await.unwrap();
    Pod {
        sandbox,
        container: container_id,
        ip: ip.unwrap_or(node.plan.address.into()),
        log: PathBuf::from(&spec.log_directory).join("web.log"),
    }
}

/// Ends and removes a Pod, each step twice: again is no error.
pub async fn remove_pod(runtime: &Containerd, pod: &Pod) {
    for _ in 0..2 {
        runtime.kill_container(&pod.container).await.unwrap();
        runtime.remove_container(&pod.container).await.unwrap();
        runtime.stop_sandbox(&pod.sandbox).await.unwrap();
        runtime.remove_sandbox(&pod.sandbox).await.unwrap();
    }
}

/// The answer's first line, from within the network namespace (or from the machine's own), as soon as there is one.
pub fn get(from: Option<&str>, to: SocketAddr) -> String {
    let end = Instant::now() + SOON;
    let attempt = || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer.lines().next().unwrap_or_default().to_owned())
    };
    loop {
        let answer = match from {
            Some(namespace) => netns::inside(namespace, attempt).unwrap(),
            None => attempt(),
        };
        match answer {
            Ok(line) => return line,
            Err(error) => assert!(Instant::now() < end, "{to} does not answer: {error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `attempt` gives something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
