//! Bodies in Kubernetes' protobuf encoding, as values. `kubectl create` and `kubectl drain` send their objects so.
//!
//! Only reading: answers are JSON, which those clients take too. What the wire says becomes what the same client would have
//! written as JSON: a field that Go leaves out at its zero is left out here, so the typed checks after it are the same.

mod schema;
mod wire;

use base64::{Engine, engine::general_purpose::STANDARD};
use hitless_base::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    core::{micros_text, seconds_text},
    fault::Fault,
};
use schema::{Field, Schema, Shape};
use wire::{Raw, Reader, WireError};

/// What a body in this encoding begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Messages in messages: deeper than any object of Kubernetes.
const DEPTH_MAX: usize = 64;

/// Why a body cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum DecodeError {
    #[error("it does not begin with the four bytes of this encoding")]
    Magic,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("{field}: it is of another wire type than the field")]
    WireType { field: &'static str },
    #[error("messages are nested too deeply")]
    Depth,
}

/// The object in the body.
///
/// # Errors
/// 400 for bytes that are not this encoding, 415 for a kind that has no such encoding.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Fault> {
    let bad =
        |error: DecodeError| Fault::bad_request(format!("the protobuf body cannot be decoded: {error}"));
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| bad(DecodeError::Magic))?;
    let envelope = envelope(rest).map_err(bad)?;
    let schema = Schema::get();
    let Some(message) = schema.of_kind(&envelope.api_version, &envelope.kind) else {
        let types = ["application/json", "application/yaml"].map(str::to_owned);
        return Err(hitless_types::status::ApiFault::UnsupportedMediaType(types.into()).into());
    };
    let mut fields = Map::new();
    message_into(schema, message, envelope.raw, &mut fields, 0).map_err(bad)?;
    for (name, text) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
        fields.insert(name.to_owned(), text.into());
    }
    Ok(Value::Object(fields))
}

struct Envelope<'b> {
    api_version: String,
    kind: String,
    raw: &'b [u8],
}

