//! `pods/exec`, `pods/attach` and `pods/portforward`: a client's upgraded connection, handed on to the kubelet as it is.
//!
//! The API server finds out who may and which kubelet it is; what the two say to each other (WebSocket, or SPDY for older
//! clients) is theirs, so nothing is read or changed here. What must hold: a refusal by the kubelet reaches
//! the client as it came, before any upgrade; and a stream ends with either side, or with this server.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, Method, Request, StatusCode, Uri, header},
    response::Response,
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::{
    codec::text,
    core::Core,
    fault::Fault,
    logs::{self, Kubelet},
    query::Query,
    route::Place,
};

/// A kubelet opens the runtime's streams before it answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(45);
/// How long the client may take to become what it asked for.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// A refusal is handed on so far.
const REFUSAL_LEN_MAX: usize = 64 * 1024;

/// What an upgrade is about; nothing else of a client's head concerns the kubelet.
const PASSED_ON: [HeaderName; 7] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_ACCEPT,
    HeaderName::from_static("x-stream-protocol-version"),
];

/// Parameters and what kubelets call them.
const STREAMS: [(&str, &str); 4] =
    [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];

/// Whether this is one of the subresources here.
pub(crate) fn is_stream(sub: &str) -> bool {
    matches!(sub, "exec" | "attach" | "portforward")
}

/// A request that wants an upgrade.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) query: &'a Query,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) upgrade: Option<OnUpgrade>,
}

