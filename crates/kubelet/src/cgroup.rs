//! A container's resources as cgroup figures, and the Pod's place in the tree of cgroups.
//!
//! See <https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/> and
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#node-out-of-memory-behavior>.

use std::{fs, path::Path};

use hitless_types::{quantity::Quantity, resources::qos_class};
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
