//! What the cells of `kubectl get`'s tables have in common: ages, lists that are cut short, selectors as text.

use std::collections::BTreeMap;

use hitless_base::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::Value;

/// What stands where a time is not known.
pub const UNKNOWN: &str = "<unknown>";
/// What stands where there is nothing.
pub const NONE: &str = "<none>";

/// Time from `from` to `to` as kubectl writes it: `45s`, `2m13s`, `5d3h`, `<unknown>`.
#[must_use]
pub fn age(from: Option<Timestamp>, to: Timestamp) -> String {
    match from {
        None => UNKNOWN.to_owned(),
        Some(from) => human_duration(to.as_millisecond().saturating_sub(from.as_millisecond())),
    }
}

/// A duration in milliseconds with two units at most, and fewer digits the longer it is.
fn human_duration(millis: i64) -> String {
    let seconds = millis / 1000;
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let two = |big: i64, big_unit: char, small: i64, small_unit: char| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    match () {
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => two(hours / 24, 'd', hours % 24, 'h'),
        () if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        () if hours < 24 * 365 * 8 => two(hours / 24 / 365, 'y', hours / 24 % 365, 'd'),
        () => format!("{}y", hours / 24 / 365),
    }
}

/// The object's own age.
pub(crate) fn age_of(meta: &ObjectMeta, now: Timestamp) -> Value {
    age(meta.creation_timestamp.as_ref().map(|t| t.0), now).into()
}

/// The object's name.
pub(crate) fn name_of(meta: &ObjectMeta) -> Value {
    meta.name.clone().unwrap_or_default().into()
}

/// The text, or `<none>` where it is empty or missing.
pub(crate) fn or_none(text: Option<&str>) -> Value {
    text.filter(|t| !t.is_empty()).unwrap_or(NONE).into()
}

/// The first `shown` of the list, and how many more there are; `empty` where there is none.
pub(crate) fn cut_short(all: &[String], shown: usize, empty: &str) -> String {
    if all.is_empty() {
        return empty.to_owned();
    }
    let head = all.iter().take(shown).map(String::as_str).collect::<Vec<_>>().join(",");
    if all.len() > shown { format!("{head} + {} more...", all.len() - shown) } else { head }
}

/// `a=b,c=d`, or `<none>`.
pub(crate) fn labels_text(labels: Option<&BTreeMap<String, String>>) -> String {
    let pairs: Vec<_> = labels.into_iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    if pairs.is_empty() { NONE.to_owned() } else { pairs.join(",") }
}

/// A selector as `kubectl get -o wide` writes it: `a=b,c in (d,e),!f`.
pub(crate) fn selector_text(selector: &LabelSelector) -> String {
    let mut parts: Vec<_> = selector.match_labels.iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    for expression in selector.match_expressions.iter().flatten() {
        let (key, mut values) = (&expression.key, expression.values.clone().unwrap_or_default());
        values.sort();
        parts.push(match expression.operator.as_str() {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        });
    }
    parts.sort();
    if parts.is_empty() { NONE.to_owned() } else { parts.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_kubectl_writes_them() {
        const M: i64 = 60;
        const H: i64 = 3600;
        const D: i64 = 86_400;
        for (seconds, want) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (133, "2m13s"),
            (10 * M, "10m"),
            (179 * M, "179m"),
            (3 * H, "3h"),
            (3 * H + 5 * M, "3h5m"),
            (8 * H + 5 * M, "8h"),
            (47 * H, "47h"),
            (2 * D, "2d"),
            (5 * D + 3 * H, "5d3h"),
            (8 * D + 3 * H, "8d"),
            (729 * D, "729d"),
            (2 * 365 * D, "2y"),
            (2 * 365 * D + D, "2y1d"),
            (9 * 365 * D, "9y"),
        ] {
            assert_eq!(human_duration(seconds * 1000), want, "{seconds}");
        }
        assert_eq!(age(None, Timestamp::UNIX_EPOCH), "<unknown>");
    }

    #[test]
    fn lists_are_cut_short() {
        let list: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).into();
        assert_eq!(cut_short(&list, 3, NONE), "a,b,c + 1 more...");
        assert_eq!(cut_short(&list[..3], 3, NONE), "a,b,c");
        assert_eq!(cut_short(&[], 3, "<unset>"), "<unset>");
    }
}
