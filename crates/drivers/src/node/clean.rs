//! Takes away whatever is left of a cluster, found by asking the kernel and not by remembering.
//!
//! Works after a kill -9 of everything, from the cluster's name alone, and again and again. What stays is the data directory:
//! images, logs and the store outlive a cluster; `purge` removes them too.
//!
//! The order matters: processes first (they hold everything else open), then mounts, namespaces, links, cgroups, files, and last
//! the slot, so that no other cluster takes the addresses before they are free.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    cgroup::{CgroupPath, Cgroups},
    egress, links, mounts, netns,
    plan::{self, Paths, PlanError},
    programs::Programs,
    slots,
};

/// How long processes may take to end after SIGKILL.
const KILL_BOUND: Duration = Duration::from_secs(10);
/// How long a cgroup may stay busy after its last process has ended.
const RMDIR_BOUND: Duration = Duration::from_secs(5);
/// Where containerd's shims have their sockets, whatever containerd's own directories are.
const SHIM_SOCKETS: &str = "/run/containerd/s";
/// Where CNI keeps results, whatever containerd's own directories are.
const CNI_RESULTS: &str = "/var/lib/cni/results";

/// What was found of a cluster; by `sweep`, and taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Processes in the cluster's cgroups, the caller's own left out.
    pub processes: usize,
    /// Mounts in its directories.
    pub mounts: usize,
    /// Its network namespaces.
    pub namespaces: usize,
    /// Its links in the machine's own network namespace.
    pub links: usize,
    /// Its nftables tables in the machine's own network namespace.
    pub tables: usize,
    /// Its cgroups, in the hierarchy with the most.
    pub cgroups: usize,
    /// Files of others that are named after it or belong to its containers, and its run directory.
    pub files: usize,
    /// What could not be taken away, and why: one sentence each. Empty: nothing is left.
    pub left: Vec<String>,
}

impl Report {
    /// Whether there was nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn note<T, E: std::error::Error>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.left.push(hitless_base::chain(&error))).ok()
    }
}

/// Says what there is of the cluster without touching it. `left` then holds what could not be asked.
pub async fn survey(name: &str, paths: &Paths) -> Result<Report, PlanError> {
    plan::check_name(name)?;
    let mut report = Report::default();
    let tree = CgroupPath::of_cluster(name);
    if let Some(cgroups) = report.note(Cgroups::detect()) {
        let own = std::process::id().cast_signed();
        let pids = report.note(cgroups.pids(&tree)).unwrap_or_default();
        report.processes = pids.into_iter().filter(|pid| *pid != own).count();
        report.cgroups = report.note(cgroups.count(&tree)).unwrap_or_default();
    }
    report.mounts = report.note(mounts::inside(&directories(name, paths))).unwrap_or_default().len();
    report.namespaces = report.note(netns::list(&plan::netns_prefix(name))).unwrap_or_default().len();
    let bridge = bridge(name, paths, &mut report);
    report.links = report.note(links::list(name, bridge.as_deref()).await).unwrap_or_default().len();
    if let Some(nft) = nft() {
        report.tables = report.note(egress::exists(&nft, name)).unwrap_or_default().into();
    }
    report.files = files(name, paths).len() + usize::from(paths.run_of(name).exists());
    Ok(report)
}

