//! A cluster on this machine: the order in which its parts start and stop.
//!
//! Nodes and containers that run already, because their engine died, are taken over (`takeover`) and not started again.
//!
//! What must hold: nothing is begun before everything that can be checked has been; whatever a start has
//! made is taken away when a later step fails; a stop leaves nothing but the data directory.

mod agents;
pub mod checks;
mod claim;
mod files;
mod parts;
mod takeover;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use hitless_drivers::node::{
    self, Node,
    cgroup::Cgroups,
    clean,
    plan::{ClusterPlan, Paths},
    process::Identity,
    programs::Programs,
    slots,
};
use tokio::time::Instant;

use crate::{
    cli::{IngressPorts, Up},
    fault::Fault,
    steps::{Steps, shown},
};

pub use agents::AgentConfig;
pub use claim::Claim;
pub use files::{Files, RUN_DIR, forget_objects};
pub use parts::archive;

/// How long both nodes may take to be Ready.
const READY_BOUND: Duration = Duration::from_secs(60);

/// What to start.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The cluster's name.
    pub name: String,
    /// How many nodes.
    pub nodes: u8,
    /// Port of the API server on 127.0.0.1; 0: a free one.
    pub port: u16,
    /// Where files are.
    pub paths: Paths,
    /// Whether stop signals wait for the consumers.
    pub loop_on: bool,
    /// Where each node's ingress listens.
    pub ingress_ports: IngressPorts,
}

impl From<&Up> for Wanted {
    fn from(up: &Up) -> Self {
        Self {
            name: up.which.name.clone(),
            nodes: up.nodes,
            port: up.port,
            paths: paths(&up.which.data_dir),
            loop_on: up.loop_ == crate::cli::Loop::On,
            ingress_ports: up.ingress_ports,
        }
    }
}

/// Where clusters with this data directory keep their files.
pub fn paths(data_dir: &std::path::Path) -> Paths {
    Paths { run: RUN_DIR.into(), data: data_dir.to_owned() }
}

/// A cluster that runs. Dropping it leaves nodes and containers running; [`Cluster::stop`] ends them.
pub struct Cluster {
    /// As it was laid out.
    pub plan: ClusterPlan,
    /// Who may do everything.
    pub client: kube::Client,
    /// kubeconfig of the administrator.
    pub kubeconfig: PathBuf,
    /// From the start to all nodes Ready.
    pub took: Duration,
    paths: Paths,
    nodes: Vec<Node>,
    agents: agents::Agents,
    control: parts::Control,
    claim: Claim,
}

impl Cluster {
    /// Starts a cluster and waits until all its nodes are Ready. What an earlier one of this name has left running is taken over
    /// if it is laid out alike, and taken away before if it is not. The claim on the name is kept until the cluster has been stopped.
    pub async fn start(wanted: &Wanted, claim: Claim, steps: &dyn Steps) -> Result<Self> {
        let began = Instant::now();
        checks::root()?;
        checks::name(&wanted.name)?;
        let programs = Programs::find().map_err(|missing| Fault::refused(missing.to_string(), ""))?;
        checks::not_running(&wanted.name, &wanted.paths).await?;
        let running = takeover::find(wanted);
        let listener = checks::port(running.as_ref().map_or(wanted.port, |r| r.port)).await?;
        checks::data_dir(&wanted.paths.data_of(&wanted.name))?;
        match &running {
            Some(_) => steps.done("what the last engine left running is taken over", began.elapsed()),
            None => sweep_leftovers(wanted).await?,
        }
        let data_dir = wanted.paths.data_of(&wanted.name);
        // Addresses stand in the store, so a cluster that has one keeps its slot.
        let plan = slots::claim(&wanted.name, wanted.nodes, files::last_slot(&data_dir), &wanted.paths)
            .await
            .map_err(|error| Fault::refused(hitless_base::chain(&error), ""))?;
        match Self::start_parts(wanted, claim, plan, listener, &programs, began, steps).await {
            Ok(cluster) => Ok(cluster),
            // Containers that served before this attempt go on; another attempt, or `hitless down`, finds them.
            Err(error) if running.is_some() => Err(error),
            Err(error) => {
                // Nothing half-started stays behind.
                let report = clean::sweep(&wanted.name, &wanted.paths).await;
                if let Some(left) = report.ok().map(|r| r.left).filter(|left| !left.is_empty()) {
                    tracing::error!(left = left.join("; "), "could not be taken away");
                }
                Err(error)
            }
        }
    }

