//! Pods in which the machine's own programs can be run: the project's images have no shell, so `/usr` is mounted from the host.

use serde_json::{Value, json};

use super::{Space, merge};

/// Volumes and mounts with which a container has the machine's programs.
pub fn volumes() -> (Value, Value) {
    let paths = [("usr", "/usr"), ("bin", "/usr/bin"), ("lib", "/usr/lib"), ("lib64", "/usr/lib64")];
    let volumes =
        paths.map(|(name, path)| json!({"name": name, "hostPath": {"path": path, "type": "Directory"}}));
    let mounts = [("usr", "/usr"), ("bin", "/bin"), ("lib", "/lib"), ("lib64", "/lib64")];
    let mounts = mounts.map(|(name, path)| json!({"name": name, "mountPath": path, "readOnly": true}));
    (json!(volumes), json!(mounts))
}

/// A container that runs `script` in a shell.
pub fn container(name: &str, script: &str) -> Value {
    json!({
        "name": name, "image": "hitless.dev/web:1", "command": ["/bin/sh", "-c", script],
        "volumeMounts": volumes().1,
    })
}

/// Applies a Pod whose container `web` runs `script` in a shell; `over` is merged over its spec (lists are replaced).
pub fn pod(space: &Space, name: &str, script: &str, over: Value) {
    let mut spec = json!({
        "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
        "containers": [container("web", script)], "volumes": volumes().0,
    });
    merge(&mut spec, over);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"name": name}}, "spec": spec});
    space.apply(&pod.to_string());
}
