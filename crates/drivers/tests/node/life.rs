//! The life of a container: made, reached, asked, told to stop, gone.

use std::{net::SocketAddr, time::Duration};

use hitless_kubelet::ports::{ContainerState, Runtime, RuntimeError, Signal};

use crate::lab::{SOON, get, on_a_machine, remove_pod, run_pod, sandbox_spec, until, web_spec};

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[test]
fn a_container_is_run_asked_signalled_and_removed() {
    on_a_machine("life", async |lab| {
        let (_, nodes) = lab.cluster(1).await;
        let node = &nodes[0];
        let runtime = &node.runtime;
        assert!(runtime.version().await.unwrap().starts_with("containerd://"));
        assert_eq!(lab.import(node).await, 0, "what is there is not imported again");

        let pod = run_pod(node, sandbox_spec(&node.plan, "a"), &web_spec(&["serve", "--port", "8080"])).await;
        let namespace = Some(node.plan.netns.as_str());
        assert_eq!(get(namespace, SocketAddr::new(pod.ip, 8080)), "HTTP/1.1 200 OK");

        let running = runtime.container_status(&pod.container).await.unwrap();
        assert_eq!(
            (running.state, running.sandbox_id.as_str()),
            (ContainerState::Running, pod.sandbox.as_str())
        );
        assert!(running.pid.is_some() && running.started_at.is_some() && running.finished_at.is_none());
        let pids = lab.cgroups.pids(&node.plan.pods_cgroup.child("pod-a")).unwrap();
        assert!(pids.contains(&running.pid.unwrap()), "the container is not in its Pod's cgroup");
        assert!(!runtime.wait_container(&pod.container, Duration::from_millis(20)).await.unwrap());

        let pod_container = running.id.as_str();
        let exec =
            async |command: &str, bound| runtime.exec_sync(pod_container, &words(command), bound).await;
        assert_eq!(exec("web true", SOON).await.unwrap().exit_code, 0);
        assert_eq!(exec("web exit 3", SOON).await.unwrap().exit_code, 3);
        let help = exec("/web help", SOON).await.unwrap();
        assert!(String::from_utf8_lossy(&help.stdout).contains("usage:"), "{help:?}");
        for bound in [Duration::from_millis(300), Duration::from_secs(1)] {
            let late = exec("web sleep 60", bound).await;
            assert!(matches!(late, Err(RuntimeError::Timeout { call: "ExecSync", .. })), "{late:?}");
        }
        let none = exec("/bin/sh", SOON).await;
        assert!(matches!(none, Err(RuntimeError::Failed(_))), "{none:?}");

        // The hint comes for the end of the container, and not for that of a command in it.
        runtime.changed(Duration::from_millis(200)).await;
        let before = std::time::Instant::now();
        assert_eq!(exec("web true", SOON).await.unwrap().exit_code, 0);
        runtime.changed(Duration::from_millis(300)).await;
        assert!(before.elapsed() >= Duration::from_millis(300), "a probe has woken the kubelet");
        let hint = runtime.changed(SOON);
        assert!(runtime.signal_container(pod_container, &Signal("SIGTERM".into())).await.unwrap());
        let before = std::time::Instant::now();
        hint.await;
        assert!(before.elapsed() < SOON, "no hint that the container has ended");
        assert!(runtime.wait_container(pod_container, SOON).await.unwrap());
        let ended = runtime.container_status(pod_container).await.unwrap();
        assert_eq!((ended.state, ended.exit_code, ended.pid), (ContainerState::Exited, 0, None));
        assert_eq!(ended.reason, "Completed");
        assert!(!runtime.signal_container(pod_container, &Signal("15".into())).await.unwrap());
        runtime.remove_container(pod_container).await.unwrap();
        runtime.stop_sandbox(&ended.sandbox_id).await.unwrap();
        runtime.remove_sandbox(&ended.sandbox_id).await.unwrap();
        assert_eq!(
            (runtime.list_containers().await.unwrap(), runtime.list_sandboxes().await.unwrap()),
            (vec![], vec![])
        );
    });
}

