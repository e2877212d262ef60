//! What every controller is given: the client, the clock, the loop's switch, and where its tasks live.

use std::{future::Future, sync::Arc, time::Duration};

use hitless_base::{Clock, SystemClock};
use hitless_client::{Outcome, Queue, Recorder};
use kube::Client;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long controllers outside the loop wait before they act on a change. When a Pod is deleted, the slices, the consumers and the
/// withdrawal come first, and what follows from it (a replacement, counts in a status) is one piece of work instead of several.
pub(crate) const LINGER: Duration = Duration::from_millis(25);

/// How the controllers are to behave.
#[derive(Clone)]
pub struct Options {
    /// `false`: plain Kubernetes' order, for comparison. Ready is then enough to be available.
    pub loop_on: bool,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// The cluster's root certificate, for each namespace's `kube-root-ca.crt`; `None`: the ConfigMap is not made.
    pub root_ca_pem: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { loop_on: true, clock: Arc::new(SystemClock), root_ca_pem: None }
    }
}

/// What every controller is given.
#[derive(Clone)]
pub struct Context {
    /// The API.
    pub client: Client,
    /// How to behave.
    pub options: Options,
    /// Owner of the controllers' tasks.
    pub tasks: TaskTracker,
    /// Ends them.
    pub cancel: CancellationToken,
    synced: watch::Receiver<bool>,
    synced_send: Arc<watch::Sender<bool>>,
}

impl Context {
    /// A context whose workers wait until [`Context::caches_synced`] is called.
    #[must_use]
    pub fn new(client: Client, options: Options, tasks: &TaskTracker, cancel: &CancellationToken) -> Self {
        let (synced_send, synced) = watch::channel(false);
        Self {
            client,
            options,
            tasks: tasks.clone(),
            cancel: cancel.clone(),
            synced,
            synced_send: Arc::new(synced_send),
        }
    }

    /// Lets the workers begin.
    pub fn caches_synced(&self) {
        self.synced_send.send_replace(true);
    }

    /// A recorder of events that writes as `component`.
    #[must_use]
    pub fn recorder(&self, component: &str) -> Recorder {
        Recorder::start(self.client.clone(), component, "", &self.tasks, &self.cancel)
    }

    /// Starts `workers` workers on `queue`, once all caches have their first list.
    pub fn work<F, W>(&self, queue: &Queue, workers: usize, work: F)
    where
        F: Fn(String) -> W + Clone + Send + 'static,
        W: Future<Output = Outcome> + Send + 'static,
    {
        let (context, queue) = (self.clone(), queue.clone());
        self.tasks.spawn(async move {
            let mut synced = context.synced.clone();
            tokio::select! {
                () = context.cancel.cancelled() => return,
                waited = synced.wait_for(|synced| *synced) => if waited.is_err() { return },
            }
            queue.run(&context.tasks, &context.cancel, workers, work);
        });
    }
}
