//! Watch: what changes, one JSON line at a time, as soon as it is committed.
//!
//! The answer's body *is* the watch: it is polled by the connection that sends it, holds no task and no queue of its own, and
//! ends with the connection. Events come from the store in the order of revisions, once each; a client that reads too
//! slowly is told `410 Expired` and lists anew.
//!
//! With a selector, an object that begins to match is ADDED and one that ceases to match is DELETED, as in Kubernetes.
//! Volatile status (see `volatile`) comes as MODIFIED with the object's own revision, and never before the object:
//! what this watch has not yet shown of an object is shown with its status when its event comes.

use std::{pin::Pin, sync::Arc, time::Duration};

use axum::{body::Body, http::StatusCode, response::Response};
use bytes::Bytes;
use futures::stream;
use hitless_base::Revision;
use hitless_store::{Entry, EventKind, Watch, WatchEnd, WatchError, WatchEvent};
use hitless_types::kinds::Kind;
use serde_json::{Value, json};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    codec,
    core::Core,
    fault::Fault,
    negotiate::{Format, Shape},
    query::Query,
    read::{self, Selection},
    reply,
    route::Place,
    table, volatile,
};

/// A watch without `timeoutSeconds` ends after 30 to 60 minutes, so that clients do not all come back at once.
const TIMEOUT_S_MIN: u64 = 1800;

/// Objects that there are already are written in pieces of about this size: a slow reader holds no more in memory.
const FIRST_BYTES_MAX: usize = 64 * 1024;

/// One watch.
struct Session {
    core: Arc<Core>,
    kind: &'static Kind,
    prefix: String,
    selection: Selection,
    format: Format,
    /// What comes before the first event: the objects that there are.
    first: std::vec::IntoIter<Entry>,
    /// Said after them, where the client asked for it: the revision at which they were read.
    first_end: Option<Revision>,
    source: Result<Watch, Fault>,
    /// Everything up to here has been shown.
    position: Revision,
    cursor: Option<volatile::Cursor>,
    bookmarks: Option<tokio::time::Interval>,
    /// Resolves when the watch has lasted long enough or the server ends.
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Whether a Table's columns have been sent.
    headed: bool,
    ended: bool,
    _permit: OwnedSemaphorePermit,
    _count: Count,
}

/// Counts the watch while it runs.
struct Count(Arc<Core>);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.metrics.watches.dec();
    }
}

/// Begins a watch.
pub(crate) async fn watch(
    core: &Arc<Core>,
    place: &Place,
    query: &Query,
    format: Format,
) -> Result<Response, Fault> {
    let kind = place.kind;
    let mut selection = Selection::read(kind, query)?;
    if !place.name.is_empty() {
        let one = format!("metadata.name={}", place.name.replace(['\\', ',', '='], ""));
        selection.fields =
            hitless_types::selector::parse_fields(&one).map_err(|e| Fault::bad_request(e.message))?;
    }
    let permit = Arc::clone(&core.watches).try_acquire_owned();
    let permit =
        permit.map_err(|_| Fault::too_many_requests("too many watches, please try again later", 5))?;
    core.metrics.watches.inc();
    let count = Count(Arc::clone(core));
    let timeout_s = query.number("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
    let timeout_s = timeout_s.unwrap_or_else(|| rand::random_range(TIMEOUT_S_MIN..TIMEOUT_S_MIN * 2));
    let wants_bookmarks = query.flag("allowWatchBookmarks");
    let mut session = Session {
        core: Arc::clone(core),
        kind,
        prefix: selection.prefix(place),
        selection,
        format,
        first: Vec::new().into_iter(),
        first_end: None,
        source: Err(Fault::expired("the watch has not begun")),
        position: Revision::ZERO,
        cursor: kind.volatile_status.then(|| core.volatile.cursor()),
        bookmarks: wants_bookmarks.then(|| ticker(core.options.limits.bookmark_period)),
        end: Box::pin(end(core, Duration::from_secs(timeout_s.min(24 * 3600)))),
        headed: false,
        ended: false,
        _permit: permit,
        _count: count,
    };
    session.begin(place, query).await?;
    let lines = stream::unfold(session, |mut session| async move {
        let line = session.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), session))
    });
    Ok(reply_stream(Body::from_stream(lines)))
}

fn reply_stream(body: Body) -> Response {
    let mut response = reply::bytes(StatusCode::OK, Vec::new());
    *response.body_mut() = body;
    response
}

fn end(core: &Core, after: Duration) -> impl Future<Output = ()> + Send + 'static {
    let ending = core.cancel.clone().cancelled_owned();
    let deadline = tokio::time::sleep(after);
    async move {
        tokio::select! {
            () = ending => {}
            () = deadline => {}
        }
    }
}

fn ticker(period: Duration) -> tokio::time::Interval {
    // A little apart from each other, so that a thousand watches do not wake at once.
    let period = period.mul_f64(rand::random_range(0.9..1.1)).max(Duration::from_millis(1));
    let mut ticker = tokio::time::interval_at(Instant::now() + period, period);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticker
}

