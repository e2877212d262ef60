//! What a cluster has from the beginning: its namespaces, the Service `kubernetes`, the class of its ingress, and the CA in
//! each namespace.
//!
//! Level, not edge: each start makes what is missing and corrects what names another address.

use hitless_store::{Op, Precondition};
use hitless_types::kinds::{self, Kind};
use serde_json::{Value, json};

use crate::{
    admission::NAMESPACES_KEPT,
    auth::Identity,
    codec::{self, text},
    core::Core,
    fault::Fault,
    read,
    route::{self, Place},
    strategy::{self, Part},
    write::{self, How},
};

const CA_CONFIG_MAP: &str = "kube-root-ca.crt";

fn kind(group: &str, version: &str, plural: &str) -> Result<&'static Kind, Fault> {
    kinds::by_path(group, version, plural)
        .ok_or_else(|| Fault::internal(format!("there is no kind for {plural}")))
}

/// What is stored in the same commit as a new namespace: the ConfigMap with the cluster's CA.
pub(crate) fn companions(core: &Core, of: &Kind, name: &str) -> Result<Option<Op>, Fault> {
    if !of.group.is_empty() || of.plural != "namespaces" || core.options.ca_pem.is_empty() {
        return Ok(None);
    }
    let config_maps = kind("", "v1", "configmaps")?;
    let mut object = ca_config_map(core);
    strategy::prepare_create(config_maps, name, &mut object, core.now())?;
    let key = route::key(config_maps, name, CA_CONFIG_MAP);
    let value = codec::encode(config_maps, &object)?;
    Ok(Some(Op::Put { key: key.into(), value, expect: Precondition::None }))
}

fn ca_config_map(core: &Core) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": CA_CONFIG_MAP,
            "annotations": {
                "kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when \
                    using internal endpoints such as the internal service IP or kubernetes.default.svc.",
            },
        },
        "data": {"ca.crt": core.options.ca_pem},
    })
}

/// Makes what is missing.
pub(crate) async fn run(core: &Core) -> Result<(), Fault> {
    claim_cluster_ips(core).await?;
    let namespaces = kind("", "v1", "namespaces")?;
    for name in NAMESPACES_KEPT.into_iter().chain([hitless_types::well_known::NAMESPACE_NODE_LEASE]) {
        ensure(core, namespaces, "", json!({"metadata": {"name": name}})).await?;
    }
    if !core.options.ca_pem.is_empty() {
        let config_maps = kind("", "v1", "configmaps")?;
        for namespace in read::all(core, namespaces, "").await? {
            if !codec::is_terminating(&namespace) {
                ensure(core, config_maps, text(&namespace, "/metadata/name"), ca_config_map(core)).await?;
            }
        }
    }
    ingress_class(core).await?;
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

/// Notes the addresses that stored Services hold.
async fn claim_cluster_ips(core: &Core) -> Result<(), Fault> {
    for service in read::all(core, kind("", "v1", "services")?, "").await? {
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
