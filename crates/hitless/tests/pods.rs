//! A Pod's life in a real container: volumes, probes, restarts, images that are not there, and above all its end: the consumers let go,
//! then the hooks, then the stop signal, then, if it must be, SIGKILL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command, time::Duration};

use common::{Cluster, Space, is_ready, run, traffic, until};
use serde_json::{Value, json};

#[test]
fn pods_live_and_end_as_kubernetes_says() {
    let cluster = Cluster::up("pods");
    cluster.steps(
        3,
        &[
            ("an_end_goes_in_order_and_is_traced", an_end_goes_in_order_and_is_traced),
            ("what_came_in_before_is_answered", what_came_in_before_is_answered),
            ("hooks_run_before_the_stop_signal", hooks_run_before_the_stop_signal),
            ("grace_ends_with_sigkill", grace_ends_with_sigkill),
            ("force_waits_for_nothing", force_waits_for_nothing),
            ("an_image_that_is_not_there", an_image_that_is_not_there),
            ("readiness_probes_gate_readiness", readiness_probes_gate_readiness),
            ("liveness_probes_restart", liveness_probes_restart),
            ("restart_policies_hold", restart_policies_hold),
            ("volumes_and_environment_reach_the_container", volumes_and_environment_reach_the_container),
        ],
    );
    // A consumer that lags holds up the Pods of every namespace.
    cluster.steps(
        1,
        &[("a_silent_consumer_is_waited_for_and_named", a_silent_consumer_is_waited_for_and_named)],
    );
}

/// The Service of the scenarios, without its Deployment.
fn service(space: &Space) {
    space.apply(&common::service().to_string());
}

/// Milliseconds between two moments in RFC 3339.
fn ms_between(first: &str, second: &str) -> f64 {
    let at = |text: &str| text.parse::<hitless_base::Timestamp>().unwrap();
    at(second).duration_since(at(first)).as_secs_f64() * 1e3
}

/// The reasons of a Pod's Events that are among `words`, in order of time.
fn order(space: &Space, pod: &str, words: &[&str]) -> Vec<String> {
    // Events are written behind what they tell of.
    until(&format!("{pod} has Events {words:?}"), || {
        let told: Vec<String> = space.events(pod).into_iter().map(|(_, reason)| reason).collect();
        words.iter().all(|word| told.iter().any(|r| r == word)).then_some(told)
    })
    .into_iter()
    .filter(|reason| words.contains(&reason.as_str()))
    .collect()
}

fn trace(space: &Space, pod: &str, more: &[&str]) -> String {
    let mut command = Command::new(common::HITLESS);
    command.args(["trace", &format!("pod/{pod}"), "--namespace", &space.kubectl.namespace]).args(more);
    run(command.env("KUBECONFIG", &space.kubectl.kubeconfig)).succeeded().stdout
}

