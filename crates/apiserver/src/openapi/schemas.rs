//! The schemas of OpenAPI documents, from the table of types: what `kubectl explain` shows, and by which keys clients merge.
//!
//! Versions 2 and 3 differ in where a schema stands, in how a reference may be annotated, and in how a value of two types
//! is written; the rest is the same.

use hitless_types::{
    kinds::Kind,
    schema::{self, Elements, Field, Object, Schema, Shape},
};
use serde_json::{Map, Value, json};

/// Which OpenAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    /// A reference to a schema by its name. Without a name: plain text.
    pub(super) fn reference(self, name: &str) -> Value {
        match self {
            _ if name.is_empty() => json!({"type": "string"}),
            Self::V2 => json!({ "$ref": format!("#/definitions/{name}") }),
            Self::V3 => json!({ "$ref": format!("#/components/schemas/{name}") }),
        }
    }
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// `core.Pod` as Kubernetes' documents name it: `io.k8s.api.core.v1.Pod`.
pub(super) fn public_name(type_name: &str) -> String {
    let (stem, name) = type_name.split_once('.').unwrap_or(("", type_name));
    match stem {
        "meta" => format!("{META}.{name}"),
        "hitless" => format!("dev.hitless.v1alpha1.{name}"),
        stem => match stem.strip_suffix('2') {
            Some(stem) => format!("io.k8s.api.{stem}.v2.{name}"),
            None => format!("io.k8s.api.{stem}.v1.{name}"),
        },
    }
}

/// The name of a kind's schema.
pub(super) fn name_of_kind(group: &str, version: &str, kind: &str) -> String {
    public_name(&schema::type_name(group, version, kind))
}

/// Schemas that are added as they are referred to.
pub(super) struct Schemas {
    dialect: Dialect,
    all: Map<String, Value>,
    todo: Vec<usize>,
}

