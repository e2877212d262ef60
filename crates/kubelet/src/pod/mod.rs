//! One Pod: what is known of it, what to do next (pure), what to say of it (pure), and the worker that does and says it.

mod container;
pub mod decide;
mod end;
mod images;
pub mod memory;
mod publish;
mod setup;
pub mod spec;
pub mod status;
mod worker;

pub(crate) use end::until_ended;
pub(crate) use worker::{Held, Worker, WorkerStart};
