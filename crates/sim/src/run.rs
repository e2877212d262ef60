//! One run: the plan of a seed, carried out on a cluster of the product's own parts, on virtual time.

use std::{fmt, sync::Arc, sync::atomic::Ordering, time::Duration};

use hitless_dataplane::proxy;
use hitless_store::Store;
use hitless_types::EndpointConsumer;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod, Service},
};
use kube::{
    Api, Client,
    api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    cluster::Cluster,
    kernel, machine,
    plan::{Act, Fault, Plan},
    wire,
    world::{Fact, Record, World},
};

/// The longest that the cluster may take to come to rest when nothing is wrong any more.
const REST: Duration = Duration::from_secs(240);
/// How long parts that failed may pause before they try again.
const RECOVERY: Duration = Duration::from_secs(10);
/// Between two looks at whether it rests.
const LOOK: Duration = Duration::from_millis(500);
/// What comes to rest must still do so after this.
const STILL: Duration = Duration::from_secs(3);

/// Something wrong on purpose, so that the checkers must find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sabotage {
    /// Kernels say that they have taken a change 300 ms before they do: their watermarks are lies.
    LyingKernels,
    /// Stop signals wait for nobody, as in plain Kubernetes.
    NoLoop,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was planned.
    pub plan: Plan,
    /// What happened.
    pub record: Record,
    /// Virtual time that went by.
    pub took: Duration,
    /// Processor time that it cost: the one thing here that no seed decides.
    pub cpu: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { journal, hash, violations, signals } = &self.record;
        let (lines, seconds, faults) = (journal.len(), self.took.as_secs(), self.plan.faults.len());
        let broken = violations.len();
        write!(
            f,
            "journal {hash:016x}, {lines} lines, {seconds} s of virtual time, {faults} faults, {signals} stop signals, {broken} violations"
        )
    }
}

/// Runs a seed, once in the life of this program: what a program keeps for its whole life (tables, counters) is part of what happens.
///
/// # Errors
/// The runtime or the cluster's directory cannot be made.
pub fn run(seed: u64, sabotage: Option<Sabotage>) -> anyhow::Result<Outcome> {
    // A thread of its own: hash maps draw their keys once for each thread, and this one may have drawn them before.
    let thread = std::thread::Builder::new().name("simulation".to_owned());
    let running = thread.spawn(move || simulate(seed, sabotage))?;
    running.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the simulation itself panicked")))
}

fn simulate(seed: u64, sabotage: Option<Sabotage>) -> anyhow::Result<Outcome> {
    machine::begin(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async move {
        machine::follow_tokio();
        let world = World::new(seed);
        tell_panics(&world);
        let plan = Plan::of(seed);
        let mut cluster = Cluster::new(&world, plan.nodes, sabotage != Some(Sabotage::NoLoop))?;
        let mut run = Run { plan: plan.clone(), world: world.clone(), acts: JoinSet::new() };
        if !plan.events {
            cluster.address.lose_events();
        }
        if sabotage == Some(Sabotage::LyingKernels) {
            let fault = kernel::Fault { lies_ms: 300, ..kernel::Fault::default() };
            cluster.nodes.iter().for_each(|node| node.kernel.set_fault(fault));
        }
        run.whole(&mut cluster).await?;
        let took = machine::elapsed();
        let outcome = Outcome { plan, record: world.close(), took, cpu: machine::cpu_time() };
        machine::end();
        Ok(outcome)
    })
}

/// A panic in one task ends that task alone, and would go unseen.
fn tell_panics(world: &World) {
    let world = world.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        eprintln!("panic at {place}: {:?}", panic.payload_as_str());
        world.violated(format!("a panic at {place}"));
    }));
}

/// A step of the timeline.
enum Event {
    Act(Act),
    Begin(Fault),
    End(Fault),
    Join,
}

struct Run {
    plan: Plan,
    world: World,
    acts: JoinSet<()>,
}

impl Run {
    async fn whole(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        cluster.start_engine().await?;
        let late = usize::from(self.plan.late_node.is_some());
        for at in 0..cluster.nodes.len().saturating_sub(late) {
            cluster.start_kubelet(at);
            cluster.start_proxy(at);
        }
        self.world.tell(&Fact::Act { what: "create".to_owned(), costs: 0 });
        create(cluster, &self.plan).await;
        self.rests(cluster, "the workload").await;
        self.timeline(cluster).await?;
        while self.acts.join_next().await.is_some() {}
        if !self.plan.faults.is_empty() {
            // Clients that failed come back after a pause of their own; before that all may look at rest.
            tokio::time::sleep(RECOVERY).await;
        }
        self.rests(cluster, "what was asked for").await;
        self.world.end();
        self.world.tell(&Fact::Act { what: "end".to_owned(), costs: 0 });
        let deployments: Api<Deployment> = Api::default_namespaced(cluster.admin.clone());
        let params = DeleteParams::default();
        let _answer = insist(|| deployments.delete("web", &params)).await;
        self.rests(cluster, "the workload's end").await;
        self.world.end();
        if let Some(node) = cluster.nodes.iter().find(|node| !node.runtime.is_empty()) {
            self.world.violated(format!("{} keeps containers that nobody wants", node.name));
        }
        Ok(())
    }

