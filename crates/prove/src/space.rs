//! A scenario's namespace: its workloads, what is seen of their Pods, and the waiting for what must come to pass.
//!
//! Every wait has a bound, and one that is spent says what was still missing.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hitless_base::Timestamp;
use hitless_client::{Cache, Reflector};
use hitless_types::{pod, well_known};
use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{Event, Namespace, Node, Pod},
    },
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Mode, ProveError,
    manifests::{self, APPS, Plan},
    withdrawal::{Stop, Stops},
};

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The bound of a rollout. A rollout with `preStop: sleep 15` takes 20 s.
pub(crate) const ROLLED_OUT_WITHIN: Duration = Duration::from_secs(120);
/// The service account that every Pod needs comes a moment after its namespace.
const ACCOUNT_WITHIN: Duration = Duration::from_secs(15);
const EVENTS_WITHIN: Duration = Duration::from_secs(5);
const NAMESPACE_GONE_WITHIN: Duration = Duration::from_secs(60);
/// Without the loop nothing says when the service proxies have caught up with the last Pods; traffic waits this long.
const PROXY_SETTLE: Duration = Duration::from_secs(2);

/// Looks again and again until there is an answer; `Err` from `look` says what is still missing.
pub(crate) async fn until<T, F>(
    what: &str,
    bound: Duration,
    mut look: impl FnMut() -> F,
) -> Result<T, ProveError>
where
    F: Future<Output = Result<Result<T, String>, ProveError>>,
{
    let end = Instant::now() + bound;
    loop {
        let missing = match look().await? {
            Ok(found) => return Ok(found),
            Err(missing) => missing,
        };
        if Instant::now() >= end {
            return Err(ProveError::TimedOut { what: what.to_owned(), seconds: bound.as_secs(), missing });
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The nodes that are Ready and schedulable, by name.
pub(crate) async fn ready_nodes(client: &Client) -> Result<Vec<String>, ProveError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let list = nodes.list(&ListParams::default()).await.map_err(ProveError::api("list nodes"))?;
    let usable = |node: &Node| {
        let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        !cordoned
            && conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    };
    let mut names: Vec<String> =
        list.items.into_iter().filter(usable).filter_map(|node| node.metadata.name).collect();
    names.sort();
    Ok(names)
}

/// A scenario's namespace. To be given up with [`Space::destroy`].
pub(crate) struct Space {
    pub client: Client,
    pub name: String,
    /// The Pods under test.
    pub pods: Cache<Pod>,
    stops: Arc<Mutex<Stops>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Space {
    /// Creates the namespace and follows the Pods under test in it.
    pub async fn create(client: Client, name: String) -> Result<Self, ProveError> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces
            .create(&PostParams::default(), &manifests::namespace(&name)?)
            .await
            .map_err(ProveError::api(format!("create namespace {name}")))?;
        let stops = Arc::new(Mutex::new(Stops::default()));
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let mut reflector = Reflector::new(Api::<Pod>::namespaced(client.clone(), &name))
            .labels(manifests::WORKLOAD_SELECTOR);
        let seen = Arc::clone(&stops);
        reflector.on_change(move |delta| {
            if let Some(object) = delta.latest() {
                let mut stops = seen.lock().unwrap_or_else(PoisonError::into_inner);
                stops.saw(object, delta.after.is_none(), Timestamp::now());
            }
        });
        let pods = reflector.start(&tasks, &cancel);
        Ok(Self { client, name, pods, stops, tasks, cancel })
    }

    /// This namespace's objects of a kind.
    pub fn api<K>(&self) -> Api<K>
    where
        K: k8s_openapi::Resource<Scope = NamespaceResourceScope>
            + k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// The cluster's objects of a kind.
    pub fn cluster_api<K>(&self) -> Api<K>
    where
        K: k8s_openapi::Resource<Scope = ClusterResourceScope>
            + k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
    {
        Api::all(self.client.clone())
    }

    /// Creates an object, and tries again while the namespace's service account is not there yet.
    pub async fn create_object<K>(&self, what: &str, object: &K) -> Result<K, ProveError>
    where
        K: k8s_openapi::Resource<Scope = NamespaceResourceScope>
            + k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let api = self.api::<K>();
        let (api, post) = (&api, &PostParams::default());
        until(&format!("{what} to be accepted"), ACCOUNT_WITHIN, || async move {
            match api.create(post, object).await {
                Ok(created) => Ok(Ok(created)),
                Err(error) if hitless_client::is_code(&error, 403) => Ok(Err(hitless_base::chain(&error))),
                Err(error) => Err(ProveError::api(format!("create {what}"))(error)),
            }
        })
        .await
    }

    /// Creates the workloads with their Services (and budgets), and waits until they can be reached.
    pub async fn set_up(&self, plan: &Plan) -> Result<(), ProveError> {
        let apps = || APPS.into_iter().filter(|app| plan.replicas(app) > 0);
        for app in apps() {
            self.create_object(&format!("service {app}"), &manifests::service(app)?).await?;
        }
        // Long before there is traffic: what an ingress does not know yet it answers with 404.
        self.create_object("ingress web", &manifests::ingress(&self.name)?).await?;
        for app in apps() {
            self.create_object(&format!("deployment {app}"), &manifests::deployment(plan, app)?).await?;
            if plan.budget {
                self.create_object(&format!("poddisruptionbudget {app}"), &manifests::budget(plan, app)?)
                    .await?;
            }
        }
        self.rolled_out(plan).await?;
        if !plan.mode.loop_on() {
            sleep(PROXY_SETTLE).await;
        }
        Ok(())
    }

    /// Waits until every workload has all its Pods, all of the newest template, Ready and (with the loop on) Programmed.
    pub async fn rolled_out(&self, plan: &Plan) -> Result<(), ProveError> {
        let deployments = &self.api::<Deployment>();
        for app in APPS.into_iter().filter(|app| plan.replicas(app) > 0) {
            let what = format!("deployment {app} to be rolled out");
            until(&what, ROLLED_OUT_WITHIN, || async move {
                let deployment =
                    deployments.get(app).await.map_err(ProveError::api(format!("get deployment {app}")))?;
                Ok(rollout_state(&deployment, &self.pods_of(app), plan.mode))
            })
            .await?;
        }
        Ok(())
    }

    /// The Pods of a workload, by name.
    pub fn pods_of(&self, app: &str) -> Vec<Arc<Pod>> {
        let mut pods = self.pods.list();
        pods.retain(|pod| manifests::app_of(&pod.metadata) == Some(app));
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        pods
    }

    /// Waits until none of these Pods (by uid) is there any more.
    pub async fn gone(&self, uids: &BTreeSet<String>) -> Result<(), ProveError> {
        until("the old Pods to be gone", ROLLED_OUT_WITHIN, || async move {
            let mut left: Vec<String> =
                self.pods.list().iter().filter(|pod| uids.contains(&uid(pod))).map(|p| name(p)).collect();
            left.sort();
            Ok(if left.is_empty() { Ok(()) } else { Err(left.join(", ")) })
        })
        .await
    }

    /// Every Pod's end so far. Waits a moment for stop signals that have not been reported yet.
    pub async fn stops(&self) -> Result<Vec<Stop>, ProveError> {
        let events = &self.api::<Event>();
        let look = || async move {
            let list = events.list(&ListParams::default()).await.map_err(ProveError::api("list events"))?;
            let stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner).with_events(&list.items);
            let unknown =
                stops.iter().filter(|stop| stop.deleted_at.is_some() && stop.stopped_at.is_none()).count();
            Ok(if unknown == 0 { Ok(stops) } else { Err((unknown, stops)) })
        };
        let end = Instant::now() + EVENTS_WITHIN;
        loop {
            match look().await? {
                Ok(stops) => return Ok(stops),
                // What is not known is shown as not known; it is an error only where something was expected of it.
                Err((_, stops)) if Instant::now() >= end => return Ok(stops),
                Err(_) => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Deletes the namespace and waits until it is gone. Without `graceful` its Pods are not waited for: a `preStop:
    /// sleep 15` that nobody measures any more would only cost time.
    pub async fn destroy(self, graceful: bool) -> Result<(), ProveError> {
        let deleted = self.delete(graceful).await;
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        deleted
    }

    async fn delete(&self, graceful: bool) -> Result<(), ProveError> {
        let (name, namespaces) = (self.name.as_str(), &self.cluster_api::<Namespace>());
        match namespaces.delete(name, &DeleteParams::default()).await {
            Err(error) if !hitless_client::is_not_found(&error) => {
                return Err(ProveError::api(format!("delete namespace {name}"))(error));
            }
            _ => {}
        }
        let (pods, at_once) = (&self.api::<Pod>(), &DeleteParams::default().grace_period(0));
        until(&format!("namespace {name} to be gone"), NAMESPACE_GONE_WITHIN, || async move {
            let found =
                namespaces.get_opt(name).await.map_err(ProveError::api(format!("get namespace {name}")))?;
            if found.is_none() {
                return Ok(Ok(()));
            }
            for pod in self.pods.list().iter().filter(|_| !graceful) {
                // Gone already, or tried again with the next look.
                let _tried = pods.delete(&self::name(pod), at_once).await;
            }
            Ok(Err("it is terminating".to_owned()))
        })
        .await
    }
}

/// A Pod's name.
pub(crate) fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

/// A Pod's uid.
pub(crate) fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// Whether a workload is as it should be; the error says what is missing.
fn rollout_state(deployment: &Deployment, pods: &[Arc<Pod>], mode: Mode) -> Result<(), String> {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    if status.observed_generation < deployment.metadata.generation {
        return Err("its controller has not seen the newest template".to_owned());
    }
    let replicas = status.replicas.unwrap_or(0);
    let updated = status.updated_replicas.unwrap_or(0);
    let available = status.available_replicas.unwrap_or(0);
    if (replicas, updated, available) != (wanted, wanted, wanted) {
        return Err(format!("{updated} of {wanted} updated, {available} available, {replicas} in all"));
    }
    let living: Vec<&Arc<Pod>> = pods.iter().filter(|pod| !pod::is_terminating(pod)).collect();
    if i32::try_from(living.len()) != Ok(wanted) {
        return Err(format!("{} of {wanted} Pods seen", living.len()));
    }
    let wants = if mode.loop_on() { &["Ready", well_known::PROGRAMMED][..] } else { &["Ready"] };
    for pod in living {
        if let Some(missing) = wants.iter().find(|type_| !pod::condition_is_true(pod, type_)) {
            return Err(format!("{} is not {missing}", name(pod)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(observed: i64, replicas: i32, updated: i32, available: i32) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "generation": 2},
            "spec": {"replicas": 1, "selector": {}, "template": {}},
            "status": {
                "observedGeneration": observed, "replicas": replicas, "updatedReplicas": updated,
                "availableReplicas": available,
            },
        }))
        .unwrap()
    }

    fn pod(conditions: &[&str]) -> Arc<Pod> {
        let conditions: Vec<_> =
            conditions.iter().map(|type_| json!({"type": type_, "status": "True"})).collect();
        let pod = json!({"metadata": {"name": "web-1", "uid": "u"}, "status": {"conditions": conditions}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_rollout_is_done_when_all_pods_are_new_ready_and_with_the_loop_on_programmed() {
        let done = deployment(2, 1, 1, 1);
        let ready = [pod(&["Ready"])];
        let programmed = [pod(&["Ready", well_known::PROGRAMMED])];
        assert_eq!(rollout_state(&done, &programmed, Mode::Loop), Ok(()));
        assert_eq!(rollout_state(&done, &ready, Mode::LoopOff), Ok(()));
        let missing = |deployment: &Deployment, pods: &[Arc<Pod>]| {
            rollout_state(deployment, pods, Mode::Loop).unwrap_err()
        };
        assert_eq!(missing(&done, &ready), "web-1 is not hitless.dev/Programmed");
        assert_eq!(missing(&done, &[]), "0 of 1 Pods seen");
        assert_eq!(missing(&deployment(2, 2, 1, 1), &programmed), "1 of 1 updated, 1 available, 2 in all");
        assert!(missing(&deployment(1, 1, 1, 1), &programmed).contains("not seen the newest"));
    }
}