/// Connects the client with the kubelet of the Pod's node.
///
/// # Errors
/// 404 without such a Pod, 400 when it has no node, no such container, or no upgrade is asked for.
pub(crate) async fn stream(core: &Core, place: &Place, asked: Asked<'_>) -> Result<Response, Fault> {
    let Some((_, pod)) = core.load(place.kind, &place.namespace, &place.name).await? else {
        return Err(Fault::not_found(place.kind, &place.name));
    };
    let path = kubelet_path(place, &pod, asked.query)?;
    let Some(upgrade) = asked.upgrade.filter(|_| asked.headers.contains_key(header::UPGRADE)) else {
        return Err(Fault::bad_request("Upgrade request required"));
    };
    let node = text(&pod, "/spec/nodeName");
    if node.is_empty() {
        return Err(Fault::bad_request(format!("pod {} does not have a host assigned", place.name)));
    }
    let kubelet = logs::kubelet_of(core, node).await?;
    let request = request(asked.method, &kubelet, &path, asked.headers).map_err(Fault::internal)?;
    let answer = match tokio::time::timeout(ANSWER_TIMEOUT, send(core, &kubelet, request)).await {
        Ok(answer) => answer?,
        Err(_) => return Err(Fault::internal(format!("the kubelet of node {node} does not answer"))),
    };
    let (status, headers) = (answer.status(), answer.headers().clone());
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let said = Limited::new(answer.into_body(), REFUSAL_LEN_MAX).collect().await;
        let said = said.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let mut response = Response::new(Body::from(said));
        *response.status_mut() = status;
        return Ok(response);
    }
    let cancel = core.cancel.clone();
    tokio::spawn(async move {
        let both = async { tokio::try_join!(hyper::upgrade::on(answer), upgrade) };
        let Ok(Ok((kubelet, client))) = tokio::time::timeout(UPGRADE_TIMEOUT, both).await else { return };
        tokio::select! {
            () = carry(client, kubelet) => {}
            () = cancel.cancelled() => {}
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    *response.headers_mut() = passed_on(&headers);
    Ok(response)
}

async fn carry(client: Upgraded, kubelet: Upgraded) {
    let (mut client, mut kubelet) = (TokioIo::new(client), TokioIo::new(kubelet));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut kubelet).await {
        tracing::debug!(%error, "a stream to a Pod ended");
    }
}

fn passed_on(from: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in PASSED_ON {
        for value in from.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers
}

fn request(
    method: &Method,
    kubelet: &Kubelet,
    path: &str,
    headers: &HeaderMap,
) -> Result<Request<Empty<bytes::Bytes>>, axum::http::Error> {
    let uri: Uri = path.parse()?;
    let mut request = Request::builder().method(method).uri(uri).body(Empty::new())?;
    *request.headers_mut() = passed_on(headers);
    request.headers_mut().insert(header::HOST, format!("{}:{}", kubelet.host, kubelet.port).parse()?);
    Ok(request)
}

async fn send(
    core: &Core,
    kubelet: &Kubelet,
    request: Request<Empty<bytes::Bytes>>,
) -> Result<hyper::Response<hyper::body::Incoming>, Fault> {
    let Some(tls) = &core.options.kubelet_client else {
        return Err(Fault::internal("this API server has no certificate for kubelets"));
    };
    let failed = |error: &dyn std::error::Error| {
        let words = hitless_base::chain(error);
        Fault::internal(format!("error dialing backend: {}:{}: {words}", kubelet.host, kubelet.port))
    };
    let stream = logs::connect(kubelet, Arc::clone(tls)).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    // Ends with the upgraded connection, or with the answer.
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(|error| failed(&error))
}

/// The kubelet's path for what is asked.
fn kubelet_path(place: &Place, pod: &Value, query: &Query) -> Result<String, Fault> {
    let (namespace, name) = (&place.namespace, &place.name);
    let mut passed: Vec<(&str, &str)> = Vec::new();
    let path = if place.sub == "portforward" {
        passed.extend(query.all("ports").map(|value| ("ports", value)));
        format!("/portForward/{namespace}/{name}")
    } else {
        let container = logs::container(pod, query.get("container").filter(|c| !c.is_empty()))?;
        passed.extend(STREAMS.iter().filter(|(own, _)| query.flag(own)).map(|(_, theirs)| (*theirs, "1")));
        if place.sub == "exec" {
            passed.extend(query.all("command").map(|value| ("command", value)));
        }
        format!("/{}/{namespace}/{name}/{container}", place.sub)
    };
    let parameters: Vec<String> =
        passed.iter().map(|(name, value)| format!("{name}={}", logs::encode(value))).collect();
    Ok(format!("{path}?{}", parameters.join("&")))
}

#[cfg(test)]
mod tests {
    use hitless_types::kinds;
    use serde_json::json;

    use super::*;

    fn path(sub: &str, query: &str) -> Result<String, Fault> {
        let pods = kinds::by_path("", "v1", "pods").unwrap();
        let place = Place { sub: sub.to_owned(), ..Place::object(pods, "ns", "p") };
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        kubelet_path(&place, &pod, &Query::parse(Some(query)))
    }

    #[test]
    fn a_kubelet_is_asked_in_its_own_words() {
        assert_eq!(
            path("exec", "command=sh&command=-c&command=a%26b&stdin=true&stdout=true&stderr=false"),
            Ok("/exec/ns/p/c?input=1&output=1&command=sh&command=-c&command=a%26b".to_owned())
        );
        assert_eq!(
            path("attach", "container=c&stdout=true&tty=true&command=x"),
            Ok("/attach/ns/p/c?output=1&tty=1".to_owned())
        );
        assert_eq!(
            path("portforward", "ports=80&ports=81"),
            Ok("/portForward/ns/p?ports=80&ports=81".to_owned())
        );
        assert_eq!(path("exec", "container=d&command=x").map_err(|f| f.code()), Err(400));
    }

    #[test]
    fn credentials_of_the_client_are_not_the_kubelets() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("authorization", "Bearer x"), ("upgrade", "websocket"), ("cookie", "a")] {
            headers.insert(name, value.parse().unwrap());
        }
        let passed = passed_on(&headers);
        assert_eq!(passed.keys().collect::<Vec<_>>(), ["upgrade"]);
    }
}
