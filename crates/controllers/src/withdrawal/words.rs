//! What the loop says: reasons, messages, Events and the watermarks that they carry. Pure.

use std::sync::Arc;

use hitless_base::{Revision, Timestamp};
use hitless_client::events::Note;
use hitless_termination::ledger::{Ack, Laggard};
use hitless_types::{
    AckClass,
    well_known::{
        ANNOTATION_WATERMARKS, REASON_ACKNOWLEDGED, REASON_BUDGET_SPENT, REASON_NO_ENDPOINTS, REASON_WAITING,
        WITHDRAWN, reason,
    },
};
use serde_json::json;

use super::decide::{Action, event_reason};

/// Reason of Programmed while the Pod is not Ready.
pub const REASON_NOT_READY: &str = "NotReady";

/// Consumers that a message names.
const NAMED_MAX: usize = 10;

/// Watermarks that an Event carries: the last ones to come, since an object has a limit.
const WATERMARKS_MAX: usize = 200;

/// A condition and its Event, without the Pod.
#[derive(Clone, Debug)]
pub(super) struct Said {
    status: bool,
    reason: &'static str,
    message: String,
    note: Option<Note>,
}

impl Said {
    pub(super) fn action(
        self,
        key: String,
        uid: Arc<str>,
        type_: &'static str,
        transition: Timestamp,
        now: Timestamp,
    ) -> Action {
        let note = self.note.map(|mut note| {
            if note.reason.is_empty() {
                note.reason = event_reason(type_);
            }
            note.at = Some(now);
            note
        });
        Action {
            key,
            uid,
            type_,
            status: self.status,
            reason: self.reason,
            message: self.message,
            transition,
            note,
        }
    }
}

fn said(status: bool, reason: &'static str, message: String, note: Option<Note>) -> Said {
    let note = note.map(|note| Note { message: message.clone(), ..note });
    Said { status, reason, message, note }
}

pub(super) fn no_endpoints(type_: &str) -> Said {
    let message = if type_ == WITHDRAWN {
        "the Pod is no endpoint of any Service"
    } else {
        "no Service selects the Pod, so nothing has to be programmed"
    };
    said(true, REASON_NO_ENDPOINTS, message.to_owned(), Some(Note::default()))
}

pub(super) fn not_ready() -> Said {
    said(false, REASON_NOT_READY, "the Pod is not Ready".to_owned(), None)
}

pub(super) fn programmed(revision: Revision, acks: &[Ack]) -> Said {
    let message = all_hold(revision, acks, "routes to the Pod", "route to the Pod");
    said(true, REASON_ACKNOWLEDGED, message, Some(with_watermarks(revision, acks)))
}

pub(super) fn withdrawn(revision: Revision, acks: &[Ack]) -> Said {
    let message = all_hold(revision, acks, "has let go of the Pod", "have let go of the Pod");
    said(true, REASON_ACKNOWLEDGED, message, Some(with_watermarks(revision, acks)))
}

pub(super) fn budget_spent(
    revision: Option<Revision>,
    laggards: &[Laggard],
    acks: &[Ack],
    not_yet: Option<&str>,
) -> Said {
    let message = match not_yet {
        Some(service) => format!("the withdrawal budget is spent: {}", unlisted(service)),
        None => format!("the withdrawal budget is spent, and these had not answered: {}", silent(laggards)),
    };
    let note = Note {
        reason: reason::WITHDRAWAL_BUDGET_SPENT,
        warning: true,
        ..with_watermarks(revision.unwrap_or_default(), acks)
    };
    said(true, REASON_BUDGET_SPENT, message, Some(note))
}

pub(super) fn waiting(laggards: &[Laggard], not_yet: Option<&str>) -> Said {
    let message = match not_yet {
        Some(service) => unlisted(service),
        None if laggards.is_empty() => "waiting for the list of consumers".to_owned(),
        None => format!("waiting for {}", silent(laggards)),
    };
    said(false, REASON_WAITING, message, None)
}

/// `all 2 consumers hold revision 40`, and what else they do.
fn all_hold(revision: Revision, acks: &[Ack], one: &str, many: &str) -> String {
    match acks.len() {
        0 => "no consumer routes to endpoints".to_owned(),
        1 => format!("the only consumer holds revision {revision} and {one}"),
        count => format!("all {count} consumers hold revision {revision} and {many}"),
    }
}

fn unlisted(service: &str) -> String {
    format!("the EndpointSlices of Service {service} do not show the Pod's present state yet")
}

/// `service-proxy-node-2 (holds revision 812, wants 840, silent for 1.2 s)`, and how many more.
fn silent(laggards: &[Laggard]) -> String {
    let one = |laggard: &Laggard| {
        let wants = laggard.wants.unwrap_or_default();
        let said = match (laggard.settles_at, laggard.holds) {
            (Some(_), _) if laggard.class == AckClass::TimeBounded => {
                "cannot say, so its time is waited for".to_owned()
            }
            (Some(_), holds) => format!("holds revision {holds}, its settle time is running"),
            (None, Revision(0)) => format!("has not said any revision, wants {wants}"),
            (None, holds) => format!("holds revision {holds}, wants {wants}"),
        };
        let seconds = laggard.silent_for_ms as f64 / 1000.0;
        format!("{} ({said}, silent for {seconds:.1} s)", laggard.consumer)
    };
    let mut text = laggards.iter().take(NAMED_MAX).map(one).collect::<Vec<_>>().join(", ");
    if laggards.len() > NAMED_MAX {
        text.push_str(&format!(" and {} more", laggards.len() - NAMED_MAX));
    }
    text
}

/// An Event that carries who said what, and when it was heard.
fn with_watermarks(target: Revision, acks: &[Ack]) -> Note {
    let mut last: Vec<&Ack> = acks.iter().collect();
    if last.len() > WATERMARKS_MAX {
        last.sort_by_key(|ack| std::cmp::Reverse(ack.at));
        last.truncate(WATERMARKS_MAX);
        last.sort_by(|a, b| a.consumer.cmp(&b.consumer));
    }
    let marks: Vec<_> = last
        .into_iter()
        .map(|ack| {
            let mut mark = json!({
                "consumer": &*ack.consumer,
                "revision": ack.revision,
                "target": target,
                "at": micros(ack.at),
                "class": ack.class,
            });
            if let (Some(at), Some(fields)) = (ack.settled_at, mark.as_object_mut()) {
                fields.insert("settledAt".to_owned(), micros(at).into());
            }
            mark
        })
        .collect();
    let marks = serde_json::Value::from(marks).to_string();
    Note { annotations: [(ANNOTATION_WATERMARKS.to_owned(), marks)].into(), ..Note::default() }
}

/// RFC 3339 with microseconds, as Kubernetes writes MicroTime.
fn micros(at: Timestamp) -> String {
    format!("{at:.6}")
}
