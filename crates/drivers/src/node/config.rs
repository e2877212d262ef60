//! The files that a node's containerd reads: its own configuration and the Pod network's. Pure text.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{plan::NodePlan, programs::Programs};

/// The image of the sandbox, which the project builds and imports: nothing is pulled to start a Pod.
pub const SANDBOX_IMAGE: &str = "hitless.dev/pause:1";
/// Name of the bridge of a node's Pods; each node has its own in its own namespace.
pub const POD_BRIDGE: &str = "hlpods";

/// Parts of containerd that no node needs: each costs time at start, or threads while idle. containerd takes the names of parts that
/// it does not have.
const DISABLED: [&str; 8] = [
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.internal.v1.opt",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.internal.v1.tracing",
];

/// How containers' file systems are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshotter {
    /// One layer over another, in the kernel.
    Overlayfs,
    /// Copies: slower and larger, but it works on every file system.
    Native,
}

impl Snapshotter {
    /// containerd's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlayfs => "overlayfs",
            Self::Native => "native",
        }
    }
}

/// What the machine lets a node do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Whether a process may make itself less likely to be killed when memory runs out (CAP_SYS_RESOURCE).
    pub sys_resource: bool,
    /// What works on the data directory.
    pub snapshotter: Snapshotter,
    /// Largest packet on the way to the outside, in bytes.
    pub mtu: u32,
}

/// containerd's directories, which follow from the plan.
#[derive(Clone, Debug)]
pub struct Files {
    /// The configuration.
    pub config: PathBuf,
    /// What outlives the cluster: images.
    pub root: PathBuf,
    /// What does not: tasks.
    pub state: PathBuf,
    /// One directory for each registry, as containerd's `config_path` has them.
    pub registries: PathBuf,
    /// CNI configurations.
    pub cni: PathBuf,
    /// The built-in one.
    pub conflist: PathBuf,
    /// Who containerd is.
    pub identity: PathBuf,
}

impl Files {
    /// The files of a node.
    #[must_use]
    pub fn of(node: &NodePlan) -> Self {
        let cni = node.cni_conf_dir();
        Self {
            config: node.run_dir.join("containerd.toml"),
            root: node.data_dir.join("containerd"),
            state: node.run_dir.join("containerd"),
            registries: node.data_dir.join("registries"),
            conflist: cni.join("90-hitless.conflist"),
            cni,
            identity: node.run_dir.join("containerd.pid"),
        }
    }
}

/// containerd's configuration.
pub fn containerd(node: &NodePlan, programs: &Programs, machine: Machine) -> io::Result<String> {
    let files = Files::of(node);
    let disabled: Vec<_> = DISABLED.iter().map(|name| format!("{name:?}")).collect();
    let snapshotter = machine.snapshotter.name();
    let restrict = !machine.sys_resource;
    Ok(format!(
        r#"version = 2
root = {root}
state = {state}
disabled_plugins = [{disabled}]

[grpc]
address = {socket}

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{SANDBOX_IMAGE}"
restrict_oom_score_adj = {restrict}
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
enable_selinux = false
max_concurrent_downloads = 3

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = {runc}
Root = {runc_root}
SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = {cni_bin}
conf_dir = {cni_conf}
max_conf_num = 1

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = {registries}
"#,
        root = quoted(&files.root)?,
        state = quoted(&files.state)?,
        disabled = disabled.join(", "),
        socket = quoted(&node.socket)?,
        runc = quoted(&programs.runc)?,
        runc_root = quoted(&files.state.join("runc"))?,
        cni_bin = quoted(&programs.cni)?,
        cni_conf = quoted(&files.cni)?,
        registries = quoted(&files.registries)?,
    ))
}

/// The Pod network: a bridge in the node's namespace, addresses from the node's range, host ports. Pods keep their own addresses on the way
/// to other nodes; only the machine's way out changes them (`egress`).
#[must_use]
pub fn conflist(node: &NodePlan, machine: Machine) -> String {
    let list = json!({
        "cniVersion": "1.0.0",
        "name": node.cni_network(),
        "plugins": [
            {
                "type": "bridge",
                "bridge": POD_BRIDGE,
                "isGateway": true,
                "ipMasq": false,
                "hairpinMode": true,
                "mtu": machine.mtu,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": node.pod_cidr.to_string()}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": node.run_dir.join("cni"),
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    });
    format!("{list:#}\n")
}

/// What the node's containerd was told to use; overlayfs, if it was told nothing yet.
#[must_use]
pub(super) fn snapshotter_of(node: &NodePlan) -> Snapshotter {
    let text = fs::read_to_string(Files::of(node).config).unwrap_or_default();
    let native = format!("snapshotter = \"{}\"", Snapshotter::Native.name());
    if text.lines().any(|line| line == native) { Snapshotter::Native } else { Snapshotter::Overlayfs }
}

/// A path as a TOML string. Debug's quoting is TOML's for all that a sensible path holds; anything else is refused.
fn quoted(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some(text) if text.chars().all(|character| !character.is_control()) => {
            Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{path:?} cannot be written into a configuration"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::plan::{ClusterPlan, Paths};

    fn node() -> NodePlan {
        ClusterPlan::new("c", 2, 1, &Paths::default()).unwrap().nodes.remove(0)
    }

    fn programs() -> Programs {
        let at = |name: &str| PathBuf::from("/usr/bin").join(name);
        Programs {
            containerd: at("containerd"),
            ctr: at("ctr"),
            runc: at("runc"),
            nft: at("nft"),
            cni: "/usr/lib/cni".into(),
        }
    }

    fn machine(sys_resource: bool) -> Machine {
        Machine { sys_resource, snapshotter: Snapshotter::Overlayfs, mtu: 1400 }
    }

    #[test]
    fn oom_scores_are_restricted_only_where_they_must_be() {
        let text = |right| containerd(&node(), &programs(), machine(right)).unwrap();
        assert!(text(false).contains("restrict_oom_score_adj = true"));
        assert!(text(true).contains("restrict_oom_score_adj = false"));
        assert!(text(true).contains("address = \"/run/hitless/c/node-1/containerd.sock\""));
    }

    #[test]
    fn pods_get_the_nodes_range_and_keep_their_addresses() {
        let list: serde_json::Value = serde_json::from_str(&conflist(&node(), machine(true))).unwrap();
        let bridge = &list["plugins"][0];
        assert_eq!(list["name"], "hitless.c.node-1");
        assert_eq!(bridge["ipam"]["ranges"][0][0]["subnet"], "10.102.1.0/24");
        assert_eq!((bridge["ipMasq"].as_bool(), bridge["mtu"].as_u64()), (Some(false), Some(1400)));
    }

    #[test]
    fn a_path_is_quoted_or_refused() {
        assert_eq!(quoted(Path::new(r#"/a "b"\c"#)).unwrap(), r#""/a \"b\"\\c""#);
        assert!(quoted(Path::new("/a\nb")).is_err());
    }
}
