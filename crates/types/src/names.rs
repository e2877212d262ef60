//! The syntax of names, label keys and values, and what Kubernetes says when they break it.
//!
//! Each `*_faults` function returns Kubernetes' own sentences, one for each rule that is broken; none means valid.
//! Rules: <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/> and `.../labels/`.

/// Longest DNS label, in bytes.
pub const LABEL_LEN_MAX: usize = 63;
/// Longest DNS subdomain, in bytes.
pub const SUBDOMAIN_LEN_MAX: usize = 253;

const DNS1123_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS1123_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const WILDCARD_SUBDOMAIN: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const QUALIFIED_NAME: &str = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";

/// "must be no more than N bytes".
#[must_use]
pub fn too_long(len_max: usize) -> String {
    format!("must be no more than {len_max} bytes")
}

fn is_lower_alnum(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// Whether the first and last byte satisfy `edge` and all satisfy `edge` or are one of `inner`. Empty is false.
fn shaped(text: &str, edge: fn(u8) -> bool, inner: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    edge(*first) && edge(*last) && bytes.iter().all(|c| edge(*c) || inner.contains(c))
}

fn check(text: &str, len_max: usize, ok: bool, words: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > len_max {
        faults.push(too_long(len_max));
    }
    if !ok {
        faults.push(words.to_owned());
    }
    faults
}

/// Faults of an RFC 1123 label (`my-name`, at most 63 bytes).
#[must_use]
pub fn dns1123_label_faults(text: &str) -> Vec<String> {
    check(text, LABEL_LEN_MAX, shaped(text, is_lower_alnum, b"-"), DNS1123_LABEL)
}

/// Faults of an RFC 1123 subdomain (`example.com`, at most 253 bytes).
#[must_use]
pub fn dns1123_subdomain_faults(text: &str) -> Vec<String> {
    let ok = !text.is_empty() && text.split('.').all(|part| shaped(part, is_lower_alnum, b"-"));
    check(text, SUBDOMAIN_LEN_MAX, ok, DNS1123_SUBDOMAIN)
}

/// Faults of `*.` and a subdomain (`*.example.com`).
#[must_use]
pub fn wildcard_subdomain_faults(text: &str) -> Vec<String> {
    let ok = text.strip_prefix("*.").is_some_and(|rest| dns1123_subdomain_faults(rest).is_empty());
    check(text, SUBDOMAIN_LEN_MAX, ok, WILDCARD_SUBDOMAIN)
}

/// Faults of what is to be one segment of a path, whatever else it is.
#[must_use]
pub fn path_segment_faults(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    let held = ['/', '%'].into_iter().filter(|c| text.contains(*c));
    held.map(|c| format!("may not contain '{c}'")).collect()
}

/// Faults of an RFC 1035 label (as 1123, but it begins with a letter), the rule for Services.
#[must_use]
pub fn dns1035_label_faults(text: &str) -> Vec<String> {
    let ok =
        shaped(text, is_lower_alnum, b"-") && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    check(text, LABEL_LEN_MAX, ok, DNS1035_LABEL)
}

/// Faults of a qualified name: a label's key, an annotation's key, a finalizer, a resource's name.
#[must_use]
pub fn qualified_name_faults(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => return vec![QUALIFIED_NAME.to_owned()],
        Some((prefix, name)) => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else {
                faults
                    .extend(dns1123_subdomain_faults(prefix).into_iter().map(|f| format!("prefix part {f}")));
            }
            name
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_LEN_MAX {
        faults.push(format!("name part {}", too_long(LABEL_LEN_MAX)));
    }
    if !shaped(name, |c| c.is_ascii_alphanumeric(), b"-_.") {
        faults.push(NAME_PART.to_owned());
    }
    faults
}

/// Faults of a label's value (may be empty, at most 63 bytes).
#[must_use]
pub fn label_value_faults(text: &str) -> Vec<String> {
    let ok = text.is_empty() || shaped(text, |c| c.is_ascii_alphanumeric(), b"-_.");
    check(text, LABEL_LEN_MAX, ok, LABEL_VALUE)
}

/// Faults of a key of a ConfigMap's or Secret's data: a file name that cannot lead out of its directory.
#[must_use]
pub fn config_key_faults(text: &str) -> Vec<String> {
    let ok = !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
    let mut faults = check(text, SUBDOMAIN_LEN_MAX, ok, CONFIG_KEY);
    match text {
        "." | ".." => faults.push(format!("must not be '{text}'")),
        _ if text.starts_with("..") => faults.push("must not start with '..'".to_owned()),
        _ => {}
    }
    faults
}

/// Faults of an environment variable's name.
#[must_use]
pub fn env_name_faults(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    let ok = text.bytes().all(|c| (0x20..0x7f).contains(&c) && c != b'=');
    if ok { Vec::new() } else { vec![ENV_NAME.to_owned()] }
}

/// Faults of a container port's name (IANA service name: at most 15 bytes, a letter, no double hyphen).
#[must_use]
pub fn port_name_faults(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > 15 {
        faults.push(too_long(15));
    }
    if !text.bytes().all(|c| is_lower_alnum(c) || c == b'-') || text.is_empty() {
        faults.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|c| c.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

/// Faults of a port's number.
#[must_use]
pub fn port_number_faults(port: i64) -> Vec<String> {
    if (1..=65_535).contains(&port) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains() {
        for good in ["a", "my-name", "123-abc", &"a".repeat(63)] {
            assert!(dns1123_label_faults(good).is_empty(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä"] {
            assert_eq!(dns1123_label_faults(bad).len(), 1, "{bad}");
        }
        assert_eq!(dns1123_label_faults(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert!(dns1123_subdomain_faults("a.b-c.1").is_empty());
        for bad in ["", ".a", "a.", "a..b", "a.-b"] {
            assert_eq!(dns1123_subdomain_faults(bad).len(), 1, "{bad}");
        }
        assert!(dns1035_label_faults("a1").is_empty());
        assert_eq!(dns1035_label_faults("1a").len(), 1);
    }

    #[test]
    fn qualified_names_have_an_optional_prefix() {
        for good in ["a", "A_b.C", "example.com/My-Name"] {
            assert!(qualified_name_faults(good).is_empty(), "{good}");
        }
        assert_eq!(qualified_name_faults("a/b/c").len(), 1);
        assert_eq!(qualified_name_faults("/b"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name_faults("a/").len(), 2);
        assert!(qualified_name_faults("A/b")[0].starts_with("prefix part a lowercase RFC 1123 subdomain"));
    }

    #[test]
    fn keys_of_data_stay_in_their_directory() {
        assert!(config_key_faults("..data").len() == 1 && config_key_faults(".").len() == 1);
        assert!(config_key_faults(".hidden").is_empty() && config_key_faults("a b").len() == 1);
    }

    #[test]
    fn port_names() {
        assert!(port_name_faults("web").is_empty());
        assert_eq!(port_name_faults("80"), ["must contain at least one letter (a-z)"]);
        assert_eq!(port_name_faults("-a--b-").len(), 2);
    }
}
