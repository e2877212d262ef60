//! Everything ends in its time: deletions, and endpoints whose process has gone.
//!
//! Rule 5 of the closed loop, and the promise of the EndpointSlices. Times are counted without those in which a fault was in force.

use std::{collections::BTreeMap, time::Duration};

use super::view::View;
use crate::world::{Fact, Step};

/// What a deletion may take beside its grace period: budget, the kubelet's margin, the least time between signal and kill, and work.
const DELETION: Duration = Duration::from_secs(30 + 5 + 2 + 8);
/// How long an endpoint may be listed as ready after its process has gone.
const LISTED: Duration = Duration::from_secs(3);

#[derive(Default)]
pub(super) struct Ends {
    /// Uids of Pods whose process has gone, with the moment.
    dead: BTreeMap<String, Duration>,
}

impl Ends {
    pub(super) fn see(&mut self, view: &View, now: Duration, fact: &Fact, violations: &mut Vec<String>) {
        match fact {
            Fact::Process { uid, container, step, .. } => {
                let others = view.processes.iter().filter(|(id, p)| *id != container && p.uid == *uid);
                if *step == Step::Started && others.clone().any(|(_, p)| runs(p.step)) {
                    violations.push(format!("{container} was started while another of its Pod still runs"));
                }
                match step {
                    Step::Crashed | Step::Killed | Step::Ended => {
                        // What is not listed when it dies is no endpoint to be taken away.
                        if listed(view, uid) {
                            self.dead.entry(uid.clone()).or_insert(now);
                        }
                    }
                    Step::Accepts => {
                        self.listed_too_long(view, now, violations);
                        self.dead.remove(uid);
                    }
                    Step::Started | Step::Signalled => {}
                }
            }
            Fact::Stored { key, object: None, .. } if key.starts_with("pods/") => {
                let name = key.strip_prefix("pods/").unwrap_or_default();
                let gone = view.pods.values().find(|p| p.key == name && p.gone_at == Some(now));
                if let Some(over) = gone.and_then(|pod| over(view, pod, now)) {
                    violations.push(format!("the deletion of {name} ended {} ms too late", over.as_millis()));
                }
            }
            Fact::Stored { key, .. } if key.starts_with("endpointslices/") => {
                self.listed_too_long(view, now, violations);
            }
            _ => {}
        }
    }

    pub(super) fn end(&mut self, view: &View, now: Duration, violations: &mut Vec<String>) {
        self.listed_too_long(view, now, violations);
        for pod in view.pods.values().filter(|pod| pod.gone_at.is_none()) {
            if let Some(over) = over(view, pod, now) {
                violations.push(format!(
                    "the deletion of {} is late by {} ms and not done",
                    pod.key,
                    over.as_millis()
                ));
            }
        }
    }

    /// Looks at all that is dead; what is listed no more is forgotten.
    fn listed_too_long(&mut self, view: &View, now: Duration, violations: &mut Vec<String>) {
        self.dead.retain(|uid, since| {
            let for_long = now.saturating_sub(*since).saturating_sub(view.allowance(*since, now));
            if for_long > LISTED {
                let ms = for_long.as_millis();
                violations.push(format!("an endpoint names the dead Pod {uid} as ready for {ms} ms"));
                return false;
            }
            listed(view, uid)
        });
    }
}

/// Whether a slice names the Pod as ready.
fn listed(view: &View, uid: &str) -> bool {
    view.slices.values().flat_map(|s| &s.endpoints).any(|e| e.ready && e.uid == uid)
}

fn runs(step: Step) -> bool {
    matches!(step, Step::Started | Step::Accepts | Step::Signalled)
}

/// By how much a deletion is late.
fn over(view: &View, pod: &super::view::PodView, now: Duration) -> Option<Duration> {
    let since = pod.deleted_at?;
    let bound = since + DELETION + pod.grace + view.allowance(since, now);
    now.checked_sub(bound).filter(|over| !over.is_zero())
}