#[test]
fn what_a_container_says_is_in_its_log_and_how_it_ended_in_its_status() {
    on_a_machine("ends", async |lab| {
        let (_, nodes) = lab.cluster(1).await;
        let node = &nodes[0];
        let runtime = &node.runtime;
        let pod = run_pod(node, sandbox_spec(&node.plan, "a"), &web_spec(&["help"])).await;
        assert!(runtime.wait_container(&pod.container, SOON).await.unwrap());
        let log = until("a log", || async {
            std::fs::read_to_string(&pod.log).ok().filter(|text| text.contains("usage:"))
        })
        .await;
        let line = log.lines().find(|line| line.contains("usage:")).unwrap();
        assert_eq!(line.splitn(4, ' ').skip(1).collect::<Vec<_>>()[..2], ["stdout", "F"], "{line}");
        remove_pod(runtime, &pod).await;

        let pod = run_pod(node, sandbox_spec(&node.plan, "b"), &web_spec(&["exit", "7"])).await;
        assert!(runtime.wait_container(&pod.container, SOON).await.unwrap());
        let ended = runtime.container_status(&pod.container).await.unwrap();
        assert_eq!((ended.exit_code, ended.reason.as_str()), (7, "Error"));
        remove_pod(runtime, &pod).await;

        let pod =
            run_pod(node, sandbox_spec(&node.plan, "c"), &web_spec(&["serve", "--on-term", "ignore"])).await;
        get(Some(&node.plan.netns), SocketAddr::new(pod.ip, 8080));
        assert!(runtime.signal_container(&pod.container, &Signal("SIGTERM".into())).await.unwrap());
        assert!(!runtime.wait_container(&pod.container, Duration::from_millis(100)).await.unwrap());
        runtime.kill_container(&pod.container).await.unwrap();
        let ended = runtime.container_status(&pod.container).await.unwrap();
        assert_eq!((ended.state, ended.exit_code), (ContainerState::Exited, 137));
        remove_pod(runtime, &pod).await;
    });
}

#[test]
fn what_is_not_there_is_said_so() {
    on_a_machine("absent", async |lab| {
        let (_, nodes) = lab.cluster(1).await;
        let node = &nodes[0];
        let runtime = &node.runtime;
        let nothing = "0".repeat(64);
        assert_eq!(runtime.image_status("hitless.dev/none:1").await.unwrap(), None);
        let image = runtime.image_status(hitless_images::WEB).await.unwrap().unwrap();
        assert!(
            image.id.starts_with("sha256:") && image.size_bytes > 0 && image.stop_signal.is_empty(),
            "{image:?}"
        );
        assert!(matches!(runtime.container_status(&nothing).await, Err(RuntimeError::NotFound(_))));
        assert!(matches!(runtime.sandbox_status(&nothing).await, Err(RuntimeError::NotFound(_))));
        assert!(matches!(
            runtime.signal_container(&nothing, &Signal("TERM".into())).await,
            Err(RuntimeError::NotFound(_))
        ));
        runtime.kill_container(&nothing).await.unwrap();
        runtime.remove_container(&nothing).await.unwrap();
        runtime.stop_sandbox(&nothing).await.unwrap();
        runtime.remove_sandbox(&nothing).await.unwrap();
        assert!(runtime.wait_container(&nothing, SOON).await.unwrap());
        // Nobody listens there, and in this machine's namespace there is no way out either.
        let pulled = runtime.pull_image("127.0.0.1:1/none:1", None).await;
        assert!(
            matches!(&pulled, Err(RuntimeError::Failed(words)) if words.contains("none:1")),
            "{pulled:?}"
        );
        let spec = sandbox_spec(&node.plan, "a");
        let sandbox = runtime.run_sandbox(&spec).await.unwrap();
        let mut container = web_spec(&[]);
        container.image = "hitless.dev/none:1".into();
        let created = runtime.create_container(&sandbox, &container, &spec).await;
        assert!(
            matches!(&created, Err(RuntimeError::NotFound(what)) if what.contains("none:1")),
            "{created:?}"
        );
    });
}
