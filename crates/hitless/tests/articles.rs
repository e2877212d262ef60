//! The articles' manifests as they stand, with Debian's nginx under the names that they use: scenarios 1, 7, 9 and 10, and `hitless images`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use common::{
    Cluster, Home, Space, items, run,
    traffic::{self, StopAtEnd},
    until,
};
use serde_json::Value;

#[test]
fn the_articles_manifests_do_what_the_articles_say() {
    let cluster = Cluster::up("articles");
    let archive = nginx(cluster.home.path());
    images_come_in_from_archives(&cluster.home, &archive);
    cluster.steps(
        3,
        &[
            ("a_pod_is_created_step_by_step", a_pod_is_created_step_by_step),
            ("nginx_is_rolled_from_one_version_to_the_next", nginx_is_rolled_from_one_version_to_the_next),
            ("nginx_quits_by_its_hook", nginx_quits_by_its_hook),
        ],
    );
    // By the clock, so nothing else runs meanwhile.
    cluster
        .steps(1, &[("ten_run_and_ten_end_after_twenty_seconds", ten_run_and_ten_end_after_twenty_seconds)]);
}

/// Debian's nginx as an archive.
fn nginx(directory: &Path) -> PathBuf {
    let archive = directory.join("nginx.tar");
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/nginx-image.sh");
    run(Command::new(tool).arg(&archive)).succeeded();
    archive
}

fn images_come_in_from_archives(home: &Home, archive: &Path) {
    let import = |name: &str, file: &Path| {
        let mut hitless = Command::new(common::HITLESS);
        hitless.args(["images", "import", "--name", name, "--data-dir"]).arg(home.data_dir()).arg(file);
        run(&mut hitless)
    };
    let told = import(&home.name, archive).succeeded().stdout;
    for words in
        ["written by docker save", "docker.io/library/nginx:1.19", "node-1: sha256:", "node-2: sha256:"]
    {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(told.lines().all(|line| line.len() <= 200), "{told}");

    let gzip = home.path().join("again.tar.gz");
    let zipped =
        run(Command::new("sh").arg("-c").arg(format!("gzip -1c {} > {}", archive.display(), gzip.display())));
    zipped.succeeded();
    import(&home.name, &gzip).succeeded();

    let bad = home.path().join("bad.tar");
    for (what, words) in [
        ("printf hello", "it is not a whole tar file"),
        ("cd / && tar -cP /etc/hostname", "leads out of the archive"),
        (
            "cd /etc && tar -c hostname",
            "it has neither an index.json (OCI) nor a manifest.json (docker save)",
        ),
    ] {
        run(Command::new("sh").arg("-c").arg(format!("({what}) > {}", bad.display()))).succeeded();
        let said = import(&home.name, &bad).ended_with(2);
        assert!(said.contains(words) && said.contains("bad.tar"), "{words}: {said}");
    }
    let said = import(&home.name, Path::new("/none/such.tar")).ended_with(2);
    assert!(said.contains("/none/such.tar: cannot be opened"), "{said}");
    let said = import("nobody", archive).ended_with(2);
    assert!(
        said.contains("no cluster \"nobody\" runs on this machine") && said.contains("hitless up"),
        "{said}"
    );
}

/// The status line of a `GET /` from node-1.
fn status(space: &Space, target: &str) -> Option<String> {
    traffic::status(&space.home.name, "node-1", target).ok()
}

fn trace(space: &Space, pod: &str) -> Value {
    let mut hitless = Command::new(common::HITLESS);
    hitless.args([
        "trace",
        &format!("pod/{pod}"),
        "-n",
        &space.kubectl.namespace,
        "-o",
        "json",
        "--kubeconfig",
    ]);
    let text = run(hitless.arg(&space.kubectl.kubeconfig)).succeeded().stdout;
    serde_json::from_str(&text).unwrap()
}

/// The Pod's address, once it has one.
fn address(space: &Space, pod: &str) -> String {
    until("the Pod has an address", || {
        space.kubectl.json(&["get", "pod", pod])["status"]["podIP"].as_str().map(str::to_owned)
    })
}

const MY_POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: my-pod}
spec:
  containers:
  - name: web
    image: nginx
    ports: [{name: web, containerPort: 80}]
    lifecycle: {preStop: {exec: {command: ["sleep", "15"]}}}
