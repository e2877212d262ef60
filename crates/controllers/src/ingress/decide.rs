//! Where an Ingress is served: a pure function of the Ingress, the classes, the nodes and the consumers.

use std::{collections::BTreeSet, sync::Arc};

use hitless_types::{EndpointConsumer, meta};
use k8s_openapi::api::{
    core::v1::Node,
    networking::v1::{Ingress, IngressClass},
};

/// The controller that classes name when their Ingresses are served by the nodes' ingress.
const CONTROLLER: &str = "hitless.dev/ingress";
const ANNOTATION_CLASS: &str = "kubernetes.io/ingress.class";
const ANNOTATION_DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// The addresses that are to stand in the Ingress's status. None: they stand there already, or it is another controller's.
#[must_use]
pub fn decide(
    ingress: &Ingress,
    classes: &[Arc<IngressClass>],
    nodes: &[Arc<Node>],
    consumers: &[Arc<EndpointConsumer>],
) -> Option<BTreeSet<String>> {
    if !is_served(ingress, classes) {
        return None;
    }
    let served: BTreeSet<_> = consumers.iter().filter_map(|consumer| node_served(consumer)).collect();
    let on = |node: &&Arc<Node>| node.metadata.name.as_deref().is_some_and(|name| served.contains(name));
    let wanted: BTreeSet<_> = nodes.iter().filter(on).filter_map(|node| address(node)).collect();
    (present(ingress) != wanted).then_some(wanted)
}

/// Whether the nodes' ingress serves it: by its class, or, if it names none, because that class is the default.
fn is_served(ingress: &Ingress, classes: &[Arc<IngressClass>]) -> bool {
    let named = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    let named = named.or_else(|| meta::annotation(&ingress.metadata, ANNOTATION_CLASS));
    classes.iter().any(|class| {
        let ours = class.spec.as_ref().and_then(|spec| spec.controller.as_deref()) == Some(CONTROLLER);
        let default = || meta::annotation(&class.metadata, ANNOTATION_DEFAULT_CLASS) == Some("true");
        ours && named.map_or_else(default, |named| class.metadata.name.as_deref() == Some(named))
    })
}

/// The node whose ingress the consumer is, if it is one.
#[must_use]
pub fn node_served(consumer: &EndpointConsumer) -> Option<&str> {
    consumer.spec.node_name.as_deref().filter(|_| consumer.spec.type_ == "Ingress")
}

/// The address of a Ready node.
#[must_use]
pub fn address(node: &Node) -> Option<String> {
    let status = node.status.as_ref()?;
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let internal = status.addresses.iter().flatten().find(|address| address.type_ == "InternalIP")?;
    ready.then(|| internal.address.clone())
}

fn present(ingress: &Ingress) -> BTreeSet<String> {
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let entries = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    entries.filter_map(|entry| entry.ip.clone()).collect()
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn object<K: DeserializeOwned>(value: Value) -> Arc<K> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn ingress(class: Option<&str>, ips: &[&str]) -> Arc<Ingress> {
        let ips: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        object(json!({"metadata": {"name": "i"}, "spec": {"ingressClassName": class},
            "status": {"loadBalancer": {"ingress": ips}}}))
    }

    fn class(name: &str, controller: &str, default: bool) -> Arc<IngressClass> {
        let annotations = json!({ANNOTATION_DEFAULT_CLASS: default.to_string()});
        object(
            json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"controller": controller}}),
        )
    }

    fn node(name: &str, ip: &str, ready: &str) -> Arc<Node> {
        object(json!({"metadata": {"name": name}, "status": {
            "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip}],
            "conditions": [{"type": "Ready", "status": ready}]}}))
    }

    fn consumer(type_: &str, node: &str) -> Arc<EndpointConsumer> {
        object(
            json!({"metadata": {"name": format!("{type_}-{node}")}, "spec": {"type": type_, "nodeName": node}}),
        )
    }

    #[test]
    fn an_ingress_is_served_where_a_ready_node_has_a_registered_one() {
        let classes = [class("hitless", CONTROLLER, true), class("nginx", "k8s.io/ingress-nginx", false)];
        let nodes = [
            node("n1", "10.0.0.1", "True"),
            node("n2", "10.0.0.2", "False"),
            node("n3", "10.0.0.3", "True"),
            node("n4", "10.0.0.4", "True"),
        ];
        let consumers = [
            consumer("Ingress", "n1"),
            consumer("Ingress", "n2"),
            consumer("ServiceProxy", "n3"),
            consumer("Ingress", "n4"),
        ];
        let decided = |ingress: &Ingress| {
            decide(ingress, &classes, &nodes, &consumers)
                .map(|all| all.into_iter().collect::<Vec<_>>().join(" "))
        };
        assert_eq!(decided(&ingress(Some("hitless"), &[])).as_deref(), Some("10.0.0.1 10.0.0.4"));
        assert_eq!(
            decided(&ingress(None, &["10.0.0.1"])).as_deref(),
            Some("10.0.0.1 10.0.0.4"),
            "the default class"
        );
        assert_eq!(decided(&ingress(None, &["10.0.0.4", "10.0.0.1"])), None, "as it should be");
        assert_eq!(decided(&ingress(Some("nginx"), &["1.2.3.4"])), None, "another controller's");
        assert_eq!(decided(&ingress(Some("none"), &[])), None);
        let gone = decide(&ingress(None, &["10.0.0.1"]), &classes, &nodes, &[]);
        assert_eq!(gone, Some(BTreeSet::new()), "served nowhere any more");
    }
}
