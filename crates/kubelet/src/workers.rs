//! Which Pods have a worker, and what each is told: the newest Pod object and the runtime's newest lists.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::Instant,
};

use hitless_client::{Cache, Delta};
use k8s_openapi::{
    api::core::v1::{Pod, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    context::Context,
    logs,
    pod::{Held, Worker, WorkerStart, spec},
    ports::{Container, ContainerState, Sandbox},
    volumes::PodDirs,
};

struct Handle {
    pod: watch::Sender<Option<Arc<Pod>>>,
    held: watch::Sender<Arc<Held>>,
}

/// The workers of this node. Clones share them.
#[derive(Clone)]
pub(crate) struct Workers {
    ctx: Arc<Context>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    // Invariant: one worker for each uid, as long as its handle is here.
    handles: Arc<Mutex<HashMap<String, Handle>>>,
    latest: Arc<Mutex<HashMap<String, Arc<Held>>>>,
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

impl Workers {
    pub fn new(ctx: Arc<Context>, tasks: TaskTracker, cancel: CancellationToken) -> Self {
        Self { ctx, tasks, cancel, handles: Arc::default(), latest: Arc::default() }
    }

    /// A step of the Pod cache.
    pub fn take(&self, delta: &Delta<Pod>) {
        if self.cancel.is_cancelled() {
            return;
        }
        let after = delta.after.as_ref().map(|p| uid(p));
        if let Some(before) = &delta.before
            && after.as_deref() != Some(&uid(before))
        {
            // Another Pod of the same name may have come meanwhile: this one is gone.
            if let Some(handle) = self.handles.lock().get(&uid(before)) {
                handle.pod.send_replace(None);
            }
        }
        let (Some(pod), Some(uid)) = (&delta.after, after) else { return };
        let mut handles = self.handles.lock();
        match handles.get(&uid) {
            Some(handle) => {
                handle.pod.send_replace(Some(pod.clone()));
            }
            None => {
                let handle = self.start(uid.clone(), Some(pod.clone()), pod.clone());
                handles.insert(uid, handle);
            }
        }
    }

    fn start(&self, uid: String, pod: Option<Arc<Pod>>, first: Arc<Pod>) -> Handle {
        let held = self.latest.lock().get(&uid).cloned().unwrap_or_else(|| Arc::new(Held::nothing()));
        let (pod_tx, pod_rx) = watch::channel(pod);
        let (held_tx, held_rx) = watch::channel(held);
        let worker = Worker::new(WorkerStart { ctx: self.ctx.clone(), pod: pod_rx, held: held_rx, first });
        let (handles, cancel) = (self.handles.clone(), self.cancel.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                // The handle stays: whatever the cache still says of this Pod must not make it another worker, which
                // would know nothing of what this one started.
                () = cancel.cancelled() => {}
                () = worker.run() => {
                    handles.lock().remove(&uid);
                }
            }
        });
        Handle { pod: pod_tx, held: held_tx }
    }

    /// The runtime's lists, taken at `taken`. Each worker is told what changed for its Pod.
    pub fn distribute(&self, taken: Instant, sandboxes: Vec<Sandbox>, containers: Vec<Container>) {
        let mut by_uid: HashMap<String, Held> = HashMap::new();
        let nothing = || Held { taken, sandboxes: Vec::new(), containers: Vec::new() };
        for sandbox in sandboxes {
            by_uid.entry(sandbox.uid.clone()).or_insert_with(nothing).sandboxes.push(sandbox);
        }
        for container in containers {
            let uid = container.labels.get(spec::LABEL_POD_UID).cloned().unwrap_or_default();
            by_uid.entry(uid).or_insert_with(nothing).containers.push(container);
        }
        by_uid.remove("");
        let handles = self.handles.lock();
        for uid in handles.keys() {
            by_uid.entry(uid.clone()).or_insert_with(nothing);
        }
        let latest: HashMap<String, Arc<Held>> = by_uid.into_iter().map(|(k, v)| (k, Arc::new(v))).collect();
        for (uid, handle) in handles.iter() {
            let Some(new) = latest.get(uid) else { continue };
            handle.held.send_if_modified(|old| {
                let changed = shape(old) != shape(new);
                *old = new.clone();
                changed
            });
        }
        drop(handles);
        *self.latest.lock() = latest;
    }

    /// Pods that the runtime holds and the API does not: each gets a worker that stops and removes it.
    ///
    /// `pods` must hold its first list. It is asked itself: it shows a Pod before [`Self::take`] has made its worker, and a
    /// Pod without a worker yet is no orphan.
    pub fn adopt_orphans(&self, pods: &Cache<Pod>) {
        let latest = self.latest.lock().clone();
        let in_api = uids(pods);
        let mut handles = self.handles.lock();
        for (uid, held) in latest {
            let known = in_api.contains(&uid) || handles.contains_key(&uid);
            if known || (held.sandboxes.is_empty() && held.containers.is_empty()) {
                continue;
            }
            let first = Arc::new(orphan(&uid, &held));
            tracing::info!(pod = hitless_types::meta::key(&first.metadata), uid, "not in the API: removed");
            let handle = self.start(uid.clone(), None, first);
            handles.insert(uid, handle);
        }
    }

    /// Directories of Pods that neither the API nor the runtime knows are removed.
    /// As for orphans, `pods` must hold its first list.
    pub fn sweep_directories(&self, root_dir: &Path, pods: &Cache<Pod>) {
        let mut known = uids(pods);
        known.extend(self.handles.lock().keys().cloned());
        for (parent, uid_of) in [
            (root_dir.join("pods"), (|name: &str| name.to_owned()) as fn(&str) -> String),
            (root_dir.join("logs"), |name: &str| name.rsplit('_').next().unwrap_or_default().to_owned()),
        ] {
            for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if !known.contains(&uid_of(&name))
                    && let Err(error) = std::fs::remove_dir_all(entry.path())
                {
                    tracing::warn!(dir = %entry.path().display(), %error, "cannot be removed");
                }
            }
        }
    }

    /// Logs that have grown too long are rotated.
    pub async fn rotate_logs(&self) {
        let running: Vec<Container> = {
            let latest = self.latest.lock();
            let all = latest.values().flat_map(|h| h.containers.iter());
            all.filter(|c| c.state == ContainerState::Running).cloned().collect()
        };
        for container in running {
            let label = |name: &str| container.labels.get(name).cloned().unwrap_or_default();
            let root = &self.ctx.options.root_dir;
            let (namespace, name) = (label(spec::LABEL_POD_NAMESPACE), label(spec::LABEL_POD_NAME));
            let dirs = PodDirs::new(root, &namespace, &name, &label(spec::LABEL_POD_UID));
            let path = dirs.logs.join(PodDirs::log_path(&container.name, container.attempt));
            if !logs::is_due(&path) {
                continue;
            }
            let stamp = self.ctx.clock.now().as_millisecond().to_string();
            let rotated = logs::rotate(&path, &stamp);
            let reopened = self.ctx.runtime.reopen_log(&container.id).await;
            if let (Err(error), _) | (Ok(()), Err(error)) =
                (rotated.map_err(|e| e.to_string()), reopened.map_err(|e| e.to_string()))
            {
                tracing::warn!(path = %path.display(), error, "log not rotated");
            }
        }
    }
}

