//! Objects, part by part, as their schema divides them: which fields an object has, what differs between two, one merged
//! into another, and fields taken out. Pure; the rules are those of structured merge.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::set::{FieldSet, Step, field_step, keys_step, value_step};
use crate::schema::{Elements, Field, Object, Schema, Shape};

/// Why an object cannot be taken apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypedError {
    /// An element of a list that is a map by keys has none of them.
    #[error(
        "{path}: element {index}: associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"
    )]
    NoKey {
        /// The list.
        path: String,
        /// Which element.
        index: usize,
        /// The key that is missing.
        key: &'static str,
    },
    /// Two elements are the same one.
    #[error("{path}: duplicate entries for key {step}")]
    Duplicate {
        /// The list.
        path: String,
        /// The key.
        step: String,
    },
}

/// What stands at a place: its shape and how it changes. Without a shape nothing is known of it.
#[derive(Clone, Copy)]
pub(super) struct Part<'s> {
    shape: Option<&'s Shape>,
    elements: &'s Elements,
}

/// How a value at a place divides.
enum View<'s> {
    /// Not at all.
    Leaf,
    /// Into the fields of a type.
    Object(&'s Object),
    /// Into entries.
    Map(Part<'s>),
    /// Into scalars.
    Set,
    /// Into objects by keys.
    Keyed(&'s [&'static str], &'s Object),
}

const USUAL: Elements = Elements::Usual;

impl<'s> Part<'s> {
    /// A whole object of this shape.
    pub(super) fn whole(shape: Option<&'s Shape>) -> Self {
        Self { shape, elements: &USUAL }
    }

    fn of(field: &'s Field) -> Self {
        Self { shape: Some(&field.shape), elements: &field.elements }
    }

    fn view(self, value: &Value) -> View<'s> {
        let (schema, whole) = (Schema::get(), *self.elements == Elements::Atomic);
        let Some(shape) = self.shape else {
            return if value.is_object() { View::Map(self) } else { View::Leaf };
        };
        match (shape, value) {
            _ if whole => View::Leaf,
            (Shape::Object(place), Value::Object(_)) => match schema.object(*place) {
                Some(object) if !object.atomic => View::Object(object),
                _ => View::Leaf,
            },
            (Shape::Map(inner), Value::Object(_)) => View::Map(Part::whole(Some(inner))),
            (Shape::List(inner), Value::Array(_)) => match (self.elements, inner.as_ref()) {
                (Elements::Set, _) => View::Set,
                (Elements::Keys(keys), Shape::Object(place)) => {
                    schema.object(*place).map_or(View::Leaf, |object| View::Keyed(keys, object))
                }
                _ => View::Leaf,
            },
            _ => View::Leaf,
        }
    }
}

/// The part under a field of an object; nothing is known of a field that the type does not have.
fn field_part<'s>(object: &'s Object, name: &str) -> Part<'s> {
    object.field(name).map_or_else(|| Part::whole(None), Part::of)
}

fn parts_of<'s>(object: &'s Object) -> impl Fn(&str) -> Part<'s> {
    move |name| field_part(object, name)
}

