//! Steady traffic from every node and from a Pod on every node, and what came of it, read from the generators' logs.
//!
//! A generator is a Pod that runs `web load`, one container for each path that begins where it is. Its log is
//! followed through the API; where following ends early, the log is read again from its beginning and the lines that were
//! seen are skipped, so a server that cannot follow only costs time. To stop, the Pod is deleted: the generator then
//! finishes what is in flight, prints its summary and stays for a moment, so that its last lines can be read.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{AsyncBufReadExt, StreamExt};
use hitless_types::pod;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::{
    Api,
    api::{DeleteParams, LogParams},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    Options, Progress, ProveError,
    lines::{Taken, Tally},
    manifests::{self, Stream},
    paths::{Path, Place, ROUTES, Target},
    space::{Space, until},
};

const FLOWS_WITHIN: Duration = Duration::from_secs(60);
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
const REOPEN_AFTER: Duration = Duration::from_millis(200);
/// A generator that says nothing for this long (it speaks twice a second) is given up.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// How long a scenario that is carried out once may need traffic.
const TRAFFIC_WITHIN: Duration = Duration::from_secs(900);
/// The usual port of the nodes' ingress.
const INGRESS_PORT: u16 = 80;
/// Nodes beyond these carry no generators.
const NODES_MAX: usize = 4;

/// Running generators. When dropped, their logs are no longer followed; the Pods end with their namespace.
pub(crate) struct Traffic {
    pods: Api<Pod>,
    names: Vec<String>,
    streams: Vec<String>,
    tally: Arc<Mutex<Tally>>,
    followers: JoinSet<Result<(), ProveError>>,
}

/// One container whose log is followed.
struct Follower {
    pods: Api<Pod>,
    pod: String,
    container: String,
    path: Path,
    tally: Arc<Mutex<Tally>>,
    progress: Arc<dyn Progress>,
    /// Lines that were taken.
    seen: usize,
    /// The last line that was not the generator's own.
    said: Option<String>,
    /// How long to wait before the log is read again.
    reopen_after: Duration,
    /// How long to wait for the next line.
    silence_max: Duration,
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Traffic {
    /// Starts generators on these nodes and waits until each of them has had an answer.
    pub async fn start(
        space: &Space,
        nodes: &[String],
        options: &Options,
        progress: &Arc<dyn Progress>,
    ) -> Result<Self, ProveError> {
        let nodes = nodes.get(..NODES_MAX).unwrap_or(nodes);
        // Each way shares the rate with the others, and each node's generator with the other nodes'.
        let sharers = u32::try_from(nodes.len() * ROUTES.len()).unwrap_or(1).max(1);
        let lives = TRAFFIC_WITHIN + options.requests_within();
        let mut traffic = Self {
            pods: space.api(),
            names: Vec::new(),
            streams: Vec::new(),
            tally: Arc::default(),
            followers: JoinSet::new(),
        };
        for node in nodes {
            for place in Place::ALL {
                let mut streams = Vec::new();
                for path in Path::all().filter(|path| path.route.from == place) {
                    let app = path.app();
                    let rate = if path.keeps_alive { options.rate_keep_alive } else { options.rate_new };
                    let target = resolve(space, path.route.to, app, other_than(node, nodes)).await?;
                    let host = (path.route.to == Target::Ingress).then(|| manifests::host(app, &space.name));
                    streams.push(Stream { path, target, host, rate: rate.div_ceil(sharers).max(1) });
                }
                let pod = manifests::generator(place, node, &streams, lives)?;
                let name = manifests::generator_name(place, node);
                space.create_object(&format!("pod {name}"), &pod).await?;
                for stream in &streams {
                    traffic.follow(&name, stream.path, progress);
                }
                traffic.names.push(name);
            }
        }
        traffic.flows().await?;
        Ok(traffic)
    }

    fn follow(&mut self, pod: &str, path: Path, progress: &Arc<dyn Progress>) {
        let follower = Follower {
            pods: self.pods.clone(),
            pod: pod.to_owned(),
            container: path.container(),
            path,
            tally: Arc::clone(&self.tally),
            progress: Arc::clone(progress),
            seen: 0,
            said: None,
            reopen_after: REOPEN_AFTER,
            silence_max: SILENCE_MAX,
        };
        self.streams.push(follower.name());
        self.followers.spawn(follower.run());
    }

    async fn flows(&mut self) -> Result<(), ProveError> {
        let (tally, streams) = (&self.tally, &self.streams);
        let flows = until("traffic on every path", FLOWS_WITHIN, || async move {
            let tally = lock(tally);
            let silent: Vec<&str> =
                streams.iter().map(String::as_str).filter(|name| !tally.is_answered(name)).collect();
            Ok(if silent.is_empty() { Ok(()) } else { Err(format!("an answer to {}", silent.join(", "))) })
        });
        tokio::select! {
            done = flows => done,
            // A generator that ends now has failed; one that cannot be followed is an error as well.
            Some(ended) = self.followers.join_next() => match ended {
                Ok(Err(error)) => Err(error),
                Ok(Ok(())) => Err(ProveError::Generator { generator: "of this run".to_owned(), said: String::new() }),
                Err(panic) => Err(ProveError::Generator { generator: "of this run".to_owned(), said: format!(": {panic}") }),
            },
        }
    }

    /// Requests sent so far, as far as the generators have told (they do twice a second).
    pub fn sent(&self) -> u64 {
        lock(&self.tally).total().sent
    }

    /// Stops the generators, waits for their summaries and gives what they counted, and what is missing.
    pub async fn stop(mut self) -> (Tally, Vec<String>) {
        let mut problems = Vec::new();
        for name in &self.names {
            if let Err(error) = self.pods.delete(name, &DeleteParams::default()).await
                && !hitless_client::is_not_found(&error)
            {
                problems.push(format!("could not stop {name}: {}", hitless_base::chain(&error)));
            }
        }
        let end = Instant::now() + STOPPED_WITHIN;
        loop {
            match timeout_at(end, self.followers.join_next()).await {
                Ok(None) => break,
                Ok(Some(Ok(Ok(())))) => {}
                Ok(Some(Ok(Err(error)))) => problems.push(hitless_base::chain(&error)),
                Ok(Some(Err(panic))) => problems.push(format!("a log could not be read: {panic}")),
                Err(_) => {
                    problems.push(format!(
                        "{} generators did not give their summary in time",
                        self.followers.len()
                    ));
                    break;
                }
            }
        }
        self.followers.shutdown().await;
        let tally = lock(&self.tally).clone();
        (tally, problems)
    }
}

/// The node after this one.
fn other_than<'a>(node: &'a str, nodes: &'a [String]) -> &'a str {
    let after = nodes.iter().skip_while(|name| *name != node).nth(1);
    after.or(nodes.first()).map_or(node, String::as_str)
}

/// Where requests to the Service `app` on this way go: `IP:PORT`, or a name and a port. `node` is the one to ask, where it is a node that is asked.
async fn resolve(space: &Space, to: Target, app: &str, node: &str) -> Result<String, ProveError> {
    match to {
        Target::ClusterIp => cluster_ip(space, app).await,
        Target::NodePort => node_port(space, app, node).await,
        Target::Headless => Ok(manifests::headless_target(app)),
        Target::Ingress => Ok(format!("{}:{INGRESS_PORT}", node_address(space, node).await?)),
    }
}

async fn node_address(space: &Space, node: &str) -> Result<String, ProveError> {
    let found = space.cluster_api::<Node>().get(node).await;
    let found = found.map_err(ProveError::api(format!("get node {node}")))?;
    let addresses = found.status.and_then(|status| status.addresses).unwrap_or_default();
    let address = addresses.into_iter().find(|address| address.type_ == "InternalIP");
    let missing = || ProveError::Missing { what: format!("InternalIP of node {node}") };
    address.map(|address| address.address).ok_or_else(missing)
}

async fn node_port(space: &Space, app: &str, node: &str) -> Result<String, ProveError> {
    let service = space.api::<Service>().get(app).await;
    let service = service.map_err(ProveError::api(format!("get service {app}")))?;
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    let missing = || ProveError::Missing { what: format!("node port of service {app}") };
    let port = ports.first().and_then(|port| port.node_port).ok_or_else(missing)?;
    Ok(format!("{}:{port}", node_address(space, node).await?))
}

async fn cluster_ip(space: &Space, app: &str) -> Result<String, ProveError> {
    let services = &space.api::<Service>();
    until(&format!("the cluster IP of service {app}"), FLOWS_WITHIN, || async move {
        let service = services.get(app).await.map_err(ProveError::api(format!("get service {app}")))?;
        let address =
            service.spec.and_then(|spec| spec.cluster_ip).filter(|ip| !ip.is_empty() && ip != "None");
        Ok(address.map(|ip| format!("{ip}:80")).ok_or_else(|| "it has none".to_owned()))
    })
    .await
}

impl Follower {
    fn name(&self) -> String {
        format!("{}/{}", self.pod, self.container)
    }

