//! What probes and hooks do: a command, a GET, a connection, a pause.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{ContainerPort, HTTPGetAction, LifecycleHandler, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    grpc::{self, CheckError},
    http::{self, GetError, Target},
};
use crate::ports::{Runtime, RuntimeError};

/// `User-Agent` of probes.
const PROBE_AGENT: &str = "kube-probe/1.36";
/// `User-Agent` of hooks.
const HOOK_AGENT: &str = "kube-lifecycle/1.36";

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run a command in the container.
    Exec(Vec<String>),
    /// GET.
    Http(Target),
    /// Connect.
    Tcp(String, u16),
    /// Ask by gRPC's health protocol.
    Grpc(grpc::Target),
    /// Wait.
    Sleep(Duration),
    /// Nothing that this kubelet can do; the words say why.
    Impossible(String),
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Success,
    /// Badly; the words are Kubernetes'.
    Failure(String),
    /// Nobody listens there: a server that is still starting looks so.
    Refused(String),
}

impl Outcome {
    /// Whether it went well.
    #[must_use]
    pub fn is_success(&self) -> bool {
        *self == Self::Success
    }

    /// What went wrong; empty if nothing did.
    #[must_use]
    pub fn words(&self) -> &str {
        match self {
            Self::Success => "",
            Self::Failure(words) | Self::Refused(words) => words,
        }
    }
}

/// The number of a port given by number or by name.
fn port_number(port: &IntOrString, ports: &[ContainerPort]) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|n| *n > 0),
        IntOrString::String(name) => {
            let named = ports.iter().find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port);
            named.and_then(|n| u16::try_from(n).ok()).or_else(|| name.parse().ok())
        }
    }
}

fn http_action(
    get: &HTTPGetAction,
    ports: &[ContainerPort],
    pod_ip: &str,
    user_agent: &'static str,
) -> Action {
    let Some(port) = port_number(&get.port, ports) else {
        return Action::Impossible("invalid port".to_owned());
    };
    let path = get.path.as_deref().unwrap_or("/");
    let headers = get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
    Action::Http(Target {
        https: get.scheme.as_deref() == Some("HTTPS"),
        host: get.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| pod_ip.to_owned()),
        port,
        path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        headers,
        user_agent,
    })
}

/// What a probe does.
#[must_use]
pub fn of_probe(probe: &Probe, ports: &[ContainerPort], pod_ip: &str) -> Action {
    if let Some(exec) = &probe.exec {
        return Action::Exec(exec.command.clone().unwrap_or_default());
    }
    if let Some(get) = &probe.http_get {
        return http_action(get, ports, pod_ip, PROBE_AGENT);
    }
    if let Some(tcp) = &probe.tcp_socket {
        let host = tcp.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| pod_ip.to_owned());
        return match port_number(&tcp.port, ports) {
            Some(port) => Action::Tcp(host, port),
            None => Action::Impossible("invalid port".to_owned()),
        };
    }
    if let Some(ask) = &probe.grpc {
        let Ok(port) = u16::try_from(ask.port) else { return Action::Impossible("invalid port".to_owned()) };
        let service = ask.service.clone().unwrap_or_default();
        return Action::Grpc(grpc::Target { host: pod_ip.to_owned(), port, service });
    }
    Action::Impossible("missing probe handler".to_owned())
}

/// What a hook does. `tcpSocket` is not run, as in Kubernetes.
#[must_use]
pub fn of_hook(hook: &LifecycleHandler, ports: &[ContainerPort], pod_ip: &str) -> Action {
    if let Some(exec) = &hook.exec {
        Action::Exec(exec.command.clone().unwrap_or_default())
    } else if let Some(get) = &hook.http_get {
        http_action(get, ports, pod_ip, HOOK_AGENT)
    } else if let Some(sleep) = &hook.sleep {
        Action::Sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)))
    } else {
        Action::Impossible("invalid handler: tcpSocket hooks are not run".to_owned())
    }
}

