//! The objects that a scenario creates: pure functions from a plan to manifests.
//!
//! Workloads of two sorts are under test at once, each behind a Service of its own: one that exits at once on SIGTERM, for requests on
//! new connections (nothing but the order of things can save those), and one that finishes what it has begun, for
//! kept-alive connections (which no order of things can save from an application that drops them). There is one of each sort behind a
//! cluster IP, and one of each behind a headless Service, whose Pods wait for clients that keep an address as long as its record says.

use std::time::Duration;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Namespace, Pod, Service},
        networking::v1::Ingress,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    Mode, ProveError,
    paths::{Path, Place},
};

/// The workload, Service and label value that requests on new connections go to.
pub(crate) const APP_NEW: &str = "web-new";
/// The same for kept-alive connections.
pub(crate) const APP_KEEP_ALIVE: &str = "web-keep-alive";
/// The same two behind headless Services.
pub(crate) const APP_DNS_NEW: &str = "dns-new";
/// See [`APP_DNS_NEW`].
pub(crate) const APP_DNS_KEEP_ALIVE: &str = "dns-keep-alive";
/// All of them.
pub(crate) const APPS: [&str; 4] = [APP_NEW, APP_KEEP_ALIVE, APP_DNS_NEW, APP_DNS_KEEP_ALIVE];

/// Whether kept-alive connections go to the workload.
pub(crate) fn keeps_alive(app: &str) -> bool {
    matches!(app, APP_KEEP_ALIVE | APP_DNS_KEEP_ALIVE)
}

/// Whether the workload's addresses stand in DNS records.
pub(crate) fn is_headless(app: &str) -> bool {
    matches!(app, APP_DNS_NEW | APP_DNS_KEEP_ALIVE)
}

/// Selects the Pods under test.
pub(crate) const WORKLOAD_SELECTOR: &str = "hitless.dev/prove=workload";

const LABEL: &str = "hitless.dev/prove";
const PORT: u16 = 8080;
/// Kept-alive connections of each generator: few enough that each is used several times a second.
const CONNECTIONS: u32 = 8;

/// How the workloads of a scenario look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub mode: Mode,
    pub replicas_new: u32,
    pub replicas_keep_alive: u32,
    /// Of each of the two behind headless Services.
    pub replicas_dns: u32,
    /// A PodDisruptionBudget lets one Pod of each workload go at a time.
    pub budget: bool,
    /// Pods are ready when their probe says so, otherwise as soon as they run.
    pub probe: bool,
}

impl Plan {
    /// Replicas of the workload `app`.
    pub fn replicas(&self, app: &str) -> u32 {
        match app {
            APP_NEW => self.replicas_new,
            APP_KEEP_ALIVE => self.replicas_keep_alive,
            _ => self.replicas_dns,
        }
    }
}

/// Which workload a Pod belongs to.
pub(crate) fn app_of(metadata: &ObjectMeta) -> Option<&str> {
    metadata.labels.as_ref()?.get("app").map(String::as_str)
}

fn object<K: DeserializeOwned>(what: &str, value: Value) -> Result<K, ProveError> {
    serde_json::from_value(value).map_err(|source| ProveError::Manifest { what: what.to_owned(), source })
}

/// The scenario's namespace.
pub(crate) fn namespace(name: &str) -> Result<Namespace, ProveError> {
    object(name, json!({"metadata": {"name": name, "labels": {LABEL: "run"}}}))
}

