//! `EndpointConsumer`: the registration of whatever routes to endpoints, and its watermark.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use serde::{Deserialize, Serialize};

use crate::well_known;

/// What an ack of a consumer rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AckClass {
    /// Read back from the kernel, or all workers have switched.
    Proven,
    /// The consumer says so.
    #[default]
    Asserted,
    /// The consumer cannot say so: its settle time is waited after the change.
    TimeBounded,
}

/// Whose end a consumer's settle time belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SettleScope {
    /// That of every Pod.
    #[default]
    All,
    /// That of Pods of headless Services alone: only their addresses stand in DNS records, where clients may keep them.
    Headless,
}

impl SettleScope {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::All, Self::Headless];

    /// The word in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "All",
            Self::Headless => "Headless",
        }
    }

    /// Whether the settle time is waited for a Pod, of headless Services or of others alone.
    #[must_use]
    pub fn covers(self, headless: bool) -> bool {
        headless || self == Self::All
    }
}

/// Who consumes, and how far its word can be trusted. Durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointConsumerSpec {
    /// `ServiceProxy`, `Ingress`, `DNS`, `Mesh`, `LoadBalancer`, or a third party's word.
    #[serde(rename = "type", default)]
    pub type_: String,
    /// The node that the consumer serves, where it serves one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Changes with every start of the consumer. Watermarks of another incarnation are refused.
    #[serde(default)]
    pub incarnation: String,
    /// What an ack rests on.
    #[serde(default)]
    pub ack_class: AckClass,
    /// Waited after the ack, for what the consumer cannot see (a DNS TTL). Milliseconds.
    #[serde(default)]
    pub settle_milliseconds: u64,
    /// Whose end that is waited for.
    #[serde(default)]
    pub settle_scope: SettleScope,
    /// Silence longer than this takes the consumer out of the required set. Seconds, 1 to 3600.
    #[serde(default = "default_lease_s")]
    pub lease_duration_seconds: u64,
}

fn default_lease_s() -> u64 {
    40
}

/// The consumer's word. Volatile: kept in the API server's memory, never stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointConsumerStatus {
    /// The watermark: the data plane holds every EndpointSlice change up to this revision. 0: not yet any.
    #[serde(default)]
    pub observed_revision: u64,
    /// The incarnation that says so; must equal the registered one.
    #[serde(default)]
    pub incarnation: String,
    /// When the API server took the last word. Set by the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_time: Option<MicroTime>,
}

/// A consumer of endpoints. Cluster-scoped, named by role and place: `service-proxy-node-1`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointConsumer {
    /// `hitless.dev/v1alpha1`
    #[serde(rename = "apiVersion", default = "api_version")]
    pub api_version: String,
    /// `EndpointConsumer`
    #[serde(default = "kind")]
    pub kind: String,
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Durable part.
    #[serde(default)]
    pub spec: EndpointConsumerSpec,
    /// Volatile part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<EndpointConsumerStatus>,
}

fn api_version() -> String {
    format!("{}/{}", well_known::GROUP, well_known::VERSION)
}

fn kind() -> String {
    "EndpointConsumer".to_owned()
}

impl EndpointConsumer {
    /// A registration under `name`.
    #[must_use]
    pub fn new(name: &str, spec: EndpointConsumerSpec) -> Self {
        Self {
            api_version: api_version(),
            kind: kind(),
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            spec,
            status: None,
        }
    }
}

impl k8s_openapi::Resource for EndpointConsumer {
    const API_VERSION: &'static str = "hitless.dev/v1alpha1";
    const GROUP: &'static str = well_known::GROUP;
    const KIND: &'static str = "EndpointConsumer";
    const VERSION: &'static str = well_known::VERSION;
    const URL_PATH_SEGMENT: &'static str = "endpointconsumers";
    type Scope = k8s_openapi::ClusterResourceScope;
}

impl k8s_openapi::Metadata for EndpointConsumer {
    type Ty = ObjectMeta;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