fn uids(pods: &Cache<Pod>) -> HashSet<String> {
    pods.list().iter().map(|pod| uid(pod)).collect()
}

/// What of the lists a worker cares for.
fn shape(held: &Held) -> BTreeMap<String, String> {
    let sandboxes = held.sandboxes.iter().map(|s| (s.id.clone(), s.ready.to_string()));
    let containers = held.containers.iter().map(|c| (c.id.clone(), format!("{:?}", c.state)));
    sandboxes.chain(containers).collect()
}

/// As much of a Pod as the runtime's labels say.
fn orphan(uid: &str, held: &Held) -> Pod {
    let sandbox = held.sandboxes.first().map(|s| (s.name.clone(), s.namespace.clone()));
    let (name, namespace) = sandbox.unwrap_or_else(|| {
        let label = |name: &str| {
            held.containers.first().and_then(|c| c.labels.get(name)).cloned().unwrap_or_default()
        };
        (label(spec::LABEL_POD_NAME), label(spec::LABEL_POD_NAMESPACE))
    });
    Pod {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace),
            uid: Some(uid.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec::default()),
        ..Pod::default()
    }
}

#[cfg(test)]
mod tests {
    use hitless_client::{Recorder, Reflector};
    use k8s_openapi::api::core::v1::Service;
    use kube::Api;
    use serde_json::json;

    use super::*;
    use crate::{
        Options,
        ports::{Runtime, SandboxSpec},
        tests::{
            api::{FakeApi, until},
            runtime::FakeRuntime,
        },
    };

    /// The cache shows a Pod a moment before its worker is made: in that moment nothing of it may be taken for an orphan.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_pod_of_the_api_is_no_orphan_before_it_has_a_worker() {
        let (api, runtime, root) = (FakeApi::new(), FakeRuntime::new(), tempfile::tempdir().unwrap());
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let object =
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "known"}, "spec": {"containers": []}});
        api.put("/api/v1/namespaces/ns/pods/p", object);
        for uid in ["known", "orphan"] {
            let spec = SandboxSpec {
                uid: uid.into(),
                name: uid.into(),
                namespace: "ns".into(),
                ..SandboxSpec::default()
            };
            runtime.run_sandbox(&spec).await.unwrap();
            std::fs::create_dir_all(root.path().join("pods").join(uid)).unwrap();
        }
        std::fs::create_dir_all(root.path().join("logs/ns_q_swept")).unwrap();
        let options = Options::new("n", [127, 0, 0, 1].into(), root.path());
        let ctx = Context {
            client: api.client(),
            runtime: Arc::new(runtime.clone()),
            capacity: crate::node::machine::capacity(root.path()),
            recorder: Recorder::start(api.client(), "kubelet", "n", &tasks, &cancel),
            services: Reflector::<Service>::new(Api::all(api.client())).cache(),
            clock: Arc::new(hitless_base::SystemClock),
            runtime_name: "containerd".into(),
            options,
        };
        let workers = Workers::new(Arc::new(ctx), tasks.clone(), cancel.clone());
        let lists = (runtime.list_sandboxes().await.unwrap(), runtime.list_containers().await.unwrap());
        workers.distribute(Instant::now(), lists.0, lists.1);
        let pods = Reflector::<Pod>::new(Api::all(api.client())).start(&tasks, &cancel);
        pods.synced().await;
        workers.sweep_directories(root.path(), &pods);
        workers.adopt_orphans(&pods);
        until("the orphan is removed", || (runtime.state.lock().sandboxes.len() == 1).then_some(())).await;
        assert_eq!(runtime.list_sandboxes().await.unwrap()[0].uid, "known");
        assert!(root.path().join("pods/known").exists() && !root.path().join("logs/ns_q_swept").exists());
        cancel.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
