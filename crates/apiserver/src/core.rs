//! What all handlers share: the store, what is known in memory, and the bounds.

use std::sync::{Arc, atomic::AtomicBool};

use hitless_base::{Revision, Timestamp};
use hitless_store::{Entry, Store};
use hitless_types::kinds::Kind;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    clusterip::ClusterIps, codec, codec::Decoded, discovery::Documents, fault::Fault, lean, metrics::Metrics,
    nodeport::NodePorts, options::Options, route, volatile::Volatile,
};

/// The server's insides.
pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) options: Options,
    pub(crate) volatile: Volatile,
    pub(crate) decoded: Decoded,
    pub(crate) cluster_ips: ClusterIps,
    pub(crate) node_ports: NodePorts,
    pub(crate) metrics: Metrics,
    pub(crate) documents: Documents,
    /// Ends every watch.
    pub(crate) cancel: CancellationToken,
    /// Held while a disruption budget is read and spent, so that evictions do not fail for each other's writes.
    pub(crate) evictions: tokio::sync::Mutex<()>,
    /// Whether somebody sweeps expired Events.
    pub(crate) swept: AtomicBool,
    pub(crate) watches: Arc<Semaphore>,
    pub(crate) in_flight: Arc<Semaphore>,
}

impl Core {
    pub(crate) fn new(store: Arc<dyn Store>, options: Options) -> Self {
        Self {
            volatile: Volatile::new(),
            decoded: Decoded::new(),
            cluster_ips: ClusterIps::new(options.service_cidr),
            node_ports: NodePorts::default(),
            metrics: Metrics::new(),
            documents: Documents::new(),
            cancel: CancellationToken::new(),
            evictions: tokio::sync::Mutex::new(()),
            swept: AtomicBool::new(false),
            watches: Arc::new(Semaphore::new(options.limits.watches_max)),
            in_flight: Arc::new(Semaphore::new(options.limits.in_flight_max)),
            store,
            options,
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.options.clock.now()
    }

    /// The stored entry and its object, without volatile status.
    pub(crate) async fn load(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<(Entry, Value)>, Fault> {
        match self.store.get(&route::key(kind, namespace, name)).await? {
            None => Ok(None),
            Some(entry) => {
                let object = codec::decode(kind, &entry)?;
                Ok(Some((entry, object)))
            }
        }
    }

    /// The entry's object as clients see it.
    pub(crate) fn shown(&self, kind: &'static Kind, entry: &Entry) -> Result<Value, Fault> {
        let mut object = codec::decode(kind, entry)?;
        if kind.volatile_status {
            self.volatile.show(&entry.key, &mut object);
        }
        Ok(object)
    }

    /// Appends the entry's object as clients see it.
    pub(crate) fn write_shown(
        &self,
        out: &mut Vec<u8>,
        kind: &'static Kind,
        entry: &Entry,
        with_type: bool,
        lean: bool,
    ) -> Result<(), Fault> {
        if codec::is_verbatim(kind) {
            codec::write_object(out, kind, entry, with_type, lean);
            return Ok(());
        }
        let mut object = self.shown(kind, entry)?;
        if lean {
            lean::strip(&mut object);
        }
        serde_json::to_writer(out, &object).map_err(Fault::internal)
    }

    pub(crate) fn revision(&self) -> Revision {
        self.store.revision()
    }
}

/// `2026-11-21T06:00:00Z`, as metadata has it.
pub(crate) fn seconds_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-11-21T06:00:00.123456Z`.
pub(crate) fn micros_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}
