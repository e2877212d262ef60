//! cgroups, version 1 (each controller mounted by itself), version 2, and both beside each other.
//!
//! Everything that a cluster starts lives below `/hitless-NAME` in every hierarchy, so that whatever is left after a crash is
//! found by asking the kernel. Processes go into leaves only (`engine`, `agents/NODE`, `NODE/containerd`), as version 2 demands of
//! a tree whose other branches (`NODE/pods`) get controllers.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use hitless_base::Backoff;
use tokio::time::Instant;

use super::mounts::{self, MountInfo};
use crate::pidfd::Pidfd;

/// Controllers that version 2 hands down a tree only on request.
const CONTROLLERS: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];

/// A path within the cgroup hierarchies, `/hitless-NAME/...`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupPath(String);

impl CgroupPath {
    /// The tree of a cluster.
    #[must_use]
    pub fn of_cluster(name: &str) -> Self {
        Self(format!("/hitless-{name}"))
    }
    /// A group below this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self(format!("{}/{name}", self.0))
    }
    /// With its leading slash, as CRI's `cgroup_parent` wants it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    fn relative(&self) -> &str {
        self.0.trim_start_matches('/')
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A cgroup could not be made, filled or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No hierarchy is mounted.
    #[error("no cgroup hierarchy is mounted: mount cgroup2 on /sys/fs/cgroup")]
    None,
    /// The kernel refused.
    #[error("cannot {verb} the cgroup {path:?}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The directory or file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Processes outlived SIGKILL for the time given.
    #[error("processes {pids:?} in the cgroup {path} did not end within {bound_s} s of SIGKILL")]
    Alive {
        /// The tree.
        path: CgroupPath,
        /// Those that are left.
        pids: Vec<i32>,
        /// The bound in seconds.
        bound_s: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    root: PathBuf,
    version: Version,
    cpuset: bool,
}

/// The hierarchies that are mounted on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups(Vec<Hierarchy>);

impl Cgroups {
    /// Asks the kernel which hierarchies are mounted.
    pub fn detect() -> Result<Self, CgroupError> {
        let mounts = mounts::read().map_err(|source| CgroupError::Io {
            verb: "find",
            path: mounts::MOUNTINFO.into(),
            source,
        })?;
        Self::of_mounts(&mounts)
    }

    fn of_mounts(mounts: &[MountInfo]) -> Result<Self, CgroupError> {
        let mut found: Vec<Hierarchy> = Vec::new();
        for mount in mounts {
            let version = match mount.file_system.as_str() {
                "cgroup" => Version::V1,
                "cgroup2" => Version::V2,
                _ => continue,
            };
            let cpuset =
                version == Version::V1 && mount.super_options.split(',').any(|word| word == "cpuset");
            // The same hierarchy may be mounted at several places (for a container, say); the first is the machine's own.
            if found.iter().all(|known| known.root != mount.path) && !mounts::seen_before(mounts, mount) {
                found.push(Hierarchy { root: mount.path.clone(), version, cpuset });
            }
        }
        if found.is_empty() { Err(CgroupError::None) } else { Ok(Self(found)) }
    }

