//! DNS: a consumer of the loop that answers for the cluster's names.
//!
//! The way of the data in here: [`records`] (what Services and EndpointSlices say) -> [`table`] -> [`zone`] (all names, immutable, at
//! a revision) -> [`respond`] (packet to packet), which [`server`] moves along; what is not ours is asked of the machine's own resolvers by
//! [`forward`]. All but `server` and `forward` is pure.
//!
//! What must hold: nothing is answered before all lists are there; the watermark names only zones from which alone answers leave. Clients
//! may keep an address for as long as its record says, so that time is the consumer's settle time; and since only addresses of headless
//! Services' endpoints stand in records, it is waited for their Pods alone.

pub mod cache;
pub mod forward;
pub mod message;
pub mod records;
pub mod respond;
pub mod server;
mod shards;
pub mod table;
#[cfg(test)]
mod tests;
pub mod upstream;
pub mod zone;

use std::{io, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use hitless_base::{Clock, Revision};
use hitless_client::Selection;
use hitless_types::{AckClass, SettleScope};
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::consumer::{self, ConsumerError, Identity, Level, Plane};

use forward::{Forwarder, Servers};
use server::Server;
use table::{NameTable, Step};
use zone::Zone;
pub use zone::{Domain, TTL_S};

/// What a node's DNS server is told.
pub struct Options {
    /// The node that it serves.
    pub node_name: String,
    /// Where it listens, over UDP and TCP.
    pub address: SocketAddr,
    /// Which names are the cluster's.
    pub domain: Domain,
    /// Gives those that are asked about all other names. Called every few seconds at most; it may read a file.
    pub servers: Arc<dyn Fn() -> Vec<SocketAddr> + Send + Sync>,
}

/// The name of a node's DNS server as a consumer.
#[must_use]
pub fn consumer_name(node_name: &str) -> String {
    format!("dns-{node_name}")
}

/// Runs a node's DNS server until `cancel`. Failures of the API, and an address that cannot be listened on yet, are waited out.
pub async fn run(
    client: Client,
    options: Options,
    clock: Arc<dyn Clock>,
    cancel: CancellationToken,
) -> Result<(), ConsumerError> {
    let identity = Identity {
        name: consumer_name(&options.node_name),
        type_: "DNS",
        node_name: Some(options.node_name.clone()),
        ack_class: AckClass::Proven,
        settle_milliseconds: u64::from(TTL_S) * 1_000,
        settle_scope: SettleScope::Headless,
    };
    let level = NameTable::new(options.domain.clone());
    let plane = ServerPlane { options, clock: clock.clone(), zone: None, server: None };
    let follow = |watches: &mut consumer::Watches<NameTable>| {
        watches.follow(Selection::default(), |change| Some(Step::of_slice(change)));
        watches.follow(Selection::default(), Step::of_service);
        watches.follow(Selection::default(), Step::of_namespace);
    };
    consumer::run(client, identity, level, plane, follow, clock, cancel).await
}

impl Level for NameTable {
    type Step = Step;
    type Dirty = Zone;

    fn take(&mut self, step: Step) {
        Self::take(self, step);
    }

    fn is_complete(&self) -> bool {
        Self::is_complete(self)
    }

    fn revision(&self) -> Revision {
        Self::revision(self)
    }

    fn take_dirty(&mut self) -> Zone {
        self.zone()
    }
}

/// The server does not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// Its address cannot be listened on.
    #[error("cannot listen on {address}, which must be an address of the node's loopback")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// It has ended.
    #[error("the server has ended by itself")]
    Ended,
}

/// The server, begun with the first zone: before that there is nothing to answer.
struct ServerPlane {
    options: Options,
    clock: Arc<dyn Clock>,
    zone: Option<Zone>,
    server: Option<Server>,
}

#[async_trait]
impl Plane for ServerPlane {
    type Level = NameTable;
    type Error = DnsError;

    fn take(&mut self, zone: Zone) {
        self.zone = Some(zone);
    }

    async fn commit(&mut self) -> Result<(), DnsError> {
        let Some(zone) = self.zone.clone() else { return Ok(()) };
        if let Some(server) = &self.server {
            server.publish(zone);
            return Ok(());
        }
        let address = self.options.address;
        let servers = self.options.servers.clone();
        let servers: Servers = Box::new(move || servers());
        let started = Server::start(address, zone, Forwarder::new(servers, self.clock.clone()));
        self.server = Some(started.map_err(|source| DnsError::Listen { address, source })?);
        tracing::info!(%address, "answers for the cluster's names");
        Ok(())
    }

    async fn verify(&mut self) -> Result<(), DnsError> {
        if self.server.as_ref().is_some_and(|server| !server.is_alive()) {
            self.server = None;
            return Err(DnsError::Ended);
        }
        Ok(())
    }
}