"#;

fn a_pod_is_created_step_by_step(space: &Space) {
    let applied = space.apply(MY_POD);
    assert!(applied.contains("pod/my-pod created"), "{applied}");
    space.ready("my-pod");
    // Its port is open from the moment at which it is Ready, although nothing probes it.
    let answer = status(space, &format!("{}:80", address(space, "my-pod")));
    assert_eq!(answer.as_deref(), Some("HTTP/1.1 200 OK"));
    let life = trace(space, "my-pod");
    let words: Vec<&str> =
        life["creation"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    let order = ["Accepted", "Scheduled", "SandboxReady", "Pulled", "Created", "Started", "Ready"];
    let told: Vec<&str> = words.iter().copied().filter(|word| order.contains(word)).collect();
    assert_eq!(told, order, "the steps are not in the articles' order: {life}");

    // The hook sleeps for 15 s inside of the grace period, and nginx then stops at once.
    let began = Instant::now();
    space.kubectl.ok(&["delete", "pod", "my-pod"]);
    let took = began.elapsed();
    assert!((15..25).contains(&took.as_secs()), "preStop sleeps for 15 s: {took:?}");
}

const APP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: my-service}
spec:
  ports: [{port: 80, targetPort: 3000}]
  selector: {name: app}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: my-ingress}
spec:
  rules:
  - http:
      paths:
      - path: /
        pathType: Prefix
        backend: {service: {name: my-service, port: {number: 80}}}
---
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
        image: nginx:1.18
        ports: [{containerPort: 3000}]
"#;

fn nginx_is_rolled_from_one_version_to_the_next(space: &Space) {
    let kubectl = &space.kubectl;
    let applied = space.apply(APP);
    for object in ["service/my-service", "ingress.networking.k8s.io/my-ingress", "deployment.apps/app"] {
        assert!(applied.contains(&format!("{object} created")), "{applied}");
    }
    let rolled = || kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
    rolled();
    let service = kubectl.json(&["get", "service", "my-service"]);
    let cluster_ip = format!("{}:80", service["spec"]["clusterIP"].as_str().unwrap());
    let node = kubectl.json(&["get", "node", "node-2"]);
    let addresses = items(&node["status"]["addresses"]);
    let addresses = addresses[0].as_array().cloned().unwrap_or(addresses);
    let node_ip = addresses.iter().find(|a| a["type"] == "InternalIP").unwrap()["address"].as_str().unwrap();
    let ingress = format!("{node_ip}:80");
    until("the ingress and the cluster IP lead to nginx", || {
        [&cluster_ip, &ingress].iter().all(|t| status(space, t).is_some()).then_some(())
    });

    let end = AtomicBool::new(false);
    let images = || {
        let pods = kubectl.json(&["get", "pods", "-l", "name=app"]);
        let image = |pod: &Value| pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned();
        let alive = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        let mut images: Vec<String> = items(&pods).iter().filter(alive).map(image).collect();
        images.dedup();
        images
    };
    let counts = std::thread::scope(|scope| {
        let stop = StopAtEnd(&end);
        let streams =
            [("node-1", &cluster_ip), ("node-2", &cluster_ip), ("node-1", &ingress), ("node-2", &ingress)]
                .map(|(node, target)| scope.spawn(|| traffic::answers(&space.home.name, node, target, &end)));
        kubectl.ok(&["set", "image", "deployment/app", "app=nginx:1.19"]);
        rolled();
        assert_eq!(images(), ["nginx:1.19"]);
        let history = kubectl.ok(&["rollout", "history", "deployment/app"]);
        assert!(history.lines().any(|line| line.starts_with('2')), "{history}");
        kubectl.ok(&["rollout", "undo", "deployment/app"]);
        rolled();
        assert_eq!(images(), ["nginx:1.18"]);
        // While it is paused a change waits.
        kubectl.ok(&["rollout", "pause", "deployment/app"]);
        kubectl.ok(&["set", "image", "deployment/app", "app=nginx:1.15"]);
        until("the change is seen", || {
            let deployment = kubectl.json(&["get", "deployment", "app"]);
            (deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"]).then_some(())
        });
        assert_eq!(images(), ["nginx:1.18"]);
        kubectl.ok(&["rollout", "resume", "deployment/app"]);
        rolled();
        assert_eq!(images(), ["nginx:1.15"]);
        drop(stop);
        streams.map(|stream| stream.join().unwrap())
    });
    for count in counts {
        assert!(count.answered > 50, "{count:?}");
        assert_eq!(count.failed, Vec::<String>::new(), "requests were lost in a rollout");
    }
}

const NGINX_DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: nginx-deployment, labels: {app: nginx}}
spec:
  replicas: 2
  selector: {matchLabels: {app: nginx}}
  template:
    metadata: {labels: {app: nginx}}
    spec:
      containers:
      - name: nginx
        image: nginx:1.15
        ports: [{containerPort: 80}]
        lifecycle: {preStop: {exec: {command: ["/usr/sbin/nginx", "-s", "quit"]}}}