    /// Makes the group, and those above it, in every hierarchy. Again is no error.
    pub fn create(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        for hierarchy in &self.0 {
            let mut directory = hierarchy.root.clone();
            for part in path.relative().split('/') {
                hand_down(hierarchy, &directory);
                let parent = directory.clone();
                directory.push(part);
                match fs::create_dir(&directory) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(source) => return Err(CgroupError::Io { verb: "make", path: directory, source }),
                }
                if hierarchy.cpuset {
                    inherit_cpuset(&parent, &directory)?;
                }
            }
        }
        Ok(())
    }

    /// Gives the group `times` the ordinary share of the processors, against its siblings and under load only.
    /// A hierarchy without the `cpu` controller is passed over.
    pub fn prefer(&self, path: &CgroupPath, times: u32) -> Result<(), CgroupError> {
        for directory in self.directories(path) {
            for (file, ordinary) in [("cpu.shares", 1024), ("cpu.weight", 100)] {
                let path = directory.join(file);
                if path.exists() {
                    let write = fs::write(&path, (ordinary * times).to_string());
                    write.map_err(|source| CgroupError::Io { verb: "weigh", path, source })?;
                }
            }
        }
        Ok(())
    }

    /// The files into which a process writes `0` to enter the group.
    #[must_use]
    pub fn entrances(&self, path: &CgroupPath) -> Vec<PathBuf> {
        self.directories(path).map(|directory| directory.join("cgroup.procs")).collect()
    }

    /// Puts a process into the group in every hierarchy.
    pub fn add(&self, path: &CgroupPath, pid: u32) -> Result<(), CgroupError> {
        for file in self.entrances(path) {
            fs::write(&file, pid.to_string()).map_err(|source| CgroupError::Io {
                verb: "enter",
                path: file,
                source,
            })?;
        }
        Ok(())
    }

    /// All processes in the group and below, in any hierarchy.
    pub fn pids(&self, path: &CgroupPath) -> Result<BTreeSet<i32>, CgroupError> {
        let mut pids = BTreeSet::new();
        for directory in self.directories(path) {
            for group in below(&directory)? {
                let file = group.join("cgroup.procs");
                match fs::read_to_string(&file) {
                    // A zero stands for a process of another pid namespace.
                    Ok(text) => pids.extend(
                        text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0),
                    ),
                    Err(error) if gone(&error) || error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                    Err(source) => return Err(CgroupError::Io { verb: "read", path: file, source }),
                }
            }
        }
        Ok(pids)
    }

    /// How many groups the tree has, in the hierarchy with the most.
    pub fn count(&self, path: &CgroupPath) -> Result<usize, CgroupError> {
        let mut most = 0;
        for directory in self.directories(path) {
            most = most.max(below(&directory)?.len());
        }
        Ok(most)
    }

    /// Takes the calling process out of the tree, if it is in it, so that the tree can be removed.
    pub fn leave(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        let own = std::process::id();
        if !self.pids(path)?.contains(&own.cast_signed()) {
            return Ok(());
        }
        for hierarchy in &self.0 {
            let file = hierarchy.root.join("cgroup.procs");
            fs::write(&file, own.to_string()).map_err(|source| CgroupError::Io {
                verb: "enter",
                path: file,
                source,
            })?;
        }
        Ok(())
    }

    /// Whether the group exists in any hierarchy.
    #[must_use]
    pub fn exists(&self, path: &CgroupPath) -> bool {
        self.directories(path).any(|directory| directory.exists())
    }

    /// Ends every process of the tree but the caller: SIGTERM, and SIGKILL to what runs after `grace` (at once, if that
    /// is zero). Gives how many were found. Fails if some outlive SIGKILL by `bound`.
    pub async fn kill(
        &self,
        path: &CgroupPath,
        grace: Duration,
        bound: Duration,
    ) -> Result<usize, CgroupError> {
        let mut seen = BTreeSet::new();
        if !grace.is_zero() {
            self.kill_for(path, libc::SIGTERM, grace, &mut seen).await?;
        }
        let left = self.kill_for(path, libc::SIGKILL, bound, &mut seen).await?;
        if left.is_empty() {
            return Ok(seen.len());
        }
        Err(CgroupError::Alive { path: path.clone(), pids: left, bound_s: bound.as_secs() })
    }

    /// Sends `signal` to each process once (SIGKILL: again and again, for what is forked meanwhile) until none is left or the time is up.
    async fn kill_for(
        &self,
        path: &CgroupPath,
        signal: i32,
        bound: Duration,
        seen: &mut BTreeSet<i32>,
    ) -> Result<Vec<i32>, CgroupError> {
        let own = std::process::id().cast_signed();
        let end = Instant::now() + bound;
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(50));
        let mut told = BTreeSet::new();
        loop {
            let mut left = self.pids(path)?;
            left.remove(&own);
            for pid in &left {
                if signal == libc::SIGKILL || told.insert(*pid) {
                    self.signal_member(path, *pid, signal);
                }
            }
            seen.extend(&left);
            if left.is_empty() || Instant::now() >= end {
                return Ok(left.into_iter().collect());
            }
            tokio::time::sleep(backoff.step()).await;
        }
    }

    /// Signals the process if it still is in the tree, so that a pid used again is never hit.
    fn signal_member(&self, path: &CgroupPath, pid: i32, signal: i32) {
        let Ok(Some(process)) = Pidfd::open(pid) else { return };
        let inside = |line: &str| {
            let place = line.splitn(3, ':').nth(2).unwrap_or_default();
            place.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let member =
            fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.lines().any(inside));
        // In a cgroup namespace the path reads otherwise; then the listing of a moment ago must do.
        let listed = || self.pids(path).is_ok_and(|pids| pids.contains(&pid));
        if member || listed() {
            let _ended = process.send(signal);
        }
    }

    /// Removes the tree, lowest groups first, waiting a moment for those that are still busy. Gives how many groups there were
    /// (in the hierarchy with the most). Processes must have ended before; a group stays busy for a moment after its last one has,
    /// and is waited for until `bound`. Again is no error.
    pub async fn remove(&self, path: &CgroupPath, bound: Duration) -> Result<usize, CgroupError> {
        let mut most = 0;
        let end = Instant::now() + bound;
        for directory in self.directories(path) {
            let groups = below(&directory)?;
            most = most.max(groups.len());
            for group in groups.iter().rev() {
                remove_one(group, end).await?;
            }
        }
        Ok(most)
    }

    fn directories(&self, path: &CgroupPath) -> impl Iterator<Item = PathBuf> {
        self.0.iter().map(|hierarchy| hierarchy.root.join(path.relative()))
    }
}

