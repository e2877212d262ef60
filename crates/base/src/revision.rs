//! The store's single ordered counter, as every hop of the loop sees it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A position in the store's history. Revision 0 is before the first write.
///
/// On the wire it is Kubernetes' `resourceVersion`, a decimal string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(pub u64);

impl Revision {
    /// Before the first write.
    pub const ZERO: Self = Self(0);

    /// The revision of a `resourceVersion` field; an absent or empty one is zero.
    pub fn from_field(field: Option<&str>) -> Result<Self, ParseRevisionError> {
        match field {
            None | Some("") => Ok(Self::ZERO),
            Some(text) => text.parse(),
        }
    }

    /// The next position.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The text is not a decimal number that fits 64 bits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a resource version (a decimal number)")]
pub struct ParseRevisionError {
    /// What was given.
    pub text: String,
}

impl FromStr for Revision {
    type Err = ParseRevisionError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| ParseRevisionError { text: text.to_owned() })
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_a_decimal_number_or_absent() {
        assert_eq!(Revision::from_field(None), Ok(Revision::ZERO));
        assert_eq!(Revision::from_field(Some("")), Ok(Revision::ZERO));
        assert_eq!(Revision::from_field(Some("42")), Ok(Revision(42)));
        assert!(Revision::from_field(Some("-1")).is_err());
        assert!(Revision::from_field(Some("18446744073709551616")).is_err());
    }
}
