//! A set of fields of an object, as `metadata.managedFields` writes it.
//!
//! A step of a path is kept in the form in which it is written: `f:name` for a field, `k:{"name":"web"}` for an element of
//! a list that is a map, `v:"x"` for one of a set. A field is in the set by itself; what is below it is so apart.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::{Map, Value};

/// Steps into a set that is read: deeper than any object of the API.
const DEPTH_MAX: usize = 64;
/// What marks a field that is in the set and has others below it.
const SELF: &str = ".";

/// One step of a path, as it is written.
pub type Step = Box<str>;

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    nodes: BTreeMap<Step, Node>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    below: FieldSet,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

/// The step to a field of an object or an entry of a map.
#[must_use]
pub fn field_step(name: &str) -> Step {
    format!("f:{name}").into()
}

impl FieldSet {
    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds a field. The root is never in a set.
    pub fn insert(&mut self, path: &[Step]) {
        let Some((first, rest)) = path.split_first() else { return };
        let node = match self.nodes.get_mut(first) {
            Some(node) => node,
            None => self.nodes.entry(first.clone()).or_default(),
        };
        if rest.is_empty() {
            node.member = true;
        } else {
            node.below.insert(rest);
        }
    }

    /// Whether this field itself is in it.
    #[must_use]
    pub fn has(&self, step: &str) -> bool {
        self.nodes.get(step).is_some_and(|node| node.member)
    }

    /// What is in it below this field.
    #[must_use]
    pub fn below(&self, step: &str) -> Option<&Self> {
        self.nodes.get(step).map(|node| &node.below).filter(|below| !below.is_empty())
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: &Self) {
        for (step, theirs) in &other.nodes {
            match self.nodes.get_mut(step) {
                Some(node) => {
                    node.member |= theirs.member;
                    node.below.add(&theirs.below);
                }
                None => drop(self.nodes.insert(step.clone(), theirs.clone())),
            }
        }
    }

    /// Takes out every field that is in `other`; what is below it stays.
    pub fn remove(&mut self, other: &Self) {
        for (step, theirs) in &other.nodes {
            let Some(node) = self.nodes.get_mut(step) else { continue };
            node.member &= !theirs.member;
            node.below.remove(&theirs.below);
            if node.is_empty() {
                self.nodes.remove(step);
            }
        }
    }

    /// The fields that are in both.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let mut nodes = BTreeMap::new();
        for (step, ours) in &self.nodes {
            let Some(theirs) = other.nodes.get(step) else { continue };
            let node = Node { member: ours.member && theirs.member, below: ours.below.common(&theirs.below) };
            if !node.is_empty() {
                nodes.insert(step.clone(), node);
            }
        }
        Self { nodes }
    }

    /// This set and `f:` fields on the way to its members: whoever owns what is in an object owns the object.
    #[must_use]
    pub fn with_fields_on_the_way(&self) -> Self {
        let with = |(step, node): (&Step, &Node)| {
            let on_the_way = step.starts_with("f:") && !node.below.is_empty();
            let below = node.below.with_fields_on_the_way();
            (step.clone(), Node { member: node.member || on_the_way, below })
        };
        Self { nodes: self.nodes.iter().map(with).collect() }
    }

    /// Every field in it, as people read it: `.spec.containers[name="web"].image`.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let mut all = Vec::new();
        self.collect("", &mut all);
        all
    }

    fn collect(&self, at: &str, all: &mut Vec<String>) {
        for (step, node) in &self.nodes {
            let path = format!("{at}{}", step_text(step));
            node.below.collect(&path, all);
            if node.member {
                all.push(path);
            }
        }
    }

    /// As `fieldsV1` has it.
    #[must_use]
    pub fn to_value(&self) -> Value {
        Value::Object(self.to_fields(Map::new()))
    }

    fn to_fields(&self, mut fields: Map<String, Value>) -> Map<String, Value> {
        for (step, node) in &self.nodes {
            let mut inner = Map::new();
            if node.member && !node.below.is_empty() {
                inner.insert(SELF.to_owned(), Value::Object(Map::new()));
            }
            fields.insert(step.to_string(), Value::Object(node.below.to_fields(inner)));
        }
        fields
    }

    /// Reads `fieldsV1`. `None`: it is no set of fields.
    #[must_use]
    pub fn from_value(value: &Value) -> Option<Self> {
        Self::read(value, DEPTH_MAX)
    }

    fn read(value: &Value, depth_left: usize) -> Option<Self> {
        let depth_left = depth_left.checked_sub(1)?;
        let mut nodes = BTreeMap::new();
        for (name, inner) in value.as_object()? {
            if name == SELF {
                continue;
            }
            let inner_fields = inner.as_object()?;
            let below = Self::read(inner, depth_left)?;
            let node = Node { member: inner_fields.is_empty() || inner_fields.contains_key(SELF), below };
            if !node.is_empty() {
                nodes.insert(canonical(name)?, node);
            }
        }
        Some(Self { nodes })
    }
}

