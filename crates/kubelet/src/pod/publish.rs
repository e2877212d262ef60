//! Writes a Pod's status: the newest only, one write in flight, again after a failure.
//!
//! A strategic merge patch of `/status`: conditions are merged by type, so those of others are never touched; the uid is
//! part of the patch, so a new Pod of the same name is never written to.

use std::{sync::Arc, time::Duration};

use hitless_base::{Backoff, Revision, chain};
use hitless_client::{events::Note, is_conflict, is_not_found};
use hitless_types::{meta, well_known::reason};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodCondition, PodStatus};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::context::Context;

/// A write that takes longer is given up and made again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Refusals (409) in a row after which the Pod is taken to be another one.
const CONFLICTS_MAX: u32 = 5;

/// A status to write.
#[derive(Clone, Debug, Default)]
struct Wanted {
    version: u64,
    status: Value,
    ready: bool,
}

/// What was written last, and the Pod's revision since then.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    version: u64,
    revision: Revision,
}

/// The worker's end: what should stand there.
pub(crate) struct Publisher {
    wanted: watch::Sender<Wanted>,
    written: watch::Receiver<Written>,
    ips: Vec<String>,
}

impl Publisher {
    /// A publisher and the task that does its writes; `ready`: whether the API shows the Pod as ready now.
    pub fn new(
        ctx: Arc<Context>,
        pod: &Pod,
        about: ObjectReference,
        ready: bool,
    ) -> (Self, impl Future<Output = ()> + use<>) {
        let (wanted, wanted_rx) = watch::channel(Wanted::default());
        let (written_tx, written) = watch::channel(Written::default());
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let task = Writer {
            api: Api::namespaced(ctx.client.clone(), &text(&pod.metadata.namespace)),
            name: text(&pod.metadata.name),
            uid: text(&pod.metadata.uid),
            about,
            ctx,
            ready,
        };
        let ips = pod.status.as_ref().and_then(|s| s.pod_ips.as_ref());
        let ips = ips.into_iter().flatten().map(|p| p.ip.clone()).collect();
        (Self { wanted, written, ips }, task.run(wanted_rx, written_tx))
    }

    /// Says what should stand there; the same again is no write.
    pub fn want(&mut self, status: &PodStatus) {
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let ready = ready(conditions);
        let body = self.body(status);
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.status != body;
            if changed {
                *wanted = Wanted { version: wanted.version + 1, status: body, ready };
            }
            changed
        });
    }

    /// Takes note of what the API shows. Others write there too: the node controller takes Ready away when the node is silent, and once the
    /// node is heard again it must be said anew.
    pub fn seen(&mut self, pod: &Pod) {
        let done = *self.written.borrow();
        let shown = ready(pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default());
        self.wanted.send_if_modified(|wanted| {
            let settled = wanted.version > 0 && done.version == wanted.version;
            let overwritten =
                settled && meta::revision(&pod.metadata) > done.revision && shown != wanted.ready;
            wanted.version += u64::from(overwritten);
            overwritten
        });
    }

    fn body(&mut self, status: &PodStatus) -> Value {
        let mut body = serde_json::to_value(status).unwrap_or_default();
        if let Some(map) = body.as_object_mut() {
            for field in ["reason", "message"] {
                map.entry(field).or_insert(Value::Null);
            }
            let ips: Vec<String> = status.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect();
            // Addresses are merged by ip: one that is gone must be named to go.
            let stale = self.ips.iter().filter(|old| !ips.contains(old));
            let stale: Vec<Value> = stale.map(|ip| json!({"$patch": "delete", "ip": ip})).collect();
            if let (false, Some(list)) =
                (stale.is_empty(), map.get_mut("podIPs").and_then(Value::as_array_mut))
            {
                list.extend(stale);
            }
            for ip in ips {
                if !self.ips.contains(&ip) {
                    self.ips.push(ip);
                }
            }
        }
        body
    }

    /// Whether a status was ever asked for.
    pub fn said_anything(&self) -> bool {
        self.wanted.borrow().version > 0
    }

    /// Resolves when the newest status stands there (or cannot), within a bound.
    pub fn settled(&self) -> impl Future<Output = ()> + use<> {
        let (version, mut written) = (self.wanted.borrow().version, self.written.clone());
        async move {
            let waiting = written.wait_for(|done| done.version >= version);
            let _late_or_ended = tokio::time::timeout(WRITE_TIMEOUT, waiting).await;
        }
    }
}

struct Writer {
    ctx: Arc<Context>,
    api: Api<Pod>,
    name: String,
    uid: String,
    about: ObjectReference,
    ready: bool,
}

impl Writer {
    async fn run(mut self, mut wanted: watch::Receiver<Wanted>, written: watch::Sender<Written>) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let mut conflicts = 0;
        while wanted.changed().await.is_ok() {
            loop {
                let next = wanted.borrow_and_update().clone();
                match self.write(&next).await {
                    Ok(revision) => {
                        conflicts = 0;
                        backoff.reset();
                        written.send_replace(Written { version: next.version, revision });
                        break;
                    }
                    Err(error) => {
                        conflicts = if is_conflict(&error) { conflicts + 1 } else { 0 };
                        if is_not_found(&error) || conflicts >= CONFLICTS_MAX {
                            let revision = written.borrow().revision;
                            written.send_replace(Written { version: next.version, revision });
                            break;
                        }
                        tracing::debug!(pod = self.name, error = %chain(&error), "status not written");
                        self.ctx.clock.sleep(backoff.step_with_jitter()).await;
                    }
                }
            }
        }
    }

    async fn write(&mut self, next: &Wanted) -> Result<Revision, kube::Error> {
        let patch = Patch::Strategic(json!({"metadata": {"uid": self.uid}, "status": next.status}));
        let params = PatchParams::default();
        let write = self.api.patch_status(&self.name, &params, &patch);
        let pod = match tokio::time::timeout(WRITE_TIMEOUT, write).await {
            Ok(done) => done?,
            Err(late) => return Err(kube::Error::Service(Box::new(late))),
        };
        if next.ready && !self.ready {
            let note = Note {
                reason: reason::READY,
                message: "All containers are ready, and the API shows it".to_owned(),
                at: Some(self.ctx.clock.now()),
                ..Note::default()
            };
            self.ctx.recorder.record_about(self.about.clone(), note);
        }
        self.ready = next.ready;
        Ok(meta::revision(&pod.metadata))
    }
}

fn ready(conditions: &[PodCondition]) -> bool {
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}
