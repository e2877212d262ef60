//! What the watches write into and the loop reads from: one endpoint table, behind one lock.
//!
//! There is no queue to fill up: a change goes straight into the table (or, with a lag set, onto the bounded delay line), and the
//! loop takes all that changed since it looked last as one batch. So the cost is in proportion to changes and time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hitless_base::{Clock, Revision, Timestamp};
use hitless_client::Change;
use hitless_types::{EndpointConsumer, meta, well_known};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::delay::{DelayLine, parse_lag};
use crate::{
    program::{Endpoint, ServicePort},
    table::{EndpointTable, TableChange},
};

/// Shared by the watches and the loop.
pub struct Feed {
    state: Mutex<State>,
    /// Something is there to look at.
    pub wake: Notify,
    clock: Arc<dyn Clock>,
}

struct State {
    table: EndpointTable,
    line: DelayLine<TableChange>,
    registration: Registration,
}

/// What the watch of the proxy's own object says of it.
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
#[derive(Debug)]
pub struct Work {
    /// Service ports that may have other endpoints than before. `None`: not before both first lists are there.
    pub dirty: Option<BTreeMap<ServicePort, Option<Vec<Endpoint>>>>,
    /// What the table is true at.
    pub revision: Revision,
    /// When something on the delay line falls due.
    pub next: Option<Timestamp>,
    /// The proxy's registration was deleted.
    pub is_gone: bool,
    /// The API server does not know the watermark any more.
    pub is_forgotten: bool,
}

impl Feed {
    /// Empty, with the lag that the registration names.
    pub fn new(clock: Arc<dyn Clock>, registration: &EndpointConsumer) -> Self {
        let mut line = DelayLine::new();
        line.set_lag(lag_of(registration));
        let state = State { table: EndpointTable::new(), line, registration: Registration::Present };
        Self { state: Mutex::new(state), wake: Notify::new(), clock }
    }

    /// Takes a step of the Service or EndpointSlice stream.
    pub fn take(&self, change: TableChange) {
        {
            let mut state = self.state.lock();
            let State { table, line, .. } = &mut *state;
            // The first lists are not late: before them there is nothing to be late against.
            let first = !table.is_complete();
            if first || (line.lag().is_zero() && line.next().is_none()) {
                table.take(change);
            } else {
                line.pass(self.clock.now(), change).into_iter().for_each(|due| table.take(due));
            }
        }
        self.wake.notify_one();
    }

    /// Takes a step of the watch of the proxy's own object.
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
    pub fn work(&self) -> Work {
        let mut state = self.state.lock();
        let State { table, line, registration } = &mut *state;
        line.due(self.clock.now()).into_iter().for_each(|due| table.take(due));
        let registration = std::mem::replace(registration, Registration::Present);
        Work {
            dirty: table.is_complete().then(|| table.take_dirty()),
            revision: table.revision(),
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