fn an_end_goes_in_order_and_is_traced(space: &Space) {
    service(space);
    let hook = json!({"lifecycle": {"preStop": {"exec": {"command": ["/web", "sleep", "0.3"]}}}});
    space.pod("my-pod", &["serve", "--port", "3000"], hook, json!({}));
    space.kubectl.ok(&["label", "pod", "my-pod", "name=app", "--overwrite"]);
    space.ready("my-pod");
    space.kubectl.ok(&["wait", "--for=condition=hitless.dev/Programmed", "pod/my-pod", "--timeout=60s"]);
    let accepted = trace(space, "my-pod", &[]);
    assert!(accepted.contains("Accepted") && accepted.contains("apiserver"), "{accepted}");
    space.kubectl.ok(&["delete", "pod", "my-pod"]);

    let end = ["Withdrawing", "Withdrawn", "PreStop", "Killing", "Exited", "Released"];
    assert_eq!(order(space, "my-pod", &end), end);
    let life: Value = serde_json::from_str(&trace(space, "my-pod", &["-o", "json"])).unwrap();
    assert_eq!((&life["name"], &life["exists"]), (&json!("my-pod"), &json!(false)));
    let steps = |part: &str| -> Vec<(String, Value)> {
        let steps = life[part].as_array().unwrap();
        steps.iter().map(|s| (s["step"].as_str().unwrap().to_owned(), s["watermarks"].clone())).collect()
    };
    let words = |part: &str| steps(part).into_iter().map(|(word, _)| word).collect::<Vec<_>>();
    let creation = words("creation");
    let begin = ["Scheduled", "SandboxReady", "Pulled", "Created", "Started", "Ready"];
    let expected = creation.iter().filter(|word| begin.contains(&word.as_str())).collect::<Vec<_>>();
    assert_eq!(expected, begin.iter().collect::<Vec<_>>(), "{creation:?}");
    assert!(creation.contains(&"Programmed".to_owned()), "{creation:?}");
    for (part, word) in [("creation", "Programmed"), ("end", "Withdrawn")] {
        // Of several, the last one tells of the endpoint.
        let (_, marks) = steps(part).into_iter().rfind(|(step, _)| step == word).unwrap();
        let reached: BTreeMap<String, (u64, u64)> = marks
            .as_array()
            .unwrap_or_else(|| panic!("{word} tells no watermarks: {life}"))
            .iter()
            .map(|m| {
                (
                    m["consumer"].as_str().unwrap().to_owned(),
                    (m["revision"].as_u64().unwrap(), m["target"].as_u64().unwrap()),
                )
            })
            .collect();
        let consumers = ["dns", "ingress", "service-proxy"]
            .map(|consumer| ["node-1", "node-2"].map(|node| format!("{consumer}-{node}")))
            .concat();
        assert_eq!(reached.keys().cloned().collect::<Vec<_>>(), consumers);
        assert!(reached.values().all(|(revision, target)| revision >= target && *target > 0), "{reached:?}");
    }
    let text = trace(space, "my-pod", &[]);
    assert!(text.contains("pod/my-pod in namespace an-end-goes-in-order-and-is-traced (gone)"), "{text}");
    for word in end.iter().chain(&begin).chain(&["service-proxy-node-1", "service-proxy-node-2", "(Proven)"])
    {
        assert!(text.contains(word), "{word} is missing: {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");

    let none = run(Command::new(common::HITLESS)
        .args(["trace", "pod/nobody"])
        .env("KUBECONFIG", &space.kubectl.kubeconfig));
    assert!(none.ended_with(1).contains("\"nobody\" not found"));
}

/// A server that exits at once on its signal still answers what it was asked before it was withdrawn, within a bound.
fn what_came_in_before_is_answered(space: &Space) {
    service(space);
    space.pod("slow", &["serve", "--port", "3000", "--on-term", "exit"], json!({}), json!({}));
    space.kubectl.ok(&["label", "pod", "slow", "name=app", "--overwrite"]);
    space.ready("slow");
    space.kubectl.ok(&["wait", "--for=condition=hitless.dev/Programmed", "pod/slow", "--timeout=60s"]);
    let service = space.kubectl.json(&["get", "service", "my-service"]);
    let target = format!("{}:80", service["spec"]["clusterIP"].as_str().unwrap());
    let ask = |ms: u32| traffic::get_path(&space.home.name, "node-1", &target, &format!("/slow?ms={ms}"));
    let log = || space.kubectl.ok(&["logs", "slow"]);
    std::thread::scope(|scope| {
        // Long enough for kubectl and the withdrawal on a machine that is slow, and shorter than anybody's patience.
        let answer = scope.spawn(|| ask(1400));
        std::thread::sleep(Duration::from_millis(200));
        space.kubectl.ok(&["delete", "pod", "slow", "--wait=false"]);
        assert_eq!(answer.join().unwrap().as_deref(), Ok("slow"), "{}", log());
    });
    let killed = space.event_at("slow", "Killing");
    let waited_ms = ms_between(&space.event_at("slow", "Withdrawn"), &killed);
    assert!(waited_ms > 100.0, "the signal came {waited_ms} ms after the withdrawal, under a request");
    assert!(!space.events("slow").iter().any(|(_, reason)| reason == "Unanswered"));
}

fn hooks_run_before_the_stop_signal(space: &Space) {
    service(space);
    let hooks = [
        ("by-exec", json!({"exec": {"command": ["/web", "sleep", "1"]}})),
        ("by-sleep", json!({"sleep": {"seconds": 1}})),
        ("by-http", json!({"httpGet": {"path": "/", "port": 3000}})),
    ];
    for (name, hook) in &hooks {
        // An answer takes a second, so each hook takes one.
        let args = ["serve", "--port", "3000", "--delay-ms", "1000"];
        space.pod(name, &args, json!({"lifecycle": {"preStop": hook}}), json!({}));
        space.kubectl.ok(&["label", "pod", name, "name=app", "--overwrite"]);
    }
    for (name, _) in &hooks {
        space.ready(name);
    }
    space.kubectl.ok(&["delete", "pod", "by-exec", "by-sleep", "by-http"]);
    for (name, _) in &hooks {
        assert_eq!(
            order(space, name, &["Withdrawn", "PreStop", "Killing"]),
            ["Withdrawn", "PreStop", "Killing"],
            "{name}"
        );
        let held = ms_between(&space.event_at(name, "Withdrawn"), &space.event_at(name, "Killing"));
        assert!(
            held >= 990.0,
            "{name}: the stop signal came {held} ms after the withdrawal, the hook takes 1000"
        );
    }

    // A hook that fails is told, and the Pod ends all the same.
    let failing = json!({"lifecycle": {"preStop": {"exec": {"command": ["/web", "false"]}}}});
    space.pod("failing", &["serve", "--port", "3000"], failing, json!({}));
    space.ready("failing");
    space.kubectl.ok(&["delete", "pod", "failing"]);
    space.event_at("failing", "FailedPreStopHook");
}

fn grace_ends_with_sigkill(space: &Space) {
    let stubborn = ["serve", "--port", "3000", "--on-term", "ignore"];
    space.pod("of-spec", &stubborn, json!({}), json!({"terminationGracePeriodSeconds": 2}));
    space.pod("of-delete", &stubborn, json!({}), json!({}));
    let hook = json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}});
    space.pod("with-hook", &stubborn, hook, json!({"terminationGracePeriodSeconds": 3}));
    for name in ["of-spec", "of-delete", "with-hook"] {
        space.ready(name);
    }
    space.kubectl.ok(&["delete", "pod", "of-spec", "with-hook", "--wait=false"]);
    space.kubectl.ok(&["delete", "pod", "of-delete", "--grace-period=1"]);
    space.kubectl.until("all are gone", &["pods"], <[Value]>::is_empty);
    // Hook time counts towards the grace period: of three seconds, two are left for the signal.
    for (name, left_ms) in [("of-spec", 2000.0), ("of-delete", 1000.0), ("with-hook", 2000.0)] {
        let waited =
            ms_between(&space.event_at(name, "Killing"), &space.event_at(name, "ExceededGracePeriod"));
        assert!(
            waited > left_ms - 150.0,
            "{name}: SIGKILL came {waited} ms after the signal, not before {left_ms}"
        );
        assert!(waited < left_ms + 4000.0, "{name}: SIGKILL came only {waited} ms after the signal");
        let exited = order(space, name, &["Killing", "ExceededGracePeriod", "Exited"]);
        assert_eq!(exited, ["Killing", "ExceededGracePeriod", "Exited"], "{name}");
    }
}

