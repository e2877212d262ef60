//! A kubelet's life: directories, server, node, caches, workers, and following the runtime.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hitless_base::{Backoff, Clock, chain};
use hitless_client::{Recorder, Reflector};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    context::Context,
    node::{self, machine},
    options::Options,
    ports::{Runtime, RuntimeError},
    server::{self, ServeError, Shared},
    streaming::{SESSIONS_MAX, Streaming},
    workers::Workers,
};

/// The runtime's lists are asked for at least this often.
const RELIST: Duration = Duration::from_secs(10);
/// After a change they are asked for once more: a runtime tells of an end before its own lists show it.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Changes that come together are read together.
const GATHER: Duration = Duration::from_millis(5);
/// Between two looks at the length of logs.
const ROTATE: Duration = Duration::from_secs(30);
/// How long the end waits for its tasks.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a kubelet cannot run.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// Its directory cannot be written to.
    #[error("the kubelet's directory {path} cannot be written to")]
    Root {
        /// The directory.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its server cannot listen.
    #[error("the kubelet's server cannot start")]
    Serve(#[from] ServeError),
}

/// Runs the kubelet of one node until `cancel`. Pods go on running when it ends, and the next kubelet adopts them.
///
/// # Errors
/// What keeps it from starting. A runtime or an API server that cannot be reached is waited for.
pub async fn run(
    client: Client,
    runtime: Arc<dyn Runtime>,
    options: Options,
    clock: Arc<dyn Clock>,
    cancel: CancellationToken,
) -> Result<(), KubeletError> {
    let root_dir = options.root_dir.clone();
    server::check_dir(&root_dir)
        .map_err(|source| KubeletError::Root { path: root_dir.display().to_string(), source })?;
    let tasks = TaskTracker::new();
    // Tasks end with this function, however it ends.
    let own = cancel.child_token();
    let _ends_tasks = own.clone().drop_guard();
    let pods_of_node = format!("spec.nodeName={}", options.node_name);
    let mut pods = Reflector::<Pod>::new(Api::all(client.clone())).fields(&pods_of_node);
    if let Some(serving) = &options.serving {
        let shared = Shared {
            pods: pods.cache(),
            root_dir: root_dir.clone().into(),
            clock: clock.clone(),
            cancel: own.clone(),
            streaming: Streaming {
                runtime: runtime.clone(),
                sessions: Arc::new(Semaphore::new(SESSIONS_MAX)),
                tasks: tasks.clone(),
            },
        };
        server::start(serving, shared, &tasks).await?;
    }
    let services = Reflector::<Service>::new(Api::all(client.clone())).start(&tasks, &own);
    let recorder = Recorder::start(client.clone(), "kubelet", &options.node_name, &tasks, &own);
    let capacity = options.capacity.unwrap_or_else(|| machine::capacity(&root_dir));
    let mut ctx = Context {
        client,
        runtime,
        options,
        clock,
        recorder,
        services,
        capacity,
        runtime_name: String::new(),
    };
    let Some(version) = wait_for_runtime(&ctx, &own).await else { return Ok(()) };
    ctx.runtime_name = version.split("://").next().unwrap_or_default().to_owned();
    let ctx = Arc::new(ctx);
    tasks.spawn(node::keep(ctx.clone(), own.clone()));

    // What runs is known before the first Pod is looked at: nothing is started twice.
    let workers = Workers::new(ctx.clone(), tasks.clone(), own.clone());
    let follower = Follower { ctx: ctx.clone(), workers: workers.clone() };
    follower.first_lists(&own).await;
    let told = workers.clone();
    pods.on_change(move |delta| told.take(delta));
    let pods = pods.start(&tasks, &own);
    tokio::select! {
        () = own.cancelled() => {}
        () = follower.follow(&pods) => {}
    }
    tasks.close();
    if tokio::time::timeout(END_TIMEOUT, tasks.wait()).await.is_err() {
        tracing::warn!("some of the kubelet's tasks did not end in time");
    }
    Ok(())
}

/// Waits until the runtime says its version. `None`: cancelled.
async fn wait_for_runtime(ctx: &Context, cancel: &CancellationToken) -> Option<String> {
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
    loop {
        match ctx.runtime.version().await {
            Ok(version) => return Some(version),
            Err(error) => tracing::debug!(error = %chain(&error), "the runtime does not answer yet"),
        }
        tokio::select! {
            () = cancel.cancelled() => return None,
            () = ctx.clock.sleep(backoff.step()) => {}
        }
    }
}

/// Follows the runtime's lists.
struct Follower {
    ctx: Arc<Context>,
    workers: Workers,
}

impl Follower {
    async fn relist(&self) -> Result<(), RuntimeError> {
        let taken = Instant::now();
        let runtime = &self.ctx.runtime;
        let (sandboxes, containers) = tokio::try_join!(runtime.list_sandboxes(), runtime.list_containers())?;
        self.workers.distribute(taken, sandboxes, containers);
        Ok(())
    }

    async fn first_lists(&self, cancel: &CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
        while let Err(error) = self.relist().await {
            tracing::warn!(error = %chain(&error), "the runtime does not list its pods yet");
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.ctx.clock.sleep(backoff.step()) => {}
            }
        }
    }

    async fn follow(&self, pods: &hitless_client::Cache<Pod>) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let mut rotated_at = Instant::now();
        let mut swept = false;
        let mut settled = false;
        loop {
            if pods.is_synced() {
                self.workers.adopt_orphans(pods);
                if !swept {
                    self.workers.sweep_directories(&self.ctx.options.root_dir, pods);
                    swept = true;
                }
            } else {
                // Orphans are known only against the first list; it comes soon, and is not polled for.
                let timeout = tokio::time::timeout(RELIST, pods.synced());
                if timeout.await.is_ok() {
                    continue;
                }
            }
            let waits = if settled { RELIST } else { LOOK_AGAIN };
            let began = self.ctx.clock.now();
            self.ctx.runtime.changed(waits).await;
            settled = self.ctx.clock.now().duration_since(began).unsigned_abs() >= waits;
            self.ctx.clock.sleep(GATHER).await;
            if let Err(error) = self.relist().await {
                tracing::warn!(error = %chain(&error), "the runtime's lists cannot be read");
                self.ctx.clock.sleep(backoff.step_with_jitter()).await;
                continue;
            }
            backoff.reset();
            if rotated_at.elapsed() >= ROTATE {
                rotated_at = Instant::now();
                self.workers.rotate_logs().await;
            }
        }
    }
}
