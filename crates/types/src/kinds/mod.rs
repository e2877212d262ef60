//! The table of kinds: everything that the API server must know of a kind is one row here.
//!
//! A new kind is a new row (see `docs/new-kind.md`), never new machinery. The API server, discovery,
//! OpenAPI, tables and field selectors all read this table and hold no list of their own.

mod config;
mod consumer;
mod endpoints;
mod event;
pub mod ingress;
mod meta;
mod namespace;
mod node;
mod pdb;
pub mod pod;
mod service;
mod typecheck;
mod workloads;

use hitless_base::Timestamp;
use serde_json::Value;

use crate::{field::FieldError, names};

pub use meta::validate_meta;

/// Whether objects live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One for the cluster.
    Cluster,
    /// Inside a namespace.
    Namespaced,
}

/// A column of `kubectl get`'s table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Header, as Kubernetes spells it.
    pub name: &'static str,
    /// `string`, `integer`, `date`.
    pub type_: &'static str,
    /// `name` for the first column, else empty.
    pub format: &'static str,
    /// 0: always; 1: only with `-o wide`.
    pub priority: i32,
    /// One line for people.
    pub description: &'static str,
}

/// Why a body is not an object of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeError {
    /// The decoder's words, in the form in which Kubernetes gives them.
    ///
    /// The whole sentence: `Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal ...`.
    pub message: String,
}

/// A body that passed its type.
#[derive(Clone, Debug, PartialEq)]
pub struct Typed {
    /// The object, holding only known fields.
    pub object: Value,
    /// Paths of unknown fields, as `spec.replicsa`; for fieldValidation Strict and Warn.
    pub unknown: Vec<String>,
}

/// One row of the table.
pub struct Kind {
    /// API group; empty for core.
    pub group: &'static str,
    /// `v1`.
    pub version: &'static str,
    /// `Pod`.
    pub kind: &'static str,
    /// `pods`.
    pub plural: &'static str,
    /// `pod`.
    pub singular: &'static str,
    /// `po`.
    pub short_names: &'static [&'static str],
    /// `all`.
    pub categories: &'static [&'static str],
    /// Cluster or namespace.
    pub scope: Scope,
    /// Whether `/status` exists: then spec and status are written apart.
    pub status: bool,
    /// Status lives in memory only (see ARCHITECTURE.md).
    pub volatile_status: bool,
    /// Whether `/scale` exists (spec.replicas, status.replicas, status.selector).
    pub scale: bool,
    /// Whether metadata.generation counts changes of spec.
    pub generation: bool,
    /// Whether deletion is graceful (Pods).
    pub graceful: bool,
    /// Fills what the user left out.
    pub default: fn(&mut Value),
    /// What is wrong with the new object; `old` is given on update. Metadata is checked by the caller for all kinds alike.
    pub validate: fn(new: &Value, old: Option<&Value>) -> Vec<FieldError>,
    /// Through the kind's type: wrong types are refused, unknown fields found.
    pub typecheck: fn(&Value) -> Result<Typed, TypeError>,
    /// Columns of its table.
    pub columns: &'static [Column],
    /// Cells for those columns, in order; one for each, also for the wide ones.
    pub cells: fn(&Value, now: Timestamp) -> Vec<Value>,
    /// Fields that a field selector may name beyond metadata.name and metadata.namespace.
    pub fields: &'static [&'static str],
    /// What is wrong with a name of this kind, in Kubernetes' words; see [`names`].
    pub name_faults: fn(&str) -> Vec<String>,
    /// The status that a new object starts with, whatever its author sent; `None`: no status field. A Node keeps
    /// its own, because a kubelet registers with it.
    pub initial_status: fn(&Value) -> Option<Value>,
    /// Set where the kind is another view of objects that are stored as a different kind.
    pub stored_as: Option<&'static StoredAs>,
}

/// How a kind that is only a view (events.k8s.io) maps to the kind whose objects it shows.
pub struct StoredAs {
    /// `apiVersion` of the stored kind.
    pub api_version: &'static str,
    /// Kind of the stored kind, as [`by_gvk`] takes it.
    pub kind: &'static str,
    /// From this view to the stored form.
    pub to_stored: fn(&Value) -> Value,
    /// From the stored form to this view.
    pub from_stored: fn(&Value) -> Value,
}

/// What most rows share; each row states the rest.
const ROW: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    status: false,
    volatile_status: false,
    scale: false,
    generation: false,
    graceful: false,
    default: |_| {},
    validate: |_, _| Vec::new(),
    typecheck: |_| Err(TypeError { message: String::new() }),
    columns: &[],
    cells: |_, _| Vec::new(),
    fields: &[],
    name_faults: names::dns1123_subdomain_faults,
    initial_status: |_| None,
    stored_as: None,
};

impl Kind {
    /// `v1` or `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Whether the kind is Kubernetes' own: strategic merge patches are for these only.
    #[must_use]
    pub fn is_native(&self) -> bool {
        self.group != crate::well_known::GROUP
    }

    /// `pods` or `deployments.apps`, as Kubernetes' errors name it.
    #[must_use]
    pub fn qualified_plural(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// Every kind.
#[must_use]
pub fn all() -> &'static [Kind] {
    TABLE
}

/// The kind behind a URL's group, version and plural.
#[must_use]
pub fn by_path(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    TABLE.iter().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// The kind of an object's `apiVersion` and `kind`.
#[must_use]
pub fn by_gvk(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    TABLE.iter().find(|k| k.group == group && k.version == version && k.kind == kind)
}

static TABLE: &[Kind] = &[
    config::CONFIG_MAP,
    endpoints::ENDPOINTS,
    event::CORE_EVENT,
    namespace::NAMESPACE,
    node::NODE,
    pod::POD,
    config::SECRET,
    config::SERVICE_ACCOUNT,
    service::SERVICE,
    workloads::DEPLOYMENT,
    workloads::REPLICA_SET,
    node::LEASE,
    endpoints::ENDPOINT_SLICE,
    event::EVENT,
    ingress::INGRESS,
    ingress::INGRESS_CLASS,
    pdb::POD_DISRUPTION_BUDGET,
    consumer::ENDPOINT_CONSUMER,
];

/// A column that is always shown.
const fn column(name: &'static str, type_: &'static str, description: &'static str) -> Column {
    Column { name, type_, format: "", priority: 0, description }
}

/// A column of `-o wide`.
const fn wide(name: &'static str, type_: &'static str, description: &'static str) -> Column {
    Column { name, type_, format: "", priority: 1, description }
}

const NAME: Column = Column {
    name: "Name",
    type_: "string",
    format: "name",
    priority: 0,
    description: "Name is unique within a namespace and cannot be changed once the object exists.",
};

const AGE: Column = column("Age", "string", "Time since the object was created.");

#[cfg(test)]
mod tests;
