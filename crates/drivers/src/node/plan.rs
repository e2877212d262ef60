//! The names and addresses of a cluster on this machine: pure arithmetic, from which every effect follows.
//!
//! A cluster has a name, from which files, cgroups and namespaces are named, and a slot (0 to 15), from which its addresses
//! and links follow, so that several clusters live beside each other. With slot `s`:
//!
//! | what | range |
//! |---|---|
//! | links: the machine `.1`, node *i* `.10+i` | `10.(200+s).0.0/24` |
//! | Pods: node *i* | `10.(100+s).i.0/24` |
//! | Services: the API server `.0.1`, DNS `.0.10` | `10.(150+s).0.0/16` |
//!
//! Invariant: equal input gives an equal plan, so a plan can be worked out again after a restart and is never stored.

use std::{net::Ipv4Addr, path::PathBuf};

use ipnet::Ipv4Net;

use super::cgroup::CgroupPath;

/// Slots are 0 to `SLOTS - 1`.
pub const SLOTS: u8 = 16;
/// Most nodes of one cluster on one machine.
pub const NODES_MAX: u8 = 100;
/// Longest name of a cluster, in bytes: it becomes part of socket paths, which the kernel bounds.
pub const NAME_BYTES_MAX: usize = 32;
/// The kernel's bound for a socket path is 107 bytes; containerd appends `.ttrpc` to one.
const SOCKET_BYTES_MAX: usize = 101;

/// A cluster cannot be laid out as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The name cannot be used.
    #[error(
        "{0:?} cannot name a cluster: use 1 to {NAME_BYTES_MAX} lower-case letters, digits and hyphens, beginning and ending with a letter or digit"
    )]
    Name(String),
    /// The slot is not one of the sixteen.
    #[error("slot {0} does not exist: slots are 0 to {max}", max = SLOTS - 1)]
    Slot(u8),
    /// Too few or too many nodes.
    #[error("{0} nodes cannot be had on one machine: use 1 to {NODES_MAX}")]
    Nodes(u16),
    /// The run directory lies too deep.
    #[error(
        "the path {path:?} is too long for a unix socket ({SOCKET_BYTES_MAX} bytes at most): use a shorter run directory"
    )]
    SocketPath {
        /// The path that would be needed.
        path: PathBuf,
    },
}

/// Where clusters keep their files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// What does not outlive the cluster: sockets, process ids, leases of addresses. One directory for each cluster.
    pub run: PathBuf,
    /// What does: images, logs, the store. One directory for each cluster.
    pub data: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self { run: "/run/hitless".into(), data: "/var/lib/hitless".into() }
    }
}

impl Paths {
    /// The cluster's own run directory.
    #[must_use]
    pub fn run_of(&self, cluster: &str) -> PathBuf {
        self.run.join(cluster)
    }
    /// The cluster's own data directory.
    #[must_use]
    pub fn data_of(&self, cluster: &str) -> PathBuf {
        self.data.join(cluster)
    }
}

/// One cluster on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPlan {
    /// Its name.
    pub name: String,
    /// Its slot.
    pub slot: u8,
    /// `RUN/NAME`.
    pub run_dir: PathBuf,
    /// `DATA/NAME`.
    pub data_dir: PathBuf,
    /// The cgroup tree in which everything of the cluster lives, `/hitless-NAME`.
    pub cgroup: CgroupPath,
    /// The engine's own leaf of the tree.
    pub engine_cgroup: CgroupPath,
    /// Parent of the agents' cgroups: beside those of the nodes, not in them.
    pub agents_cgroup: CgroupPath,
    /// The bridge in the machine's own network namespace that joins the nodes.
    pub bridge: String,
    /// Range of the nodes' addresses.
    pub link_net: Ipv4Net,
    /// The machine's own address on the bridge: where the API server listens.
    pub machine_address: Ipv4Addr,
    /// Range of all Pods' addresses.
    pub pod_net: Ipv4Net,
    /// Range of the Services' addresses.
    pub service_net: Ipv4Net,
    /// Address of the Service `kubernetes`.
    pub api_service_address: Ipv4Addr,
    /// Address of the Service `kube-dns`, on which each node answers by itself.
    pub dns_address: Ipv4Addr,
    /// The nodes, `node-1` first.
    pub nodes: Vec<NodePlan>,
}