/// Does it, within `timeout`.
pub async fn run(action: &Action, runtime: &dyn Runtime, container_id: &str, timeout: Duration) -> Outcome {
    match action {
        Action::Impossible(words) => Outcome::Failure(words.clone()),
        Action::Sleep(pause) => {
            tokio::time::sleep((*pause).min(timeout)).await;
            Outcome::Success
        }
        Action::Tcp(host, port) => match http::connect(host, *port, timeout).await {
            Ok(_) => Outcome::Success,
            Err(GetError::Timeout) => Outcome::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
            Err(error) => of_error(&error, error.to_string()),
        },
        Action::Http(target) => match http::get(target, timeout).await {
            Ok((200..400, _)) => Outcome::Success,
            Ok((code, _)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
            Err(error) => of_error(&error, format!("Get {:?}: {error}", target.url())),
        },
        Action::Grpc(target) => match grpc::check(target, timeout).await {
            Ok(()) => Outcome::Success,
            Err(error) => {
                let words = error.to_string();
                match error {
                    CheckError::Connect { source, .. } => of_error(&source, words),
                    _ => Outcome::Failure(words),
                }
            }
        },
        Action::Exec(command) => match runtime.exec_sync(container_id, command, timeout).await {
            Ok(output) if output.exit_code == 0 => Outcome::Success,
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                let text = text.get(..text.len().min(4096)).unwrap_or_default();
                Outcome::Failure(String::from_utf8_lossy(text).into_owned())
            }
            Err(RuntimeError::Timeout { .. }) => Outcome::Failure(format!(
                "command timed out: {command:?} timed out after {}s",
                timeout.as_secs()
            )),
            Err(error) => Outcome::Failure(error.to_string()),
        },
    }
}

fn of_error(error: &GetError, words: String) -> Outcome {
    if matches!(error, GetError::Refused(_)) { Outcome::Refused(words) } else { Outcome::Failure(words) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn probe(value: serde_json::Value) -> Action {
        let ports: Vec<ContainerPort> =
            serde_json::from_value(json!([{"name": "web", "containerPort": 8080}])).unwrap();
        of_probe(&serde_json::from_value(value).unwrap(), &ports, "10.0.0.1")
    }

    #[test]
    fn ports_by_name_and_hosts_by_default() {
        let Action::Http(target) =
            probe(json!({"httpGet": {"port": "web", "path": "ok", "scheme": "HTTPS"}}))
        else {
            panic!("not a GET")
        };
        assert_eq!(target.url(), "https://10.0.0.1:8080/ok");
        assert_eq!(probe(json!({"tcpSocket": {"port": 1, "host": "h"}})), Action::Tcp("h".into(), 1));
        assert!(matches!(probe(json!({"tcpSocket": {"port": "none"}})), Action::Impossible(_)));
    }

    /// Answers one connection with `answer` and gives what was asked.
    async fn serve(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let byte = stream.read_u8().await.unwrap();
                asked.push(byte);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(asked).unwrap()
        });
        (port, task)
    }

    fn get(port: u16) -> Target {
        Target {
            https: false,
            host: "127.0.0.1".into(),
            port,
            path: "/ok?a=b".into(),
            headers: vec![("X-A".into(), "1".into()), ("Host".into(), "web".into())],
            user_agent: PROBE_AGENT,
        }
    }

    #[tokio::test]
    async fn a_get_is_judged_by_its_status() {
        let second = Duration::from_secs(5);
        let (port, asked) = serve("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").await;
        let error = http::get(&get(port), second).await.unwrap();
        assert_eq!(error.0, 503);
        let asked = asked.await.unwrap().to_lowercase();
        assert!(asked.starts_with("get /ok?a=b http/1.1\r\n"), "{asked}");
        assert!(asked.contains("x-a: 1") && asked.contains("host: web\r\n") && asked.contains("kube-probe"));
        let (port, _asked) = serve("HTTP/1.1 200 OK\r\n\r\nhello").await;
        assert_eq!(http::get(&get(port), second).await.unwrap(), (200, b"hello".to_vec()));
    }

    #[tokio::test]
    async fn nobody_listening_and_nobody_answering_differ() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let silent = http::get(&get(port), Duration::from_millis(20)).await;
        assert!(matches!(silent, Err(GetError::Timeout)));
        drop(listener);
        let refused = http::get(&get(port), Duration::from_secs(5)).await.unwrap_err().to_string();
        assert_eq!(refused, format!("dial tcp 127.0.0.1:{port}: connect: connection refused"));
    }
}
