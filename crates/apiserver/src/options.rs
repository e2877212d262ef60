//! What the API server is told when it starts.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hitless_base::{Clock, SystemClock};
use ipnet::Ipv4Net;

use crate::tokens::TokenKey;

/// Bounds on what clients may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Watches that run at once.
    pub watches_max: usize,
    /// Requests that are neither watches nor followed logs, at once.
    pub in_flight_max: usize,
    /// A request body's length in bytes.
    pub body_bytes_max: usize,
    /// How long such a request may take.
    pub request_timeout: Duration,
    /// How often a watch that asked for bookmarks gets one.
    pub bookmark_period: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            watches_max: 20_000,
            in_flight_max: 2_000,
            body_bytes_max: 3 * 1024 * 1024,
            request_timeout: Duration::from_secs(60),
            bookmark_period: Duration::from_secs(10),
        }
    }
}

/// How the API server is set up. [`Options::default`] is a server with no kubelets and no address of its own.
#[derive(Clone)]
pub struct Options {
    /// Who tells the time.
    pub clock: Arc<dyn Clock>,
    /// Cluster IPs come from here; the first one is the Service `kubernetes`.
    pub service_cidr: Ipv4Net,
    /// Where Pods ask for names: the cluster IP of the Service `kube-system/kube-dns`. Without it there is no such Service.
    pub cluster_dns: Option<std::net::Ipv4Addr>,
    /// Where Pods reach this server. With it, the Service `kubernetes` gets Endpoints and an EndpointSlice.
    pub advertise: Option<SocketAddr>,
    /// Whether availability includes `hitless.dev/Programmed` (see ARCHITECTURE.md, `--loop off`).
    pub loop_on: bool,
    /// TLS towards kubelets, with this server's client certificate. Without it, logs cannot be read.
    pub kubelet_client: Option<Arc<rustls::ClientConfig>>,
    /// What service account tokens are signed with. Without it there are none, and no Pod gets one.
    pub token_key: Option<Arc<TokenKey>>,
    /// `v1.36.0`: the Kubernetes API that is spoken, with whatever suffix the build carries.
    pub git_version: String,
    /// Bounds.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            service_cidr: Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 96, 0, 0), 16),
            cluster_dns: None,
            advertise: None,
            loop_on: true,
            kubelet_client: None,
            token_key: None,
            git_version: concat!("v1.36.0+hitless-", env!("CARGO_PKG_VERSION")).to_owned(),
            limits: Limits::default(),
        }
    }
}
