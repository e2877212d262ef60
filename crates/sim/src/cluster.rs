//! A cluster of the product's own parts over simulated ports: an engine (API server, controllers, scheduler), and nodes (kubelet,
//! service proxy). Each process can be killed and started again; disk, kernels and containers outlive them.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hitless_apiserver::{ApiServer, Identity};
use hitless_base::SystemClock;
use hitless_controllers::context;
use hitless_dataplane::{Kernel, proxy};
use hitless_kubelet::{Capacity, Options};
use kube::Client;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    disk::Disk,
    kernel::SimKernel,
    runtime::SimRuntime,
    wire::{self, Address, Link},
    world::{Fact, World},
};

/// The engine's processes, while they run.
struct Engine {
    tasks: TaskTracker,
    cancel: CancellationToken,
    link: Arc<Link>,
}

/// A process of a node: its task, its link to the API, and what cuts its other connections.
struct Process {
    task: JoinHandle<()>,
    link: Arc<Link>,
    cut: Arc<AtomicBool>,
}

impl Process {
    /// As SIGKILL does: from now on it does nothing any more, also not in what it had started beside itself.
    fn kill(self) {
        self.cut.store(true, Ordering::Relaxed);
        self.link.killed.cancel();
        self.task.abort();
    }
}

/// One node.
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its container runtime.
    pub runtime: SimRuntime,
    /// Its kernel.
    pub kernel: SimKernel,
    number: u8,
    kubelet: Option<Process>,
    proxy: Option<Process>,
}

/// The cluster.
pub struct Cluster {
    /// What all parts share.
    pub world: World,
    /// The store's disk.
    pub disk: Disk,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The cluster's user.
    pub admin: Client,
    /// Held by whoever of the user's orders to a proxy is under way.
    pub orders: Arc<tokio::sync::Mutex<()>>,
    /// Where the API server is.
    pub address: Address,
    engine: Option<Engine>,
    loop_on: bool,
    root: tempfile::TempDir,
}

impl Cluster {
    /// A cluster of so many nodes; nothing runs yet.
    ///
    /// # Errors
    /// There is no place for its files.
    pub fn new(world: &World, nodes: u8, loop_on: bool) -> std::io::Result<Self> {
        let address = Address::default();
        let admin =
            wire::client(world, &address, &Link::new(1), "kubectl", Identity::master("kubernetes-admin"));
        let node = |number: u8| {
            let name = format!("node-{number}");
            Node {
                runtime: SimRuntime::new(&name, &format!("10.42.{number}."), world.clone()),
                kernel: SimKernel::new(&name, world.clone()),
                name,
                number,
                kubelet: None,
                proxy: None,
            }
        };
        Ok(Self {
            world: world.clone(),
            disk: Disk::new(world.clone()),
            nodes: (1..=nodes).map(node).collect(),
            admin,
            orders: Arc::default(),
            address,
            engine: None,
            loop_on,
            root: tempfile::tempdir()?,
        })
    }

    /// Starts the engine over what the disk holds.
    ///
    /// # Errors
    /// The API server does not start.
    pub async fn start_engine(&mut self) -> anyhow::Result<()> {
        let options = hitless_apiserver::Options { loop_on: self.loop_on, ..Default::default() };
        let server = ApiServer::new(Arc::new(self.disk.clone()), options).await?;
        self.address.serve(server);
        let link = Link::new(0);
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let client = |name: &str| {
            wire::client(
                &self.world,
                &self.address,
                &link,
                name,
                Identity::master(&format!("system:kube-{name}")),
            )
        };
        let options = context::Options { loop_on: self.loop_on, ..context::Options::default() };
        hitless_controllers::start(&client("controller-manager"), options, &tasks, &cancel);
        let (scheduler, ends) = (client("scheduler"), cancel.clone());
        tasks.spawn(async move { hitless_scheduler::run(scheduler, Arc::new(SystemClock), ends).await });
        self.engine = Some(Engine { tasks, cancel, link });
        Ok(())
    }

