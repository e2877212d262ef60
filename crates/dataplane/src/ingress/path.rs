//! Paths of requests and of rules: how they are brought to one form, and what matches what.
//!
//! A rule is matched against the path without `.` and `..` segments, without empty segments and with what need not be escaped unescaped, so that no
//! spelling of a path reaches a backend that its plain spelling does not reach. What is forwarded is the path as it came.

use std::borrow::Cow;

/// The path leads out of the root, or holds an escape that is none: no server should guess what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a path that leads anywhere")]
pub struct BadPath;

/// The form of a request's path that rules are matched against. Costs nothing for a path that is plain already.
pub fn plain(path: &str) -> Result<Cow<'_, str>, BadPath> {
    if !path.starts_with('/') {
        return Err(BadPath);
    }
    if is_plain(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let bytes = unescape(path.as_bytes())?;
    let text = String::from_utf8(bytes).map_err(|_| BadPath)?;
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in text.split('/').skip(1) {
        ends_open = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop().ok_or(BadPath)?),
            other => segments.push(other),
        }
    }
    let mut plain = String::with_capacity(text.len());
    for segment in &segments {
        plain.push('/');
        plain.push_str(segment);
    }
    if ends_open || plain.is_empty() {
        plain.push('/');
    }
    Ok(Cow::Owned(plain))
}

/// Neither escapes, nor empty segments, nor any that begin with a dot.
fn is_plain(path: &[u8]) -> bool {
    let mut after_slash = false;
    for byte in path {
        match byte {
            b'%' => return false,
            b'/' | b'.' if after_slash => return false,
            _ => after_slash = *byte == b'/',
        }
    }
    true
}

fn unescape(path: &[u8]) -> Result<Vec<u8>, BadPath> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (high, low) = (rest.next().and_then(digit), rest.next().and_then(digit));
        match (high, low) {
            // NUL ends a name for some programs and not for others.
            (Some(0), Some(0)) => return Err(BadPath),
            (Some(high), Some(low)) => bytes.push(high * 16 + low),
            _ => return Err(BadPath),
        }
    }
    Ok(bytes)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// A Prefix rule's path as it is compared: without the slashes at its end; empty for `/`, which all paths match.
#[must_use]
pub fn prefix(path: &str) -> &str {
    path.trim_end_matches('/')
}

/// What a plain path begins with, element by element, longest first, no longer than `bytes_max`: of `/a/b`: `/a/b`, `/a`, and the empty one.
pub fn prefixes(path: &str, bytes_max: usize) -> impl Iterator<Item = &str> {
    let whole = prefix(path);
    let mut next = Some(whole);
    std::iter::from_fn(move || {
        let this = next?;
        next = this.rfind('/').and_then(|at| this.get(..at));
        Some(this)
    })
    .skip_while(move |prefix| prefix.len() > bytes_max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_of_a_path_is_one() {
        for (path, want) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("/%61/b", "/a/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a%2Fb", "/a/b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a.b/c", "/a.b/c"),
            ("/%C3%A4", "/ä"),
        ] {
            assert_eq!(plain(path).as_deref(), Ok(want), "{path}");
        }
        for path in ["", "a", "*", "/..", "/a/../..", "/%2e%2e/x", "/%", "/%4", "/%zz", "/%00", "/%ff"] {
            assert_eq!(plain(path), Err(BadPath), "{path}");
        }
    }

    #[test]
    fn prefixes_go_by_elements() {
        let all = |path: &'static str| prefixes(path, 100).collect::<Vec<_>>();
        assert_eq!(all("/a/bb/c"), ["/a/bb/c", "/a/bb", "/a", ""]);
        assert_eq!(all("/a/bb/"), ["/a/bb", "/a", ""]);
        assert_eq!(all("/"), [""]);
        assert_eq!(prefixes("/a/bb/c", 5).collect::<Vec<_>>(), ["/a/bb", "/a", ""]);
    }

    proptest! {
        #[test]
        fn a_plain_path_is_its_own_plain_form(path in "(/[a-z.%/]{0,4}|/%2[eEfF]){0,8}") {
            if let Ok(once) = plain(&path) {
                prop_assert!(once.split('/').all(|segment| segment != ".." && segment != "."), "{}", once);
                prop_assert!(!once.contains("//"), "{}", once);
                if !once.contains('%') {
                    let again = plain(&once).unwrap();
                    prop_assert_eq!(&again, &once);
                }
            }
        }
    }
}
