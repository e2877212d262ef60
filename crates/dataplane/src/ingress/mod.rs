//! The ingress of a node: a consumer of the loop that forwards HTTP straight to Pods.
//!
//! The way of the data in here: [`records`] (objects cut down) -> [`level`] (what the API says) -> [`routes`] and
//! [`table`] (what a choice is made by) -> [`current`] (the one table in force, and the proof that no choice is made by the one before) ->
//! [`forward`] (one request). All of that is pure but for `forward`; around it are [`server`] (threads and sockets), [`upstream`] (connections to
//! endpoints), [`tls`] and [`plane`].
//!
//! What must hold: the watermark is published when no worker can choose an endpoint that is not in the table any more. Requests
//! that an endpoint has begun are not waited for: to finish them is what the grace period is for.

mod body;
mod current;
mod endpoint;
pub mod fixed;
mod forward;
mod headers;
mod level;
mod path;
mod plane;
mod records;
mod routes;
mod server;
mod settings;
mod table;
#[cfg(test)]
mod tests;
mod tls;
mod upstream;
mod watchdog;

use std::{sync::Arc, time::Duration};

use hitless_base::{Clock, chain};
use hitless_client::Selection;
use hitless_types::consumer::{AckClass, SettleScope};
use kube::Client;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::consumer::{self, ConsumerError, Identity};
use current::Current;
use level::{IngressLevel, Step};
use plane::Workers;
pub use records::{CLASS, CONTROLLER};
use server::{Bound, Servers};
pub use server::{ListenError, Options};
use table::Table;
use tls::{Resolver, TlsError};

/// How long to wait before a port that is in use is tried again.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// Why the ingress ended although nobody told it to.
#[derive(Debug, thiserror::Error)]
pub enum IngressError {
    /// There is no TLS.
    #[error("the ingress cannot serve TLS")]
    Tls(#[from] TlsError),
    /// The consumer ended.
    #[error("the ingress does not follow the API any more")]
    Consumer(#[from] ConsumerError),
}

/// The name of a node's ingress as a consumer.
#[must_use]
pub fn consumer_name(node_name: &str) -> String {
    format!("ingress-{node_name}")
}

/// Runs the ingress of `node_name` until `cancel`. Failures of the API and ports that are in use are waited out.
///
/// # Errors
/// See [`IngressError`].
pub async fn run(
    client: Client,
    node_name: String,
    options: Options,
    clock: Arc<dyn Clock>,
    cancel: CancellationToken,
) -> Result<(), IngressError> {
    let resolver = Arc::new(Resolver::new()?);
    let tls = Arc::new(resolver.clone().server_config()?);
    let Some(sockets) = listen(&node_name, &options, &*clock, &cancel).await else { return Ok(()) };
    let identity = Identity {
        name: consumer_name(&node_name),
        type_: "Ingress",
        node_name: Some(node_name),
        ack_class: AckClass::Proven,
        settle_milliseconds: 0,
        settle_scope: SettleScope::All,
    };
    let table = Current::new(Table::new(Arc::default(), Vec::new()));
    let servers: Arc<Mutex<Option<Servers>>> = Arc::default();
    let ready = Box::new({
        let (table, servers) = (table.clone(), servers.clone());
        move || match Servers::start(sockets, &table, &tls, options.connections_max) {
            Ok(started) => *servers.lock() = Some(started),
            Err(error) => tracing::error!(error = %chain(&error), "the ingress cannot start its workers"),
        }
    });
    let plane = Workers::new(table, resolver, options.workers.max(1), ready);
    let ended = consumer::run(client, identity, IngressLevel::default(), plane, follow, clock, cancel).await;
    let running = servers.lock().take();
    if let Some(running) = running {
        running.stop().await;
    }
    Ok(ended?)
}

fn follow(watches: &mut consumer::Watches<IngressLevel>) {
    let tls = Selection { fields: Some("type=kubernetes.io/tls".to_owned()), ..Selection::default() };
    watches.follow(Selection::default(), Step::of_slice);
    watches.follow(Selection::default(), Step::of_service);
    watches.follow(Selection::default(), Step::of_ingress);
    watches.follow(Selection::default(), Step::of_class);
    watches.follow(tls, Step::of_secret);
}

/// The sockets, as soon as they can be had. None: cancelled before.
async fn listen(
    node_name: &str,
    options: &Options,
    clock: &dyn Clock,
    cancel: &CancellationToken,
) -> Option<Vec<Vec<Bound>>> {
    let mut told = false;
    loop {
        match server::bind(options) {
            Ok(sockets) => return Some(sockets),
            Err(error) if !told => {
                tracing::warn!(node = node_name, error = %chain(&error), "will try again");
                told = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = cancel.cancelled() => return None,
            () = clock.sleep(LISTEN_AGAIN) => {}
        }
    }
}
