//! Service account tokens for projected volumes: asked for when they are needed, and anew when four fifths of their time are over.
//!
//! Held in memory only: a kubelet that starts anew asks again, and containers find the new token in the same file.
//! See <https://kubernetes.io/docs/concepts/storage/projected-volumes/#serviceaccounttoken>.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hitless_base::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, PodSpec, ServiceAccount, ServiceAccountTokenProjection},
};
use kube::{Api, Client, api::PostParams};

/// What a token is for and how long it is wanted: those that are alike are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// Empty: the API server.
    pub audience: String,
    /// Seconds.
    pub expiration_s: i64,
}

impl Wanted {
    /// What this projection wants.
    #[must_use]
    pub fn of(projection: &ServiceAccountTokenProjection) -> Self {
        Self {
            audience: projection.audience.clone().unwrap_or_default(),
            expiration_s: projection.expiration_seconds.unwrap_or(3600),
        }
    }
}

/// A token that is held.
#[derive(Clone, Debug)]
pub struct Held {
    /// As it stands in the file.
    pub token: String,
    /// When the next one is due.
    renew_at: Timestamp,
}

#[cfg(test)]
impl Held {
    /// One that is never renewed.
    pub fn new(token: &str) -> Self {
        Self { token: token.to_owned(), renew_at: Timestamp::MAX }
    }
}

/// A Pod's tokens.
pub type Tokens = BTreeMap<Wanted, Held>;

/// A token could not be had.
#[derive(Debug, thiserror::Error)]
#[error("failed to fetch token")]
pub struct TokenError(#[from] Box<kube::Error>);

/// What all volumes of the Pod want.
#[must_use]
pub fn of_volumes(spec: &PodSpec) -> BTreeSet<Wanted> {
    let projected = spec.volumes.iter().flatten().filter_map(|v| v.projected.as_ref());
    let sources = projected.flat_map(|p| p.sources.iter().flatten());
    sources.filter_map(|s| s.service_account_token.as_ref()).map(Wanted::of).collect()
}

/// Brings `held` in line with what the Pod's volumes want.
///
/// # Errors
/// The API's; a token that is held and only due to be renewed is kept until then.
pub async fn renew(client: &Client, pod: &Pod, held: &mut Tokens, now: Timestamp) -> Result<(), TokenError> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    for wanted in of_volumes(spec) {
        if held.get(&wanted).is_some_and(|h| now < h.renew_at) {
            continue;
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let account = spec.service_account_name.as_deref().unwrap_or("default");
        let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        let answer = api.create_token_request(account, &PostParams::default(), &request(pod, &wanted)).await;
        let status = answer.map_err(Box::new)?.status.unwrap_or_default();
        // What says no end is asked for again at once.
        let expires = status.expiration_timestamp.map_or(now, |t| t.0);
        let held_now = Held { token: status.token.unwrap_or_default(), renew_at: renew_at(now, expires) };
        held.insert(wanted, held_now);
    }
    Ok(())
}

fn request(pod: &Pod, wanted: &Wanted) -> TokenRequest {
    let audience = Some(wanted.audience.clone()).filter(|a| !a.is_empty());
    TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: audience.map(|a| vec![a]),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
            expiration_seconds: Some(wanted.expiration_s),
        }),
        ..TokenRequest::default()
    }
}

/// After four fifths of its time, and at the latest after a day.
fn renew_at(now: Timestamp, expires: Timestamp) -> Timestamp {
    const LONGEST: Duration = Duration::from_secs(24 * 3600);
    let lasts = Duration::try_from(expires.duration_since(now)).unwrap_or(Duration::ZERO);
    now.saturating_add(lasts.mul_f64(0.8).min(LONGEST)).unwrap_or(expires)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_before_they_end() {
        let at = |s: i64| Timestamp::from_second(1_800_000_000 + s).unwrap();
        assert_eq!(renew_at(at(0), at(3600)), at(2880));
        assert_eq!(renew_at(at(0), at(30 * 24 * 3600)), at(24 * 3600));
        assert_eq!(renew_at(at(10), at(0)), at(10), "one that is over is asked for at once");
    }

    #[test]
    fn projections_that_are_alike_share_a_token() {
        let spec: PodSpec = serde_json::from_value(serde_json::json!({"containers": [], "volumes": [
            {"name": "a", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
            {"name": "b", "projected": {"sources": [
                {"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}},
                {"serviceAccountToken": {"path": "v", "audience": "vault"}}]}}]}))
        .unwrap();
        let audiences: Vec<String> = of_volumes(&spec).into_iter().map(|w| w.audience).collect();
        assert_eq!(audiences, ["", "vault"]);
    }
}
