//! The nodes' agents: one process for each, in the node's network namespace, started again when it dies.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Child,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use hitless_apiserver::pki::{self, Ca};
use hitless_base::Backoff;
use hitless_drivers::node::{
    cgroup::Cgroups,
    plan::{ClusterPlan, NodePlan},
    process::{Identity, Launch},
};
use ipnet::Ipv4Net;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Files;

/// What a node's agent is told, as a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentConfig {
    /// The node's name.
    pub node_name: String,
    /// Its address.
    pub node_ip: Ipv4Addr,
    /// Range of its Pods.
    pub pod_cidr: Ipv4Net,
    /// Range of all Pods of the cluster.
    pub cluster_pod_cidr: Ipv4Net,
    /// Directory of volumes and logs.
    pub root_dir: PathBuf,
    /// Parent of the Pods' cgroups.
    pub cgroup_parent: String,
    /// containerd's socket.
    pub socket: PathBuf,
    /// How the API is reached, as this node.
    pub kubeconfig: PathBuf,
    /// Certificate of the kubelet's own server.
    pub cert_pem: String,
    /// Its key.
    pub key_pem: String,
    /// CA of its clients.
    pub ca_pem: String,
    /// Whether stop signals wait for the consumers.
    pub loop_on: bool,
    /// Ports of the node's ingress, for HTTP and HTTPS. None: it has none.
    pub ingress_ports: Option<(u16, u16)>,
}

/// What all agents of a cluster are told alike.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// Where the API is.
    pub api: SocketAddr,
    /// Whether stop signals wait for the consumers.
    pub loop_on: bool,
    /// Ports of each node's ingress.
    pub ingress_ports: Option<(u16, u16)>,
}

/// The running agents.
pub struct Agents {
    agents: Vec<Agent>,
    cancel: CancellationToken,
}

struct Agent {
    current: Arc<Mutex<Option<Identity>>>,
    watching: tokio::task::JoinHandle<()>,
}

impl Agents {
    /// Starts one for each node.
    pub fn start(plan: &ClusterPlan, files: &Files, ca: &Ca, told: Told, cgroups: &Cgroups) -> Result<Self> {
        let cancel = CancellationToken::new();
        let mut agents = Vec::new();
        for node in &plan.nodes {
            write_files(plan, node, files, ca, told)?;
            let launch = Launch {
                program: std::env::current_exe().context("cannot find this program's own file")?,
                args: vec!["node".into(), "--config".into(), files.node_config(node).into()],
                envs: Vec::new(),
                netns: Some(node.netns.clone()),
                cgroup: node.agent_cgroup.clone(),
                log: files.node_log(node),
            };
            let child = launch.spawn(cgroups)?;
            let current = Arc::new(Mutex::new(identity(&child)));
            let watch =
                watch(node.name.clone(), launch, cgroups.clone(), child, current.clone(), cancel.clone());
            agents.push(Agent { current, watching: tokio::spawn(watch) });
        }
        Ok(Self { agents, cancel })
    }

    /// Ends them, and with them their Pods: each agent stops its Pods within `grace`.
    pub async fn stop(self, grace: Duration) {
        self.cancel.cancel();
        let stops = self.agents.into_iter().map(|agent| async move {
            let identity = agent.current.lock().clone();
            if let Some(identity) = identity
                && let Err(error) = identity.stop(grace).await
            {
                tracing::warn!(error = %hitless_base::chain(&error), "an agent does not end");
            }
            let _ended = agent.watching.await;
        });
        futures::future::join_all(stops).await;
    }
}

fn identity(child: &Child) -> Option<Identity> {
    Identity::of(i32::try_from(child.id()).ok()?).ok().flatten()
}

/// Waits for the agent's end and starts it again, more and more slowly if it keeps ending, until `cancel`.
async fn watch(
    node: String,
    launch: Launch,
    cgroups: Cgroups,
    mut child: Child,
    current: Arc<Mutex<Option<Identity>>>,
    cancel: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
    loop {
        let since = Instant::now();
        let status = tokio::task::spawn_blocking(move || child.wait()).await;
        if cancel.is_cancelled() {
            return;
        }
        tracing::warn!(node, ?status, log = %launch.log.display(), "the node's agent has ended; starting it again");
        if since.elapsed() > Duration::from_secs(60) {
            backoff.reset();
        }
        child = loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(backoff.step()) => {}
            }
            match launch.spawn(&cgroups) {
                Ok(child) => break child,
                Err(error) => {
                    tracing::error!(node, error = %hitless_base::chain(&error), "the node's agent does not start")
                }
            }
        };
        *current.lock() = identity(&child);
    }
}

fn write_files(plan: &ClusterPlan, node: &NodePlan, files: &Files, ca: &Ca, told: Told) -> Result<()> {
    let Told { api, loop_on, ingress_ports } = told;
    let user = format!("system:node:{}", node.name);
    let client = ca.issue_client(&user, &["system:nodes"])?;
    let kubeconfig = files.node_kubeconfig(node);
    pki::write_kubeconfig(
        &kubeconfig,
        &ca.kubeconfig(&plan.name, &format!("https://{api}"), &user, &client),
    )?;
    let serving = ca.issue_server(&user, &[node.name.clone(), node.address.to_string()])?;
    let config = AgentConfig {
        node_name: node.name.clone(),
        node_ip: node.address,
        pod_cidr: node.pod_cidr,
        cluster_pod_cidr: plan.pod_net,
        root_dir: node.data_dir.join("kubelet"),
        cgroup_parent: node.pods_cgroup.as_str().to_owned(),
        socket: node.socket.clone(),
        kubeconfig,
        cert_pem: serving.cert_pem,
        key_pem: serving.key_pem,
        ca_pem: ca.cert_pem().to_owned(),
        loop_on,
        ingress_ports,
    };
    let path = files.node_config(node);
    // The file holds a key, so it is root's alone, like a kubeconfig.
    pki::write_kubeconfig(&path, &serde_json::to_string_pretty(&config)?)?;
    Ok(())
}
