//! The three ways to change a part of an object: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and Kubernetes'
//! strategic merge patch.
//!
//! A patch that fails leaves the document as it was.

mod schema;
mod strategic;

use serde_json::{Map, Value};

use crate::kinds::Kind;

/// Most operations of one JSON patch.
pub const OPERATIONS_MAX: usize = 10_000;
/// Most that the `copy` operations of one JSON patch may add, in bytes of JSON. Copies of copies grow without end.
pub const COPIED_LEN_MAX: usize = 3 * 1024 * 1024;

/// Why a patch cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The body is not a patch of its kind (400).
    #[error("{message}")]
    Malformed {
        /// What is wrong with it.
        message: String,
    },
    /// The body is not a list of JSON patch operations (400).
    #[error("the body is not a JSON patch (a list of operations)")]
    NotOperations {
        /// The decoder's words.
        #[source]
        source: serde_json::Error,
    },
    /// Too many operations (413).
    #[error("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {count}")]
    TooManyOperations {
        /// How many there are.
        count: usize,
    },
    /// Copies would grow the document too far (413).
    #[error(
        "Unable to complete the copy, the accumulated size increase of copy is {len}, exceeding the limit {COPIED_LEN_MAX}"
    )]
    TooLarge {
        /// How much they would add, in bytes.
        len: usize,
    },
    /// An operation cannot be done on this document (422).
    #[error("an operation of the patch does not apply to the object")]
    Failed {
        /// Which operation, and why.
        #[source]
        source: json_patch::PatchError,
    },
    /// The kind has no strategic merge (415).
    #[error(
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    )]
    NotStrategic,
}

impl PatchError {
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::Malformed { message: message.into() }
    }
}

/// Applies the operations of `patch` in order.
///
/// # Errors
/// The body is no JSON patch, is too large, or one of its operations fails.
pub fn json_patch(doc: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let operations: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|source| PatchError::NotOperations { source })?;
    if operations.0.len() > OPERATIONS_MAX {
        return Err(PatchError::TooManyOperations { count: operations.0.len() });
    }
    let mut changed = doc.clone();
    let mut copied_len = 0_usize;
    for operation in &operations.0 {
        if let json_patch::PatchOperation::Copy(copy) = operation {
            copied_len += changed.pointer(copy.from.as_str()).map_or(0, |value| value.to_string().len());
            if copied_len > COPIED_LEN_MAX {
                return Err(PatchError::TooLarge { len: copied_len });
            }
        }
        json_patch::patch_unsafe(&mut changed, std::slice::from_ref(operation))
            .map_err(|source| PatchError::Failed { source })?;
    }
    *doc = changed;
    Ok(())
}

/// Merges `patch`: objects go into each other, null takes a field away, everything else replaces.
pub fn merge_patch(doc: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *doc = patch.clone();
        return;
    };
    if !doc.is_object() {
        *doc = Value::Object(Map::new());
    }
    let Value::Object(fields) = doc else { return };
    for (key, change) in changes {
        if change.is_null() {
            fields.shift_remove(key);
        } else {
            merge_patch(fields.entry(key).or_insert(Value::Null), change);
        }
    }
}

/// Merges `patch` as Kubernetes does for its own kinds: lists whose elements have a key are merged by it, and
/// directives (`$patch`, `$retainKeys`, `$setElementOrder/x`, `$deleteFromPrimitiveList/x`) say the rest.
///
/// # Errors
/// The kind is not one of Kubernetes' own, or the patch contradicts the rules.
pub fn strategic_merge(doc: &mut Value, patch: &Value, kind: &Kind) -> Result<(), PatchError> {
    if !kind.is_native() {
        return Err(PatchError::NotStrategic);
    }
    let Value::Object(changes) = patch else {
        return Err(PatchError::malformed("invalid JSON document: the patch is not an object"));
    };
    let Value::Object(fields) = doc else {
        return Err(PatchError::malformed("invalid JSON document: the object is not an object"));
    };
    let mut changed = fields.clone();
    strategic::merge_object(&mut changed, changes, schema::root(kind))?;
    *fields = changed;
    Ok(())
}

#[cfg(test)]
mod tests;
