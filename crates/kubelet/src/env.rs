//! A container's environment: services, envFrom, env, and `$(VAR)`.
//!
//! Pure over what was fetched before. See <https://kubernetes.io/docs/tasks/inject-data-application/define-environment-variable-container/>
//! and <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, Service};

use crate::{
    fieldref::{self, Addresses, FieldError},
    options::Capacity,
    sources::{Reference, Sources},
};

/// Why a container's configuration cannot be made; the words are shown in `CreateContainerConfigError`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The object is not there.
    #[error("{0} not found")]
    NotFound(Reference),
    /// The object has no such key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key {
        /// The key.
        key: String,
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A bad field reference.
    #[error("{0}")]
    Field(#[from] FieldError),
    /// The security context forbids the image's user.
    #[error("{0}")]
    Security(String),
    /// A volume mount that cannot be.
    #[error("{0}")]
    Mount(String),
}

/// What the environment is made from.
pub struct Surroundings<'a> {
    /// The Pod.
    pub pod: &'a Pod,
    /// The Pod's and the node's addresses.
    pub addresses: &'a Addresses,
    /// ConfigMaps and Secrets.
    pub sources: &'a Sources,
    /// Services of the Pod's namespace and `default/kubernetes`.
    pub services: &'a [std::sync::Arc<Service>],
    /// What the node has.
    pub capacity: &'a Capacity,
}

/// The whole environment of `container`, in order: each name once.
///
/// # Errors
/// What is missing, in Kubernetes' words.
pub fn build(around: &Surroundings<'_>, container: &Container) -> Result<Vec<(String, String)>, ConfigError> {
    let service_env = services(around);
    let mut env = Ordered::default();
    for (name, value) in from_sources(around, container)? {
        env.set(name, value);
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(text), _) if !text.is_empty() => Some(expand(text, |name| {
                env.get(name).or_else(|| service_env.get(name).map(String::as_str)).map(str::to_owned)
            })),
            (_, Some(source)) => value_from(around, container, source)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            env.set(var.name.clone(), value);
        }
    }
    for (name, value) in service_env {
        if env.get(&name).is_none() {
            env.set(name, value);
        }
    }
    Ok(env.entries)
}

/// Entries in the order of their first setting.
#[derive(Default)]
struct Ordered {
    entries: Vec<(String, String)>,
    index: HashMap<String, usize>,
}

impl Ordered {
    fn get(&self, name: &str) -> Option<&str> {
        self.index.get(name).and_then(|i| self.entries.get(*i)).map(|e| e.1.as_str())
    }

