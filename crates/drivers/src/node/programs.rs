//! The programs of others that a node needs, and the Debian packages that bring them.

use std::path::{Path, PathBuf};

/// Directories where distributions put programs.
const PROGRAMS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Directories where distributions put CNI's plugins.
const PLUGINS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];
/// The plugins of the built-in Pod network.
const NEEDED_PLUGINS: [&str; 4] = ["bridge", "host-local", "portmap", "loopback"];

/// Where the programs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// `containerd`.
    pub containerd: PathBuf,
    /// containerd's own client, which imports images.
    pub ctr: PathBuf,
    /// `runc`.
    pub runc: PathBuf,
    /// `nft`.
    pub nft: PathBuf,
    /// The directory of CNI's plugins.
    pub cni: PathBuf,
}

/// Programs that are not on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("missing on this machine: {}; install with: apt-get install {}", names.join(", "), packages.join(" "))]
pub struct Missing {
    /// The programs.
    pub names: Vec<String>,
    /// Debian packages that bring them, each once.
    pub packages: Vec<String>,
}

impl Programs {
    /// Looks for all of them, and names all that are missing at once.
    pub fn find() -> Result<Self, Missing> {
        Self::find_in(&PROGRAMS.map(PathBuf::from), &PLUGINS.map(PathBuf::from))
    }

    /// One program by its name, if it is on this machine.
    #[must_use]
    pub fn find_one(name: &str) -> Option<PathBuf> {
        PROGRAMS.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
    }

    fn find_in(programs: &[PathBuf], plugins: &[PathBuf]) -> Result<Self, Missing> {
        let mut missing = Missing { names: Vec::new(), packages: Vec::new() };
        let mut find = |name: &str, package: &str| {
            let found = programs.iter().map(|directory| directory.join(name)).find(|path| path.is_file());
            found.unwrap_or_else(|| {
                missing.add(name, package);
                PathBuf::new()
            })
        };
        let containerd = find("containerd", "containerd");
        let ctr = find("ctr", "containerd");
        find("containerd-shim-runc-v2", "containerd");
        let runc = find("runc", "runc");
        let nft = find("nft", "nftables");
        // The plugin `portmap` calls it for Pods with host ports.
        find("iptables", "iptables");
        let whole = |directory: &&PathBuf| lacking(directory).is_empty();
        let cni = plugins.iter().find(whole).cloned().unwrap_or_else(|| {
            for name in plugins.first().map(|directory| lacking(directory)).unwrap_or_default() {
                missing.add(&format!("CNI plugin {name}"), "containernetworking-plugins");
            }
            PathBuf::new()
        });
        let found = Self { containerd, ctr, runc, nft, cni };
        if missing.names.is_empty() { Ok(found) } else { Err(missing) }
    }
}

impl Missing {
    fn add(&mut self, name: &str, package: &str) {
        self.names.push(name.to_owned());
        if self.packages.iter().all(|known| known != package) {
            self.packages.push(package.to_owned());
        }
    }
}

fn lacking(directory: &Path) -> Vec<&'static str> {
    NEEDED_PLUGINS.into_iter().filter(|name| !directory.join(name).is_file()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn all_that_is_missing_is_named_at_once_with_its_packages() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().to_owned();
        for name in ["containerd", "runc", "bridge", "nft", "iptables"] {
            fs::write(place.join(name), "").unwrap();
        }
        let missing =
            Programs::find_in(std::slice::from_ref(&place), std::slice::from_ref(&place)).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "missing on this machine: ctr, containerd-shim-runc-v2, CNI plugin host-local, CNI plugin portmap, CNI plugin \
             loopback; install with: apt-get install containerd containernetworking-plugins"
        );
    }

    #[test]
    fn this_machine_has_them() {
        let found = Programs::find().unwrap();
        assert!(found.cni.join("bridge").is_file() && found.containerd.is_file());
    }
}
