//! What the server itself adds to objects or refuses, as Kubernetes' built-in admission does: NamespaceLifecycle,
//! ServiceAccount, DefaultTolerationSeconds, Priority, DefaultIngressClass, cluster IPs and node ports.

mod service_account;

use hitless_types::{
    field::FieldError,
    kinds::{self, Kind, Scope, ingress},
    well_known,
};
use serde_json::{Map, Value, json};

use crate::{
    codec::{child_mut, is_terminating, metadata_child_mut, text},
    core::Core,
    fault::Fault,
    nodeport, read,
};

/// The namespaces that cannot be deleted.
pub(crate) const NAMESPACES_KEPT: [&str; 3] = ["default", "kube-system", "kube-public"];

fn is(kind: &Kind, plural: &str) -> bool {
    kind.group.is_empty() && kind.plural == plural
}

/// NamespaceLifecycle: nothing new where there is no namespace, or where it is going.
///
/// # Errors
/// 404 or 403.
pub(crate) async fn check_namespace(
    core: &Core,
    kind: &Kind,
    namespace: &str,
    name: &str,
) -> Result<(), Fault> {
    if kind.scope == Scope::Cluster {
        return Ok(());
    }
    let namespaces = kinds::by_path("", "v1", "namespaces").ok_or_else(Fault::no_resource)?;
    let Some((_, object)) = core.load(namespaces, "", namespace).await? else {
        return Err(Fault::not_found(namespaces, namespace));
    };
    if is_terminating(&object) {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let cause = format!("namespace {namespace} is being terminated");
        return Err(Fault::forbidden(kind, name, &why).cause("NamespaceTerminating", &cause));
    }
    Ok(())
}

/// Adds what a new object gets from the server.
///
/// # Errors
/// 403 for a Pod that names a ServiceAccount that is not there.
pub(crate) async fn on_create(core: &Core, kind: &Kind, object: &mut Value) -> Result<(), Fault> {
    if is(kind, "pods") {
        let namespace = text(object, "/metadata/namespace").to_owned();
        let name = text(object, "/metadata/name").to_owned();
        let spec = child_mut(object, "spec");
        default_tolerations(spec);
        default_priority(spec);
        let account = account_name(spec);
        let account = find_account(core, kind, &namespace, &name, &account).await?;
        service_account::mount(child_mut(object, "spec"), &account, core.options.token_key.is_some());
    }
    if kind.group == ingress::GROUP && kind.kind == "Ingress" {
        default_ingress_class(core, object).await?;
    }
    if is(kind, "namespaces") {
        let name = text(object, "/metadata/name").to_owned();
        metadata_child_mut(object, "labels").insert("kubernetes.io/metadata.name".into(), name.into());
        child_mut(object, "spec").insert("finalizers".into(), json!(["kubernetes"]));
    }
    Ok(())
}

fn default_tolerations(spec: &mut Map<String, Value>) {
    let list = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Value::Array(tolerations) = list else { return };
    for taint in [well_known::TAINT_NOT_READY, well_known::TAINT_UNREACHABLE] {
        let covers = |t: &Value| {
            let key = text(t, "/key");
            (key == taint || key.is_empty()) && matches!(text(t, "/effect"), "" | "NoExecute")
        };
        if !tolerations.iter().any(covers) {
            tolerations.push(json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
            }));
        }
    }
}

fn default_priority(spec: &mut Map<String, Value>) {
    spec.entry("priority").or_insert_with(|| 0.into());
    spec.entry("preemptionPolicy").or_insert_with(|| "PreemptLowerPriority".into());
}

fn account_name(spec: &mut Map<String, Value>) -> String {
    let named = |field: &str| spec.get(field).and_then(Value::as_str).filter(|n| !n.is_empty());
    let name =
        named("serviceAccountName").or_else(|| named("serviceAccount")).unwrap_or("default").to_owned();
    for field in ["serviceAccountName", "serviceAccount"] {
        spec.insert(field.into(), name.clone().into());
    }
    name
}

/// `default` need not be there: it comes with its namespace, if a moment later.
async fn find_account(
    core: &Core,
    kind: &Kind,
    namespace: &str,
    pod: &str,
    account: &str,
) -> Result<Value, Fault> {
    let accounts = kinds::by_path("", "v1", "serviceaccounts").ok_or_else(Fault::no_resource)?;
    if let Some((_, object)) = core.load(accounts, namespace, account).await? {
        return Ok(object);
    }
    if account == "default" {
        return Ok(json!({}));
    }
    let why = format!(
        "error looking up service account {namespace}/{account}: serviceaccount {account:?} not found"
    );
    Err(Fault::forbidden(kind, pod, &why))
}

/// DefaultIngressClass: an Ingress that names no class gets the default one, of several the newest.
async fn default_ingress_class(core: &Core, object: &mut Value) -> Result<(), Fault> {
    let annotated = object.pointer("/metadata/annotations").and_then(|a| a.get(ingress::ANNOTATION_CLASS));
    if annotated.is_some() || object.pointer("/spec/ingressClassName").is_some_and(|class| !class.is_null()) {
        return Ok(());
    }
    let Some(classes) = kinds::by_path(ingress::GROUP, "v1", "ingressclasses") else { return Ok(()) };
    let is_default = |class: &Value| {
        let annotations = class.pointer("/metadata/annotations");
        annotations.and_then(|a| a.get(ingress::ANNOTATION_DEFAULT_CLASS)).is_some_and(|v| v == "true")
    };
    let mut all = read::all(core, classes, "").await?;
    all.retain(is_default);
    let born = |class: &Value| text(class, "/metadata/creationTimestamp").to_owned();
    // The newest; of those of the same second the first by name.
    let newest = all
        .iter()
        .min_by_key(|class| (std::cmp::Reverse(born(class)), text(class, "/metadata/name").to_owned()));
    if let Some(class) = newest {
        let name = text(class, "/metadata/name");
        child_mut(object, "spec").insert("ingressClassName".into(), name.into());
    }
    Ok(())
}

