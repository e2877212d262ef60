//! What a Pod gets from its ServiceAccount: pull secrets, and the volume with its token, the cluster's root certificate and its namespace.
//!
//! See <https://kubernetes.io/docs/concepts/storage/projected-volumes/#serviceaccounttoken> and
//! <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#serviceaccount-admission-controller>.

use serde_json::{Map, Value, json};

use crate::{codec::text, strategy};

/// Where programs look for it.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and seven seconds, by which Kubernetes knows these tokens from others.
const EXPIRATION_S: u32 = 3607;

/// Adds to a Pod's spec what its account gives it; a token only where there are tokens.
pub(super) fn mount(spec: &mut Map<String, Value>, account: &Value, tokens: bool) {
    let lacks = |spec: &Map<String, Value>, field: &str| {
        spec.get(field).and_then(Value::as_array).is_none_or(Vec::is_empty)
    };
    if let Some(secrets) = account.get("imagePullSecrets").filter(|_| lacks(spec, "imagePullSecrets")) {
        spec.insert("imagePullSecrets".into(), secrets.clone());
    }
    let said = |object: Option<&Value>| object.and_then(Value::as_bool);
    let wanted = said(spec.get("automountServiceAccountToken"))
        .or_else(|| said(account.get("automountServiceAccountToken")))
        .unwrap_or(true);
    if !wanted || !tokens {
        return;
    }
    let volumes = spec.get("volumes").and_then(Value::as_array);
    let names = volumes.into_iter().flatten().map(|v| text(v, "/name"));
    let held = names.into_iter().find(|n| n.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let fresh = || format!("{VOLUME_PREFIX}{}", strategy::random_suffix());
    let name = held.clone().unwrap_or_else(fresh);
    let mut used = false;
    for field in ["initContainers", "containers"] {
        for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            used |= mount_in(container, &name);
        }
    }
    if used && held.is_none() {
        let list = spec.entry("volumes").or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.push(volume(&name));
        }
    }
}

/// Whether the container got the mount; one that has something there keeps it.
fn mount_in(container: &mut Value, volume: &str) -> bool {
    let Value::Object(container) = container else { return false };
    let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
    let Value::Array(mounts) = mounts else { return false };
    let free = !mounts.iter().any(|m| text(m, "/mountPath") == MOUNT_PATH);
    if free {
        mounts.push(json!({"name": volume, "mountPath": MOUNT_PATH, "readOnly": true}));
    }
    free
}

fn volume(name: &str) -> Value {
    let field = json!({"apiVersion": "v1", "fieldPath": "metadata.namespace"});
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": EXPIRATION_S, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(spec: Value, account: Value) -> Value {
        let Value::Object(mut spec) = spec else { panic!("no spec") };
        mount(&mut spec, &account, true);
        Value::Object(spec)
    }

    #[test]
    fn every_container_sees_the_token_and_one_that_has_its_own_keeps_it() {
        let own = json!({"name": "v", "mountPath": MOUNT_PATH});
        let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b", "volumeMounts": [own]}]});
        let spec = mounted(spec, json!({"imagePullSecrets": [{"name": "s"}]}));
        let name = text(&spec, "/volumes/0/name").to_owned();
        assert!(name.starts_with(VOLUME_PREFIX) && name.len() == VOLUME_PREFIX.len() + 5, "{name}");
        for container in ["/initContainers/0", "/containers/0"] {
            let mount = spec.pointer(&format!("{container}/volumeMounts/0")).unwrap();
            assert_eq!(mount, &json!({"name": name, "mountPath": MOUNT_PATH, "readOnly": true}));
        }
        assert_eq!(spec["containers"][1]["volumeMounts"], json!([own]));
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "s"}]));
        assert_eq!(mounted(spec.clone(), json!({})), spec, "again adds nothing");
    }

    #[test]
    fn pod_and_account_can_refuse_it_and_the_pod_has_the_last_word() {
        let spec = |more: Value| {
            let mut spec = json!({"containers": [{"name": "a"}]});
            hitless_types::patch::merge_patch(&mut spec, &more);
            spec
        };
        let refuses = json!({"automountServiceAccountToken": false});
        assert!(mounted(spec(refuses.clone()), json!({})).get("volumes").is_none());
        assert!(mounted(spec(json!({})), refuses.clone()).get("volumes").is_none());
        assert!(
            mounted(spec(json!({"automountServiceAccountToken": true})), refuses).get("volumes").is_some()
        );
    }
}
