//! Discovery: which groups, versions, kinds and subresources there are, read from the table of kinds.

use std::{collections::BTreeMap, sync::OnceLock};

use axum::http::{HeaderMap, header};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use hitless_types::kinds::{self, Kind, Scope};
use serde_json::{Map, Value, json};

use crate::{
    openapi,
    subresources::{self, Subresource, VERBS},
};

/// A document that does not change while the server runs, and what its content is told apart by.
pub(crate) struct Document {
    pub(crate) body: Bytes,
    pub(crate) etag: String,
}

impl Document {
    fn new(value: &Value) -> Self {
        Self::of_bytes(Bytes::from(value.to_string()))
    }

    fn of_bytes(body: Bytes) -> Self {
        // FNV-1a: told apart, not protected.
        let hash = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self { etag: URL_SAFE_NO_PAD.encode(hash.to_be_bytes()), body }
    }
}

/// Documents made when first asked for. OpenAPI documents are large and asked for once by each client: only the index of
/// them is kept.
pub(crate) struct Documents {
    aggregated: [OnceLock<Document>; 4],
    openapi_index: OnceLock<Document>,
}

impl Documents {
    pub(crate) fn new() -> Self {
        Self { aggregated: [const { OnceLock::new() }; 4], openapi_index: OnceLock::new() }
    }

    /// `APIGroupDiscoveryList` of the core group or of all others.
    pub(crate) fn aggregated(&self, core: bool, version: AggregatedVersion) -> &Document {
        let slot = usize::from(core) + if version == AggregatedVersion::V2 { 0 } else { 2 };
        let [v2_groups, v2_core, beta_groups, beta_core] = &self.aggregated;
        let slot = match slot {
            0 => v2_groups,
            1 => v2_core,
            2 => beta_groups,
            _ => beta_core,
        };
        slot.get_or_init(|| Document::new(&aggregated(core, version)))
    }

    /// The index of OpenAPI v3 documents.
    pub(crate) fn openapi_index(&self) -> &Document {
        self.openapi_index.get_or_init(|| {
            let mut paths = Map::new();
            for (group, version) in group_versions() {
                let path = group_version_path(group, version);
                let document = Document::new(&openapi::document(group, version));
                let url = format!("/openapi/v3/{path}?hash={}", document.etag);
                paths.insert(path, json!({ "serverRelativeURL": url }));
            }
            Document::new(&json!({ "paths": paths }))
        })
    }
}

/// The OpenAPI v3 document of a group and version.
pub(crate) fn openapi_v3(group: &str, version: &str) -> Option<Document> {
    let is_known = group_versions().any(|gv| gv == (group, version));
    is_known.then(|| Document::new(&openapi::document(group, version)))
}

/// The OpenAPI v2 document, as JSON or in its protobuf encoding.
pub(crate) fn openapi_v2(protobuf: bool) -> Document {
    let document = openapi::document_v2();
    match protobuf {
        true => Document::of_bytes(openapi::to_protobuf(&document).into()),
        false => Document::new(&document),
    }
}

/// The versions of aggregated discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AggregatedVersion {
    V2,
    V2Beta1,
}

impl AggregatedVersion {
    fn word(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V2Beta1 => "v2beta1",
        }
    }

    /// The media type of the answer.
    pub(crate) fn media_type(self) -> String {
        format!("application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList", self.word())
    }

    /// The first version that the client takes before plain JSON.
    pub(crate) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(header::ACCEPT)?.to_str().ok()?;
        for clause in text.split(',') {
            let parts: Vec<&str> = clause.split(';').map(str::trim).collect();
            let aggregated =
                parts.contains(&"as=APIGroupDiscoveryList") && parts.contains(&"g=apidiscovery.k8s.io");
            match parts.as_slice() {
                _ if aggregated && parts.contains(&"v=v2") => return Some(Self::V2),
                _ if aggregated && parts.contains(&"v=v2beta1") => return Some(Self::V2Beta1),
                ["application/json", ..] if parts.len() == 1 => return None,
                _ => {}
            }
        }
        None
    }
}

/// Every group and version, the core first, each once.
pub(crate) fn group_versions() -> impl Iterator<Item = (&'static str, &'static str)> {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for kind in kinds::all() {
        if !seen.contains(&(kind.group, kind.version)) {
            seen.push((kind.group, kind.version));
        }
    }
    seen.into_iter()
}

