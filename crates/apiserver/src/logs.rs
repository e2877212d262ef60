//! `pods/log`: passed on from the kubelet of the Pod's node, as it comes.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Request, StatusCode, Uri, header},
    response::Response,
};
use hitless_types::kinds;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{codec::text, core::Core, fault::Fault, query::Query, reply, route::Place};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Parameters that the kubelet is given.
const PASSED_ON: [&str; 7] =
    ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes"];

/// Where a node's kubelet listens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kubelet {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The container's output.
///
/// # Errors
/// 404 without such a Pod, 400 for a container that is not one of its own, 500 when the kubelet does not answer.
pub(crate) async fn logs(core: &Core, place: &Place, query: &Query) -> Result<Response, Fault> {
    let Some((_, pod)) = core.load(place.kind, &place.namespace, &place.name).await? else {
        return Err(Fault::not_found(place.kind, &place.name));
    };
    let container = container(&pod, query.get("container"))?;
    let node = text(&pod, "/spec/nodeName");
    if node.is_empty() {
        // Nothing has run, so nothing was said.
        return Ok(reply::plain(StatusCode::OK, Body::empty()));
    }
    let kubelet = kubelet_of(core, node).await?;
    let path = log_path(&place.namespace, &place.name, &container, query);
    fetch(core, &kubelet, &path).await
}

/// Where the node's kubelet listens.
///
/// # Errors
/// 404 without such a node, 500 when it does not say.
pub(crate) async fn kubelet_of(core: &Core, node: &str) -> Result<Kubelet, Fault> {
    let nodes = kinds::by_path("", "v1", "nodes").ok_or_else(Fault::no_resource)?;
    let Some((_, node)) = core.load(nodes, "", node).await? else {
        return Err(Fault::not_found(nodes, node));
    };
    kubelet(&node)
}

/// Which container: the one that is named, or the only one there is.
pub(crate) fn container(pod: &Value, named: Option<&str>) -> Result<String, Fault> {
    let pod_name = text(pod, "/metadata/name");
    let names = |field: &str| -> Vec<String> {
        let list = pod.pointer(&format!("/spec/{field}")).and_then(Value::as_array);
        list.into_iter().flatten().map(|c| text(c, "/name").to_owned()).collect()
    };
    let (own, init) = (names("containers"), names("initContainers"));
    match (named, own.as_slice()) {
        (Some(name), _) if own.iter().chain(&init).any(|c| c == name) => Ok(name.to_owned()),
        (Some(name), _) => {
            Err(Fault::bad_request(format!("container {name} is not valid for pod {pod_name}")))
        }
        (None, [one]) => Ok(one.clone()),
        (None, many) => {
            let choose = many.join(" ");
            let words =
                format!("a container name must be specified for pod {pod_name}, choose one of: [{choose}]");
            Err(Fault::bad_request(words))
        }
    }
}

fn kubelet(node: &Value) -> Result<Kubelet, Fault> {
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
    let internal = addresses.into_iter().flatten().find(|a| text(a, "/type") == "InternalIP");
    let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
    let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0);
    match (internal, port) {
        (Some(address), Some(port)) => Ok(Kubelet { host: text(address, "/address").to_owned(), port }),
        _ => {
            let name = text(node, "/metadata/name");
            Err(Fault::internal(format!("node {name} has not said where its kubelet listens")))
        }
    }
}

fn log_path(namespace: &str, pod: &str, container: &str, query: &Query) -> String {
    let passed: Vec<String> = PASSED_ON
        .iter()
        .filter_map(|name| query.get(name).map(|value| format!("{name}={}", encode(value))))
        .collect();
    format!("/containerLogs/{namespace}/{pod}/{container}?{}", passed.join("&"))
}

pub(crate) fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b':');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

async fn fetch(core: &Core, kubelet: &Kubelet, path: &str) -> Result<Response, Fault> {
    let Some(tls) = &core.options.kubelet_client else {
        return Err(Fault::internal("this API server has no certificate for kubelets"));
    };
    let url = format!("https://{}:{}{path}", kubelet.host, kubelet.port);
    let failed = |error: &dyn std::error::Error| {
        Fault::internal(format!("Get {url:?}: {}", hitless_base::chain(error)))
    };
    let connect = connect(kubelet, Arc::clone(tls));
    let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
        Ok(connected) => connected.map_err(|error| failed(&error))?,
        Err(elapsed) => return Err(failed(&elapsed)),
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    // Ends with the answer's body: whoever drops that drops the sender's half.
    let connection = tokio::spawn(connection);
    let request = Request::get(path.parse::<Uri>().map_err(|error| failed(&error))?)
        .header(header::HOST, format!("{}:{}", kubelet.host, kubelet.port))
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| failed(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
    let (head, body) = answer.into_parts();
    if !head.status.is_success() {
        let said = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        connection.abort();
        let said = String::from_utf8_lossy(said.get(..said.len().min(4096)).unwrap_or_default()).into_owned();
        return Err(match head.status.as_u16() {
            400 => Fault::bad_request(said),
            404 => Fault::other(404, "NotFound", said),
            _ => Fault::internal(said),
        });
    }
    Ok(reply::plain(StatusCode::OK, Body::new(Held { body, _sender: sender })))
}

pub(crate) async fn connect(
    kubelet: &Kubelet,
    tls: Arc<rustls::ClientConfig>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = ServerName::try_from(kubelet.host.clone()).map_err(std::io::Error::other)?;
    let tcp = TcpStream::connect((kubelet.host.as_str(), kubelet.port)).await?;
    tcp.set_nodelay(true)?;
    tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await
}

/// The kubelet's answer, with the connection kept open as long as somebody reads it.
struct Held {
    body: hyper::body::Incoming,
    _sender: hyper::client::conn::http1::SendRequest<Empty<bytes::Bytes>>,
}

impl hyper::body::Body for Held {
    type Data = bytes::Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, hyper::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(context)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_must_be_named_when_there_are_several() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(container(&pod, Some("b")), Ok("b".to_owned()));
        let words = container(&pod, None).unwrap_err().message();
        assert_eq!(words, "a container name must be specified for pod p, choose one of: [a b]");
        assert_eq!(container(&pod, Some("c")).unwrap_err().code(), 400);
    }

    #[test]
    fn only_known_parameters_are_passed_on() {
        let query =
            Query::parse(Some("follow=true&tailLines=5&x=y&sinceTime=2026-01-01T00%3A00%3A00%2B01:00"));
        assert_eq!(
            log_path("d", "p", "c", &query),
            "/containerLogs/d/p/c?follow=true&sinceTime=2026-01-01T00:00:00%2B01:00&tailLines=5"
        );
    }

    #[test]
    fn a_kubelet_is_where_its_node_says() {
        let node = json!({"metadata": {"name": "n"}, "status": {
            "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}});
        assert_eq!(kubelet(&node), Ok(Kubelet { host: "10.0.0.1".into(), port: 10250 }));
        assert!(kubelet(&json!({})).is_err());
    }
}
