//! What the API's types are made of, read from one table (`types.txt`) when first asked for.
//!
//! Server-side apply must know which lists are maps by key and which values change as a whole; strategic merge its merge
//! keys; OpenAPI the shapes. All three read this table, so they cannot disagree.
//!
//! A kind that is not in the table has no schema: its maps merge, its lists are changed as a whole.

use std::{collections::HashMap, sync::OnceLock};

use serde_json::Value;

use crate::kinds::Kind;

const TEXT: &str = include_str!("types.txt");

/// What a value is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Text.
    Text,
    /// true or false.
    Bool,
    /// 32 bits.
    Int,
    /// 64 bits.
    Long,
    /// A number with a fraction.
    Float,
    /// Bytes, as base64.
    Bytes,
    /// A time in whole seconds.
    Time,
    /// A time in microseconds.
    MicroTime,
    /// A quantity (`250m`).
    Quantity,
    /// A number or text.
    IntOrString,
    /// Anything.
    Any,
    /// An object of the type with this place in the table; see [`Schema::object`].
    Object(usize),
    /// A list.
    List(Box<Shape>),
    /// A map from text.
    Map(Box<Shape>),
}

/// How a field's value changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Elements {
    /// As its shape does: lists as a whole, maps and objects part by part.
    #[default]
    Usual,
    /// As a whole.
    Atomic,
    /// A list that is a set of scalars.
    Set,
    /// A list of objects that is a map by these fields.
    Keys(Vec<&'static str>),
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// A list: merged by this field of its elements; an empty name: merged as a set.
    pub merge: Option<&'static str>,
    /// Only fields that the patch names with `$retainKeys` stay.
    pub retain: bool,
    /// Replaced even if it is an object.
    pub replace: bool,
}

/// A field of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name in JSON.
    pub name: &'static str,
    /// What it holds.
    pub shape: Shape,
    /// How that changes.
    pub elements: Elements,
    /// How strategic merge patches treat it.
    pub patch: Patch,
    /// Whether it must be said.
    pub required: bool,
    /// Whether Kubernetes writes it even where it is empty.
    pub always: bool,
    /// What it is where a list's key needs it and it is not said.
    pub default: Option<Value>,
}

/// A type: the fields of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// `core.PodSpec`.
    pub name: &'static str,
    /// Whether objects of this type change as a whole.
    pub atomic: bool,
    /// By name.
    pub fields: Vec<Field>,
}

impl Object {
    /// The field of this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|field| field.name.cmp(name)).ok().and_then(|at| self.fields.get(at))
    }
}

/// Every type.
#[derive(Debug)]
pub struct Schema {
    objects: Vec<Object>,
    places: HashMap<&'static str, usize>,
}

impl Schema {
    /// The table.
    #[must_use]
    pub fn get() -> &'static Self {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| Self::read(TEXT))
    }

    fn read(text: &'static str) -> Self {
        let lines = || text.lines().filter(|line| !line.starts_with('#'));
        let name = |line: &'static str| {
            let head = line.split('|').next().unwrap_or_default();
            head.split(' ').next().unwrap_or_default()
        };
        let places: HashMap<_, _> = lines().enumerate().map(|(at, line)| (name(line), at)).collect();
        let objects = lines().map(|line| object(line, &places)).collect();
        Self { objects, places }
    }

    /// The type at this place of the table.
    #[must_use]
    pub fn object(&self, place: usize) -> Option<&Object> {
        self.objects.get(place)
    }

    /// The type of this name (`core.PodSpec`).
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Object> {
        self.places.get(name).and_then(|place| self.objects.get(*place))
    }

    /// The shape of the type of this name.
    #[must_use]
    pub fn place(&self, name: &str) -> Option<Shape> {
        self.places.get(name).map(|place| Shape::Object(*place))
    }

    /// The shape of a kind's objects.
    #[must_use]
    pub fn of_kind(&self, kind: &Kind) -> Option<Shape> {
        self.place(&type_name(kind.group, kind.version, kind.kind))
    }

    /// Every type.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter()
    }
}

/// The table's name of a kind: `core.Pod`, `networking.Ingress`.
#[must_use]
pub fn type_name(group: &str, version: &str, kind: &str) -> String {
    let stem = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or_default() };
    let second = if version == "v2" { "2" } else { "" };
    format!("{stem}{second}.{kind}")
}

