//! The benchmark behind "create to Ready": one Pod, and many at once, in a cluster that has nothing else to do.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures::{StreamExt, future::try_join_all, stream::BoxStream};
use hitless_base::Timestamp;
use hitless_types::pod;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams},
};
use tokio::time::{sleep, timeout};

use super::PEACE;
use crate::{
    ProveError, manifests,
    space::{Space, name},
};

/// The bound of one round.
const ROUND_WITHIN: Duration = Duration::from_secs(60);

/// So many Pods at once, so often: each round's time from the first create to the last Ready, in order.
///
/// # Errors
/// The API refused something, or a Pod did not become Ready, or not go, in its bound.
pub async fn bench_pods(client: Client, pods: usize, rounds: usize) -> Result<Vec<Duration>, ProveError> {
    let name = format!("bench-pods-{:06x}", Timestamp::now().as_microsecond() & 0xff_ffff);
    let space = Space::create(client, name).await?;
    let measured = measure(&space, pods, rounds).await;
    let destroyed = space.destroy(true).await;
    let mut times = measured?;
    destroyed?;
    times.sort_unstable();
    Ok(times)
}

async fn measure(space: &Space, pods: usize, rounds: usize) -> Result<Vec<Duration>, ProveError> {
    let mut seen = Seen::new(space.api()).await?;
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let prefix = format!("round-{round}");
        let within = timeout(ROUND_WITHIN, seen.round(&prefix, pods)).await;
        times.push(within.map_err(|_| ProveError::TimedOut {
            what: format!("{pods} Pods to be Ready and gone again"),
            seconds: ROUND_WITHIN.as_secs(),
            missing: "some of them".to_owned(),
        })??);
        sleep(PEACE).await;
    }
    Ok(times)
}

/// The namespace's Pods, as a watch shows them.
struct Seen {
    api: Api<Pod>,
    events: BoxStream<'static, Result<WatchEvent<Pod>, kube::Error>>,
}

impl Seen {
    async fn new(api: Api<Pod>) -> Result<Self, ProveError> {
        let list = api.list(&ListParams::default()).await.map_err(ProveError::api("list pods"))?;
        let from = list.metadata.resource_version.unwrap_or_default();
        let watch = api.watch(&WatchParams::default().timeout(290), &from).await;
        let events = watch.map_err(ProveError::api("watch pods"))?.boxed();
        Ok(Self { api, events })
    }

    async fn round(&mut self, prefix: &str, pods: usize) -> Result<Duration, ProveError> {
        let names: BTreeSet<String> = (0..pods).map(|index| format!("{prefix}-{index}")).collect();
        let manifests: Vec<Pod> =
            names.iter().map(|name| manifests::bare_pod(name)).collect::<Result<_, _>>()?;
        let (api, create) = (self.api.clone(), PostParams::default());
        let began = Instant::now();
        let created = try_join_all(manifests.iter().map(|pod| api.create(&create, pod)));
        created.await.map_err(ProveError::api("create pods"))?;
        self.until(&names, |event| matches!(event, WatchEvent::Modified(pod) if pod::is_ready(pod))).await?;
        let took = began.elapsed();
        let delete = DeleteParams::default();
        let deleted = try_join_all(names.iter().map(|name| api.delete(name, &delete)));
        deleted.await.map_err(ProveError::api("delete pods"))?;
        self.until(&names, |event| matches!(event, WatchEvent::Deleted(_))).await?;
        Ok(took)
    }

    /// Until there has been such an event of each of them.
    async fn until(
        &mut self,
        names: &BTreeSet<String>,
        wanted: impl Fn(&WatchEvent<Pod>) -> bool,
    ) -> Result<(), ProveError> {
        let mut missing = names.clone();
        while !missing.is_empty() {
            let ended = || ProveError::Missing { what: "watch of the Pods any more".to_owned() };
            let event = self.events.next().await.ok_or_else(ended)?.map_err(ProveError::api("watch pods"))?;
            if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) | WatchEvent::Deleted(pod) = &event
                && wanted(&event)
            {
                missing.remove(&name(pod));
            }
        }
        Ok(())
    }
}
