//! The end of a Pod's life on its node: gate, preStop, stop signal, grace period, SIGKILL, release.
//!
//! Pure: each step takes what is seen now and gives what to do next and when to look again. What must hold:
//!
//! * Nothing is done to a container before the gate is open. It opens when the Pod is withdrawn, when deletion is forced,
//!   when the kubelet's own bound (budget and [`GATE_MARGIN_S`]) is spent, when the loop is off, or when nobody could ever
//!   have routed to the Pod.
//! * A withdrawn Pod's gate waits on while connections that came in before have no answer, for a bounded time (`answers.rs`).
//! * The grace period's clock starts when the gate opens: withdrawal does not count towards it, preStop does.
//! * preStop and the stop signal happen at most once to a container, in this order.
//! * SIGKILL comes at the end of the grace period and never before, but for forced deletion; a container that got its
//!   signal late (preStop used the time up) keeps [`AFTER_SIGNAL_S_MIN`] seconds, as in Kubernetes.
//! * Every run ends, whatever hooks and processes do.
//!
//! See <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination>.

use std::collections::BTreeMap;

use hitless_base::Timestamp;

use crate::answers::{ANSWERS_MS_MAX, look_again_ms};

/// How long past the withdrawal budget the kubelet waits when the loop's controller says nothing. Seconds.
pub const GATE_MARGIN_S: u64 = 5;
/// Least time between stop signal and SIGKILL. Seconds.
pub const AFTER_SIGNAL_S_MIN: i64 = 2;
/// Time after which SIGKILL is tried again on a container that still runs. Seconds.
pub const KILL_AGAIN_S: i64 = 2;

/// What does not change during one Pod's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether the closed loop is on; off is plain Kubernetes' order.
    pub loop_on: bool,
    /// The withdrawal budget. Seconds.
    pub budget_s: u64,
}

/// How the end was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// The object has a deletionTimestamp.
    Asked {
        /// deletionGracePeriodSeconds as it stands now; it may shrink later.
        grace_s: i64,
        /// When deletion was asked for.
        at: Timestamp,
    },
    /// The object asks for a grace period of zero.
    Forced,
    /// The object is gone from the API.
    Gone,
    /// The node agent stops the Pod without deleting its object, behind no gate.
    NodeStop {
        /// terminationGracePeriodSeconds.
        grace_s: i64,
    },
}

/// One container as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenContainer<'a> {
    /// Name in the Pod.
    pub name: &'a str,
    /// Whether it runs.
    pub running: bool,
    /// Whether it has a preStop hook.
    pub has_pre_stop: bool,
    /// Whether the hook that was asked for has come to an end, well or badly.
    pub pre_stop_ended: bool,
}

/// What is, now.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Now.
    pub now: Timestamp,
    /// How the end was asked for.
    pub deletion: Deletion,
    /// Whether the condition `hitless.dev/Withdrawn` is True, for whichever reason.
    pub withdrawn: bool,
    /// Connections to the Pod that wait for an answer. Asked for while [`EndOfLife::wants_answers`]; else, and where nobody can tell, 0.
    pub waiting: usize,
    /// Whether the Pod was ever published with an address, so that somebody may route to it.
    pub routable: bool,
    /// Its containers, in the Pod's order.
    pub containers: &'a [SeenContainer<'a>],
    /// Whether the runtime still holds anything of the Pod.
    pub sandbox_present: bool,
}

/// Why the gate is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The loop said that every consumer has let go, or that its budget is spent.
    Withdrawn,
    /// The kubelet's own bound is spent: the loop's controller has not answered.
    BoundSpent,
    /// Deletion is forced, or the object is gone.
    Forced,
    /// The loop is off, or the node agent stops.
    NoLoop,
    /// The Pod never had an address that anybody could route to.
    NeverRoutable,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run the container's preStop hook; whatever is left of it at `until` is given up.
    RunPreStop {
        /// The container.
        container: String,
        /// End of the grace period.
        until: Timestamp,
    },
    /// Send the container its stop signal.
    SendSignal {
        /// The container.
        container: String,
        /// When SIGKILL will follow.
        kill_at: Timestamp,
    },
    /// SIGKILL.
    Kill {
        /// The container.
        container: String,
    },
    /// Give sandbox, address and volumes back.
    ReleaseSandbox,
    /// Delete the object for good.
    DeleteObject,
}

