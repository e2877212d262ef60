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

/// The Pod's whole name, if it has one: host name, subdomain, namespace and the cluster's domain.
fn fqdn(pod: &Pod, cluster_domain: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let subdomain = spec.subdomain.as_deref().filter(|s| !s.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{}.{subdomain}.{namespace}.svc.{cluster_domain}", hostname(pod)))
}

/// What the kernel calls the Pod: its host name, or with `setHostnameAsFQDN` its whole name.
#[must_use]
pub fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> String {
    let whole = pod.spec.as_ref().is_some_and(|spec| spec.set_hostname_as_fqdn == Some(true));
    fqdn(pod, cluster_domain).filter(|_| whole).unwrap_or_else(|| hostname(pod))
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
    let names = match fqdn(pod, cluster_domain) {
        Some(whole) => format!("{whole}\t{host}"),
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

/// Bounds of the resolver's configuration, as Kubernetes has them.
const SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCHES_LEN_MAX: usize = 2048;

/// The sandbox's resolver by `dnsPolicy`; `None`: the node's own as it stands. `own`: content of the node's `resolv.conf`.
#[must_use]
pub fn dns(
    spec: &PodSpec,
    namespace: &str,
    cluster_dns: Option<IpAddr>,
    cluster_domain: &str,
    own: &str,
) -> Option<DnsConfig> {
    let host_network = spec.host_network == Some(true);
    let own = resolv_conf(own);
    let mut config = match (spec.dns_policy.as_deref().unwrap_or("ClusterFirst"), cluster_dns) {
        ("None", _) => DnsConfig::default(),
        ("ClusterFirstWithHostNet", Some(ip)) => cluster_first(ip, namespace, cluster_domain, own),
        ("ClusterFirst", Some(ip)) if !host_network => cluster_first(ip, namespace, cluster_domain, own),
        _ if spec.dns_config.is_none() => return None,
        _ => own,
    };
    if let Some(more) = &spec.dns_config {
        extend(&mut config.servers, more.nameservers.iter().flatten().cloned());
        extend(&mut config.searches, more.searches.iter().flatten().cloned());
        for option in more.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            config.options.retain(|o| o.split(':').next() != Some(name));
            config.options.push(match option.value.as_deref().filter(|value| !value.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    config.servers.truncate(SERVERS_MAX);
    config.searches.truncate(SEARCHES_MAX);
    while config.searches.iter().map(|search| search.len() + 1).sum::<usize>() > SEARCHES_LEN_MAX + 1 {
        config.searches.pop();
    }
    Some(config)
}

fn extend(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

/// The cluster's server and domains, and then the domains that the node itself searches.
fn cluster_first(ip: IpAddr, namespace: &str, domain: &str, own: DnsConfig) -> DnsConfig {
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    extend(&mut searches, own.searches.into_iter());
    DnsConfig { servers: vec![ip.to_string()], searches, options: vec!["ndots:5".to_owned()] }
}

/// What a `resolv.conf` says; of several `search` and `options` lines the last one counts.
fn resolv_conf(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let key = words.next().unwrap_or_default();
        let rest = words.map(str::to_owned);
        match key {
            "nameserver" => extend(&mut config.servers, rest.take(1)),
            "search" => config.searches = rest.filter(|search| search != ".").collect(),
            "options" => config.options = rest.collect(),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OWN: &str =
        "# the node's\nnameserver 9.9.9.9\nsearch first.example\nsearch corp.example .\noptions timeout:1\n";

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
    fn the_whole_name_is_the_kernels_where_it_is_asked_for() {
        let of = |spec: serde_json::Value| kernel_hostname(&pod(spec), "cluster.local");
        assert_eq!(of(json!({"containers": [], "subdomain": "web"})), "web-0");
        assert_eq!(of(json!({"containers": [], "setHostnameAsFQDN": true})), "web-0");
        let whole = json!({"containers": [], "subdomain": "web", "hostname": "h", "setHostnameAsFQDN": true});
        assert_eq!(of(whole), "h.web.ns.svc.cluster.local");
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
        let of = |spec: serde_json::Value, ip| {
            dns(pod(spec).spec.as_ref().unwrap(), "ns", ip, "cluster.local", OWN)
        };
        let first = of(json!({"containers": []}), ip).unwrap();
        assert_eq!(
            first.searches,
            ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]
        );
        assert_eq!(
            (first.servers, first.options),
            (vec!["10.96.0.10".to_owned()], vec!["ndots:5".to_owned()])
        );
        assert_eq!(of(json!({"containers": []}), None), None);
        assert_eq!(of(json!({"containers": [], "dnsPolicy": "Default"}), ip), None);
        assert_eq!(of(json!({"containers": [], "hostNetwork": true}), ip), None);
        let own = of(
            json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["8.8.8.8"],
                "options": [{"name": "ndots", "value": "2"}]}}),
            ip,
        );
        assert_eq!(own.unwrap().options, ["ndots:2"]);
        let added = of(
            json!({"containers": [], "dnsPolicy": "Default", "dnsConfig": {"searches": ["more.example"],
            "nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3"], "options": [{"name": "edns0"}]}}),
            ip,
        )
        .unwrap();
        assert_eq!(added.servers, ["9.9.9.9", "1.1.1.1", "2.2.2.2"], "no more than three are of use");
        assert_eq!(added.searches, ["corp.example", "more.example"]);
        assert_eq!(added.options, ["timeout:1", "edns0"]);
        let with_host_network =
            of(json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), ip);
        assert_eq!(with_host_network.unwrap().servers, ["10.96.0.10"]);
    }
}
