//! Kubernetes' quantities (`100m`, `1.5Gi`, `1e3`): parsed, compared, added, and written in canonical form.
//!
//! A quantity is a whole number of nanos (10^-9) within ±(2^63-1) units; what is finer is rounded away from zero and
//! what is greater is capped, as Kubernetes does. It is never a floating-point number.
//! See <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.

use std::{
    cmp::Ordering,
    fmt,
    ops::{Add, Sub},
    str::FromStr,
};

pub use crate::resources::{Resources, pod_requests};

const NANOS: i128 = 1_000_000_000;
const NANOS_MAX: i128 = i64::MAX as i128 * NANOS;

/// How a quantity was written, and so will be written again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Format {
    #[default]
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// An amount of a resource. Equality and order are by value: `1000m` equals `1`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is not a quantity. The words are Kubernetes' own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The suffix does not exist.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// The number is not one.
    #[error("unable to parse numeric part of quantity")]
    Number,
}

impl Quantity {
    /// `milli` thousandths: CPU is counted so.
    #[must_use]
    pub fn from_milli(milli: i64) -> Self {
        Self { nanos: i128::from(milli) * (NANOS / 1000), format: Format::DecimalSi }
    }

    /// `count` units, written with decimal suffixes (`110`, `2k`).
    #[must_use]
    pub fn from_count(count: i64) -> Self {
        Self { nanos: i128::from(count) * NANOS, format: Format::DecimalSi }
    }

    /// `bytes`, written with binary suffixes (`64Mi`).
    #[must_use]
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANOS, format: Format::BinarySi }
    }

    /// In thousandths, rounded up; at most `i64::MAX`.
    #[must_use]
    pub fn milli(&self) -> i64 {
        to_i64(div_up(self.nanos, NANOS / 1000))
    }

    /// In whole units (bytes, for memory), rounded up.
    #[must_use]
    pub fn bytes(&self) -> i64 {
        to_i64(div_up(self.nanos, NANOS))
    }

    /// Whether the amount is below zero.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Whether the amount is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether the amount is a whole number of units.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.nanos % NANOS == 0
    }
}

impl Add for Quantity {
    type Output = Self;

    /// The sum, capped; written as `self` is, or as `other` is where `self` is zero.
    fn add(self, other: Self) -> Self {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Self { nanos: cap(self.nanos + other.nanos), format }
    }
}

impl Sub for Quantity {
    type Output = Self;

    /// The difference, capped.
    fn sub(self, other: Self) -> Self {
        self + Self { nanos: -other.nanos, format: other.format }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

fn cap(nanos: i128) -> i128 {
    nanos.clamp(-NANOS_MAX, NANOS_MAX)
}

fn to_i64(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Division that rounds away from zero.
fn div_up(value: i128, by: i128) -> i128 {
    let (whole, rest) = (value / by, value % by);
    whole + rest.signum()
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, text.get(1..).unwrap_or_default()),
            Some(b'+') => (false, text.get(1..).unwrap_or_default()),
            _ => (false, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        if number.is_empty() || !suffix_is_shaped(suffix) {
            return Err(QuantityError::Format);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Number);
        }
        let (format, scale) = read_suffix(suffix)?;
        let nanos = scaled(whole, fraction, scale);
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

/// `^[eEinumkKMGTP]*[-+]?[0-9]*$`
fn suffix_is_shaped(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    rest.bytes().all(|c| c.is_ascii_digit())
}

/// By what the number is multiplied to become nanos: 10^power, or 1024^n units.
#[derive(Clone, Copy)]
enum Scale {
    Ten(i32),
    Kibi(u32),
}

fn read_suffix(suffix: &str) -> Result<(Format, Scale), QuantityError> {
    let decimal = |power| Ok((Format::DecimalSi, Scale::Ten(power + 9)));
    let binary = |n| Ok((Format::BinarySi, Scale::Kibi(n)));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
            let power: i32 = exponent.parse().map_err(|_| QuantityError::Suffix)?;
            Ok((Format::DecimalExponent, Scale::Ten(power.clamp(-1000, 1000) + 9)))
        }
    }
}

/// Nanos of `whole.fraction` at this scale, rounded up and capped.
fn scaled(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let digits = || whole.bytes().chain(fraction.bytes()).map(|c| i128::from(c - b'0'));
    let (factor, power) = match scale {
        Scale::Ten(power) => (1, power),
        Scale::Kibi(n) => (1024_i128.pow(n) * NANOS, 0),
    };
    // Invariant: value = 0.DDD * 10^whole.len * factor * 10^power. Digits go one by one, so nothing overflows unseen.
    let mut power_of_digit = i64::try_from(whole.len()).unwrap_or(i64::MAX).saturating_add(i64::from(power));
    let (mut total, mut rest_is_zero) = (0_i128, true);
    for digit in digits() {
        power_of_digit -= 1;
        if digit == 0 {
            continue;
        }
        if power_of_digit > 30 {
            return NANOS_MAX;
        }
        let part = if power_of_digit >= 0 {
            let power = u32::try_from(power_of_digit).unwrap_or(30);
            digit.saturating_mul(factor).saturating_mul(10_i128.pow(power))
        } else if power_of_digit >= -30 {
            let divisor = 10_i128.pow(u32::try_from(-power_of_digit).unwrap_or(30));
            let product = digit.saturating_mul(factor);
            rest_is_zero &= product % divisor == 0;
            product / divisor
        } else {
            rest_is_zero = false;
            0
        };
        total = total.saturating_add(part);
    }
    cap(total.saturating_add(i128::from(!rest_is_zero)))
}

impl fmt::Display for Quantity {
    /// Canonical form: no fraction, the greatest suffix that keeps every digit.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANOS;
        if self.format == Format::BinarySi && !small && self.is_whole() {
            let (mut number, mut n) = (self.nanos / NANOS, 0_usize);
            while number % 1024 == 0 && n < 6 {
                number /= 1024;
                n += 1;
            }
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].get(n).copied().unwrap_or_default();
            return write!(f, "{number}{suffix}");
        }
        let (mut number, mut thousands) = (self.nanos, 0_usize);
        while number % 1000 == 0 && thousands < 9 {
            number /= 1000;
            thousands += 1;
        }
        if self.format == Format::DecimalExponent {
            let exponent = i32::try_from(thousands).unwrap_or(0) * 3 - 9;
            return if exponent == 0 { write!(f, "{number}") } else { write!(f, "{number}e{exponent}") };
        }
        let suffix =
            ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"].get(thousands).copied().unwrap_or_default();
        write!(f, "{number}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<Quantity>().unwrap().to_string()
    }

