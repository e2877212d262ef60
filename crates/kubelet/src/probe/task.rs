//! The task of one probe of one container.
//!
//! The first probe runs right after the start (and the initial delay). As long as nobody listens yet, a startup or readiness
//! probe is tried again within milliseconds, uncounted: a server that needs 30 ms to listen is not left waiting for a
//! whole period.

use std::{sync::Arc, time::Duration};

use hitless_base::{Backoff, Clock, Timestamp};
use hitless_client::{Recorder, events::Note};
use hitless_types::well_known::reason;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Probe};
use rand::Rng;
use tokio::sync::mpsc;

use super::{
    action::{self, Action, Outcome},
    tally::Tally,
};
use crate::ports::Runtime;

/// First pause between tries while nobody listens.
const STARTING_FIRST: Duration = Duration::from_millis(10);
/// Longest of those pauses.
const STARTING_MAX: Duration = Duration::from_secs(1);
/// An unchanged failure is told again as an Event only after this time.
const EVENT_PERIOD: Duration = Duration::from_secs(60);

/// Which of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Until it succeeds the others wait.
    Startup,
    /// Failure takes the Pod out of Services.
    Readiness,
    /// Failure restarts the container.
    Liveness,
}

impl Kind {
    /// As Kubernetes begins a sentence.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    /// The container's probe of this kind.
    #[must_use]
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// A probe's verdict, told when it changes (and each time for what must be acted on again).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Runtime's id of the container.
    pub container_id: String,
    /// Its name.
    pub container: String,
    /// Which probe.
    pub kind: Kind,
    /// Passed or failed.
    pub ok: bool,
}

/// What a probe task is made from.
pub struct ProbeTask {
    /// Which probe.
    pub kind: Kind,
    /// Its spec.
    pub probe: Probe,
    /// What it does.
    pub action: Action,
    /// The container's name.
    pub container: String,
    /// Runtime's id.
    pub container_id: String,
    /// When the container started.
    pub started_at: Option<Timestamp>,
    /// The container ran before this kubelet did: probes are spread over the period.
    pub adopted: bool,
    /// The Pod, for Events.
    pub about: ObjectReference,
    /// Where containers run.
    pub runtime: Arc<dyn Runtime>,
    /// Events.
    pub recorder: Recorder,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default))
}

impl ProbeTask {
    /// Probes until its owner ends it; verdicts go to `out`.
    pub async fn run<T: From<Verdict> + Send>(self, out: mpsc::Sender<T>) {
        let period = seconds(self.probe.period_seconds, 10);
        let timeout = seconds(self.probe.timeout_seconds, 1);
        let count = |v: Option<i32>, default| v.and_then(|v| u32::try_from(v).ok()).unwrap_or(default);
        let mut tally =
            Tally::new(count(self.probe.success_threshold, 1), count(self.probe.failure_threshold, 3));
        let mut starting =
            (self.kind != Kind::Liveness).then(|| Backoff::new(STARTING_FIRST, STARTING_MAX.min(period)));
        let mut last_told: Option<bool> = None;
        let mut last_event: Option<(Timestamp, String)> = None;
        self.clock.sleep(self.first_delay(period)).await;
        let mut next_counted = self.clock.now();
        let mut refused_before = false;
        loop {
            let outcome = action::run(&self.action, self.runtime.as_ref(), &self.container_id, timeout).await;
            let now = self.clock.now();
            let counted = now >= next_counted;
            let retry = match (&outcome, &mut starting) {
                (Outcome::Refused(_), Some(backoff)) => Some(backoff.step()),
                _ => {
                    starting = None;
                    None
                }
            };
            if counted || retry.is_none() {
                next_counted = now.saturating_add(period).unwrap_or(now);
                // While a server is still starting, one that refuses is not worth an Event: it is tried again at once.
                if retry.is_none() || refused_before {
                    self.tell_event(&outcome, now, &mut last_event);
                }
                if let Some(ok) = tally.push(outcome.is_success()) {
                    // A failed liveness or startup probe is told each time: its container may have outlived the first try.
                    let again = !ok && self.kind != Kind::Readiness;
                    if (last_told != Some(ok) || again) && out.send(self.verdict(ok).into()).await.is_err() {
                        return;
                    }
                    last_told = Some(ok);
                }
            }
            refused_before |= retry.is_some();
            let until_counted = next_counted.duration_since(self.clock.now());
            let until_counted = Duration::try_from(until_counted).unwrap_or(Duration::ZERO);
            self.clock.sleep(retry.map_or(until_counted, |r| r.min(until_counted))).await;
        }
    }

    fn first_delay(&self, period: Duration) -> Duration {
        let initial = seconds(self.probe.initial_delay_seconds, 0);
        let since_start = self.started_at.map(|at| self.clock.now().duration_since(at));
        let ran = since_start.and_then(|d| Duration::try_from(d).ok()).unwrap_or(Duration::ZERO);
        let jitter =
            if self.adopted { period.mul_f64(rand::rng().random_range(0.0..1.0)) } else { Duration::ZERO };
        initial.saturating_sub(ran).max(jitter)
    }

    fn verdict(&self, ok: bool) -> Verdict {
        Verdict {
            container_id: self.container_id.clone(),
            container: self.container.clone(),
            kind: self.kind,
            ok,
        }
    }

    fn tell_event(&self, outcome: &Outcome, now: Timestamp, last: &mut Option<(Timestamp, String)>) {
        if outcome.is_success() {
            *last = None;
            return;
        }
        let message = format!("{} probe failed: {}", self.kind.word(), outcome.words());
        let recent = last.as_ref().is_some_and(|(at, words)| {
            *words == message && now.duration_since(*at).unsigned_abs() < EVENT_PERIOD
        });
        if !recent {
            let note = Note {
                reason: reason::UNHEALTHY,
                message: message.clone(),
                warning: true,
                ..Note::default()
            };
            self.recorder.record_about(self.about.clone(), note);
            *last = Some((now, message));
        }
    }
}
