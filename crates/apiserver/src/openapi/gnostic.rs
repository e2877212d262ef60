//! An OpenAPI version 2 document in the protobuf encoding in which kubectl asks for it.
//!
//! Only what [`super::document_v2`] writes is known here. Field numbers are those of the public `openapi.v2` messages.

use serde_json::{Map, Value};

/// The media types under which clients ask for this encoding. It is sent under the first: what the other has in it
/// (`@`) is no media type, though clients ask for it.
pub(crate) const MEDIA: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
            number >>= 7;
        }
        self.0.push(u8::try_from(number).unwrap_or_default());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// Text, where there is any.
    fn text(&mut self, field: u64, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str).filter(|text| !text.is_empty()) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u64, value: Option<&Value>) {
        for text in list(value) {
            self.bytes(field, text.as_str().unwrap_or_default().as_bytes());
        }
    }

    fn flag(&mut self, field: u64, value: Option<&Value>) {
        if value.and_then(Value::as_bool) == Some(true) {
            self.varint(field << 3);
            self.varint(1);
        }
    }

    fn message(&mut self, field: u64, inner: &Self) {
        self.bytes(field, &inner.0);
    }

    /// `NamedX { name = 1; value = 2 }`
    fn named(&mut self, field: u64, name: &str, value: &Self) {
        let mut pair = Self::default();
        pair.bytes(1, name.as_bytes());
        pair.message(2, value);
        self.message(field, &pair);
    }

    /// Every `x-` field, as YAML (which JSON is).
    fn extensions(&mut self, field: u64, of: &Value) {
        for (name, value) in entries(Some(of)).filter(|(name, _)| name.starts_with("x-")) {
            self.named(field, name, &any(value));
        }
    }
}

fn any(value: &Value) -> Message {
    let mut message = Message::default();
    message.bytes(2, value.to_string().as_bytes());
    message
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn entries(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

/// The document's bytes.
pub(crate) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, document.get("swagger"));
    let mut info = Message::default();
    info.text(1, document.pointer("/info/title"));
    info.text(2, document.pointer("/info/version"));
    out.message(2, &info);
    let mut paths = Message::default();
    for (path, item) in entries(document.get("paths")) {
        paths.named(2, path, &path_item(item));
    }
    out.message(8, &paths);
    let mut definitions = Message::default();
    for (name, schema) in entries(document.get("definitions")) {
        definitions.named(1, name, &self::schema(schema));
    }
    out.message(9, &definitions);
    out.0
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(operation) = item.get(method) {
            out.message(field, &self::operation(operation));
        }
    }
    for parameter in list(item.get("parameters")) {
        out.message(9, &self::parameter(parameter));
    }
    out
}

fn operation(operation: &Value) -> Message {
    let mut out = Message::default();
    out.text(5, operation.get("operationId"));
    out.texts(6, operation.get("produces"));
    out.texts(7, operation.get("consumes"));
    for parameter in list(operation.get("parameters")) {
        out.message(8, &self::parameter(parameter));
    }
    let mut responses = Message::default();
    for (code, response) in entries(operation.get("responses")) {
        let (mut value, mut inner, mut item) = (Message::default(), Message::default(), Message::default());
        inner.text(1, response.get("description"));
        if let Some(schema) = response.get("schema") {
            item.message(1, &self::schema(schema));
            inner.message(2, &item);
        }
        value.message(1, &inner);
        responses.named(1, code, &value);
    }
    out.message(9, &responses);
    out.extensions(13, operation);
    out
}

/// `ParametersItem { Parameter { body_parameter | non_body_parameter } }`
fn parameter(parameter: &Value) -> Message {
    let place = parameter.get("in").and_then(Value::as_str).unwrap_or_default();
    let (mut own, mut either) = (Message::default(), Message::default());
    if place == "body" {
        own.text(2, parameter.get("name"));
        own.text(3, parameter.get("in"));
        own.flag(4, parameter.get("required"));
        if let Some(schema) = parameter.get("schema") {
            own.message(5, &self::schema(schema));
        }
        either.message(1, &own);
    } else {
        own.flag(1, parameter.get("required"));
        own.text(2, parameter.get("in"));
        own.text(4, parameter.get("name"));
        let (of_type, kind) = if place == "path" { (5, 4) } else { (6, 3) };
        own.text(of_type, parameter.get("type"));
        let mut other = Message::default();
        other.message(kind, &own);
        either.message(2, &other);
    }
    let mut item = Message::default();
    item.message(1, &either);
    item
}

fn schema(of: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, of.get("$ref"));
    out.text(2, of.get("format"));
    out.text(4, of.get("description"));
    if let Some(default) = of.get("default") {
        out.message(5, &any(default));
    }
    out.texts(19, of.get("required"));
    if let Some(inner) = of.get("additionalProperties") {
        let mut item = Message::default();
        item.message(1, &schema(inner));
        out.message(21, &item);
    }
    if let Some(name) = of.get("type").and_then(Value::as_str) {
        let mut item = Message::default();
        item.bytes(1, name.as_bytes());
        out.message(22, &item);
    }
    if let Some(inner) = of.get("items") {
        let mut item = Message::default();
        item.message(1, &schema(inner));
        out.message(23, &item);
    }
    if of.get("properties").is_some() {
        let mut properties = Message::default();
        for (name, inner) in entries(of.get("properties")) {
            properties.named(1, name, &schema(inner));
        }
        out.message(25, &properties);
    }
    out.extensions(31, of);
    out
}
