//! The strategic merge itself.
//!
//! Order of a merged list: the elements that the patch names stand in the patch's order (or in that of
//! `$setElementOrder`), the others keep theirs, and where both know their place in the old list, that decides.
//! So an element that is new comes before those that the patch does not name, as in Kubernetes.

use serde_json::{Map, Value};

use super::{
    PatchError,
    schema::{Rule, Type, rule},
};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

type Fields = Map<String, Value>;

pub(super) fn merge_object(fields: &mut Fields, patch: &Fields, of: Type) -> Result<(), PatchError> {
    match directive(patch)? {
        Some(Directive::Replace) => {
            *fields = without_directives(patch);
            return Ok(());
        }
        Some(Directive::Delete) => {
            fields.clear();
            return Ok(());
        }
        Some(Directive::Merge) | None => {}
    }
    retain_keys(fields, patch)?;
    for (key, change) in patch {
        if let Some(name) = key.strip_prefix(DELETE_FROM) {
            let gone = change.as_array().ok_or_else(|| not_a_list(key))?;
            if let Some(list) = fields.get_mut(name).and_then(Value::as_array_mut) {
                list.retain(|item| !gone.contains(item));
            }
        }
    }
    let mut before = Vec::new();
    for (key, change) in patch {
        if let Some(name) = key.strip_prefix(ORDER) {
            let order = change.as_array().ok_or_else(|| not_a_list(key))?;
            let old = fields.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
            before.push((name, order, old));
        }
    }
    for (key, change) in patch {
        if !key.starts_with('$') {
            merge_field(fields, key, change, of)?;
        }
    }
    for (name, order, old) in before {
        set_order(fields, name, order, &old, patch.get(name), of)?;
    }
    Ok(())
}

fn merge_field(fields: &mut Fields, key: &str, change: &Value, of: Type) -> Result<(), PatchError> {
    let rule = rule(of, key);
    match (rule, fields.get_mut(key), change) {
        (_, _, Value::Null) => {
            fields.shift_remove(key);
        }
        (Rule::Default(inner), Some(Value::Object(own)), Value::Object(change)) => {
            merge_object(own, change, inner)?
        }
        (Rule::ByKey(merge_key, inner), Some(Value::Array(own)), Value::Array(change)) => {
            *own = merge_list(own, change, merge_key, inner)?;
        }
        (Rule::ByKey(merge_key, inner), None, Value::Array(change)) => {
            let list = merge_list(&[], change, merge_key, inner)?;
            fields.insert(key.to_owned(), Value::Array(list));
        }
        (Rule::Set, Some(Value::Array(own)), Value::Array(change)) => {
            let mut all = own.clone();
            all.extend(change.iter().filter(|item| !own.contains(item)).cloned());
            dedup(&mut all);
            *own = ordered(all, own, change, Id::Whole);
        }
        (_, Some(own), change) => *own = clean(change),
        (_, None, change) => {
            fields.insert(key.to_owned(), clean(change));
        }
    }
    Ok(())
}

fn dedup(list: &mut Vec<Value>) {
    let mut seen: Vec<Value> = Vec::new();
    list.retain(|item| {
        let new = !seen.contains(item);
        if new {
            seen.push(item.clone());
        }
        new
    });
}

enum Directive {
    Replace,
    Delete,
    Merge,
}

fn directive(patch: &Fields) -> Result<Option<Directive>, PatchError> {
    match patch.get(PATCH) {
        None => Ok(None),
        Some(Value::String(word)) if word == "replace" => Ok(Some(Directive::Replace)),
        Some(Value::String(word)) if word == "delete" => Ok(Some(Directive::Delete)),
        Some(Value::String(word)) if word == "merge" => Ok(Some(Directive::Merge)),
        Some(other) => Err(PatchError::malformed(format!("unknown patch type: {other}"))),
    }
}

fn not_a_list(key: &str) -> PatchError {
    PatchError::malformed(format!("invalid patch format of {key}: it is not a list"))
}

/// `$retainKeys` names every field that stays, and so every one that the patch sets.
fn retain_keys(fields: &mut Fields, patch: &Fields) -> Result<(), PatchError> {
    let Some(keys) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let keys = keys.as_array().ok_or_else(|| PatchError::malformed("invalid patch format of retainKeys"))?;
    let kept = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    if patch.iter().any(|(key, change)| !key.starts_with('$') && !change.is_null() && !kept(key)) {
        return Err(PatchError::malformed(
            "invalid patch format of retainKeys: it does not name every field of the patch",
        ));
    }
    fields.retain(|key, _| kept(key));
    Ok(())
}

