//! What is wrong with a Pod's own part of its resolver's configuration, in Kubernetes' words.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

use super::validate::check_name;
use crate::{field::FieldError, names};

/// Bounds of the C library's resolvers, as Kubernetes takes them.
const SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCHES_LEN_MAX: usize = 2048;

/// Adds the faults of `dnsConfig`.
pub(super) fn validate(at: &str, spec: &PodSpec, faults: &mut Vec<FieldError>) {
    let at = format!("{at}.dnsConfig");
    let alone = spec.dns_policy.as_deref() == Some("None");
    let Some(config) = &spec.dns_config else {
        if alone {
            faults.push(FieldError::required(at, "must provide `dnsConfig` when `dnsPolicy` is None"));
        }
        return;
    };
    check_servers(&format!("{at}.nameservers"), config, alone, faults);
    check_searches(&format!("{at}.searches"), config, faults);
    for (i, option) in config.options.iter().flatten().enumerate() {
        if option.name.as_deref().unwrap_or_default().is_empty() {
            faults.push(FieldError::required(format!("{at}.options[{i}]"), "must not be empty"));
        }
    }
}

fn check_servers(at: &str, config: &PodDNSConfig, alone: bool, faults: &mut Vec<FieldError>) {
    let servers = config.nameservers.as_deref().unwrap_or_default();
    if alone && servers.is_empty() {
        let words = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        faults.push(FieldError::required(at, words));
    }
    if servers.len() > SERVERS_MAX {
        let words = format!("must not have more than {SERVERS_MAX} nameservers");
        faults.push(FieldError::invalid(at, servers, &words));
    }
    for (i, server) in servers.iter().enumerate().filter(|(_, server)| server.parse::<IpAddr>().is_err()) {
        let words = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        faults.push(FieldError::invalid(format!("{at}[{i}]"), server.as_str(), words));
    }
}

fn check_searches(at: &str, config: &PodDNSConfig, faults: &mut Vec<FieldError>) {
    let searches = config.searches.as_deref().unwrap_or_default();
    if searches.len() > SEARCHES_MAX {
        let words = format!("must not have more than {SEARCHES_MAX} search paths");
        faults.push(FieldError::invalid(at, searches, &words));
    }
    if searches.join(" ").len() > SEARCHES_LEN_MAX {
        let words = format!(
            "must not have more than {SEARCHES_LEN_MAX} characters (including spaces) in the search list"
        );
        faults.push(FieldError::invalid(at, searches, &words));
    }
    for (i, search) in searches.iter().enumerate() {
        // A whole name may end with the root's dot.
        let search = search.strip_suffix('.').unwrap_or(search);
        check_name(format!("{at}[{i}]"), search, names::dns1123_subdomain_faults, faults);
    }
}