/// `api/v1` or `apis/apps/v1`.
pub(crate) fn group_version_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

pub(crate) fn kinds_of<'g>(group: &'g str, version: &'g str) -> impl Iterator<Item = &'static Kind> + 'g {
    kinds::all().iter().filter(move |k| k.group == group && k.version == version)
}

/// `/api`
pub(crate) fn core_versions(address: Option<std::net::SocketAddr>) -> Value {
    let by_client: Vec<Value> = address
        .map(|a| json!({"clientCIDR": "0.0.0.0/0", "serverAddress": a.to_string()}))
        .into_iter()
        .collect();
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": by_client})
}

fn groups() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (group, version) in group_versions().filter(|(group, _)| !group.is_empty()) {
        groups.entry(group).or_default().push(version);
    }
    groups
}

fn group_value(name: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> =
        versions.iter().map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v})).collect();
    let preferred = versions.first().cloned().unwrap_or_default();
    json!({"name": name, "versions": versions, "preferredVersion": preferred})
}

/// `/apis`
pub(crate) fn group_list() -> Value {
    let all: Vec<Value> = groups().iter().map(|(name, versions)| group_value(name, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": all})
}

/// `/apis/GROUP`
pub(crate) fn group(name: &str) -> Option<Value> {
    let groups = groups();
    let mut value = group_value(name, groups.get(name)?);
    if let Value::Object(map) = &mut value {
        map.insert("kind".into(), "APIGroup".into());
        map.insert("apiVersion".into(), "v1".into());
    }
    Some(value)
}

/// `/api/v1`, `/apis/GROUP/VERSION`
pub(crate) fn resource_list(group: &str, version: &str) -> Option<Value> {
    let mut resources: Vec<Value> = Vec::new();
    for kind in kinds_of(group, version) {
        let namespaced = kind.scope == Scope::Namespaced;
        let mut resource = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": namespaced, "kind": kind.kind,
            "verbs": VERBS,
        });
        put_lists(&mut resource, kind);
        resources.push(resource);
        for sub in subresources::of(kind) {
            let mut resource = json!({
                "name": format!("{}/{}", kind.plural, sub.name), "singularName": "", "namespaced": namespaced,
                "kind": sub.kind, "verbs": sub.verbs,
            });
            if let (true, Value::Object(map)) = ((sub.group, sub.version) != (group, version), &mut resource)
            {
                map.insert("group".into(), sub.group.into());
                map.insert("version".into(), sub.version.into());
            }
            resources.push(resource);
        }
    }
    let shown = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    (!resources.is_empty()).then(|| {
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": shown, "resources": resources})
    })
}

fn put_lists(resource: &mut Value, kind: &Kind) {
    if let Value::Object(map) = resource {
        for (field, list) in [("shortNames", kind.short_names), ("categories", kind.categories)] {
            if !list.is_empty() {
                map.insert(field.into(), json!(list));
            }
        }
    }
}

fn aggregated(core: bool, version: AggregatedVersion) -> Value {
    let mut by_group: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (group, version) in group_versions().filter(|(group, _)| group.is_empty() == core) {
        by_group.entry(group).or_default().push(version);
    }
    let items: Vec<Value> = by_group
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> =
                versions.iter().map(|version| aggregated_version(group, version)).collect();
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{}", version.word()),
        "metadata": {}, "items": items,
    })
}

fn aggregated_version(group: &str, version: &str) -> Value {
    let resources: Vec<Value> = kinds_of(group, version)
        .map(|kind| {
            let mut resource = json!({
                "resource": kind.plural,
                "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
                "scope": if kind.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" },
                "singularResource": kind.singular,
                "verbs": VERBS,
            });
            put_lists(&mut resource, kind);
            let subs: Vec<Value> = subresources::of(kind).iter().map(aggregated_sub).collect();
            if let (false, Value::Object(map)) = (subs.is_empty(), &mut resource) {
                map.insert("subresources".into(), subs.into());
            }
            resource
        })
        .collect();
    json!({"version": version, "freshness": "Current", "resources": resources})
}

fn aggregated_sub(sub: &Subresource) -> Value {
    json!({
        "subresource": sub.name,
        "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
        "verbs": sub.verbs,
    })
}
