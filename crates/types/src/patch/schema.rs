//! What a strategic merge must know of a field: whether its list is merged, and by which key. Read from the table of types.
//!
//! What the table does not know is merged if it is an object, and replaced if it is a list.

use crate::{
    kinds::Kind,
    schema::{Object, Schema, Shape},
};

/// The type of an object, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// One of the table.
    Known(&'static Object),
    /// Nothing is known.
    Plain,
}

/// What becomes of a field that the patch names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// An object, merged field by field; a list or a scalar, replaced.
    Default(Type),
    /// A list of objects, merged by this key.
    ByKey(&'static str, Type),
    /// A list of scalars, merged as a set.
    Set,
    /// Replaced, even if it is an object.
    Replace,
}

fn of_shape(shape: &Shape) -> Type {
    match shape {
        Shape::Object(place) => Schema::get().object(*place).map_or(Type::Plain, Type::Known),
        _ => Type::Plain,
    }
}

pub(super) fn root(kind: &Kind) -> Type {
    Schema::get().of_kind(kind).map_or(Type::Plain, |shape| of_shape(&shape))
}

pub(super) fn rule(of: Type, field: &str) -> Rule {
    let known = match of {
        Type::Known(object) => object.field(field),
        Type::Plain => None,
    };
    let Some(field) = known else { return Rule::Default(Type::Plain) };
    match (field.patch.merge, &field.shape) {
        _ if field.patch.replace => Rule::Replace,
        (Some(""), _) => Rule::Set,
        (Some(key), Shape::List(item)) => Rule::ByKey(key, of_shape(item)),
        (_, shape) => Rule::Default(of_shape(shape)),
    }
}
