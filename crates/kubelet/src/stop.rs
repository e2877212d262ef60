//! Stops every container of the node by its grace period and gives sandboxes back, without the API: for `hitless down`.
//!
//! All that is needed (hooks, signals, grace) stands in annotations of the containers, so it also works when API server
//! and kubelet are gone. The kubelet must not run meanwhile: it would start everything again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hitless_base::{Clock, Timestamp};
use hitless_termination::end_of_life::{Action, ContainerEnd, SeenContainer, after_s};
use k8s_openapi::api::core::v1::{ContainerPort, LifecycleHandler};
use tokio::task::JoinSet;

use crate::{
    pod::{spec, until_ended},
    ports::{Container, ContainerState, Runtime, RuntimeError, Signal},
    probe::action,
};

/// Pods stopped at once.
const AT_ONCE: usize = 64;

/// Stops all Pods: preStop hooks, stop signals, SIGKILL at the end of each grace period or of `bound`, then their sandboxes.
/// Gives the number of sandboxes removed.
///
/// # Errors
/// The runtime cannot list what it holds. What cannot be stopped is logged and left.
pub async fn stop_all(
    runtime: Arc<dyn Runtime>,
    clock: Arc<dyn Clock>,
    bound: Duration,
) -> Result<usize, RuntimeError> {
    let (sandboxes, containers) = tokio::try_join!(runtime.list_sandboxes(), runtime.list_containers())?;
    let ends = Instant::now() + bound;
    let mut tasks = JoinSet::new();
    let mut removed = 0;
    let mut count = |joined: Result<bool, _>| removed += usize::from(joined.unwrap_or(false));
    for sandbox in sandboxes {
        if tasks.len() >= AT_ONCE
            && let Some(joined) = tasks.join_next().await
        {
            count(joined);
        }
        let inside: Vec<Container> = containers
            .iter()
            .filter(|c| c.sandbox_id == sandbox.id && c.state == ContainerState::Running)
            .cloned()
            .collect();
        let (runtime, clock) = (runtime.clone(), clock.clone());
        tasks.spawn(async move {
            stop_containers(&runtime, &clock, &sandbox.id, inside, ends).await;
            let freed = match runtime.stop_sandbox(&sandbox.id).await {
                Ok(()) => runtime.remove_sandbox(&sandbox.id).await,
                Err(error) => Err(error),
            };
            if let Err(error) = &freed {
                tracing::warn!(sandbox = sandbox.id, %error, "sandbox not removed");
            }
            freed.is_ok()
        });
    }
    while let Some(joined) = tasks.join_next().await {
        count(joined);
    }
    Ok(removed)
}

async fn stop_containers(
    runtime: &Arc<dyn Runtime>,
    clock: &Arc<dyn Clock>,
    sandbox_id: &str,
    containers: Vec<Container>,
    ends: Instant,
) {
    let ip = match runtime.sandbox_status(sandbox_id).await {
        Ok(sandbox) => sandbox.ips.first().cloned().unwrap_or_default(),
        Err(_) => String::new(),
    };
    let stops =
        containers.into_iter().map(|c| stop_container(runtime.as_ref(), clock.as_ref(), c, &ip, ends));
    futures::future::join_all(stops).await;
}

/// Runs one container's end to its end.
async fn stop_container(
    runtime: &dyn Runtime,
    clock: &dyn Clock,
    container: Container,
    ip: &str,
    ends: Instant,
) {
    // Lists may leave annotations out; the status has them.
    let container = match runtime.container_status(&container.id).await {
        Ok(status) => crate::pod::memory::completed(status, &container),
        Err(_) => container,
    };
    let note = |name: &str| container.annotations.get(name);
    let hook: Option<LifecycleHandler> =
        note(spec::ANNOTATION_PRE_STOP).and_then(|text| serde_json::from_str(text).ok());
    let ports: Vec<ContainerPort> =
        note(spec::ANNOTATION_PORTS).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let grace_s = note(spec::ANNOTATION_GRACE).and_then(|text| text.parse::<i64>().ok()).unwrap_or(30);
    let signal = Signal(note(spec::ANNOTATION_STOP_SIGNAL).cloned().unwrap_or_else(|| "SIGTERM".to_owned()));
    let bound = ends.saturating_duration_since(Instant::now());
    let latest = clock.now().saturating_add(bound).unwrap_or(Timestamp::MAX);
    let deadline = after_s(clock.now(), grace_s).min(latest);
    let mut end = ContainerEnd::default();
    let (mut running, mut pre_stop_ended) = (true, false);
    loop {
        let seen =
            SeenContainer { name: &container.name, running, has_pre_stop: hook.is_some(), pre_stop_ended };
        let next = end.step(clock.now(), seen, deadline, false);
        for action in &next.actions {
            match action {
                Action::RunPreStop { until, .. } => {
                    let timeout =
                        Duration::try_from(until.duration_since(clock.now())).unwrap_or(Duration::ZERO);
                    if let Some(hook) = &hook {
                        let hook = action::of_hook(hook, &ports, ip);
                        let outcome = action::run(&hook, runtime, &container.id, timeout).await;
                        tracing::debug!(container = container.name, ?outcome, "preStop hook ended");
                    }
                    pre_stop_ended = true;
                }
                Action::SendSignal { .. } => {
                    if let Err(error) = runtime.signal_container(&container.id, &signal).await {
                        tracing::warn!(container = container.name, %error, "stop signal not sent");
                    }
                }
                Action::Kill { .. } => {
                    if let Err(error) = runtime.kill_container(&container.id).await {
                        tracing::warn!(container = container.name, %error, "not killed");
                        return;
                    }
                }
                Action::ReleaseSandbox | Action::DeleteObject => {}
            }
        }
        if next.done {
            return;
        }
        let Some(at) = next.look_at.filter(|_| end.signalled()) else { continue };
        let left = Duration::try_from(at.duration_since(clock.now())).unwrap_or(Duration::ZERO);
        running = tokio::time::timeout(left, until_ended(runtime, &container.id)).await.is_err();
    }
}