/// Puts the list in the order that `$setElementOrder/name` gives.
fn set_order(
    fields: &mut Fields,
    name: &str,
    order: &[Value],
    old: &[Value],
    patched: Option<&Value>,
    of: Type,
) -> Result<(), PatchError> {
    let id = match rule(of, name) {
        Rule::ByKey(key, _) => Id::Key(key),
        Rule::Set => Id::Whole,
        Rule::Default(_) | Rule::Replace => return Ok(()),
    };
    let place = |item: &Value| order.iter().position(|o| id.same(o, item));
    let named = patched.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let places: Vec<_> = named.iter().filter(|item| item.get(PATCH).is_none()).map(place).collect();
    if places.iter().any(Option::is_none) || !places.is_sorted() {
        return Err(PatchError::malformed(format!(
            "the order in patch list {name} doesn't match {ORDER}{name}"
        )));
    }
    if let Some(Value::Array(list)) = fields.get_mut(name) {
        *list = ordered(std::mem::take(list), old, order, id);
    }
    Ok(())
}

/// What makes two elements of a list the same one.
#[derive(Clone, Copy)]
enum Id {
    Whole,
    Key(&'static str),
}

impl Id {
    fn same(self, a: &Value, b: &Value) -> bool {
        match self {
            Self::Whole => a == b,
            Self::Key(key) => a.get(key).is_some_and(|value| Some(value) == b.get(key)),
        }
    }
}

fn merge_list(own: &[Value], patch: &[Value], key: &'static str, of: Type) -> Result<Vec<Value>, PatchError> {
    let id = Id::Key(key);
    let mut merged = own.to_vec();
    let mut changes: Vec<&Value> = Vec::new();
    let mut replace = false;
    for change in patch {
        let Value::Object(fields) = change else {
            return Err(PatchError::malformed(format!(
                "a list merged by {key:?} holds something that is not an object"
            )));
        };
        match directive(fields)? {
            Some(Directive::Replace) => {
                replace = true;
                if fields.contains_key(key) {
                    changes.push(change);
                }
            }
            Some(Directive::Delete) => {
                if !fields.contains_key(key) {
                    return Err(no_key(fields, key));
                }
                merged.retain(|item| !id.same(item, change));
            }
            Some(Directive::Merge) | None => changes.push(change),
        }
    }
    if replace {
        return Ok(changes.into_iter().map(clean).collect());
    }
    for change in &changes {
        let Value::Object(fields) = change else { continue };
        if fields.get(key).is_none_or(Value::is_null) {
            return Err(no_key(fields, key));
        }
        match merged.iter_mut().find(|item| id.same(item, change)) {
            Some(Value::Object(item)) => merge_object(item, fields, of)?,
            _ => {
                // Merged into nothing, so that directives inside the new element are obeyed, not stored.
                let mut item = Map::new();
                merge_object(&mut item, fields, of)?;
                merged.push(Value::Object(item));
            }
        }
    }
    let order: Vec<Value> = changes.into_iter().cloned().collect();
    Ok(ordered(merged, own, &order, id))
}

fn no_key(fields: &Fields, key: &str) -> PatchError {
    PatchError::malformed(format!(
        "map: {} does not contain declared merge key: {key}",
        Value::Object(fields.clone())
    ))
}

/// The elements that `order` names in that order, the others as they stood in `old`, woven together.
fn ordered(merged: Vec<Value>, old: &[Value], order: &[Value], id: Id) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| list.iter().position(|o| id.same(o, item));
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|i| place(order, i).is_some());
    named.sort_by_key(|item| place(order, item));
    let mut all = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in named {
        let own_place = place(old, &item);
        while let Some(other) = others.next_if(|other| match (place(old, other), own_place) {
            (Some(theirs), Some(mine)) => theirs <= mine,
            _ => false,
        }) {
            all.push(other);
        }
        all.push(item);
    }
    all.extend(others);
    all
}

/// A value of the patch as it is stored: without directives and without nulls.
fn clean(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(without_directives(fields)),
        Value::Array(items) => {
            let stays = |item: &&Value| match item.get(PATCH).and_then(Value::as_str) {
                Some("delete") => false,
                Some("replace") => item.as_object().is_some_and(|fields| fields.len() > 1),
                _ => true,
            };
            Value::Array(items.iter().filter(stays).map(clean).collect())
        }
        _ => value.clone(),
    }
}

fn without_directives(fields: &Fields) -> Fields {
    fields
        .iter()
        .filter(|(key, value)| !is_directive(key) && !value.is_null())
        .map(|(key, value)| (key.clone(), clean(value)))
        .collect()
}

fn is_directive(key: &str) -> bool {
    key == PATCH || key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(ORDER)
}