/// What to do now, and when to look again if nothing else happens before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// In the order in which to do them.
    pub actions: Vec<Action>,
    /// `None`: only a change calls for another step.
    pub look_at: Option<Timestamp>,
    /// Nothing is left to do, now or later.
    pub done: bool,
}

impl Next {
    fn look_at(&mut self, at: Timestamp) {
        self.look_at = Some(self.look_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// `at` and so many seconds; the last moment there is, where that overflows.
#[must_use]
pub fn after_s(at: Timestamp, seconds: i64) -> Timestamp {
    at.saturating_add(duration(seconds)).unwrap_or(Timestamp::MAX)
}

fn after_ms(at: Timestamp, ms: u32) -> Timestamp {
    at.saturating_add(std::time::Duration::from_millis(ms.into())).unwrap_or(Timestamp::MAX)
}

fn duration(seconds: i64) -> std::time::Duration {
    std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// The stop of one container: preStop, signal, SIGKILL. Also used alone when a liveness probe has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerEnd {
    pre_stop_asked: bool,
    signalled_at: Option<Timestamp>,
    killed_at: Option<Timestamp>,
}

impl ContainerEnd {
    /// Whether the stop signal was sent.
    #[must_use]
    pub fn signalled(&self) -> bool {
        self.signalled_at.is_some()
    }

    /// Whether SIGKILL was sent.
    #[must_use]
    pub fn killed(&self) -> bool {
        self.killed_at.is_some()
    }

    /// What to do now. `deadline` is the end of the grace period; `forced` waits for nothing.
    pub fn step(
        &mut self,
        now: Timestamp,
        container: SeenContainer<'_>,
        deadline: Timestamp,
        forced: bool,
    ) -> Next {
        let mut next = Next { done: !container.running, ..Next::default() };
        if !container.running {
            return next;
        }
        let name = || container.name.to_owned();
        if forced {
            self.kill(now, name(), &mut next);
            return next;
        }
        let Some(signalled_at) = self.signalled_at else {
            if container.has_pre_stop && now < deadline {
                if !self.pre_stop_asked {
                    self.pre_stop_asked = true;
                    next.actions.push(Action::RunPreStop { container: name(), until: deadline });
                    next.look_at(deadline);
                    return next;
                }
                if !container.pre_stop_ended {
                    next.look_at(deadline);
                    return next;
                }
            }
            self.signalled_at = Some(now);
            let kill_at = deadline.max(after_s(now, AFTER_SIGNAL_S_MIN));
            next.actions.push(Action::SendSignal { container: name(), kill_at });
            next.look_at(kill_at);
            return next;
        };
        let kill_at = deadline.max(after_s(signalled_at, AFTER_SIGNAL_S_MIN));
        if now < kill_at {
            next.look_at(kill_at);
        } else {
            self.kill(now, name(), &mut next);
        }
        next
    }

    fn kill(&mut self, now: Timestamp, container: String, next: &mut Next) {
        let again_at = self.killed_at.map(|at| after_s(at, KILL_AGAIN_S));
        match again_at {
            Some(at) if now < at => next.look_at(at),
            _ => {
                self.killed_at = Some(now);
                next.actions.push(Action::Kill { container });
                next.look_at(after_s(now, KILL_AGAIN_S));
            }
        }
    }
}

/// The end of one Pod. Kept by its worker; after a restart a new one starts from the level: slower at worst, never early.
#[derive(Clone, Debug)]
pub struct EndOfLife {
    policy: Policy,
    asked_at: Option<Timestamp>,
    withdrawn_at: Option<Timestamp>,
    opened: Option<(Timestamp, Opening)>,
    // Invariant: not 0 only if the gate opened while this many still waited for an answer.
    unanswered: usize,
    // Invariant: never grows.
    grace_s: Option<i64>,
    // Invariant: once forced, forced.
    forced: bool,
    containers: BTreeMap<String, ContainerEnd>,
}

impl EndOfLife {
    /// Before the first step.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            asked_at: None,
            withdrawn_at: None,
            opened: None,
            unanswered: 0,
            grace_s: None,
            forced: false,
            containers: BTreeMap::new(),
        }
    }

    /// Since when and why the gate is open; `None`: it is closed.
    #[must_use]
    pub fn opened(&self) -> Option<(Timestamp, Opening)> {
        self.opened
    }

    /// Whether the next step asks for [`Seen::waiting`]: the Pod is withdrawn, and its gate is still closed.
    #[must_use]
    pub fn wants_answers(&self, deletion: Deletion, withdrawn: bool) -> bool {
        let asked = matches!(deletion, Deletion::Asked { .. });
        self.opened.is_none() && self.policy.loop_on && asked && withdrawn
    }

    /// Connections that the gate gave up waiting for.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// How far the stop of this container has come.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&ContainerEnd> {
        self.containers.get(name)
    }

