//! The nodes' agents: one process for each, in the node's network namespace, started again when it dies.
//!
//! An agent outlives its engine, as containerd does; the next engine finds it in the node's cgroup and keeps it, unless it is of
//! another program or reaches the API where it is no more.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
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

/// The signal that cannot be refused, by number.
const SIGKILL: i32 = 9;

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
    /// Range of the Services' addresses.
    pub service_cidr: Ipv4Net,
    /// Where names are asked for, on the node's own loopback.
    pub cluster_dns: Ipv4Addr,
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
    current: Arc<Mutex<Current>>,
    watching: tokio::task::JoinHandle<()>,
}

/// The agent of now: started by this process, or found running.
struct Current {
    identity: Identity,
    /// To be waited for when it has ended, if it is a child.
    child: Option<Child>,
}

impl Agents {
    /// Starts one for each node, or finds the one that runs.
    pub fn start(plan: &ClusterPlan, files: &Files, ca: &Ca, told: Told, cgroups: &Cgroups) -> Result<Self> {
        let cancel = CancellationToken::new();
        let mut agents = Vec::new();
        for node in &plan.nodes {
            let launch = Launch {
                program: std::env::current_exe().context("cannot find this program's own file")?,
                args: vec!["node".into(), "--config".into(), files.node_config(node).into()],
                envs: Vec::new(),
                netns: Some(node.netns.clone()),
                cgroup: node.agent_cgroup.clone(),
                log: files.node_log(node),
            };
            let running = of_group(node, cgroups);
            let current = match found(&running, &launch, &files.node_kubeconfig(node), told.api) {
                Some(identity) => Current { identity, child: None },
                None => {
                    end_strangers(&running);
                    write_files(plan, node, files, ca, told)?;
                    begin(&launch, cgroups)?
                }
            };
            let current = Arc::new(Mutex::new(current));
            let watched = Watched { node: node.name.clone(), launch, cgroups: cgroups.clone() };
            let watching = tokio::spawn(watched.watch(current.clone(), cancel.clone()));
            agents.push(Agent { current, watching });
        }
        Ok(Self { agents, cancel })
    }

    /// Ends them, and with them their Pods: each agent stops its Pods within `grace`.
    pub async fn stop(self, grace: Duration) {
        self.cancel.cancel();
        let stops = self.agents.into_iter().map(|agent| async move {
            let identity = agent.current.lock().identity.clone();
            if let Err(error) = identity.stop(grace).await {
                tracing::warn!(error = %hitless_base::chain(&error), "an agent does not end");
            }
            let _ended = agent.watching.await;
        });
        futures::future::join_all(stops).await;
    }
}

/// The processes in the node's group for agents: asked of the kernel, so that none is forgotten.
fn of_group(node: &NodePlan, cgroups: &Cgroups) -> Vec<Identity> {
    let pids = cgroups.pids(&node.agent_cgroup).unwrap_or_default();
    pids.into_iter().filter_map(|pid| Identity::of(pid).ok().flatten()).collect()
}

/// The agent that runs already, if it is this program's and reaches the API where it is now.
fn found(running: &[Identity], launch: &Launch, kubeconfig: &Path, api: SocketAddr) -> Option<Identity> {
    let [identity] = running else { return None };
    let program = std::fs::read_link(format!("/proc/{}/exe", identity.pid)).ok()?;
    let text = std::fs::read_to_string(kubeconfig).unwrap_or_default();
    (program == launch.program && text.contains(&format!("https://{api}"))).then(|| identity.clone())
}

/// Ends agents that cannot be kept (of an older program, say). Their Pods run on.
fn end_strangers(running: &[Identity]) {
    for identity in running {
        if let Err(error) = identity.signal(SIGKILL) {
            tracing::warn!(error = %hitless_base::chain(&error), "an old agent cannot be ended");
        }
    }
}

fn begin(launch: &Launch, cgroups: &Cgroups) -> Result<Current> {
    let mut child = launch.spawn(cgroups)?;
    let Some(identity) = Identity::of(i32::try_from(child.id())?)? else {
        let status = child.wait()?;
        anyhow::bail!("a node's agent ended at once ({status}); see {}", launch.log.display());
    };
    Ok(Current { identity, child: Some(child) })
}

/// One node's agent, as its watcher knows it.
struct Watched {
    node: String,
    launch: Launch,
    cgroups: Cgroups,
}

impl Watched {
    /// Waits for the agent's end and starts it again, more and more slowly if it keeps ending, until `cancel`.
    async fn watch(self, current: Arc<Mutex<Current>>, cancel: CancellationToken) {
        let node = self.node.as_str();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
        loop {
            let since = Instant::now();
            let identity = current.lock().identity.clone();
            if let Err(error) = ended(&identity).await {
                tracing::error!(node, error = %hitless_base::chain(&error), "the node's agent cannot be watched");
                return;
            }
            let child = current.lock().child.take();
            let status = child.and_then(|mut child| child.try_wait().ok().flatten());
            if cancel.is_cancelled() {
                return;
            }
            tracing::warn!(node, ?status, log = %self.launch.log.display(), "the node's agent has ended; starting it again");
            if since.elapsed() > Duration::from_secs(60) {
                backoff.reset();
            }
            let next = loop {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(backoff.step()) => {}
                }
                match begin(&self.launch, &self.cgroups) {
                    Ok(next) => break next,
                    Err(error) => tracing::error!(node, %error, "the node's agent does not start"),
                }
            };
            *current.lock() = next;
        }
    }
}

/// Resolves when the process has ended.
async fn ended(identity: &Identity) -> std::io::Result<()> {
    match identity.open().map_err(std::io::Error::other)? {
        Some(process) => process.watch()?.ended().await,
        None => Ok(()),
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
        service_cidr: plan.service_net,
        cluster_dns: plan.dns_address,
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
