//! What becomes of an object on its way in: its type, its metadata, its parts. Pure; `write` does the rest.

use hitless_base::Timestamp;
use hitless_types::{
    field::FieldError,
    kinds::{self, Kind, Scope},
    well_known,
};
use rand::Rng;
use serde_json::{Map, Value};

use crate::{
    codec::{metadata_child_mut, metadata_mut, text},
    core::{micros_text, seconds_text},
    fault::Fault,
    query::Query,
};

/// What to do with fields that the kind does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    /// Reads `fieldValidation`; `Warn` where it is absent.
    ///
    /// # Errors
    /// 422 for another word.
    pub(crate) fn from_query(query: &Query) -> Result<Self, Fault> {
        match query.get("fieldValidation") {
            None | Some("Warn") => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => Err(Fault::invalid_options(
                "CreateOptions",
                &format!(
                    "fieldValidation: Unsupported value: {other:?}: supported values: \"\", \"Ignore\", \
                     \"Strict\", \"Warn\""
                ),
            )),
        }
    }
}

/// Which parts of an object an update may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status.
    Main,
    /// The status alone.
    Status,
    /// All: the server's own changes.
    Whole,
}

/// An object that passed its type, and what its author should be told.
pub(crate) struct Checked {
    pub(crate) object: Value,
    pub(crate) warnings: Vec<String>,
}

/// Takes a body through its kind's type.
///
/// # Errors
/// 400 for another kind's object, wrong types, or (Strict) unknown fields.
pub(crate) fn typecheck(kind: &Kind, mut raw: Value, validation: FieldValidation) -> Result<Checked, Fault> {
    let api_version = kind.api_version();
    let Value::Object(map) = &mut raw else {
        let what = json_kind(&raw);
        return Err(Fault::bad_request(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {what} into Go value of type struct"
        )));
    };
    for (field, wanted) in [("apiVersion", api_version.as_str()), ("kind", kind.kind)] {
        match map.get(field) {
            None | Some(Value::Null) => drop(map.insert(field.into(), wanted.into())),
            Some(Value::String(found)) if found == wanted => {}
            Some(Value::String(found)) if found.is_empty() => drop(map.insert(field.into(), wanted.into())),
            Some(found) => {
                let found = found.as_str().unwrap_or_default();
                return Err(Fault::bad_request(if field == "kind" {
                    format!(
                        "the object provided is unrecognized (must be of type {}): it is a {found}",
                        kind.kind
                    )
                } else {
                    format!(
                        "the API version in the data ({found}) does not match the expected API version ({wanted})"
                    )
                }));
            }
        }
    }
    let typed = (kind.typecheck)(&raw).map_err(|e| Fault::bad_request(e.message))?;
    let unknown = || typed.unknown.iter().map(|path| format!("unknown field {path:?}"));
    let warnings = match validation {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => unknown().collect(),
        FieldValidation::Strict if typed.unknown.is_empty() => Vec::new(),
        FieldValidation::Strict => {
            let list = unknown().collect::<Vec<_>>().join(", ");
            return Err(Fault::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}: strict decoding error: {list}",
                kind.kind, kind.version, kind.kind
            )));
        }
    };
    Ok(Checked { object: typed.object, warnings })
}

fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null | Value::Object(_) => "object",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
    }
}