/// One node of a cluster on this machine: all that its parts have to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// The cluster's name.
    pub cluster: String,
    /// The node's name, `node-1`.
    pub name: String,
    /// Counts from 1.
    pub index: u8,
    /// Name of its network namespace, as below `/run/netns`.
    pub netns: String,
    /// The machine's end of the pair that joins node and bridge.
    pub host_link: String,
    /// The bridge that it is joined to.
    pub bridge: String,
    /// Its address, on `eth0` in its namespace.
    pub address: Ipv4Addr,
    /// Range of the nodes' addresses.
    pub link_net: Ipv4Net,
    /// The machine's address, the way to everywhere else.
    pub gateway: Ipv4Addr,
    /// The cluster's DNS address, on its loopback: no question crosses to another node.
    pub dns_address: Ipv4Addr,
    /// Range of its Pods' addresses.
    pub pod_cidr: Ipv4Net,
    /// Pod ranges of the other nodes and the addresses that lead there.
    pub peers: Vec<(Ipv4Net, Ipv4Addr)>,
    /// Its part of the cluster's cgroup tree.
    pub cgroup: CgroupPath,
    /// Parent of its Pods' cgroups.
    pub pods_cgroup: CgroupPath,
    /// Where kubelet and service proxy run.
    pub agent_cgroup: CgroupPath,
    /// Where containerd and its shims run.
    pub containerd_cgroup: CgroupPath,
    /// `RUN/NAME/NODE`.
    pub run_dir: PathBuf,
    /// `DATA/NAME/NODE`.
    pub data_dir: PathBuf,
    /// containerd's socket.
    pub socket: PathBuf,
}

impl ClusterPlan {
    /// Lays a cluster out.
    pub fn new(name: &str, slot: u8, nodes: u8, paths: &Paths) -> Result<Self, PlanError> {
        check_name(name)?;
        if slot >= SLOTS {
            return Err(PlanError::Slot(slot));
        }
        if nodes == 0 || nodes > NODES_MAX {
            return Err(PlanError::Nodes(nodes.into()));
        }
        let cgroup = CgroupPath::of_cluster(name);
        let mut plan = Self {
            name: name.to_owned(),
            slot,
            run_dir: paths.run_of(name),
            data_dir: paths.data_of(name),
            engine_cgroup: cgroup.child("engine"),
            agents_cgroup: cgroup.child("agents"),
            cgroup,
            bridge: bridge(slot),
            link_net: net(200 + slot, 0, 24),
            machine_address: Ipv4Addr::new(10, 200 + slot, 0, 1),
            pod_net: net(100 + slot, 0, 16),
            service_net: net(150 + slot, 0, 16),
            api_service_address: Ipv4Addr::new(10, 150 + slot, 0, 1),
            dns_address: Ipv4Addr::new(10, 150 + slot, 0, 10),
            nodes: Vec::new(),
        };
        plan.nodes = (1..=nodes).map(|index| plan.node(index, nodes)).collect();
        for node in &plan.nodes {
            if node.socket.as_os_str().len() > SOCKET_BYTES_MAX {
                return Err(PlanError::SocketPath { path: node.socket.clone() });
            }
        }
        Ok(plan)
    }

    /// The ranges that must be free on the machine.
    #[must_use]
    pub fn ranges(&self) -> [Ipv4Net; 3] {
        [self.link_net, self.pod_net, self.service_net]
    }

    fn node(&self, index: u8, nodes: u8) -> NodePlan {
        let name = format!("node-{index}");
        let address = |index: u8| Ipv4Addr::new(10, 200 + self.slot, 0, 10 + index);
        let pods = |index: u8| net(100 + self.slot, index, 24);
        let cgroup = self.cgroup.child(&name);
        let run_dir = self.run_dir.join(&name);
        NodePlan {
            cluster: self.name.clone(),
            netns: netns(&self.name, &name),
            host_link: format!("{}n{index}", self.bridge),
            bridge: self.bridge.clone(),
            index,
            address: address(index),
            link_net: self.link_net,
            gateway: self.machine_address,
            dns_address: self.dns_address,
            pod_cidr: pods(index),
            peers: (1..=nodes).filter(|other| *other != index).map(|i| (pods(i), address(i))).collect(),
            pods_cgroup: cgroup.child("pods"),
            agent_cgroup: self.agents_cgroup.child(&name),
            containerd_cgroup: cgroup.child("containerd"),
            cgroup,
            socket: run_dir.join("containerd.sock"),
            data_dir: self.data_dir.join(&name),
            run_dir,
            name,
        }
    }
}

impl NodePlan {
    /// Where a user's own CNI configuration goes: the file that sorts first wins over `90-hitless.conflist`.
    #[must_use]
    pub fn cni_conf_dir(&self) -> PathBuf {
        self.data_dir.join("cni/net.d")
    }

    /// Name of the CNI network; CNI's own state carries it.
    #[must_use]
    pub fn cni_network(&self) -> String {
        self.netns.clone()
    }

