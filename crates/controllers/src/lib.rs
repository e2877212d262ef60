//! The controllers: one folder for each, all of one shape.
//!
//! `index.rs` says what a controller sees (which caches, and which key is worth a look when something changes),
//! `decide.rs` is a pure function from what was seen to a plan, `apply.rs` carries the plan out through the API,
//! and `mod.rs` starts it. See `docs/new-controller.md`.
//!
//! Level, not edge: a controller works on a key from what the caches hold, and never from an event.

pub mod context;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod fence;
pub mod garbage;
pub mod informers;
pub mod ingress;
pub mod namespace;
pub mod node;
pub mod owner;
pub mod replicaset;
pub mod serviceaccount;
pub mod withdrawal;

pub use context::Context;
pub use informers::Informers;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Starts every controller as tasks of `tasks`, until `cancel`.
pub fn start(
    client: &kube::Client,
    options: context::Options,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) {
    let context = Context::new(client.clone(), options, tasks, cancel);
    let mut informers = Informers::new(client);
    deployment::start(&context, &mut informers);
    replicaset::start(&context, &mut informers);
    disruption::start(&context, &mut informers);
    endpoints::start(&context, &mut informers);
    endpointslice::start(&context, &mut informers);
    withdrawal::start(&context, &mut informers);
    node::start(&context, &mut informers);
    namespace::start(&context, &mut informers);
    serviceaccount::start(&context, &mut informers);
    garbage::start(&context, &mut informers);
    ingress::start(&context, &mut informers);
    informers.start(&context);
}