fn force_waits_for_nothing(space: &Space) {
    let forever = json!({"lifecycle": {"preStop": {"sleep": {"seconds": 25}}}});
    space.pod("forced", &["serve", "--port", "3000", "--on-term", "ignore"], forever, json!({}));
    space.ready("forced");
    let uid = space.kubectl.ok(&["get", "pod", "forced", "-o", "jsonpath={.metadata.uid}"]);
    assert_eq!(processes(&uid).len(), 1);
    let deleted = space.kubectl.run(&["delete", "pod", "forced", "--grace-period=0", "--force"]).succeeded();
    assert!(deleted.all().contains("pod \"forced\" force deleted"), "{}", deleted.all());
    assert!(deleted.took < Duration::from_secs(15), "it took {:?}", deleted.took);
    assert!(space.kubectl.refused(&["get", "pod", "forced"]).contains("NotFound"));
    until("its process is killed too", || processes(&uid).is_empty().then_some(()));
}

fn an_image_that_is_not_there(space: &Space) {
    space.pod("pulled", &["serve"], json!({"image": "hitless.invalid/none:1"}), json!({}));
    space.pod(
        "never",
        &["serve"],
        json!({"image": "hitless.invalid/none:1", "imagePullPolicy": "Never"}),
        json!({}),
    );
    for (name, words) in [
        ("pulled", ["ErrImagePull", "ImagePullBackOff"]),
        ("never", ["ErrImageNeverPull", "ErrImageNeverPull"]),
    ] {
        until(&format!("{name} shows {words:?}"), || {
            let shown = space.kubectl.ok(&["get", "pod", name]);
            words.iter().any(|word| shown.contains(word)).then_some(())
        });
    }
    until("the pull is held back", || {
        space.kubectl.ok(&["get", "pod", "pulled"]).contains("ImagePullBackOff").then_some(())
    });
    let told = space.kubectl.ok(&["describe", "pod", "pulled"]);
    assert!(told.contains("Failed to pull image \"hitless.invalid/none:1\""), "{told}");
    let deleted = space.kubectl.run(&["delete", "pod", "pulled", "never"]).succeeded();
    assert!(deleted.took < Duration::from_secs(15), "it took {:?}", deleted.took);
}