/// Sets what the server sets on a new object: names, uid, times, the first generation, the first status.
///
/// # Errors
/// 400 when the object says another namespace than the path, or a resourceVersion.
pub(crate) fn prepare_create(
    kind: &Kind,
    namespace: &str,
    object: &mut Value,
    now: Timestamp,
) -> Result<(), Fault> {
    let given = text(object, "/metadata/namespace").to_owned();
    if !given.is_empty() && given != namespace {
        return Err(Fault::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if !matches!(text(object, "/metadata/resourceVersion"), "" | "0") {
        return Err(Fault::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let meta = metadata_mut(object);
    for field in
        ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "generation"]
    {
        meta.shift_remove(field);
    }
    if kind.scope == Scope::Namespaced {
        meta.insert("namespace".into(), namespace.into());
    }
    name_it(meta);
    meta.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    meta.insert("creationTimestamp".into(), seconds_text(now).into());
    if kind.generation {
        meta.insert("generation".into(), 1.into());
    }
    if kind.graceful {
        let annotations = metadata_child_mut(object, "annotations");
        annotations.insert(well_known::ANNOTATION_CREATED_AT.into(), micros_text(now).into());
    }
    if kind.status {
        let initial = (kind.initial_status)(object);
        if let Value::Object(map) = object {
            map.shift_remove("status");
            if let Some(initial) = initial {
                map.insert("status".into(), initial);
            }
        }
    }
    Ok(())
}

/// Letters and digits that cannot be mistaken for each other or make words, as Kubernetes has them.
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LEN: usize = 5;
const GENERATED_LEN_MAX: usize = 63;

/// Makes a name from `generateName`, where there is no name.
fn name_it(meta: &mut Map<String, Value>) {
    let is_named = meta.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    let stem = meta.get("generateName").and_then(Value::as_str).unwrap_or_default();
    if is_named || stem.is_empty() {
        return;
    }
    let stem: String = stem.chars().take(GENERATED_LEN_MAX - SUFFIX_LEN).collect();
    meta.insert("name".into(), format!("{stem}{}", random_suffix()).into());
}

/// The end of a generated name.
pub(crate) fn random_suffix() -> String {
    let mut random = rand::rng();
    let letter = |i: usize| SUFFIX_LETTERS.get(i).copied().map_or('x', char::from);
    (0..SUFFIX_LEN).map(|_| letter(random.random_range(0..SUFFIX_LETTERS.len()))).collect()
}

/// Everything that can be wrong with an object.
///
/// # Errors
/// 422 with every fault.
pub(crate) fn validate(kind: &Kind, new: &Value, old: Option<&Value>) -> Result<(), Fault> {
    let mut faults: Vec<FieldError> = kinds::validate_meta(kind, new, old);
    faults.extend((kind.validate)(new, old));
    if faults.is_empty() {
        return Ok(());
    }
    let name = match text(new, "/metadata/name") {
        "" => text(new, "/metadata/generateName"),
        name => name,
    };
    Err(Fault::invalid(kind, name, faults))
}

/// What a client can never change.
const SERVER_METADATA: [&str; 5] =
    ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"];

/// Puts into `new` whatever this update may not change.
pub(crate) fn prepare_update(kind: &Kind, part: Part, old: &Value, new: &mut Value) {
    if part == Part::Whole {
        return;
    }
    if part == Part::Status {
        let status = new.get_mut("status").map(Value::take);
        let version = new.pointer("/metadata/resourceVersion").cloned();
        *new = old.clone();
        put(new, "status", status);
        if let Some(version) = version {
            metadata_mut(new).insert("resourceVersion".into(), version);
        }
        return;
    }
    if kind.status {
        put(new, "status", old.get("status").cloned());
    }
    let old_meta = old.get("metadata");
    let meta = metadata_mut(new);
    for field in SERVER_METADATA {
        put_field(meta, field, old_meta.and_then(|m| m.get(field)).cloned());
    }
    for field in ["name", "namespace", "uid"] {
        let missing = meta.get(field).and_then(Value::as_str).is_none_or(str::is_empty);
        if let Some(value) = old_meta.and_then(|m| m.get(field)).filter(|_| missing) {
            meta.insert(field.into(), value.clone());
        }
    }
    if kind.graceful {
        keep_times(old, new);
    }
}

/// The times that the server noted stay as they are.
fn keep_times(old: &Value, new: &mut Value) {
    for name in [well_known::ANNOTATION_CREATED_AT, well_known::ANNOTATION_DELETED_AT] {
        let noted = old.get("metadata").and_then(|m| m.get("annotations")).and_then(|a| a.get(name));
        if let Some(noted) = noted {
            metadata_child_mut(new, "annotations").insert(name.into(), noted.clone());
        }
    }
}

fn put(object: &mut Value, field: &str, value: Option<Value>) {
    if let Value::Object(map) = object {
        put_field(map, field, value);
    }
}

pub(crate) fn put_field(map: &mut Map<String, Value>, field: &str, value: Option<Value>) {
    match value {
        Some(value) => drop(map.insert(field.into(), value)),
        None => drop(map.shift_remove(field)),
    }
}

/// Counts a change of what the user wants: everything but metadata and status.
pub(crate) fn count_generation(kind: &Kind, old: &Value, new: &mut Value) {
    if !kind.generation {
        return;
    }
    let wanted = |object: &Value| -> Map<String, Value> {
        let fields = object.as_object().into_iter().flatten();
        fields
            .filter(|(f, _)| !matches!(f.as_str(), "metadata" | "status"))
            .map(|(f, v)| (f.clone(), v.clone()))
            .collect()
    };
    if wanted(old) != wanted(new) {
        next_generation(new);
    }
}

/// One more generation.
pub(crate) fn next_generation(object: &mut Value) {
    let meta = metadata_mut(object);
    let next = meta.get("generation").and_then(Value::as_i64).unwrap_or_default().saturating_add(1);
    meta.insert("generation".into(), next.into());
}

/// Whether an object whose deletion has begun waits for nothing any more.
pub(crate) fn is_free_to_go(object: &Value) -> bool {
    let meta = object.get("metadata");
    let has = |field: &str| meta.and_then(|m| m.get(field));
    let held =
        |pointer: &str| object.pointer(pointer).and_then(Value::as_array).is_some_and(|f| !f.is_empty());
    has("deletionTimestamp").is_some()
        && has("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or_default() == 0
        && !held("/metadata/finalizers")
        && !held("/spec/finalizers")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_generated_name_keeps_its_stem_within_the_limit() {
        let mut meta = Map::new();
        meta.insert("generateName".into(), "a".repeat(80).into());
        name_it(&mut meta);
        let name = meta["name"].as_str().unwrap();
        assert_eq!(name.len(), 63);
        assert!(name.bytes().skip(58).all(|b| SUFFIX_LETTERS.contains(&b)));
    }

    #[test]
    fn spec_and_status_are_written_apart() {
        let kind = kinds::by_path("apps", "v1", "deployments").unwrap();
        let old = json!({"metadata": {"name": "a", "generation": 1, "uid": "u"}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
        let mut new = json!({"metadata": {"name": "a"}, "spec": {"replicas": 2}, "status": {"replicas": 9}});
        prepare_update(kind, Part::Main, &old, &mut new);
        count_generation(kind, &old, &mut new);
        assert_eq!(new["status"]["replicas"], 1);
        assert_eq!(new["metadata"], json!({"name": "a", "generation": 2, "uid": "u"}));
        let mut new = json!({"metadata": {"name": "a"}, "spec": {"replicas": 2}, "status": {"replicas": 9}});
        prepare_update(kind, Part::Status, &old, &mut new);
        count_generation(kind, &old, &mut new);
        assert_eq!((&new["status"]["replicas"], &new["spec"]["replicas"]), (&json!(9), &json!(1)));
        assert_eq!(new["metadata"]["generation"], 1);
    }

    #[test]
    fn an_object_goes_when_nothing_holds_it() {
        let free = |object: Value| is_free_to_go(&object);
        assert!(!free(json!({"metadata": {}})));
        assert!(free(json!({"metadata": {"deletionTimestamp": "t"}})));
        assert!(!free(json!({"metadata": {"deletionTimestamp": "t", "finalizers": ["a/b"]}})));
        assert!(!free(json!({"metadata": {"deletionTimestamp": "t", "deletionGracePeriodSeconds": 30}})));
        assert!(!free(
            json!({"metadata": {"deletionTimestamp": "t"}, "spec": {"finalizers": ["kubernetes"]}})
        ));
    }
}
