//! What a kubelet is told when it starts.

use std::{collections::BTreeMap, net::IpAddr, net::SocketAddr, path::PathBuf, sync::Arc};

use tokio_rustls::rustls::ServerConfig;

/// What the node has to give. Units in the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// CPU in thousandths.
    pub cpu_milli: i64,
    /// Memory in bytes.
    pub memory_bytes: i64,
    /// Pods at most.
    pub pods: i64,
    /// Disk for logs, layers and emptyDir volumes, in bytes.
    pub ephemeral_storage_bytes: i64,
}

/// Where and how the kubelet's own HTTPS server answers.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Address and port (10250, as Kubernetes has it).
    pub address: SocketAddr,
    /// Certificate, key and the CA of clients; see [`crate::server::tls_config`].
    pub tls: Arc<ServerConfig>,
}

/// What a kubelet is told when it starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// The Node object's name.
    pub node_name: String,
    /// The node's address.
    pub node_ip: IpAddr,
    /// Directory of Pods' volumes and logs, kept over restarts.
    pub root_dir: PathBuf,
    /// Range of the node's Pods (`10.42.1.0/24`).
    pub pod_cidr: Option<String>,
    /// cgroup under which all Pods live, beginning with `/`.
    pub cgroup_parent: String,
    /// Where cgroups are mounted (`/sys/fs/cgroup`); empty directories of ended Pods are taken away there.
    pub cgroup_fs: PathBuf,
    /// Whether stop signals wait for `hitless.dev/Withdrawn`.
    pub loop_on: bool,
    /// The cluster's DNS server, if there is one.
    pub cluster_dns: Option<IpAddr>,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// The node's own resolver configuration (`/etc/resolv.conf`): what Pods get with `dnsPolicy: Default`.
    pub resolv_conf: PathBuf,
    /// The HTTPS server; `None`: no logs over the API.
    pub serving: Option<Serving>,
    /// What to say instead of the machine's own figures.
    pub capacity: Option<Capacity>,
    /// Labels of the Node beside the standard ones.
    pub labels: BTreeMap<String, String>,
}

impl Options {
    /// Options of a node with the loop on and nothing special.
    #[must_use]
    pub fn new(node_name: impl Into<String>, node_ip: IpAddr, root_dir: impl Into<PathBuf>) -> Self {
        Self {
            node_name: node_name.into(),
            node_ip,
            root_dir: root_dir.into(),
            pod_cidr: None,
            cgroup_parent: "/kubepods".to_owned(),
            cgroup_fs: PathBuf::from("/sys/fs/cgroup"),
            loop_on: true,
            cluster_dns: None,
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            serving: None,
            capacity: None,
            labels: BTreeMap::new(),
        }
    }
}