    async fn timeline(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let mut events: Vec<(u64, Event)> = Vec::new();
        events.extend(self.plan.acts.iter().map(|(at, act)| (*at, Event::Act(act.clone()))));
        // A fault of a node begins when the node is there.
        events.extend(self.plan.late_node.map(|at| (at, Event::Join)));
        let joined = self.plan.late_node.unwrap_or(0);
        for (from, to, fault) in &self.plan.faults {
            let (from, to) = (&(from + joined), &(to + joined));
            events.push((*from, Event::Begin(fault.clone())));
            events.push((*to, Event::End(fault.clone())));
        }
        events.sort_by_key(|(at, _)| *at);
        let start = tokio::time::Instant::now();
        for (at, event) in events {
            tokio::time::sleep_until(start + Duration::from_millis(at)).await;
            match event {
                Event::Act(act) => self.act(cluster, act),
                Event::Join => {
                    let last = cluster.nodes.len().saturating_sub(1);
                    cluster.start_kubelet(last);
                    cluster.start_proxy(last);
                }
                Event::Begin(fault) => {
                    self.world.tell(&Fact::Fault { what: format!("{fault:?}"), begins: true });
                    begin(cluster, &fault).await;
                }
                Event::End(fault) => {
                    end(cluster, &fault).await?;
                    self.world.tell(&Fact::Fault { what: format!("{fault:?}"), begins: false });
                }
            }
        }
        Ok(())
    }

    /// The user does not wait for what he did before.
    fn act(&mut self, cluster: &Cluster, act: Act) {
        let costs = match act {
            Act::Delete { .. } | Act::Crash(_) => 1,
            Act::Drain(_) => 10,
            Act::Rollout | Act::Scale(_) => 0,
        };
        self.world.tell(&Fact::Act { what: format!("{act:?}"), costs });
        let client = cluster.admin.clone();
        let patch = match act {
            Act::Crash(which) => {
                let nodes = cluster.nodes.len() as u64;
                if let Some(node) = cluster.nodes.get(usize::try_from(which % nodes).unwrap_or(0)) {
                    node.runtime.crash_one(which / nodes);
                }
                return;
            }
            Act::Delete { which, grace_s } => {
                self.acts.spawn(delete_one(Api::default_namespaced(client), which, grace_s));
                return;
            }
            Act::Drain(node) => {
                if let Some(node) = cluster.nodes.get(node) {
                    self.acts.spawn(drain(client, node.name.clone()));
                }
                return;
            }
            Act::Rollout => {
                let stamp = hitless_base::Timestamp::now().to_string();
                json!({"spec": {"template": {"metadata": {"annotations": {"restarted-at": stamp}}}}})
            }
            Act::Scale(replicas) => json!({"spec": {"replicas": replicas}}),
        };
        self.acts.spawn(async move {
            let deployments: Api<Deployment> = Api::default_namespaced(client);
            let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
            let _answer = insist(|| deployments.patch("web", &params, &patch)).await;
        });
    }

    /// Waits until nothing is under way any more.
    async fn rests(&self, cluster: &Cluster, what: &str) {
        let start = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(why) = unrest(cluster).await else { break };
            if start.elapsed() > REST {
                let seconds = REST.as_secs();
                return self.world.violated(format!("{what} did not come to rest in {seconds} s: {why}"));
            }
        }
        tokio::time::sleep(STILL).await;
        if let Some(why) = unrest(cluster).await {
            self.world.violated(format!("{what} did not stay at rest: {why}"));
        }
    }
}

