//! A body through its type, as Go's decoder would take it: wrong types are refused with its words, unknown fields are
//! found with their paths, and what comes out is the minimal JSON that Kubernetes would write.
//!
//! It is a serde `Deserializer` over a JSON value that knows where it is and writes down what it has accepted, so the
//! kind's own Rust type is the only statement of its fields. Minimal means: no nulls, no empty lists and maps, times
//! in whole seconds (`Time`) or microseconds (`MicroTime`), quantities in canonical form.

use std::{cell::RefCell, fmt};

use hitless_base::Timestamp;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde_json::{Map, Value};

use super::{TypeError, Typed};
use crate::quantity::Quantity;

/// Checks `value` against `T`, one of Kubernetes' own kinds.
pub(super) fn typecheck<T: DeserializeOwned + k8s_openapi::Resource>(
    value: &Value,
) -> Result<Typed, TypeError> {
    typecheck_as::<T>(T::API_VERSION, T::VERSION, T::KIND, value)
}

/// Checks `value` against `T`, which serves as the shape of `kind`.
pub(super) fn typecheck_as<T: DeserializeOwned>(
    api_version: &str,
    version: &str,
    kind: &str,
    value: &Value,
) -> Result<Typed, TypeError> {
    let unknown = RefCell::new(Vec::new());
    let mut object = Value::Null;
    let root = Node {
        value,
        out: &mut object,
        place: &Place { step: Step::Root, up: None, structure: "" },
        unknown: &unknown,
    };
    T::deserialize(root).map_err(|e| TypeError {
        message: format!("{kind} in version {version:?} cannot be handled as a {kind}: {e}"),
    })?;
    let mut whole = Map::new();
    whole.insert("apiVersion".into(), api_version.into());
    whole.insert("kind".into(), kind.into());
    if let Value::Object(fields) = object {
        whole.extend(fields.into_iter().filter(|(key, _)| key != "apiVersion" && key != "kind"));
    }
    Ok(Typed { object: Value::Object(whole), unknown: unknown.into_inner() })
}

/// What a decoder says. Display is the whole sentence.
#[derive(Debug)]
struct Fault(String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        // The one fault that a type raises by itself in Kubernetes' objects is bad base64 in `data`; Go names the byte.
        let offset = message.split_once("offset ").map(|(_, rest)| rest.trim_end_matches('.'));
        match offset {
            Some(offset) if message.starts_with("Invalid ") => {
                Self(format!("illegal base64 data at input byte {offset}"))
            }
            _ if message.starts_with("Invalid padding") || message.starts_with("Invalid input length") => {
                Self("illegal base64 data: wrong length or padding".to_owned())
            }
            _ => Self(message),
        }
    }
}

enum Step<'p> {
    Root,
    Field(&'p str),
    Entry(&'p str),
    Index(usize),
}

/// Where a value stands: its own step, the places above it, and the Go struct that holds it.
struct Place<'p> {
    step: Step<'p>,
    up: Option<&'p Place<'p>>,
    structure: &'static str,
}

impl Place<'_> {
    /// `spec.containers[0].image`, as unknown fields are named.
    fn full(&self) -> String {
        let mut path = self.up.map(Place::full).unwrap_or_default();
        match self.step {
            Step::Root => {}
            Step::Field(name) | Step::Entry(name) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
            }
            Step::Index(index) => path.push_str(&format!("[{index}]")),
        }
        path
    }

    /// `spec.containers.image`: Go's decoder names fields only.
    fn fields(&self) -> String {
        let mut path = self.up.map(Place::fields).unwrap_or_default();
        if let Step::Field(name) = self.step {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(name);
        }
        path
    }
}

struct Node<'de, 'n> {
    value: &'de Value,
    /// Takes what was accepted; stays null for what Kubernetes would leave out.
    out: &'n mut Value,
    place: &'n Place<'n>,
    unknown: &'n RefCell<Vec<String>>,
}

impl Node<'_, '_> {
    fn mismatch(&self, go_type: &str) -> Fault {
        let what = match self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(n) if go_type.starts_with("int") || go_type.starts_with("uint") => {
                format!("number {n}")
            }
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        if self.place.structure.is_empty() {
            return Fault(format!("json: cannot unmarshal {what} into Go value of type {go_type}"));
        }
        let (structure, fields) = (self.place.structure, self.place.fields());
        Fault(format!(
            "json: cannot unmarshal {what} into Go struct field {structure}.{fields} of type {go_type}"
        ))
    }