    /// Kills the engine: API server, controllers and scheduler are one process.
    pub async fn kill_engine(&mut self) {
        self.address.kill();
        if let Some(engine) = self.engine.take() {
            engine.link.killed.cancel();
            engine.cancel.cancel();
            engine.tasks.close();
            engine.tasks.wait().await;
        }
    }

    /// The link of controllers and scheduler to the API.
    #[must_use]
    pub fn control_link(&self) -> Option<&Arc<Link>> {
        self.engine.as_ref().map(|engine| &engine.link)
    }

    /// Starts a node's kubelet.
    pub fn start_kubelet(&mut self, at: usize) {
        let Some(node) = self.nodes.get_mut(at) else { return };
        let link = Link::new(2);
        let identity =
            Identity::new(&format!("system:node:{}", node.name), &["system:nodes", "system:authenticated"]);
        let client =
            wire::client(&self.world, &self.address, &link, &format!("kubelet-{}", node.number), identity);
        let connected = node.runtime.connect();
        let cut = connected.cutter();
        let options = options(node, self.root.path(), self.loop_on);
        let runs = hitless_kubelet::run(
            client,
            Arc::new(connected),
            options,
            Arc::new(SystemClock),
            CancellationToken::new(),
        );
        let world = self.world.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = runs.await {
                world.violated(format!("a kubelet ended: {}", hitless_base::chain(&error)));
            }
        });
        node.kubelet = Some(Process { task, link, cut });
    }

    /// Kills a node's kubelet. Its containers run on.
    pub fn kill_kubelet(&mut self, at: usize) {
        if let Some(process) = self.nodes.get_mut(at).and_then(|node| node.kubelet.take()) {
            process.kill();
        }
    }

    /// Starts a node's service proxy.
    pub fn start_proxy(&mut self, at: usize) {
        let Some(node) = self.nodes.get_mut(at) else { return };
        let link = Link::new(2);
        let identity =
            Identity::new(&format!("system:node:{}", node.name), &["system:nodes", "system:authenticated"]);
        let client =
            wire::client(&self.world, &self.address, &link, &format!("proxy-{}", node.number), identity);
        let kernel: Arc<dyn Kernel> = Arc::new(node.kernel.clone());
        let runs =
            proxy::run(client, node.name.clone(), kernel, Arc::new(SystemClock), CancellationToken::new());
        let world = self.world.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = runs.await {
                world.violated(format!("a service proxy ended: {}", hitless_base::chain(&error)));
            }
        });
        node.proxy = Some(Process { task, link, cut: Arc::default() });
        self.world.tell(&Fact::Consumer { node: node.name.clone(), runs: true });
    }

    /// Kills a node's service proxy. Its kernel routes on.
    pub fn kill_proxy(&mut self, at: usize) {
        let Some(node) = self.nodes.get_mut(at) else { return };
        if let Some(process) = node.proxy.take() {
            process.kill();
            self.world.tell(&Fact::Consumer { node: node.name.clone(), runs: false });
        }
    }

    /// Whether stop signals wait for consumers.
    #[must_use]
    pub fn loop_is_on(&self) -> bool {
        self.loop_on
    }

    /// The links of a node's kubelet and service proxy.
    #[must_use]
    pub fn links(&self, at: usize) -> Vec<Arc<Link>> {
        let node = self.nodes.get(at);
        let processes = node.into_iter().flat_map(|node| [&node.kubelet, &node.proxy]);
        processes.flatten().map(|process| process.link.clone()).collect()
    }
}

fn options(node: &Node, root: &Path, loop_on: bool) -> Options {
    let mut options = Options::new(&node.name, [192, 168, 0, node.number].into(), root.join(&node.name));
    options.loop_on = loop_on;
    options.cgroup_fs = root.join("cgroup");
    options.pod_cidr = Some(format!("10.42.{}.0/24", node.number));
    options.capacity = Some(Capacity {
        cpu_milli: 4000,
        memory_bytes: 8 << 30,
        pods: 110,
        ephemeral_storage_bytes: 100 << 30,
    });
    options
}
