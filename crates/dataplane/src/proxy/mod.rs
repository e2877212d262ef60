//! The service proxy: a consumer of the loop that programs a node's kernel.
//!
//! Its watermark is published after the kernel's commit. If the kernel refuses a change, or some other hand took its table apart,
//! everything is built anew. On the way out the kernel's table stays, so that traffic goes on while the proxy is replaced; the next one
//! takes it over and changes only what differs, so that clients stay where affinity has put them.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use hitless_base::{Clock, Revision, chain};
use hitless_client::Selection;
use hitless_types::consumer::{AckClass, SettleScope};
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::{
    consumer::{self, ConsumerError, Identity, Level, Plane},
    kernel::{Kernel, KernelError},
    program::{Batch, Routing, ServicePort, diff},
    slots::SlotTable,
    table::{EndpointTable, TableChange},
};

/// The name of a node's service proxy as a consumer.
#[must_use]
pub fn consumer_name(node_name: &str) -> String {
    format!("service-proxy-{node_name}")
}

/// Runs the service proxy of `node_name` until `cancel`. Failures of the API or the kernel are waited out.
pub async fn run(
    client: Client,
    node_name: String,
    kernel: Arc<dyn Kernel>,
    clock: Arc<dyn Clock>,
    cancel: CancellationToken,
) -> Result<(), ConsumerError> {
    let node = node_name.clone();
    let identity = Identity {
        name: consumer_name(&node_name),
        type_: "ServiceProxy",
        node_name: Some(node_name),
        ack_class: AckClass::Proven,
        settle_milliseconds: 0,
        settle_scope: SettleScope::All,
    };
    let plane = KernelPlane {
        kernel,
        slots: SlotTable::new(),
        batch: Batch::default(),
        in_step: false,
        may_adopt: true,
    };
    let follow = |watches: &mut consumer::Watches<EndpointTable>| {
        watches.follow(Selection::default(), move |change| Some(TableChange::of_slice(change, &node)));
        watches.follow(Selection::default(), TableChange::of_service);
    };
    consumer::run(client, identity, EndpointTable::new(), plane, follow, clock, cancel).await
}

impl Level for EndpointTable {
    type Step = TableChange;
    type Dirty = BTreeMap<ServicePort, Option<Routing>>;

    fn take(&mut self, step: TableChange) {
        Self::take(self, step);
    }
    fn is_complete(&self) -> bool {
        Self::is_complete(self)
    }
    fn revision(&self) -> Revision {
        Self::revision(self)
    }
    fn take_dirty(&mut self) -> Self::Dirty {
        Self::take_dirty(self)
    }
}

struct KernelPlane {
    kernel: Arc<dyn Kernel>,
    slots: SlotTable,
    /// What was taken and is not committed. Says nothing while not `in_step`.
    batch: Batch,
    /// Whether the kernel is known to hold what `slots` held before `batch`.
    in_step: bool,
    /// Whether a table of an earlier incarnation may be there to be taken over.
    may_adopt: bool,
}

impl KernelPlane {
    /// Builds everything, out of what an earlier incarnation left, if that is as it built it.
    async fn build(&mut self) -> Result<(), KernelError> {
        let program = self.slots.program();
        if std::mem::take(&mut self.may_adopt)
            && let Ok(present) = self.kernel.read_back().await
        {
            match self.kernel.apply(&diff(&present, &program)).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "the table of an earlier proxy cannot be taken over, will build it anew");
                }
            }
        }
        self.kernel.replace_all(&program).await
    }
}

#[async_trait]
impl Plane for KernelPlane {
    type Level = EndpointTable;
    type Error = KernelError;

    fn take(&mut self, dirty: <EndpointTable as Level>::Dirty) {
        self.batch = self.slots.change(&dirty);
    }

    /// One transaction, and none if nothing changed.
    async fn commit(&mut self) -> Result<(), KernelError> {
        let batch = std::mem::take(&mut self.batch);
        let was_in_step = std::mem::replace(&mut self.in_step, false);
        if !was_in_step {
            self.build().await?;
        } else if !batch.is_empty() {
            self.kernel.apply(&batch).await?;
        }
        self.in_step = true;
        Ok(())
    }

    async fn verify(&mut self) -> Result<(), KernelError> {
        let verified = self.kernel.verify().await;
        self.in_step &= verified.is_ok();
        verified
    }
}
