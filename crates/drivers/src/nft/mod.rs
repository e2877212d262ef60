//! nf_tables over netlink: the service proxy's kernel side.
//!
//! One table, `ip hitless`, whose chains and rules (`layout`) never change while it stands; services and endpoints are elements of
//! its maps (`elements`), so that a changed endpoint costs its own slots. No program is started for it: the messages are written here
//! (`message`, `expr`) and sent as netlink batches (`socket`), which the kernel takes whole or not at all. Only affinity has chains that come
//! and go (`affinity`). UDP flows that a commit leaves behind are ended after it (`flows`).
//!
//! What must hold: a change is in force when `apply` returns; a connection that began before stays where it is (connection
//! tracking carries it; UDP, which has none, see `flows`), one that begins after sees the new state.

mod affinity;
mod elements;
mod expr;
mod flows;
mod layout;
mod message;
mod socket;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use hitless_dataplane::{Batch, Kernel, KernelError, Program};
use ipnet::Ipv4Net;
use parking_lot::Mutex;

use message::Transaction;
use socket::Connection;

/// The name of the table, of family `ip`.
pub const TABLE: &str = layout::TABLE;

/// Changes of up to so many elements are made on the caller's thread (some microseconds each); larger ones on a thread that may block.
const INLINE_ELEMENTS_MAX: usize = 256;

/// How the proxy is to treat the node's own traffic.
#[derive(Clone, Copy, Debug, Default)]
pub struct NftOptions {
    /// The cluster's Pod range. Connections to services from outside of it get this node's address as source, so that the answers come
    /// back through this node. `None`: only the node's own connections do.
    pub pod_cidr: Option<Ipv4Net>,
    /// The range of this node's own Pods: where a Service tells connections from outside apart, theirs are not meant. `None`: only the
    /// node's own are not.
    pub node_pod_cidr: Option<Ipv4Net>,
}

/// The kernel's nf_tables of one network namespace.
#[derive(Clone)]
pub struct Nft {
    connection: Arc<Mutex<Connection>>,
    options: NftOptions,
}

impl Nft {
    /// Connects to nf_tables of the network namespace that the calling thread is in; it stays with that one.
    /// Nothing is changed yet. Needs CAP_NET_ADMIN.
    pub fn open(options: NftOptions) -> Result<Self, KernelError> {
        Ok(Self { connection: Arc::new(Mutex::new(Connection::open()?)), options })
    }

    /// Takes the table away, if there is one. Open connections go on.
    pub async fn remove(&self) -> Result<(), KernelError> {
        self.blocking(|connection| {
            let mut transaction = Transaction::new();
            layout::clear(&mut transaction);
            connection.commit(transaction)
        })
        .await
    }

    /// Runs `work` on a thread that may block: big transactions take the kernel some milliseconds.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, KernelError> + Send + 'static,
    ) -> Result<T, KernelError> {
        let connection = self.connection.clone();
        let done = tokio::task::spawn_blocking(move || work(&mut connection.lock())).await;
        done.map_err(|join| KernelError::Io(std::io::Error::other(join)))?
    }
}

#[async_trait]
impl Kernel for Nft {
    async fn replace_all(&self, program: &Program) -> Result<(), KernelError> {
        let (program, options) = (program.clone(), self.options);
        self.blocking(move |connection| {
            let mut transaction = Transaction::new();
            layout::clear(&mut transaction);
            layout::build(&mut transaction, options, &program);
            connection.commit(transaction)?;
            flows::end_strays(connection, &program.flows())?;
            Ok(())
        })
        .await
    }

    async fn apply(&self, batch: &Batch) -> Result<(), KernelError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut transaction = Transaction::new();
        for seconds in &batch.timeouts.added {
            layout::add_affinity(&mut transaction, *seconds);
        }
        elements::write_change(&mut transaction, batch);
        for seconds in &batch.timeouts.removed {
            layout::remove_affinity(&mut transaction, *seconds);
        }
        if batch.flows.is_empty()
            && batch.len() <= INLINE_ELEMENTS_MAX
            && let Some(mut connection) = self.connection.try_lock()
        {
            return connection.commit(transaction);
        }
        let (changes, flows) = (batch.len(), batch.flows.clone());
        self.blocking(move |connection| {
            if changes > 0 {
                connection.commit(transaction)?;
            }
            flows::end_strays(connection, &flows)?;
            Ok(())
        })
        .await
    }

    async fn verify(&self) -> Result<(), KernelError> {
        let options = self.options;
        self.blocking(move |connection| layout::verify(connection, options)).await
    }

    async fn read_back(&self) -> Result<Program, KernelError> {
        let options = self.options;
        self.blocking(move |connection| {
            layout::verify(connection, options)?;
            elements::read_all(connection)
        })
        .await
    }
}