---
apiVersion: v1
kind: Service
metadata: {name: nginx-service}
spec:
  selector: {app: nginx}
  ports: [{protocol: TCP, targetPort: 80, port: 80}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: nginx-pdb}
spec:
  minAvailable: 1
  selector: {matchLabels: {app: nginx}}
"#;

fn nginx_quits_by_its_hook(space: &Space) {
    let kubectl = &space.kubectl;
    space.apply(NGINX_DEPLOYMENT);
    kubectl.ok(&["rollout", "status", "deployment/nginx-deployment", "--timeout=60s"]);
    let pod = kubectl.names(&["pods", "-l", "app=nginx"])[0].clone();
    // Long before the grace period is over: the hook has told nginx to finish.
    let began = Instant::now();
    kubectl.ok(&["delete", "pod", &pod]);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let reasons: Vec<String> = space.events(&pod).into_iter().map(|(_, reason)| reason).collect();
    assert!(!reasons.iter().any(|reason| reason == "FailedPreStopHook"), "{reasons:?}");
}

/// Scenario 10: 10 Pods, 2 s to be ready, 20 s to stop, one at a time.
fn ten_run_and_ten_end_after_twenty_seconds(space: &Space) {
    let kubectl = &space.kubectl;
    let mut app = common::deployment(
        10,
        serde_json::json!({
            "args": ["serve", "--port", "3000", "--on-term", "slow=20", "--ready-after", "2"],
        }),
    );
    common::merge(
        &mut app,
        serde_json::json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}}),
    );
    app["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 60.into();
    space.apply(&app.to_string());
    kubectl.ok(&["rollout", "status", "deployment/app", "--timeout=120s"]);
    kubectl.ok(&["rollout", "restart", "deployment/app"]);
    // One comes every 2 s and one goes: when the tenth new one is ready, the first old one has just ended or is about to.
    let mut most = (0, 0);
    until("ten Pods are new and ready", || {
        let pods = kubectl.json(&["get", "pods", "-l", "name=app"]);
        let ending = |pod: &&Value| !pod["metadata"]["deletionTimestamp"].is_null();
        let pods = items(&pods);
        let (ready, terminating) =
            (pods.iter().filter(|p| common::is_ready(p)).count(), pods.iter().filter(ending).count());
        assert!(ready >= 10, "maxUnavailable is 0, and {ready} are ready");
        most = most.max((terminating, ready));
        let deployment = kubectl.json(&["get", "deployment", "app"]);
        (deployment["status"]["updatedReplicas"] == 10
            && deployment["status"]["replicas"] == 10
            && deployment["status"]["readyReplicas"] == 10)
            .then_some(())
    });
    assert!(most.0 >= 8, "about ten run and ten end at the same time: {most:?} at the most");
}
