//! What a Pod's containers are given and how they are brought up: init containers, hooks, last words, tokens, the downward API,
//! limits, and logs as stock kubectl asks for them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use common::{Cluster, Space, items, tools, until};
use serde_json::{Value, json};

#[test]
fn pods_are_brought_up_as_kubernetes_says() {
    let cluster = Cluster::up("kubelet");
    cluster.steps(
        3,
        &[
            ("init_containers_come_one_after_another", init_containers_come_one_after_another),
            ("a_failed_init_container_ends_the_pod", a_failed_init_container_ends_the_pod),
            ("post_start_holds_back_what_comes_after", post_start_holds_back_what_comes_after),
            ("last_words_are_kept", last_words_are_kept),
            ("a_pod_talks_to_the_api", a_pod_talks_to_the_api),
            ("tokens_are_made_and_end_with_their_account", tokens_are_made_and_end_with_their_account),
            ("fields_and_limits_reach_the_container", fields_and_limits_reach_the_container),
            ("logs_are_cut_as_asked_for", logs_are_cut_as_asked_for),
        ],
    );
}

const WAIT_FOR_GO: &str = "until [ -e /work/go ]; do sleep 0.05; done";
const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 0.2; done";

/// A container with the machine's tools and the Pod's `/work`.
fn container(name: &str, script: &str) -> Value {
    let mut container = tools::container(name, script);
    let mounts = container["volumeMounts"].as_array_mut().unwrap();
    mounts.push(json!({"name": "work", "mountPath": "/work"}));
    container
}

fn volumes() -> Value {
    let mut volumes = tools::volumes().0;
    volumes.as_array_mut().unwrap().push(json!({"name": "work", "emptyDir": {}}));
    volumes
}

fn row(space: &Space, pod: &str, words: &str) {
    until(&format!("{pod} is shown with {words:?}"), || {
        space.kubectl.ok(&["get", "pod", pod]).contains(words).then_some(())
    });
}

fn init_containers_come_one_after_another(space: &Space) {
    let mut side = container("side", &format!("echo side >> /work/order; {FOREVER}"));
    side["restartPolicy"] = json!("Always");
    side["startupProbe"] =
        json!({"exec": {"command": ["/bin/grep", "-q", "side", "/work/order"]}, "periodSeconds": 1});
    let inits = json!([
        container("first", &format!("{WAIT_FOR_GO}; echo first >> /work/order")),
        side,
        container("second", "echo second >> /work/order"),
    ]);
    let main = container("web", &format!("echo main >> /work/order; {FOREVER}"));
    let spec = json!({"initContainers": inits, "containers": [main], "volumes": volumes()});
    tools::pod(space, "p", "", spec);
    row(space, "p", "Init:0/3");
    let go = ["exec", "p", "-c", "first", "--", "touch", "/work/go"];
    until("the first init container runs", || (space.kubectl.run(&go).code == Some(0)).then_some(()));
    space.ready("p");
    row(space, "p", "2/2");
    let order = space.kubectl.ok(&["exec", "p", "-c", "web", "--", "cat", "/work/order"]);
    assert_eq!(order, "first\nside\nsecond\nmain\n");
    let pod = space.kubectl.json(&["get", "pod", "p"]);
    let inits = pod["status"]["initContainerStatuses"].as_array().unwrap();
    assert!(inits.iter().all(|s| s["ready"] == true), "{inits:#?}");
    assert_eq!(inits[0]["state"]["terminated"]["reason"], "Completed");
    assert!(inits[1]["state"]["running"].is_object(), "{}", inits[1]);
}

fn a_failed_init_container_ends_the_pod(space: &Space) {
    let inits = json!([container("bad", "echo no; exit 4")]);
    let spec = json!({"initContainers": inits, "containers": [container("web", FOREVER)], "volumes": volumes(),
        "restartPolicy": "Never"});
    tools::pod(space, "p", "", spec.clone());
    row(space, "p", "Init:Error");
    let pod = space.kubectl.json(&["get", "pod", "p"]);
    assert_eq!(pod["status"]["phase"], "Failed");
    assert!(pod["status"]["containerStatuses"][0]["state"]["waiting"].is_object(), "{pod:#}");
    assert_eq!(space.kubectl.ok(&["logs", "p", "-c", "bad"]), "no\n");
    tools::pod(
        space,
        "again",
        "",
        json!({"restartPolicy": "Always", "initContainers": spec["initContainers"],
        "containers": spec["containers"], "volumes": spec["volumes"]}),
    );
    row(space, "again", "Init:CrashLoopBackOff");
}

