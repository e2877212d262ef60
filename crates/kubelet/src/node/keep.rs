//! Registers the Node, and keeps its status and Lease up to date.
//!
//! The Lease is the heartbeat (every 10 s); the status is written when something in it has changed, and every five minutes.

use std::{sync::Arc, time::Duration};

use hitless_base::{Backoff, Timestamp, chain};
use hitless_client::{events::Note, is_conflict, is_not_found};
use hitless_types::well_known;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Node, NodeCondition, ObjectReference},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    machine::{Machine, Pressure},
    object::{self, Observed},
};
use crate::context::Context;

/// Between two heartbeats.
const PERIOD: Duration = Duration::from_secs(10);
/// Between two looks while the runtime is not ready: a cluster that starts waits for nothing else.
const STARTING: Duration = Duration::from_millis(10);
/// The longest of those pauses.
const STARTING_MAX: Duration = Duration::from_secs(1);
/// An unchanged status is written after this time all the same.
const UNCHANGED: Duration = Duration::from_secs(300);
/// Life of the Lease. Seconds.
const LEASE_S: i32 = 40;
/// A call that takes longer is given up and made again.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Registers the node and keeps it, until `cancel`.
pub(crate) async fn keep(ctx: Arc<Context>, cancel: CancellationToken) {
    let mut keeper = Keeper::new(ctx);
    let mut backoff = Backoff::new(STARTING, STARTING_MAX);
    loop {
        let pause = match keeper.round().await {
            Ok(true) => {
                backoff.reset();
                PERIOD
            }
            Ok(false) => backoff.step(),
            Err(error) => {
                tracing::warn!(node = keeper.ctx.options.node_name, error = %chain(&error), "node not kept up to date");
                backoff.step()
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = keeper.ctx.clock.sleep(pause) => {}
        }
    }
}

struct Keeper {
    ctx: Arc<Context>,
    nodes: Api<Node>,
    leases: Api<Lease>,
    machine: Machine,
    runtime_version: String,
    node: Option<Node>,
    written: Option<(Observed, Timestamp)>,
    conditions: Vec<NodeCondition>,
    lease_made: bool,
    lease_at: Option<Timestamp>,
}

async fn bounded<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(done) => done,
        Err(late) => Err(kube::Error::Service(Box::new(late))),
    }
}

impl Keeper {
    fn new(ctx: Arc<Context>) -> Self {
        Self {
            nodes: Api::all(ctx.client.clone()),
            leases: Api::namespaced(ctx.client.clone(), well_known::NAMESPACE_NODE_LEASE),
            machine: Machine::here(),
            runtime_version: String::new(),
            node: None,
            written: None,
            conditions: Vec::new(),
            lease_made: false,
            lease_at: None,
            ctx,
        }
    }

    /// One round; gives whether the node is ready and all is written.
    async fn round(&mut self) -> Result<bool, kube::Error> {
        let observed = self.observe().await;
        if self.node.is_none() {
            self.register().await?;
        }
        let now = self.ctx.clock.now();
        let due = self.written.as_ref().is_none_or(|(before, at)| {
            *before != observed || now.duration_since(*at).unsigned_abs() >= UNCHANGED
        });
        let ready = observed.not_ready.is_none();
        if due || self.is_overruled().await? {
            self.write_status(observed, now).await?;
        }
        // A round that comes early (the runtime is starting) is no heartbeat of its own.
        let beat = self.lease_at.is_none_or(|at| now.duration_since(at).unsigned_abs() >= PERIOD * 9 / 10);
        if beat {
            self.beat(now).await?;
            self.lease_at = Some(now);
        }
        Ok(ready)
    }

    async fn observe(&mut self) -> Observed {
        let not_ready = match self.ctx.runtime.ready().await {
            Ok(Ok(())) => None,
            Ok(Err(words)) => Some(format!("container runtime network not ready: {words}")),
            Err(error) => Some(format!("container runtime is down: {error}")),
        };
        if not_ready.is_none()
            && self.runtime_version.is_empty()
            && let Ok(version) = self.ctx.runtime.version().await
        {
            self.runtime_version = version;
        }
        Observed {
            not_ready,
            pressure: Pressure::now(&self.ctx.options.root_dir),
            runtime_version: self.runtime_version.clone(),
        }
    }