/// The step to an element of a list that is a map.
fn step_of(keys: &[&'static str], object: &Object, element: &Value) -> Result<Step, &'static str> {
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        let value = element.get(*key).filter(|value| !value.is_null());
        match value.or_else(|| object.field(key).and_then(|field| field.default.as_ref())) {
            Some(value) => found.push((*key, value)),
            // One of several keys may be missing, all may not.
            None if keys.len() > 1 => {}
            None => return Err(key),
        }
    }
    match keys.first() {
        Some(key) if found.is_empty() => Err(key),
        _ => Ok(keys_step(found.into_iter())),
    }
}

/// A list's elements by their steps; `None` where an element has no key or two have the same.
fn by_step(
    items: &[Value],
    step: impl Fn(&Value) -> Result<Step, &'static str>,
) -> Option<Vec<(Step, &Value)>> {
    let all: Result<Vec<_>, _> = items.iter().map(|item| step(item).map(|step| (step, item))).collect();
    let all = all.ok()?;
    let mut seen: Vec<&Step> = all.iter().map(|(step, _)| step).collect();
    seen.sort_unstable();
    seen.is_sorted_by(|a, b| a < b).then_some(all)
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

// ---------------------------------------------------------------------------------------------------------------------

/// The fields that an author states by this object.
pub(super) fn fields_of(value: &Value, part: Part<'_>) -> Result<FieldSet, TypedError> {
    let mut walk = Walk::default();
    walk.fields(value, part)?;
    Ok(walk.set)
}

#[derive(Default)]
struct Walk {
    path: Vec<Step>,
    set: FieldSet,
}

impl Walk {
    fn text(&self) -> String {
        let mut set = FieldSet::default();
        set.insert(&self.path);
        set.paths().pop().unwrap_or_default()
    }

    fn insert(&mut self) {
        self.set.insert(&self.path);
    }

    fn down<T>(&mut self, step: Step, walk: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step);
        let done = walk(self);
        self.path.pop();
        done
    }

    fn fields(&mut self, value: &Value, part: Part<'_>) -> Result<(), TypedError> {
        match part.view(value) {
            View::Leaf => self.insert(),
            View::Object(object) => self.object(value, parts_of(object), false)?,
            View::Map(inner) => self.object(value, |_| inner, true)?,
            View::Set => {
                for item in list(Some(value)) {
                    let step = value_step(item);
                    if self.set_has(&step) {
                        return Err(TypedError::Duplicate { path: self.text(), step: item.to_string() });
                    }
                    self.down(step, Self::insert);
                }
            }
            View::Keyed(keys, object) => {
                for (index, item) in list(Some(value)).iter().enumerate() {
                    let step = step_of(keys, object, item).map_err(|key| TypedError::NoKey {
                        path: self.text(),
                        index,
                        key,
                    })?;
                    if self.set_has(&step) {
                        let step = step.strip_prefix("k:").unwrap_or_default().to_owned();
                        return Err(TypedError::Duplicate { path: self.text(), step });
                    }
                    self.down(step, |walk| {
                        walk.insert();
                        if object.atomic { Ok(()) } else { walk.object(item, parts_of(object), false) }
                    })?;
                }
            }
        }
        Ok(())
    }

    fn set_has(&self, step: &str) -> bool {
        let here = self.path.iter().try_fold(&self.set, |set, step| set.below(step));
        here.is_some_and(|set| set.has(step))
    }

    /// The entries of a map are members themselves, the fields of a type only where nothing is in them.
    fn object<'s>(
        &mut self,
        value: &Value,
        part: impl Fn(&str) -> Part<'s>,
        entries: bool,
    ) -> Result<(), TypedError> {
        for (name, inner) in value.as_object().into_iter().flatten() {
            self.down(field_step(name), |walk| {
                let empty = inner.is_null() || inner.as_object().is_some_and(Map::is_empty);
                if entries || empty {
                    walk.insert();
                }
                walk.fields(inner, part(name))
            })?;
        }
        Ok(())
    }
}

// ---------------------------------------------------------------------------------------------------------------------

/// What differs between two objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Only in the new one.
    pub(super) added: FieldSet,
    /// In both, with other values.
    pub(super) modified: FieldSet,
    /// Only in the old one.
    pub(super) removed: FieldSet,
}

impl Difference {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
}

/// What differs.
pub(super) fn compare(old: &Value, new: &Value, part: Part<'_>) -> Difference {
    let mut compare = Compare { path: Vec::new(), found: Difference::default() };
    compare.values(Some(old), Some(new), part);
    compare.found
}

struct Compare {
    path: Vec<Step>,
    found: Difference,
}

impl Compare {
    fn values(&mut self, old: Option<&Value>, new: Option<&Value>, part: Part<'_>) {
        if old == new {
            return;
        }
        let view = |value: Option<&Value>| value.map_or(View::Leaf, |value| part.view(value));
        // Where only one of them is there, that one says how it divides.
        let of = if new.is_some() { view(new) } else { view(old) };
        let alike = match (old, new) {
            (Some(old), Some(new)) => old.is_object() == new.is_object() && old.is_array() == new.is_array(),
            _ => true,
        };
        match of {
            _ if !alike => return self.leaf(old, new),
            View::Leaf => return self.leaf(old, new),
            View::Object(object) => self.objects(old, new, parts_of(object)),
            View::Map(inner) => self.objects(old, new, |_| inner),
            View::Set => {
                let step = |item: &Value| Ok(value_step(item));
                if !self.lists(old, new, step, |_, _, _| {}) {
                    return self.leaf(old, new);
                }
            }
            View::Keyed(keys, object) => {
                let step = |item: &Value| step_of(keys, object, item);
                let inner = |this: &mut Self, old: Option<&Value>, new: Option<&Value>| match (old, new) {
                    (Some(_), Some(_)) if object.atomic => this.leaf(old, new),
                    _ if object.atomic => {}
                    _ => this.objects(old, new, parts_of(object)),
                };
                if !self.lists(old, new, step, inner) {
                    return self.leaf(old, new);
                }
            }
        }
        self.one_sided(old, new);
    }