    /// Until the summary.
    async fn run(mut self) -> Result<(), ProveError> {
        let mut last_news = Instant::now();
        loop {
            let seen = self.seen;
            let ended = self.read().await;
            if matches!(ended, Ok(true)) {
                return Ok(());
            }
            if self.seen > seen {
                last_news = Instant::now();
            }
            if last_news.elapsed() >= self.silence_max || self.is_gone().await {
                let why = ended.err().map(|error| format!(": {}", hitless_base::chain(&error)));
                let said = self.said.take().map(|line| format!(": {line}"));
                let said = said.or(why).unwrap_or_default();
                return Err(ProveError::Generator { generator: self.name(), said });
            }
            sleep(self.reopen_after).await;
        }
    }

    /// Whether the Pod is gone or its container has run to its end, so that the log will not grow any more.
    async fn is_gone(&self) -> bool {
        match self.pods.get_opt(&self.pod).await {
            Ok(Some(pod)) => pod::is_finished(&pod) && !pod::is_terminating(&pod),
            Ok(None) => true,
            // Not known: the silence is bounded.
            Err(_) => false,
        }
    }

    /// Reads the log as far as it goes. Returns whether the summary was there.
    async fn read(&mut self) -> Result<bool, kube::Error> {
        let params =
            LogParams { container: Some(self.container.clone()), follow: true, ..LogParams::default() };
        let mut lines = self.pods.log_stream(&self.pod, &params).await?.lines().skip(self.seen);
        while let Some(line) = lines.next().await {
            // A broken stream is opened again.
            let Ok(line) = line else { return Ok(false) };
            if self.take(&line) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether it was the summary.
    fn take(&mut self, line: &str) -> bool {
        self.seen += 1;
        let mut tally = lock(&self.tally);
        let taken = tally.take(&self.name(), self.path, line);
        let total = tally.total();
        drop(tally);
        match taken {
            Taken::Other => self.said = Some(line.to_owned()),
            Taken::News | Taken::Summary => self.progress.traffic(total.sent, total.failed),
        }
        taken == Taken::Summary
    }
}

#[cfg(test)]
mod tests;
