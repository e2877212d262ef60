//! What Kubernetes fills in where a Pod, or a Pod template, says nothing.
//!
//! Rule: what Go cannot tell from unset (a zero that is not a pointer) is unset here too.

use serde_json::{Value, json};

use crate::json::{Fields, is_unset, items, object, set, within};

/// File mode of what is projected into a volume: 0644.
const MODE: i64 = 420;

pub(super) fn default_pod(pod: &mut Value) {
    let Some(fields) = pod.as_object_mut() else { return };
    within(fields, "spec", |spec| {
        default_spec(spec);
        // The following are for Pods only: a template keeps them open until it becomes one.
        set(spec, "enableServiceLinks", true);
        for list in ["containers", "initContainers"] {
            for container in items(spec, list) {
                within(container, "resources", requests_from_limits);
            }
        }
        if spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|s| s < 0) {
            spec.insert("terminationGracePeriodSeconds".to_owned(), 1.into());
        }
    });
    if ["/status/phase", "/status/qosClass"].iter().any(|at| is_unset(pod.pointer(at))) {
        let start = super::initial_status(pod);
        let Some(fields) = pod.as_object_mut() else { return };
        within(fields, "status", |status| {
            for key in ["phase", "qosClass"] {
                set(status, key, start.get(key).cloned().unwrap_or_default());
            }
        });
    }
}

/// Fills a Pod's spec, or that of a template.
pub(in crate::kinds) fn default_spec(spec: &mut Fields) {
    set(spec, "restartPolicy", "Always");
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "dnsPolicy", "ClusterFirst");
    within(spec, "securityContext", |_| {});
    set(spec, "schedulerName", "default-scheduler");
    // The older name of the field goes along with the newer one.
    let account =
        ["serviceAccountName", "serviceAccount"].map(|key| spec.get(key).cloned().unwrap_or_default());
    if let Some(name) = account.into_iter().find(|n| !is_unset(Some(n))) {
        spec.insert("serviceAccountName".to_owned(), name.clone());
        spec.insert("serviceAccount".to_owned(), name);
    }
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or_default();
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in items(spec, list) {
            default_container(container, host_network);
        }
    }
    for volume in items(spec, "volumes") {
        default_volume(volume);
    }
}

/// The amounts that a container may use at most are those that it asks for, unless it says so.
fn requests_from_limits(resources: &mut Fields) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).filter(|l| !l.is_empty()).cloned()
    else {
        return;
    };
    within(resources, "requests", |requests| {
        for (name, amount) in limits {
            requests.entry(name).or_insert(amount);
        }
    });
}

fn default_container(container: &mut Fields, host_network: bool) {
    set(container, "terminationMessagePath", "/dev/termination-log");
    set(container, "terminationMessagePolicy", "File");
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
    set(container, "imagePullPolicy", policy);
    within(container, "resources", |_| {});
    for port in items(container, "ports") {
        set(port, "protocol", "TCP");
        if host_network {
            let number = port.get("containerPort").cloned().unwrap_or_else(|| 0.into());
            set_number(port, "hostPort", number);
        }
    }
    for env in items(container, "env") {
        if let Some(field) = object(env, "valueFrom").and_then(|from| object(from, "fieldRef")) {
            set(field, "apiVersion", "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = object(container, probe) {
            default_probe(probe);
        }
    }
    if let Some(lifecycle) = object(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = object(lifecycle, hook) {
                default_http(hook);
            }
        }
    }
}

/// Whether an image's tag is `latest` or missing, and no digest pins it.
fn is_latest(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or_default();
    let tag = last.split_once(':').map(|(_, tag)| tag);
    digest.is_none() && tag.is_none_or(|tag| tag == "latest")
}

/// Sets a number that is missing or zero.
fn set_number(fields: &mut Fields, key: &str, value: impl Into<Value>) {
    if fields.get(key).is_none_or(|v| v.is_null() || v.as_i64() == Some(0)) {
        fields.insert(key.to_owned(), value.into());
    }
}

fn default_probe(probe: &mut Fields) {
    set_number(probe, "timeoutSeconds", 1);
    set_number(probe, "periodSeconds", 10);
    set_number(probe, "successThreshold", 1);
    set_number(probe, "failureThreshold", 3);
    default_http(probe);
    if let Some(grpc) = object(probe, "grpc") {
        grpc.entry("service").or_insert_with(|| "".into());
    }
}

fn default_http(handler: &mut Fields) {
    if let Some(get) = object(handler, "httpGet") {
        set(get, "path", "/");
        set(get, "scheme", "HTTP");
    }
}

fn default_volume(volume: &mut Fields) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = object(volume, source) {
            set(source, "defaultMode", MODE);
            default_downward(source);
        }
    }
    if let Some(projected) = object(volume, "projected") {
        for source in items(projected, "sources") {
            if let Some(token) = object(source, "serviceAccountToken") {
                set_number(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = object(source, "downwardAPI") {
                default_downward(downward);
            }
        }
    }
    if let Some(host) = object(volume, "hostPath") {
        host.entry("type").or_insert_with(|| "".into());
    }
}

fn default_downward(source: &mut Fields) {
    for item in items(source, "items") {
        if let Some(field) = object(item, "fieldRef") {
            set(field, "apiVersion", "v1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_latest;

    #[test]
    fn latest_is_a_tag_or_none() {
        for yes in ["nginx", "nginx:latest", "host:5000/nginx", "a/b/c"] {
            assert!(is_latest(yes), "{yes}");
        }
        for no in ["nginx:1.19", "host:5000/nginx:v1", "nginx@sha256:0", "nginx:latest@sha256:0"] {
            assert!(!is_latest(no), "{no}");
        }
    }
}
