//! Carries a node's plan out through the API.

use hitless_client::{Outcome, Recorder, events::Note};
use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;

use super::{Plan, Seen, outcome};
use crate::Context;

#[derive(Clone)]
pub(super) struct Apply {
    context: Context,
    recorder: Recorder,
}

impl Apply {
    pub(super) fn new(context: &Context) -> Self {
        Self { context: context.clone(), recorder: context.recorder("node-controller") }
    }

    pub(super) async fn carry_out(&self, name: &str, seen: &Seen, plan: Plan) -> Outcome {
        match self.try_all(name, seen, &plan).await {
            Ok(()) => outcome(&plan),
            Err(error) => {
                tracing::debug!(node = name, error = %hitless_base::chain(&error), "will try again");
                Outcome::Retry
            }
        }
    }

    async fn try_all(&self, name: &str, seen: &Seen, plan: &Plan) -> Result<(), kube::Error> {
        let nodes: Api<Node> = Api::all(self.context.client.clone());
        if let (true, Some(node)) = (plan.mark_unknown, &seen.node) {
            let patch = json!({"status": {"conditions": self.unknown_conditions(node)}});
            ok_if_gone(nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await)?;
            let message = format!("Node {name} status is now: NodeNotReady");
            self.recorder.record(node.as_ref(), Note { reason: "NodeNotReady", message, ..Note::default() });
        }
        if let Some(taints) = &plan.taints {
            let patch = json!({"spec": {"taints": taints}});
            ok_if_gone(nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
        }
        for (namespace, pod) in &plan.not_ready {
            let now = Time(self.context.options.clock.now());
            let condition = json!({"type": "Ready", "status": "False", "reason": "NodeNotReady", "lastTransitionTime": now});
            let patch = json!({"status": {"conditions": [condition]}});
            ok_if_gone(
                self.pods(namespace)
                    .patch_status(pod, &PatchParams::default(), &Patch::Strategic(patch))
                    .await,
            )?;
        }
        for (namespace, pod) in &plan.evict {
            ok_if_gone(self.pods(namespace).delete(pod, &DeleteParams::default()).await)?;
        }
        for (namespace, pod) in &plan.remove {
            let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            ok_if_gone(self.pods(namespace).delete(pod, &now).await)?;
        }
        Ok(())
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.context.client.clone(), namespace)
    }

    fn unknown_conditions(&self, node: &Node) -> Vec<NodeCondition> {
        let now = Time(self.context.options.clock.now());
        let conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let unknown = |c: NodeCondition| NodeCondition {
            status: "Unknown".to_owned(),
            reason: Some("NodeStatusUnknown".to_owned()),
            message: Some("Kubelet stopped posting node status.".to_owned()),
            last_transition_time: Some(now.clone()),
            ..c
        };
        conditions.into_iter().filter(|c| c.status != "Unknown").map(unknown).collect()
    }
}

fn ok_if_gone<T>(answer: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match answer {
        Err(error) if !hitless_client::is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}