fn readiness_probes_gate_readiness(space: &Space) {
    let every = |probe: Value| {
        let mut probe = probe;
        common::merge(&mut probe, json!({"periodSeconds": 1}));
        json!({"readinessProbe": probe})
    };
    let serve = ["serve", "--port", "3000", "--ready-after", "2"];
    space.pod("by-http", &serve, every(json!({"httpGet": {"path": "/readyz", "port": 3000}})), json!({}));
    space.pod("by-tcp", &serve, every(json!({"tcpSocket": {"port": 3000}})), json!({}));
    space.pod("by-exec", &serve, every(json!({"exec": {"command": ["/web", "true"]}})), json!({}));
    space.pod("no-tcp", &serve, every(json!({"tcpSocket": {"port": 3001}})), json!({}));
    space.pod("no-exec", &serve, every(json!({"exec": {"command": ["/web", "exit", "3"]}})), json!({}));
    for name in ["by-http", "by-tcp", "by-exec"] {
        space.ready(name);
    }
    // The server says no for two seconds first.
    let waited = ms_between(&space.event_at("by-http", "Started"), &space.event_at("by-http", "Ready"));
    assert!(waited > 1500.0, "by-http was Ready after {waited} ms");
    for name in ["no-tcp", "no-exec"] {
        space.event_at(name, "Unhealthy");
        let pods =
            space.kubectl.until("it runs", &["pod", name], |pods| pods[0]["status"]["phase"] == "Running");
        assert!(!is_ready(&pods[0]), "{name}");
        assert_eq!(
            pods[0]["status"]["containerStatuses"][0]["restartCount"], 0,
            "readiness restarts nothing"
        );
    }
}