fn post_start_holds_back_what_comes_after(space: &Space) {
    let mut first = container("first", FOREVER);
    first["lifecycle"] = json!({"postStart": {"exec": {"command": ["/bin/sh", "-c", WAIT_FOR_GO]}}});
    let spec = json!({"containers": [first, container("second", FOREVER)], "volumes": volumes()});
    tools::pod(space, "p", "", spec);
    space.event_at("p", "Started");
    let state = |pod: &Value, index: usize| pod["status"]["containerStatuses"][index]["state"].clone();
    let pod = space.kubectl.json(&["get", "pod", "p"]);
    for index in [0, 1] {
        assert_eq!(state(&pod, index)["waiting"]["reason"], "ContainerCreating", "{pod:#}");
    }
    space.kubectl.ok(&["exec", "p", "-c", "first", "--", "touch", "/work/go"]);
    space.ready("p");
    let pod = space.kubectl.json(&["get", "pod", "p"]);
    assert!(state(&pod, 0)["running"].is_object() && state(&pod, 1)["running"].is_object(), "{pod:#}");

    let mut bad = container("bad", FOREVER);
    bad["lifecycle"] = json!({"postStart": {"exec": {"command": ["/bin/false"]}}});
    tools::pod(
        space,
        "bad",
        "",
        json!({"containers": [bad], "volumes": volumes(), "restartPolicy": "Never"}),
    );
    space.event_at("bad", "FailedPostStartHook");
    until("the container was ended", || {
        let pod = space.kubectl.json(&["get", "pod", "bad"]);
        state(&pod, 0)["terminated"].is_object().then_some(())
    });
}