fn object(line: &'static str, places: &HashMap<&'static str, usize>) -> Object {
    let mut parts = line.split('|');
    let mut head = parts.next().unwrap_or_default().split(' ');
    let name = head.next().unwrap_or_default();
    let mut fields: Vec<Field> = parts.filter_map(|text| field(text, places)).collect();
    fields.sort_by_key(|field| field.name);
    Object { name, atomic: head.next() == Some("atomic"), fields }
}

fn field(text: &'static str, places: &HashMap<&'static str, usize>) -> Option<Field> {
    let mut words = text.split(' ');
    let (name, shape) = (words.next()?, shape(words.next()?, places)?);
    let mut field = Field {
        name,
        shape,
        elements: Elements::Usual,
        patch: Patch::default(),
        required: false,
        always: false,
        default: None,
    };
    for mark in words {
        match mark.split_once('=').unwrap_or((mark, "")) {
            ("!", _) => field.required = true,
            ("~", _) => field.always = true,
            ("atomic", _) => field.elements = Elements::Atomic,
            ("set", _) => field.elements = Elements::Set,
            ("keys", keys) => {
                let mut keys: Vec<&str> = keys.split(',').collect();
                keys.sort_unstable();
                field.elements = Elements::Keys(keys);
            }
            ("merge", key) => field.patch.merge = Some(key),
            ("retain", _) => field.patch.retain = true,
            ("replace", _) => field.patch.replace = true,
            ("default", json) => field.default = serde_json::from_str(json).ok(),
            _ => return None,
        }
    }
    Some(field)
}

fn shape(text: &'static str, places: &HashMap<&'static str, usize>) -> Option<Shape> {
    if let Some(item) = text.strip_prefix("[]") {
        return Some(Shape::List(Box::new(shape(item, places)?)));
    }
    if let Some(value) = text.strip_prefix("{}") {
        return Some(Shape::Map(Box::new(shape(value, places)?)));
    }
    Some(match text {
        "s" => Shape::Text,
        "b" => Shape::Bool,
        "i" => Shape::Int,
        "l" => Shape::Long,
        "f" => Shape::Float,
        "B" => Shape::Bytes,
        "T" => Shape::Time,
        "M" => Shape::MicroTime,
        "Q" => Shape::Quantity,
        "I" => Shape::IntOrString,
        "j" => Shape::Any,
        name => Shape::Object(*places.get(name)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn every_line_is_read_whole() {
        let schema = Schema::get();
        for line in TEXT.lines().filter(|line| !line.starts_with('#')) {
            let head = line.split('|').next().unwrap();
            let object = schema.named(head.split(' ').next().unwrap()).unwrap();
            assert_eq!(object.fields.len(), line.split('|').count() - 1, "{}", object.name);
            assert!(object.fields.is_sorted_by(|a, b| a.name < b.name), "{}", object.name);
        }
    }

    #[test]
    fn every_kind_has_a_type_with_metadata() {
        for kind in kinds::all() {
            let Some(Shape::Object(place)) = Schema::get().of_kind(kind) else {
                panic!("{} is not in the table", kind.kind)
            };
            let object = Schema::get().object(place).unwrap();
            assert!(object.field("metadata").is_some(), "{}", kind.kind);
            assert_eq!(object.field("status").is_some(), kind.status, "{}", kind.kind);
        }
    }

    #[test]
    fn marks_are_what_kubernetes_says() {
        let field = |of: &str, name: &str| Schema::get().named(of).unwrap().field(name).unwrap();
        assert_eq!(
            field("core.Container", "ports").elements,
            Elements::Keys(vec!["containerPort", "protocol"])
        );
        assert_eq!(field("core.Container", "ports").patch.merge, Some("containerPort"));
        assert_eq!(field("core.ContainerPort", "protocol").default, Some("TCP".into()));
        assert_eq!(field("meta.ObjectMeta", "finalizers").elements, Elements::Set);
        assert_eq!(field("core.PodSpec", "nodeSelector").elements, Elements::Atomic);
        assert!(Schema::get().named("meta.LabelSelector").unwrap().atomic);
        assert!(field("apps.DeploymentSpec", "strategy").patch.retain);
        assert!(field("apps.DeploymentSpec", "template").required);
    }
}