/// A cluster IP that was taken for a write. Given back when dropped, unless the write was done.
struct Reservation<'c> {
    core: &'c Core,
    ip: String,
    uid: String,
    kept: bool,
}

impl Reservation<'_> {
    /// The write was done.
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.core.cluster_ips.give_back(&self.ip, &self.uid);
        }
    }
}

/// What was taken for a write of a Service. Given back when dropped, unless the write was done.
pub(crate) struct Reserved<'c> {
    ip: Option<Reservation<'c>>,
    ports: Option<nodeport::Taken<'c>>,
}

impl Reserved<'_> {
    /// The write was done.
    pub(crate) fn keep(self) {
        if let Some(ip) = self.ip {
            ip.keep();
        }
        if let Some(ports) = self.ports {
            ports.keep();
        }
    }
}

/// Gives a Service the cluster IP and the node ports that it needs and `old` did not have.
///
/// # Errors
/// 422 when what it names cannot be had; 500 when nothing is left.
pub(crate) fn reserve<'c>(
    core: &'c Core,
    kind: &Kind,
    old: Option<&Value>,
    new: &mut Value,
) -> Result<Option<Reserved<'c>>, Fault> {
    if !is(kind, "services") {
        return Ok(None);
    }
    let ip = reserve_cluster_ip(core, kind, old, new)?;
    let ports = nodeport::reserve(core, kind, old, new)?;
    Ok(Some(Reserved { ip, ports }))
}

/// Gives a Service its cluster IP, where it needs one and `old` had none.
///
/// # Errors
/// 422 when the wanted address cannot be had; 500 when none is left.
fn reserve_cluster_ip<'c>(
    core: &'c Core,
    kind: &Kind,
    old: Option<&Value>,
    new: &mut Value,
) -> Result<Option<Reservation<'c>>, Fault> {
    if text(new, "/spec/type") == "ExternalName" {
        return Ok(None);
    }
    let uid = text(new, "/metadata/uid").to_owned();
    let name = text(new, "/metadata/name").to_owned();
    let held = old.map(|o| text(o, "/spec/clusterIP")).unwrap_or_default();
    let wanted = text(new, "/spec/clusterIP").to_owned();
    if wanted == "None" || (!held.is_empty() && (wanted == held || held == "None")) {
        return Ok(None);
    }
    let ip = if wanted.is_empty() {
        core.cluster_ips.take_any(&uid).map_err(Fault::internal)?.to_string()
    } else {
        core.cluster_ips.take(&wanted, &uid).map_err(|error| {
            let list = json!([wanted]);
            Fault::invalid(
                kind,
                &name,
                vec![FieldError::invalid("spec.clusterIPs", list, &error.to_string())],
            )
        })?;
        wanted
    };
    let spec = child_mut(new, "spec");
    spec.insert("clusterIP".into(), ip.clone().into());
    spec.insert("clusterIPs".into(), json!([ip]));
    Ok(Some(Reservation { core, ip, uid, kept: false }))
}

/// Keeps what the server gave a Service, where the update does not mention it.
pub(crate) fn keep_allocated(kind: &Kind, old: &Value, new: &mut Value) {
    if !is(kind, "services") {
        return;
    }
    nodeport::keep_or_drop(old, new);
    let external = |object: &Value| text(object, "/spec/type") == "ExternalName";
    if external(new) {
        // A Service that becomes a name gives its address up.
        if !external(old) && text(new, "/spec/clusterIP") == text(old, "/spec/clusterIP") {
            let spec = child_mut(new, "spec");
            spec.shift_remove("clusterIP");
            spec.shift_remove("clusterIPs");
        }
        return;
    }
    if external(old) || !text(new, "/spec/clusterIP").is_empty() {
        return;
    }
    for field in ["clusterIP", "clusterIPs"] {
        if let Some(value) = old.get("spec").and_then(|s| s.get(field)) {
            child_mut(new, "spec").insert(field.into(), value.clone());
        }
    }
}

/// Gives back what an object held that is gone or has become something else.
pub(crate) fn release(core: &Core, kind: &Kind, old: &Value, new: Option<&Value>) {
    if !is(kind, "services") {
        return;
    }
    nodeport::release(core, old, new);
    let held = text(old, "/spec/clusterIP");
    if new.is_none_or(|new| text(new, "/spec/clusterIP") != held) {
        core.cluster_ips.give_back(held, text(old, "/metadata/uid"));
    }
}

/// Sets the state that goes with the beginning of a deletion.
pub(crate) fn on_terminating(kind: &Kind, object: &mut Value) {
    if is(kind, "namespaces") {
        child_mut(object, "status").insert("phase".into(), "Terminating".into());
    }
}

/// # Errors
/// 403 for what may never be deleted.
pub(crate) fn check_delete(kind: &Kind, name: &str) -> Result<(), Fault> {
    if is(kind, "namespaces") && NAMESPACES_KEPT.contains(&name) {
        return Err(Fault::forbidden(kind, name, "this namespace may not be deleted"));
    }
    Ok(())
}
