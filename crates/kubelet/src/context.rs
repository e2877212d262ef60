//! What all of a kubelet's parts share: clients, options, clock. Nothing here changes while it runs.

use std::sync::Arc;

use hitless_base::Clock;
use hitless_client::{Cache, Recorder};
use k8s_openapi::api::core::v1::Service;
use kube::Client;

use crate::{
    options::{Capacity, Options},
    ports::Runtime,
};

/// What all parts share.
pub(crate) struct Context {
    pub client: Client,
    pub runtime: Arc<dyn Runtime>,
    pub options: Options,
    pub clock: Arc<dyn Clock>,
    pub recorder: Recorder,
    /// All Services, for the environment of containers.
    pub services: Cache<Service>,
    pub capacity: Capacity,
    /// `containerd`: the scheme of container ids.
    pub runtime_name: String,
}

/// A span as seconds with a fraction, for Events.
pub(crate) fn shown(took: std::time::Duration) -> String {
    if took.as_millis() < 1000 {
        format!("{}ms", took.as_millis())
    } else {
        format!("{:.3}s", took.as_secs_f64())
    }
}
