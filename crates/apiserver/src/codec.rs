//! How an object is kept, and how it is shown.
//!
//! An object is stored as JSON without its `resourceVersion`: that is the entry's own revision, known only once the
//! commit has one. The text always begins with `{"apiVersion":"V","kind":"K","metadata":{`, so showing an object is
//! copying its bytes with the revision put in at a known place; nothing needs to be decoded.
//!
//! Invariant: `metadata` is never empty (every object has a name), so a comma may follow the revision.

use std::{io::Write, sync::Arc};

use bytes::Bytes;
use hitless_base::Revision;
use hitless_store::{Entry, Key};
use hitless_types::kinds::{self, Kind};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::{fault::Fault, lean};

/// The bytes under which an object is stored.
///
/// # Errors
/// The object is not a map with metadata: a defect, told as 500.
pub(crate) fn encode(kind: &'static Kind, object: &Value) -> Result<Bytes, Fault> {
    if let Some(stored) = kind.stored_as {
        return encode_fields(stored_kind(kind), &(stored.to_stored)(object));
    }
    encode_fields(kind, object)
}

fn encode_fields(kind: &Kind, object: &Value) -> Result<Bytes, Fault> {
    let map = object.as_object().ok_or_else(|| Fault::internal("an object is not a map"))?;
    let metadata = map
        .get("metadata")
        .and_then(Value::as_object)
        .ok_or_else(|| Fault::internal("an object has no metadata"))?;
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(head(kind).as_bytes());
    let fields = metadata.iter().filter(|(name, _)| *name != "resourceVersion");
    write_fields(&mut out, fields, true)?;
    out.push(b'}');
    let skip = |name: &str| {
        matches!(name, "apiVersion" | "kind" | "metadata") || (kind.volatile_status && name == "status")
    };
    write_fields(&mut out, map.iter().filter(|(name, _)| !skip(name)), false)?;
    out.push(b'}');
    Ok(Bytes::from(out))
}

fn write_fields<'v>(
    out: &mut Vec<u8>,
    fields: impl Iterator<Item = (&'v String, &'v Value)>,
    mut first: bool,
) -> Result<(), Fault> {
    for (name, value) in fields {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, name).map_err(Fault::internal)?;
        out.push(b':');
        serde_json::to_writer(&mut *out, value).map_err(Fault::internal)?;
    }
    Ok(())
}

fn head(kind: &Kind) -> String {
    format!(r#"{{"apiVersion":"{}","kind":"{}","metadata":{{"#, kind.api_version(), kind.kind)
}

/// Length of [`head`] without making it.
fn head_len(kind: &Kind) -> usize {
    let group = if kind.group.is_empty() { 0 } else { kind.group.len() + 1 };
    r#"{"apiVersion":"","kind":"","metadata":{"#.len() + group + kind.version.len() + kind.kind.len()
}

/// Appends a stored object as clients see it. Items of lists come without `apiVersion` and `kind`, as in Kubernetes; `lean` ones without
/// managed fields.
pub(crate) fn write_object(out: &mut Vec<u8>, kind: &Kind, entry: &Entry, with_type: bool, lean: bool) {
    let (front, rest) = entry.value.split_at_checked(head_len(kind)).unwrap_or((&entry.value, b""));
    out.extend_from_slice(if with_type { front } else { br#"{"metadata":{"# });
    // Writing to a vector cannot fail.
    let _written = write!(out, r#""resourceVersion":"{}","#, entry.modified);
    let omitted = lean.then(|| lean::managed_fields(rest)).flatten().unwrap_or(0..0);
    out.extend_from_slice(rest.get(..omitted.start).unwrap_or_default());
    out.extend_from_slice(rest.get(omitted.end..).unwrap_or_default());
}

/// The stored object as a value of `kind`, with its revision.
///
/// # Errors
/// What is stored is not an object: told as 500.
pub(crate) fn decode(kind: &Kind, entry: &Entry) -> Result<Value, Fault> {
    let mut object: Value = serde_json::from_slice(&entry.value)
        .map_err(|e| Fault::internal(format!("{} cannot be decoded: {e}", entry.key)))?;
    if let Some(stored) = kind.stored_as {
        object = (stored.from_stored)(&object);
    }
    set_revision(&mut object, entry.modified);
    Ok(object)
}

/// Sets `metadata.resourceVersion`.
pub(crate) fn set_revision(object: &mut Value, revision: Revision) {
    metadata_mut(object).insert("resourceVersion".into(), revision.to_string().into());
}

/// The object's metadata, made if it is not there.
pub(crate) fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    child_mut(object, "metadata")
}

/// The map in this field of the metadata, made if it is not there.
pub(crate) fn metadata_child_mut<'v>(object: &'v mut Value, field: &str) -> &'v mut Map<String, Value> {
    as_map(metadata_mut(object).entry(field.to_owned()).or_insert(Value::Null))
}

/// The map in this field, made if it is not there (or is no map).
pub(crate) fn child_mut<'v>(object: &'v mut Value, field: &str) -> &'v mut Map<String, Value> {
    as_map(as_map(object).entry(field.to_owned()).or_insert(Value::Null))
}

/// The value as a map; what is none becomes an empty one.
pub(crate) fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => {
            *other = Value::Object(Map::new());
            as_map(other)
        }
    }
}

/// The kind as which objects of this kind are stored: itself, but for kinds that are views of another.
pub(crate) fn stored_kind(kind: &'static Kind) -> &'static Kind {
    kind.stored_as.and_then(|stored| kinds::by_gvk(stored.api_version, stored.kind)).unwrap_or(kind)
}

/// Whether stored bytes are what clients of this kind see, but for the revision.
pub(crate) fn is_verbatim(kind: &Kind) -> bool {
    kind.stored_as.is_none() && !kind.volatile_status
}

/// Text at a JSON pointer; empty where there is none.
pub(crate) fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Whether deletion of the object has begun.
pub(crate) fn is_terminating(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

/// Decoded objects of the latest events, shared by all watches that look into them. Bounded; a miss costs one decoding.
pub(crate) struct Decoded {
    slots: Vec<Mutex<Option<Slot>>>,
}

type Slot = (Revision, Key, Arc<Value>);

const SLOTS: usize = 32;

impl Decoded {
    pub(crate) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Mutex::new(None)).collect() }
    }

    /// The entry's object.
    ///
    /// # Errors
    /// As [`decode`].
    pub(crate) fn get(&self, kind: &Kind, entry: &Entry) -> Result<Arc<Value>, Fault> {
        if kind.stored_as.is_some() {
            return decode(kind, entry).map(Arc::new);
        }
        let slot = usize::try_from(entry.modified.0).unwrap_or_default() % SLOTS;
        let Some(slot) = self.slots.get(slot) else { return decode(kind, entry).map(Arc::new) };
        if let Some((revision, key, object)) = &*slot.lock()
            && *revision == entry.modified
            && *key == entry.key
        {
            return Ok(Arc::clone(object));
        }
        let object = Arc::new(decode(kind, entry)?);
        *slot.lock() = Some((entry.modified, entry.key.clone(), Arc::clone(&object)));
        Ok(object)
    }
}
