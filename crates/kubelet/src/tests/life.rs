//! Lives of Pods: creation, crashes, the gate, force, adoption, finishing.

use std::time::Instant;

use super::*;
use crate::ports::{ContainerState, Runtime};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_comes_to_be_ready_and_the_node_with_it() {
    let mut bench = Bench::new();
    bench.pod(json!({"nodeName": "node-1", "containers": [{"name": "web", "image": "web:1",
        "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}]}));
    bench.ready().await;
    let pod = bench.api.get(POD).unwrap();
    assert_eq!(
        (pod["status"]["phase"].as_str(), pod["status"]["podIP"].as_str()),
        (Some("Running"), Some("127.0.0.1"))
    );
    let (_, spec) = bench.runtime.running("web").unwrap();
    assert!(spec.envs.contains(&("IP".to_owned(), "127.0.0.1".to_owned())));
    assert!(spec.mounts.iter().any(|m| m.container_path == "/etc/hosts"));
    let order: Vec<String> =
        ["SandboxReady", "Pulled", "Created", "Started", "Ready"].map(str::to_owned).into();
    bench.event("Ready").await;
    let seen: Vec<String> =
        bench.api.events().into_iter().map(|e| e.0).filter(|r| order.contains(r)).collect();
    assert_eq!(seen, order);
    let ready = until("the node is ready", || {
        let node = bench.api.get("/api/v1/nodes/node-1")?;
        let all = node["status"]["conditions"].as_array()?.clone();
        all.into_iter().find(|c| c["type"] == "Ready" && c["status"] == "True")
    })
    .await;
    assert_eq!(ready["reason"], "KubeletReady");
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node-1";
    until("the lease", || bench.api.get(lease)).await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_signal_before_withdrawn_and_the_signal_at_once_after() {
    let mut bench = Bench::new();
    bench.pod(web());
    bench.ready().await;
    bench.delete(30);
    bench.event("Withdrawing").await;
    // The gate is closed: nothing happens, however long one looks.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(bench.runtime.state.lock().signals.is_empty());
    assert!(bench.runtime.running("web").is_some());
    assert_eq!(bench.condition("Ready").as_deref(), Some("True"), "it still serves");
    let withdrawn_at = Instant::now();
    bench.withdraw();
    bench.gone().await;
    let signals = bench.runtime.state.lock().signals.clone();
    assert_eq!(signals.len(), 1);
    assert_eq!(signals[0].1, "SIGQUIT", "the image's own stop signal");
    let took = signals[0].2.duration_since(withdrawn_at);
    println!("withdrawn to signal: {took:?}");
    assert!(took < Duration::from_millis(500), "{took:?}");
    assert_eq!(bench.event("Killing").await, "Stopping container web");
    bench.event("Exited").await;
    bench.event("Released").await;
    assert!(!bench.root.path().join("pods/u1").exists());
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_came_in_before_is_answered_before_the_signal() {
    use crate::ports::Connection;
    let mut bench = Bench::new();
    let asked = Connection { received_bytes: 90, ..Connection::default() };
    bench.runtime.state.lock().connections.insert("web".into(), vec![asked]);
    bench.pod(web());
    bench.ready().await;
    bench.delete(30);
    bench.event("Withdrawing").await;
    bench.withdraw();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(bench.runtime.state.lock().signals.is_empty(), "its answer is not out");
    let answered = Connection { sent_segments: 1, ..asked };
    bench.runtime.state.lock().connections.insert("web".into(), vec![answered]);
    bench.gone().await;
    assert_eq!(bench.runtime.state.lock().signals.len(), 1);
    assert!(!bench.api.events().iter().any(|event| event.0 == "Unanswered"));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_never_answered_holds_the_signal_up_for_a_bounded_time() {
    use crate::ports::Connection;
    let mut bench = Bench::new();
    let unread = Connection { unread_bytes: 90, ..Connection::default() };
    bench.runtime.state.lock().connections.insert("web".into(), vec![unread]);
    bench.pod(web());
    bench.ready().await;
    bench.delete(30);
    bench.withdraw();
    bench.gone().await;
    assert_eq!(bench.runtime.state.lock().signals.len(), 1);
    let message = bench.event("Unanswered").await;
    assert!(message.starts_with("1 connections"), "{message}");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_run_behind_the_gate_and_before_the_signal() {
    let mut bench = Bench::new();
    bench.pod(json!({"nodeName": "node-1", "containers": [{"name": "web", "image": "web:1",
        "lifecycle": {"preStop": {"exec": {"command": ["quit"]}}}}]}));
    bench.ready().await;
    bench.runtime.state.lock().exec_codes.insert("quit".into(), 1);
    bench.delete(30);
    bench.event("Withdrawing").await;
    assert!(bench.runtime.state.lock().execs.is_empty());
    bench.withdraw();
    bench.gone().await;
    assert_eq!(bench.runtime.state.lock().execs, [["quit".to_owned()]]);
    assert_eq!(bench.runtime.state.lock().signals.len(), 1);
    assert_eq!(bench.event("FailedPreStopHook").await, "PreStopHook failed: out");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ignores_its_signal_is_killed_at_the_end_of_grace() {
    let mut bench = Bench::new();
    bench.runtime.state.lock().deaf.insert("web".into());
    bench.pod(web());
    bench.ready().await;
    bench.delete(2);
    bench.event("Withdrawing").await;
    bench.withdraw();
    bench.gone().await;
    let (kills, signal_at) = {
        let state = bench.runtime.state.lock();
        (state.kills.clone(), state.signals[0].2)
    };
    assert_eq!(kills, ["web"]);
    assert!(signal_at.elapsed() >= Duration::from_secs(2));
    bench.event("ExceededGracePeriod").await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn force_waits_for_nothing() {
    let mut bench = Bench::new();
    bench.pod(web());
    bench.ready().await;
    bench.api.remove(POD);
    bench.gone().await;
    let (signals, kills) = {
        let state = bench.runtime.state.lock();
        (state.signals.len(), state.kills.clone())
    };
    assert_eq!((signals, kills), (0, vec!["web".to_owned()]));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_loop_off_there_is_no_gate() {
    let mut bench = Bench::new();
    bench.stop().await;
    bench.start(false);
    bench.pod(web());
    bench.ready().await;
    bench.delete(30);
    bench.gone().await;
    assert_eq!(bench.runtime.state.lock().signals.len(), 1);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_adopted_and_never_started_twice() {
    let mut bench = Bench::new();
    bench.pod(json!({"nodeName": "node-1", "containers": [{"name": "web", "image": "web:1",
        "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 100}}]}));
    bench.ready().await;
    let before = bench.runtime.running("web").unwrap().0.id;
    bench.stop().await;
    assert!(bench.runtime.running("web").is_some(), "Pods outlive their kubelet");
    let writes = bench.api.status_writes(POD);
    bench.start(true);
    until("the new kubelet has looked", || (bench.api.status_writes(POD) > writes).then_some(())).await;
    // The probe of an adopted container comes within its long period: until then what the API shows goes on.
    assert_eq!(bench.condition("Ready").as_deref(), Some("True"), "{:#?}", bench.api.written(POD));
    assert_eq!(bench.runtime.running("web").unwrap().0.id, before);
    assert_eq!(bench.runtime.state.lock().starts["web"], 1);
    // Its end is the same as ever, with the signal remembered on the container.
    bench.delete(30);
    bench.withdraw();
    bench.gone().await;
    assert_eq!(bench.runtime.state.lock().signals[0].1, "SIGQUIT");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_does_not_know_is_removed() {
    let mut bench = Bench::new();
    bench.pod(web());
    bench.ready().await;
    bench.stop().await;
    bench.api.remove(POD);
    bench.start(true);
    bench.gone().await;
    until("its files are gone", || (!bench.root.path().join("pods/u1").exists()).then_some(())).await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_restarted_at_once_and_then_held_back() {
    let mut bench = Bench::new();
    bench.pod(web());
    bench.ready().await;
    bench.runtime.exit("web", 1);
    until("restarted", || (bench.runtime.running("web")?.0.attempt == 1).then_some(())).await;
    bench.runtime.exit("web", 2);
    let message = bench.waiting("CrashLoopBackOff").await;
    assert_eq!(message, "back-off 10s restarting failed container=web pod=p_ns(u1)");
    let status = bench.container_status().unwrap();
    assert_eq!(
        (status["restartCount"].as_i64(), status["lastState"]["terminated"]["exitCode"].as_i64()),
        (Some(1), Some(2))
    );
    assert_eq!(bench.condition("Ready").as_deref(), Some("False"));
    assert_eq!(bench.event("BackOff").await, "Back-off restarting failed container web in pod p_ns(u1)");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_is_shown_and_its_pod_can_be_deleted() {
    let mut bench = Bench::new();
    bench.pod(json!({"nodeName": "node-1", "containers": [{"name": "web", "image": "absent:1"}]}));
    assert_eq!(bench.waiting("ErrImagePull").await, "no registry holds absent:1");
    assert_eq!(bench.event("Pulling").await, "Pulling image \"absent:1\"");
    assert_eq!(bench.event("Failed").await, "Failed to pull image \"absent:1\": no registry holds absent:1");
    let message = bench.waiting("ImagePullBackOff").await;
    assert_eq!(message, "Back-off pulling image \"absent:1\": ErrImagePull: no registry holds absent:1");
    assert_eq!(bench.event("BackOff").await, "Back-off pulling image \"absent:1\"");
    bench.delete(30);
    bench.withdraw();
    bench.gone().await;
    assert_eq!(bench.runtime.state.lock().pulls, 1);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_imported_is_not_asked_of_a_registry() {
    for (image, policy, pulls) in [
        ("imported/app", None, 0),
        ("imported/app:latest", None, 0),
        ("imported/app", Some("Always"), 0),
        ("pulled/app", None, 1),
    ] {
        let mut bench = Bench::new();
        bench.runtime.state.lock().images.insert(image.to_owned());
        bench.pod(json!({"nodeName": "node-1", "containers": [
            {"name": "web", "image": image, "imagePullPolicy": policy}]}));
        if pulls == 0 {
            bench.ready().await;
        } else {
            bench.waiting("ErrImagePull").await;
        }
        assert_eq!(bench.runtime.state.lock().pulls, pulls, "{image} {policy:?}");
        bench.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_readiness_probe_open_ports_make_ready_or_a_second_does() {
    let ports = json!([{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]);
    let spec =
        json!({"nodeName": "node-1", "containers": [{"name": "web", "image": "web:1", "ports": ports}]});
    let mut bench = Bench::new();
    bench.runtime.state.lock().listening.insert("web".to_owned(), Vec::new());
    bench.pod(spec.clone());
    until("it runs", || bench.container_status()?["state"]["running"].is_object().then_some(())).await;
    assert_eq!(bench.condition("Ready").as_deref(), Some("False"), "nobody listens on its port");
    bench.runtime.state.lock().listening.insert("web".to_owned(), vec![80]);
    bench.ready().await;
    bench.stop().await;

    let mut bench = Bench::new();
    bench.runtime.state.lock().listening.insert("web".to_owned(), vec![81]);
    let began = Instant::now();
    bench.pod(spec);
    bench.ready().await;
    assert!(began.elapsed() >= Duration::from_millis(1000), "the bound is waited for");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_that_is_missing_is_waited_for() {
    let mut bench = Bench::new();
    bench.pod(json!({"nodeName": "node-1", "containers": [{"name": "web", "image": "web:1", "env": [
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]}]}));
    assert_eq!(bench.waiting("CreateContainerConfigError").await, "configmap \"cm\" not found");
    assert_eq!(bench.event("Failed").await, "Error: configmap \"cm\" not found");
    bench
        .api
        .put("/api/v1/namespaces/ns/configmaps/cm", json!({"metadata": {"name": "cm"}, "data": {"k": "v"}}));
    bench.ready().await;
    let (_, spec) = bench.runtime.running("web").unwrap();
    assert!(spec.envs.contains(&("A".to_owned(), "v".to_owned())));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_there_before_the_container() {
    let mut bench = Bench::new();
    bench
        .api
        .put("/api/v1/namespaces/ns/secrets/s", json!({"metadata": {"name": "s"}, "data": {"k": "dg=="}}));
    bench.pod(json!({"nodeName": "node-1", "volumes": [{"name": "v", "secret": {"secretName": "s"}}, {"name": "e", "emptyDir": {}}],
        "containers": [{"name": "web", "image": "web:1", "volumeMounts": [
            {"name": "v", "mountPath": "/s", "readOnly": true}, {"name": "e", "mountPath": "/e"}]}]}));
    bench.ready().await;
    let (_, spec) = bench.runtime.running("web").unwrap();
    let host = |path: &str| spec.mounts.iter().find(|m| m.container_path == path).unwrap().host_path.clone();
    assert_eq!(std::fs::read_to_string(format!("{}/k", host("/s"))).unwrap(), "v");
    assert!(std::fs::metadata(host("/e")).unwrap().is_dir());
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_its_probe_within_milliseconds() {
    let mut bench = Bench::new();
    bench.runtime.state.lock().exec_codes.insert("ready".into(), 1);
    bench.pod(json!({"nodeName": "node-1", "containers": [{"name": "web", "image": "web:1",
        "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 1, "failureThreshold": 1}}]}));
    assert_eq!(bench.event("Unhealthy").await, "Readiness probe failed: out");
    assert_eq!(bench.condition("Ready").as_deref(), Some("False"));
    bench.runtime.state.lock().exec_codes.clear();
    bench.ready().await;
    bench.runtime.state.lock().exec_codes.insert("ready".into(), 1);
    until("not ready again", || (bench.condition("Ready")? == "False").then_some(())).await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_listens_late_is_ready_long_before_its_period() {
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let mut bench = Bench::new();
    bench.pod(json!({"nodeName": "node-1", "containers": [{"name": "web", "image": "web:1",
        "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 600}}]}));
    until("it runs", || bench.runtime.running("web")).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(bench.condition("Ready").as_deref(), Some("False"));
    let _listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    bench.ready().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_liveness_probe_restarts_the_container() {
    let mut bench = Bench::new();
    bench.pod(json!({"nodeName": "node-1", "containers": [{"name": "web", "image": "web:1",
        "livenessProbe": {"exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 1}}]}));
    bench.ready().await;
    {
        let mut state = bench.runtime.state.lock();
        state.signal_heals = true;
        state.exec_codes.insert("alive".into(), 1);
    }
    assert_eq!(bench.event("Killing").await, "Container web failed liveness probe, will be restarted");
    until("restarted", || (bench.runtime.running("web")?.0.attempt == 1).then_some(())).await;
    bench.ready().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_finishes_gives_its_sandbox_back_and_keeps_its_words() {
    let mut bench = Bench::new();
    bench.pod(json!({"nodeName": "node-1", "restartPolicy": "Never", "containers": [{"name": "web", "image": "web:1"}]}));
    bench.ready().await;
    let (_, spec) = bench.runtime.running("web").unwrap();
    let message = spec.mounts.iter().find(|m| m.container_path == "/dev/termination-log").unwrap();
    std::fs::write(&message.host_path, "goodbye").unwrap();
    bench.runtime.exit("web", 0);
    until("succeeded", || (bench.api.get(POD)?["status"]["phase"] == "Succeeded").then_some(())).await;
    until("the sandbox is stopped", || {
        bench.runtime.state.lock().sandboxes.values().all(|s| !s.0.ready).then_some(())
    })
    .await;
    let ended = bench.container_status().unwrap()["state"]["terminated"].clone();
    assert_eq!((ended["message"].as_str(), ended["reason"].as_str()), (Some("goodbye"), Some("Completed")));
    assert_eq!(bench.runtime.state.lock().starts["web"], 1);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn others_conditions_are_never_touched() {
    let mut bench = Bench::new();
    bench.pod(web());
    bench.ready().await;
    let programmed = json!({"type": "hitless.dev/Programmed", "status": "True", "reason": "Acknowledged"});
    bench.api.change(POD, |p| p["status"]["conditions"].as_array_mut().unwrap().push(programmed.clone()));
    bench.runtime.exit("web", 1);
    until("not ready", || (bench.container_status()?["restartCount"] == 1).then_some(())).await;
    let all = bench.api.get(POD).unwrap()["status"]["conditions"].clone();
    assert!(all.as_array().unwrap().contains(&programmed), "{all}");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_all_ends_what_a_kubelet_left_running() {
    let mut bench = Bench::new();
    bench.pod(json!({"nodeName": "node-1", "terminationGracePeriodSeconds": 20, "containers": [
        {"name": "web", "image": "web:1", "lifecycle": {"preStop": {"exec": {"command": ["quit"]}}}},
        {"name": "deaf", "image": "web:1"}]}));
    bench.ready().await;
    bench.stop().await;
    bench.runtime.state.lock().deaf.insert("deaf".into());
    let runtime: Arc<dyn Runtime> = Arc::new(bench.runtime.clone());
    let removed = crate::stop_all(runtime, Arc::new(SystemClock), Duration::from_secs(1)).await.unwrap();
    assert_eq!(removed, 1);
    let state = bench.runtime.state.lock();
    assert_eq!(state.execs, [["quit".to_owned()]]);
    assert_eq!((state.signals.len(), state.kills.clone()), (2, vec!["deaf".to_owned()]));
    assert!(state.sandboxes.is_empty() && state.containers.is_empty());
    assert!(bench.api.get(POD).is_some(), "objects stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_sandbox_is_replaced() {
    let mut bench = Bench::new();
    bench.pod(web());
    bench.ready().await;
    let old = bench.runtime.running("web").unwrap().0.sandbox_id;
    bench.runtime.stop_sandbox(&old).await.unwrap();
    let new =
        until("a new sandbox runs it", || bench.runtime.running("web").filter(|c| c.0.sandbox_id != old))
            .await;
    assert_eq!((new.0.attempt, new.0.state), (1, ContainerState::Running));
    bench.ready().await;
    bench.delete(30);
    bench.withdraw();
    bench.gone().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_past_its_deadline_fails() {
    let mut bench = Bench::new();
    bench.pod(json!({"nodeName": "node-1", "activeDeadlineSeconds": 1, "containers": [{"name": "web", "image": "web:1"}]}));
    bench.ready().await;
    until("failed", || (bench.api.get(POD)?["status"]["phase"] == "Failed").then_some(())).await;
    assert_eq!(bench.api.get(POD).unwrap()["status"]["reason"], "DeadlineExceeded");
    assert!(bench.runtime.running("web").is_none());
    assert_eq!(bench.runtime.state.lock().starts["web"], 1);
    bench.stop().await;
}
