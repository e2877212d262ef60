//! Image names, pull policies and credentials. Pure.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::{ports::Auth, sources::Data};

/// The policy, as Kubernetes defaults it: `Always` for `:latest` and no tag, else `IfNotPresent`.
#[must_use]
pub fn pull_policy<'a>(given: Option<&'a str>, image: &str) -> &'a str {
    match given {
        Some(policy) if !policy.is_empty() => policy,
        _ => {
            let (name, digest) = image.split_once('@').map_or((image, ""), |(n, d)| (n, d));
            let last = name.rsplit('/').next().unwrap_or_default();
            let tag = last.split_once(':').map_or("latest", |(_, t)| t);
            if digest.is_empty() && tag == "latest" { "Always" } else { "IfNotPresent" }
        }
    }
}

/// Whether the text is an image reference; else a hint (may be empty) to add to the words.
///
/// # Errors
/// The hint.
pub fn check_reference(image: &str) -> Result<(), &'static str> {
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    if digest.is_some_and(|d| !digest_ok(d)) {
        return Err("");
    }
    let last_slash = name.rfind('/').map_or(0, |i| i + 1);
    let tag_at = name.get(last_slash..).and_then(|last| last.find(':')).map(|i| last_slash + i);
    let (path, tag) = match tag_at {
        Some(i) => (name.get(..i).unwrap_or_default(), name.get(i + 1..)),
        None => (name, None),
    };
    let tag_char = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if tag.is_some_and(|t| t.is_empty() || t.len() > 128 || !t.chars().all(tag_char)) {
        return Err("");
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    let is_host =
        |p: &str| p.contains(['.', ':']) || p == "localhost" || p.chars().any(|c| c.is_ascii_uppercase());
    if parts.len() > 1 && parts.first().is_some_and(|p| is_host(p)) {
        let host = parts.remove(0);
        let host_char = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        if !host.chars().all(host_char) {
            return Err("");
        }
    }
    if parts.iter().any(|p| p.chars().any(|c| c.is_ascii_uppercase())) {
        return Err(": repository name must be lowercase");
    }
    if parts.iter().all(|p| part_ok(p)) { Ok(()) } else { Err("") }
}

fn part_ok(part: &str) -> bool {
    let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    part.starts_with(alnum) && part.ends_with(alnum) && part.chars().all(|c| alnum(c) || "._-".contains(c))
}

fn digest_ok(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty() && hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
    })
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

/// The registry that the image comes from.
fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "docker.io",
    }
}

/// Credentials for the image's registry in a Secret of type `kubernetes.io/dockerconfigjson`.
#[must_use]
pub fn auth(secret: &Data, image: &str) -> Option<Auth> {
    let config: DockerConfig = serde_json::from_slice(secret.get(".dockerconfigjson")?).ok()?;
    let registry = registry_of(image);
    let host = |key: &str| {
        let key = key.trim_start_matches("https://").trim_start_matches("http://");
        key.split('/').next().unwrap_or_default().to_owned()
    };
    let alias = |key: &str| if key == "index.docker.io" { "docker.io".to_owned() } else { key.to_owned() };
    let (_, found) = config.auths.into_iter().find(|(key, _)| alias(&host(key)) == registry)?;
    if !found.username.is_empty() {
        return Some(Auth { username: found.username, password: found.password });
    }
    let decoded = String::from_utf8(STANDARD.decode(found.auth).ok()?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some(Auth { username: username.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_by_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.19", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("nginx@sha256:abc", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(None, image), policy, "{image}");
        }
        assert_eq!(pull_policy(Some("Never"), "nginx"), "Never");
    }

    #[test]
    fn references() {
        let digest = format!("a/b:1@sha256:{}", "a".repeat(64));
        for good in ["nginx", "a/b:1.2_x", "localhost:5000/a/b", "Host.example/a", digest.as_str()] {
            assert_eq!(check_reference(good), Ok(()), "{good}");
        }
        for bad in ["", "a b", "a:", "a//b", "/a", "a:b c", "a@b", "-a"] {
            assert!(check_reference(bad).is_err(), "{bad}");
        }
        assert_eq!(check_reference("Nginx"), Err(": repository name must be lowercase"));
    }

    #[test]
    fn credentials_of_the_images_registry() {
        let config = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpwOnE="}, "r.io": {"username": "a", "password": "b"}}}"#;
        let secret = Data::from([(".dockerconfigjson".to_owned(), config.as_bytes().to_vec())]);
        let of = |image: &str| auth(&secret, image).map(|a| format!("{}/{}", a.username, a.password));
        assert_eq!(of("nginx").as_deref(), Some("u/p:q"));
        assert_eq!(of("r.io/x").as_deref(), Some("a/b"));
        assert_eq!(of("other.io/x"), None);
    }
}
