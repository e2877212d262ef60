//! The heart: nobody routes to a process that was told to stop.
//!
//! Rules 1 and 3 of the closed loop. At every moment, for every kernel and every endpoint that it routes to: the process there has
//! not got its stop signal, unless the Pod's budget is spent, its deletion is forced, or the kernel's service proxy is
//! dead for longer than its lease. Where a Service has no other endpoint, kernels go on routing to the one that ends (KEP-1669):
//! that is no fault of the loop, and counted in no verdict.

use std::time::Duration;

use super::view::{ProcessView, View};
use crate::world::{Fact, Routes, Step};

/// The withdrawal budget of a Pod that does not say another.
const BUDGET: Duration = Duration::from_secs(30);
/// The lease of a service proxy.
const LEASE: Duration = Duration::from_secs(40);

#[derive(Default)]
pub(super) struct Reach;

impl Reach {
    pub(super) fn see(
        &self,
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
            }
            Fact::Routes { node, routes } => {
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
    let (to, pods) = kernel.routes.iter().find(|(_, pods)| pods.iter().any(here))?;
    let named = || format!("the process at {} {how} {node} routed {to} to it", process.ip);
    let Some(pod) = view.pods.get(&process.uid) else {
        return Some(format!("{}, and no such Pod was ever stored", named()));
    };
    let Some(deleted_at) = pod.deleted_at else {
        return Some(format!("{}, and nobody had asked for the end of {}", named(), pod.key));
    };
    let waited = now.saturating_sub(deleted_at);
    let lease_is_over = kernel.dead_since.is_some_and(|since| now.saturating_sub(since) >= LEASE);
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
