//! The network between the machine and its nodes: a bridge in the machine's own namespace, a veth pair to each node, and routes to
//! the Pod ranges.
//!
//! Everything in the machine's own namespace bears the cluster's alias or hangs on its bridge, so that it can be found and removed
//! without any memory. Each step first looks at what is: doing it again is no error.

use std::{fs, io, net::Ipv4Addr, os::fd::AsRawFd, path::PathBuf};

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use netlink_packet_core::ErrorMessage;
use rtnetlink::{
    AddressMessageBuilder, Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::AddressAttribute,
        link::{InfoData, InfoVeth, LinkAttribute, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteProtocol},
    },
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    netns::{self, NetnsError},
    plan::{ClusterPlan, NodePlan, link_alias},
};

/// Buckets of the table of connections of each Pod; 8 bytes each.
const POD_CONNECTION_BUCKETS: &str = "4096";
/// Name of a node's own end of its pair.
const NODE_LINK: &str = "eth0";

/// The network could not be set up or taken away.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// The machine already uses addresses that the cluster would use.
    #[error(
        "the address range {range} of cluster slot {slot} overlaps {with} on {device}: choose another slot"
    )]
    Overlap {
        /// What the cluster wants.
        range: Ipv4Net,
        /// Its slot.
        slot: u8,
        /// What is there: an address or a route.
        with: Ipv4Net,
        /// Where it is.
        device: String,
    },
    /// The kernel refused.
    #[error("cannot {what}")]
    Netlink {
        /// What was tried.
        what: String,
        /// Cause.
        #[source]
        source: rtnetlink::Error,
    },
    /// A setting, a socket or a thread could not be had.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The node's namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

/// A netlink socket of the namespace in which it was opened.
struct Netlink {
    handle: Handle,
    _connection: AbortOnDropHandle<()>,
}

impl Netlink {
    fn open() -> Result<Self, LinksError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|source| LinksError::Io { what: "open a netlink socket".into(), source })?;
        Ok(Self { handle, _connection: AbortOnDropHandle::new(tokio::spawn(connection)) })
    }

    async fn links(&self) -> Result<Vec<LinkMessage>, LinksError> {
        self.handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| netlink("list the links", error))
    }

    async fn index(&self, name: &str) -> Result<Option<u32>, LinksError> {
        Ok(self
            .links()
            .await?
            .iter()
            .find(|link| link_name(link) == Some(name))
            .map(|link| link.header.index))
    }

    async fn need_index(&self, name: &str) -> Result<u32, LinksError> {
        self.index(name).await?.ok_or_else(|| LinksError::Io {
            what: format!("find the link {name}"),
            source: io::Error::from(io::ErrorKind::NotFound),
        })
    }

    async fn add_address(&self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<(), LinksError> {
        let mut message =
            AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, prefix).build();
        if let Ok(net) = Ipv4Net::new(address, prefix) {
            message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
        }
        let mut request = self.handle.address().add(index, address.into(), prefix);
        *request.message_mut() = message;
        twice_is_fine(request.execute().await)
            .map_err(|error| netlink(format!("give {address} to a link"), error))
    }

    async fn add_route(&self, to: Ipv4Net, gateway: Ipv4Addr, link: u32) -> Result<(), LinksError> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to.network(), to.prefix_len())
            .gateway(gateway)
            .output_interface(link)
            .protocol(RouteProtocol::Static)
            .build();
        twice_is_fine(self.handle.route().add(message).replace().execute().await)
            .map_err(|error| netlink(format!("route {to} via {gateway}"), error))
    }

    async fn set(&self, message: LinkMessage, what: String) -> Result<(), LinksError> {
        self.handle.link().set(message).execute().await.map_err(|error| netlink(what, error))
    }

    async fn delete(&self, index: u32, name: &str) -> Result<(), LinksError> {
        match self.handle.link().del(index).execute().await {
            Err(error) if code(&error) == -libc::ENODEV => Ok(()),
            other => other.map_err(|error| netlink(format!("remove the link {name}"), error)),
        }
    }
}

/// Checks that the cluster's ranges are free here, but for what the cluster itself has set up. Looks at the calling thread's
/// network namespace, as all of this module does.
pub async fn check_free(plan: &ClusterPlan) -> Result<(), LinksError> {
    let taken = taken(&Netlink::open()?).await?;
    for range in plan.ranges() {
        let overlap = taken
            .iter()
            .find(|(with, device)| *device != plan.bridge && (with.contains(&range) || range.contains(with)));
        if let Some((with, device)) = overlap {
            return Err(LinksError::Overlap { range, slot: plan.slot, with: *with, device: device.clone() });
        }
    }
    Ok(())
}