    #[test]
    fn canonical_form_is_kubernetes() {
        for (text, want) in [
            ("0", "0"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e-1", "1200e-3"),
            ("1E", "1E"),
            ("2Ei", "2Ei"),
            ("0.5Ki", "512"),
            ("1000Ki", "1000Ki"),
            ("-1.5", "-1500m"),
            ("+3", "3"),
            (".5", "500m"),
            ("5.", "5"),
            ("0.1n", "1n"),
            ("1.0000000001", "1000000001n"),
            ("9223372036854775808", "9223372036854775807"),
            ("100E", "9223372036854775807"),
            ("0.001Ki", "1024m"),
            ("1.1Ki", "1126400m"),
            ("0Mi", "0"),
            ("1e-30", "1e-9"),
        ] {
            assert_eq!(canonical(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_quantity() {
        for (text, want) in [
            ("", QuantityError::Format),
            ("abc", QuantityError::Format),
            ("1 Gi", QuantityError::Format),
            ("1GB", QuantityError::Format),
            ("-", QuantityError::Format),
            ("1ki", QuantityError::Suffix),
            ("1mm", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("1.2.3", QuantityError::Number),
            (".", QuantityError::Number),
            ("1Gi5", QuantityError::Suffix),
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(want), "{text}");
        }
    }

    #[test]
    fn readings_round_up() {
        let q = |t: &str| t.parse::<Quantity>().unwrap();
        assert_eq!((q("0.1m").milli(), q("1500u").milli(), q("2").milli()), (1, 2, 2000));
        assert_eq!((q("1Gi").bytes(), q("1500m").bytes(), q("1Ki").bytes()), (1 << 30, 2, 1024));
        assert_eq!(q("1Gi").add(q("512Mi")).to_string(), "1536Mi");
        assert_eq!(q("1").sub(q("100m")).to_string(), "900m");
        assert_eq!(Quantity::from_bytes(1 << 20).to_string(), "1Mi");
        assert!(q("1000m") == q("1") && q("1Ki") > q("1k"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_quantity_or_a_fault(text in "[-+]?[0-9.]{0,40}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,12}|\\PC{0,12}") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                let again: Quantity = quantity.to_string().parse().unwrap();
                prop_assert_eq!(quantity, again);
                prop_assert_eq!(quantity.to_string(), again.to_string());
            }
        }

        #[test]
        fn sums_are_exact_and_ordered(a in -1_000_000_i64..1_000_000, b in -1_000_000_i64..1_000_000) {
            let (x, y) = (Quantity::from_milli(a), Quantity::from_milli(b));
            prop_assert_eq!(x.add(y).milli(), a + b);
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x.add(y).sub(y), x);
        }
    }
}
