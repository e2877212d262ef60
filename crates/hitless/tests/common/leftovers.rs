//! What is left of a cluster on this machine, found without the product's own eyes: a cleaner that overlooks something would not see
//! it in its own report either.

use std::{fs, path::Path, process::Command};

/// One line for each thing that bears the cluster's name or lies in its directories; empty when nothing is left.
pub fn of(cluster: &str, data_dir: &Path) -> Vec<String> {
    let run_dir = format!("/run/hitless/{cluster}");
    let data_dir = data_dir.join(cluster).display().to_string();
    let ours = |text: &str| text.contains(&run_dir) || text.contains(&data_dir);
    let mut left = Vec::new();
    if Path::new(&run_dir).exists() {
        left.push(format!("directory {run_dir}"));
    }
    for name in names("/run/netns") {
        if name.starts_with(&format!("hitless.{cluster}.")) {
            left.push(format!("network namespace {name}"));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let netns = format!("/run/netns/hitless.{cluster}.");
    left.extend(mounts.lines().filter(|l| ours(l) || l.contains(&netns)).map(|line| format!("mount {line}")));
    for pid in names("/proc").into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let cgroup = String::from_utf8_lossy(&read("cgroup")).into_owned();
        if String::from_utf8_lossy(&read("stat")).contains(") Z ") {
            // It has ended; process 1 takes its exit code when it gets round to it.
            continue;
        }
        let named = command.contains(&format!(" engine --name {cluster} "));
        if ours(&command) || named || cgroup.contains(&format!("/hitless-{cluster}")) {
            left.push(format!("process {pid}: {command}"));
        }
    }
    for directory in cgroups(Path::new("/sys/fs/cgroup"), 1) {
        if directory.ends_with(&format!("/hitless-{cluster}")) {
            left.push(format!("cgroup {directory}"));
        }
    }
    for link in names("/sys/class/net") {
        let alias = fs::read_to_string(format!("/sys/class/net/{link}/ifalias")).unwrap_or_default();
        if alias.trim() == format!("hitless:{cluster}") {
            left.push(format!("link {link}"));
        }
    }
    let tables = output("nft", &["list", "tables"]);
    left.extend(tables.lines().filter(|line| line.contains(cluster)).map(str::to_owned));
    left
}

/// cgroup v1 has a hierarchy for each controller, v2 a single one: so to a depth of two.
fn cgroups(directory: &Path, depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            found.push(path.display().to_string());
            if depth > 0 {
                found.extend(cgroups(&path, depth - 1));
            }
        }
    }
    found
}

fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}");
    String::from_utf8(output.stdout).unwrap()
}
