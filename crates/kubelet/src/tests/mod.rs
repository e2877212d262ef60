//! The kubelet end to end, over a runtime and an API in memory.

pub(crate) mod api;
mod life;
pub(crate) mod runtime;

use std::{sync::Arc, time::Duration};

use hitless_base::SystemClock;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::{
    api::{FakeApi, until},
    runtime::FakeRuntime,
};
use crate::{Capacity, KubeletError, Options};

/// A kubelet that runs, and what it runs on.
struct Bench {
    api: FakeApi,
    runtime: FakeRuntime,
    root: tempfile::TempDir,
    cancel: CancellationToken,
    task: Option<tokio::task::JoinHandle<Result<(), KubeletError>>>,
}

const POD: &str = "/api/v1/namespaces/ns/pods/p";

impl Bench {
    fn new() -> Self {
        let mut bench = Self {
            api: FakeApi::new(),
            runtime: FakeRuntime::new(),
            root: tempfile::tempdir().unwrap(),
            cancel: CancellationToken::new(),
            task: None,
        };
        bench.start(true);
        bench
    }

    fn options(&self, loop_on: bool) -> Options {
        let mut options = Options::new("node-1", [127, 0, 0, 1].into(), self.root.path());
        options.loop_on = loop_on;
        options.cgroup_fs = self.root.path().join("cgroup");
        options.capacity = Some(Capacity {
            cpu_milli: 2000,
            memory_bytes: 1 << 30,
            pods: 110,
            ephemeral_storage_bytes: 1 << 30,
        });
        options
    }

    fn start(&mut self, loop_on: bool) {
        self.cancel = CancellationToken::new();
        self.task = Some(tokio::spawn(crate::run(
            self.api.client(),
            Arc::new(self.runtime.clone()),
            self.options(loop_on),
            Arc::new(SystemClock),
            self.cancel.clone(),
        )));
    }

    async fn stop(&mut self) {
        self.cancel.cancel();
        if let Some(task) = self.task.take() {
            tokio::time::timeout(Duration::from_secs(10), task).await.unwrap().unwrap().unwrap();
        }
    }

    fn pod(&self, spec: Value) {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns", "uid": "u1"},
            "spec": spec});
        self.api.put(POD, object);
    }

    fn condition(&self, type_: &str) -> Option<String> {
        let pod = self.api.get(POD)?;
        let all = pod["status"]["conditions"].as_array()?.clone();
        all.iter().find(|c| c["type"] == type_).and_then(|c| c["status"].as_str().map(str::to_owned))
    }

    async fn ready(&self) {
        until("the Pod is ready", || (self.condition("Ready")? == "True").then_some(())).await;
    }

    /// Asks for deletion, as the API server does.
    fn delete(&self, grace_s: u64) {
        self.api.change(POD, |pod| {
            let at = hitless_base::Timestamp::now() + Duration::from_secs(grace_s);
            pod["metadata"]["deletionTimestamp"] = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
            pod["metadata"]["deletionGracePeriodSeconds"] = grace_s.into();
        });
    }

    /// Says that every consumer has let go, as the loop does.
    fn withdraw(&self) {
        self.api.change(POD, |pod| {
            let condition =
                json!({"type": "hitless.dev/Withdrawn", "status": "True", "reason": "Acknowledged"});
            pod["status"]["conditions"].as_array_mut().unwrap().push(condition);
        });
    }

    async fn gone(&self) {
        until("the Pod is gone", || self.api.get(POD).is_none().then_some(())).await;
        until("the runtime is empty", || {
            let state = self.runtime.state.lock();
            (state.sandboxes.is_empty() && state.containers.is_empty()).then_some(())
        })
        .await;
    }

    async fn event(&self, reason: &str) -> String {
        let found = || self.api.events().into_iter().find(|(r, _)| r == reason).map(|(_, m)| m);
        until(&format!("Event {reason}"), found).await
    }

    fn container_status(&self) -> Option<Value> {
        Some(self.api.get(POD)?["status"]["containerStatuses"][0].clone())
    }

    async fn waiting(&self, reason: &str) -> String {
        until(&format!("waiting: {reason}"), || {
            let status = self.container_status()?;
            let waiting = &status["state"]["waiting"];
            (waiting["reason"] == reason).then(|| waiting["message"].as_str().unwrap_or_default().to_owned())
        })
        .await
    }
}

fn web() -> Value {
    json!({"nodeName": "node-1", "containers": [{"name": "web", "image": "web:1"}]})
}