fn liveness_probes_restart(space: &Space) {
    let serve = ["serve", "--port", "3000"];
    let every = |probe: Value| {
        let mut probe = probe;
        common::merge(&mut probe, json!({"periodSeconds": 1, "failureThreshold": 1}));
        json!({"livenessProbe": probe})
    };
    space.pod("by-http", &serve, every(json!({"httpGet": {"path": "/none", "port": 3000}})), json!({}));
    space.pod("by-tcp", &serve, every(json!({"tcpSocket": {"port": 3001}})), json!({}));
    space.pod("by-exec", &serve, every(json!({"exec": {"command": ["/web", "false"]}})), json!({}));
    let patient = json!({"livenessProbe": {"httpGet": {"path": "/", "port": 3000}, "periodSeconds": 1}});
    space.pod("well", &serve, patient, json!({}));
    for name in ["by-http", "by-tcp", "by-exec"] {
        space.kubectl.until(&format!("{name} is restarted"), &["pod", name], |pods| {
            pods[0]["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(1)
        });
        space.event_at(name, "Unhealthy");
    }
    let well = space.kubectl.json(&["get", "pod", "well"]);
    assert!(is_ready(&well));
    assert_eq!(well["status"]["containerStatuses"][0]["restartCount"], 0);
}

fn restart_policies_hold(space: &Space) {
    space.pod("done", &["true"], json!({}), json!({"restartPolicy": "Never"}));
    space.pod("failed", &["exit", "3"], json!({}), json!({"restartPolicy": "Never"}));
    space.pod("again", &["exit", "1"], json!({}), json!({"restartPolicy": "OnFailure"}));
    space.pod("finished", &["true"], json!({}), json!({"restartPolicy": "OnFailure"}));
    let phase = |name: &str, wanted: &str| {
        space.kubectl.until(&format!("{name} is {wanted}"), &["pod", name], |pods| {
            pods[0]["status"]["phase"] == wanted
        })[0]
            .clone()
    };
    for name in ["done", "finished"] {
        phase(name, "Succeeded");
        assert!(space.kubectl.ok(&["get", "pod", name]).contains("Completed"));
    }
    let failed = phase("failed", "Failed");
    let state = &failed["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&state["exitCode"], &state["reason"]), (&json!(3), &json!("Error")));
    until("restarts are held back", || {
        space.kubectl.ok(&["get", "pod", "again"]).contains("CrashLoopBackOff").then_some(())
    });
    let deleted = space.kubectl.run(&["delete", "pod", "done", "failed", "again", "finished"]).succeeded();
    assert!(deleted.took < Duration::from_secs(15), "it took {:?}", deleted.took);
}

/// The processes of a Pod's containers, the sandbox's left out.
fn processes(uid: &str) -> Vec<PathBuf> {
    let marks = [uid.to_owned(), uid.replace('-', "_")];
    let is_ours = |process: &PathBuf| {
        let cgroup = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        let command = fs::read(process.join("cmdline")).unwrap_or_default();
        marks.iter().any(|mark| cgroup.contains(mark)) && command.starts_with(b"/web")
    };
    let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    all.filter(|path| {
        path.file_name().is_some_and(|n| n.to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
    })
    .filter(is_ours)
    .collect()
}

fn volumes_and_environment_reach_the_container(space: &Space) {
    space.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"colour": "blue"}}).to_string());
    space.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"token": "s3cret"}}).to_string());
    let container = json!({
        "env": [
            {"name": "PLAIN", "value": "one"},
            {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
            {"name": "SELF", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "envFrom": [{"configMapRef": {"name": "settings"}, "prefix": "all_"}],
        "volumeMounts": [
            {"name": "settings", "mountPath": "/etc/settings"},
            {"name": "keys", "mountPath": "/etc/keys", "readOnly": true},
            {"name": "scratch", "mountPath": "/scratch"},
        ],
    });
    let mut first = json!({"name": "web", "image": "hitless.dev/web:1", "args": ["serve", "--port", "3000"]});
    common::merge(&mut first, container);
    let second = json!({
        "name": "side", "image": "hitless.dev/web:1", "args": ["serve", "--port", "3001"],
        "volumeMounts": [{"name": "scratch", "mountPath": "/shared"}],
    });
    let volumes = json!([
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "keys", "secret": {"secretName": "keys"}},
        {"name": "scratch", "emptyDir": {}},
    ]);
    space.pod("full", &[], json!({}), json!({"containers": [first, second], "volumes": volumes}));
    space.ready("full");
    let uid = space.kubectl.ok(&["get", "pod", "full", "-o", "jsonpath={.metadata.uid}"]);
    let processes = processes(&uid);
    let of = |port: &str| {
        let has =
            |p: &&PathBuf| String::from_utf8_lossy(&fs::read(p.join("cmdline")).unwrap()).contains(port);
        processes
            .iter()
            .find(has)
            .unwrap_or_else(|| panic!("no process listens on {port}: {processes:?}"))
            .clone()
    };
    let (web, side) = (of("3000"), of("3001"));
    let environ = String::from_utf8(fs::read(web.join("environ")).unwrap()).unwrap();
    let environ: Vec<&str> = environ.split('\0').collect();
    for wanted in ["PLAIN=one", "COLOUR=blue", "TOKEN=s3cret", "SELF=full", "all_colour=blue"] {
        assert!(environ.contains(&wanted), "{wanted}: {environ:?}");
    }
    let inside = |process: &PathBuf, path: &str| process.join("root").join(path.trim_start_matches('/'));
    assert_eq!(fs::read_to_string(inside(&web, "/etc/settings/colour")).unwrap(), "blue");
    assert_eq!(fs::read_to_string(inside(&web, "/etc/keys/token")).unwrap(), "s3cret");
    fs::write(inside(&web, "/scratch/note"), "from web").unwrap();
    assert_eq!(fs::read_to_string(inside(&side, "/shared/note")).unwrap(), "from web");

    // What a container needs and is not there is told, and the Pod begins when it comes.
    let wants =
        json!({"env": [{"name": "LATER", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "a"}}}]});
    space.pod("early", &["serve", "--port", "3000"], wants, json!({}));
    until("the missing ConfigMap is told", || {
        space.kubectl.ok(&["get", "pod", "early"]).contains("CreateContainerConfigError").then_some(())
    });
    space.kubectl.ok(&["create", "configmap", "later", "--from-literal=a=1"]);
    space.ready("early");
}