/// Every address and route of this namespace, but the default route, with its device.
async fn taken(netlink_: &Netlink) -> Result<Vec<(Ipv4Net, String)>, LinksError> {
    let links = netlink_.links().await?;
    let name = |index: u32| {
        let link = links.iter().find(|link| link.header.index == index);
        link.and_then(link_name).unwrap_or("a link").to_owned()
    };
    let mut taken = Vec::new();
    let addresses: Vec<_> = netlink_
        .handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|error| netlink("list the addresses", error))?;
    for message in addresses {
        for attribute in &message.attributes {
            if let AddressAttribute::Address(std::net::IpAddr::V4(address)) = attribute
                && let Ok(net) = Ipv4Net::new(*address, message.header.prefix_len)
            {
                taken.push((net.trunc(), name(message.header.index)));
            }
        }
    }
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<_> = netlink_
        .handle
        .route()
        .get(all)
        .execute()
        .try_collect()
        .await
        .map_err(|error| netlink("list the routes", error))?;
    for message in routes.iter().filter(|message| message.header.table == RouteHeader::RT_TABLE_MAIN) {
        let mut device = "a link".to_owned();
        let mut to = None;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                    to = Ipv4Net::new(*address, message.header.destination_prefix_length).ok();
                }
                RouteAttribute::Oif(index) => device = name(*index),
                _ => {}
            }
        }
        taken.extend(to.filter(|net| net.prefix_len() > 0).map(|net| (net.trunc(), device)));
    }
    Ok(taken)
}

/// Makes the bridge of the cluster, with the machine's own address on it.
pub async fn cluster_up(plan: &ClusterPlan) -> Result<(), LinksError> {
    let netlink_ = Netlink::open()?;
    if netlink_.index(&plan.bridge).await?.is_none() {
        let message = LinkBridge::new(&plan.bridge).build();
        let added = netlink_.handle.link().add(message).execute().await;
        twice_is_fine(added).map_err(|error| netlink(format!("make the bridge {}", plan.bridge), error))?;
    }
    let bridge = netlink_.need_index(&plan.bridge).await?;
    let up = LinkUnspec::new_with_index(bridge)
        .append_extra_attribute(LinkAttribute::IfAlias(link_alias(&plan.name)))
        .up()
        .build();
    netlink_.set(up, format!("set the bridge {} up", plan.bridge)).await?;
    netlink_.add_address(bridge, plan.machine_address, plan.link_net.prefix_len()).await?;
    // The machine leads Pods and nodes to the outside.
    sysctl("net/ipv4/ip_forward", "1")
}

/// Joins a node to the machine and to the other nodes. Its namespace and the cluster's bridge must exist.
pub async fn node_up(node: &NodePlan) -> Result<(), LinksError> {
    let netlink_ = Netlink::open()?;
    let bridge = netlink_.need_index(&node.bridge).await?;
    if netlink_.index(&node.host_link).await?.is_none() {
        add_pair(&netlink_, node, bridge).await?;
    }
    let host = netlink_.need_index(&node.host_link).await?;
    let up = LinkUnspec::new_with_index(host)
        .append_extra_attribute(LinkAttribute::IfAlias(link_alias(&node.cluster)))
        .controller(bridge)
        .up()
        .build();
    netlink_.set(up, format!("set the link {} up", node.host_link)).await?;
    inside(node.clone()).await?;
    netlink_.add_route(node.pod_cidr, node.address, bridge).await
}

async fn add_pair(netlink_: &Netlink, node: &NodePlan, bridge: u32) -> Result<(), LinksError> {
    let namespace = netns::open(&node.netns)?;
    // The node's end is made in the node's namespace, so that its name never meets one of the machine's.
    let peer = LinkUnspec::new_with_name(NODE_LINK).setns_by_fd(namespace.as_raw_fd()).build();
    let message = LinkVeth::new(&node.host_link, NODE_LINK)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .controller(bridge)
        .build();
    let added = netlink_.handle.link().add(message).execute().await;
    twice_is_fine(added)
        .map_err(|error| netlink(format!("make the link {} to {}", node.host_link, node.name), error))
}

/// The node's side, from within its namespace.
async fn inside(node: NodePlan) -> Result<(), LinksError> {
    let work = move || {
        netns::inside(&node.netns, || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .map_err(|source| LinksError::Io { what: "start a thread".into(), source })?;
            runtime.block_on(node_side(&node))
        })?
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| LinksError::Io {
        what: "work in the node's namespace".into(),
        source: error.into(),
    })?
}

