//! Events about objects, with the moment in microseconds, written beside the work and never in its way.
//!
//! A recorder has a bounded buffer; what does not fit is counted and dropped, as Kubernetes' clients do.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hitless_base::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time},
};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::Object;

/// Events waiting to be written.
const BUFFER_EVENTS: usize = 4096;
/// Each event waits so long. It carries its own moment, and what it tells of (a withdrawal, a start) is still under way then and
/// must not share the disk and the processors with its own record.
const LINGER: Duration = Duration::from_millis(100);

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// A word of [`hitless_types::well_known::reason`], or Kubernetes' own.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// `Warning` instead of `Normal`.
    pub warning: bool,
    /// Annotations of the Event.
    pub annotations: BTreeMap<String, String>,
    /// When it happened; `None`: now.
    pub at: Option<Timestamp>,
}

/// Writes events in the background. Clones share the buffer.
#[derive(Clone)]
pub struct Recorder {
    component: Arc<str>,
    host: Arc<str>,
    send: mpsc::Sender<(Event, Instant)>,
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    /// A recorder that writes as `component` (on `host`, which may be empty), as a task of `tasks`. After `cancel` it writes what is waiting and ends.
    pub fn start(
        client: Client,
        component: &str,
        host: &str,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Self {
        let (send, mut receive) = mpsc::channel::<(Event, Instant)>(BUFFER_EVENTS);
        let cancel = cancel.clone();
        tasks.spawn(async move {
            loop {
                let event = tokio::select! {
                    biased;
                    event = receive.recv() => event,
                    () = cancel.cancelled() => receive.try_recv().ok(),
                };
                let Some((event, due)) = event else { return };
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = cancel.cancelled() => {}
                }
                let namespace = event.metadata.namespace.clone().unwrap_or_default();
                let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
                if let Err(error) = api.create(&PostParams::default(), &event).await {
                    tracing::debug!(error = %hitless_base::chain(&error), reason = event.reason, "event not written");
                }
            }
        });
        Self { component: component.into(), host: host.into(), send, dropped: Arc::default() }
    }

    /// Records `note` about `object`.
    pub fn record<K: Object>(&self, object: &K, note: Note) {
        let meta = object.metadata();
        let reference = ObjectReference {
            api_version: Some(K::API_VERSION.to_owned()),
            kind: Some(K::KIND.to_owned()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            ..ObjectReference::default()
        };
        self.record_about(reference, note);
    }

    /// Records `note` about what `reference` names.
    pub fn record_about(&self, reference: ObjectReference, note: Note) {
        let event = event(&self.component, &self.host, reference, note, Timestamp::now());
        if self.send.try_send((event, Instant::now() + LINGER)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Events that did not fit the buffer.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn event(component: &str, host: &str, about: ObjectReference, note: Note, now: Timestamp) -> Event {
    let at = note.at.unwrap_or(now);
    let name = about.name.clone().unwrap_or_default();
    let namespace = about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned());
    let some = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
    Event {
        metadata: ObjectMeta {
            // As Kubernetes names them: the object and a number that does not repeat.
            name: Some(format!("{name}.{:x}{:04x}", at.as_nanosecond(), rand_u16())),
            namespace: Some(namespace),
            annotations: (!note.annotations.is_empty()).then_some(note.annotations),
            ..ObjectMeta::default()
        },
        involved_object: about,
        reason: Some(note.reason.to_owned()),
        message: Some(note.message),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
        event_time: Some(MicroTime(at)),
        first_timestamp: Some(Time(at)),
        last_timestamp: Some(Time(at)),
        count: Some(1),
        source: Some(EventSource { component: some(component), host: some(host) }),
        reporting_component: some(component),
        reporting_instance: some(if host.is_empty() { component } else { host }),
        action: Some(note.reason.to_owned()),
        ..Event::default()
    }
}

fn rand_u16() -> u16 {
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    (high & 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_the_moment_and_lands_in_the_objects_namespace() {
        let about = ObjectReference {
            name: Some("p".into()),
            namespace: Some("ns".into()),
            ..ObjectReference::default()
        };
        let at: Timestamp = "2026-01-02T03:04:05.678901Z".parse().unwrap();
        let e = event(
            "kubelet",
            "node-1",
            about,
            Note { reason: "Killing", at: Some(at), ..Note::default() },
            Timestamp::now(),
        );
        assert_eq!(e.metadata.namespace.as_deref(), Some("ns"));
        assert_eq!(e.event_time.map(|t| t.0), Some(at));
        assert_eq!(e.type_.as_deref(), Some("Normal"));
    }
}