fn a_silent_consumer_is_waited_for_and_named(space: &Space) {
    service(space);
    for (name, budget) in [("waits", "30"), ("spends", "1")] {
        space.pod(name, &["serve", "--port", "3000"], json!({}), json!({}));
        space.kubectl.ok(&[
            "annotate",
            "pod",
            name,
            &format!("hitless.dev/withdrawal-budget-seconds={budget}"),
        ]);
        space.kubectl.ok(&["label", "pod", name, "name=app", "--overwrite"]);
        space.ready(name);
        space.kubectl.ok(&[
            "wait",
            "--for=condition=hitless.dev/Programmed",
            &format!("pod/{name}"),
            "--timeout=60s",
        ]);
    }
    space.kubectl.ok(&["annotate", "endpointconsumer", "service-proxy-node-2", "hitless.dev/fault-lag=3s"]);
    // The proxy learns of its lag by a watch, which nothing shows from outside.
    std::thread::sleep(Duration::from_millis(500));
    space.kubectl.ok(&["delete", "pod", "waits", "spends"]);
    let waited = |name: &str, reason: &str| {
        ms_between(&space.event_at(name, "Withdrawing"), &space.event_at(name, reason))
    };
    let (held, spent) = (waited("waits", "Killing"), waited("spends", "Killing"));
    space.kubectl.ok(&["annotate", "endpointconsumer", "service-proxy-node-2", "hitless.dev/fault-lag-"]);
    assert!(held > 2900.0, "the stop signal came after {held} ms, while a consumer lagged by 3 s");
    assert!((950.0..2900.0).contains(&spent), "a budget of 1 s ended after {spent} ms");
    let selector = "involvedObject.name=spends,reason=WithdrawalBudgetSpent";
    let told = space.kubectl.json(&["get", "events", "--field-selector", selector]);
    let event = &common::items(&told)[0];
    assert_eq!(event["type"], "Warning");
    let message = event["message"].as_str().unwrap();
    assert!(
        message.contains("service-proxy-node-2") && !message.contains("service-proxy-node-1"),
        "{message}"
    );
}
