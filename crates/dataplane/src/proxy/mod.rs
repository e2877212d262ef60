//! The service proxy: a consumer of the loop that programs a node's kernel.
//!
//! It registers first, then lists, then serves (a consumer that joins late starts from a list at or beyond every removal that did not wait for
//! it). From then on each watch event wakes it; whatever has come by then is one batch, one kernel transaction, and one step of the
//! watermark, without any pause for more to come. At most one call to the API about itself is under way; the next one carries the
//! latest watermark.
//!
//! What must hold: the watermark names only what the kernel has committed; if the kernel refuses, it stays where it is and everything is
//! built anew, with backoff. On the way out the kernel's table stays, so that traffic goes on while the proxy is replaced.

mod delay;
mod feed;
mod registry;
#[cfg(test)]
mod tests;
mod watermark;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use hitless_base::{Backoff, Clock, Revision, Timestamp, chain};
use hitless_client::{Selection, listwatch::list_watch};
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{kernel::Kernel, slots::SlotTable, table::TableChange};

use feed::{Feed, Work};
pub use registry::{LEASE_S, RegistryError, consumer_name, deregister};
use watermark::Watermark;

const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// The API hears from the proxy at least so often.
const HEARTBEAT: Duration = Duration::from_secs(LEASE_S / 3);

/// How often the proxy looks whether the kernel still holds what it built.
const VERIFY: Duration = HEARTBEAT;

/// Why the proxy ended although nobody told it to.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// One of its watches ended.
    #[error("a watch of the service proxy ended")]
    Watch(#[source] Option<tokio::task::JoinError>),
}

/// Runs the service proxy of `node_name` until `cancel`. Failures of the API or the kernel are waited out.
pub async fn run(
    client: Client,
    node_name: String,
    kernel: Arc<dyn Kernel>,
    clock: Arc<dyn Clock>,
    cancel: CancellationToken,
) -> Result<(), ProxyError> {
    let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX);
    let incarnation = new_incarnation();
    let registration = loop {
        let attempt = registry::register(client.clone(), node_name.clone(), incarnation.clone(), &*clock);
        let error = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            result = attempt => match result {
                Ok(registration) => break registration,
                Err(error) => error,
            },
        };
        tracing::warn!(node = node_name, error = %chain(&error), "cannot register the service proxy, will try again");
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = clock.sleep(backoff.step_with_jitter()) => {}
        }
    };
    let feed = Arc::new(Feed::new(clock.clone(), &registration));
    // The watches end with this call, however it ends.
    let watch_cancel = cancel.child_token();
    let mut watches = start_watches(&client, &node_name, &feed, &watch_cancel);
    let mut proxy = Proxy::new(client, node_name, kernel, clock, feed, incarnation);
    let result = tokio::select! {
        () = cancel.cancelled() => Ok(()),
        () = proxy.serve() => Ok(()),
        ended = watches.join_next() => Err(ProxyError::Watch(ended.and_then(Result::err))),
    };
    watch_cancel.cancel();
    while watches.join_next().await.is_some() {}
    // A watch that saw the cancellation first is no failure.
    if cancel.is_cancelled() { Ok(()) } else { result }
}

fn new_incarnation() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn start_watches(
    client: &Client,
    node_name: &str,
    feed: &Arc<Feed>,
    cancel: &CancellationToken,
) -> JoinSet<()> {
    let mut watches = JoinSet::new();
    let everything = Selection::default;
    let to = feed.clone();
    watches.spawn(list_watch(Api::all(client.clone()), everything(), cancel.clone(), move |change| {
        to.take(TableChange::of_slice(change));
    }));
    let to = feed.clone();
    watches.spawn(list_watch(Api::all(client.clone()), everything(), cancel.clone(), move |change| {
        if let Some(change) = TableChange::of_service(change) {
            to.take(change);
        }
    }));
    let own =
        Selection { fields: Some(format!("metadata.name={}", consumer_name(node_name))), ..everything() };
    let to = feed.clone();
    watches
        .spawn(list_watch(Api::all(client.clone()), own, cancel.clone(), move |change| to.take_own(change)));
    watches
}

/// The answer to a call about the proxy itself.
enum Answer {
    Registered(Result<(), RegistryError>),
    Reported(Revision, Result<(), RegistryError>),
}

type Call = Pin<Box<dyn Future<Output = Answer> + Send>>;

struct Proxy {
    client: Client,
    node_name: String,
    kernel: Arc<dyn Kernel>,
    clock: Arc<dyn Clock>,
    feed: Arc<Feed>,
    slots: SlotTable,
    watermark: Watermark,
    incarnation: String,
    /// Whether `incarnation` is what the API holds, as far as is known.
    registered: bool,
    /// The one call about the proxy itself that is under way.
    call: Option<Call>,
    /// When the API is to hear from the proxy, if nothing happens before.
    heartbeat_at: Timestamp,
    call_backoff: Backoff,
    /// No call before this, after one that failed.
    call_from: Option<Timestamp>,
    /// Whether the kernel is known to hold what `slots` held before the last change.
    in_step: bool,
    kernel_backoff: Backoff,
    /// No attempt to program the kernel before this, after one that failed.
    kernel_from: Option<Timestamp>,
    verify_at: Timestamp,
}

impl Proxy {
    fn new(
        client: Client,
        node_name: String,
        kernel: Arc<dyn Kernel>,
        clock: Arc<dyn Clock>,
        feed: Arc<Feed>,
        incarnation: String,
    ) -> Self {
        Self {
            heartbeat_at: after(clock.now(), HEARTBEAT),
            verify_at: after(clock.now(), VERIFY),
            client,
            node_name,
            kernel,
            clock,
            feed,
            slots: SlotTable::new(),
            watermark: Watermark::new(),
            incarnation,
            registered: true,
            call: None,
            call_backoff: Backoff::new(BACKOFF_FIRST, BACKOFF_MAX),
            call_from: None,
            in_step: false,
            kernel_backoff: Backoff::new(BACKOFF_FIRST, BACKOFF_MAX),
            kernel_from: None,
        }
    }

