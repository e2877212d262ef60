//! `IntOrString`: a count, or a percentage of one.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Which way a percentage that is not whole goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// As for maxSurge and minAvailable.
    Up,
    /// As for maxUnavailable of a Deployment.
    Down,
}

/// The text is not a percentage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for IntOrString: invalid type: string is not a percentage: {text:?}")]
pub struct IntOrStringError {
    /// What was given.
    pub text: String,
}

/// The number of percent in `25%`.
#[must_use]
pub fn percent(text: &str) -> Option<u32> {
    let digits = text.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) { None } else { digits.parse().ok() }
}

/// The count that `value` means of `total`.
///
/// # Errors
/// Text that is no percentage.
pub fn resolve(value: &IntOrString, total: i32, round: Round) -> Result<i32, IntOrStringError> {
    match value {
        IntOrString::Int(count) => Ok(*count),
        IntOrString::String(text) => {
            let percent = i64::from(percent(text).ok_or_else(|| IntOrStringError { text: text.clone() })?);
            let product = percent * i64::from(total);
            let count = match round {
                Round::Up => (product + 99).div_euclid(100),
                Round::Down => product.div_euclid(100),
            };
            Ok(i32::try_from(count).unwrap_or(i32::MAX))
        }
    }
}

/// A Deployment's maxSurge and maxUnavailable as counts. Where both come to zero, one Pod may be unavailable, so that
/// a rollout always moves.
///
/// # Errors
/// Text that is no percentage.
pub fn surge_and_unavailable(
    max_surge: &IntOrString,
    max_unavailable: &IntOrString,
    replicas: i32,
) -> Result<(i32, i32), IntOrStringError> {
    let surge = resolve(max_surge, replicas, Round::Up)?;
    let unavailable = resolve(max_unavailable, replicas, Round::Down)?;
    Ok(if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let text = |t: &str| IntOrString::String(t.to_owned());
        assert_eq!(resolve(&IntOrString::Int(3), 10, Round::Up), Ok(3));
        assert_eq!(resolve(&text("25%"), 10, Round::Up), Ok(3));
        assert_eq!(resolve(&text("25%"), 10, Round::Down), Ok(2));
        assert_eq!(resolve(&text("0%"), 10, Round::Up), Ok(0));
        assert_eq!(resolve(&text("100%"), 7, Round::Down), Ok(7));
        for bad in ["25", "%", "-1%", "1.5%", "a%"] {
            assert!(resolve(&text(bad), 10, Round::Up).is_err(), "{bad}");
        }
        assert_eq!(surge_and_unavailable(&text("25%"), &text("25%"), 3), Ok((1, 0)));
        assert_eq!(surge_and_unavailable(&text("0%"), &text("25%"), 3), Ok((0, 1)));
    }
}
