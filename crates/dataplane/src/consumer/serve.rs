//! The consumer's one loop: look at the level, bring the plane in step, speak, and wait for the next reason to look.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use hitless_base::{Backoff, Clock, Revision, Timestamp, chain};
use kube::Client;

use super::{
    BACKOFF_FIRST, BACKOFF_MAX, Plane, after,
    feed::{Feed, Work},
    new_incarnation,
    registry::{self, Identity, LEASE_S, RegistryError},
    watermark::Watermark,
};

/// The API hears from the consumer at least so often.
const HEARTBEAT: Duration = Duration::from_secs(LEASE_S / 3);

/// How often the consumer looks whether its plane still holds what was committed.
const VERIFY: Duration = HEARTBEAT;

/// The answer to a call about the consumer itself.
enum Answer {
    Registered(Result<(), RegistryError>),
    Reported(Revision, Result<(), RegistryError>),
}

type Call = Pin<Box<dyn Future<Output = Answer> + Send>>;

pub struct Consumer<P: Plane> {
    client: Client,
    identity: Identity,
    plane: P,
    clock: Arc<dyn Clock>,
    feed: Arc<Feed<P::Level>>,
    watermark: Watermark,
    incarnation: String,
    /// Whether `incarnation` is what the API holds, as far as is known.
    registered: bool,
    /// The one call about the consumer itself that is under way.
    call: Option<Call>,
    /// When the API is to hear from the consumer, if nothing happens before.
    heartbeat_at: Timestamp,
    call_backoff: Backoff,
    /// No call before this, after one that failed.
    call_from: Option<Timestamp>,
    /// Whether the plane took its last commit.
    in_step: bool,
    commit_backoff: Backoff,
    /// No attempt to commit before this, after one that failed.
    commit_from: Option<Timestamp>,
    verify_at: Timestamp,
}

impl<P: Plane> Consumer<P> {
    pub fn new(
        client: Client,
        identity: Identity,
        plane: P,
        clock: Arc<dyn Clock>,
        feed: Arc<Feed<P::Level>>,
        incarnation: String,
    ) -> Self {
        Self {
            heartbeat_at: after(clock.now(), HEARTBEAT),
            verify_at: after(clock.now(), VERIFY),
            client,
            identity,
            plane,
            clock,
            feed,
            watermark: Watermark::new(),
            incarnation,
            registered: true,
            call: None,
            call_backoff: Backoff::new(BACKOFF_FIRST, BACKOFF_MAX),
            call_from: None,
            in_step: false,
            commit_backoff: Backoff::new(BACKOFF_FIRST, BACKOFF_MAX),
            commit_from: None,
        }
    }

    /// Looks at the level, acts on it, and waits for the next reason to look. Never ends.
    pub async fn serve(&mut self) {
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

    fn follow_registration(&mut self, work: &Work<P::Level>) {
        if work.is_gone {
            self.registered = false;
        }
        if work.is_forgotten {
            self.watermark.forgotten();
        }
    }

    /// From time to time: if some other hand was at work on the plane, everything is committed anew.
    async fn verify(&mut self) {
        let now = self.clock.now();
        if !self.in_step || now < self.verify_at {
            return;
        }
        self.verify_at = after(now, VERIFY);
        if let Err(error) = self.plane.verify().await {
            self.in_step = false;
            tracing::warn!(consumer = self.identity.name, error = %chain(&error), "what was committed is not in force any more, will build it anew");
        }
    }

    /// Brings the plane to what the level says; moves the watermark when that is committed.
    async fn program(&mut self, work: Work<P::Level>) {
        let Some(dirty) = work.dirty else { return };
        self.plane.take(dirty);
        let now = self.clock.now();
        if !self.in_step && self.commit_from.is_some_and(|from| now < from) {
            return;
        }
        match self.plane.commit().await {
            Ok(()) => {
                self.in_step = true;
                self.commit_from = None;
                self.commit_backoff.reset();
                self.watermark.commit(work.revision);
                tracing::debug!(consumer = self.identity.name, revision = %work.revision, "committed");
            }
            Err(error) => {
                self.in_step = false;
                self.commit_from = Some(after(now, self.commit_backoff.step()));
                tracing::warn!(consumer = self.identity.name, error = %chain(&error), "the data plane did not take the change, will build all anew");
            }
        }
    }

    /// Starts the call that is due, if none is under way: a registration, else news of the watermark, else a heartbeat.
    fn speak(&mut self) {
        let now = self.clock.now();
        if self.call.is_some() || self.call_from.is_some_and(|from| now < from) {
            return;
        }
        let (client, clock) = (self.client.clone(), self.clock.clone());
        if !self.registered || self.watermark.needs_new_incarnation() {
            self.incarnation = new_incarnation();
            let (identity, incarnation) = (self.identity.clone(), self.incarnation.clone());
            self.call = Some(Box::pin(async move {
                Answer::Registered(
                    registry::register(client, identity, incarnation, &*clock).await.map(|_| ()),
                )
            }));
            return;
        }
        if (self.watermark.is_news() || now >= self.heartbeat_at)
            && let Some(revision) = self.watermark.say()
        {
            self.heartbeat_at = after(now, HEARTBEAT);
            let (name, incarnation) = (self.identity.name.clone(), self.incarnation.clone());
            self.call = Some(Box::pin(async move {
                let result = registry::report(client, &name, &incarnation, revision, &*clock).await;
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
                tracing::warn!(consumer = self.identity.name, error = %chain(&error), "the API did not take the consumer's word");
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
        let commit = self.commit_from.filter(|_| !self.in_step);
        let verify = Some(self.verify_at).filter(|_| self.in_step);
        [line, heartbeat, commit, verify].into_iter().flatten().min()
    }
}

/// The answer of the call under way; never, if there is none.
async fn answer_of(call: &mut Option<Call>) -> Answer {
    match call {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}
