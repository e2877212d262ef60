//! A container's resources as cgroup figures, and the Pod's place in the tree of cgroups.
//!
//! See <https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/> and
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#node-out-of-memory-behavior>.

use std::{fs, io, path::Path};

use hitless_types::{
    quantity::Quantity,
    resources::{is_sidecar, pod_requests, qos_class},
};
use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::ports::Resources;

const SHARES_PER_CPU: i64 = 1024;
const SHARES_MIN: i64 = 2;
const SHARES_MAX: i64 = 262_144;
const QUOTA_PERIOD_US: i64 = 100_000;
const QUOTA_MIN_US: i64 = 1000;

fn amount(container: &Container, limits: bool, name: &str) -> Option<Quantity> {
    let resources = container.resources.as_ref()?;
    let list = if limits { resources.limits.as_ref() } else { resources.requests.as_ref() };
    list?.get(name)?.0.parse().ok().filter(|q: &Quantity| !q.is_zero())
}

/// Figures for one container. `node_memory_bytes` weighs its share of memory for the OOM killer.
#[must_use]
pub fn resources(spec: &PodSpec, container: &Container, node_memory_bytes: i64) -> Resources {
    let request = amount(container, false, "cpu").or_else(|| amount(container, true, "cpu"));
    let cpu_milli = request.map_or(0, |q| q.milli());
    let shares = (cpu_milli.saturating_mul(SHARES_PER_CPU) / 1000).clamp(SHARES_MIN, SHARES_MAX);
    let quota = amount(container, true, "cpu")
        .map_or(0, |q| (q.milli().saturating_mul(QUOTA_PERIOD_US) / 1000).max(QUOTA_MIN_US));
    Resources {
        cpu_shares: shares,
        cpu_quota_us: quota,
        cpu_period_us: if quota > 0 { QUOTA_PERIOD_US } else { 0 },
        memory_limit_bytes: amount(container, true, "memory").map_or(0, |q| q.bytes()),
        oom_score_adj: oom_score_adj(spec, container, node_memory_bytes),
    }
}

fn oom_score_adj(spec: &PodSpec, container: &Container, node_memory_bytes: i64) -> i64 {
    const GUARANTEED: i64 = -997;
    const BEST_EFFORT: i64 = 1000;
    let critical = spec.priority.unwrap_or(0) >= 2_000_000_000;
    match qos_class(spec) {
        _ if critical => GUARANTEED,
        "Guaranteed" => GUARANTEED,
        "BestEffort" => BEST_EFFORT,
        _ => {
            let request = amount(container, false, "memory").map_or(0, |q| q.bytes());
            let share = request.saturating_mul(1000) / node_memory_bytes.max(1);
            (1000 - share).clamp(1000 + GUARANTEED, BEST_EFFORT - 1)
        }
    }
}

/// The Pod's cgroup under `parent`.
#[must_use]
pub fn pod_cgroup(parent: &str, spec: &PodSpec, uid: &str) -> String {
    let parent = parent.trim_end_matches('/');
    match qos_class(spec) {
        "Guaranteed" => format!("{parent}/pod{uid}"),
        "BestEffort" => format!("{parent}/besteffort/pod{uid}"),
        _ => format!("{parent}/burstable/pod{uid}"),
    }
}

/// Figures of a Pod's own group: what all its containers have together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodFigures {
    /// CPU weight on cgroup v1's scale.
    pub cpu_shares: i64,
    /// CPU quota in microseconds for each [`QUOTA_PERIOD_US`]; only if every container has a limit.
    pub cpu_quota_us: Option<i64>,
    /// Memory limit in bytes; only if every container has one.
    pub memory_limit_bytes: Option<i64>,
}