/// Tries until the API answers, as a user does.
async fn insist<T, F>(call: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = Result<T, kube::Error>>,
{
    for _ in 0..600 {
        match call().await {
            Ok(answer) => return Some(answer),
            // The server's own answer: it is there already, or gone.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return None,
            Err(_) => tokio::time::sleep(wire::AGAIN).await,
        }
    }
    None
}

async fn create(cluster: &Cluster, plan: &Plan) {
    let mut args = vec!["--boot-ms".to_owned(), plan.boot_ms.to_string()];
    args.extend(plan.exit_ms.into_iter().flat_map(|ms| ["--exit-ms".to_owned(), ms.to_string()]));
    let labels = json!({"app": "web"});
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": plan.replicas, "selector": {"matchLabels": labels},
            "strategy": {"rollingUpdate": {"maxSurge": plan.rolling.0, "maxUnavailable": plan.rolling.1}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "terminationGracePeriodSeconds": plan.grace_s,
                    "automountServiceAccountToken": false,
                    "containers": [{
                        "name": "web", "image": "web:1", "args": args, "ports": [{"containerPort": 8080}],
                        "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 1},
                    }],
                },
            },
        },
    });
    let service = |number: usize| {
        json!({
            "metadata": {"name": format!("web-{number}")},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
        })
    };
    let services: Api<Service> = Api::default_namespaced(cluster.admin.clone());
    let deployments: Api<Deployment> = Api::default_namespaced(cluster.admin.clone());
    let params = PostParams::default();
    for service in (1..=plan.services).filter_map(|n| serde_json::from_value(service(n)).ok()) {
        let _made = insist(|| services.create(&params, &service)).await;
    }
    if let Ok(deployment) = serde_json::from_value(deployment) {
        let _made = insist(|| deployments.create(&params, &deployment)).await;
    }
}

async fn delete_one(pods: Api<Pod>, which: u64, grace_s: Option<u32>) {
    let all = ListParams::default();
    let Some(list) = insist(|| pods.list(&all)).await else { return };
    let mut names: Vec<String> = list.items.into_iter().filter_map(|pod| pod.metadata.name).collect();
    names.sort_unstable();
    let at = which.checked_rem(names.len() as u64).and_then(|at| usize::try_from(at).ok());
    let Some(name) = at.and_then(|at| names.get(at)) else { return };
    let params = DeleteParams { grace_period_seconds: grace_s, ..DeleteParams::default() };
    let _answer = insist(|| pods.delete(name, &params)).await;
}

/// As `kubectl drain` and `kubectl uncordon` do.
async fn drain(client: Client, node: String) {
    let (nodes, pods): (Api<Node>, Api<Pod>) = (Api::all(client.clone()), Api::default_namespaced(client));
    let params = PatchParams::default();
    let cordon = |on: bool| Patch::Merge(json!({"spec": {"unschedulable": on}}));
    let (on, off) = (cordon(true), cordon(false));
    let _answer = insist(|| nodes.patch(&node, &params, &on)).await;
    let here = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let evict = EvictParams::default();
    if let Some(list) = insist(|| pods.list(&here)).await {
        for name in list.items.into_iter().filter_map(|pod| pod.metadata.name) {
            let _answer = insist(|| pods.evict(&name, &evict)).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let _answer = insist(|| nodes.patch(&node, &params, &off)).await;
}

/// Makes a node's service proxy lag, or (with none) be as quick as it can.
async fn lag(cluster: &Cluster, node: usize, ms: Option<u64>) {
    let Some(node) = cluster.nodes.get(node) else { return };
    let consumers: Api<EndpointConsumer> = Api::all(cluster.admin.clone());
    let lag = ms.map(|ms| format!("{ms}ms"));
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"hitless.dev/fault-lag": lag}}}));
    let (name, params) = (proxy::consumer_name(&node.name), PatchParams::default());
    // One after another, in the order in which they were asked for: no fault outlives its end. The API may be down for as long as the
    // fault lasts, and the run goes on meanwhile.
    let orders = cluster.orders.clone();
    let patching = tokio::spawn(async move {
        let _turn = orders.lock().await;
        insist(|| consumers.patch(&name, &params, &patch)).await.is_some()
    });
    let _answer = tokio::time::timeout(Duration::from_millis(500), patching).await;
}