    /// What to do now.
    pub fn step(&mut self, seen: &Seen<'_>) -> Next {
        self.take(seen);
        let mut next = Next::default();
        let Some((opened_at, _)) = self.opened else {
            next.look_at(self.bound(seen.now));
            if let Some(since) = self.withdrawn_at {
                let waited_ms = u32::try_from(seen.now.duration_since(since).as_millis()).unwrap_or(0);
                next.look_at(after_ms(seen.now, look_again_ms(waited_ms)));
            }
            return next;
        };
        let deadline = after_s(opened_at, self.grace_s.unwrap_or(0));
        let mut running = false;
        for container in seen.containers {
            running |= container.running;
            let end = self.containers.entry(container.name.to_owned()).or_default();
            let step = end.step(seen.now, *container, deadline, self.forced);
            next.actions.extend(step.actions);
            if let Some(at) = step.look_at {
                next.look_at(at);
            }
        }
        if running {
            return next;
        }
        let has_object = matches!(seen.deletion, Deletion::Asked { .. } | Deletion::Forced);
        if seen.sandbox_present {
            next.actions.push(Action::ReleaseSandbox);
        } else if has_object {
            next.actions.push(Action::DeleteObject);
        } else {
            next.done = true;
        }
        next
    }

    /// The moment at which the gate opens by itself.
    fn bound(&self, now: Timestamp) -> Timestamp {
        let wait_s = self.policy.budget_s.saturating_add(GATE_MARGIN_S);
        after_s(self.asked_at.unwrap_or(now), i64::try_from(wait_s).unwrap_or(i64::MAX))
    }

    /// Takes in how the end was asked for, and opens the gate if it may open.
    fn take(&mut self, seen: &Seen<'_>) {
        match seen.deletion {
            Deletion::Asked { grace_s, at } => {
                self.shorten(grace_s);
                // A time ahead of now would hold the gate longer than the bound says.
                let at = at.min(seen.now);
                self.asked_at = Some(self.asked_at.map_or(at, |earlier| earlier.min(at)));
            }
            Deletion::NodeStop { grace_s } => self.shorten(grace_s),
            Deletion::Forced | Deletion::Gone => self.forced = true,
        }
        if self.opened.is_some() {
            return;
        }
        let opening = if self.forced {
            Opening::Forced
        } else if !self.policy.loop_on || matches!(seen.deletion, Deletion::NodeStop { .. }) {
            Opening::NoLoop
        } else if seen.withdrawn {
            let since = *self.withdrawn_at.get_or_insert(seen.now);
            if seen.waiting > 0 && seen.now < after_ms(since, ANSWERS_MS_MAX) {
                return;
            }
            self.unanswered = seen.waiting;
            Opening::Withdrawn
        } else if !seen.routable {
            Opening::NeverRoutable
        } else if seen.now >= self.bound(seen.now) {
            Opening::BoundSpent
        } else {
            return;
        };
        self.opened = Some((seen.now, opening));
    }

    fn shorten(&mut self, grace_s: i64) {
        let grace_s = grace_s.max(0);
        self.grace_s = Some(self.grace_s.map_or(grace_s, |earlier| earlier.min(grace_s)));
    }
}

#[cfg(test)]
#[path = "end_of_life_tests.rs"]
mod tests;
