//! A node's kernel: takes transactions as strictly as the real one, takes its time, and may fail, be slow or lie.
//!
//! It outlives every service proxy that programs it.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use hitless_dataplane::{Batch, Endpoint, Front, Kernel, KernelError, Program, SlotKey};
use parking_lot::Mutex;

use crate::world::{Fact, Routes, World};

/// What is wrong with a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Each transaction takes up to so much longer.
    pub slow_ms: u64,
    /// Of 100 transactions so many are refused.
    pub refused_percent: u64,
    /// It answers at once, and does what it was told so much later: a lie. For the proof that checkers see it.
    pub lies_ms: u64,
}

#[derive(Default)]
struct Held {
    slots: BTreeMap<SlotKey, Endpoint>,
    built: bool,
    foreign: bool,
    fault: Fault,
}

struct Inner {
    node: String,
    world: World,
    held: Mutex<Held>,
}

/// A kernel. Clones are the same one.
#[derive(Clone)]
pub struct SimKernel(Arc<Inner>);

/// One transaction.
enum Change {
    All(Program),
    Some(Box<Batch>),
}

impl SimKernel {
    /// A kernel that routes nothing.
    #[must_use]
    pub fn new(node: &str, world: World) -> Self {
        Self(Arc::new(Inner { node: node.to_owned(), world, held: Mutex::default() }))
    }

    /// From now on this is wrong with it.
    pub fn set_fault(&self, fault: Fault) {
        self.0.held.lock().fault = fault;
    }

    /// Some other hand takes the tables apart: connections to Services reach nobody until they are built anew.
    pub fn wreck(&self) {
        let mut held = self.0.held.lock();
        (held.slots, held.built, held.foreign) = (BTreeMap::new(), false, true);
        drop(held);
        self.tell();
    }

    async fn transact(&self, change: Change) -> Result<(), KernelError> {
        let fault = self.0.held.lock().fault;
        let world = &self.0.world;
        if fault.refused_percent > 0 && world.number(0..=99) < fault.refused_percent {
            return Err(KernelError::Refused { reason: "no memory".to_owned() });
        }
        if fault.lies_ms > 0 {
            let kernel = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_millis(fault.lies_ms)).await;
                kernel.carry_out(change)
            });
            return Ok(());
        }
        // Whoever is killed while he waits does not know whether it came about.
        world.pause(0..=fault.slow_ms).await;
        let done = self.carry_out(change);
        world.pause(0..=1).await;
        done
    }

    fn carry_out(&self, change: Change) -> Result<(), KernelError> {
        {
            let mut held = self.0.held.lock();
            match change {
                Change::All(program) => {
                    (held.slots, held.built, held.foreign) = (program.slots, true, false);
                }
                Change::Some(_) if !held.built => return Err(refused("there is no such table")),
                Change::Some(batch) => held.slots = changed(&held.slots, &batch)?,
            }
        }
        self.tell();
        Ok(())
    }

    fn tell(&self) {
        let mut routes = Routes::new();
        for (key, endpoint) in &self.0.held.lock().slots {
            let Front::Address(address) = key.service.front else { continue };
            let to = format!("{address}:{}", key.service.port);
            routes.entry(to).or_default().insert(format!("{}:{}", endpoint.address, endpoint.port));
        }
        self.0.world.tell(&Fact::Routes { node: self.0.node.clone(), routes: Arc::new(routes) });
    }
}

fn refused(reason: &str) -> KernelError {
    KernelError::Refused { reason: reason.to_owned() }
}

/// The slots after a transaction; all of it or nothing.
fn changed(
    slots: &BTreeMap<SlotKey, Endpoint>,
    batch: &Batch,
) -> Result<BTreeMap<SlotKey, Endpoint>, KernelError> {
    let mut slots = slots.clone();
    for key in &batch.slots_removed {
        slots.remove(key).ok_or_else(|| refused("no such element"))?;
    }
    for (key, endpoint) in &batch.slots_replaced {
        *slots.get_mut(key).ok_or_else(|| refused("no such element"))? = *endpoint;
    }
    for (key, endpoint) in &batch.slots_added {
        if slots.insert(*key, *endpoint).is_some() {
            return Err(refused("the element is there already"));
        }
    }
    Ok(slots)
}

#[async_trait]
impl Kernel for SimKernel {
    async fn replace_all(&self, program: &Program) -> Result<(), KernelError> {
        self.transact(Change::All(program.clone())).await
    }

    async fn apply(&self, batch: &Batch) -> Result<(), KernelError> {
        self.transact(Change::Some(Box::new(batch.clone()))).await
    }

    async fn verify(&self) -> Result<(), KernelError> {
        match self.0.held.lock().foreign {
            true => Err(KernelError::Foreign { reason: "the table is gone".to_owned() }),
            false => Ok(()),
        }
    }

    async fn read_back(&self) -> Result<Program, KernelError> {
        self.verify().await?;
        let held = self.0.held.lock();
        match held.built {
            true => Ok(Program { slots: held.slots.clone(), ..Program::default() }),
            false => Err(KernelError::Foreign { reason: "the table is not there".to_owned() }),
        }
    }
}