async fn node_side(node: &NodePlan) -> Result<(), LinksError> {
    settings()?;
    let netlink_ = Netlink::open()?;
    let loopback = netlink_.need_index("lo").await?;
    netlink_.set(LinkUnspec::new_with_index(loopback).up().build(), "set lo up".into()).await?;
    netlink_.add_address(loopback, node.dns_address, 32).await?;
    let own = netlink_.need_index(NODE_LINK).await?;
    netlink_.set(LinkUnspec::new_with_index(own).up().build(), format!("set {NODE_LINK} up")).await?;
    netlink_.add_address(own, node.address, node.link_net.prefix_len()).await?;
    netlink_.add_route(Ipv4Net::default(), node.gateway, own).await?;
    for (range, address) in &node.peers {
        netlink_.add_route(*range, *address, own).await?;
    }
    Ok(())
}

/// What a node of Kubernetes has set: it forwards for its Pods, Pods on one bridge meet the node's rules also when they talk to each
/// other, and a Service's address may be asked for from the node's own loopback.
fn settings() -> Result<(), LinksError> {
    sysctl("net/ipv4/ip_forward", "1")?;
    sysctl("net/ipv4/conf/all/route_localnet", "1")?;
    sysctl("net/ipv4/conf/all/send_redirects", "0")?;
    sysctl("net/ipv4/conf/default/send_redirects", "0")?;
    // A Pod's namespace gets a table of connections of its own, so that looking at a Pod's connections does not mean walking
    // through the whole machine's. Linux before 6.1 has no such setting: there a look takes longer.
    let _there = sysctl("net/ipv4/tcp_child_ehash_entries", POD_CONNECTION_BUCKETS);
    const BRIDGE: &str = "net/bridge/bridge-nf-call-iptables";
    if !sysctl_path(BRIDGE).exists() {
        // The module may just not be loaded; if it cannot be, the write below says what is missing.
        let _loaded = std::process::Command::new("modprobe").arg("br_netfilter").status();
    }
    sysctl(BRIDGE, "1")
}

fn sysctl_path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

/// Sets it in the calling thread's network namespace. A value that is there already is not written: some are read-only.
fn sysctl(name: &str, value: &str) -> Result<(), LinksError> {
    let path = sysctl_path(name);
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| LinksError::Io {
        what: format!("set {} to {value}", name.replace('/', ".")),
        source,
    })
}

/// Names of the links of a cluster in this namespace: those with its alias, and with `bridge` (if its slot is known) those of that bridge.
pub async fn list(cluster: &str, bridge: Option<&str>) -> Result<Vec<String>, LinksError> {
    Ok(of_cluster(&Netlink::open()?, cluster, bridge).await?.into_iter().map(|(_, name)| name).collect())
}

/// Removes the links that `list` names. Gives how many there were. Again is no error.
pub async fn delete(cluster: &str, bridge: Option<&str>) -> Result<usize, LinksError> {
    let netlink_ = Netlink::open()?;
    let found = of_cluster(&netlink_, cluster, bridge).await?;
    for (index, name) in &found {
        netlink_.delete(*index, name).await?;
    }
    Ok(found.len())
}

async fn of_cluster(
    netlink_: &Netlink,
    cluster: &str,
    bridge: Option<&str>,
) -> Result<Vec<(u32, String)>, LinksError> {
    let alias = link_alias(cluster);
    let pair = bridge.map(|bridge| format!("{bridge}n"));
    let ours = |link: &LinkMessage, name: &str| {
        let aliased =
            link.attributes.iter().any(|a| matches!(a, LinkAttribute::IfAlias(text) if *text == alias));
        aliased || bridge == Some(name) || pair.as_deref().is_some_and(|pair| numbered(name, pair))
    };
    let links = netlink_.links().await?;
    let named = links.iter().filter_map(|link| link_name(link).map(|name| (link, name)));
    Ok(named
        .filter(|(link, name)| ours(link, name))
        .map(|(link, name)| (link.header.index, name.to_owned()))
        .collect())
}

fn numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

fn link_name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn netlink(what: impl Into<String>, source: rtnetlink::Error) -> LinksError {
    LinksError::Netlink { what: what.into(), source }
}

fn code(error: &rtnetlink::Error) -> i32 {
    match error {
        rtnetlink::Error::NetlinkError(ErrorMessage { code: Some(code), .. }) => code.get(),
        _ => 0,
    }
}

/// What is there already is as wanted.
fn twice_is_fine(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if code(&error) == -libc::EEXIST => Ok(()),
        other => other,
    }
}