    /// Makes the Node object, or brings the labels of the one that is there up to date.
    async fn register(&mut self) -> Result<(), kube::Error> {
        let name = self.ctx.options.node_name.clone();
        let wanted = object::node(&self.ctx.options);
        let node = match bounded(self.nodes.create(&PostParams::default(), &wanted)).await {
            Ok(made) => {
                self.say("Starting", "Starting kubelet.");
                made
            }
            Err(error) if is_conflict(&error) => {
                let mut patch = json!({"metadata": {"labels": object::labels(&self.ctx.options)}});
                let there = bounded(self.nodes.get(&name)).await?;
                if there.spec.as_ref().is_none_or(|s| s.pod_cidr.is_none())
                    && let Some(cidr) = &self.ctx.options.pod_cidr
                {
                    patch["spec"] = json!({"podCIDR": cidr, "podCIDRs": [cidr]});
                }
                bounded(self.nodes.patch(&name, &PatchParams::default(), &Patch::Merge(patch))).await?
            }
            Err(error) => return Err(error),
        };
        self.conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        self.node = Some(node);
        Ok(())
    }

    /// Whether the API says otherwise than this kubelet did: the node was silent for too long, or its object was deleted. Asked each
    /// round, as Kubernetes' kubelet does, because a node that is back must not stay Unknown until its status changes by itself.
    async fn is_overruled(&mut self) -> Result<bool, kube::Error> {
        let shown = bounded(self.nodes.get_opt(&self.ctx.options.node_name)).await?;
        let conditions = shown.and_then(|node| node.status).and_then(|status| status.conditions);
        let conditions = conditions.unwrap_or_default();
        if object::ready_status(&conditions) == object::ready_status(&self.conditions) {
            return Ok(false);
        }
        // What it shows is what the next status turns from.
        self.conditions = conditions;
        Ok(true)
    }

    async fn write_status(&mut self, observed: Observed, now: Timestamp) -> Result<(), kube::Error> {
        let ctx = self.ctx.clone();
        let status =
            object::status(&ctx.options, &ctx.capacity, &self.machine, &observed, &self.conditions, now);
        let patch = Patch::Strategic(json!({"status": status}));
        match bounded(self.nodes.patch_status(&ctx.options.node_name, &PatchParams::default(), &patch)).await
        {
            Ok(_) => {}
            Err(error) => {
                if is_not_found(&error) {
                    // Somebody has deleted the node: it registers again.
                    self.node = None;
                    self.written = None;
                }
                return Err(error);
            }
        }
        let was_ready = self.written.as_ref().is_some_and(|(o, _)| o.not_ready.is_none());
        if observed.not_ready.is_none() != was_ready {
            let (reason, words) = if was_ready {
                ("NodeNotReady", "status is now: NodeNotReady")
            } else {
                ("NodeReady", "status is now: NodeReady")
            };
            self.say(reason, &format!("Node {} {words}", ctx.options.node_name));
        }
        self.conditions = status.conditions.unwrap_or_default();
        self.written = Some((observed, now));
        Ok(())
    }

    fn say(&self, reason: &'static str, words: &str) {
        let name = self.ctx.options.node_name.clone();
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            uid: Some(name.clone()),
            name: Some(name),
            ..ObjectReference::default()
        };
        self.ctx.recorder.record_about(about, Note { reason, message: words.to_owned(), ..Note::default() });
    }

    /// Renews the Lease; makes it if it is not there.
    async fn beat(&mut self, now: Timestamp) -> Result<(), kube::Error> {
        let name = self.ctx.options.node_name.clone();
        if self.lease_made {
            let patch = Patch::Merge(json!({"spec": {"renewTime": MicroTime(now)}}));
            match bounded(self.leases.patch(&name, &PatchParams::default(), &patch)).await {
                Err(error) if is_not_found(&error) => self.lease_made = false,
                other => return other.map(|_| ()),
            }
        }
        let spec = LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(LEASE_S),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        };
        let owner = self.node.as_ref().and_then(|n| n.metadata.uid.clone()).map(|uid| {
            vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: name.clone(),
                uid,
                ..OwnerReference::default()
            }]
        });
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(well_known::NAMESPACE_NODE_LEASE.to_owned()),
                owner_references: owner,
                ..ObjectMeta::default()
            },
            spec: Some(spec.clone()),
        };
        match bounded(self.leases.create(&PostParams::default(), &lease)).await {
            Err(error) if is_conflict(&error) => {
                let patch = Patch::Merge(json!({"spec": spec}));
                bounded(self.leases.patch(&name, &PatchParams::default(), &patch)).await?;
            }
            other => {
                other?;
            }
        }
        self.lease_made = true;
        Ok(())
    }
}
