//! `serviceaccounts/token`: a token for an account, bound to a Pod if that is asked for.
//!
//! A node may have tokens for its own Pods only, and only of the account that each runs as. See
//! <https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-request-v1/>.

use hitless_types::{field::FieldError, kinds};
use serde_json::{Map, Value, json};

use crate::{
    auth::Identity,
    codec::text,
    core::{Core, seconds_text},
    fault::Fault,
    route::Place,
    tokens::ISSUER,
};

const EXPIRATION_S: i64 = 3600;
const EXPIRATION_S_MIN: i64 = 600;
const EXPIRATION_S_MAX: i64 = 1 << 32;
/// A token is not good for longer, whatever was asked for.
const EXPIRATION_S_LONGEST: i64 = 365 * 24 * 3600;

/// Makes a token.
///
/// # Errors
/// 404 without such an account or Pod, 403 for another node's Pod, 422 for a bad duration.
pub(crate) async fn create(
    core: &Core,
    place: &Place,
    who: &Identity,
    asked: &Value,
) -> Result<Value, Fault> {
    let Some(key) = &core.options.token_key else {
        return Err(Fault::internal("this API server has no key for tokens"));
    };
    let Some((_, account)) = core.load(place.kind, &place.namespace, &place.name).await? else {
        return Err(Fault::not_found(place.kind, &place.name));
    };
    let expiration_s = expiration(place, asked)?.min(EXPIRATION_S_LONGEST);
    let audiences = match asked.pointer("/spec/audiences").and_then(Value::as_array) {
        Some(list) if !list.is_empty() => list.clone(),
        _ => vec![ISSUER.into()],
    };
    let bound = bound_to(core, place, who, asked).await?;
    let now = core.now();
    let expires = now.saturating_add(std::time::Duration::from_secs(expiration_s.unsigned_abs()));
    let expires = expires.map_err(Fault::internal)?;
    let (namespace, name) = (&place.namespace, &place.name);
    let mut own: Map<String, Value> = Map::new();
    own.insert("namespace".into(), namespace.clone().into());
    own.insert("serviceaccount".into(), json!({"name": name, "uid": text(&account, "/metadata/uid")}));
    own.extend(bound);
    let token = key.sign(&json!({
        "iss": ISSUER, "sub": format!("system:serviceaccount:{namespace}:{name}"), "aud": audiences,
        "iat": now.as_second(), "nbf": now.as_second(), "exp": expires.as_second(),
        "jti": uuid::Uuid::new_v4().to_string(), "kubernetes.io": own,
    }))?;
    let mut spec = json!({"audiences": audiences, "expirationSeconds": expiration_s});
    if let (Some(reference), Some(map)) = (asked.pointer("/spec/boundObjectRef"), spec.as_object_mut()) {
        map.insert("boundObjectRef".into(), reference.clone());
    }
    Ok(json!({
        "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": seconds_text(now)},
        "spec": spec,
        "status": {"token": token, "expirationTimestamp": seconds_text(expires)},
    }))
}

fn expiration(place: &Place, asked: &Value) -> Result<i64, Fault> {
    let Some(given) = asked.pointer("/spec/expirationSeconds").filter(|v| !v.is_null()) else {
        return Ok(EXPIRATION_S);
    };
    let words = match given.as_i64() {
        Some(s) if (EXPIRATION_S_MIN..=EXPIRATION_S_MAX).contains(&s) => return Ok(s),
        Some(s) if s > EXPIRATION_S_MAX => "may not specify a duration larger than 2^32 seconds",
        _ => "may not specify a duration less than 10 minutes",
    };
    let error = FieldError::invalid("spec.expirationSeconds", given.clone(), words);
    Err(Fault::invalid(place.kind, &place.name, vec![error]))
}

/// The claims about the Pod that the token is bound to.
async fn bound_to(
    core: &Core,
    place: &Place,
    who: &Identity,
    asked: &Value,
) -> Result<Map<String, Value>, Fault> {
    let reference = asked.pointer("/spec/boundObjectRef").filter(|r| !r.is_null());
    let forbidden = |why: &str| Fault::forbidden(place.kind, &place.name, why);
    let Some(reference) = reference else {
        return match who.node() {
            Some(_) => Err(forbidden("node requested token not bound to a pod")),
            None => Ok(Map::new()),
        };
    };
    if text(reference, "/kind") != "Pod" {
        let kind = text(reference, "/kind");
        let words =
            format!("cannot bind token for serviceaccount {:?} to object of kind {kind:?}", place.name);
        return Err(Fault::bad_request(words));
    }
    let pods = kinds::by_path("", "v1", "pods").ok_or_else(Fault::no_resource)?;
    let pod_name = text(reference, "/name");
    let Some((_, pod)) = core.load(pods, &place.namespace, pod_name).await? else {
        return Err(Fault::not_found(pods, pod_name));
    };
    let (uid, node) = (text(&pod, "/metadata/uid"), text(&pod, "/spec/nodeName"));
    if !matches!(text(reference, "/uid"), said if said.is_empty() || said == uid) {
        let said = text(reference, "/uid");
        let why = format!(
            "the UID in the bound object reference ({said}) does not match the UID in record ({uid})"
        );
        return Err(Fault::conflict(pods, pod_name, &why));
    }
    if text(&pod, "/spec/serviceAccountName") != place.name {
        let words = format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            place.name
        );
        return Err(Fault::bad_request(words));
    }
    if who.node().is_some_and(|own| own != node) {
        return Err(forbidden("node requested token bound to a pod scheduled on a different node"));
    }
    let mut claims = Map::new();
    claims.insert("pod".into(), json!({"name": pod_name, "uid": uid}));
    if !node.is_empty() {
        claims.insert("node".into(), json!({"name": node}));
    }
    Ok(claims)
}