    fn integer(&mut self, go_type: &str, min: i64, max: i64) -> Result<i64, Fault> {
        let number = match self.value {
            Value::Null => Some(0),
            Value::Number(n) => n.as_i64(),
            _ => None,
        };
        match number.filter(|n| (min..=max).contains(n)) {
            Some(n) => {
                *self.out = n.into();
                Ok(n)
            }
            None => Err(self.mismatch(go_type)),
        }
    }

    fn text(&mut self) -> Result<String, Fault> {
        let text = match self.value {
            Value::Null => "",
            Value::String(text) => text,
            _ => return Err(self.mismatch("string")),
        };
        *self.out = text.into();
        Ok(text.to_owned())
    }
}

/// `core::v1::pod_spec::PodSpec` -> `v1.PodSpec`, `Vec<String>` -> `[]string`: for messages only.
fn go_type(rust: &str) -> String {
    let inside = |prefix: &str| rust.strip_prefix(prefix).and_then(|r| r.strip_suffix('>'));
    if let Some(item) = inside("alloc::vec::Vec<") {
        return format!("[]{}", go_type(item));
    }
    if let Some((key, value)) =
        inside("alloc::collections::btree::map::BTreeMap<").and_then(|i| i.split_once(", "))
    {
        return format!("map[{}]{}", go_type(key), go_type(value));
    }
    let mut steps = rust.rsplit("::");
    let name = steps.next().unwrap_or(rust);
    match name {
        "String" => "string".to_owned(),
        "ByteString" => "[]uint8".to_owned(),
        "Quantity" => "resource.Quantity".to_owned(),
        _ => {
            let package = steps.nth(1).filter(|p| p.starts_with('v')).unwrap_or("v1");
            format!("{package}.{name}")
        }
    }
}

macro_rules! integers {
    ($($method:ident, $visit:ident, $type:ty, $go:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Fault> {
            let number = self.integer($go, i64::from(<$type>::MIN), i64::from(<$type>::MAX))?;
            visitor.$visit(<$type>::try_from(number).unwrap_or_default())
        }
    )*};
}

impl<'de> Deserializer<'de> for Node<'de, '_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        *self.out = self.value.clone();
        self.value.deserialize_any(visitor).map_err(|e| Fault(e.to_string()))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let flag = match self.value {
            Value::Null => false,
            Value::Bool(flag) => *flag,
            _ => return Err(self.mismatch("bool")),
        };
        *self.out = flag.into();
        visitor.visit_bool(flag)
    }

    integers! {
        deserialize_i8, visit_i8, i8, "int8";
        deserialize_i16, visit_i16, i16, "int16";
        deserialize_i32, visit_i32, i32, "int32";
        deserialize_i64, visit_i64, i64, "int64";
        deserialize_u8, visit_u8, u8, "uint8";
        deserialize_u16, visit_u16, u16, "uint16";
        deserialize_u32, visit_u32, u32, "uint32";
    }

    fn deserialize_u64<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Fault> {
        let number = self.integer("uint64", 0, i64::MAX)?;
        visitor.visit_u64(u64::try_from(number).unwrap_or_default())
    }

    fn deserialize_str<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_string(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let written = match (name, self.value) {
            ("Time" | "MicroTime", _) => {
                let text = self.text()?;
                let time: Timestamp = text.parse().map_err(|_| {
                    Fault(format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as a time"))
                })?;
                write_time(time, name == "MicroTime")
            }
            ("Quantity", Value::String(_) | Value::Number(_)) => {
                let text = self.value.as_str().map_or_else(|| self.value.to_string(), str::to_owned);
                text.parse::<Quantity>().map_err(|e| Fault(e.to_string()))?.to_string()
            }
            ("Quantity", _) => return Err(Fault(
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                    .into(),
            )),
            _ => return visitor.visit_newtype_struct(self),
        };
        *self.out = written.as_str().into();
        visitor.visit_newtype_struct(written.as_str().into_deserializer())
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let items = match self.value {
            Value::Null => &[],
            Value::Array(items) => items.as_slice(),
            _ => return Err(self.mismatch(&go_type(std::any::type_name::<V::Value>()))),
        };
        let mut written = Vec::with_capacity(items.len());
        let result =
            visitor.visit_seq(Items { items: items.iter().enumerate(), written: &mut written, of: &self })?;
        // An EndpointSlice without endpoints says so; everywhere else Kubernetes leaves an empty list out.
        if !written.is_empty() || (self.place.structure == "EndpointSlice" && self.value.is_array()) {
            *self.out = Value::Array(written);
        }
        Ok(result)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Some(entries) = entries(self.value) else {
            return Err(self.mismatch(&go_type(std::any::type_name::<V::Value>())));
        };
        let mut written = Map::new();
        let result = visitor.visit_map(Entries::new(entries, None, &mut written, &self))?;
        if !written.is_empty() {
            *self.out = Value::Object(written);
        }
        Ok(result)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Some(entries) = entries(self.value) else {
            return Err(self.mismatch(&go_type(std::any::type_name::<V::Value>())));
        };
        let mut written = Map::new();
        let result = visitor.visit_map(Entries::new(entries, Some((name, fields)), &mut written, &self))?;
        *self.out = Value::Object(written);
        Ok(result)
    }

    serde::forward_to_deserialize_any! {
        f32 f64 char bytes byte_buf i128 u128 unit unit_struct tuple tuple_struct enum identifier ignored_any
    }
}

