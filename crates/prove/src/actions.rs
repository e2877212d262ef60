//! What each scenario does to the workloads while traffic flows.
//!
//! An action ends when the Pods in question are gone and the workloads are whole again, or with what it was waiting for.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::try_join_all;
use hitless_types::{EndpointConsumer, pod};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod},
};
use kube::{
    Api,
    api::{DeleteParams, EvictParams, ListParams},
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    Mode, Progress, ProveError, Scenario,
    manifests::{self, APPS, Plan, app_of},
    space::{ROLLED_OUT_WITHIN, Space, name, uid, until},
    undo::{self, Undo, Undos},
    withdrawal::Expectation,
};

/// How much longer than its slowest consumer a Pod may wait for its stop signal.
const WITHDRAWAL_BEYOND_LAG_MS: u64 = 250;
/// The lags of the slow consumer. The second is beyond any usual `preStop: sleep`.
const LAGS_MS: [u64; 2] = [1_000, 20_000];
/// The proxy learns of its lag by a watch, which nothing shows from outside; that it had learned is checked afterwards, by
/// the time that the Pod waited.
const LAG_SEEN_AFTER: Duration = Duration::from_millis(500);
/// What the clocks of an event and of a lag may differ by.
const LAG_TOLERANCE_MS: u64 = 50;

/// Everything that an action works with.
pub(crate) struct Stage<'a> {
    pub space: &'a Space,
    pub plan: &'a Plan,
    pub nodes: &'a [String],
    pub undos: &'a Undos,
    pub progress: &'a Arc<dyn Progress>,
}

impl Scenario {
    /// The workloads that it needs.
    pub(crate) fn plan(self, mode: Mode) -> Plan {
        let replicas_new = if self == Self::Rollout { 10 } else { 4 };
        let budget = self == Self::Drain;
        Plan { mode, replicas_new, replicas_keep_alive: 4, replicas_dns: 2, budget, probe: true }
    }

    /// The nodes that it needs.
    pub(crate) fn nodes_min(self) -> usize {
        if matches!(self, Self::Drain | Self::SlowConsumer) { 2 } else { 1 }
    }
}

