//! Short hands for JSON values, for defaulting: reach an object or a list, set what is not set.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// An object's fields.
pub(crate) type Fields = Map<String, Value>;

/// The typed reading of an object that has passed its type; the type's default if it has not.
pub(crate) fn typed<T: DeserializeOwned + Default>(object: &Value) -> T {
    T::deserialize(object).unwrap_or_default()
}

/// The text at `path`; empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    path.iter().try_fold(value, |v, key| v.get(key)).and_then(Value::as_str).unwrap_or_default()
}

/// The object under `key`, where it is there.
pub(crate) fn object<'a>(fields: &'a mut Fields, key: &str) -> Option<&'a mut Fields> {
    fields.get_mut(key).and_then(Value::as_object_mut)
}

/// Lets `fill` work on the object under `key`, which is made where it is missing.
pub(crate) fn within(fields: &mut Fields, key: &str, fill: impl FnOnce(&mut Fields)) {
    if let Some(inner) = fields.entry(key).or_insert_with(|| Value::Object(Map::new())).as_object_mut() {
        fill(inner);
    }
}

/// The objects of the list under `key`.
pub(crate) fn items<'a>(fields: &'a mut Fields, key: &str) -> impl Iterator<Item = &'a mut Fields> {
    fields.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Sets a field that is missing, null or empty text.
pub(crate) fn set(fields: &mut Fields, key: &str, value: impl Into<Value>) {
    if is_unset(fields.get(key)) {
        fields.insert(key.to_owned(), value.into());
    }
}

/// Whether a field is missing, null or empty text.
pub(crate) fn is_unset(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    }
}
