//! Reading a request's body: bounded, JSON or YAML, and refused in Kubernetes' words.

use std::collections::HashSet;

use axum::body::Body;
use bytes::Bytes;
use hitless_types::status::ApiFault;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::{fault::Fault, negotiate::BodyType, protobuf};

/// The whole body.
///
/// # Errors
/// 413 when it is longer than `bytes_max`; 400 when it breaks off.
pub(crate) async fn read(body: Body, bytes_max: usize) -> Result<Bytes, Fault> {
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(ApiFault::TooLarge(format!("Request entity too large: limit is {bytes_max}")).into())
        }
        Err(error) => Err(Fault::bad_request(format!("unable to read the request's body: {error}"))),
    }
}

/// The body as a value.
///
/// # Errors
/// 400 with Go's words for what is not JSON.
pub(crate) fn parse(bytes: &[u8], form: BodyType) -> Result<Value, Fault> {
    if form == BodyType::Protobuf {
        return protobuf::parse(bytes);
    }
    if form == BodyType::Yaml {
        return serde_yaml_ng::from_slice(bytes)
            .map_err(|e| Fault::bad_request(format!("error converting YAML to JSON: yaml: {e}")));
    }
    serde_json::from_slice(bytes).map_err(|error| Fault::bad_request(json_words(bytes, &error)))
}

/// What Go's decoder says of text that `serde_json` refuses.
fn json_words(bytes: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let line = bytes.split(|b| *b == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let rest = line.get(error.column().saturating_sub(1)..).unwrap_or_default();
    let Some(found) = String::from_utf8_lossy(rest).chars().next() else { return error.to_string() };
    let words = error.to_string();
    let place = [
        ("expected value", "looking for beginning of value"),
        ("key must be a string", "looking for beginning of object key string"),
        ("expected `:`", "after object key"),
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
        ("trailing characters", "after top-level value"),
        ("trailing comma", "looking for beginning of value"),
        ("control character", "in string literal"),
        ("invalid number", "in numeric literal"),
        ("invalid escape", "in string escape code"),
        ("expected ident", "in literal"),
    ];
    match place.iter().find(|(start, _)| words.starts_with(start)) {
        Some((_, place)) => format!("invalid character {found:?} {place}"),
        None => words,
    }
}

/// Fields that stand twice in one object of a text, with their paths; the last one counts. At most [`DOUBLED_MAX`].
pub(crate) fn doubled(bytes: &[u8], form: BodyType) -> Vec<String> {
    let mut found = Vec::new();
    let twice = Twice { path: String::new(), found: &mut found };
    // Text that cannot be read is refused elsewhere.
    let _read = match form {
        BodyType::Json => twice.deserialize(&mut serde_json::Deserializer::from_slice(bytes)).is_ok(),
        BodyType::Yaml => twice.deserialize(serde_yaml_ng::Deserializer::from_slice(bytes)).is_ok(),
        _ => true,
    };
    found
}

/// So many are told.
const DOUBLED_MAX: usize = 20;

/// Walks through a value and keeps what stands twice.
struct Twice<'f> {
    path: String,
    found: &'f mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Twice<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! scalars {
    ($($method:ident $type:ty),*) => {$(
        fn $method<E>(self, _value: $type) -> Result<(), E> {
            Ok(())
        }
    )*};
}

impl<'de> Visitor<'de> for Twice<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    scalars!(visit_bool bool, visit_i64 i64, visit_u64 u64, visit_f64 f64, visit_str &str);

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        for index in 0.. {
            let path = format!("{}[{index}]", self.path);
            if items.next_element_seed(Twice { path, found: self.found })?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = entries.next_key::<String>()? {
            let path = if self.path.is_empty() { name.clone() } else { format!("{}.{name}", self.path) };
            if !seen.insert(name) && self.found.len() < DOUBLED_MAX {
                self.found.push(path.clone());
            }
            entries.next_value_seed(Twice { path, found: self.found })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_twice_is_found() {
        let text = br#"{"a": 1, "a": 2, "b": [{"c": {"d": null, "d": true}}], "e": {"a": "x"}}"#;
        let doubled = |text: &[u8]| doubled(text, BodyType::Json);
        assert_eq!(doubled(text), ["a", "b[0].c.d"]);
        assert_eq!(super::doubled(b"a:\n  b: 1\n  b: 2\n", BodyType::Yaml), ["a.b"]);
        assert!(doubled(b"{} x").is_empty() && doubled(b"{").is_empty());
        assert_eq!(doubled(format!("{{{}}}", vec![r#""a":1"#; 99].join(",")).as_bytes()).len(), DOUBLED_MAX);
    }

    #[test]
    fn what_is_not_json_is_refused_in_gos_words() {
        let words = |text: &str| parse(text.as_bytes(), BodyType::Json).unwrap_err().message().to_owned();
        assert_eq!(words("{\"a\":"), "unexpected end of JSON input");
        assert_eq!(words(""), "unexpected end of JSON input");
        assert_eq!(words("hello"), "invalid character 'h' looking for beginning of value");
        assert_eq!(words("{a:1}"), "invalid character 'a' looking for beginning of object key string");
        assert_eq!(words("{\"a\" 1}"), "invalid character '1' after object key");
        assert_eq!(words("{\"a\":1 2}"), "invalid character '2' after object key:value pair");
        assert_eq!(words("{} x"), "invalid character 'x' after top-level value");
    }

    #[test]
    fn yaml_is_taken() {
        assert_eq!(parse(b"a: [1, x]", BodyType::Yaml), Ok(serde_json::json!({"a": [1, "x"]})));
    }
}