impl Stage<'_> {
    /// Does it, and says what must hold of the Pods' ends.
    pub async fn act(&self, scenario: Scenario) -> Result<Vec<Expectation>, ProveError> {
        match scenario {
            Scenario::Delete => self.delete().await.map(|()| Vec::new()),
            Scenario::Rollout => self.rollout().await.map(|()| Vec::new()),
            Scenario::Drain => self.drain().await.map(|()| Vec::new()),
            Scenario::SlowConsumer => self.slow_consumer().await,
            Scenario::Force => self.force().await.map(|()| Vec::new()),
        }
    }

    /// One Pod of each workload after the other. Each time the workloads are whole again before the next.
    async fn delete(&self) -> Result<(), ProveError> {
        let pairs = pairs(self.space);
        let count = pairs.len();
        for (index, pair) in pairs.into_iter().enumerate() {
            self.progress.step(&format!("deleting Pods, {} of {count}", index + 1));
            self.delete_pods(&pair, &DeleteParams::default()).await?;
            self.space.gone(&uids(&pair)).await?;
            self.space.rolled_out(self.plan).await?;
        }
        Ok(())
    }

    async fn rollout(&self) -> Result<(), ProveError> {
        let old: BTreeSet<String> = self.space.pods.list().iter().map(|pod| uid(pod)).collect();
        self.progress.step("restarting the workloads");
        let deployments = self.space.api::<Deployment>();
        for app in APPS {
            deployments.restart(app).await.map_err(ProveError::api(format!("restart deployment {app}")))?;
        }
        self.space.gone(&old).await?;
        self.space.rolled_out(self.plan).await
    }

    /// Each node after the other, as for a kernel update.
    async fn drain(&self) -> Result<(), ProveError> {
        let nodes = self.space.cluster_api::<Node>();
        for node in self.nodes {
            self.progress.step(&format!("draining {node}"));
            let undo = Undo::Uncordon(node.clone());
            self.undos.add(undo.clone());
            nodes.cordon(node).await.map_err(ProveError::api(format!("cordon {node}")))?;
            let mut on_node = self.space.pods.list();
            on_node.retain(|pod| pod::node_name(pod) == Some(node) && !pod::is_terminating(pod));
            try_join_all(on_node.iter().map(|pod| self.evict(pod))).await?;
            self.space.gone(&uids(&on_node)).await?;
            self.space.rolled_out(self.plan).await?;
            let undone = self.undos.run(&self.space.client, &undo).await;
            undone.map_err(ProveError::api(format!("uncordon {node}")))?;
        }
        Ok(())
    }

    /// Asks until the eviction is let through: 429 means that a budget does not allow it now.
    async fn evict(&self, pod: &Pod) -> Result<(), ProveError> {
        let pods = &self.space.api::<Pod>();
        let (name, params) = (&name(pod), &EvictParams::default());
        until(&format!("the eviction of {name}"), ROLLED_OUT_WITHIN, || async move {
            match pods.evict(name, params).await {
                Ok(_) => Ok(Ok(())),
                Err(error) if hitless_client::is_not_found(&error) => Ok(Ok(())),
                Err(error) if hitless_client::is_code(&error, 429) => {
                    sleep(Duration::from_millis(150)).await;
                    Ok(Err(hitless_base::chain(&error)))
                }
                Err(error) => Err(ProveError::api(format!("evict {name}"))(error)),
            }
        })
        .await
    }

    /// One node's service proxy takes changes late; a Pod of each workload is deleted meanwhile.
    async fn slow_consumer(&self) -> Result<Vec<Expectation>, ProveError> {
        let consumer = self.consumer().await?;
        let mut expectations = Vec::new();
        for (lag_ms, pair) in LAGS_MS.into_iter().zip(pairs(self.space)) {
            self.progress.step(&format!("deleting Pods while {consumer} lags by {lag_ms} ms"));
            let undo = Undo::RemoveLag(consumer.clone());
            self.undos.add(undo.clone());
            let set = undo::set_lag(&self.space.client, &consumer, Some(lag_ms)).await;
            set.map_err(ProveError::api(format!("make {consumer} lag")))?;
            sleep(LAG_SEEN_AFTER).await;
            let deleted = Instant::now();
            self.delete_pods(&pair, &DeleteParams::default()).await?;
            self.space.gone(&uids(&pair)).await?;
            // Until then the proxy sends requests to a Pod that, without the loop, is gone.
            sleep_until(deleted + Duration::from_millis(lag_ms)).await;
            let undone = self.undos.run(&self.space.client, &undo).await;
            undone.map_err(ProveError::api(format!("make {consumer} quick again")))?;
            self.space.rolled_out(self.plan).await?;
            if self.plan.mode.loop_on() {
                // Behind a name there is the settle time of DNS as well, and no figure that is to be kept.
                let plain = pair
                    .iter()
                    .filter(|pod| !manifests::is_headless(app_of(&pod.metadata).unwrap_or_default()));
                expectations.extend(plain.map(|pod| expectation(pod, lag_ms)));
            }
        }
        Ok(expectations)
    }

    /// The service proxy of the first node.
    async fn consumer(&self) -> Result<String, ProveError> {
        let node = self.nodes.first().ok_or(ProveError::TooFewNodes { needed: 1, found: 0 })?;
        let consumers: Api<EndpointConsumer> = self.space.cluster_api();
        let list = consumers
            .list(&ListParams::default())
            .await
            .map_err(ProveError::api("list endpointconsumers"))?;
        let found = list.items.into_iter().find(|consumer| {
            consumer.spec.type_ == "ServiceProxy" && consumer.spec.node_name.as_deref() == Some(node)
        });
        found
            .and_then(|consumer| consumer.metadata.name)
            .ok_or_else(|| ProveError::NoConsumer { node: node.clone() })
    }

    /// Every Pod at once and without any grace: nothing can save the requests in flight, or those of the next moment.
    async fn force(&self) -> Result<(), ProveError> {
        let pods = self.space.pods.list();
        self.progress.step("taking every Pod away by force");
        self.delete_pods(&pods, &DeleteParams::default().grace_period(0)).await?;
        self.space.gone(&uids(&pods)).await?;
        self.space.rolled_out(self.plan).await
    }

    async fn delete_pods(&self, pods: &[Arc<Pod>], params: &DeleteParams) -> Result<(), ProveError> {
        let api = &self.space.api::<Pod>();
        try_join_all(pods.iter().map(|pod| async move {
            let name = name(pod);
            api.delete(&name, params).await.map(drop).map_err(ProveError::api(format!("delete pod {name}")))
        }))
        .await
        .map(drop)
    }
}

fn uids(pods: &[Arc<Pod>]) -> BTreeSet<String> {
    pods.iter().map(|pod| uid(pod)).collect()
}

/// One living Pod of each workload, as often as there is one of some; those behind names as long as they last.
fn pairs(space: &Space) -> Vec<Vec<Arc<Pod>>> {
    let living = APPS.map(|app| {
        let mut pods = space.pods_of(app);
        pods.retain(|pod| !pod::is_terminating(pod));
        (app, pods)
    });
    let plain = living.iter().filter(|(app, _)| !manifests::is_headless(app));
    let count = plain.map(|(_, pods)| pods.len()).min().unwrap_or(0);
    (0..count).map(|n| living.iter().filter_map(|(_, pods)| pods.get(n).cloned()).collect()).collect()
}

fn expectation(pod: &Pod, lag_ms: u64) -> Expectation {
    let ms = |ms: u64| ms as f64;
    Expectation {
        uid: uid(pod),
        pod: name(pod),
        ms_min: ms(lag_ms.saturating_sub(LAG_TOLERANCE_MS)),
        ms_max: ms(lag_ms + WITHDRAWAL_BEYOND_LAG_MS),
    }
}