async fn begin(cluster: &mut Cluster, fault: &Fault) {
    let kernel = |cluster: &Cluster, at: usize, fault: kernel::Fault| {
        if let Some(node) = cluster.nodes.get(at) {
            node.kernel.set_fault(fault);
        }
    };
    match *fault {
        Fault::SlowKernel { node, ms } => {
            kernel(cluster, node, kernel::Fault { slow_ms: ms, ..kernel::Fault::default() });
        }
        Fault::RefusingKernel { node, percent } => {
            kernel(cluster, node, kernel::Fault { refused_percent: percent, ..kernel::Fault::default() });
        }
        Fault::LaggingProxy { node, ms } => lag(cluster, node, Some(ms)).await,
        Fault::LostControl(permille) => {
            if let Some(link) = cluster.control_link() {
                link.lost_permille.store(permille, Ordering::Relaxed);
            }
        }
        Fault::DeadProxy(node) => cluster.kill_proxy(node),
        Fault::DeadKubelet(node) => cluster.kill_kubelet(node),
        Fault::CutNode(node) => cluster.links(node).iter().for_each(|link| link.set_cut(true)),
        Fault::SlowNode { node, ms } => {
            cluster.links(node).iter().for_each(|link| link.ms_max.store(ms, Ordering::Relaxed));
        }
        Fault::LostAnswers { node, permille } => {
            cluster.links(node).iter().for_each(|link| link.lost_permille.store(permille, Ordering::Relaxed));
        }
        Fault::DeadEngine => cluster.kill_engine().await,
        Fault::SlowDisk(ms) => cluster.disk.be_slow(ms),
        Fault::SlowRuntime { node, ms } => {
            if let Some(node) = cluster.nodes.get(node) {
                node.runtime.be_slow(ms);
            }
        }
    }
}

async fn end(cluster: &mut Cluster, fault: &Fault) -> anyhow::Result<()> {
    match *fault {
        Fault::SlowKernel { node, .. } | Fault::RefusingKernel { node, .. } => {
            if let Some(node) = cluster.nodes.get(node) {
                node.kernel.set_fault(kernel::Fault::default());
            }
        }
        Fault::LaggingProxy { node, .. } => lag(cluster, node, None).await,
        Fault::LostControl(_) => {
            if let Some(link) = cluster.control_link() {
                link.lost_permille.store(0, Ordering::Relaxed);
            }
        }
        Fault::DeadProxy(node) => cluster.start_proxy(node),
        Fault::DeadKubelet(node) => cluster.start_kubelet(node),
        Fault::CutNode(node) => cluster.links(node).iter().for_each(|link| link.set_cut(false)),
        Fault::SlowNode { node, .. } => {
            cluster.links(node).iter().for_each(|link| link.ms_max.store(2, Ordering::Relaxed));
        }
        Fault::LostAnswers { node, .. } => {
            cluster.links(node).iter().for_each(|link| link.lost_permille.store(0, Ordering::Relaxed));
        }
        Fault::DeadEngine => cluster.start_engine().await?,
        Fault::SlowDisk(_) => cluster.disk.be_slow(0),
        Fault::SlowRuntime { node, .. } => {
            if let Some(node) = cluster.nodes.get(node) {
                node.runtime.be_slow(0);
            }
        }
    }
    Ok(())
}

/// What is still under way, read from the disk; `None`: all is as it was asked for.
async fn unrest(cluster: &Cluster) -> Option<String> {
    let objects = async |prefix: &str| -> Vec<Arc<Value>> {
        let listing = cluster.disk.list(prefix, None, None).await;
        let entries = listing.map(|listing| listing.entries).unwrap_or_default();
        entries.iter().filter_map(|e| serde_json::from_slice(&e.value).ok().map(Arc::new)).collect()
    };
    let deployments = objects("/registry/apps/deployments/").await;
    let pods = objects("/registry/core/pods/").await;
    if let Some(pod) = pods.iter().find(|pod| !pod["metadata"]["deletionTimestamp"].is_null()) {
        return Some(format!("{} ends", pod["metadata"]["name"]));
    }
    let Some(deployment) = deployments.first() else {
        return (!pods.is_empty()).then(|| format!("{} Pods without a Deployment", pods.len()));
    };
    let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or_default();
    if pods.len() as u64 != wanted {
        return Some(format!("{} Pods where {wanted} are wanted", pods.len()));
    }
    for type_ in ["Ready", "hitless.dev/Programmed"] {
        let is = |pod: &&Arc<Value>| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|c| c["type"] == type_ && c["status"] == "True")
        };
        let counts = type_ == "Ready" || cluster.loop_is_on();
        if let Some(pod) = pods.iter().find(|pod| counts && !is(pod)) {
            return Some(format!("{} is not {type_}", pod["metadata"]["name"]));
        }
    }
    let status = |field: &str| deployment["status"][field].as_u64().unwrap_or_default();
    if status("observedGeneration") != deployment["metadata"]["generation"].as_u64().unwrap_or_default() {
        return Some("the Deployment was not looked at".to_owned());
    }
    let fields = ["replicas", "updatedReplicas", "availableReplicas"];
    let off = fields.into_iter().find(|field| status(field) != wanted)?;
    Some(format!("the Deployment has {} {off} where {wanted} are wanted", status(off)))
}