fn last_words_are_kept(space: &Space) {
    let mut logs = container("logs", "echo from the log; exit 3");
    logs["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    let mut file = container("file", "echo unheard; printf bye > /work/last");
    file["terminationMessagePath"] = json!("/work/last");
    let spec = json!({"containers": [logs, file], "volumes": volumes(), "restartPolicy": "Never"});
    tools::pod(space, "p", "", spec);
    space.kubectl.ok(&["wait", "--for=jsonpath={.status.phase}=Failed", "pod/p", "--timeout=60s"]);
    let pod = space.kubectl.json(&["get", "pod", "p"]);
    let message =
        |index: usize| pod["status"]["containerStatuses"][index]["state"]["terminated"]["message"].clone();
    assert_eq!((message(0), message(1)), (json!("from the log\n"), json!("bye")), "{pod:#}");
}

fn a_pod_talks_to_the_api(space: &Space) {
    tools::pod(space, "p", FOREVER, json!({"automountServiceAccountToken": true}));
    space.ready("p");
    let pod = space.kubectl.json(&["get", "pod", "p"]);
    let volume = items(&pod["spec"]["volumes"]).last().unwrap().as_array().unwrap().last().unwrap().clone();
    assert!(volume["name"].as_str().unwrap().starts_with("kube-api-access-"), "{volume}");
    let inside = |args: &[&str]| space.kubectl.run(&[&["exec", "p", "--"], args].concat());
    let directory = "/var/run/secrets/kubernetes.io/serviceaccount";
    let files = inside(&["sh", "-c", &format!("cd {directory}; ls; cat namespace")]).succeeded().stdout;
    assert_eq!(files, format!("ca.crt\nnamespace\ntoken\n{}", space.kubectl.namespace));
    // kubectl finds its own way by the environment and these files: the API's cluster IP, and who it is.
    let answer = inside(&["sh", "-c", "HOME=/tmp exec timeout 30 kubectl get pods"]);
    let who =
        format!("User \"system:serviceaccount:{}:default\" cannot list resource", space.kubectl.namespace);
    assert!(!answer.ok && answer.stderr.contains(&who), "{}", answer.all());
    inside(&["sh", "-c", "HOME=/tmp exec timeout 30 kubectl get --raw /apis"]).succeeded();
}

fn tokens_are_made_and_end_with_their_account(space: &Space) {
    space.kubectl.ok(&["create", "serviceaccount", "robot"]);
    let token = space.kubectl.ok(&["create", "token", "robot", "--duration=20m"]);
    let server =
        space.kubectl.ok(&["config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let with = |token: &str| {
        let mut kubectl = std::process::Command::new("kubectl");
        kubectl.args(["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", "--server", &server]);
        kubectl.args(["--token", token.trim(), "get", "pods", "-n", &space.kubectl.namespace]);
        common::run(&mut kubectl).all()
    };
    let who = format!("system:serviceaccount:{}:robot", space.kubectl.namespace);
    let known = with(&token);
    assert!(known.contains(&who) && known.contains("forbidden"), "{known}");
    let forged = with(&token.replace('.', "x."));
    assert!(forged.contains("Unauthorized") || forged.contains("must be logged in"), "{forged}");
    let short = space.kubectl.refused(&["create", "token", "robot", "--duration=1m"]);
    assert!(short.contains("may not specify a duration less than 10 minutes"), "{short}");
    space.kubectl.ok(&["delete", "serviceaccount", "robot"]);
    let gone = with(&token);
    assert!(!gone.contains(&who), "{gone}");
    let nobody = space.kubectl.refused(&["create", "token", "nobody"]);
    assert!(nobody.contains("\"nobody\" not found"), "{nobody}");
}

fn fields_and_limits_reach_the_container(space: &Space) {
    let mut web = container("web", FOREVER);
    web["resources"] =
        json!({"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}});
    web["env"] = json!([
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
        {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "requests.memory"}}},
        {"name": "UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
    ]);
    web["volumeMounts"].as_array_mut().unwrap().push(json!({"name": "info", "mountPath": "/info"}));
    let mut all = volumes();
    all.as_array_mut().unwrap().push(json!({"name": "info", "downwardAPI": {"items": [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "memory", "resourceFieldRef": {"containerName": "web", "resource": "limits.memory", "divisor": "1Mi"}},
    ]}}));
    tools::pod(space, "p", "", json!({"containers": [web], "volumes": all}));
    space.ready("p");
    let uid = space.kubectl.ok(&["get", "pod", "p", "-o", "jsonpath={.metadata.uid}"]);
    let inside = |script: &str| space.kubectl.ok(&["exec", "p", "--", "sh", "-c", script]);
    assert_eq!(inside("echo $CPU $MEMORY $UID"), format!("500 {} {uid}\n", 32 << 20));
    assert_eq!(inside("cat /info/labels; echo; cat /info/memory"), "name=\"p\"\n64");
    assert_eq!(space.kubectl.ok(&["get", "pod", "p", "-o", "jsonpath={.status.qosClass}"]), "Burstable");
    let figures =
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
    assert_eq!(inside(figures).trim(), (64 << 20).to_string());
    // The Pod's own group has the sum of its containers', so that what they share counts as theirs.
    let group = pod_group(&uid);
    let read = |names: [&str; 2]| {
        let found = names.iter().find_map(|name| std::fs::read_to_string(group(name)).ok());
        found.unwrap_or_else(|| panic!("no {names:?} for pod {uid}"))
    };
    assert_eq!(read(["memory/memory.limit_in_bytes", "memory.max"]).trim(), (64 << 20).to_string());
    assert!(matches!(read(["cpu/cpu.shares", "cpu.weight"]).trim(), "102" | "4"), "cpu");
}

/// Files of the Pod's own cgroup: `memory/memory.limit_in_bytes` on v1, `memory.max` on v2.
fn pod_group(uid: &str) -> impl Fn(&str) -> std::path::PathBuf {
    let process = std::fs::read_dir("/proc").unwrap().flatten().map(|e| e.path()).find_map(|p| {
        let text = std::fs::read_to_string(p.join("cgroup")).ok()?;
        text.contains(&format!("/pod{uid}/")).then_some(text)
    });
    let text = process.unwrap_or_else(|| panic!("no process of pod {uid}"));
    let line = text.lines().find(|l| l.contains(&format!("/pod{uid}/"))).unwrap();
    let path = line.splitn(3, ':').nth(2).unwrap().trim_start_matches('/');
    let group = path.split_inclusive(&format!("pod{uid}")).next().unwrap().to_owned();
    move |name: &str| match name.split_once('/') {
        Some((controller, file)) => {
            std::path::Path::new("/sys/fs/cgroup").join(controller).join(&group).join(file)
        }
        None => std::path::Path::new("/sys/fs/cgroup").join(&group).join(name),
    }
}

fn logs_are_cut_as_asked_for(space: &Space) {
    let script = "i=0; while [ $i -lt 5 ]; do i=$((i+1)); echo line $i; done; echo oops >&2; \
                  if [ -e /work/second ]; then exec sleep 1000; fi; touch /work/second; exit 1";
    let spec = json!({"containers": [container("web", script)], "volumes": volumes()});
    tools::pod(space, "p", "", spec);
    let restarted = "jsonpath={.status.containerStatuses[0].restartCount}";
    until("the container was started again", || {
        (space.kubectl.ok(&["get", "pod", "p", "-o", restarted]) == "1").then_some(())
    });
    space.ready("p");
    let logs = |args: &[&str]| space.kubectl.ok(&[&["logs", "p"], args].concat());
    let whole = "line 1\nline 2\nline 3\nline 4\nline 5\noops\n";
    let sorted = |text: String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines.join("\n") + "\n"
    };
    until("all is written", || (sorted(logs(&[])) == whole).then_some(()));
    assert_eq!(sorted(logs(&["--previous"])), whole);
    assert_eq!(logs(&["--tail=2"]).lines().count(), 2);
    assert_eq!(logs(&["--since=1h"]).lines().count(), 6);
    let stamped = logs(&["--timestamps", "--tail=1"]);
    let stamp = stamped.split(' ').next().unwrap();
    assert!(stamp.parse::<hitless_base::Timestamp>().is_ok(), "{stamped}");
    let never = space.kubectl.refused(&["logs", "p", "-c", "none"]);
    assert!(never.contains("container none is not valid for pod p"), "{never}");
    // A followed log ends with its container.
    let followed = std::thread::scope(|scope| {
        let follow = scope.spawn(|| logs(&["-f"]));
        space.kubectl.ok(&["delete", "pod", "p", "--wait=false"]);
        follow.join().unwrap()
    });
    assert_eq!(followed.lines().count(), 6, "{followed}");
}