/// The step in the one form in which it is compared: keys in the order of their names.
fn canonical(step: &str) -> Option<Step> {
    match step.split_at_checked(2)? {
        ("f:", _) => Some(step.into()),
        ("k:", json) => match serde_json::from_str(json).ok()? {
            Value::Object(keys) => Some(keys_step(keys.iter().map(|(k, v)| (k.as_str(), v)))),
            _ => None,
        },
        ("v:", json) => Some(value_step(&serde_json::from_str(json).ok()?)),
        ("i:", number) => number.parse::<u32>().ok().map(|_| step.into()),
        _ => None,
    }
}

/// The step to the element of a list that is a map by these keys.
pub(super) fn keys_step<'k>(keys: impl Iterator<Item = (&'k str, &'k Value)>) -> Step {
    let mut keys: Vec<_> = keys.collect();
    keys.sort_unstable_by_key(|(name, _)| *name);
    let mut text = String::from("k:{");
    for (i, (name, value)) in keys.into_iter().enumerate() {
        // Writing to a string cannot fail.
        let _written = write!(text, "{}{}:{value}", if i == 0 { "" } else { "," }, Value::from(name));
    }
    text.push('}');
    text.into()
}

/// The step to an element of a set.
pub(super) fn value_step(value: &Value) -> Step {
    format!("v:{value}").into()
}

fn step_text(step: &str) -> String {
    match step.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("k:", json)) => {
            let keys: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        Some(("v:", json)) => format!("[={json}]"),
        Some((_, number)) => format!("[{number}]"),
        None => step.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn set(value: Value) -> FieldSet {
        FieldSet::from_value(&value).unwrap()
    }

    #[test]
    fn what_kubernetes_writes_is_read_and_written_alike() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {
            "f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}, "f:finalizers": {"v:\"a/b\"": {}},
            "f:replicas": {},
        }});
        assert_eq!(set(fields.clone()).to_value(), fields);
        assert_eq!(
            set(fields).paths(),
            [
                ".metadata.labels.app",
                ".metadata.labels",
                ".spec.containers[name=\"web\"].image",
                ".spec.containers[name=\"web\"]",
                ".spec.finalizers[=\"a/b\"]",
                ".spec.replicas",
            ]
        );
    }

    #[test]
    fn keys_are_compared_in_one_order() {
        let one = set(json!({"k:{\"protocol\":\"TCP\",\"containerPort\":80}": {}}));
        assert_eq!(one, set(json!({"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {}})));
        assert_eq!(one.paths(), ["[containerPort=80,protocol=\"TCP\"]"]);
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for bad in [json!(1), json!({"f:a": 1}), json!({"x:a": {}}), json!({"k:[]": {}}), json!({"": {}})] {
            assert_eq!(FieldSet::from_value(&bad), None, "{bad}");
        }
        let deep = (0..100).fold(json!({}), |below, _| json!({"f:a": below}));
        assert_eq!(FieldSet::from_value(&deep), None);
    }

    fn sets() -> impl Strategy<Value = FieldSet> {
        let step = prop::sample::select(vec!["f:a", "f:b", "k:{\"n\":1}", "v:2"]);
        let path = prop::collection::vec(step, 1..4);
        prop::collection::vec(path, 0..12).prop_map(|paths| {
            let mut set = FieldSet::default();
            for path in paths {
                set.insert(&path.into_iter().map(Step::from).collect::<Vec<_>>());
            }
            set
        })
    }

    proptest! {
        #[test]
        fn a_set_survives_being_written(set in sets()) {
            prop_assert_eq!(FieldSet::from_value(&set.to_value()), Some(set));
        }

        #[test]
        fn sets_are_sets(a in sets(), b in sets()) {
            let as_paths = |set: &FieldSet| set.paths().into_iter().collect::<std::collections::BTreeSet<_>>();
            let (pa, pb) = (as_paths(&a), as_paths(&b));
            let mut sum = a.clone();
            sum.add(&b);
            prop_assert_eq!(as_paths(&sum), pa.union(&pb).cloned().collect());
            let mut less = a.clone();
            less.remove(&b);
            prop_assert_eq!(as_paths(&less), pa.difference(&pb).cloned().collect());
            prop_assert_eq!(as_paths(&a.common(&b)), pa.intersection(&pb).cloned().collect());
            less.add(&a.common(&b));
            prop_assert_eq!(less, a);
        }
    }
}