    /// An object or list that only one of them has is itself a difference.
    fn one_sided(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, Some(_)) => self.found.added.insert(&self.path),
            (Some(_), None) => self.found.removed.insert(&self.path),
            _ => {}
        }
    }

    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (Some(_), Some(_)) => self.found.modified.insert(&self.path),
            _ => self.one_sided(old, new),
        }
    }

    fn objects<'s>(&mut self, old: Option<&Value>, new: Option<&Value>, part: impl Fn(&str) -> Part<'s>) {
        let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
        for (name, value) in old.into_iter().flatten() {
            let other = new.and_then(|new| new.get(name));
            if other != Some(value) {
                self.down(field_step(name), |this| this.values(Some(value), other, part(name)));
            }
        }
        for (name, value) in new.into_iter().flatten() {
            if old.is_none_or(|old| !old.contains_key(name)) {
                self.down(field_step(name), |this| this.values(None, Some(value), part(name)));
            }
        }
    }

    fn down(&mut self, step: Step, walk: impl FnOnce(&mut Self)) {
        self.path.push(step);
        walk(self);
        self.path.pop();
    }

    /// Whether both lists are maps or sets; `inner` looks into two elements of the same step.
    fn lists(
        &mut self,
        old: Option<&Value>,
        new: Option<&Value>,
        step: impl Fn(&Value) -> Result<Step, &'static str>,
        inner: impl Fn(&mut Self, Option<&Value>, Option<&Value>),
    ) -> bool {
        let (Some(old), Some(new)) = (by_step(list(old), &step), by_step(list(new), &step)) else {
            return false;
        };
        let news: HashMap<&Step, &Value> = new.iter().map(|(step, item)| (step, *item)).collect();
        let olds: HashMap<&Step, &Value> = old.iter().map(|(step, item)| (step, *item)).collect();
        for (step, item) in &old {
            let other = news.get(step).copied();
            if other != Some(*item) {
                self.down(step.clone(), |this| {
                    inner(this, Some(item), other);
                    this.one_sided(Some(item), other);
                });
            }
        }
        for (step, item) in new.iter().filter(|(step, _)| !olds.contains_key(step)) {
            self.down(step.clone(), |this| {
                inner(this, None, Some(item));
                this.one_sided(None, Some(item));
            });
        }
        true
    }
}

// ---------------------------------------------------------------------------------------------------------------------

/// `onto` with everything that `from` states.
pub(super) fn merge(onto: &mut Value, from: &Value, part: Part<'_>) {
    match part.view(from) {
        View::Object(object) if onto.is_object() => merge_fields(onto, from, parts_of(object)),
        View::Map(inner) if onto.is_object() => merge_fields(onto, from, |_| inner),
        View::Set if onto.is_array() => {
            merge_lists(onto, from, |item| Ok(value_step(item)), |_, _| {});
        }
        View::Keyed(keys, object) if onto.is_array() => {
            let step = |item: &Value| step_of(keys, object, item);
            merge_lists(onto, from, step, |onto, from| match object.atomic {
                true => *onto = from.clone(),
                false => merge_fields(onto, from, parts_of(object)),
            });
        }
        _ => *onto = from.clone(),
    }
}

fn merge_fields<'s>(onto: &mut Value, from: &Value, part: impl Fn(&str) -> Part<'s>) {
    let (Some(fields), Some(wanted)) = (onto.as_object_mut(), from.as_object()) else { return };
    for (name, value) in wanted {
        match fields.get_mut(name) {
            Some(held) => merge(held, value, part(name)),
            None => drop(fields.insert(name.clone(), value.clone())),
        }
    }
}

