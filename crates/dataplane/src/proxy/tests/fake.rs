//! A kernel in memory, as strict as the real one.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::{
    kernel::{Kernel, KernelError},
    program::{Batch, Program},
};

#[derive(Default)]
struct Held {
    program: Option<Program>,
    replaced: usize,
    applied: usize,
    failures: usize,
    damaged: bool,
}

/// The kernel, as strict as the real one.
#[derive(Default)]
pub struct FakeKernel(Mutex<Held>);

impl FakeKernel {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
    /// What it holds; nothing before the first build.
    pub fn program(&self) -> Option<Program> {
        self.0.lock().program.clone()
    }
    /// Transactions so far: whole builds, and changes.
    pub fn commits(&self) -> (usize, usize) {
        let held = self.0.lock();
        (held.replaced, held.applied)
    }
    /// The next so many transactions are refused.
    pub fn fail(&self, times: usize) {
        self.0.lock().failures = times;
    }
    /// Some other hand takes the table apart.
    pub fn damage(&self) {
        let mut held = self.0.lock();
        (held.damaged, held.program) = (true, None);
    }
    fn admit(held: &mut Held) -> Result<(), KernelError> {
        if held.failures > 0 {
            held.failures -= 1;
            return Err(KernelError::Refused { reason: "told to".to_owned() });
        }
        Ok(())
    }
}

#[async_trait]
impl Kernel for FakeKernel {
    async fn replace_all(&self, program: &Program) -> Result<(), KernelError> {
        let mut held = self.0.lock();
        Self::admit(&mut held)?;
        held.program = Some(program.clone());
        held.replaced += 1;
        held.damaged = false;
        Ok(())
    }
    async fn apply(&self, batch: &Batch) -> Result<(), KernelError> {
        let mut held = self.0.lock();
        Self::admit(&mut held)?;
        let refused = |reason: String| KernelError::Refused { reason };
        let program = held.program.as_mut().ok_or_else(|| refused("nothing built".to_owned()))?;
        program.apply(batch).map_err(|misfit| refused(misfit.to_string()))?;
        held.applied += 1;
        Ok(())
    }
    async fn verify(&self) -> Result<(), KernelError> {
        match self.0.lock().damaged {
            true => Err(KernelError::Foreign { reason: "damaged".to_owned() }),
            false => Ok(()),
        }
    }
    async fn read_back(&self) -> Result<Program, KernelError> {
        self.program().ok_or_else(|| KernelError::Foreign { reason: "nothing built".to_owned() })
    }
}