/// A workload.
pub(crate) fn deployment(plan: &Plan, app: &str) -> Result<Deployment, ProveError> {
    let on_term = if keeps_alive(app) { "finish" } else { "exit" };
    let mut container = json!({
        "name": "web",
        "image": hitless_images::WEB,
        "imagePullPolicy": "IfNotPresent",
        "args": ["serve", "--port", PORT.to_string(), "--on-term", on_term],
        "ports": [{"containerPort": PORT}],
    });
    if plan.probe {
        container["readinessProbe"] =
            json!({"httpGet": {"path": "/readyz", "port": PORT}, "periodSeconds": 1});
    }
    if plan.mode == Mode::Sleep {
        container["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 15}}});
    }
    let labels = json!({"app": app, LABEL: "workload"});
    object(
        app,
        json!({
            "metadata": {"name": app},
            "spec": {
                "replicas": plan.replicas(app),
                "selector": {"matchLabels": {"app": app}},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "automountServiceAccountToken": false,
                        "topologySpreadConstraints": [{
                            "maxSkew": 1,
                            "topologyKey": "kubernetes.io/hostname",
                            "whenUnsatisfiable": "ScheduleAnyway",
                            "labelSelector": {"matchLabels": {"app": app}},
                        }],
                        "containers": [container],
                    },
                },
            },
        }),
    )
}

/// The workload's Service.
pub(crate) fn service(app: &str) -> Result<Service, ProveError> {
    let ports = json!([{"port": 80, "targetPort": PORT}]);
    let spec = if is_headless(app) {
        json!({"clusterIP": "None", "selector": {"app": app}, "ports": ports})
    } else {
        json!({"type": "NodePort", "selector": {"app": app}, "ports": ports})
    };
    object(app, json!({"metadata": {"name": app}, "spec": spec}))
}

/// The host under which the ingress serves a workload of the namespace.
pub(crate) fn host(app: &str, namespace: &str) -> String {
    format!("{app}.{namespace}.hitless.invalid")
}

/// The workloads with cluster IPs behind the ingress, each under a host of its own.
pub(crate) fn ingress(namespace: &str) -> Result<Ingress, ProveError> {
    let rules: Vec<Value> = APPS
        .into_iter()
        .filter(|app| !is_headless(app))
        .map(|app| {
            let backend = json!({"service": {"name": app, "port": {"number": 80}}});
            let path = json!({"path": "/", "pathType": "Prefix", "backend": backend});
            json!({"host": host(app, namespace), "http": {"paths": [path]}})
        })
        .collect();
    let spec = json!({"ingressClassName": "hitless", "rules": rules});
    object("web", json!({"metadata": {"name": "web"}, "spec": spec}))
}

/// Lets one Pod of the workload go at a time.
pub(crate) fn budget(plan: &Plan, app: &str) -> Result<PodDisruptionBudget, ProveError> {
    let min_available = plan.replicas(app).saturating_sub(1);
    let selector = json!({"matchLabels": {"app": app}});
    object(
        app,
        json!({"metadata": {"name": app}, "spec": {"minAvailable": min_available, "selector": selector}}),
    )
}

/// A stream of requests from one container.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    /// The path that they make.
    pub path: Path,
    /// `IP:PORT`, or a name and a port.
    pub target: String,
    /// The host that is asked for; none: the target.
    pub host: Option<String>,
    /// Requests a second.
    pub rate: u32,
}

/// What stands for a headless Service: its name, which the generator looks up as often as its records ask for.
pub(crate) fn headless_target(app: &str) -> String {
    format!("{app}:{PORT}")
}

/// A Pod by itself, without probes or ports.
pub(crate) fn bare_pod(name: &str) -> Result<Pod, ProveError> {
    object(
        name,
        json!({
            "metadata": {"name": name},
            "spec": {"containers": [{
                "name": "web",
                "image": hitless_images::WEB,
                "imagePullPolicy": "IfNotPresent",
                "args": ["serve"],
            }]},
        }),
    )
}

/// The name of the generator at this place of a node.
pub(crate) fn generator_name(place: Place, node: &str) -> String {
    format!("traffic-{}-{node}", place.word())
}

