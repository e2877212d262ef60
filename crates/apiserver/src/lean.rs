//! Objects without `metadata.managedFields`, for clients that ask so in the header `Hitless-Omit`.
//!
//! Half of a Pod's text is managed fields, which only people and appliers look at. The cluster's own clients ask for objects
//! without them; the server then leaves them out of the stored text, and decodes nothing for it.
//!
//! Invariant: nothing but the metadata's own field is left out; text that is not as expected is shown whole.

use std::ops::Range;

use axum::http::HeaderMap;
use hitless_types::well_known::{MANAGED_FIELDS, OMIT_HEADER};
use serde_json::Value;

/// Whether the client asks for objects without managed fields.
pub(crate) fn wanted(headers: &HeaderMap) -> bool {
    headers.get(OMIT_HEADER).is_some_and(|value| value.as_bytes() == MANAGED_FIELDS.as_bytes())
}

/// Takes the managed fields out of a decoded object.
pub(crate) fn strip(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove(MANAGED_FIELDS);
    }
}

/// What to leave out of `text`, which begins behind the opening brace of the metadata.
pub(crate) fn managed_fields(text: &[u8]) -> Option<Range<usize>> {
    let mut at = 0;
    while *text.get(at)? == b'"' {
        let name_end = string_end(text, at)?;
        let value_end = value_end(text, name_end + 1)?;
        if text.get(at + 1..name_end - 1)? == MANAGED_FIELDS.as_bytes() {
            // One comma goes with it: the one behind it, or in front of it if it is the last.
            return Some(match text.get(value_end)? {
                b',' => at..value_end + 1,
                _ => at.saturating_sub(1)..value_end,
            });
        }
        at = value_end + usize::from(*text.get(value_end)? == b',');
    }
    None
}

/// Where the string that begins at `at` has ended.
fn string_end(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Where the value that begins at `at` has ended.
fn value_end(text: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        match text.get(at)? {
            b'"' => at = string_end(text, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
                continue;
            }
            b',' | b'}' if depth == 0 => return Some(at),
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn without(text: &str) -> Option<String> {
        managed_fields(text.as_bytes()).map(|out| format!("{}{}", &text[..out.start], &text[out.end..]))
    }

    #[test]
    fn only_the_metadatas_own_field_is_left_out() {
        let in_the_middle = r#""name":"a","managedFields":[{"x":"]\"}","y":[1]}],"uid":"u"},"spec":{}}"#;
        assert_eq!(without(in_the_middle).unwrap(), r#""name":"a","uid":"u"},"spec":{}}"#);
        let last = r#""name":"a","generation":2,"managedFields":[]},"spec":{"managedFields":[1]}}"#;
        assert_eq!(without(last).unwrap(), r#""name":"a","generation":2},"spec":{"managedFields":[1]}}"#);
        for none in [
            r#""name":"a","annotations":{"managedFields":"x"}},"spec":{"managedFields":[1]}}"#,
            r#""name":"\"managedFields\":[1],"},"managedFields":[1]}"#,
            r#""name":"cut of"#,
            "",
        ] {
            assert_eq!(without(none), None, "{none}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z\"\\\\{}\\[\\],:é]{0,8}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-z\"\\\\{}]{1,4}", inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Cutting the text gives what decoding, removing and encoding give, wherever the field stands.
        #[test]
        fn cutting_is_removing(
            front in prop::collection::vec(("[a-f\"\\\\]{1,3}", value()), 1..4),
            managed in value(),
            back in prop::collection::vec(("[g-k]{1,3}", value()), 0..3),
            spec in value(),
        ) {
            let mut metadata: serde_json::Map<String, Value> = front.into_iter().collect();
            metadata.insert(MANAGED_FIELDS.into(), managed);
            metadata.extend(back);
            let mut object = json!({"metadata": metadata, "spec": spec});
            let text = object.to_string();
            let (head, rest) = text.split_at(r#"{"metadata":{"#.len());
            let cut = managed_fields(rest.as_bytes()).unwrap();
            strip(&mut object);
            prop_assert_eq!(format!("{head}{}{}", &rest[..cut.start], &rest[cut.end..]), object.to_string());
        }
    }
}
