//! Names inside a Pod: host name, the managed `/etc/hosts`, and the resolver's configuration.
//!
//! See <https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/>.

use std::{fmt::Write, net::IpAddr};

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::ports::DnsConfig;

const HOSTNAME_LEN_MAX: usize = 63;

/// The Pod's host name.
#[must_use]
pub fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let given =
        spec.and_then(|s| s.hostname_override.as_ref().or(s.hostname.as_ref())).filter(|h| !h.is_empty());
    if let Some(name) = given {
        return name.clone();
    }
    let name = pod.metadata.name.clone().unwrap_or_default();
    let cut: String = name.chars().take(HOSTNAME_LEN_MAX).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// Content of the Pod's `/etc/hosts`; `own`: the node's file, for Pods in the node's network.
#[must_use]
pub fn hosts_file(pod: &Pod, pod_ips: &[String], cluster_domain: &str, own: Option<&str>) -> String {
    let mut text = match own {
        Some(own) => format!("# Kubernetes-managed hosts file (host network).\n{own}"),
        None => concat!(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
            "fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
        )
        .to_owned(),
    };
    let spec = pod.spec.as_ref();
    let host = hostname(pod);
    let names = match spec.and_then(|s| s.subdomain.as_deref()).filter(|s| !s.is_empty()) {
        Some(sub) => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            format!("{host}.{sub}.{namespace}.svc.{cluster_domain}\t{host}")
        }
        None => host,
    };
    if own.is_none() {
        for ip in pod_ips {
            let _infallible = writeln!(text, "{ip}\t{names}");
        }
    }
    let aliases = spec.and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let hostnames = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _infallible = writeln!(text, "{}\t{hostnames}", alias.ip);
    }
    text
}

/// The sandbox's resolver by `dnsPolicy`; `None`: the node's own.
#[must_use]
pub fn dns(
    spec: &PodSpec,
    namespace: &str,
    cluster_dns: Option<IpAddr>,
    cluster_domain: &str,
) -> Option<DnsConfig> {
    let host_network = spec.host_network == Some(true);
    let mut config = match (spec.dns_policy.as_deref().unwrap_or("ClusterFirst"), cluster_dns) {
        ("None", _) => Some(DnsConfig::default()),
        ("ClusterFirstWithHostNet", Some(ip)) => Some(cluster_first(ip, namespace, cluster_domain)),
        ("ClusterFirst", Some(ip)) if !host_network => Some(cluster_first(ip, namespace, cluster_domain)),
        _ => None,
    };
    if let Some(own) = &spec.dns_config {
        // With the node's own resolver there is no base here to add to: what the Pod names is all it gets.
        let base = config.get_or_insert_with(DnsConfig::default);
        extend(&mut base.servers, own.nameservers.iter().flatten().cloned());
        extend(&mut base.searches, own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            base.options.retain(|o| o.split(':').next() != Some(name));
            base.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    config
}

fn extend(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

fn cluster_first(ip: IpAddr, namespace: &str, domain: &str) -> DnsConfig {
    DnsConfig {
        servers: vec![ip.to_string()],
        searches: vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()],
        options: vec!["ndots:5".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "ns"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn names_in_the_hosts_file() {
        let p = pod(json!({"containers": [], "subdomain": "web",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let text = hosts_file(&p, &["10.0.0.1".into()], "cluster.local", None);
        assert!(text.contains("10.0.0.1\tweb-0.web.ns.svc.cluster.local\tweb-0\n"), "{text}");
        assert!(text.ends_with("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
    }

    #[test]
    fn long_names_are_cut_to_a_host_name() {
        let mut p = pod(json!({"containers": []}));
        p.metadata.name = Some(format!("{}-tail", "a".repeat(62)));
        assert_eq!(hostname(&p), "a".repeat(62));
    }

    #[test]
    fn policies_of_the_resolver() {
        let ip = Some(IpAddr::from([10, 96, 0, 10]));
        let of =
            |spec: serde_json::Value, ip| dns(pod(spec).spec.as_ref().unwrap(), "ns", ip, "cluster.local");
        let first = of(json!({"containers": []}), ip).unwrap();
        assert_eq!(first.searches, ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local"]);
        assert_eq!(of(json!({"containers": []}), None), None);
        assert_eq!(of(json!({"containers": [], "dnsPolicy": "Default"}), ip), None);
        assert_eq!(of(json!({"containers": [], "hostNetwork": true}), ip), None);
        let own = of(
            json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["8.8.8.8"],
                "options": [{"name": "ndots", "value": "2"}]}}),
            ip,
        );
        assert_eq!(own.unwrap().options, ["ndots:2"]);
    }
}
