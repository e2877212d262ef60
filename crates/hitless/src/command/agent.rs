//! The agent of one node: kubelet, service proxy, ingress and DNS server, plain API clients in the node's network namespace.
//!
//! SIGTERM shuts the node down: its Pods are stopped first. After SIGKILL its Pods run on, and the next agent adopts them.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use hitless_base::{Clock, SystemClock};
use hitless_dataplane::{Kernel, dns, ingress};
use hitless_drivers::{
    cri::Containerd,
    nft::{Nft, NftOptions},
};
use hitless_kubelet::ports::Runtime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::up::{Ends, STOP_GRACE};
use crate::cluster::AgentConfig;

/// The kubelet's port, as Kubernetes has it.
const KUBELET_PORT: u16 = 10250;
const DNS_PORT: u16 = 53;
/// Below it are the names of all Services, as Kubernetes has it.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// Runs until a signal.
pub async fn run(config: &Path) -> Result<ExitCode> {
    let text = std::fs::read(config).with_context(|| format!("cannot read {}", config.display()))?;
    let config: AgentConfig = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no agent's settings", config.display()))?;
    let mut ends = Ends::new()?;
    let client = hitless_client::connect::from_kubeconfig(&config.kubeconfig).await?;
    let runtime: Arc<dyn Runtime> = Arc::new(Containerd::connect(config.socket.clone()));
    let kernel: Arc<dyn Kernel> = Arc::new(Nft::open(NftOptions {
        pod_cidr: Some(config.cluster_pod_cidr),
        node_pod_cidr: Some(config.pod_cidr),
    })?);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (kubelet_ends, proxy_ends) = (CancellationToken::new(), CancellationToken::new());
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    let options = kubelet_options(&config)?;
    {
        let (client, runtime, clock, ends) =
            (client.clone(), runtime.clone(), clock.clone(), kubelet_ends.clone());
        tasks.spawn(async move { Ok(hitless_kubelet::run(client, runtime, options, clock, ends).await?) });
    }
    {
        let (name, clock, ends) = (config.node_name.clone(), clock.clone(), proxy_ends.clone());
        let to_api = client.clone();
        tasks.spawn(
            async move { Ok(hitless_dataplane::proxy::run(to_api, name, kernel, clock, ends).await?) },
        );
    }
    if let Some((http_port, https_port)) = config.ingress_ports {
        let options =
            ingress::Options { http_port, https_port, ..ingress::Options::new(vec![config.node_ip.into()]) };
        let (to_api, name, clock, ends) =
            (client.clone(), config.node_name.clone(), clock.clone(), proxy_ends.clone());
        tasks.spawn(async move { Ok(ingress::run(to_api, name, options, clock, ends).await?) });
    }
    {
        let (options, clock, ends) = (dns_options(&config)?, clock.clone(), proxy_ends.clone());
        tasks.spawn(async move { Ok(hitless_dataplane::dns::run(client, options, clock, ends).await?) });
    }
    let ended = tokio::select! {
        () = ends.any() => None,
        ended = tasks.join_next() => ended,
    };
    if let Some(ended) = ended {
        // Neither part ends by itself; the engine starts the agent again.
        return match ended? {
            Ok(()) => Err(anyhow::anyhow!("a part of the agent ended by itself")),
            Err(error) => Err(error),
        };
    }
    kubelet_ends.cancel();
    if let Err(error) =
        hitless_kubelet::stop_all(runtime, clock, STOP_GRACE.saturating_sub(Duration::from_secs(2))).await
    {
        tracing::warn!(error = %hitless_base::chain(&error), "the node's Pods could not be stopped");
    }
    proxy_ends.cancel();
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_secs(1), tasks.join_next()).await {}
    Ok(ExitCode::SUCCESS)
}

/// The machine's resolvers; behind a stub on the loopback, which a node's own network does not reach, those that it asks.
const RESOLV_CONFS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

fn dns_options(config: &AgentConfig) -> Result<dns::Options> {
    let ranges = vec![config.cluster_pod_cidr.into(), config.service_cidr.into()];
    let own = [IpAddr::from(config.cluster_dns)];
    let servers = move || {
        let texts = RESOLV_CONFS.iter().filter_map(|path| std::fs::read_to_string(path).ok());
        let reachable = |text: String| -> Vec<SocketAddr> {
            dns::upstream::servers(&text, &own).into_iter().filter(|s| !s.ip().is_loopback()).collect()
        };
        texts.map(reachable).find(|servers| !servers.is_empty()).unwrap_or_default()
    };
    Ok(dns::Options {
        node_name: config.node_name.clone(),
        address: (config.cluster_dns, DNS_PORT).into(),
        domain: dns::Domain::new(CLUSTER_DOMAIN, ranges)?,
        servers: Arc::new(servers),
    })
}

fn kubelet_options(config: &AgentConfig) -> Result<hitless_kubelet::Options> {
    let tls = hitless_kubelet::server::tls_config(
        config.cert_pem.as_bytes(),
        config.key_pem.as_bytes(),
        config.ca_pem.as_bytes(),
    )?;
    let mut options =
        hitless_kubelet::Options::new(&config.node_name, config.node_ip.into(), &config.root_dir);
    options.pod_cidr = Some(config.pod_cidr.to_string());
    options.cluster_dns = Some(config.cluster_dns.into());
    options.cluster_domain = CLUSTER_DOMAIN.to_owned();
    options.cgroup_parent = config.cgroup_parent.clone();
    options.loop_on = config.loop_on;
    options.serving = Some(hitless_kubelet::Serving { address: (config.node_ip, KUBELET_PORT).into(), tls });
    Ok(options)
}