/// What there was before the first wait of a watch is told by the answer's code; what comes later by an ERROR event.
fn ended_words(end: &WatchEnd) -> Fault {
    match end {
        WatchEnd::Compacted { oldest } => {
            Fault::expired(format!("too old resource version: events up to {oldest} are gone"))
        }
        WatchEnd::Closed => Fault::unavailable("the API server is ending"),
        WatchEnd::Io(_) => Fault::internal(hitless_base::chain(end)),
    }
}

impl Session {
    /// Finds the place in history where the watch begins, and what comes before it.
    async fn begin(&mut self, place: &Place, query: &Query) -> Result<(), Fault> {
        let initial = query.flag("sendInitialEvents");
        let wanted = query.get("resourceVersion").filter(|v| *v != "0");
        if initial && query.get("resourceVersionMatch") != Some("NotOlderThan") {
            let message = "sendInitialEvents: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(Fault::invalid_options("ListOptions", message));
        }
        let from = match wanted.map(str::parse::<Revision>) {
            Some(Err(_)) => {
                let words =
                    format!("Invalid value: {:?}: invalid resource version", wanted.unwrap_or_default());
                return Err(Fault::bad_request(words));
            }
            Some(Ok(revision)) if !initial => revision,
            // From the present on, and first what there is.
            newer => {
                if let Some(Ok(revision)) = newer
                    && revision > self.core.revision()
                {
                    return Err(read::too_large(revision, self.core.revision()));
                }
                self.list_first(place, initial && self.bookmarks.is_some()).await?
            }
        };
        self.position = from;
        let core = Arc::clone(&self.core);
        self.source = match core.store.watch(&self.prefix, from).await {
            Ok(watch) => Ok(watch),
            Err(WatchError::Compacted { oldest }) => {
                Err(Fault::expired(format!("too old resource version: {from} ({oldest})")))
            }
            // A revision that this store never reached: only a new list helps.
            Err(WatchError::Future { current }) => {
                Err(Fault::expired(format!("too new resource version: {from} ({current})")))
            }
            Err(WatchError::Closed) => return Err(Fault::unavailable("the API server is ending")),
            Err(error @ WatchError::Io(_)) => return Err(Fault::internal(hitless_base::chain(&error))),
        };
        Ok(())
    }

    /// Reads what there is. Gives the revision from which events follow.
    async fn list_first(&mut self, place: &Place, end_mark: bool) -> Result<Revision, Fault> {
        let page = read::page(&self.core, place, &self.selection, &Query::default()).await?;
        let revision = page.revision;
        self.first = page.into_entries().into_iter();
        self.first_end = end_mark.then_some(revision);
        Ok(revision)
    }

    /// Writes the next part of what there is, a bounded one. Nothing when all of it has been written.
    fn write_first(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        while out.len() < FIRST_BYTES_MAX {
            let Some(entry) = self.first.next() else { break };
            self.line(out, "ADDED", &entry, None)?;
        }
        if self.first.len() == 0
            && let Some(revision) = self.first_end.take()
        {
            let end = json!({"k8s.io/initial-events-end": "true"});
            self.bookmark(out, revision, Some(end))?;
        }
        Ok(())
    }

