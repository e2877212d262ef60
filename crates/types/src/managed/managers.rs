//! The authors of an object and their entries: noted on update, and asked on apply.

use std::{collections::BTreeMap, sync::OnceLock};

use serde_json::{Map, Value, json};

use super::{
    set::{FieldSet, field_step},
    typed::{self, Difference, Part, TypedError},
};
use crate::{kinds::Kind, schema::Schema, well_known};

/// Entries of updates; older ones are put together.
const UPDATES_MAX: usize = 10;
/// The manager that `kubectl apply --server-side` names.
const KUBECTL: &str = "kubectl";
/// What `kubectl apply` from the client's side remembers of its last time.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Who owns what the entries that were put together owned.
const ANCIENT: &str = "ancient-changes";
/// Who owns what was there before the first apply of an object that had no entries.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

const APPLY: &str = "Apply";
const UPDATE: &str = "Update";

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// `fieldManager`, or the client's name.
    pub manager: &'a str,
    /// `status`, `scale`; empty for the object itself.
    pub subresource: &'a str,
    /// Now, as metadata writes times.
    pub now: &'a str,
}

/// A field that somebody else owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// `"kubectl" using apps/v1`: who, as the message has it.
    pub manager: String,
    /// `.spec.replicas`
    pub field: String,
}

/// Why an object cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It cannot be taken apart as its kind demands.
    #[error(transparent)]
    Typed(#[from] TypedError),
    /// Others own fields that it changes.
    #[error("{}", conflict_words(.0))]
    Conflicts(Vec<Conflict>),
}

fn conflict_words(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.field);
    }
    let mut by_manager: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for conflict in conflicts {
        by_manager.entry(&conflict.manager).or_default().push(&conflict.field);
    }
    let mut lines = Vec::new();
    for (manager, fields) in by_manager {
        lines.push(format!("conflicts with {manager}:"));
        lines.extend(fields.into_iter().map(|field| format!("- {field}")));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// One author's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: String,
    set: FieldSet,
}

impl Entry {
    fn is_apply(&self) -> bool {
        self.operation == APPLY
    }

    /// Whether both are entries of one author: an applier is the same whatever version they use.
    fn is_same_author(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.is_apply() || self.api_version == other.api_version)
    }

    fn read(value: &Value) -> Option<Self> {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        if !matches!(text("fieldsType").as_str(), "" | "FieldsV1") {
            return None;
        }
        let set = value.get("fieldsV1").map_or_else(|| Some(FieldSet::default()), FieldSet::from_value)?;
        let entry = Self {
            manager: text("manager"),
            operation: text("operation"),
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            set,
        };
        matches!(entry.operation.as_str(), APPLY | UPDATE).then_some(entry)
    }

    fn write(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("apiVersion".into(), self.api_version.as_str().into());
        fields.insert("fieldsType".into(), "FieldsV1".into());
        fields.insert("fieldsV1".into(), self.set.to_value());
        fields.insert("manager".into(), self.manager.as_str().into());
        fields.insert("operation".into(), self.operation.as_str().into());
        for (name, text) in [("subresource", &self.subresource), ("time", &self.time)] {
            if !text.is_empty() {
                fields.insert(name.into(), text.as_str().into());
            }
        }
        Value::Object(fields)
    }

    /// As messages name the author.
    fn words(&self) -> String {
        let mut words = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            words.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.is_apply() {
            words.push_str(&format!(" using {}", self.api_version));
        }
        words
    }
}

fn field<'v>(object: &'v Value, name: &str) -> Option<&'v Value> {
    object.get("metadata").and_then(|metadata| metadata.get(name))
}

/// The entries of an object; `None` where they cannot be read or there are none.
fn entries(object: &Value) -> Option<Vec<Entry>> {
    let list = field(object, "managedFields")?.as_array()?;
    let read: Option<Vec<Entry>> = list.iter().map(Entry::read).collect();
    read.filter(|entries| !entries.is_empty())
}

fn put_entries(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.set.is_empty());
    bound(&mut entries);
    entries.sort_by(|a, b| {
        let order = |e: &Entry| {
            (
                e.operation.clone(),
                e.time.clone(),
                e.manager.clone(),
                e.api_version.clone(),
                e.subresource.clone(),
            )
        };
        order(a).cmp(&order(b))
    });
    let list: Vec<Value> = entries.iter().map(Entry::write).collect();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
        if !list.is_empty() {
            metadata.insert("managedFields".into(), list.into());
        }
    }
}

