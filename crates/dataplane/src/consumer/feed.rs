//! What the watches write into and the loop reads from: one level, behind one lock.
//!
//! There is no queue to fill up: a change goes straight into the level (or, with a lag set, onto the bounded delay line), and the
//! loop takes all that changed since it looked last as one batch. So the cost is in proportion to changes and time.

use std::{sync::Arc, time::Duration};

use hitless_base::{Clock, Revision, Timestamp};
use hitless_client::Change;
use hitless_types::{EndpointConsumer, meta, well_known};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    Level,
    delay::{DelayLine, parse_lag},
};

/// Shared by the watches and the loop.
pub struct Feed<L: Level> {
    state: Mutex<State<L>>,
    /// Something is there to look at.
    pub wake: Notify,
    clock: Arc<dyn Clock>,
}

struct State<L: Level> {
    level: L,
    line: DelayLine<L::Step>,
    registration: Registration,
}

/// What the watch of the consumer's own object says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Registration {
    /// It is there.
    Present,
    /// It is there, but the API server holds no word of it: it was restarted.
    Forgotten,
    /// It is gone: someone deleted it.
    Gone,
}

/// What there is to do.
pub struct Work<L: Level> {
    /// What may be other than before. `None`: not before all first lists are there.
    pub dirty: Option<L::Dirty>,
    /// What the level is true at.
    pub revision: Revision,
    /// When something on the delay line falls due.
    pub next: Option<Timestamp>,
    /// The consumer's registration was deleted.
    pub is_gone: bool,
    /// The API server does not know the watermark any more.
    pub is_forgotten: bool,
}

impl<L: Level> Feed<L> {
    /// Begins with `level`, and with the lag that the registration names.
    pub fn new(clock: Arc<dyn Clock>, level: L, registration: &EndpointConsumer) -> Self {
        let mut line = DelayLine::new();
        line.set_lag(lag_of(registration));
        let state = State { level, line, registration: Registration::Present };
        Self { state: Mutex::new(state), wake: Notify::new(), clock }
    }

    /// Takes a step of a stream.
    pub fn take(&self, step: L::Step) {
        {
            let mut state = self.state.lock();
            let State { level, line, .. } = &mut *state;
            // The first lists are not late: before them there is nothing to be late against.
            let first = !level.is_complete();
            if first || (line.lag().is_zero() && line.next().is_none()) {
                level.take(step);
            } else {
                line.pass(self.clock.now(), step).into_iter().for_each(|due| level.take(due));
            }
        }
        self.wake.notify_one();
    }

    /// Takes a step of the watch of the consumer's own object.
    pub fn take_own(&self, change: Change<EndpointConsumer>) {
        let object = match change {
            Change::Reached(_) => return,
            Change::Deleted(_) => None,
            Change::Applied(object) => Some(object),
            Change::Listed { objects, .. } => objects.into_iter().next(),
        };
        {
            let mut state = self.state.lock();
            if let Some(object) = &object {
                state.line.set_lag(lag_of(object));
            }
            state.registration = match &object {
                None => Registration::Gone,
                Some(object) if object.status.is_none() => Registration::Forgotten,
                Some(_) => Registration::Present,
            };
        }
        self.wake.notify_one();
    }

    /// All that there is to do now, as one batch.
    pub fn work(&self) -> Work<L> {
        let mut state = self.state.lock();
        let State { level, line, registration } = &mut *state;
        line.due(self.clock.now()).into_iter().for_each(|due| level.take(due));
        let registration = std::mem::replace(registration, Registration::Present);
        Work {
            dirty: level.is_complete().then(|| level.take_dirty()),
            revision: level.revision(),
            next: line.next(),
            is_gone: registration == Registration::Gone,
            is_forgotten: registration == Registration::Forgotten,
        }
    }
}

fn lag_of(object: &EndpointConsumer) -> Duration {
    let Some(text) = meta::annotation(&object.metadata, well_known::ANNOTATION_FAULT_LAG) else {
        return Duration::ZERO;
    };
    parse_lag(text).unwrap_or_else(|error| {
        tracing::warn!(annotation = well_known::ANNOTATION_FAULT_LAG, %error, "ignored");
        Duration::ZERO
    })
}
