//! The heart: nobody routes to a process that was told to stop.
//!
//! Rules 1 and 3 of the closed loop. At every moment, for every kernel and every endpoint that it routes to: the process there has
//! not got its stop signal, unless the Pod's budget is spent, its deletion is forced, or the API has heard
//! nothing of the kernel's service proxy for longer than its lease (when the Pod is said to be withdrawn; who comes back after that is late). Where a Service has no other endpoint, kernels go on routing to the one that ends (KEP-1669):
//! that is no fault of the loop, and counted in no verdict.

use std::{collections::BTreeMap, time::Duration};

use super::view::{ProcessView, View};
use crate::world::{Fact, Routes, Step};

/// The withdrawal budget of a Pod that does not say another.
const BUDGET: Duration = Duration::from_secs(30);

/// How long after the last kernel has let go the stop signal may come, while nothing is wrong.
const SIGNAL: Duration = Duration::from_millis(250);

#[derive(Default)]
pub(super) struct Reach {
    /// When a kernel last let go of an address.
    left_at: BTreeMap<String, Duration>,
}

impl Reach {
    pub(super) fn see(
        &mut self,
        view: &View,
        now: Duration,
        fact: &Fact,
        before: Option<&Routes>,
        violations: &mut Vec<String>,
    ) {
        match fact {
            Fact::Process { container, step: Step::Signalled | Step::Killed, .. } => {
                let Some(process) = view.processes.get(container) else { return };
                for node in view.kernels.keys() {
                    violations.extend(routed(view, now, node, process, "got its stop signal while"));
                }
                violations.extend(self.late(view, now, process));
            }
            Fact::Routes { node, routes } => {
                let old = before.into_iter().flat_map(|b| b.values().flatten());
                for pod in old.filter(|pod| !routes.values().any(|pods| pods.contains(*pod))) {
                    self.left_at.insert(pod.split(':').next().unwrap_or_default().to_owned(), now);
                }
                let known = |to: &str, pod: &str| {
                    before.and_then(|b| b.get(to)).is_some_and(|pods| pods.contains(pod))
                };
                let new = routes.iter().flat_map(|(to, pods)| pods.iter().map(move |pod| (to, pod)));
                for (_, pod) in new.filter(|(to, pod)| !known(to, pod)) {
                    let ip = pod.split(':').next().unwrap_or_default();
                    if let Some(process) = view.process_at(ip).filter(|p| p.told) {
                        violations.extend(routed(view, now, node, process, "had got its stop signal when"));
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether the signal came later than it had to.
    fn late(&self, view: &View, now: Duration, process: &ProcessView) -> Option<String> {
        let pod = view.pods.get(&process.uid)?;
        let ready = pod.deleted_at?.max(*self.left_at.get(&process.ip)?);
        let late = now.saturating_sub(ready).saturating_sub(view.allowance(ready, now));
        let words = || {
            let (key, ms) = (&pod.key, late.as_millis());
            format!("{key} got its stop signal {ms} ms after nobody routed to it any more")
        };
        (late > SIGNAL).then(words)
    }

    /// At rest, every kernel routes what the disk says, and all that it routes to takes connections.
    pub(super) fn end(&self, view: &View, violations: &mut Vec<String>) {
        let Some((revision, wanted)) = view.wanted.last() else { return };
        for (node, kernel) in view.kernels.iter().filter(|(_, k)| k.dead_since.is_none()) {
            if *kernel.routes != *wanted {
                violations.push(format!(
                    "at rest {node} routes {:?} and not what revision {revision} says: {wanted:?}",
                    kernel.routes
                ));
            }
            for pod in kernel.routes.values().flatten() {
                let ip = pod.split(':').next().unwrap_or_default();
                if view.process_at(ip).is_none_or(|p| p.step != Step::Accepts) {
                    violations
                        .push(format!("at rest {node} routes to {pod}, where nothing takes connections"));
                }
            }
        }
    }
}

/// Why `node`'s kernel must not route to this process, if it does.
fn routed(view: &View, now: Duration, node: &str, process: &ProcessView, how: &str) -> Option<String> {
    let kernel = view.kernels.get(node)?;
    let here = |pod: &String| pod.split(':').next() == Some(process.ip.as_str());
    // Of several Services the one to which there is another endpoint says most.
    let mut named = kernel.routes.iter().filter(|(_, pods)| pods.iter().any(here)).peekable();
    let first = named.peek().copied()?;
    let (to, pods) = named.find(|(_, pods)| !all_end(view, *pods)).unwrap_or(first);
    let named = || format!("the process at {} {how} {node} routed {to} to it", process.ip);
    let Some(pod) = view.pods.get(&process.uid) else {
        return Some(format!("{}, and no such Pod was ever stored", named()));
    };
    let Some(deleted_at) = pod.deleted_at else {
        return Some(format!("{}, and nobody had asked for the end of {}", named(), pod.key));
    };
    let waited = now.saturating_sub(deleted_at);
    let left_out = pod.left_out.as_ref().is_some_and(|nodes| nodes.contains(node));
    let lease_is_over = left_out || kernel.is_silent(now);
    if pod.forced || waited >= BUDGET || lease_is_over || all_end(view, pods) {
        return None;
    }
    Some(format!("{}, {} ms after the deletion of {}", named(), waited.as_millis(), pod.key))
}

/// Whether there is no other endpoint: all that the kernel routes to are Pods that end.
fn all_end<'a>(view: &View, pods: impl IntoIterator<Item = &'a String>) -> bool {
    pods.into_iter().all(|pod| {
        let process = pod.split(':').next().and_then(|ip| view.process_at(ip));
        process.and_then(|p| view.pods.get(&p.uid)).is_none_or(|pod| pod.deleted_at.is_some())
    })
}