    /// The next lines, or `None` when the watch has ended.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut out = Vec::new();
        let mut done = self.write_first(&mut out);
        while done.is_ok() && out.is_empty() && !self.ended {
            done = self.step(&mut out).await;
        }
        if let Err(fault) = done {
            self.ended = true;
            let line = json!({"type": "ERROR", "object": fault.status()});
            out.extend_from_slice(line.to_string().as_bytes());
            out.push(b'\n');
        }
        (!out.is_empty()).then(|| Bytes::from(out))
    }

    /// Waits for whatever comes first and writes it.
    async fn step(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        enum News {
            Events(Result<Vec<Arc<WatchEvent>>, WatchEnd>),
            Status,
            Tick,
            End,
        }
        let source = self.source.as_mut().map_err(|fault| fault.clone())?;
        let news = tokio::select! {
            // However many events there are, the end and the bookmarks come in time.
            biased;
            () = self.end.as_mut() => News::End,
            () = tick(self.bookmarks.as_mut()) => News::Tick,
            events = source.next() => News::Events(events),
            () = changed(self.cursor.as_mut()) => News::Status,
        };
        match news {
            News::Events(events) => {
                for event in events.map_err(|end| ended_words(&end))? {
                    self.event(out, &event)?;
                    self.position = self.position.max(event.revision);
                }
                Ok(())
            }
            News::Status => self.statuses(out).await,
            News::Tick => self.progress(out).await,
            News::End => {
                self.ended = true;
                if self.bookmarks.is_some() { self.progress(out).await } else { Ok(()) }
            }
        }
    }

    async fn progress(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let source = self.source.as_mut().map_err(|fault| fault.clone())?;
        let reached = source.progress().await.map_err(|end| ended_words(&end))?;
        self.position = self.position.max(reached);
        self.bookmark(out, self.position, None)
    }

    /// Shows each volatile status that has changed, for objects that this watch has shown already.
    async fn statuses(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let Some(cursor) = self.cursor.as_mut() else { return Ok(()) };
        for key in self.core.volatile.after(cursor, &self.prefix) {
            let Some(entry) = self.core.store.get(&key).await? else { continue };
            if entry.modified <= self.position {
                let object = self.core.shown(self.kind, &entry)?;
                if self.selection.matches(&object) {
                    self.line(out, "MODIFIED", &entry, Some(&object))?;
                }
            }
        }
        Ok(())
    }

    /// Writes what an event is to this watch, if anything.
    fn event(&mut self, out: &mut Vec<u8>, event: &WatchEvent) -> Result<(), Fault> {
        let previous = match &event.kind {
            EventKind::Put { previous } => previous.as_ref(),
            EventKind::Delete { previous } => Some(previous),
        };
        let gone = matches!(event.kind, EventKind::Delete { .. });
        if self.selection.is_all() {
            let word = if gone {
                "DELETED"
            } else if previous.is_some() {
                "MODIFIED"
            } else {
                "ADDED"
            };
            return self.line(out, word, &event.entry, None);
        }
        let core = Arc::clone(&self.core);
        let matches = |entry: &Entry| -> Result<bool, Fault> {
            Ok(self.selection.matches(&*core.decoded.get(self.kind, entry)?))
        };
        let was = previous.map(matches).transpose()?.unwrap_or_default();
        let is = !gone && matches(&event.entry)?;
        match (was, is) {
            (false, false) => Ok(()),
            (false, true) => self.line(out, "ADDED", &event.entry, None),
            (true, true) => self.line(out, "MODIFIED", &event.entry, None),
            (true, false) => {
                // As it last matched, at the revision at which it ceased to.
                let value = previous.map_or_else(Bytes::new, |entry| entry.value.clone());
                let last = Entry { value, ..event.entry.clone() };
                self.line(out, "DELETED", &last, None)
            }
        }
    }

    /// Writes one line. `object` is the entry's object, where the caller has it.
    fn line(
        &mut self,
        out: &mut Vec<u8>,
        word: &str,
        entry: &Entry,
        object: Option<&Value>,
    ) -> Result<(), Fault> {
        self.core.metrics.events.inc();
        let start = out.len();
        out.reserve(entry.value.len() + 96);
        out.extend_from_slice(format!(r#"{{"type":"{word}","object":"#).as_bytes());
        let written = self.object(out, entry, object);
        if written.is_err() {
            out.truncate(start);
        }
        out.extend_from_slice(if written.is_ok() { b"}\n" } else { b"" });
        written
    }

    fn object(&mut self, out: &mut Vec<u8>, entry: &Entry, object: Option<&Value>) -> Result<(), Fault> {
        if self.format.shape == Shape::Object && object.is_none() {
            return self.core.write_shown(out, self.kind, entry, true, self.format.lean);
        }
        let shown;
        let object = match object {
            Some(object) => object,
            None => {
                shown = self.core.shown(self.kind, entry)?;
                &shown
            }
        };
        let shaped = match self.format.shape {
            Shape::Object => return serde_json::to_writer(out, object).map_err(Fault::internal),
            Shape::Partial => table::partial(object),
            Shape::Table => self.table(&[object], codec::text(object, "/metadata/resourceVersion")),
        };
        serde_json::to_writer(out, &shaped).map_err(Fault::internal)
    }

    fn table(&mut self, objects: &[&Value], revision: &str) -> Value {
        let headers = !std::mem::replace(&mut self.headed, true);
        let metadata = json!({ "resourceVersion": revision });
        let now = self.core.now();
        table::table(self.kind, objects.iter().copied(), metadata, self.format.include, headers, now)
    }

    fn bookmark(
        &mut self,
        out: &mut Vec<u8>,
        revision: Revision,
        annotations: Option<Value>,
    ) -> Result<(), Fault> {
        let object = match self.format.shape {
            Shape::Table => self.table(&[], &revision.to_string()),
            Shape::Object | Shape::Partial => {
                let mut metadata =
                    json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
                if let (Some(annotations), Value::Object(map)) = (annotations, &mut metadata) {
                    map.insert("annotations".into(), annotations);
                }
                json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata})
            }
        };
        let line = json!({"type": "BOOKMARK", "object": object});
        serde_json::to_writer(&mut *out, &line).map_err(Fault::internal)?;
        out.push(b'\n');
        Ok(())
    }
}

async fn changed(cursor: Option<&mut volatile::Cursor>) {
    match cursor {
        Some(cursor) => cursor.changed().await,
        None => std::future::pending().await,
    }
}

async fn tick(ticker: Option<&mut tokio::time::Interval>) {
    match ticker {
        Some(ticker) => {
            ticker.tick().await;
        }
        None => std::future::pending().await,
    }
}
