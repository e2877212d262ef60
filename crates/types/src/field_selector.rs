//! Field selectors: `metadata.name=x,status.phase!=Running`.
//!
//! Which fields a kind allows is part of its row ([`Kind::fields`]); a field that an object leaves out counts as
//! its zero value. See <https://kubernetes.io/docs/concepts/overview/working-with-objects/field-selectors/>.

use serde_json::Value;

use crate::{kinds::Kind, selector::SelectorError};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: String,
    value: String,
    equal: bool,
}

/// A conjunction of comparisons of fields with text. Without any it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

/// Reads a selector as text. `=`, `==` and `!=`; a backslash keeps `,`, `=` and itself from their meaning.
///
/// # Errors
/// A term without a comparison, or a backslash before anything else.
pub fn parse_fields(text: &str) -> Result<FieldSelector, SelectorError> {
    let mut terms = Vec::new();
    for term in split_terms(text) {
        if term.is_empty() {
            continue;
        }
        let (field, equal, value) = split_comparison(term).ok_or_else(|| {
            SelectorError::new(format!("invalid selector: '{text}'; can't understand '{term}'"))
        })?;
        terms.push(Term { field: field.to_owned(), value: unescape(value)?, equal });
    }
    Ok(FieldSelector { terms })
}

impl FieldSelector {
    /// Whether every term holds. A missing field is the empty text (a boolean `false`, a count `0`).
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|t| (field_text(object, &t.field) == t.value) == t.equal)
    }

    /// Whether the kind knows every field that is named here.
    ///
    /// # Errors
    /// Kubernetes' words for the first field that it does not know.
    pub fn check(&self, kind: &Kind) -> Result<(), SelectorError> {
        for term in &self.terms {
            let field = term.field.as_str();
            if field == "metadata.name" || field == "metadata.namespace" || kind.fields.contains(&field) {
                continue;
            }
            return Err(SelectorError::new(if kind.fields.is_empty() {
                format!(
                    "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                )
            } else {
                format!("field label not supported: {field}")
            }));
        }
        Ok(())
    }

    /// The value that the field must have, if a term says so: lets a lookup by name replace a scan.
    #[must_use]
    pub fn required(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }

    /// Whether there is no term: everything matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }
}

/// Splits at commas that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(text.get(start..i).unwrap_or_default());
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(text.get(start..).unwrap_or_default());
    terms
}

fn split_comparison(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    ["!=", "==", "="].iter().find_map(|sign| Some((field, *sign != "!=", rest.strip_prefix(sign)?)))
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(kept @ ('\\' | ',' | '=')) => plain.push(kept),
                other => {
                    let rest = other.map(String::from).unwrap_or_default();
                    return Err(SelectorError::new(format!(
                        "invalid field selector: invalid escape sequence: \\{rest}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(SelectorError::new(format!(
                    "invalid field selector: unescaped character in value: {c}"
                )));
            }
            _ => plain.push(c),
        }
    }
    Ok(plain)
}

/// Where a field's name is not its path, and what a field that is left out says.
fn field_text(object: &Value, field: &str) -> String {
    if field == "source" {
        let component = text_at(object, "source.component");
        return component
            .filter(|c| !c.is_empty())
            .or_else(|| text_at(object, "reportingComponent"))
            .unwrap_or_default();
    }
    text_at(object, field).unwrap_or_else(|| {
        match field {
            "spec.unschedulable" | "spec.hostNetwork" => "false",
            "status.replicas" => "0",
            _ => "",
        }
        .to_owned()
    })
}

fn text_at(object: &Value, path: &str) -> Option<String> {
    match path.split('.').try_fold(object, |value, key| value.get(key))? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn matches(text: &str, object: &Value) -> bool {
        parse_fields(text).unwrap().matches(object)
    }

    #[test]
    fn fields_by_path() {
        let pod =
            json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        for yes in [
            "",
            "metadata.name=a",
            "metadata.name==a,spec.nodeName!=n2",
            "status.phase!=Pending",
            "status.podIP=",
            "spec.hostNetwork=false",
        ] {
            assert!(matches(yes, &pod), "{yes}");
        }
        for no in
            ["metadata.name=b", "spec.nodeName!=n1", "status.podIP!=", "metadata.name=a,metadata.name=b"]
        {
            assert!(!matches(no, &pod), "{no}");
        }
        assert!(matches("source=kubelet", &json!({"reportingComponent": "kubelet"})));
        assert_eq!(parse_fields("metadata.name=a").unwrap().required("metadata.name"), Some("a"));
        assert_eq!(parse_fields("metadata.name!=a").unwrap().required("metadata.name"), None);
    }

    #[test]
    fn faults_in_kubernetes_words() {
        assert_eq!(parse_fields("a").unwrap_err().message, "invalid selector: 'a'; can't understand 'a'");
        assert!(parse_fields("a=b=c").is_err() && parse_fields("a=\\x").is_err());
        assert!(matches("a=b\\,c\\=d", &json!({"a": "b,c=d"})));
    }

    proptest! {
        #[test]
        fn any_text_is_a_selector_or_a_fault(text in "[a.=!,\\\\]{0,24}|\\PC{0,16}") {
            if let Ok(selector) = parse_fields(&text) {
                let _ = selector.matches(&json!({"a": 1}));
            }
        }
    }
}
