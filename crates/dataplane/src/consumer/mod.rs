//! What every consumer of the loop shares: it registers, follows the API, brings its data plane in step, and says how far it has come.
//!
//! It registers first, then lists, then serves (a consumer that joins late starts from a list at or beyond every removal that did not wait for
//! it). From then on each watch event wakes it; whatever has come by then is one batch, one commit of its [`Plane`], and one step of the
//! watermark, without any pause for more to come. At most one call to the API about itself is under way; the next one carries the
//! latest watermark.
//!
//! What must hold: the watermark names only what the plane has committed; if the plane fails, it stays where it is and the commit is tried
//! again, with backoff. A consumer is one [`Level`] (pure: what the API says), one [`Plane`] (what routes) and the kinds that it follows.

mod delay;
#[cfg(test)]
pub(crate) mod fake;
mod feed;
mod registry;
mod serve;
mod watermark;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use hitless_base::{Backoff, Clock, Revision, Timestamp, chain};
use hitless_client::{Change, Object, Selection, listwatch::list_watch};
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use registry::{Identity, LEASE_S, RegistryError, deregister};

use feed::Feed;
use serve::Consumer;

const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Why a consumer ended although nobody told it to.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// One of its watches ended.
    #[error("a watch of consumer {consumer} ended")]
    Watch {
        /// Its name.
        consumer: String,
        /// The panic, if it was one.
        #[source]
        source: Option<tokio::task::JoinError>,
    },
}

/// What the API says, as far as the consumer follows it. Pure.
pub trait Level: Send + 'static {
    /// One step of a stream that it follows.
    type Step: Send + 'static;
    /// What may have changed since somebody looked last.
    type Dirty: Send;

    /// Takes one step.
    fn take(&mut self, step: Self::Step);
    /// Whether all streams have given their first list: before that nothing must be programmed.
    fn is_complete(&self) -> bool;
    /// The position of the EndpointSlice stream that the level is true at. It falls only when a list says so.
    fn revision(&self) -> Revision;
    /// What changed since the last call.
    fn take_dirty(&mut self) -> Self::Dirty;
}

/// What routes: a kernel's table, a proxy's workers, a server's records.
#[async_trait]
pub trait Plane: Send {
    /// What it is told.
    type Level: Level;
    /// Why it does not hold what it was to hold.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Takes what changed, into memory alone. What an earlier commit failed to bring in force is not told again.
    fn take(&mut self, dirty: <Self::Level as Level>::Dirty);
    /// Brings all that was taken in force. Returns when nothing routes by the state before any more.
    async fn commit(&mut self) -> Result<(), Self::Error>;
    /// Looks from time to time whether what was committed is still in force; after an error everything is committed anew.
    async fn verify(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// The watches of a consumer, to be filled before it serves.
pub struct Watches<L: Level> {
    client: Client,
    feed: Arc<Feed<L>>,
    tasks: JoinSet<()>,
    cancel: CancellationToken,
}

impl<L: Level> Watches<L> {
    /// Follows all objects of a kind that `selection` matches; `step` says what a change means to the level, if anything.
    pub fn follow<K: Object + k8s_openapi::Resource>(
        &mut self,
        selection: Selection,
        step: impl Fn(Change<K>) -> Option<L::Step> + Send + 'static,
    ) {
        let (api, to) = (Api::all(self.client.clone()), self.feed.clone());
        self.tasks.spawn(list_watch(api, selection, self.cancel.clone(), move |change| {
            if let Some(step) = step(change) {
                to.take(step);
            }
        }));
    }

    fn follow_own(&mut self, name: &str) {
        let own = Selection { fields: Some(format!("metadata.name={name}")), ..Selection::default() };
        let (api, to) = (Api::all(self.client.clone()), self.feed.clone());
        self.tasks.spawn(list_watch(api, own, self.cancel.clone(), move |change| to.take_own(change)));
    }
}

/// Runs a consumer until `cancel`. `follow` names the kinds that it follows. Failures of the API or the plane are waited out.
pub async fn run<P: Plane>(
    client: Client,
    identity: Identity,
    level: P::Level,
    plane: P,
    follow: impl FnOnce(&mut Watches<P::Level>) + Send,
    clock: Arc<dyn Clock>,
    cancel: CancellationToken,
) -> Result<(), ConsumerError> {
    let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX);
    let incarnation = new_incarnation();
    let registration = loop {
        let attempt = registry::register(client.clone(), identity.clone(), incarnation.clone(), &*clock);
        let error = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            result = attempt => match result {
                Ok(registration) => break registration,
                Err(error) => error,
            },
        };
        tracing::warn!(consumer = identity.name, error = %chain(&error), "cannot register, will try again");
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = clock.sleep(backoff.step_with_jitter()) => {}
        }
    };
    let feed = Arc::new(Feed::new(clock.clone(), level, &registration));
    // The watches end with this call, however it ends.
    let mut watches = Watches {
        client: client.clone(),
        feed: feed.clone(),
        tasks: JoinSet::new(),
        cancel: cancel.child_token(),
    };
    follow(&mut watches);
    watches.follow_own(&identity.name);
    let name = identity.name.clone();
    let mut consumer = Consumer::new(client, identity, plane, clock, feed, incarnation);
    let result = tokio::select! {
        () = cancel.cancelled() => Ok(()),
        () = consumer.serve() => Ok(()),
        ended = watches.tasks.join_next() =>
            Err(ConsumerError::Watch { consumer: name, source: ended.and_then(Result::err) }),
    };
    watches.cancel.cancel();
    while watches.tasks.join_next().await.is_some() {}
    // A watch that saw the cancellation first is no failure.
    if cancel.is_cancelled() { Ok(()) } else { result }
}

fn new_incarnation() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn after(from: Timestamp, wait: Duration) -> Timestamp {
    from.saturating_add(wait).unwrap_or(Timestamp::MAX)
}