    /// Looks at the level, acts on it, and waits for the next reason to look.
    async fn serve(&mut self) {
        loop {
            let work = self.feed.work();
            let next = work.next;
            self.follow_registration(&work);
            self.verify().await;
            self.program(work).await;
            self.speak();
            let wait = self.next_wake(next).map(|at| {
                let wait = at.duration_since(self.clock.now());
                self.clock.sleep(Duration::try_from(wait).unwrap_or_default())
            });
            tokio::select! {
                () = self.feed.wake.notified() => {}
                answer = answer_of(&mut self.call) => self.heard(answer),
                () = async { match wait { Some(wait) => wait.await, None => std::future::pending().await } } => {}
            }
        }
    }

    fn follow_registration(&mut self, work: &Work) {
        if work.is_gone {
            self.registered = false;
        }
        if work.is_forgotten {
            self.watermark.forgotten();
        }
    }

    /// From time to time: if some other hand took the kernel's table apart, it is to be built anew.
    async fn verify(&mut self) {
        let now = self.clock.now();
        if !self.in_step || now < self.verify_at {
            return;
        }
        self.verify_at = after(now, VERIFY);
        if let Err(error) = self.kernel.verify().await {
            self.in_step = false;
            tracing::warn!(node = self.node_name, error = %chain(&error), "the kernel's table was changed, will build it anew");
        }
    }

    /// Brings the kernel to what the table says, in one transaction; moves the watermark when that is committed.
    async fn program(&mut self, work: Work) {
        let Some(dirty) = work.dirty else { return };
        let batch = self.slots.change(&dirty);
        let now = self.clock.now();
        if !self.in_step && self.kernel_from.is_some_and(|from| now < from) {
            return;
        }
        let result = if self.in_step {
            if batch.is_empty() { Ok(()) } else { self.kernel.apply(&batch).await }
        } else {
            self.kernel.replace_all(&self.slots.program()).await
        };
        match result {
            Ok(()) => {
                self.in_step = true;
                self.kernel_from = None;
                self.kernel_backoff.reset();
                self.watermark.commit(work.revision);
                tracing::debug!(node = self.node_name, revision = %work.revision, elements = batch.len(), "programmed");
            }
            Err(error) => {
                self.in_step = false;
                self.kernel_from = Some(after(now, self.kernel_backoff.step()));
                tracing::warn!(node = self.node_name, error = %chain(&error), "the kernel did not take the services, will build all anew");
            }
        }
    }

    /// Starts the call that is due, if none is under way: a registration, else news of the watermark, else a heartbeat.
    fn speak(&mut self) {
        let now = self.clock.now();
        if self.call.is_some() || self.call_from.is_some_and(|from| now < from) {
            return;
        }
        let (client, node_name, clock) = (self.client.clone(), self.node_name.clone(), self.clock.clone());
        if !self.registered || self.watermark.needs_new_incarnation() {
            self.incarnation = new_incarnation();
            let incarnation = self.incarnation.clone();
            self.call = Some(Box::pin(async move {
                Answer::Registered(
                    registry::register(client, node_name, incarnation, &*clock).await.map(|_| ()),
                )
            }));
            return;
        }
        if (self.watermark.is_news() || now >= self.heartbeat_at)
            && let Some(revision) = self.watermark.say()
        {
            self.heartbeat_at = after(now, HEARTBEAT);
            let incarnation = self.incarnation.clone();
            self.call = Some(Box::pin(async move {
                let result = registry::report(client, &node_name, &incarnation, revision, &*clock).await;
                Answer::Reported(revision, result)
            }));
        }
    }

    fn heard(&mut self, answer: Answer) {
        self.call = None;
        let error = match answer {
            Answer::Registered(Ok(())) => {
                self.registered = true;
                self.watermark.begin_incarnation();
                None
            }
            Answer::Reported(revision, Ok(())) => {
                self.watermark.taken(revision);
                None
            }
            Answer::Reported(_, Err(error @ RegistryError::NotRegistered(_))) => {
                self.registered = false;
                Some(error)
            }
            Answer::Registered(Err(error)) | Answer::Reported(_, Err(error)) => Some(error),
        };
        match error {
            None => {
                self.call_from = None;
                self.call_backoff.reset();
            }
            Some(error) => {
                tracing::warn!(node = self.node_name, error = %chain(&error), "the API did not take the service proxy's word");
                let now = self.clock.now();
                self.call_from = Some(after(now, self.call_backoff.step_with_jitter()));
                // What was said may not have arrived: say it again then.
                self.heartbeat_at = now;
            }
        }
    }

    /// When there is a reason to look again, if nothing else happens before.
    fn next_wake(&self, line: Option<Timestamp>) -> Option<Timestamp> {
        let heartbeat = Some(self.heartbeat_at).max(self.call_from).filter(|_| self.call.is_none());
        let kernel = self.kernel_from.filter(|_| !self.in_step);
        let verify = Some(self.verify_at).filter(|_| self.in_step);
        [line, heartbeat, kernel, verify].into_iter().flatten().min()
    }
}

/// The answer of the call under way; never, if there is none.
async fn answer_of(call: &mut Option<Call>) -> Answer {
    match call {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}

fn after(from: Timestamp, wait: Duration) -> Timestamp {
    from.saturating_add(wait).unwrap_or(Timestamp::MAX)
}