/// A generator of traffic, one container for each stream, bound to its node: a cordon must not move it. It ends by itself after `lives`, if
/// nobody is left to stop it.
pub(crate) fn generator(
    place: Place,
    node: &str,
    streams: &[Stream],
    lives: Duration,
) -> Result<Pod, ProveError> {
    let containers: Vec<Value> = streams
        .iter()
        .map(|stream| {
            let (rate, duration, workers) =
                (stream.rate.to_string(), lives.as_secs().to_string(), CONNECTIONS.to_string());
            let mut args = vec!["load", "--target", &stream.target, "--mode", stream.path.mode()];
            args.extend(["--rate", &rate, "--duration", &duration, "--workers", &workers]);
            args.extend(stream.host.iter().flat_map(|host| ["--host", host]));
            json!({
                "name": stream.path.container(),
                "image": hitless_images::WEB,
                "imagePullPolicy": "IfNotPresent",
                "args": args,
            })
        })
        .collect();
    let name = generator_name(place, node);
    object(
        &name,
        json!({
            "metadata": {"name": name, "labels": {LABEL: "traffic"}},
            "spec": {
                "nodeName": node,
                "hostNetwork": place == Place::Node,
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 10,
                "automountServiceAccountToken": false,
                "tolerations": [{"operator": "Exists"}],
                "containers": containers,
            },
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::path;

    fn plan(mode: Mode) -> Plan {
        Plan { mode, replicas_new: 10, replicas_keep_alive: 4, replicas_dns: 2, budget: true, probe: true }
    }

    #[test]
    fn the_workloads_differ_in_how_they_end_and_only_the_sleep_mode_has_a_hook() {
        let container = |mode, app| {
            let deployment = serde_json::to_value(deployment(&plan(mode), app).unwrap()).unwrap();
            deployment["spec"]["template"]["spec"]["containers"][0].clone()
        };
        assert_eq!(container(Mode::Loop, APP_NEW)["args"][4], "exit");
        assert_eq!(container(Mode::Loop, APP_KEEP_ALIVE)["args"][4], "finish");
        assert_eq!(container(Mode::LoopOff, APP_NEW)["lifecycle"], Value::Null);
        assert_eq!(container(Mode::Sleep, APP_NEW)["lifecycle"]["preStop"]["sleep"]["seconds"], 15);
        assert_eq!(container(Mode::Loop, APP_NEW)["readinessProbe"]["httpGet"]["path"], "/readyz");
    }

    #[test]
    fn workloads_behind_names_have_no_cluster_ip_and_end_like_the_others() {
        for app in APPS {
            let service = serde_json::to_value(service(app).unwrap()).unwrap();
            assert_eq!(service["spec"]["clusterIP"] == "None", is_headless(app), "{app}");
        }
        for path in Path::all() {
            let app = path.app();
            assert_eq!((keeps_alive(app), is_headless(app)), (path.keeps_alive, path.is_by_name()), "{path}");
        }
    }

    #[test]
    fn a_budget_lets_one_pod_go() {
        let value = serde_json::to_value(budget(&plan(Mode::Loop), APP_KEEP_ALIVE).unwrap()).unwrap();
        assert_eq!(value["spec"]["minAvailable"], 3);
    }

    #[test]
    fn a_generator_is_bound_to_its_node_and_carries_every_stream() {
        let stream =
            |name| Stream { path: path(name), target: "10.96.0.9:80".to_owned(), host: None, rate: 75 };
        let streams = [stream("clusterip-node/new"), stream("clusterip-node/keep-alive")];
        let pod = generator(Place::Node, "node-1", &streams, Duration::from_secs(900)).unwrap();
        let value = serde_json::to_value(pod).unwrap();
        assert_eq!(value["metadata"]["name"], "traffic-node-node-1");
        assert_eq!(
            (&value["spec"]["nodeName"], &value["spec"]["hostNetwork"]),
            (&json!("node-1"), &json!(true))
        );
        let container = &value["spec"]["containers"][1];
        assert_eq!(container["name"], "clusterip-node-keep-alive");
        let args = &container["args"];
        assert_eq!((&args[4], &args[6], args.get(11)), (&json!("keep-alive"), &json!("75"), None));
        let through = Stream { host: Some("web.prove.hitless.invalid".to_owned()), ..stream("ingress/new") };
        let pod = serde_json::to_value(
            generator(Place::Node, "node-1", &[through], Duration::from_secs(900)).unwrap(),
        )
        .unwrap();
        let args = &pod["spec"]["containers"][0]["args"];
        assert_eq!((&args[11], &args[12]), (&json!("--host"), &json!("web.prove.hitless.invalid")));
    }
}
