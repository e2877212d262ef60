//! The messages and their fields, read once from `schema.txt` when the first such body comes.

use std::{collections::HashMap, sync::OnceLock};

const TEXT: &str = include_str!("schema.txt");

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    Bool,
    Integer,
    Float,
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// A message, by its name.
    Message(&'static str),
}

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) number: u64,
    /// Its JSON name.
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// Whether zero is said and not left out.
    pub(super) said: bool,
    pub(super) list: bool,
    pub(super) map: bool,
    /// Whether its fields stand in the message around it.
    pub(super) inline: bool,
}

/// Every message.
pub(super) struct Schema {
    messages: HashMap<&'static str, Vec<Field>>,
}

impl Schema {
    pub(super) fn get() -> &'static Self {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| {
            let lines = TEXT.lines().filter(|line| !line.starts_with('#'));
            Self { messages: lines.filter_map(message).collect() }
        })
    }

    /// The message's fields; none for a message that is not listed, which is then skipped as a whole.
    pub(super) fn message(&self, name: &str) -> &[Field] {
        self.messages.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// The message of an object's kind.
    pub(super) fn of_kind(&self, api_version: &str, kind: &str) -> Option<&[Field]> {
        // Every group knows DeleteOptions.
        if kind == "DeleteOptions" {
            return Some(self.message("meta.DeleteOptions"));
        }
        let group = match api_version.split_once('/') {
            None if api_version == "v1" => "core",
            Some((group, "v1")) => group.split('.').next().unwrap_or_default(),
            _ => return None,
        };
        self.messages.get(format!("{group}.{kind}").as_str()).map(Vec::as_slice)
    }

    #[cfg(test)]
    pub(super) fn messages(&self) -> impl Iterator<Item = (&'static str, &[Field])> {
        self.messages.iter().map(|(name, fields)| (*name, fields.as_slice()))
    }
}

fn message(line: &'static str) -> Option<(&'static str, Vec<Field>)> {
    let mut parts = line.split('|');
    let name = parts.next()?;
    Some((name, parts.filter_map(field).collect()))
}

fn field(text: &'static str) -> Option<Field> {
    let mut words = text.split(' ');
    let (number, name, type_) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let (list, type_) = type_.strip_prefix("[]").map_or((false, type_), |rest| (true, rest));
    let (map, type_) = type_.strip_prefix("{}").map_or((false, type_), |rest| (true, rest));
    let (said, type_) = type_.strip_prefix('?').map_or((false, type_), |rest| (true, rest));
    let shape = match type_ {
        "s" => Shape::Text,
        "b" => Shape::Bool,
        "i" => Shape::Integer,
        "f" => Shape::Float,
        "B" => Shape::Bytes,
        "T" => Shape::Time,
        "M" => Shape::MicroTime,
        "Q" => Shape::Quantity,
        "I" => Shape::IntOrString,
        message => Shape::Message(message),
    };
    Some(Field { number, name, shape, said, list, map, inline: name == "~" })
}