/// Puts the oldest updates together when there are too many.
fn bound(entries: &mut Vec<Entry>) {
    let updates = entries.iter().filter(|entry| !entry.is_apply()).count();
    let Some(mut surplus) = updates.checked_sub(UPDATES_MAX).filter(|surplus| *surplus > 0) else { return };
    // The one that takes the others is one more.
    surplus += usize::from(!entries.iter().any(|entry| entry.manager == ANCIENT));
    let mut oldest: Vec<Entry> = Vec::new();
    entries.sort_by(|a, b| (a.is_apply(), &a.time, &a.manager).cmp(&(b.is_apply(), &b.time, &b.manager)));
    let (ancient, mut others): (Vec<Entry>, Vec<Entry>) =
        std::mem::take(entries).into_iter().partition(|entry| !entry.is_apply() && entry.manager == ANCIENT);
    let appliers = others.iter().position(Entry::is_apply).unwrap_or(others.len());
    let rest = others.split_off(surplus.min(appliers));
    for entry in ancient.into_iter().chain(others) {
        match oldest.iter_mut().find(|held| held.api_version == entry.api_version) {
            Some(held) => {
                held.set.add(&entry.set);
                held.time = held.time.clone().max(entry.time);
            }
            None => oldest.push(Entry { manager: ANCIENT.to_owned(), subresource: String::new(), ..entry }),
        }
    }
    *entries = oldest.into_iter().chain(rest).collect();
}

/// What is nobody's: it says which object this is, or the server keeps it.
fn nobodys() -> &'static FieldSet {
    static SET: OnceLock<FieldSet> = OnceLock::new();
    SET.get_or_init(|| {
        let mut set = FieldSet::default();
        let mut add =
            |path: &[&str]| set.insert(&path.iter().map(|name| field_step(name)).collect::<Vec<_>>());
        for name in ["apiVersion", "kind", "metadata"] {
            add(&[name]);
        }
        for name in [
            "name",
            "namespace",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "uid",
            "generation",
            "managedFields",
            "resourceVersion",
        ] {
            add(&["metadata", name]);
        }
        for name in [well_known::ANNOTATION_CREATED_AT, well_known::ANNOTATION_DELETED_AT] {
            add(&["metadata", "annotations", name]);
        }
        set
    })
}

/// Parts of the object that are written apart and so are not looked at.
fn is_apart(kind: &Kind, subresource: &str, name: &str) -> bool {
    match subresource {
        "status" => name != "status",
        _ => kind.status && name == "status",
    }
}

/// The object as far as this writer writes it.
fn seen_by(kind: &Kind, subresource: &str, object: &Value) -> Value {
    let fields = object.as_object().into_iter().flatten();
    let seen = fields
        .filter(|(name, _)| !is_apart(kind, subresource, name))
        .filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind"));
    let mut seen: Map<String, Value> = seen.map(|(name, value)| (name.clone(), value.clone())).collect();
    if let Some(metadata) = seen.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
    Value::Object(seen)
}

fn difference(kind: &Kind, subresource: &str, old: &Value, new: &Value) -> Difference {
    let shape = Schema::get().of_kind(kind);
    let part = Part::whole(shape.as_ref());
    let (old, new) = (seen_by(kind, subresource, old), seen_by(kind, subresource, new));
    let mut found = typed::compare(&old, &new, part);
    for set in [&mut found.added, &mut found.modified, &mut found.removed] {
        set.remove(nobodys());
    }
    found
}

/// An object of the kind in which nothing has been said.
fn blank(kind: &Kind) -> Value {
    let shape = Schema::get().of_kind(kind);
    typed::blank(Part::whole(shape.as_ref()))
}

