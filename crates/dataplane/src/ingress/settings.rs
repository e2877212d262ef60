//! Limits of requests: what holds for all, and what an Ingress sets for its own by annotation.

use std::time::Duration;

use hitless_types::meta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::records::parse_duration;

/// `hitless.dev/ingress-body-max`: bytes of a request's body, with `k`, `m` or `g` behind it; 0: no bound.
const ANNOTATION_BODY: &str = "hitless.dev/ingress-body-max";
/// `hitless.dev/ingress-timeout`: how long a backend may be silent.
const ANNOTATION_TIMEOUT: &str = "hitless.dev/ingress-timeout";

/// Limits of an Ingress's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Longest body of a request; none: as long as it likes.
    pub body_bytes_max: Option<u64>,
    /// How long a backend may take to begin its answer, and be silent within it.
    pub backend_silence_max: Duration,
}

impl Default for Settings {
    /// As nginx has it.
    fn default() -> Self {
        Self { body_bytes_max: Some(1024 * 1024), backend_silence_max: Duration::from_secs(60) }
    }
}

impl Settings {
    /// As the annotations say; what makes no sense is ignored, with a word in the log.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Self {
        let mut settings = Self::default();
        if let Some(text) = meta::annotation(metadata, ANNOTATION_BODY) {
            match parse_bytes(text) {
                Some(0) => settings.body_bytes_max = None,
                Some(bytes) => settings.body_bytes_max = Some(bytes),
                None => ignored(metadata, ANNOTATION_BODY, text, "a whole number, with k, m or g behind it"),
            }
        }
        if let Some(text) = meta::annotation(metadata, ANNOTATION_TIMEOUT) {
            match parse_duration(text) {
                Some(time) => settings.backend_silence_max = time,
                None => {
                    ignored(metadata, ANNOTATION_TIMEOUT, text, "a whole number and ms, s or m, at most 60m")
                }
            }
        }
        settings
    }
}

fn ignored(metadata: &ObjectMeta, annotation: &str, text: &str, wanted: &str) {
    let ingress = meta::key(metadata);
    tracing::warn!(ingress, annotation, "{text:?} is ignored: it must be {wanted}");
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &str, timeout: &str) -> Settings {
        let pairs = [(ANNOTATION_BODY, body), (ANNOTATION_TIMEOUT, timeout)];
        let annotations =
            pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Settings::of(&ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() })
    }

    #[test]
    fn annotations_set_limits_and_nonsense_is_ignored() {
        let set = of("8m", "250ms");
        assert_eq!(set.body_bytes_max, Some(8 << 20));
        assert_eq!(set.backend_silence_max, Duration::from_millis(250));
        assert_eq!(of("0", "5m").body_bytes_max, None);
        for (body, timeout) in
            [("", ""), ("-1", "0s"), ("1t", "61m"), ("99999999999999999999", "1h"), ("99999999999g", "s")]
        {
            assert_eq!(of(body, timeout), Settings::default(), "{body:?} {timeout:?}");
        }
    }
}
