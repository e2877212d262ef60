//! What happens when parts are killed, and what is left afterwards.

use std::net::SocketAddr;

use hitless_drivers::{
    cri::Containerd,
    node::{self, NodeError, clean, containerd::ContainerdError, process::Identity, slots},
};
use hitless_kubelet::ports::{ContainerState, Runtime, Signal};

use crate::lab::{SOON, get, on_a_machine, run_pod, sandbox_spec, until, web_spec};

#[test]
fn containers_outlive_containerd_and_are_adopted() {
    on_a_machine("adopt", async |lab| {
        let (plan, mut nodes) = lab.cluster(1).await;
        let node = nodes.remove(0);
        let pod = run_pod(&node, sandbox_spec(&node.plan, "a"), &web_spec(&["serve"])).await;
        let target = SocketAddr::new(pod.ip, 8080);
        get(None, target);
        let first = node.containerd.identity();
        assert!(first.signal(libc::SIGKILL).unwrap());
        let second = until("another containerd", || async {
            let now = node.containerd.identity();
            (now != first && now.is_alive()).then_some(now)
        })
        .await;
        get(None, target);
        // The next engine finds this containerd and starts none.
        drop(node);
        let node = node::bring_up(&plan.nodes[0], &lab.programs, &lab.cgroups).await.unwrap();
        assert_eq!(node.containerd.identity(), second);
        let status = node.runtime.container_status(&pod.container).await.unwrap();
        assert_eq!(status.state, ContainerState::Running);
        assert!(node.runtime.signal_container(&pod.container, &Signal("TERM".into())).await.unwrap());
        assert!(node.runtime.wait_container(&pod.container, SOON).await.unwrap());
        assert_eq!(node.runtime.container_status(&pod.container).await.unwrap().exit_code, 0);
        node.containerd.stop().await.unwrap();
        assert!(!second.is_alive());
    });
}

#[test]
fn a_wait_goes_on_while_containerd_starts_again() {
    on_a_machine("wait", async |lab| {
        let (_, nodes) = lab.cluster(1).await;
        let node = &nodes[0];
        let pod = run_pod(node, sandbox_spec(&node.plan, "a"), &web_spec(&["serve"])).await;
        get(None, SocketAddr::new(pod.ip, 8080));
        // A client that knows nothing yet, as after a restart of the kubelet.
        let fresh = Containerd::connect(node.plan.socket.clone());
        node.containerd.identity().signal(libc::SIGKILL).unwrap();
        let (ended, ()) = tokio::join!(fresh.wait_container(&pod.container, SOON), async {
            until("the signal", || async {
                fresh.signal_container(&pod.container, &Signal("TERM".into())).await.ok()
            })
            .await;
        });
        assert!(ended.unwrap());
    });
}

#[test]
fn nothing_is_left_when_everything_was_killed() {
    on_a_machine("ruin", async |lab| {
        let (_, nodes) = lab.cluster(2).await;
        let mut pids: Vec<Identity> = Vec::new();
        for node in &nodes {
            let pod =
                run_pod(node, sandbox_spec(&node.plan, "a"), &web_spec(&["serve", "--on-term", "ignore"]))
                    .await;
            let status = node.runtime.container_status(&pod.container).await.unwrap();
            pids.extend(Identity::of(status.pid.unwrap()).unwrap());
            pids.push(node.containerd.identity());
        }
        let netns: Vec<_> = nodes.iter().map(|node| node.plan.netns.clone()).collect();
        let data = lab.paths.data_of(&lab.name);
        // The engine is gone from one moment to the next: nobody watches, nobody remembers.
        drop(nodes);
        let before = clean::survey(&lab.name, &lab.paths).await.unwrap();
        assert!(before.processes >= 8, "{before:?}");
        assert!(before.mounts >= 4 && before.cgroups > 6 && before.tables == 1, "{before:?}");
        assert_eq!((before.namespaces, before.links, before.left.len()), (2, 3, 0), "{before:?}");

        let report = clean::sweep(&lab.name, &lab.paths).await.unwrap();
        assert_eq!(report.left, Vec::<String>::new());
        assert_eq!((report.namespaces, report.links, report.tables), (2, 3, 1));
        lab.assert_clean().await;
        for identity in pids {
            assert!(!identity.is_alive(), "{identity:?}");
        }
        for name in netns {
            assert!(!hitless_drivers::node::netns::path(&name).exists());
        }
        assert!(
            clean::sweep(&lab.name, &lab.paths).await.unwrap().is_empty(),
            "again there is nothing to do"
        );
        assert!(data.join("node-1/containerd").exists(), "images stay");
        clean::purge(&lab.name, &lab.paths).unwrap();
        assert!(!data.exists());
    });
}

#[test]
fn a_cluster_comes_up_again_on_what_another_left() {
    on_a_machine("again", async |lab| {
        let (plan, nodes) = lab.cluster(1).await;
        run_pod(&nodes[0], sandbox_spec(&nodes[0].plan, "a"), &web_spec(&["serve"])).await;
        drop(nodes);
        clean::sweep(&lab.name, &lab.paths).await.unwrap();
        let plan_again = slots::claim(&lab.name, 1, None, &lab.paths).await.unwrap();
        assert_eq!(plan_again, plan);
        let (_, nodes) = lab.cluster(1).await;
        assert_eq!(lab.import(&nodes[0]).await, 0, "images outlive the cluster");
        // What ran before is known and does not run; it can be removed as a kubelet would.
        let runtime = &nodes[0].runtime;
        for sandbox in runtime.list_sandboxes().await.unwrap() {
            assert!(!sandbox.ready, "{sandbox:?}");
            runtime.stop_sandbox(&sandbox.id).await.unwrap();
            runtime.remove_sandbox(&sandbox.id).await.unwrap();
        }
        assert_eq!(runtime.list_containers().await.unwrap(), vec![]);
        let pod = run_pod(&nodes[0], sandbox_spec(&nodes[0].plan, "b"), &web_spec(&["serve"])).await;
        get(None, SocketAddr::new(pod.ip, 8080));
    });
}

#[test]
fn a_containerd_that_does_not_start_says_why() {
    on_a_machine("nostart", async |lab| {
        let plan = slots::claim(&lab.name, 1, None, &lab.paths).await.unwrap();
        node::prepare(&plan, &lab.programs, &lab.cgroups).await.unwrap();
        // The place of the socket is taken by a directory that cannot be removed.
        std::fs::create_dir_all(plan.nodes[0].socket.join("full")).unwrap();
        let failed = node::bring_up(&plan.nodes[0], &lab.programs, &lab.cgroups).await;
        let Err(NodeError::Containerd(error @ ContainerdError::Ended { .. })) = failed else {
            panic!("{:?}", failed.map(|node| node.took));
        };
        assert!(error.to_string().contains("is a directory"), "{error}");
        let report = clean::sweep(&lab.name, &lab.paths).await.unwrap();
        assert_eq!(report.left, Vec::<String>::new());
        lab.assert_clean().await;
    });
}