/// Elements that both have stand in the author's order; the others stay where they are among them.
fn merge_lists(
    onto: &mut Value,
    from: &Value,
    step: impl Fn(&Value) -> Result<Step, &'static str>,
    inner: impl Fn(&mut Value, &Value),
) {
    let (Some(held), Some(wanted)) = (by_step(list(Some(onto)), &step), by_step(list(Some(from)), &step))
    else {
        *onto = from.clone();
        return;
    };
    let held_by: HashMap<&Step, &Value> = held.iter().map(|(step, item)| (step, *item)).collect();
    let wanted_by: HashMap<&Step, &Value> = wanted.iter().map(|(step, item)| (step, *item)).collect();
    let merged = |step: &Step, item: &Value| {
        let mut whole = held_by.get(step).map_or_else(|| item.clone(), |held| (*held).clone());
        inner(&mut whole, item);
        whole
    };
    let mut out = Vec::with_capacity(held.len() + wanted.len());
    let mut authors = wanted.iter();
    for (own, item) in &held {
        if !wanted_by.contains_key(own) {
            out.push((*item).clone());
            continue;
        }
        // A shared element pulls along all of the author's that come before it and were not yet written.
        let written = wanted.len() - authors.len();
        if wanted.iter().skip(written).any(|(step, _)| step == own) {
            for (step, item) in authors.by_ref() {
                out.push(merged(step, item));
                if step == own {
                    break;
                }
            }
        }
    }
    out.extend(authors.map(|(step, item)| merged(step, item)));
    *onto = Value::Array(out);
}

// ---------------------------------------------------------------------------------------------------------------------

/// `value` without the fields in `gone`. An object that loses all that it held goes with it.
pub(super) fn without(value: &Value, gone: &FieldSet, part: Part<'_>) -> Value {
    match part.view(value) {
        View::Leaf => value.clone(),
        View::Object(object) => without_fields(value, gone, parts_of(object)),
        View::Map(inner) => without_fields(value, gone, |_| inner),
        View::Set => {
            let stays = |item: &&Value| !gone.has(&value_step(item));
            Value::Array(list(Some(value)).iter().filter(stays).cloned().collect())
        }
        View::Keyed(keys, object) => {
            let mut out = Vec::new();
            for item in list(Some(value)) {
                let step = step_of(keys, object, item).ok();
                let Some(step) = step else {
                    out.push(item.clone());
                    continue;
                };
                match gone.below(&step) {
                    _ if gone.has(&step) => {}
                    Some(below) if !object.atomic => out.push(without_fields(item, below, parts_of(object))),
                    _ => out.push(item.clone()),
                }
            }
            Value::Array(out)
        }
    }
}

fn without_fields<'s>(value: &Value, gone: &FieldSet, part: impl Fn(&str) -> Part<'s>) -> Value {
    let mut out = Map::new();
    for (name, inner) in value.as_object().into_iter().flatten() {
        let step = field_step(name);
        if gone.has(&step) {
            continue;
        }
        let left = match gone.below(&step) {
            Some(below) => without(inner, below, part(name)),
            None => inner.clone(),
        };
        let emptied = left != *inner && is_hollow(&left);
        if !emptied {
            out.insert(name.clone(), left);
        }
    }
    Value::Object(out)
}

fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

// ---------------------------------------------------------------------------------------------------------------------

/// An object of this type in which nothing has been said: what Kubernetes writes even then.
///
/// Its parts belong to nobody, so whoever fills them owns what they fill and not the parts.
pub(super) fn blank(part: Part<'_>) -> Value {
    let object = match part.shape {
        Some(Shape::Object(place)) => Schema::get().object(*place),
        _ => None,
    };
    let mut fields = Map::new();
    for field in object.into_iter().flat_map(|object| &object.fields).filter(|field| field.always) {
        let is_part = match &field.shape {
            Shape::Object(place) => Schema::get().object(*place).is_some_and(|object| !object.atomic),
            Shape::List(_) | Shape::Map(_) => field.elements != Elements::Atomic,
            _ => false,
        };
        let inner = match &field.shape {
            Shape::Object(_) => blank(Part::of(field)),
            Shape::List(_) => Value::Array(Vec::new()),
            _ => Value::Object(Map::new()),
        };
        if is_part {
            fields.insert(field.name.to_owned(), inner);
        }
    }
    Value::Object(fields)
}