    fn set(&mut self, name: String, value: String) {
        match self.index.get(&name).and_then(|i| self.entries.get_mut(*i)) {
            Some(entry) => entry.1 = value,
            None => {
                self.index.insert(name.clone(), self.entries.len());
                self.entries.push((name, value));
            }
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn from_sources(
    around: &Surroundings<'_>,
    container: &Container,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut all = Vec::new();
    for source in container.env_from.iter().flatten() {
        let (reference, optional) = match (&source.config_map_ref, &source.secret_ref) {
            (Some(r), _) => (Reference::ConfigMap(r.name.clone()), r.optional),
            (None, Some(r)) => (Reference::Secret(r.name.clone()), r.optional),
            (None, None) => continue,
        };
        let Some(data) = around.sources.data(&reference) else {
            if optional == Some(true) {
                continue;
            }
            return Err(ConfigError::NotFound(reference));
        };
        let prefix = source.prefix.as_deref().unwrap_or_default();
        all.extend(data.iter().map(|(key, value)| (format!("{prefix}{key}"), lossy(value))));
    }
    Ok(all)
}

fn value_from(
    around: &Surroundings<'_>,
    container: &Container,
    source: &EnvVarSource,
) -> Result<Option<String>, ConfigError> {
    if let Some(r) = &source.field_ref {
        return Ok(Some(fieldref::field(around.pod, around.addresses, &r.field_path)?));
    }
    if let Some(r) = &source.resource_field_ref {
        return Ok(Some(fieldref::resource(around.pod, Some(container), r, around.capacity)?));
    }
    let (reference, kind, name, key, optional) = match (&source.config_map_key_ref, &source.secret_key_ref) {
        (Some(r), _) => (Reference::ConfigMap(r.name.clone()), "ConfigMap", &r.name, &r.key, r.optional),
        (None, Some(r)) => (Reference::Secret(r.name.clone()), "Secret", &r.name, &r.key, r.optional),
        (None, None) => return Ok(Some(String::new())),
    };
    let optional = optional == Some(true);
    let Some(data) = around.sources.data(&reference) else {
        return if optional { Ok(None) } else { Err(ConfigError::NotFound(reference)) };
    };
    match data.get(key) {
        Some(value) => Ok(Some(lossy(value))),
        None if optional => Ok(None),
        None => Err(ConfigError::Key {
            key: key.clone(),
            kind,
            namespace: around.pod.metadata.namespace.clone().unwrap_or_default(),
            name: name.clone(),
        }),
    }
}

/// `$(NAME)` becomes the value, if there is one; `$$` becomes `$`; all else stays.
pub fn expand(text: &str, value_of: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let after = from.get(1..).unwrap_or_default();
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|a| a.split_once(')')) {
            match value_of(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// `NAME_SERVICE_HOST` and its kin. `default/kubernetes` always; the namespace's own with enableServiceLinks.
fn services(around: &Surroundings<'_>) -> BTreeMap<String, String> {
    let namespace = around.pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = around.pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let mut env = BTreeMap::new();
    let is_master = |s: &Service| {
        s.metadata.namespace.as_deref() == Some("default") && s.metadata.name.as_deref() == Some("kubernetes")
    };
    // The namespace's own Services win over default/kubernetes.
    let own = |s: &Service| s.metadata.namespace.as_deref() == Some(namespace) && links;
    for service in around.services.iter().filter(|s| is_master(s) && !own(s)) {
        service_vars(service, &mut env);
    }
    for service in around.services.iter().filter(|s| own(s)) {
        service_vars(service, &mut env);
    }
    env
}

fn service_vars(service: &Service, env: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let (Some(ip), Some(ports)) = (spec.cluster_ip.as_deref(), &spec.ports) else { return };
    let Some(first) = ports.first() else { return };
    if ip.is_empty() || ip == "None" {
        return;
    }
    let word = |name: &str| name.replace('-', "_").to_uppercase();
    let name = word(service.metadata.name.as_deref().unwrap_or_default());
    let bracketed = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    env.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
    env.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for (i, port) in ports.iter().enumerate() {
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            env.insert(format!("{name}_SERVICE_PORT_{}", word(port_name)), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{bracketed}:{}", protocol.to_lowercase(), port.port);
        if i == 0 {
            env.insert(format!("{name}_PORT"), url.clone());
        }
        let stem = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        env.insert(format!("{stem}_PROTO"), protocol.to_lowercase());
        env.insert(format!("{stem}_PORT"), port.port.to_string());
        env.insert(format!("{stem}_ADDR"), ip.to_owned());
        env.insert(stem, url);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(container: serde_json::Value, links: bool) -> Result<Vec<(String, String)>, ConfigError> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"},
            "spec": {"enableServiceLinks": links, "containers": [container]}}))
        .unwrap();
        let service = |namespace: &str, name: &str, ip: &str| {
            std::sync::Arc::new(
                serde_json::from_value::<Service>(json!({"metadata": {"name": name, "namespace": namespace},
                    "spec": {"clusterIP": ip, "ports": [{"name": "http-web", "port": 80}]}}))
                .unwrap(),
            )
        };
        let services = [
            service("default", "kubernetes", "10.96.0.1"),
            service("ns", "my-app", "10.96.0.9"),
            service("ns", "headless", "None"),
            service("other", "far", "10.96.0.8"),
        ];
        let data = Data::from([("k".to_owned(), b"v".to_vec()), ("l".to_owned(), b"w".to_vec())]);
        let sources = Sources(HashMap::from([
            (Reference::ConfigMap("cm".into()), Some(data)),
            (Reference::ConfigMap("none".into()), None),
        ]));
        let around = Surroundings {
            pod: &pod,
            addresses: &Addresses { pod_ips: vec!["10.0.0.5".into()], host_ip: String::new() },
            sources: &sources,
            services: &services,
            capacity: &Capacity { cpu_milli: 1, memory_bytes: 1, pods: 1, ephemeral_storage_bytes: 1 },
        };
        build(&around, &pod.spec.as_ref().unwrap().containers[0])
    }

    use crate::sources::Data;

    #[test]
    fn services_as_kubernetes_names_them() {
        let env: BTreeMap<_, _> = run(json!({"name": "c"}), true).unwrap().into_iter().collect();
        assert_eq!(env["KUBERNETES_SERVICE_HOST"], "10.96.0.1");
        assert_eq!(env["MY_APP_SERVICE_PORT_HTTP_WEB"], "80");
        assert_eq!(env["MY_APP_PORT_80_TCP_ADDR"], "10.96.0.9");
        assert_eq!(env["MY_APP_PORT"], "tcp://10.96.0.9:80");
        assert!(!env.keys().any(|k| k.starts_with("HEADLESS") || k.starts_with("FAR")));
        let without: BTreeMap<_, _> = run(json!({"name": "c"}), false).unwrap().into_iter().collect();
        assert_eq!(without.len(), 8);
    }

    #[test]
    fn later_names_see_earlier_ones_and_order_is_kept() {
        let env = run(
            json!({"name": "c", "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}], "env": [
                {"name": "A", "value": "$(P_k)-$(B)-$$(A)"}, {"name": "B", "value": "b"}, {"name": "C", "value": "$(A)$(B)$("},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "l"}}},
                {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "l", "optional": true}}}]}),
            false,
        )
        .unwrap();
        let head: Vec<_> = env.iter().take(7).map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            head,
            ["P_k=v", "P_l=w", "A=v-$(B)-$(A)", "B=b", "C=v-$(B)-$(A)b$(", "IP=10.0.0.5", "K=w"]
        );
        assert!(!env.iter().any(|e| e.0 == "O"));
    }

    #[test]
    fn what_is_missing_is_said_as_kubernetes_says_it() {
        let words = |source: serde_json::Value| {
            run(json!({"name": "c", "env": [{"name": "A", "valueFrom": source}]}), false)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            words(json!({"configMapKeyRef": {"name": "cm", "key": "zz"}})),
            "couldn't find key zz in ConfigMap ns/cm"
        );
        assert_eq!(
            words(json!({"configMapKeyRef": {"name": "none", "key": "k"}})),
            "configmap \"none\" not found"
        );
        assert_eq!(words(json!({"secretKeyRef": {"name": "s", "key": "k"}})), "secret \"s\" not found");
    }
}
