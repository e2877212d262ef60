//! Stock kubectl over TLS, with validation on. A machine without kubectl fails here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::{io::Write, path::PathBuf, process::Stdio, time::Duration};

use common::{Bench, PODS, bench};
use hitless_apiserver::{
    Options,
    pki::{self, Ca},
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const MANIFEST: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: 3
  selector: {matchLabels: {name: app}}
  template:
    metadata: {labels: {name: app}}
    spec:
      containers:
      - name: app
        image: nginx:1.19
        ports: [{containerPort: 3000}]
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec:
  ports: [{port: 80, targetPort: 3000}]
  selector: {name: app}
";

struct Cluster {
    bench: Bench,
    directory: tempfile::TempDir,
    cancel: CancellationToken,
    serving: JoinHandle<()>,
    address: std::net::SocketAddr,
    ca: Ca,
}

async fn cluster() -> Cluster {
    serve(bench().await, Ca::create().unwrap()).await
}

async fn serve(bench: Bench, ca: Ca) -> Cluster {
    let directory = tempfile::tempdir().unwrap();
    let pair = ca.issue_server("kube-apiserver", &["127.0.0.1".to_owned()]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cancel = CancellationToken::new();
    let (server, tls, stop) = (bench.server.clone(), ca.server_config(&pair, false).unwrap(), cancel.clone());
    let serving = tokio::spawn(async move { server.serve(listener, tls, stop).await });
    let cluster = Cluster { bench, directory, cancel, serving, address, ca };
    cluster.write_kubeconfig("admin", &["system:masters"]);
    cluster
}

impl Cluster {
    fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    fn write_kubeconfig(&self, user: &str, groups: &[&str]) {
        let client = self.ca.issue_client(user, groups).unwrap();
        let text = self.ca.kubeconfig("test", &format!("https://{}", self.address), user, &client);
        pki::write_kubeconfig(&self.kubeconfig(), &text).unwrap();
    }

    /// Runs kubectl; gives whether it went well, and all that it said.
    async fn run(&self, args: &[&str], input: &str) -> (bool, String) {
        let mut child = std::process::Command::new("kubectl");
        child.args(args).env("KUBECONFIG", self.kubeconfig()).env("HOME", self.directory.path());
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().expect("kubectl must be installed");
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let waiting = tokio::task::spawn_blocking(move || {
            stdin.write_all(input.as_bytes()).unwrap();
            drop(stdin);
            child.wait_with_output().unwrap()
        });
        let output =
            tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("kubectl ends").unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    async fn kubectl(&self, args: &[&str], input: &str) -> String {
        let (well, said) = self.run(args, input).await;
        assert!(well, "kubectl {args:?}: {said}");
        said
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_kubectl_works_with_validation_on() {
    let cluster = cluster().await;
    let kubectl = async |args: &[&str]| cluster.kubectl(args, "").await;
    let said = cluster.kubectl(&["apply", "-f", "-"], MANIFEST).await;
    assert_eq!(said, "deployment.apps/app created\nservice/app created\n");
    let said = cluster.kubectl(&["apply", "-f", "-"], MANIFEST).await;
    assert_eq!(said, "deployment.apps/app unchanged\nservice/app unchanged\n");
    let said = cluster.kubectl(&["apply", "-f", "-"], &MANIFEST.replace("nginx:1.19", "nginx:1.20")).await;
    assert_eq!(said, "deployment.apps/app configured\nservice/app unchanged\n");

    let (well, said) = cluster
        .run(&["apply", "-f", "-"], &MANIFEST.replace("1.19", "1.20").replace("targetPort", "targetPrt"))
        .await;
    assert!(!well && said.contains(r#"unknown field "spec.ports[0].targetPrt""#), "{said}");

    let wide = kubectl(&["get", "deployment,service", "-o", "wide"]).await;
    for word in ["UP-TO-DATE", "nginx:1.20", "CLUSTER-IP", "10.96.", "name=app"] {
        assert!(wide.contains(word), "{word}: {wide}");
    }
    assert!(kubectl(&["get", "deploy", "app", "-o", "yaml"]).await.contains("image: nginx:1.20"));
    assert!(kubectl(&["get", "deploy", "-o", "jsonpath={.items[0].kind}"]).await.contains("Deployment"));

    let image = |tag: &str| {
        format!(r#"{{"spec":{{"template":{{"spec":{{"containers":[{{"name":"app","image":"{tag}"}}]}}}}}}}}"#)
    };
    let patched = kubectl(&["patch", "deploy", "app", "-p", &image("nginx:1.21")]).await;
    assert_eq!(patched, "deployment.apps/app patched\n");
    kubectl(&["patch", "deploy", "app", "--type", "merge", "-p", r#"{"spec":{"minReadySeconds":1}}"#]).await;
    let op = r#"[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"nginx:1.22"}]"#;
    kubectl(&["patch", "deploy", "app", "--type", "json", "-p", op]).await;
    let shown = kubectl(&[
        "get",
        "deploy",
        "app",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].image} {.spec.minReadySeconds}",
    ])
    .await;
    assert_eq!(shown, "nginx:1.22 1");

    kubectl(&["label", "deploy", "app", "tier=front"]).await;
    assert!(kubectl(&["get", "deploy", "-l", "tier=front"]).await.contains("app"));
    assert_eq!(kubectl(&["scale", "deploy/app", "--replicas", "5"]).await, "deployment.apps/app scaled\n");
    assert_eq!(kubectl(&["get", "deploy", "app", "-o", "jsonpath={.spec.replicas}"]).await, "5");
    kubectl(&["rollout", "restart", "deploy/app"]).await;
    kubectl(&["set", "image", "deploy/app", "app=nginx:1.23"]).await;
    kubectl(&["create", "configmap", "c", "--from-literal", "k=v"]).await;
    kubectl(&["create", "namespace", "n"]).await;
    assert!(kubectl(&["api-resources"]).await.contains("endpointconsumers"));
    assert!(kubectl(&["describe", "deploy", "app"]).await.contains("nginx:1.23"));
    let said = cluster.kubectl(&["apply", "--dry-run=server", "-f", "-"], MANIFEST).await;
    assert!(said.contains("(server dry run)"), "{said}");
    assert_eq!(kubectl(&["delete", "deploy/app", "service/app"]).await.lines().count(), 2);
    let (well, said) = cluster.run(&["get", "deploy", "app"], "").await;
    assert!(
        !well && said.contains(r#"Error from server (NotFound): deployments.apps "app" not found"#),
        "{said}"
    );

    cluster.write_kubeconfig("somebody", &[]);
    let (well, said) = cluster.run(&["get", "pods"], "").await;
    assert!(
        !well && said.contains(r#"pods is forbidden: User "somebody" cannot list resource "pods""#),
        "{said}"
    );
    cluster.cancel.cancel();
    tokio::time::timeout(Duration::from_secs(10), cluster.serving).await.expect("the server ends").unwrap();
    drop(cluster.bench);
}

/// A node `n1` and, on it, running Pods of a ReplicaSet under a budget that allows one disruption.
async fn populate(bench: &Bench, names: &[&str]) {
    let node = json!({"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}});
    bench.post("/api/v1/nodes", node).await.ok();
    let mut set = common::deployment("set", 2);
    set["kind"] = "ReplicaSet".into();
    let set = bench.post("/apis/apps/v1/namespaces/default/replicasets", set).await.ok();
    for name in names {
        let mut pod = common::pod(name);
        pod["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "set", "uid": set["metadata"]["uid"], "controller": true,
        }]);
        bench.post(PODS, pod).await.ok();
        let path = format!("{PODS}/{name}");
        bench.post(&format!("{path}/binding"), json!({"target": {"kind": "Node", "name": "n1"}})).await.ok();
        let yes = |type_: &str| json!({"type": type_, "status": "True"});
        let status = json!({"phase": "Running", "conditions": [yes("Ready"), yes("hitless.dev/Programmed")]});
        bench.merge(&format!("{path}/status"), json!({ "status": status })).await.ok();
    }
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    bench.post(BUDGETS, budget).await.ok();
    allow(bench).await;
}

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

/// Plays the budget's controller: one disruption more.
async fn allow(bench: &Bench) {
    let status = json!({"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1,
        "expectedPods": 2, "disruptedPods": null});
    bench.merge(&format!("{BUDGETS}/b/status"), json!({ "status": status })).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_drains_a_node_under_a_budget() {
    let cluster = cluster().await;
    populate(&cluster.bench, &["a", "b"]).await;
    // Plays kubelet and controller: what is going goes, and then the budget allows the next.
    let from = cluster.bench.store_revision();
    let mut events = cluster.bench.watch(&format!("{PODS}?watch=1&resourceVersion={from}")).await;
    let end_pods = async {
        for _ in 0..2 {
            let gone = loop {
                let object = events.next().await["object"].take();
                if object["metadata"]["deletionTimestamp"].is_string() {
                    break object["metadata"]["name"].as_str().unwrap().to_owned();
                }
            };
            let path = format!("{PODS}/{gone}");
            cluster.bench.delete(&path, json!({"gracePeriodSeconds": 0})).await.ok();
            while events.next().await["type"] != "DELETED" {}
            allow(&cluster.bench).await;
        }
    };
    let drain = cluster.kubectl(&["drain", "n1", "--ignore-daemonsets", "--timeout=50s"], "");
    let (said, ()) = tokio::join!(drain, end_pods);
    assert!(said.contains("pod/a evicted") && said.contains("pod/b evicted"), "{said}");
    assert!(said.contains("node/n1 drained"), "{said}");
    assert_eq!(
        cluster.kubectl(&["get", "node", "n1", "-o", "jsonpath={.spec.unschedulable}"], "").await,
        "true"
    );
    assert_eq!(cluster.kubectl(&["uncordon", "n1"], "").await, "node/n1 uncordoned\n");
    cluster.cancel.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_reads_logs_through_the_nodes_kubelet() {
    let ca = Ca::create().unwrap();
    let client = ca.issue_client("kube-apiserver-kubelet-client", &["system:masters"]).unwrap();
    let options = Options { kubelet_client: Some(ca.client_config(&client).unwrap()), ..Options::default() };
    let bench = common::bench_with(options).await;
    populate(&bench, &["a"]).await;
    let (port, kubelet) = kubelet(&ca).await;
    let endpoint = json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    bench.merge("/api/v1/nodes/n1/status", endpoint).await.ok();
    let cluster = serve(bench, ca).await;
    let said = cluster.kubectl(&["logs", "a", "--tail", "5"], "").await;
    assert_eq!(said, "GET /containerLogs/default/a/web?tailLines=5\nfirst\nlast\n");
    let (well, said) = cluster.run(&["logs", "a", "-c", "nothing"], "").await;
    assert!(!well && said.contains("container nothing is not valid for pod a"), "{said}");
    cluster.cancel.cancel();
    kubelet.abort();
}

/// Something that answers like a kubelet, to whoever has the API server's certificate.
async fn kubelet(ca: &Ca) -> (u16, JoinHandle<()>) {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let pair = ca.issue_server("system:node:n1", &["127.0.0.1".to_owned()]).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(ca.server_config(&pair, true).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tls = acceptor.accept(stream).await.unwrap();
            let service =
                hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
                    let first = format!("{} {}\nfirst\n", request.method(), request.uri());
                    let lines = futures::stream::iter(
                        [first, "last\n".to_owned()].map(Ok::<_, std::convert::Infallible>),
                    );
                    Ok::<_, std::convert::Infallible>(hyper::Response::new(axum::body::Body::from_stream(
                        lines,
                    )))
                });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ended = builder.serve_connection(TokioIo::new(tls), service).await;
        }
    });
    (port, serving)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_say_who_they_are_is_refused() {
    let cluster = cluster().await;
    let stranger = Ca::create().unwrap().issue_client("admin", &["system:masters"]).unwrap();
    let text = cluster.ca.kubeconfig("test", &format!("https://{}", cluster.address), "admin", &stranger);
    pki::write_kubeconfig(&cluster.kubeconfig(), &text).unwrap();
    let (well, said) = cluster.run(&["get", "pods", "--request-timeout=5s"], "").await;
    assert!(!well && said.contains("tls"), "{said}");
    let text = text.lines().filter(|line| !line.contains("client-")).collect::<Vec<_>>().join("\n");
    let text = text.replace("user:\n", "user: {token: nonsense}\n");
    pki::write_kubeconfig(&cluster.kubeconfig(), &text).unwrap();
    let (well, said) = cluster.run(&["get", "--raw", "/api/v1/nodes"], "").await;
    assert!(!well && said.contains("Unauthorized"), "{said}");
    cluster.cancel.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_explains_and_says_which_kinds_there_are_not() {
    let cluster = cluster().await;
    let kubectl = async |args: &[&str]| cluster.kubectl(args, "").await;
    let said = kubectl(&["explain", "pod.spec.containers.resources"]).await;
    for word in
        ["KIND:       Pod", "FIELD: resources <ResourceRequirements>", "limits\t<map[string]Quantity>"]
    {
        assert!(said.contains(word), "{word}: {said}");
    }
    let said = kubectl(&["explain", "deployment.spec.strategy.rollingUpdate", "--recursive"]).await;
    for word in ["GROUP:      apps", "maxSurge\t<IntOrString>", "maxUnavailable\t<IntOrString>"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(kubectl(&["explain", "deploy.spec"]).await.contains("template\t<PodTemplateSpec> -required-"));
    assert!(
        kubectl(&["explain", "ingress.spec.rules", "--recursive"])
            .await
            .contains("pathType\t<string> -required-")
    );
    assert!(kubectl(&["explain", "endpointconsumer.status"]).await.contains("observedRevision\t<integer>"));
    let foreign = "apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: g}\n";
    for verb in ["apply", "create"] {
        let (well, said) = cluster.run(&[verb, "-f", "-"], foreign).await;
        assert!(
            !well && said.contains(r#"no matches for kind "Gadget" in version "example.com/v1""#),
            "{said}"
        );
    }
    let (well, said) =
        cluster.run(&["apply", "-f", "-"], "apiVersion: v1\nkind: Gadget\nmetadata: {name: g}\n").await;
    assert!(!well && said.contains(r#"no matches for kind "Gadget" in version "v1""#), "{said}");
    cluster.cancel.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_applies_on_the_servers_side() {
    let cluster = cluster().await;
    let kubectl = async |args: &[&str]| cluster.kubectl(args, "").await;
    let apply = ["apply", "--server-side", "-f", "-"];
    let said = cluster.kubectl(&apply, MANIFEST).await;
    assert_eq!(said, "deployment.apps/app serverside-applied\nservice/app serverside-applied\n");
    kubectl(&["scale", "deploy/app", "--replicas", "5"]).await;
    let (well, said) = cluster.run(&apply, MANIFEST).await;
    assert!(!well && said.contains("Apply failed with 1 conflict"), "{said}");
    assert!(
        said.contains(r#"conflict with "kubectl" with subresource "scale" using apps/v1: .spec.replicas"#),
        "{said}"
    );
    let mut forced = apply.to_vec();
    forced.push("--force-conflicts");
    cluster.kubectl(&forced, MANIFEST).await;
    assert_eq!(kubectl(&["get", "deploy", "app", "-o", "jsonpath={.spec.replicas}"]).await, "3");
    let shown = kubectl(&["get", "deploy", "app", "-o", "yaml", "--show-managed-fields"]).await;
    assert!(shown.contains("manager: kubectl") && shown.contains(r#"k:{"name":"app"}:"#), "{shown}");
    assert!(!kubectl(&["get", "deploy", "app", "-o", "yaml"]).await.contains("managedFields"));

    // Who began on the client's side can go on at the server's: their fields move with them.
    kubectl(&["delete", "deploy/app"]).await;
    cluster.kubectl(&["apply", "-f", "-"], MANIFEST).await;
    let changed = MANIFEST.replace("replicas: 3", "replicas: 4");
    let said = cluster.kubectl(&apply, &changed).await;
    assert!(said.contains("deployment.apps/app serverside-applied"), "{said}");
    assert_eq!(kubectl(&["get", "deploy", "app", "-o", "jsonpath={.spec.replicas}"]).await, "4");
    let (well, said) = cluster.run(&["diff", "--server-side", "-f", "-"], &changed).await;
    assert!(well && said.is_empty(), "{said}");
    let (well, said) = cluster.run(&["diff", "-f", "-"], MANIFEST).await;
    assert!(!well && said.contains("-  replicas: 4") && said.contains("+  replicas: 3"), "{said}");
    cluster.cancel.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_drain_keeps_its_own_time_limit() {
    let cluster = cluster().await;
    populate(&cluster.bench, &["a"]).await;
    let spent = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
    cluster.bench.merge(&format!("{BUDGETS}/b/status"), spent).await.ok();
    let began = std::time::Instant::now();
    let (well, said) = cluster.run(&["drain", "n1", "--timeout=2s"], "").await;
    assert!(!well && said.contains("global timeout reached: 2s"), "{said}");
    assert!(said.contains("would violate the pod's disruption budget"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    cluster.cancel.cancel();
}
