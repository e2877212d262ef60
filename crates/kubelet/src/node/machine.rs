//! What the machine is and has, read from `/proc` and `/etc`.

use std::{fs, path::Path};

use crate::options::Capacity;

/// Pods on one node at most, as in Kubernetes.
const PODS_MAX: i64 = 110;

/// What the machine is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The board's id; the machine's where that cannot be read.
    pub system_uuid: String,
    /// Changes with each boot.
    pub boot_id: String,
    /// `6.1.0`.
    pub kernel_version: String,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub os_image: String,
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default()
}

/// Architecture as Kubernetes names it.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn here() -> Self {
        let machine_id = read("/etc/machine-id");
        let board = read("/sys/class/dmi/id/product_uuid");
        Self {
            system_uuid: if board.is_empty() { machine_id.clone() } else { board },
            machine_id,
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            kernel_version: read("/proc/sys/kernel/osrelease"),
            os_image: pretty_name(&read("/etc/os-release")),
        }
    }
}

fn pretty_name(os_release: &str) -> String {
    let line = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    line.map(|v| v.trim_matches('"').to_owned()).unwrap_or_default()
}

fn meminfo_bytes(meminfo: &str, field: &str) -> Option<i64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().trim_end_matches("kB").trim().parse::<i64>().ok().map(|kb| kb * 1024)
}

/// Total and free bytes of the file system that holds `dir`.
#[must_use]
pub fn disk_bytes(dir: &Path) -> Option<(i64, i64)> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX);
    Some((bytes(stat.f_blocks), bytes(stat.f_bavail)))
}

/// What this machine has.
#[must_use]
pub fn capacity(root_dir: &Path) -> Capacity {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Capacity {
        cpu_milli: i64::try_from(cpus).unwrap_or(1) * 1000,
        memory_bytes: meminfo_bytes(&read("/proc/meminfo"), "MemTotal").unwrap_or(0),
        pods: PODS_MAX,
        ephemeral_storage_bytes: disk_bytes(root_dir).map_or(0, |(total, _)| total),
    }
}

/// What is short on the machine now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Less than 100 MiB of memory can be had.
    pub memory: bool,
    /// Less than a twentieth of the disk is free.
    pub disk: bool,
    /// Less than a twentieth of the process ids are free.
    pub pid: bool,
}

impl Pressure {
    /// Now.
    #[must_use]
    pub fn now(root_dir: &Path) -> Self {
        const MEMORY_BYTES_MIN: i64 = 100 * 1024 * 1024;
        let available = meminfo_bytes(&read("/proc/meminfo"), "MemAvailable");
        let pid_max: i64 = read("/proc/sys/kernel/pid_max").parse().unwrap_or(i64::MAX);
        Self {
            memory: available.is_some_and(|a| a < MEMORY_BYTES_MIN),
            disk: disk_bytes(root_dir).is_some_and(|(total, free)| free < total / 20),
            pid: tasks(&read("/proc/loadavg")).is_some_and(|t| t > pid_max - pid_max / 20),
        }
    }
}

/// Tasks of the machine: the number behind the slash of `1/234`.
fn tasks(loadavg: &str) -> Option<i64> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings() {
        let meminfo = "MemTotal:        8000 kB\nMemAvailable:    10 kB\n";
        assert_eq!(meminfo_bytes(meminfo, "MemTotal"), Some(8_192_000));
        assert_eq!(meminfo_bytes(meminfo, "Mem"), None);
        assert_eq!(pretty_name("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        assert_eq!(tasks("0.1 0.2 0.3 2/321 4567"), Some(321));
    }

    #[test]
    fn this_machine_has_something() {
        let c = capacity(Path::new("/"));
        assert!(c.cpu_milli >= 1000 && c.memory_bytes > 0 && c.ephemeral_storage_bytes > 0);
    }
}
