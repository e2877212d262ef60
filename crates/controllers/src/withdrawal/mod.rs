//! The loop's controller: a Pod is Programmed when every consumer routes to it, and Withdrawn when every consumer has let go.
//!
//! One task drives it. It is woken by every change of Pods, Services, EndpointSlices and EndpointConsumers, takes all that has
//! changed at once, and answers for every Pod that no longer waits; writes go out as tasks of their own. Only
//! Pods that wait are looked at. With the loop off it does nothing at all.
//!
//! `sight` reads the slices, `decide` turns observations into conditions, `words` says them, `apply` writes them; the
//! rules about consumers are in [`hitless_termination::ledger`].

mod apply;
mod decide;
mod index;
mod sight;
#[cfg(test)]
mod tests;
mod words;

use std::{collections::HashSet, time::Duration};

use hitless_base::Timestamp;
use hitless_types::{meta, pod as read, well_known};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;

use apply::{Answer, Apply};
pub use decide::{Action, Core, PodFacts, Told};
use index::Index;
pub use sight::{Listing, Named, Removal, Rotation, ServiceSight, Sight};

use crate::{Context, Informers};

/// With no word from any consumer for this long, their list is asked for: it shows that the API answers, and that nothing was missed.
const LIST_AFTER: Duration = Duration::from_secs(1);
/// Whatever the reason, no sooner than this after a turn that changed nothing.
const PAUSE_MIN: Duration = Duration::from_millis(2);

/// Starts it.
pub fn start(context: &Context, informers: &mut Informers) {
    if !context.options.loop_on {
        return;
    }
    let index = Index::new(informers);
    let (services, slices) = (informers.services.cache(), informers.endpointslices.cache());
    let context = context.clone();
    context.tasks.clone().spawn(async move {
        let synced = async {
            tokio::join!(index.pods.synced(), services.synced(), slices.synced(), index.consumers.synced());
        };
        tokio::select! {
            () = context.cancel.cancelled() => return,
            () = synced => {}
        }
        let (send, receive) = mpsc::unbounded_channel();
        let apply = Apply::new(&context, send);
        let now = context.options.clock.now();
        Driver {
            core: Core::new(now),
            heard_at: now,
            touched_at: now,
            listing: false,
            context,
            index,
            apply,
        }
        .run(receive)
        .await;
    });
}

struct Driver {
    context: Context,
    index: Index,
    apply: Apply,
    core: Core,
    /// The last news of any consumer, or the end of a list.
    heard_at: Timestamp,
    /// The last proof that the API answers.
    touched_at: Timestamp,
    /// A list is under way.
    listing: bool,
}

impl Driver {
    async fn run(mut self, mut answers: mpsc::UnboundedReceiver<Answer>) {
        let mut again: HashSet<String> = HashSet::new();
        loop {
            let now = self.context.options.clock.now();
            let look_at = self.turn(std::mem::take(&mut again), now);
            let pause = wait_for(look_at, now);
            tokio::select! {
                () = self.context.cancel.cancelled() => return,
                () = self.index.inbox.wake.notified() => {}
                answer = answers.recv() => match answer {
                    Some(answer) => again.extend(self.take(answer)),
                    None => return,
                },
                () = self.context.options.clock.sleep(pause) => {}
            }
            while let Ok(answer) = answers.try_recv() {
                again.extend(self.take(answer));
            }
        }
    }

