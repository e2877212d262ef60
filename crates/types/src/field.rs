//! A fault in one field of an object, as Kubernetes' `Status.details.causes` carries it.

use serde_json::Value;

/// What kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// `FieldValueRequired`: "Required value".
    Required,
    /// `FieldValueInvalid`: "Invalid value".
    Invalid,
    /// `FieldValueNotSupported`: "Unsupported value".
    NotSupported,
    /// `FieldValueDuplicate`: "Duplicate value".
    Duplicate,
    /// `FieldValueForbidden`: "Forbidden".
    Forbidden,
    /// `FieldValueTooLong`: "Too long".
    TooLong,
    /// `FieldValueNotFound`: "Not found".
    NotFound,
}

impl FieldErrorKind {
    /// The reason of a `StatusCause`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::NotFound => "FieldValueNotFound",
        }
    }
}

/// A fault in one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// `spec.containers[0].name`.
    pub field: String,
    /// What kind of fault.
    pub kind: FieldErrorKind,
    /// The whole message as Kubernetes prints it after the field: `Invalid value: "X": must be ...`.
    pub message: String,
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl FieldError {
    fn new(field: impl Into<String>, kind: FieldErrorKind, words: String, detail: &str) -> Self {
        let message = if detail.is_empty() { words } else { format!("{words}: {detail}") };
        Self { field: field.into(), kind, message }
    }

    /// "Required value", with a detail where there is one.
    #[must_use]
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        Self::new(field, FieldErrorKind::Required, "Required value".into(), detail)
    }

    /// "Invalid value: VALUE: detail". Text is quoted; lists and maps are JSON.
    #[must_use]
    pub fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: &str) -> Self {
        Self::new(field, FieldErrorKind::Invalid, format!("Invalid value: {}", value.into()), detail)
    }

    /// "Unsupported value: VALUE: supported values: A, B".
    #[must_use]
    pub fn not_supported(field: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let mut names: Vec<_> = supported.iter().map(|s| format!("{s:?}")).collect();
        names.sort();
        let detail = format!("supported values: {}", names.join(", "));
        Self::new(
            field,
            FieldErrorKind::NotSupported,
            format!("Unsupported value: {}", value.into()),
            &detail,
        )
    }

    /// "Duplicate value: VALUE".
    #[must_use]
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(field, FieldErrorKind::Duplicate, format!("Duplicate value: {}", value.into()), "")
    }

    /// "Forbidden: detail".
    #[must_use]
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::new(field, FieldErrorKind::Forbidden, "Forbidden".into(), detail)
    }

    /// "Too long: may not be more than N bytes".
    #[must_use]
    pub fn too_long(field: impl Into<String>, len_max: usize) -> Self {
        Self::new(
            field,
            FieldErrorKind::TooLong,
            "Too long".into(),
            &format!("may not be more than {len_max} bytes"),
        )
    }

    /// "Not found: VALUE".
    #[must_use]
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(field, FieldErrorKind::NotFound, format!("Not found: {}", value.into()), "")
    }
}
