//! What is fuzzed: a function for each target, from bytes to nothing.
//!
//! Why functions: libFuzzer runs them for as long as one likes (`cargo xtask fuzz TARGET`), and the tests of this package run them over
//! damaged seeds each time. A target panics where a promise is broken: the code under test must not panic by itself, and what is taken must
//! come out as it was understood.

mod archives;
mod dns;
mod patches;
#[cfg(test)]
mod tests;

pub use archives::archives;
pub use dns::dns;
use hitless_types::{quantity::Quantity, selector};
pub use patches::patches;

/// Label and field selectors: any text, looked at with a few labels.
pub fn selectors(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let labels = [("app", "web"), ("example.com/tier", ""), ("n", "7")];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    if let Ok(requirements) = selector::parse_labels(text) {
        let matched = requirements.matches(&labels);
        assert!(matched || !requirements.is_empty(), "{text:?} asks for nothing, and is not met");
    }
    let object = serde_json::json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"nodeName": "node-1"}});
    if let Ok(fields) = selector::parse_fields(text) {
        let _either = fields.matches(&object);
        for kind in hitless_types::kinds::all() {
            let _either = fields.check(kind);
        }
    }
}

/// Quantities: what is written out reads as the same amount, and sums stay within bounds.
pub fn quantities(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(quantity) = text.parse::<Quantity>() else { return };
    let again = quantity.to_string().parse::<Quantity>();
    assert_eq!(again, Ok(quantity), "{text:?} is written as {quantity}");
    let twice = quantity + quantity;
    assert!(twice - quantity <= twice || quantity.is_negative(), "{text:?}");
    let _bounded = (quantity.milli(), quantity.bytes());
}