fn envelope(bytes: &[u8]) -> Result<Envelope<'_>, DecodeError> {
    let mut envelope = Envelope { api_version: String::new(), kind: String::new(), raw: b"" };
    for item in Reader::new(bytes) {
        match item? {
            (1, Raw::Bytes(types)) => {
                for item in Reader::new(types) {
                    match item? {
                        (1, Raw::Bytes(text)) => envelope.api_version = lossy(text),
                        (2, Raw::Bytes(text)) => envelope.kind = lossy(text),
                        _ => {}
                    }
                }
            }
            (2, Raw::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Ok(envelope)
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn message_into(
    schema: &'static Schema,
    message: &'static [Field],
    bytes: &[u8],
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), DecodeError> {
    if depth > DEPTH_MAX {
        return Err(DecodeError::Depth);
    }
    for item in Reader::new(bytes) {
        let (number, raw) = item?;
        let Some(field) = message.iter().find(|f| f.number == number) else { continue };
        if field.inline {
            if let (Shape::Message(inner), Raw::Bytes(bytes)) = (field.shape, raw) {
                message_into(schema, schema.message(inner), bytes, out, depth + 1)?;
            }
            continue;
        }
        if field.map {
            let Raw::Bytes(entry) = raw else { return Err(DecodeError::WireType { field: field.name }) };
            let (key, value) = entry_of(schema, field, entry, depth)?;
            child(out, field.name, || json!({})).as_object_mut().map(|map| map.insert(key, value));
            continue;
        }
        if field.list {
            let items = list_items(schema, field, raw, depth)?;
            if let Some(list) = child(out, field.name, || json!([])).as_array_mut() {
                list.extend(items);
            }
            continue;
        }
        if let Some(value) = value(schema, field, raw, depth)? {
            out.insert(field.name.to_owned(), value);
        }
    }
    Ok(())
}

fn child<'m>(out: &'m mut Map<String, Value>, name: &str, new: fn() -> Value) -> &'m mut Value {
    out.entry(name.to_owned()).or_insert_with(new)
}

fn entry_of(
    schema: &'static Schema,
    field: &Field,
    entry: &[u8],
    depth: usize,
) -> Result<(String, Value), DecodeError> {
    let (mut key, mut found) = (String::new(), None);
    for item in Reader::new(entry) {
        match item? {
            (1, Raw::Bytes(text)) => key = lossy(text),
            (2, raw) => found = Some(always(schema, field, raw, depth)?),
            _ => {}
        }
    }
    Ok((key, found.unwrap_or_else(|| "".into())))
}

fn list_items(
    schema: &'static Schema,
    field: &Field,
    raw: Raw<'_>,
    depth: usize,
) -> Result<Vec<Value>, DecodeError> {
    // Numbers may come packed, one after another in one field.
    if let (Shape::Integer, Raw::Bytes(packed)) = (field.shape, raw) {
        return wire::packed(packed).map(|n| Ok(Value::from(signed(n?)))).collect();
    }
    Ok(vec![always(schema, field, raw, depth)?])
}

/// The value, also where it is zero: elements of lists and maps are never left out.
fn always(schema: &'static Schema, field: &Field, raw: Raw<'_>, depth: usize) -> Result<Value, DecodeError> {
    let said = Field { said: true, ..*field };
    Ok(value(schema, &said, raw, depth)?.unwrap_or(Value::Null))
}

fn signed(number: u64) -> i64 {
    i64::from_ne_bytes(number.to_ne_bytes())
}

/// The field's value; `None` where Go would leave it out.
fn value(
    schema: &'static Schema,
    field: &Field,
    raw: Raw<'_>,
    depth: usize,
) -> Result<Option<Value>, DecodeError> {
    let mismatch = || DecodeError::WireType { field: field.name };
    Ok(match (field.shape, raw) {
        (Shape::Text, Raw::Bytes(text)) => {
            Some(lossy(text)).filter(|t| field.said || !t.is_empty()).map(Value::from)
        }
        (Shape::Bytes, Raw::Bytes(bytes)) => Some(STANDARD.encode(bytes).into()),
        (Shape::Bool, Raw::Varint(number)) => Some(number != 0).filter(|b| field.said || *b).map(Value::from),
        (Shape::Integer, Raw::Varint(number)) => {
            Some(signed(number)).filter(|n| field.said || *n != 0).map(Value::from)
        }
        (Shape::Float, Raw::Fixed64(bits)) => Some(json!(f64::from_bits(bits))),
        (Shape::Message(inner), Raw::Bytes(bytes)) => {
            let mut fields = Map::new();
            message_into(schema, schema.message(inner), bytes, &mut fields, depth + 1)?;
            Some(Value::Object(fields))
        }
        (Shape::Time, Raw::Bytes(bytes)) => time(bytes)?.map(|t| seconds_text(t).into()),
        (Shape::MicroTime, Raw::Bytes(bytes)) => time(bytes)?.map(|t| micros_text(t).into()),
        (Shape::Quantity, Raw::Bytes(bytes)) => {
            let text = Reader::new(bytes).find_map(|item| match item {
                Ok((1, Raw::Bytes(text))) => Some(lossy(text)),
                _ => None,
            });
            Some(text.filter(|t| !t.is_empty()).unwrap_or_else(|| "0".to_owned()).into())
        }
        (Shape::IntOrString, Raw::Bytes(bytes)) => Some(int_or_string(bytes)?),
        _ => return Err(mismatch()),
    })
}

/// Seconds and nanoseconds; nothing at all is no time.
fn time(bytes: &[u8]) -> Result<Option<Timestamp>, DecodeError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0, 0);
    for item in Reader::new(bytes) {
        match item? {
            (1, Raw::Varint(number)) => seconds = signed(number),
            (2, Raw::Varint(number)) => nanos = signed(number),
            _ => {}
        }
    }
    Ok(Timestamp::new(seconds, i32::try_from(nanos).unwrap_or_default()).ok())
}

fn int_or_string(bytes: &[u8]) -> Result<Value, DecodeError> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for item in Reader::new(bytes) {
        match item? {
            (1, Raw::Varint(type_)) => is_text = type_ == 1,
            (2, Raw::Varint(n)) => number = signed(n),
            (3, Raw::Bytes(t)) => text = lossy(t),
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

#[cfg(test)]
mod tests;
