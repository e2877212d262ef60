//! The network of nodes and Pods.

use std::net::SocketAddr;

use hitless_drivers::node::{
    links::{self, LinksError},
    netns,
    plan::ClusterPlan,
};
use hitless_kubelet::ports::{PortMapping, Runtime};

use crate::lab::{get, on_a_machine, run_pod, sandbox_spec, web_spec};

const OK: &str = "HTTP/1.1 200 OK";

#[test]
fn pods_nodes_and_the_machine_reach_each_other() {
    on_a_machine("network", async |lab| {
        let (_, nodes) = lab.cluster(2).await;
        let [first, second] = &nodes[..] else { panic!() };
        let server = web_spec(&["serve", "--port", "8080"]);
        let one = run_pod(first, sandbox_spec(&first.plan, "one"), &server).await;
        let two = run_pod(second, sandbox_spec(&second.plan, "two"), &server).await;
        for (pod, node) in [(&one, first), (&two, second)] {
            assert!(
                matches!(pod.ip, std::net::IpAddr::V4(ip) if node.plan.pod_cidr.contains(&ip)),
                "{}",
                pod.ip
            );
        }
        let target = SocketAddr::new(two.ip, 8080);
        assert_eq!(get(None, target), OK, "from the machine");
        assert_eq!(get(Some(&first.plan.netns), target), OK, "from the other node");
        // From a Pod to a Pod of the other node: the program in the image is its own client.
        let load = format!("web load --target {target} --mode new --rate 50 --duration 0.2");
        let command: Vec<_> = load.split(' ').map(str::to_owned).collect();
        let loaded = first.runtime.exec_sync(&one.container, &command, crate::lab::SOON).await.unwrap();
        assert_eq!(loaded.exit_code, 0, "{}", String::from_utf8_lossy(&loaded.stderr));
        let said = String::from_utf8_lossy(&loaded.stdout);
        assert!(said.contains("\"failed\":0") || said.contains("\"failed\": 0"), "{said}");
    });
}

#[test]
fn a_pod_may_use_the_nodes_network_or_one_of_its_ports() {
    on_a_machine("ports", async |lab| {
        let (_, nodes) = lab.cluster(1).await;
        let node = &nodes[0];
        let mut host = sandbox_spec(&node.plan, "host");
        (host.host_network, host.hostname) = (true, String::new());
        run_pod(node, host, &web_spec(&["serve", "--port", "7001"])).await;
        assert_eq!(get(None, SocketAddr::new(node.plan.address.into(), 7001)), OK);
        let mut mapped = sandbox_spec(&node.plan, "mapped");
        mapped.port_mappings = vec![PortMapping {
            protocol: "TCP".into(),
            container_port: 8080,
            host_port: 7002,
            ..Default::default()
        }];
        run_pod(node, mapped, &web_spec(&["serve", "--port", "8080"])).await;
        assert_eq!(get(None, SocketAddr::new(node.plan.address.into(), 7002)), OK);
        assert_eq!(node.runtime.list_sandboxes().await.unwrap().len(), 2);
    });
}

#[test]
fn addresses_that_the_machine_uses_are_refused() {
    on_a_machine("overlap", async |lab| {
        let (plan, _) = lab.cluster(1).await;
        links::check_free(&plan).await.unwrap();
        let other = ClusterPlan::new("other", plan.slot + 1, 1, &lab.paths).unwrap();
        links::check_free(&other).await.unwrap();
        // The node's own address lies in the slot's range: seen from there, the slot is taken by others.
        let node = plan.nodes[0].netns.clone();
        let seen = tokio::task::spawn_blocking(move || {
            netns::inside(&node, || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(links::check_free(&plan))
            })
        });
        let error = seen.await.unwrap().unwrap().unwrap_err();
        assert!(matches!(error, LinksError::Overlap { slot: 0, .. }), "{error}");
        assert!(error.to_string().contains("on eth0: choose another slot"), "{error}");
    });
}