impl Schemas {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self { dialect, all: Map::new(), todo: Vec::new() }
    }

    /// Adds a kind, its list, and all that they are made of.
    pub(super) fn add_kind(&mut self, kind: &Kind) {
        let name = name_of_kind(kind.group, kind.version, kind.kind);
        let own = match Schema::get().of_kind(kind) {
            Some(Shape::Object(place)) => self.object(Schema::get().object(place)),
            // Nothing is known of its fields.
            _ => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        };
        let description = format!("{} of {}.", kind.kind, kind.api_version());
        self.add_top(&name, own, &description, (kind.group, kind.version, kind.kind));
        let list_kind = format!("{}List", kind.kind);
        let items = json!({"type": "array", "items": self.dialect.reference(&name)});
        let metadata = self.refer_named("meta.ListMeta");
        let list = json!({
            "type": "object", "required": ["items"], "properties": {"items": items, "metadata": metadata},
        });
        let description = format!("A list of objects of kind {}.", kind.kind);
        self.add_top(
            &name_of_kind(kind.group, kind.version, &list_kind),
            list,
            &description,
            (kind.group, kind.version, &list_kind),
        );
    }

    /// Adds the body of a subresource.
    pub(super) fn add_named(&mut self, group: &str, version: &str, kind: &str) {
        let type_name = schema::type_name(group, version, kind);
        let name = public_name(&type_name);
        if let Some(object) = Schema::get().named(&type_name).filter(|_| !self.all.contains_key(&name)) {
            let own = self.object(Some(object));
            self.add_top(&name, own, &format!("{kind} of {group}/{version}."), (group, version, kind));
        }
    }

    fn add_top(&mut self, name: &str, mut own: Value, description: &str, gvk: (&str, &str, &str)) {
        let (group, version, kind) = gvk;
        if let Value::Object(map) = &mut own {
            map.insert("description".into(), description.into());
            let properties = map.entry("properties").or_insert_with(|| json!({}));
            if let Value::Object(properties) = properties {
                for (field, words) in [
                    ("apiVersion", "The group and version of this object's schema."),
                    ("kind", "The kind of this object."),
                ] {
                    properties.insert(field.into(), json!({"type": "string", "description": words}));
                }
                properties.sort_keys();
            }
            let gvk = json!([{"group": group, "version": version, "kind": kind}]);
            map.insert("x-kubernetes-group-version-kind".into(), gvk);
        }
        self.all.insert(name.to_owned(), own);
    }

    /// All schemas, closed under reference, in the order of their names.
    pub(super) fn finish(mut self) -> Map<String, Value> {
        while let Some(place) = self.todo.pop() {
            let Some(object) = Schema::get().object(place) else { continue };
            let name = public_name(object.name);
            if !self.all.contains_key(&name) {
                let own = self.object(Some(object));
                self.all.insert(name, own);
            }
        }
        self.all.sort_keys();
        self.all
    }

    fn refer_named(&mut self, type_name: &str) -> Value {
        if let Some(Shape::Object(place)) = Schema::get().place(type_name) {
            self.todo.push(place);
        }
        self.dialect.reference(&public_name(type_name))
    }

    fn object(&mut self, object: Option<&Object>) -> Value {
        let Some(object) = object else { return json!({"type": "object"}) };
        let mut properties = Map::new();
        for field in &object.fields {
            properties.insert(field.name.to_owned(), self.field(field));
        }
        let mut own = Map::new();
        own.insert("type".into(), "object".into());
        if !properties.is_empty() {
            own.insert("properties".into(), properties.into());
        }
        let required: Vec<&str> = object.fields.iter().filter(|f| f.required).map(|f| f.name).collect();
        if !required.is_empty() {
            own.insert("required".into(), json!(required));
        }
        if object.atomic {
            own.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        Value::Object(own)
    }

    fn field(&mut self, field: &Field) -> Value {
        let mut own = self.shape(&field.shape);
        let mut marks = Map::new();
        match &field.elements {
            Elements::Usual => {}
            Elements::Atomic => drop(marks.insert("x-kubernetes-map-type".into(), "atomic".into())),
            Elements::Set => drop(marks.insert("x-kubernetes-list-type".into(), "set".into())),
            Elements::Keys(keys) => {
                marks.insert("x-kubernetes-list-type".into(), "map".into());
                marks.insert("x-kubernetes-list-map-keys".into(), json!(keys));
            }
        }
        let patch = field.patch;
        let strategies =
            [("replace", patch.replace), ("merge", patch.merge.is_some()), ("retainKeys", patch.retain)];
        let strategies: Vec<&str> = strategies.iter().filter(|s| s.1).map(|s| s.0).collect();
        if !strategies.is_empty() {
            marks.insert("x-kubernetes-patch-strategy".into(), strategies.join(",").into());
        }
        if let Some(key) = patch.merge.filter(|key| !key.is_empty()) {
            marks.insert("x-kubernetes-patch-merge-key".into(), key.into());
        }
        if let Some(default) = &field.default {
            marks.insert("default".into(), default.clone());
        }
        if marks.is_empty() {
            return own;
        }
        // Beside a reference nothing else counts in version 3.
        if self.dialect == Dialect::V3 && own.get("$ref").is_some() {
            own = json!({ "allOf": [own] });
        }
        if let Value::Object(map) = &mut own {
            map.extend(marks);
        }
        own
    }

    fn shape(&mut self, shape: &Shape) -> Value {
        match shape {
            Shape::Text => json!({"type": "string"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Int => json!({"type": "integer", "format": "int32"}),
            Shape::Long => json!({"type": "integer", "format": "int64"}),
            Shape::Float => json!({"type": "number", "format": "double"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Any => json!({"type": "object"}),
            Shape::Time => self.scalar(TIME, json!({"type": "string", "format": "date-time"})),
            Shape::MicroTime => self.scalar(MICRO_TIME, json!({"type": "string", "format": "date-time"})),
            Shape::Quantity => {
                let own = self.either(json!([{"type": "string"}, {"type": "number"}]), Value::Null);
                self.scalar(QUANTITY, own)
            }
            Shape::IntOrString => {
                let own =
                    self.either(json!([{"type": "integer"}, {"type": "string"}]), "int-or-string".into());
                self.scalar(INT_OR_STRING, own)
            }
            Shape::Object(place) => {
                self.todo.push(*place);
                let name = Schema::get().object(*place).map(|object| public_name(object.name));
                self.dialect.reference(&name.unwrap_or_default())
            }
            Shape::List(item) => json!({"type": "array", "items": self.shape(item)}),
            Shape::Map(value) => json!({"type": "object", "additionalProperties": self.shape(value)}),
        }
    }

    /// One of two types, which version 2 cannot say.
    fn either(&self, types: Value, format: Value) -> Value {
        let mut own = match self.dialect {
            Dialect::V2 => json!({"type": "string"}),
            Dialect::V3 => json!({ "oneOf": types }),
        };
        if let (Value::Object(map), false) = (&mut own, format.is_null()) {
            map.insert("format".into(), format);
        }
        own
    }

    fn scalar(&mut self, name: &str, own: Value) -> Value {
        self.all.entry(name.to_owned()).or_insert(own);
        self.dialect.reference(name)
    }
}
