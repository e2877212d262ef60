//! The scheduler's round: wait until something has changed or is due, plan with all that is, write the plan.
//!
//! Writes run beside the rounds, so that one slow answer holds up nothing but itself; their number is bounded.

use std::{sync::Arc, time::Duration};

use hitless_base::{Clock, Timestamp, chain};
use hitless_client::{Recorder, Reflector};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    apply,
    decide::{Outcome, plan},
    index::{Index, Turns},
    snapshot::PodView,
    waiting::Waiting,
};

/// Writes that are under way at most. What finds no place waits for a later round.
const WRITES_MAX: usize = 256;

/// Schedules until `cancel`, and returns when all that it started has ended.
pub async fn run(client: Client, clock: Arc<dyn Clock>, cancel: CancellationToken) {
    let tasks = TaskTracker::new();
    let index = Index::default();
    let mut pods = Reflector::<Pod>::new(Api::all(client.clone()));
    let mut nodes = Reflector::<Node>::new(Api::all(client.clone()));
    let mut services = Reflector::<Service>::new(Api::all(client.clone()));
    let mut namespaces = Reflector::<Namespace>::new(Api::all(client.clone()));
    index.follow(&mut pods, &mut nodes, &mut services, &mut namespaces);
    let pods = pods.start(&tasks, &cancel);
    let nodes = nodes.start(&tasks, &cancel);
    let services = services.start(&tasks, &cancel);
    let namespaces = namespaces.start(&tasks, &cancel);
    let events = Recorder::start(client.clone(), crate::NAME, "", &tasks, &cancel);
    tasks.close();
    let scheduler =
        Scheduler { client, clock, events, index, waiting: Waiting::default(), writes: JoinSet::new() };
    // A plan from half of what is there could put too much on a node.
    let synced = async {
        tokio::join!(pods.synced(), nodes.synced(), services.synced(), namespaces.synced());
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = async { synced.await; scheduler.rounds().await } => {}
    }
    tasks.wait().await;
}

/// A write that has ended.
enum Written {
    Bound { pod: Arc<PodView>, node: String, at: Timestamp },
    NotBound { pod: Arc<PodView>, error: apply::WriteError },
    Told,
}

struct Scheduler {
    client: Client,
    clock: Arc<dyn Clock>,
    events: Recorder,
    index: Index,
    waiting: Waiting,
    writes: JoinSet<Written>,
}

impl Scheduler {
    async fn rounds(mut self) {
        loop {
            self.round();
            let timer = self.clock.sleep(self.pause());
            tokio::select! {
                () = self.index.changed() => {}
                () = timer => {}
                Some(written) = self.writes.join_next(), if !self.writes.is_empty() => self.take(written),
            }
            while let Some(written) = self.writes.try_join_next() {
                self.take(written);
            }
        }
    }

    /// How long nothing is due. The bound is for what nobody thought of.
    fn pause(&self) -> Duration {
        const LONGEST: Duration = Duration::from_secs(60);
        let next = [self.waiting.next_due(), self.index.next_lapse()].into_iter().flatten().min();
        let until = next.map(|next| next.duration_since(self.clock.now()));
        until.map_or(LONGEST, |until| Duration::try_from(until).unwrap_or_default().min(LONGEST))
    }

    fn round(&mut self) {
        let now = self.clock.now();
        let seen = self.index.see(now);
        self.waiting.keep(&seen.pending);
        let free = WRITES_MAX.saturating_sub(self.writes.len());
        let due = seen.pending.into_iter().filter(|pod| self.waiting.is_due(pod, seen.turns, now));
        let due: Vec<_> = due.take(free).collect();
        if due.is_empty() {
            return;
        }
        for (pod, decision) in due.iter().zip(plan(&seen.snapshot, &due)) {
            match decision.outcome {
                Outcome::Bind { node } => self.bind(pod, node, now),
                Outcome::Unschedulable { message } => self.unschedulable(pod, &message, seen.turns, now),
            }
        }
    }

    fn bind(&mut self, pod: &Arc<PodView>, node: String, now: Timestamp) {
        self.index.assume(pod, &node, now);
        let (client, clock, pod) = (self.client.clone(), Arc::clone(&self.clock), Arc::clone(pod));
        self.writes.spawn(async move {
            match apply::bind(&client, &pod, &node).await {
                Ok(()) => Written::Bound { pod, node, at: clock.now() },
                Err(error) => Written::NotBound { pod, error },
            }
        });
    }

    fn unschedulable(&mut self, pod: &Arc<PodView>, message: &str, turns: Turns, now: Timestamp) {
        if self.waiting.unschedulable(pod, message, turns, now) {
            apply::tell_failed(&self.events, pod, message, now);
        }
        let Some(patch) = apply::condition_patch(&pod.object, message, now) else { return };
        let (client, pod) = (self.client.clone(), Arc::clone(pod));
        self.writes.spawn(async move {
            if let Err(error) = apply::patch_condition(&client, &pod, &patch).await {
                // Written again with the next try, since the Pod's condition then still differs.
                tracing::debug!(pod = pod.key, error = %chain(&error), "the condition was not written");
            }
            Written::Told
        });
    }

    fn take(&mut self, written: Result<Written, tokio::task::JoinError>) {
        match written {
            Ok(Written::Bound { pod, node, at }) => {
                self.waiting.placed(&pod.key);
                apply::tell_scheduled(&self.events, &pod, &node, at);
            }
            Ok(Written::NotBound { pod, error }) => {
                let now = self.clock.now();
                self.waiting.refused(&pod, now);
                self.index.forget(&pod.key);
                if !error.is_moot() {
                    let text = chain(&error);
                    tracing::warn!(pod = pod.key, error = text, "binding rejected");
                    apply::tell_failed(&self.events, &pod, &format!("binding rejected: {text}"), now);
                }
            }
            Ok(Written::Told) => {}
            // A task that panicked said so itself; its Pod's assumption lapses, and it is tried again.
            Err(error) => tracing::error!(%error, "a write ended without an answer"),
        }
    }
}
