//! Service account tokens: a key of the cluster's own, JSON Web Tokens (ES256) signed with it, and who their bearers are.
//!
//! What must hold: a token is good only as long as it says, only for this API server, and only while the account and the Pod that it
//! was made for are there. The key stays in its file (mode 0600) beside the CA's and outlives the server, so that tokens do too.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#bound-service-account-tokens>.

use std::{fs, path::Path};

use axum::http::{HeaderMap, header};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use hitless_types::{kinds, status::ApiFault};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
    },
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};

use crate::{
    Identity,
    codec::text,
    core::Core,
    fault::Fault,
    pki::{PkiError, write_file},
};

/// Who signs, and for whom, unless a token is asked for another audience.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// A longer header is no token of ours.
const TOKEN_LEN_MAX: usize = 8 * 1024;
/// A Pod that is going may still use its token for so long after it should have gone.
const POD_LEEWAY_S: i64 = 60;

/// The key that tokens are signed with.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    id: String,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenKey({})", self.id)
    }
}

impl TokenKey {
    /// A new key.
    ///
    /// # Errors
    /// No key can be made.
    pub fn create() -> Result<Self, PkiError> {
        Self::read(&rcgen::KeyPair::generate()?.serialize_pem())
    }

    /// The key in `directory` (`sa.key`); a new one is made and kept there if there is none.
    ///
    /// # Errors
    /// The file cannot be read or written, or holds something else.
    pub fn load_or_create(directory: &Path) -> Result<Self, PkiError> {
        let path = directory.join("sa.key");
        match fs::read_to_string(&path) {
            Ok(pem) => Self::read(&pem),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let pem = rcgen::KeyPair::generate()?.serialize_pem();
                fs::create_dir_all(directory)
                    .map_err(|source| PkiError::File { path: directory.to_owned(), source })?;
                write_file(&path, &pem, 0o600)?;
                Self::read(&pem)
            }
            Err(source) => Err(PkiError::File { path, source }),
        }
    }

    fn read(pem: &str) -> Result<Self, PkiError> {
        let bad = |e: &dyn std::fmt::Display| PkiError::Pem(e.to_string());
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| bad(&e))?;
        let secret = der.secret_pkcs8_der();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, secret, &SystemRandom::new())
            .map_err(|e| bad(&e))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, pair.public_key().as_ref());
        Ok(Self { id: BASE64.encode(digest.as_ref()), pair })
    }

    /// The claims as a token.
    pub(crate) fn sign(&self, claims: &Value) -> Result<String, Fault> {
        let header = json!({"alg": "ES256", "kid": self.id});
        let said = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signed = self.pair.sign(&SystemRandom::new(), said.as_bytes());
        let signature = signed.map_err(|_| Fault::internal("the token cannot be signed"))?;
        Ok(format!("{said}.{}", BASE64.encode(signature.as_ref())))
    }

    /// The claims of a token that this key has signed.
    fn claims(&self, token: &str) -> Option<Value> {
        let (said, signature) = token.rsplit_once('.').filter(|_| token.len() <= TOKEN_LEN_MAX)?;
        let (head, claims) = said.split_once('.')?;
        let head: Value = serde_json::from_slice(&BASE64.decode(head).ok()?).ok()?;
        if text(&head, "/alg") != "ES256" {
            return None;
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
        key.verify(said.as_bytes(), &BASE64.decode(signature).ok()?).ok()?;
        serde_json::from_slice(&BASE64.decode(claims).ok()?).ok()
    }
}

/// Who bears the token of an `Authorization` header.
///
/// # Errors
/// 401 for anything but a good token, without saying why.
pub(crate) async fn authenticate(core: &Core, headers: &HeaderMap) -> Result<Identity, Fault> {
    let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let token = given.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let claims = token.and_then(|(_, token)| core.options.token_key.as_ref()?.claims(token.trim()));
    match claims {
        Some(claims) => bearer(core, &claims).await?.ok_or_else(|| ApiFault::Unauthorized.into()),
        None => Err(ApiFault::Unauthorized.into()),
    }
}