/// Notes in `new` what its author changed of `old` (nothing: it is created).
///
/// Entries that the author wrote into `new` are taken as they are; one empty entry forgets all. An object that has
/// none and is not new stays without: nobody can say who wrote what is in it.
pub fn note_update(kind: &Kind, old: Option<&Value>, new: &mut Value, writer: Writer<'_>) {
    let forgets = field(new, "managedFields").is_some_and(|list| *list == json!([{}]));
    let own = entries(new);
    let held = match (own, old) {
        _ if forgets => Some(Vec::new()),
        (Some(own), _) => Some(own),
        (None, Some(old)) => entries(old),
        (None, None) => Some(Vec::new()),
    };
    let Some(mut held) = held else {
        put_entries(new, Vec::new());
        return;
    };
    let as_kept = old.and_then(|old| field(old, "managedFields")).cloned();
    let blank = old.is_none().then(|| blank(kind));
    let Some(before) = old.or(blank.as_ref()) else { return };
    let found = difference(kind, writer.subresource, before, new);
    let unchanged =
        found.is_empty() && field(new, "managedFields").is_none_or(|own| Some(own) == as_kept.as_ref());
    if unchanged && !forgets {
        keep(new, as_kept);
        return;
    }
    for entry in &mut held {
        entry.set.remove(&found.added);
        entry.set.remove(&found.modified);
        entry.set.remove(&found.removed);
    }
    if !forgets {
        take(&mut held, kind, writer, UPDATE, |set| {
            set.add(&found.added);
            set.add(&found.modified);
        });
    }
    put_entries(new, held);
}

/// Leaves the entries as they are stored, to the byte.
fn keep(new: &mut Value, as_kept: Option<Value>) {
    let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    match as_kept {
        Some(list) => drop(metadata.insert("managedFields".into(), list)),
        None => drop(metadata.shift_remove("managedFields")),
    }
}

/// Changes the writer's set; the time of its entry is that of its last change.
fn take(
    entries: &mut Vec<Entry>,
    kind: &Kind,
    writer: Writer<'_>,
    operation: &str,
    change: impl FnOnce(&mut FieldSet),
) {
    let new = Entry {
        manager: writer.manager.to_owned(),
        operation: operation.to_owned(),
        api_version: kind.api_version(),
        subresource: writer.subresource.to_owned(),
        time: writer.now.to_owned(),
        set: FieldSet::default(),
    };
    let at = entries.iter().position(|entry| entry.is_same_author(&new));
    let mut held = at.map_or_else(|| new.clone(), |at| entries.swap_remove(at));
    let before = held.set.clone();
    change(&mut held.set);
    if held.set != before {
        held.time = new.time;
    }
    held.api_version = new.api_version;
    entries.push(held);
}

/// The object that comes of applying `config` to `live` (nothing: it is created), with its entries.
///
/// `config` has passed its type. The result has not been defaulted.
///
/// # Errors
/// Others own fields that it changes, and it is not `force`; or its lists have no keys.
pub fn apply(
    kind: &Kind,
    live: Option<&Value>,
    config: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let shape = Schema::get().of_kind(kind);
    let part = Part::whole(shape.as_ref());
    let blank = blank(kind);
    let config = stated(kind, writer.subresource, config);
    let stated_fields = typed::fields_of(&config, part)?;
    let mut set = stated_fields.clone();
    set.remove(nobodys());
    let before = live.unwrap_or(&blank);
    let mut held = match live {
        None => Vec::new(),
        Some(live) => entries(live).unwrap_or_else(|| first_entries(kind, &blank, live)),
    };
    let author = Entry {
        manager: writer.manager.to_owned(),
        operation: APPLY.to_owned(),
        api_version: kind.api_version(),
        subresource: writer.subresource.to_owned(),
        time: writer.now.to_owned(),
        set: FieldSet::default(),
    };
    let last = held.iter().find(|entry| entry.is_same_author(&author)).map(|entry| entry.set.clone());
    let mut merged = live.cloned().unwrap_or_else(|| json!({}));
    typed::merge(&mut merged, &config, part);
    if let Some(last) = last {
        let others = held.iter().filter(|entry| !entry.is_same_author(&author));
        let owned = others.fold(stated_fields, |mut sum, entry| {
            sum.add(&entry.set);
            sum
        });
        merged = prune(merged, &last, &owned, part);
        // An object that is stated to be empty is there, whatever it has lost.
        typed::merge(&mut merged, &config, part);
    }
    let found = difference(kind, writer.subresource, before, &merged);
    let mut changed = found.added.clone();
    changed.add(&found.modified);
    let granted = match live {
        Some(live) if writer.manager == KUBECTL => applied_by_client(kind, live, part),
        _ => FieldSet::default(),
    };
    let mut conflicts = Vec::new();
    for entry in held.iter_mut().filter(|entry| !entry.is_same_author(&author)) {
        let mut lost = entry.set.common(&changed);
        let manager = entry.words();
        entry.set.remove(&lost);
        entry.set.remove(&found.removed);
        lost.remove(&granted);
        conflicts.extend(lost.paths().into_iter().map(|field| Conflict { manager: manager.clone(), field }));
    }
    if !force && !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    if writer.manager == KUBECTL {
        note_last_applied(&mut merged, &config);
    }
    take(&mut held, kind, writer, APPLY, |own| *own = set);
    let same = live.is_some_and(|live| entries(live).is_some_and(|before| same_entries(&before, &held)));
    match live.filter(|_| same) {
        Some(live) => keep(&mut merged, field(live, "managedFields").cloned()),
        None => put_entries(&mut merged, held),
    }
    Ok(merged)
}