/// The Pod's own figures, as Kubernetes works them out.
#[must_use]
pub fn pod_figures(spec: &PodSpec) -> PodFigures {
    let requests = pod_requests(spec);
    let limit = |name: &str, of: fn(&Quantity) -> i64| -> Option<i64> {
        let all = |list: &[Container]| list.iter().map(|c| amount(c, true, name).map(|q| of(&q))).collect();
        let (inits, mains): (Option<Vec<i64>>, Option<Vec<i64>>) =
            (all(spec.init_containers.as_deref().unwrap_or_default()), all(&spec.containers));
        let (inits, mains) = (inits?, mains?);
        let inits = spec.init_containers.iter().flatten().zip(&inits);
        let (beside, alone): (Vec<_>, Vec<_>) = inits.partition(|(c, _)| is_sidecar(c));
        let beside: i64 = beside.into_iter().map(|(_, amount)| *amount).sum();
        // An init container runs beside the sidecars at most; the main ones run beside them all.
        let greatest = alone.into_iter().map(|(_, amount)| *amount).max().unwrap_or(0).saturating_add(beside);
        Some(mains.iter().sum::<i64>().saturating_add(beside).max(greatest)).filter(|sum| *sum > 0)
    };
    let shares = (requests.cpu_milli.saturating_mul(SHARES_PER_CPU) / 1000).clamp(SHARES_MIN, SHARES_MAX);
    PodFigures {
        cpu_shares: shares,
        cpu_quota_us: limit("cpu", Quantity::milli)
            .map(|milli| (milli.saturating_mul(QUOTA_PERIOD_US) / 1000).max(QUOTA_MIN_US)),
        memory_limit_bytes: limit("memory", Quantity::bytes),
    }
}

/// Makes the Pod's group and writes its figures, before anything runs in it.
///
/// # Errors
/// A file cannot be written.
pub fn write_pod_cgroup(cgroup_fs: &Path, pod_cgroup: &str, figures: &PodFigures) -> io::Result<()> {
    let group = Path::new(pod_cgroup.trim_start_matches('/'));
    if cgroup_fs.join("cgroup.controllers").exists() {
        return write_v2(cgroup_fs, group, figures);
    }
    let quota = figures.cpu_quota_us.unwrap_or(-1).to_string();
    let memory = figures.memory_limit_bytes.map(|bytes| bytes.to_string());
    let files = [
        ("cpu", "cpu.shares", Some(figures.cpu_shares.to_string())),
        ("cpu", "cpu.cfs_period_us", Some(QUOTA_PERIOD_US.to_string())),
        ("cpu", "cpu.cfs_quota_us", Some(quota)),
        ("memory", "memory.limit_in_bytes", memory),
    ];
    for (controller, file, text) in files {
        let tree = cgroup_fs.join(controller);
        if let Some(text) = text.filter(|_| tree.exists()) {
            fs::create_dir_all(tree.join(group))?;
            fs::write(tree.join(group).join(file), text)?;
        }
    }
    Ok(())
}

fn write_v2(cgroup_fs: &Path, group: &Path, figures: &PodFigures) -> io::Result<()> {
    let directory = cgroup_fs.join(group);
    fs::create_dir_all(&directory)?;
    // A group has a controller's files only where every group above hands the controller down.
    let above: Vec<&Path> = group.ancestors().skip(1).collect();
    for parent in above.into_iter().rev() {
        fs::write(cgroup_fs.join(parent).join("cgroup.subtree_control"), "+cpu +memory")?;
    }
    let max = |value: Option<i64>| value.map_or_else(|| "max".to_owned(), |v| v.to_string());
    // The scales of both versions, laid over each other as runc does: 2 is 1, and 262144 is 10000.
    let weight = 1 + (figures.cpu_shares - SHARES_MIN) * 9999 / (SHARES_MAX - SHARES_MIN);
    fs::write(directory.join("cpu.weight"), weight.to_string())?;
    fs::write(directory.join("cpu.max"), format!("{} {QUOTA_PERIOD_US}", max(figures.cpu_quota_us)))?;
    fs::write(directory.join("memory.max"), max(figures.memory_limit_bytes))
}

