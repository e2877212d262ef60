//! Everything by which a node comes to be on this machine: network namespaces, links, cgroups, containerd, images; and all of it away
//! again.
//!
//! `plan` says how everything is called and addressed, without touching anything. The other modules carry it out, each step so that doing it
//! again is no error; `bring_up` puts them in order. `clean` finds what is left of a cluster by asking the kernel.

pub mod cgroup;
pub mod clean;
pub mod config;
pub mod containerd;
pub mod egress;
pub mod floor;
pub mod import;
pub mod links;
mod machine;
mod mounts;
pub mod netns;
pub mod plan;
pub mod priority;
pub mod process;
pub mod programs;
pub mod slots;

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::cri::Containerd;
use cgroup::{CgroupError, Cgroups};
use containerd::{ContainerdError, Supervisor};
use plan::{ClusterPlan, NodePlan};
use programs::Programs;

/// The share that the engine has of the processors under load, and that all agents have, in multiples of what one node's containerd and
/// Pods get together. More of it made no withdrawal quicker, and let requests wait while Pods were made.
const CONTROL_WEIGHT: u32 = 4;
/// The share that a node's Pods have under load, in multiples of its containerd's: whoever starts a container must not take the processors
/// from those that serve. Kubernetes weighs them alike on a machine of eight processors.
const PODS_WEIGHT: u32 = 8;

/// A cluster or a node could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The network namespace.
    #[error(transparent)]
    Netns(#[from] netns::NetnsError),
    /// Links and routes.
    #[error(transparent)]
    Links(#[from] links::LinksError),
    /// The way out.
    #[error(transparent)]
    Egress(#[from] egress::EgressError),
    /// The container runtime.
    #[error(transparent)]
    Containerd(#[from] ContainerdError),
    /// A directory cannot be made.
    #[error("cannot make the directory {path:?}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A thread of this process failed.
    #[error("a thread failed")]
    Thread(#[from] tokio::task::JoinError),
}

/// A node that is up: containerd and the Pod network are ready.
pub struct Node {
    /// As it was laid out.
    pub plan: NodePlan,
    /// Its container runtime.
    pub runtime: Arc<Containerd>,
    /// Watches its containerd. Dropping it leaves containerd running.
    pub containerd: Supervisor,
    /// What it took.
    pub took: Took,
}

/// Where the time of `bring_up` went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    /// cgroups, namespace, links.
    pub network: Duration,
    /// containerd, from its start to ready.
    pub containerd: Duration,
}

/// Makes what a cluster's nodes share: directories, cgroups, the bridge, the way out. Each node is then brought up by `bring_up`, at the
/// same time if need be. Again is no error.
pub async fn prepare(plan: &ClusterPlan, programs: &Programs, cgroups: &Cgroups) -> Result<(), NodeError> {
    make_directories([&plan.run_dir, &plan.data_dir])?;
    // Neither the engine nor an agent must wait for a processor behind the containers that are started meanwhile, so they share no branch of
    // the tree with them: what those have used up would count against it.
    for group in [&plan.engine_cgroup, &plan.agents_cgroup] {
        cgroups.create(group)?;
        cgroups.prefer(group, CONTROL_WEIGHT)?;
    }
    cgroups.add(&plan.engine_cgroup, std::process::id())?;
    links::cluster_up(plan).await?;
    let (nft, plan) = (programs.nft.clone(), plan.clone());
    Ok(tokio::task::spawn_blocking(move || egress::up(&nft, &plan)).await??)
}

/// Brings a node up, or finds what of it is up already (after a restart of the engine: all of it, containers included).
pub async fn bring_up(node: &NodePlan, programs: &Programs, cgroups: &Cgroups) -> Result<Node, NodeError> {
    let start = Instant::now();
    make_directories([&node.run_dir, &node.data_dir])?;
    for group in [&node.agent_cgroup, &node.containerd_cgroup, &node.pods_cgroup] {
        cgroups.create(group)?;
    }
    cgroups.prefer(&node.pods_cgroup, PODS_WEIGHT)?;
    let namespace = node.netns.clone();
    tokio::task::spawn_blocking(move || netns::create(&namespace)).await??;
    links::node_up(node).await?;
    let network = start.elapsed();
    let start = Instant::now();
    let containerd = Supervisor::start(node, programs, cgroups)?;
    let runtime = Arc::new(Containerd::connect(node.socket.clone()));
    containerd::ready(node, &runtime, &containerd).await?;
    let took = Took { network, containerd: start.elapsed() };
    Ok(Node { plan: node.clone(), runtime, containerd, took })
}

fn make_directories<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), NodeError> {
    for path in paths {
        fs::create_dir_all(path).map_err(|source| NodeError::Directory { path: path.clone(), source })?;
    }
    Ok(())
}