/// The fields that `kubectl apply` set from the client's side and nobody has changed since: whoever applies as kubectl
/// from the server's side goes on with them.
fn applied_by_client(kind: &Kind, live: &Value, part: Part<'_>) -> FieldSet {
    let last =
        live.pointer("/metadata/annotations").and_then(|a| a.get(LAST_APPLIED)).and_then(Value::as_str);
    let Some(last) = last.and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
        return FieldSet::default();
    };
    let Ok(last) = (kind.typecheck)(&last) else { return FieldSet::default() };
    let last = seen_by(kind, "", &last.object);
    let differs = typed::compare(&last, &seen_by(kind, "", live), part);
    let mut fields = typed::fields_of(&last, part).unwrap_or_default();
    fields.remove(&differs.modified);
    fields.remove(&differs.removed);
    fields
}

/// Keeps the annotation of the client's side, where there is one, so that the way back is open too.
fn note_last_applied(merged: &mut Value, config: &Value) {
    let annotations = merged.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    if let Some(last) = annotations.and_then(|annotations| annotations.get_mut(LAST_APPLIED)) {
        *last = config.to_string().into();
    }
}

fn same_entries(before: &[Entry], after: &[Entry]) -> bool {
    before.len() == after.len() && before.iter().all(|entry| after.contains(entry))
}

/// What a configuration states: without what it says only to be found.
fn stated(kind: &Kind, subresource: &str, config: &Value) -> Value {
    let fields = config.as_object().into_iter().flatten();
    let stated = fields.filter(|(name, _)| name.as_str() == "metadata" || !is_apart(kind, subresource, name));
    let mut stated: Map<String, Value> = stated.map(|(name, value)| (name.clone(), value.clone())).collect();
    if let Some(metadata) = stated.get_mut("metadata").and_then(Value::as_object_mut) {
        for name in ["managedFields", "creationTimestamp", "generation", "selfLink"] {
            metadata.shift_remove(name);
        }
        if subresource == "status" {
            metadata
                .retain(|name, _| matches!(name.as_str(), "name" | "namespace" | "uid" | "resourceVersion"));
        }
    }
    Value::Object(stated)
}

/// All that is in an object that nobody is known to have written.
fn first_entries(kind: &Kind, blank: &Value, live: &Value) -> Vec<Entry> {
    let found = difference(kind, "", blank, live);
    vec![Entry {
        manager: BEFORE_FIRST_APPLY.to_owned(),
        operation: UPDATE.to_owned(),
        api_version: kind.api_version(),
        subresource: String::new(),
        time: field(live, "creationTimestamp").and_then(Value::as_str).unwrap_or_default().to_owned(),
        set: found.added,
    }]
}

/// `merged` without what its author stated last time and states no more, unless somebody owns it (or something in it).
fn prune(merged: Value, last: &FieldSet, owned: &FieldSet, part: Part<'_>) -> Value {
    let whole = |value: &Value| typed::fields_of(value, part).unwrap_or_default().with_fields_on_the_way();
    let last = last.with_fields_on_the_way();
    let pruned = typed::without(&merged, &last, part);
    // Taking away a list's element took away what others own in it: it goes only if nobody does.
    let mut gone = whole(&merged);
    gone.remove(&whole(&pruned));
    gone.remove(&owned.with_fields_on_the_way());
    let kept = typed::without(&merged, &gone, part);
    // What nobody owns, and the author never stated, is not theirs to take away.
    let mut dangling = whole(&merged);
    dangling.remove(&whole(&kept));
    typed::without(&merged, &dangling.common(&last), part)
}