/// Whether the claims hold now, and whose they are.
async fn bearer(core: &Core, claims: &Value) -> Result<Option<Identity>, Fault> {
    if !is_current(claims, core.now().as_second()) {
        return Ok(None);
    }
    let own = |path: &str| text(claims, &format!("/kubernetes.io/{path}")).to_owned();
    let (namespace, account) = (own("namespace"), own("serviceaccount/name"));
    let accounts = kinds::by_path("", "v1", "serviceaccounts").ok_or_else(Fault::no_resource)?;
    let Some((_, object)) = core.load(accounts, &namespace, &account).await? else { return Ok(None) };
    if text(&object, "/metadata/uid") != own("serviceaccount/uid") {
        return Ok(None);
    }
    let pod = own("pod/name");
    if !pod.is_empty() {
        let pods = kinds::by_path("", "v1", "pods").ok_or_else(Fault::no_resource)?;
        let Some((_, object)) = core.load(pods, &namespace, &pod).await? else { return Ok(None) };
        let deletion = text(&object, "/metadata/deletionTimestamp").parse::<hitless_base::Timestamp>().ok();
        let over = deletion.is_some_and(|at| at.as_second() + POD_LEEWAY_S < core.now().as_second());
        if over || text(&object, "/metadata/uid") != own("pod/uid") {
            return Ok(None);
        }
    }
    Ok(Some(Identity::new(
        &format!("system:serviceaccount:{namespace}:{account}"),
        &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}"), "system:authenticated"],
    )))
}

fn is_current(claims: &Value, now_s: i64) -> bool {
    let at = |name: &str| claims.get(name).and_then(Value::as_i64);
    let audiences = claims.get("aud").and_then(Value::as_array);
    text(claims, "/iss") == ISSUER
        && audiences.is_some_and(|all| all.iter().any(|a| a == ISSUER))
        && at("exp").is_some_and(|exp| now_s < exp)
        // Clocks of one machine differ by nothing; a second covers the rounding.
        && at("nbf").is_none_or(|nbf| nbf <= now_s + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_kept_and_knows_its_own_tokens_only() {
        let directory = tempfile::tempdir().unwrap();
        let key = TokenKey::load_or_create(directory.path()).unwrap();
        let claims = json!({"sub": "x"});
        let token = key.sign(&claims).unwrap();
        let again = TokenKey::load_or_create(directory.path()).unwrap();
        assert_eq!(again.claims(&token), Some(claims.clone()));
        assert_eq!(TokenKey::create().unwrap().claims(&token), None);
        let (said, signature) = token.rsplit_once('.').unwrap();
        let (head, _) = said.split_once('.').unwrap();
        let forged = format!("{head}.{}.{signature}", BASE64.encode(json!({"sub": "y"}).to_string()));
        let unsigned =
            format!("{}.{}.", BASE64.encode(r#"{"alg":"none"}"#), BASE64.encode(claims.to_string()));
        for bad in [forged.as_str(), unsigned.as_str(), "", "a.b", "a.b.c", &"x".repeat(9000)] {
            assert_eq!(key.claims(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_token_is_good_for_its_time_and_audience() {
        let claims = |exp: i64, aud: &str| json!({"iss": ISSUER, "aud": [aud], "exp": exp, "nbf": 100});
        assert!(is_current(&claims(200, ISSUER), 150));
        assert!(!is_current(&claims(200, ISSUER), 200), "expired");
        assert!(!is_current(&claims(200, ISSUER), 98), "not yet");
        assert!(!is_current(&claims(200, "vault"), 150), "for somebody else");
        assert!(!is_current(&json!({"iss": ISSUER, "aud": [ISSUER]}), 150), "without an end");
    }
}