    async fn start_parts(
        wanted: &Wanted,
        claim: Claim,
        plan: ClusterPlan,
        listener: tokio::net::TcpListener,
        programs: &Programs,
        began: Instant,
        steps: &dyn Steps,
    ) -> Result<Self> {
        let files = Files::of(&plan);
        let cgroups = Cgroups::detect().context("cgroups cannot be used on this machine")?;
        node::prepare(&plan, programs, &cgroups).await?;
        files.write_identity()?;
        files.write_slot(plan.slot)?;
        steps.done(&format!("network {} for {} nodes", plan.link_net, plan.nodes.len()), began.elapsed());

        let port = listener.local_addr()?.port();
        let (control, nodes) = tokio::try_join!(
            parts::Control::start(&plan, &files, wanted.loop_on, listener, steps),
            bring_up_all(&plan, programs, &cgroups, steps),
        )?;
        let api = SocketAddr::new(plan.machine_address.into(), port);
        let told = agents::Told { api, loop_on: wanted.loop_on, ingress_ports: wanted.ingress_ports.0 };
        let agents = agents::Agents::start(&plan, &files, control.ca(), told, &cgroups)?;
        let waited = Instant::now();
        tokio::time::timeout(READY_BOUND, parts::all_ready(&control.client, &plan)).await.map_err(
            |_| {
                let logs = plan.run_dir.join("node-*/agent.log");
                Fault::failed(
                    format!("the nodes were not Ready within {}", shown(READY_BOUND)),
                    format!("see the agents' logs in {}", logs.display()),
                )
            },
        )??;
        steps.done("nodes Ready", waited.elapsed());
        takeover::note(wanted, &files, port)?;
        let kubeconfig = files.kubeconfig();
        Ok(Self {
            client: control.client.clone(),
            kubeconfig,
            took: began.elapsed(),
            paths: wanted.paths.clone(),
            plan,
            nodes,
            agents,
            control,
            claim,
        })
    }

    /// Ends the cluster: Pods are stopped within `grace`, then everything else; only the data directory stays.
    pub async fn stop(self, grace: Duration, steps: &dyn Steps) -> Result<()> {
        let began = Instant::now();
        self.agents.stop(grace).await;
        steps.done("Pods and node agents stopped", began.elapsed());
        let began = Instant::now();
        for node in self.nodes {
            if let Err(error) = node.containerd.stop().await {
                tracing::warn!(error = %hitless_base::chain(&error), "containerd does not end by itself");
            }
        }
        self.control.stop().await;
        steps.done("control plane stopped", began.elapsed());
        let began = Instant::now();
        let report = clean::sweep(&self.plan.name, &self.paths).await?;
        drop(self.claim);
        steps.done("network, mounts and cgroups taken away", began.elapsed());
        if report.left.is_empty() {
            return Ok(());
        }
        Err(Fault::failed(report.left.join("\n"), "`hitless down` once more may succeed").into())
    }
}

/// Takes away what an earlier cluster of this name has left.
async fn sweep_leftovers(wanted: &Wanted) -> Result<()> {
    let left =
        clean::sweep(&wanted.name, &wanted.paths).await.map_err(|e| Fault::refused(e.to_string(), ""))?;
    if left.left.is_empty() {
        return Ok(());
    }
    let hint = "these leftovers of an earlier cluster could not be taken away";
    Err(Fault::failed(left.left.join("\n"), hint).into())
}

async fn bring_up_all(
    plan: &ClusterPlan,
    programs: &Programs,
    cgroups: &Cgroups,
    steps: &dyn Steps,
) -> Result<Vec<Node>> {
    let images = tokio::task::spawn_blocking(hitless_images::archives).await??;
    let images: Arc<[_]> = images.into();
    futures::future::try_join_all(plan.nodes.iter().map(|node| {
        let images = images.clone();
        async move {
            let up = node::bring_up(node, programs, cgroups).await?;
            steps.done(
                &format!("{}: containerd ready at {}", node.name, node.address),
                up.took.network + up.took.containerd,
            );
            let began = Instant::now();
            let archives: Vec<_> = images.iter().map(parts::archive).collect();
            let imported = node::import::import(node, programs, &up.runtime, &archives).await?;
            if imported > 0 {
                steps.done(&format!("{}: {imported} images imported", node.name), began.elapsed());
            }
            anyhow::Ok(up)
        }
    }))
    .await
}

/// How a cluster that runs, and is ready, is laid out.
pub fn plan_of_running(name: &str, paths: &Paths) -> Result<Option<ClusterPlan>> {
    let slot = files::last_slot(&paths.data_of(name));
    let (Some(_), Some(nodes), Some(slot)) = (engine_of(name, paths), takeover::nodes(name, paths), slot)
    else {
        return Ok(None);
    };
    Ok(Some(ClusterPlan::new(name, slot, nodes, paths)?))
}

/// The engine of a cluster, if one runs.
pub fn engine_of(name: &str, paths: &Paths) -> Option<Identity> {
    Identity::load(&files::identity(&paths.run_of(name))).filter(Identity::is_alive)
}
