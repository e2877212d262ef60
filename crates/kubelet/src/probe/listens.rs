//! Readiness of a container that has no readiness probe: its declared ports are open.
//!
//! Kubernetes calls such a container ready as soon as its process runs, and whoever is sent to it in the first milliseconds is refused:
//! a server has yet to open its port. Here the kernel is asked for the ports that the container declares. What must hold: a container that
//! never opens them (declared ports are a hint, and often a wrong one) is held back by [`BOUND`] and no longer, and once ready it stays so.

use std::{sync::Arc, time::Duration};

use hitless_base::{Backoff, Clock};
use k8s_openapi::api::core::v1::Container;
use tokio::sync::mpsc;

use super::task::{Kind, Verdict};
use crate::ports::Runtime;

/// How long the ports are waited for.
const BOUND: Duration = Duration::from_secs(1);
const LOOK_FIRST: Duration = Duration::from_millis(2);
const LOOK_MAX: Duration = Duration::from_millis(50);

/// The TCP ports whose opening makes the container ready; none: it is ready when it runs, or its probe says so.
#[must_use]
pub fn awaited(container: &Container) -> Vec<u16> {
    if container.readiness_probe.is_some() {
        return Vec::new();
    }
    let ports = container.ports.iter().flatten();
    let tcp = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    tcp.filter_map(|port| u16::try_from(port.container_port).ok()).collect()
}

/// What to wait for, and of whom.
pub struct Listens {
    /// The container's name.
    pub container: String,
    /// Runtime's id.
    pub container_id: String,
    /// Its ports.
    pub ports: Vec<u16>,
    /// Where it runs.
    pub runtime: Arc<dyn Runtime>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl Listens {
    /// Waits, and then says that the container is ready.
    pub async fn run<T: From<Verdict> + Send>(self, out: mpsc::Sender<T>) {
        let end = self.clock.now().saturating_add(BOUND).unwrap_or(self.clock.now());
        let mut backoff = Backoff::new(LOOK_FIRST, LOOK_MAX);
        loop {
            match self.runtime.listens(&self.container_id, &self.ports).await {
                Ok(false) if self.clock.now() < end => self.clock.sleep(backoff.step()).await,
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(container = self.container_id, %error, "open ports not seen");
                    break;
                }
            }
        }
        let Self { container, container_id, .. } = self;
        let _worker_has_ended =
            out.send(Verdict { container_id, container, kind: Kind::Readiness, ok: true }.into()).await;
    }
}
