//! Label selectors, as text and as `LabelSelector`, and selectors over a Service's map.
//!
//! The text form is the one of `kubectl -l`: `a=b,c!=d,e in (x,y),f notin (z),g,!h,i>1`.
//! See <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub use crate::field_selector::{FieldSelector, parse_fields};
use crate::names;

/// Why a selector cannot be read. The text is Kubernetes' own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SelectorError {
    /// What is wrong, as Kubernetes says it.
    pub message: String,
}

impl SelectorError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

/// A conjunction of requirements on labels. Without any it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    all: Vec<Requirement>,
}

impl Requirements {
    /// Whether every requirement holds for `labels`.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// As [`Requirements::matches`], for an object as JSON: reads `metadata.labels`.
    #[must_use]
    pub fn matches_object(&self, object: &serde_json::Value) -> bool {
        let labels = object.get("metadata").and_then(|m| m.get("labels"));
        self.matches_with(|key| labels.and_then(|l| l.get(key)).and_then(serde_json::Value::as_str))
    }

    /// Whether there is no requirement: everything matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.all.iter().all(|r| r.matches(get(&r.key)))
    }
}

impl Requirement {
    /// As Kubernetes defines it, a label that is absent satisfies `!=` and `notin`.
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
            Operator::NotIn(values) => value.is_none_or(|v| values.iter().all(|x| x != v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => number().is_some_and(|n| n > *bound),
            Operator::LessThan(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

/// Whether a Service's selector matches these labels. An empty selector selects nothing.
#[must_use]
pub fn matches_map(selector: &BTreeMap<String, String>, labels: Option<&BTreeMap<String, String>>) -> bool {
    !selector.is_empty()
        && labels.is_some_and(|labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

/// The requirements of a typed selector. An empty one matches everything, as in Kubernetes.
///
/// # Errors
/// An operator that does not exist, values where none belong or none where some do, keys or values that are not labels.
pub fn from_label_selector(selector: &LabelSelector) -> Result<Requirements, SelectorError> {
    let mut all = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        check_key(key)?;
        check_values(key, std::slice::from_ref(value))?;
        all.push(Requirement { key: key.clone(), operator: Operator::In(vec![value.clone()]) });
    }
    for expression in selector.match_expressions.iter().flatten() {
        check_key(&expression.key)?;
        let values = expression.values.clone().unwrap_or_default();
        check_values(&expression.key, &values)?;
        let operator = match (expression.operator.as_str(), values.is_empty()) {
            ("In", false) => Operator::In(values),
            ("NotIn", false) => Operator::NotIn(values),
            ("In" | "NotIn", true) => {
                return Err(SelectorError::new(
                    "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
                ));
            }
            ("Exists", true) => Operator::Exists,
            ("DoesNotExist", true) => Operator::DoesNotExist,
            ("Exists" | "DoesNotExist", false) => {
                return Err(SelectorError::new(
                    "values: Invalid value: values set must be empty for exists and does not exist",
                ));
            }
            (other, _) => {
                return Err(SelectorError::new(format!("{other:?} is not a valid label selector operator")));
            }
        };
        all.push(Requirement { key: expression.key.clone(), operator });
    }
    Ok(Requirements { all })
}

/// The requirements of a selector as text. The empty text matches everything.
///
/// # Errors
/// Text that is not a selector, with Kubernetes' words for what was found and expected.
pub fn parse_labels(text: &str) -> Result<Requirements, SelectorError> {
    let mut parser = Parser { tokens: tokens(text), position: 0 };
    let mut all = Vec::new();
    loop {
        match parser.peek() {
            Token::End => return Ok(Requirements { all }),
            Token::Word(_) | Token::Sign("!") => {}
            other => {
                return Err(SelectorError::new(format!(
                    "found '{other}', expected: !, identifier, or 'end of string'"
                )));
            }
        }
        let requirement = parser
            .requirement()
            .map_err(|e| SelectorError::new(format!("unable to parse requirement: {}", e.message)))?;
        all.push(requirement);
        match parser.take() {
            Token::End => return Ok(Requirements { all }),
            Token::Sign(",") => match parser.peek() {
                Token::Word(_) | Token::Sign("!") => {}
                other => {
                    return Err(SelectorError::new(format!(
                        "found '{other}', expected: identifier after ','"
                    )));
                }
            },
            other => {
                return Err(SelectorError::new(format!("found '{other}', expected: ',' or 'end of string'")));
            }
        }
    }
}

fn check_key(key: &str) -> Result<(), SelectorError> {
    match names::qualified_name_faults(key).first() {
        None => Ok(()),
        Some(fault) => Err(SelectorError::new(format!("key: Invalid value: {key:?}: {fault}"))),
    }
}

fn check_values(key: &str, values: &[String]) -> Result<(), SelectorError> {
    for (i, value) in values.iter().enumerate() {
        if let Some(fault) = names::label_value_faults(value).first() {
            return Err(SelectorError::new(format!("values[{i}][{key}]: Invalid value: {value:?}: {fault}")));
        }
    }
    Ok(())
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Sign(&'static str),
    End,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(word) => f.write_str(word),
            Self::Sign(sign) => f.write_str(sign),
            Self::End => Ok(()),
        }
    }
}

/// Longer signs stand before those that they begin with.
const SIGNS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn tokens(text: &str) -> Vec<Token> {
    let mut rest = text;
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if rest.is_empty() {
            return found;
        }
        if let Some((sign, after)) =
            SIGNS.iter().find_map(|sign| rest.strip_prefix(sign).map(|after| (*sign, after)))
        {
            found.push(Token::Sign(sign));
            rest = after;
            continue;
        }
        let end = rest.find([' ', '\t', '\r', '\n', '=', '!', '(', ')', ',', '>', '<']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        found.push(Token::Word(word.to_owned()));
        rest = after;
    }
}

struct Parser {
    tokens: Vec<Token>,
    position: usize,
}

impl Parser {
    fn peek(&self) -> Token {
        self.tokens.get(self.position).cloned().unwrap_or(Token::End)
    }

    fn take(&mut self) -> Token {
        let token = self.peek();
        self.position += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let negated = self.peek() == Token::Sign("!");
        if negated {
            self.take();
        }
        let key = match self.take() {
            Token::Word(key) => key,
            other => return Err(SelectorError::new(format!("found '{other}', expected: identifier"))),
        };
        check_key(&key)?;
        let operator = if negated {
            Operator::DoesNotExist
        } else if matches!(self.peek(), Token::End | Token::Sign(",")) {
            Operator::Exists
        } else {
            self.operator(&key)?
        };
        Ok(Requirement { key, operator })
    }

    fn operator(&mut self, key: &str) -> Result<Operator, SelectorError> {
        match self.take() {
            Token::Word(word) if word == "in" => self.set(key).map(Operator::In),
            Token::Word(word) if word == "notin" => self.set(key).map(Operator::NotIn),
            Token::Sign("=" | "==") => self.exact(key).map(|v| Operator::In(vec![v])),
            Token::Sign("!=") => self.exact(key).map(|v| Operator::NotIn(vec![v])),
            Token::Sign(">") => self.number(key).map(Operator::GreaterThan),
            Token::Sign("<") => self.number(key).map(Operator::LessThan),
            other => {
                Err(SelectorError::new(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")))
            }
        }
    }

    /// The value after `=`; none at all is the empty value, as in `a=,b=c`.
    fn exact(&mut self, key: &str) -> Result<String, SelectorError> {
        let value = match self.peek() {
            Token::End | Token::Sign(",") => return Ok(String::new()),
            Token::Word(word) => word,
            other => return Err(SelectorError::new(format!("found '{other}', expected: identifier"))),
        };
        self.take();
        check_values(key, std::slice::from_ref(&value))?;
        Ok(value)
    }

    fn number(&mut self, key: &str) -> Result<i64, SelectorError> {
        let value = self.exact(key)?;
        value.parse().map_err(|_| {
            SelectorError::new(format!("values[0][{key}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"))
        })
    }

    fn set(&mut self, key: &str) -> Result<Vec<String>, SelectorError> {
        match self.take() {
            Token::Sign("(") => {}
            other => return Err(SelectorError::new(format!("found '{other}' expected: '('"))),
        }
        let mut values = Vec::new();
        let mut pending = String::new();
        loop {
            match self.take() {
                Token::Word(word) if pending.is_empty() => pending = word,
                Token::Sign(",") => values.push(std::mem::take(&mut pending)),
                Token::Sign(")") => {
                    values.push(pending);
                    check_values(key, &values)?;
                    return Ok(values);
                }
                other => {
                    return Err(SelectorError::new(format!(
                        "found '{other}', expected: ',', ')' or identifier"
                    )));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn matches(text: &str, pairs: &[(&str, &str)]) -> bool {
        parse_labels(text).unwrap().matches(&labels(pairs))
    }

    #[test]
    fn text_as_kubectl_takes_it() {
        let web = [("app", "web"), ("tier", "front"), ("n", "5")];
        for yes in [
            "",
            "app=web",
            "app==web",
            "app = web , tier=front",
            "app!=db",
            "missing!=x",
            "app in (db, web)",
            "app notin (db)",
            "missing notin (x)",
            "app",
            "!missing",
            "app,!missing",
            "n>4",
            "n<6",
            "app=web,tier in (front,back)",
        ] {
            assert!(matches(yes, &web), "{yes}");
        }
        for no in [
            "app=db",
            "app!=web",
            "app in (db)",
            "app notin (web)",
            "missing in (x)",
            "missing",
            "!app",
            "n>5",
            "app>1",
            "app=",
        ] {
            assert!(!matches(no, &web), "{no}");
        }
        assert!(matches("a=", &[("a", "")]) && matches("a in (,b)", &[("a", "")]));
    }

    #[test]
    fn faults_in_kubernetes_words() {
        let fault = |text: &str| parse_labels(text).unwrap_err().message;
        assert_eq!(fault("a=b,"), "found '', expected: identifier after ','");
        assert_eq!(
            fault("a b"),
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"
        );
        assert_eq!(fault("a=b c"), "found 'c', expected: ',' or 'end of string'");
        assert_eq!(fault("=b"), "found '=', expected: !, identifier, or 'end of string'");
        assert_eq!(fault("a in b"), "unable to parse requirement: found 'b' expected: '('");
        assert!(fault("a=b_").starts_with(
            "unable to parse requirement: values[0][a]: Invalid value: \"b_\": a valid label must be"
        ));
        assert!(
            fault("-a=b").starts_with(
                "unable to parse requirement: key: Invalid value: \"-a\": name part must consist"
            )
        );
    }

    #[test]
    fn typed_selectors() {
        let expression = |operator: &str, values: &[&str]| LabelSelector {
            match_labels: Some(labels(&[("a", "1")])),
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: "b".into(),
                operator: operator.into(),
                values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
            }]),
        };
        let ok = |operator, values: &[&str], pairs: &[(&str, &str)]| {
            from_label_selector(&expression(operator, values)).unwrap().matches(&labels(pairs))
        };
        assert!(ok("In", &["2"], &[("a", "1"), ("b", "2")]) && !ok("In", &["2"], &[("a", "1")]));
        assert!(ok("NotIn", &["2"], &[("a", "1")]) && !ok("NotIn", &["2"], &[("a", "1"), ("b", "2")]));
        assert!(ok("Exists", &[], &[("a", "1"), ("b", "")]) && ok("DoesNotExist", &[], &[("a", "1")]));
        assert!(!ok("Exists", &[], &[("b", "")]));
        for (operator, values) in [("In", &[][..]), ("Exists", &["x"][..]), ("Near", &["x"][..])] {
            assert!(from_label_selector(&expression(operator, values)).is_err(), "{operator}");
        }
        assert!(from_label_selector(&LabelSelector::default()).unwrap().matches(&BTreeMap::new()));
    }

    #[test]
    fn a_service_without_selector_selects_nothing() {
        let web = labels(&[("app", "web"), ("x", "y")]);
        assert!(matches_map(&labels(&[("app", "web")]), Some(&web)));
        assert!(!matches_map(&labels(&[("app", "db")]), Some(&web)));
        assert!(!matches_map(&BTreeMap::new(), Some(&web)) && !matches_map(&labels(&[("app", "web")]), None));
    }

    proptest! {
        #[test]
        fn any_text_is_a_selector_or_a_fault(text in "[ab!=<>(),in ]{0,24}|\\PC{0,16}") {
            let _ = parse_labels(&text);
        }

        #[test]
        fn a_requirement_and_its_negation_split_the_world(value in "[a-c]{0,2}", label in proptest::option::of("[a-c]{0,2}")) {
            let labels: BTreeMap<_, _> = label.into_iter().map(|l| ("k".to_owned(), l)).collect();
            let [is, is_not] = ["=", "!="].map(|op| parse_labels(&format!("k{op}{value}")).unwrap().matches(&labels));
            prop_assert_ne!(is, is_not);
        }
    }
}