    /// Takes all that has changed, answers, and gives when to look again.
    fn turn(&mut self, again: HashSet<String>, now: Timestamp) -> Timestamp {
        let dirty = self.index.inbox.take();
        let mut actions = Vec::new();
        if !dirty.consumers.is_empty() {
            for (name, created) in &dirty.consumers {
                let consumer = self.index.consumers.get(name);
                self.core.consumer(name, consumer.as_deref(), created.as_ref(), now);
            }
            self.in_touch(now);
        }
        dirty.gone.iter().for_each(|uid| self.core.gone(uid));
        let mut keys = dirty.pods;
        keys.extend(again);
        for namespace in &dirty.namespaces {
            keys.extend(self.core.waiting_in(namespace).cloned());
        }
        for pod in keys.iter().filter_map(|key| self.index.pods.get(key)) {
            if let Some(facts) = facts(&pod, |pod| self.index.sight(pod)) {
                self.core.look(&facts, now, &mut actions);
            }
        }
        self.core.step(now, &mut actions);
        actions.into_iter().for_each(|action| self.apply.write(action));
        let list_at = self.heard_at.saturating_add(LIST_AFTER).unwrap_or(Timestamp::MAX);
        let list_due = list_at <= now || self.core.wants_list;
        if list_due && !self.listing {
            self.listing = true;
            self.apply.list_consumers(self.core.list_asked());
        }
        let list_at = if self.listing { Timestamp::MAX } else { list_at };
        self.core.look_again_at().map_or(list_at, |at| at.min(list_at))
    }

    /// Takes what the API answered; gives the key of a Pod that is to be looked at again.
    fn take(&mut self, answer: Answer) -> Option<String> {
        let now = self.context.options.clock.now();
        match answer {
            Answer::Written { key, uid, type_, revision } => {
                self.core.written(&uid, type_, revision);
                Some(key)
            }
            Answer::Consumers { list, number, asked_at } => {
                self.listing = false;
                match list {
                    Some(list) => {
                        let cache = self.index.consumers.clone();
                        self.core.consumers_listed(&list, number, |name| cache.get(name), now);
                        // Who had spoken by then is in the list; who spoke later may not be.
                        if asked_at > self.touched_at {
                            self.in_touch(asked_at);
                        }
                    }
                    None => self.core.list_failed(number),
                }
                self.heard_at = now;
                None
            }
        }
    }

    fn in_touch(&mut self, now: Timestamp) {
        self.heard_at = now;
        self.touched_at = now;
        for lapsed in self.core.in_touch(now) {
            if let Some(consumer) = self.index.consumers.get(&lapsed.consumer) {
                self.apply.lapsed(&lapsed, &consumer);
            }
        }
    }
}

fn wait_for(look_at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(look_at.duration_since(now)).unwrap_or_default().max(PAUSE_MIN)
}

/// What the loop decides from, if the Pod is of any interest to it.
fn facts(pod: &Pod, sight: impl Fn(&Pod) -> Sight) -> Option<PodFacts> {
    let uid = pod.metadata.uid.as_deref()?;
    let deleted_at = deleted_at(pod);
    let sight = sight(pod);
    let ready = read::condition(pod, "Ready").filter(|c| c.status == "True");
    Some(PodFacts {
        key: meta::key(&pod.metadata),
        uid: uid.into(),
        revision: meta::revision(&pod.metadata),
        ready_since: ready.map(|c| c.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0)),
        deleted_at,
        budget_s: read::withdrawal_budget_s(pod),
        programmed: decide::told(read::condition(pod, well_known::PROGRAMMED)),
        withdrawn: decide::told(read::condition(pod, well_known::WITHDRAWN)),
        headless: sight.headless,
        removal: if deleted_at.is_some() { sight.removal() } else { Removal::NoEndpoints },
        listing: sight.listing(),
    })
}

/// When the Pod's deletion was asked for: to the microsecond where the API server says so, else to the second.
fn deleted_at(pod: &Pod) -> Option<Timestamp> {
    let stamp = pod.metadata.deletion_timestamp.as_ref()?.0;
    let exact =
        meta::annotation(&pod.metadata, well_known::ANNOTATION_DELETED_AT).and_then(|text| text.parse().ok());
    let grace_s = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    let grace = Duration::from_secs(u64::try_from(grace_s).unwrap_or(0));
    exact.or_else(|| stamp.saturating_sub(grace).ok()).or(Some(stamp))
}