/// Takes everything away but the data directory. Ends every process in the cluster's cgroups but the caller, at once: whoever wants a
/// graceful end sees to it before.
pub async fn sweep(name: &str, paths: &Paths) -> Result<Report, PlanError> {
    let mut report = survey(name, paths).await?;
    report.left.clear();
    let tree = CgroupPath::of_cluster(name);
    let cgroups = report.note(Cgroups::detect());
    if let Some(cgroups) = &cgroups {
        report.note(cgroups.leave(&tree));
        report.note(cgroups.kill(&tree, Duration::ZERO, KILL_BOUND).await);
    }
    let unmounted = mounts::unmount_all(&directories(name, paths));
    let unmounted = report.note(unmounted).is_some();
    for namespace in report.note(netns::list(&plan::netns_prefix(name))).unwrap_or_default() {
        report.note(netns::delete(&namespace));
    }
    let bridge = bridge(name, paths, &mut report);
    report.note(links::delete(name, bridge.as_deref()).await);
    if let Some(nft) = nft().filter(|_| report.tables > 0) {
        report.note(egress::down(&nft, name));
    }
    if let Some(cgroups) = &cgroups {
        report.note(cgroups.remove(&tree, RMDIR_BOUND).await);
    }
    for file in files(name, paths) {
        report.note(remove(&file));
    }
    // Never through a mount: what it shows may be somebody's own.
    if unmounted {
        report.note(remove(&paths.run_of(name)));
    }
    if report.left.is_empty() {
        report.note(slots::release(name, paths));
    }
    Ok(report)
}

/// Removes the cluster's data directory: images, logs, the store. After `sweep` only. Again is no error.
pub fn purge(name: &str, paths: &Paths) -> io::Result<()> {
    plan::check_name(name).map_err(io::Error::other)?;
    let data = paths.data_of(name);
    let mounted = mounts::inside(std::slice::from_ref(&data))?;
    match mounted.first() {
        None => remove(&data),
        Some(mount) => Err(io::Error::other(format!("{mount:?} is still mounted"))),
    }
}

/// Names of all clusters of which something is on this machine.
pub fn clusters(paths: &Paths) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for namespace in netns::list("hitless.")? {
        names.extend(namespace.split('.').nth(1).map(str::to_owned));
    }
    match fs::read_dir(&paths.run) {
        Ok(entries) => {
            names.extend(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    names.retain(|name| plan::check_name(name).is_ok());
    names.sort();
    names.dedup();
    Ok(names)
}

fn directories(name: &str, paths: &Paths) -> [PathBuf; 2] {
    [paths.run_of(name), paths.data_of(name)]
}

fn bridge(name: &str, paths: &Paths, report: &mut Report) -> Option<String> {
    report.note(slots::of_cluster(name, paths)).flatten().map(plan::bridge)
}

fn nft() -> Option<PathBuf> {
    Programs::find_one("nft")
}

/// What containerd and CNI keep outside the cluster's directories. CNI names what it keeps after the network and the sandbox, and the
/// loopback's network is called the same everywhere; so it takes the sandboxes' ids to know whose it is.
fn files(name: &str, paths: &Paths) -> Vec<PathBuf> {
    let run = paths.run_of(name);
    let mut found = shim_sockets(&run);
    let network = plan::netns_prefix(name);
    let sandboxes: Vec<String> = list(&run)
        .flat_map(|node| list(&node.join("containerd/io.containerd.grpc.v1.cri/sandboxes")))
        .filter_map(|directory| directory.file_name()?.to_str().map(str::to_owned))
        .collect();
    let ours =
        |file: &str| file.starts_with(&network) || sandboxes.iter().any(|id| file.contains(id.as_str()));
    found.extend(
        list(Path::new(CNI_RESULTS))
            .filter(|path| path.file_name().is_some_and(|file| ours(&file.to_string_lossy()))),
    );
    found
}

/// What lies in a directory; nothing, if there is no such directory.
fn list(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Each task's directory (`RUN/NODE/containerd/io.containerd.runtime.v2.task/NAMESPACE/ID`) says where its shim listens.
fn shim_sockets(run: &Path) -> Vec<PathBuf> {
    let list = |directory: PathBuf| {
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
    };
    list(run.to_owned())
        .flat_map(|node| list(node.join("containerd/io.containerd.runtime.v2.task")))
        .flat_map(list)
        .filter_map(|task| fs::read_to_string(task.join("address")).ok())
        .filter_map(|address| address.trim().strip_prefix("unix://").map(PathBuf::from))
        .filter(|socket| socket.starts_with(SHIM_SOCKETS) && socket.exists())
        .collect()
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