    /// Where containerd writes what it has to say.
    #[must_use]
    pub fn containerd_log(&self) -> PathBuf {
        self.run_dir.join("containerd.log")
    }
}

/// Name of a node's network namespace. A cluster's name holds no dot, so the prefix names one cluster only.
fn netns(cluster: &str, node: &str) -> String {
    format!("{}{node}", netns_prefix(cluster))
}

/// What the names of all network namespaces of a cluster begin with.
#[must_use]
pub fn netns_prefix(cluster: &str) -> String {
    format!("hitless.{cluster}.")
}

/// The bridge of a slot. The names of the links on it begin with it and go on with `n`.
#[must_use]
pub fn bridge(slot: u8) -> String {
    format!("hl{slot}")
}

/// What a cluster's links carry as their alias, so that they are found without knowing the slot.
#[must_use]
pub fn link_alias(cluster: &str) -> String {
    format!("hitless:{cluster}")
}

/// Name of the nftables table in the machine's own namespace that lets a cluster's Pods and nodes out.
#[must_use]
pub fn egress_table(cluster: &str) -> String {
    format!("hitless-{cluster}-egress")
}

/// Checks that `name` can name a cluster.
pub fn check_name(name: &str) -> Result<(), PlanError> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fits = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if fits { Ok(()) } else { Err(PlanError::Name(name.to_owned())) }
}

fn net(second: u8, third: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, second, third, 0), prefix)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, path::Path};

    use super::*;

    fn plan(slot: u8, nodes: u8) -> ClusterPlan {
        ClusterPlan::new("c", slot, nodes, &Paths::default()).unwrap()
    }

    #[test]
    fn addresses_follow_from_slot_and_index() {
        let plan = plan(3, 2);
        assert_eq!(plan.bridge, "hl3");
        assert_eq!(plan.machine_address.to_string(), "10.203.0.1");
        assert_eq!(plan.service_net.to_string(), "10.153.0.0/16");
        assert_eq!(plan.api_service_address.to_string(), "10.153.0.1");
        assert_eq!(plan.nodes[1].dns_address.to_string(), "10.153.0.10");
        let [first, second] = &plan.nodes[..] else { panic!() };
        assert_eq!((first.address.to_string().as_str(), first.host_link.as_str()), ("10.203.0.11", "hl3n1"));
        assert_eq!(second.pod_cidr.to_string(), "10.103.2.0/24");
        assert_eq!(first.peers, [(second.pod_cidr, second.address)]);
        assert_eq!(second.peers, [(first.pod_cidr, first.address)]);
        assert_eq!(first.pods_cgroup.as_str(), "/hitless-c/node-1/pods");
        assert_eq!(first.socket, Path::new("/run/hitless/c/node-1/containerd.sock"));
    }

    #[test]
    fn no_two_slots_share_an_address_and_no_two_nodes_a_name() {
        let mut ranges: Vec<Ipv4Net> = Vec::new();
        let mut links = HashSet::new();
        for slot in 0..SLOTS {
            let plan = plan(slot, NODES_MAX);
            for range in plan.ranges() {
                let overlap = ranges.iter().find(|other| other.contains(&range) || range.contains(*other));
                assert_eq!(overlap, None, "{range} of slot {slot}");
                ranges.push(range);
            }
            for node in &plan.nodes {
                assert!(node.host_link.len() <= 15, "{} is too long for a link", node.host_link);
                assert!(links.insert(node.host_link.clone()), "{}", node.host_link);
                assert!(plan.pod_net.contains(&node.pod_cidr) && plan.link_net.contains(&node.address));
                assert_ne!(node.address, plan.machine_address);
            }
        }
    }

    #[test]
    fn bad_input_is_refused() {
        let with =
            |name: &str, slot, nodes| ClusterPlan::new(name, slot, nodes, &Paths::default()).unwrap_err();
        for name in ["", "-a", "a-", "A", "a.b", "a/b", "..", &"a".repeat(33)] {
            assert_eq!(with(name, 0, 1), PlanError::Name(name.to_owned()));
        }
        assert_eq!(with("a", 16, 1), PlanError::Slot(16));
        assert_eq!(with("a", 0, 0), PlanError::Nodes(0));
        assert_eq!(with("a", 0, 101), PlanError::Nodes(101));
        let deep = Paths { run: format!("/{}", "d".repeat(90)).into(), ..Paths::default() };
        assert!(matches!(ClusterPlan::new("a", 0, 1, &deep), Err(PlanError::SocketPath { .. })));
    }

    #[test]
    fn one_clusters_namespaces_are_not_anothers() {
        assert!(!netns("a-b", "node-1").starts_with(&netns_prefix("a")));
    }
}
