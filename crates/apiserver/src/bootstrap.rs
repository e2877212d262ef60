//! What a cluster has from the beginning: its namespaces, the Service `kubernetes`, and the class of its ingress.
//!
//! Level, not edge: each start makes what is missing and corrects what names another address.

use hitless_types::{
    kinds::{self, Kind},
    well_known,
};
use serde_json::{Value, json};

use crate::{
    admission::NAMESPACES_KEPT,
    auth::Identity,
    codec::{self, text},
    core::Core,
    fault::Fault,
    nodeport, read,
    route::Place,
    strategy::Part,
    write::{self, How},
};

fn kind(group: &str, version: &str, plural: &str) -> Result<&'static Kind, Fault> {
    kinds::by_path(group, version, plural)
        .ok_or_else(|| Fault::internal(format!("there is no kind for {plural}")))
}

/// Makes what is missing.
pub(crate) async fn run(core: &Core) -> Result<(), Fault> {
    claim_addresses(core).await?;
    let namespaces = kind("", "v1", "namespaces")?;
    for name in NAMESPACES_KEPT.into_iter().chain([hitless_types::well_known::NAMESPACE_NODE_LEASE]) {
        ensure(core, namespaces, "", json!({"metadata": {"name": name}})).await?;
    }
    ingress_class(core).await?;
    dns_service(core).await;
    kubernetes_service(core).await
}

/// The class of the ingress that each node runs, and of Ingresses that name none.
async fn ingress_class(core: &Core) -> Result<(), Fault> {
    let class = json!({
        "metadata": {"name": "hitless", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
        "spec": {"controller": "hitless.dev/ingress"},
    });
    ensure(core, kind("networking.k8s.io", "v1", "ingressclasses")?, "", class).await
}

/// The Service by which users know the cluster's DNS. Each node answers on its address by itself, so it has no endpoints, and the
/// standard label keeps the service proxy from refusing what comes for it.
async fn dns_service(core: &Core) {
    let Some(address) = core.options.cluster_dns else { return };
    let ip = address.to_string();
    let service = json!({
        "metadata": {
            "name": "kube-dns",
            "labels": {
                "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
                well_known::LABEL_SERVICE_PROXY_NAME: "hitless-dns",
            },
        },
        "spec": {
            "clusterIP": ip,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    });
    let made = match kind("", "v1", "services") {
        Ok(services) => ensure(core, services, "kube-system", service).await,
        Err(fault) => Err(fault),
    };
    // Names are answered without it; a store of before may have given its address to another Service.
    if let Err(fault) = made {
        tracing::warn!(%ip, fault = fault.message(), "the Service kube-system/kube-dns cannot be made");
    }
}

/// Notes the addresses and node ports that stored Services hold.
async fn claim_addresses(core: &Core) -> Result<(), Fault> {
    for service in read::all(core, kind("", "v1", "services")?, "").await? {
        for port in nodeport::held(&service) {
            if let Err(error) = core.node_ports.take(port, text(&service, "/metadata/uid")) {
                let name = text(&service, "/metadata/name");
                tracing::warn!(service = name, port, %error, "the Service keeps a node port that cannot be its own");
            }
        }
        let ip = text(&service, "/spec/clusterIP");
        if ip.is_empty() || ip == "None" {
            continue;
        }
        if let Err(error) = core.cluster_ips.take(ip, text(&service, "/metadata/uid")) {
            let name = text(&service, "/metadata/name");
            tracing::warn!(service = name, %error, "the Service keeps a cluster IP that cannot be its own");
        }
    }
    Ok(())
}

async fn kubernetes_service(core: &Core) -> Result<(), Fault> {
    let Some(address) = core.options.advertise else { return Ok(()) };
    let (ip, port) = (address.ip().to_string(), address.port());
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {
            "clusterIP": core.cluster_ips.first().to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    });
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": ip}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    });
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    ensure(core, kind("", "v1", "services")?, "default", service).await?;
    ensure(core, kind("", "v1", "endpoints")?, "default", endpoints).await?;
    ensure(core, kind("discovery.k8s.io", "v1", "endpointslices")?, "default", slice).await
}

/// Makes the object, or gives an existing one the wanted content (a namespace stays as it is).
async fn ensure(core: &Core, kind: &'static Kind, namespace: &str, object: Value) -> Result<(), Fault> {
    let identity = Identity::master("system:apiserver");
    let how = How::server(&identity);
    let place = Place::object(kind, namespace, text(&object, "/metadata/name"));
    if core.load(kind, namespace, &place.name).await?.is_none() {
        write::create(core, &place, object, &how).await?;
        return Ok(());
    }
    let change = |old: &Value| {
        let mut new = old.clone();
        let fields = object.as_object().into_iter().flatten();
        for (field, value) in
            fields.filter(|(field, _)| !matches!(field.as_str(), "metadata" | "kind" | "apiVersion"))
        {
            let held = codec::as_map(&mut new).entry(field.clone()).or_insert(Value::Null);
            hitless_types::patch::merge_patch(held, value);
        }
        Ok(new)
    };
    write::update(core, &place, Part::Main, &how, change).await.map(drop)
}