/// Takes the Pod's own empty cgroup directories away, in the one tree (v2) or in each controller's (v1). The kernel
/// refuses those that still hold something, which is right.
pub fn remove_pod_cgroup(cgroup_fs: &Path, pod_cgroup: &str) {
    let relative = pod_cgroup.trim_start_matches('/');
    if relative.is_empty() {
        return;
    }
    let _absent_or_busy = fs::remove_dir(cgroup_fs.join(relative));
    for controller in fs::read_dir(cgroup_fs).into_iter().flatten().flatten() {
        let _absent_or_busy = fs::remove_dir(controller.path().join(relative));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(resources_: Value) -> (Resources, String) {
        let spec: PodSpec =
            serde_json::from_value(json!({"containers": [{"name": "c", "resources": resources_}]})).unwrap();
        (resources(&spec, &spec.containers[0], 1 << 30), pod_cgroup("/h/", &spec, "u"))
    }

    #[test]
    fn figures_follow_requests_and_limits() {
        let (none, parent) = of(json!({}));
        assert_eq!((none.cpu_shares, none.cpu_quota_us, none.oom_score_adj), (2, 0, 1000));
        assert_eq!(parent, "/h/besteffort/podu");
        let (burst, parent) =
            of(json!({"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "1m"}}));
        assert_eq!((burst.cpu_shares, burst.cpu_quota_us, burst.oom_score_adj), (512, 1000, 500));
        assert_eq!(parent, "/h/burstable/podu");
        let (whole, parent) = of(json!({"limits": {"cpu": "2", "memory": "64Mi"}}));
        assert_eq!((whole.cpu_shares, whole.cpu_quota_us, whole.cpu_period_us), (2048, 200_000, 100_000));
        assert_eq!((whole.memory_limit_bytes, whole.oom_score_adj), (64 << 20, -997));
        assert_eq!(parent, "/h/podu");
    }

    #[test]
    fn a_pods_own_group_has_what_its_containers_have_together() {
        let container = |name: &str, cpu: &str, memory: &str| json!({"name": name, "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": cpu, "memory": memory}}});
        let spec = |value: Value| pod_figures(&serde_json::from_value(value).unwrap());
        let both = json!({"containers": [container("a", "200m", "1Mi"), container("b", "300m", "2Mi")]});
        let wanted =
            PodFigures { cpu_shares: 204, cpu_quota_us: Some(50_000), memory_limit_bytes: Some(3 << 20) };
        assert_eq!(spec(both.clone()), wanted);
        let mut open = both.clone();
        open["containers"].as_array_mut().unwrap().push(json!({"name": "c"}));
        assert_eq!(spec(open), PodFigures { cpu_quota_us: None, memory_limit_bytes: None, ..wanted });
        let mut init = both;
        init["initContainers"] = json!([container("i", "2", "1Mi")]);
        assert_eq!(spec(init), PodFigures { cpu_quota_us: Some(200_000), ..wanted });
        let none = spec(json!({"containers": [{"name": "c"}]}));
        assert_eq!(none, PodFigures { cpu_shares: 2, cpu_quota_us: None, memory_limit_bytes: None });
    }

    #[test]
    fn figures_are_written_for_both_versions() {
        let figures = PodFigures { cpu_shares: 1024, cpu_quota_us: Some(50_000), memory_limit_bytes: None };
        let read = |root: &Path, file: &str| fs::read_to_string(root.join(file)).unwrap();
        let v1 = tempfile::tempdir().unwrap();
        for controller in ["cpu", "memory"] {
            fs::create_dir(v1.path().join(controller)).unwrap();
        }
        write_pod_cgroup(v1.path(), "/h/podu", &figures).unwrap();
        assert_eq!(read(v1.path(), "cpu/h/podu/cpu.shares"), "1024");
        assert_eq!(read(v1.path(), "cpu/h/podu/cpu.cfs_quota_us"), "50000");
        assert!(!v1.path().join("memory/h/podu").exists(), "no limit, no group");
        let v2 = tempfile::tempdir().unwrap();
        fs::write(v2.path().join("cgroup.controllers"), "cpu memory").unwrap();
        write_pod_cgroup(v2.path(), "/h/podu", &figures).unwrap();
        assert_eq!(read(v2.path(), "h/podu/cpu.weight"), "39");
        assert_eq!(read(v2.path(), "h/podu/cpu.max"), "50000 100000");
        assert_eq!(read(v2.path(), "h/podu/memory.max"), "max");
        assert_eq!(read(v2.path(), "h/cgroup.subtree_control"), "+cpu +memory");
    }

    #[test]
    fn only_the_pods_own_empty_directory_goes() {
        let temp = tempfile::tempdir().unwrap();
        for path in ["cpu/h/podu", "memory/h/podu/busy", "cpu/h/podv"] {
            fs::create_dir_all(temp.path().join(path)).unwrap();
        }
        remove_pod_cgroup(temp.path(), "/h/podu");
        assert!(!temp.path().join("cpu/h/podu").exists());
        assert!(temp.path().join("memory/h/podu/busy").exists() && temp.path().join("cpu/h/podv").exists());
    }
}