/// As Kubernetes writes it: whole seconds, or microseconds.
fn write_time(time: Timestamp, micros: bool) -> String {
    if micros {
        format!("{time:.6}")
    } else {
        format!("{:.0}", Timestamp::from_second(time.as_second()).unwrap_or(time))
    }
}

fn entries(value: &Value) -> Option<serde_json::map::Iter<'_>> {
    static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    match value {
        Value::Null => Some(EMPTY.iter()),
        Value::Object(entries) => Some(entries.iter()),
        _ => None,
    }
}

struct Items<'de, 'o, 'n> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Value>>,
    written: &'o mut Vec<Value>,
    of: &'o Node<'de, 'n>,
}

impl<'de> de::SeqAccess<'de> for Items<'de, '_, '_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((index, value)) = self.items.next() else { return Ok(None) };
        let mut out = Value::Null;
        let place =
            Place { step: Step::Index(index), up: Some(self.of.place), structure: self.of.place.structure };
        let item =
            seed.deserialize(Node { value, out: &mut out, place: &place, unknown: self.of.unknown })?;
        // An element never vanishes: what would be left out elsewhere stays as it came.
        self.written.push(if out.is_null() { value.clone() } else { out });
        Ok(Some(item))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'de, 'o, 'n> {
    entries: serde_json::map::Iter<'de>,
    /// The struct's name and fields; none for a map, whose keys are free.
    structure: Option<(&'static str, &'static [&'static str])>,
    current: Option<(&'de str, &'de Value)>,
    written: &'o mut Map<String, Value>,
    of: &'o Node<'de, 'n>,
}

impl<'de, 'o, 'n> Entries<'de, 'o, 'n> {
    fn new(
        entries: serde_json::map::Iter<'de>,
        structure: Option<(&'static str, &'static [&'static str])>,
        written: &'o mut Map<String, Value>,
        of: &'o Node<'de, 'n>,
    ) -> Self {
        Self { entries, structure, current: None, written, of }
    }

    fn place<'p>(&self, key: &'p str) -> Place<'p>
    where
        'o: 'p,
    {
        match self.structure {
            Some((name, _)) => Place { step: Step::Field(key), up: Some(self.of.place), structure: name },
            None => {
                Place { step: Step::Entry(key), up: Some(self.of.place), structure: self.of.place.structure }
            }
        }
    }
}

impl<'de> de::MapAccess<'de> for Entries<'de, '_, '_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        while let Some((key, value)) = self.entries.next() {
            if let Some((_, fields)) = self.structure {
                if !fields.contains(&key.as_str()) {
                    let place = self.place(key);
                    self.of.unknown.borrow_mut().push(place.full());
                    continue;
                }
                if value.is_null() {
                    continue;
                }
            }
            self.current = Some((key, value));
            return seed.deserialize(key.as_str().into_deserializer()).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let Some((key, value)) = self.current.take() else {
            return Err(Fault("a value without its key".into()));
        };
        let mut out = Value::Null;
        let place = self.place(key);
        let item =
            seed.deserialize(Node { value, out: &mut out, place: &place, unknown: self.of.unknown })?;
        if !out.is_null() {
            self.written.insert(key.to_owned(), out);
        }
        Ok(item)
    }
}