async fn remove_one(group: &Path, end: Instant) -> Result<(), CgroupError> {
    let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(50));
    loop {
        match fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(error) if gone(&error) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < end => {
                tokio::time::sleep(backoff.step()).await;
            }
            Err(source) => return Err(CgroupError::Io { verb: "remove", path: group.to_owned(), source }),
        }
    }
}

/// Version 2: lets the children of `directory` have controllers. What the kernel does not have or does not allow here is left
/// out; runc then says what it lacks.
fn hand_down(hierarchy: &Hierarchy, directory: &Path) {
    if hierarchy.version == Version::V2 {
        for controller in CONTROLLERS {
            let _refused = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

/// Version 1: a new cpuset group has no processors and no memory nodes, and no process can enter it.
fn inherit_cpuset(parent: &Path, child: &Path) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let path = child.join(file);
        let copied = fs::read_to_string(&path).and_then(|own| match own.trim() {
            "" => fs::read_to_string(parent.join(file)).and_then(|above| fs::write(&path, above.trim())),
            _ => Ok(()),
        });
        copied.map_err(|source| CgroupError::Io { verb: "set up", path, source })?;
    }
    Ok(())
}

/// `directory` and every directory below it, parents first; empty if it does not exist.
fn below(directory: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        match fs::read_dir(&next) {
            Ok(entries) => {
                open.extend(
                    entries
                        .flatten()
                        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                        .map(|entry| entry.path()),
                );
                found.push(next);
            }
            Err(error) if gone(&error) => {}
            Err(source) => return Err(CgroupError::Io { verb: "read", path: next, source }),
        }
    }
    Ok(found)
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn of(text: &str) -> Result<Cgroups, CgroupError> {
        Cgroups::of_mounts(&mounts::parse(text))
    }

    fn roots(cgroups: &Cgroups) -> Vec<(&str, Version, bool)> {
        cgroups.0.iter().map(|h| (h.root.to_str().unwrap(), h.version, h.cpuset)).collect()
    }

    #[test]
    fn hierarchies_are_those_that_are_mounted() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      34 31 0:31 / /sys/fs/cgroup/cpuset rw shared:9 - cgroup cgroup rw,cpuset\n\
                      40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      90 31 0:31 / /run/pod/cpuset rw - cgroup cgroup rw,cpuset\n";
        assert_eq!(
            roots(&of(hybrid).unwrap()),
            [
                ("/sys/fs/cgroup/cpuset", Version::V1, true),
                ("/sys/fs/cgroup/systemd", Version::V1, false),
                ("/sys/fs/cgroup/unified", Version::V2, false)
            ]
        );
        let pure = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(roots(&of(pure).unwrap()), [("/sys/fs/cgroup", Version::V2, false)]);
        assert!(matches!(of("22 27 0:21 / /proc rw - proc proc rw\n"), Err(CgroupError::None)));
    }

    /// A tree of the machine's own cgroups that is gone when the test ends.
    struct Tree(CgroupPath, Cgroups, Vec<Child>);

    impl Tree {
        fn new(name: &str) -> Self {
            Self(CgroupPath::of_cluster(name), Cgroups::detect().unwrap(), Vec::new())
        }
        /// Runs a shell command in the group, and waits for the line by which it says that it is ready.
        fn sleeper(&mut self, path: &CgroupPath, command: &str) -> u32 {
            let mut shell = Command::new("sh");
            let mut child = shell.args(["-c", command]).stdout(Stdio::piped()).spawn().unwrap();
            io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
            self.1.add(path, child.id()).unwrap();
            self.2.push(child);
            self.2.last().unwrap().id()
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            for child in &mut self.2 {
                let _gone = child.kill();
                let _reaped = child.wait();
            }
            for directory in self.1.directories(&self.0) {
                for group in below(&directory).unwrap_or_default().iter().rev() {
                    let _gone = fs::remove_dir(group);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_tree_is_filled_listed_emptied_and_removed() {
        let mut tree = Tree::new("test-cgroup-tree");
        let leaf = tree.0.child("node-1").child("agent");
        tree.1.create(&leaf).unwrap();
        tree.1.create(&leaf).unwrap();
        let pid = tree.sleeper(&leaf, "echo; exec sleep 60").cast_signed();
        assert_eq!(tree.1.pids(&tree.0).unwrap(), BTreeSet::from([pid]));
        assert!(
            tree.1.remove(&leaf, Duration::from_millis(20)).await.is_err(),
            "a group with a process in it was removed"
        );
        // The zombie stays in the group until it is reaped, so reaping and killing go side by side.
        let mut child = tree.2.pop().unwrap();
        let reaped = tokio::task::spawn_blocking(move || child.wait());
        let killed = tree.1.kill(&tree.0, Duration::from_secs(10), Duration::from_secs(10)).await.unwrap();
        assert_eq!(killed, 1);
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(reaped.await.unwrap().unwrap().signal(), Some(libc::SIGTERM), "SIGTERM was enough");
        assert_eq!(tree.1.remove(&tree.0, Duration::from_secs(10)).await.unwrap(), 3);
        assert!(!tree.1.exists(&tree.0));
        assert_eq!(tree.1.remove(&tree.0, Duration::from_secs(10)).await.unwrap(), 0);
        assert_eq!(tree.1.kill(&tree.0, Duration::ZERO, Duration::ZERO).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_ignores_sigterm_is_killed_and_nobody_outside_is() {
        let mut tree = Tree::new("test-cgroup-kill");
        let (inside, outside) = (tree.0.child("a"), CgroupPath::of_cluster("test-cgroup-kill-other"));
        let mut other = Tree::new("test-cgroup-kill-other");
        tree.1.create(&inside).unwrap();
        other.1.create(&outside).unwrap();
        tree.sleeper(&inside, "trap '' TERM; echo; while :; do sleep 0.05; done");
        let bystander = other.sleeper(&outside, "echo; exec sleep 60").cast_signed();
        let mut child = tree.2.pop().unwrap();
        let reaped = tokio::task::spawn_blocking(move || child.wait());
        tree.1.kill(&tree.0, Duration::from_millis(100), Duration::from_secs(10)).await.unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(reaped.await.unwrap().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(other.1.pids(&outside).unwrap(), BTreeSet::from([bystander]));
    }
}
