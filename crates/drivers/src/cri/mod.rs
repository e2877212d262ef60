//! CRI v1 over containerd's unix socket: the kubelet's `Runtime` port in the real world.
//!
//! Each call has a bound, so that a hung runtime never hangs a Pod worker. Nothing is remembered but open pidfds
//! (`processes.rs`), which can be had again at any time: after a restart the state is whatever the runtime says.

mod convert;
mod events;
mod processes;
mod runtime;
mod signal;

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use hitless_kubelet::ports::RuntimeError;
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, sync::Notify, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint, Uri},
};

use processes::Processes;

/// Generated from `proto/cri.proto`.
#[allow(missing_docs, clippy::all, clippy::allow_attributes_without_reason, reason = "generated")]
mod proto {
    tonic::include_proto!("runtime.v1");
}

/// Generated from `proto/events.proto`.
#[allow(missing_docs, clippy::all, clippy::allow_attributes_without_reason, reason = "generated")]
mod event_proto {
    tonic::include_proto!("containerd.services.events.v1");
}

/// Generated from `proto/images.proto`.
#[allow(missing_docs, clippy::all, clippy::allow_attributes_without_reason, reason = "generated")]
mod image_proto {
    tonic::include_proto!("containerd.services.images.v1");
}

/// containerd's label of images that no registry has given.
pub(crate) const IMPORTED: &str = "hitless.dev/imported";
/// The namespace of containerd in which CRI's images and containers live.
pub(crate) const NAMESPACE: &str = "k8s.io";

/// Bound of a call that only asks.
const ASK: Duration = Duration::from_secs(10);
/// Bound of a call that makes, stops or removes something. What containerd does there waits for runc, CNI and the disk.
const CHANGE: Duration = Duration::from_secs(120);
/// Bound of a pull: a large image over a slow line takes its time.
const PULL: Duration = Duration::from_secs(600);
/// Largest answer taken. containerd bounds an exec's output at 16 MiB; a long list of containers is smaller.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// One node's containerd.
///
/// The connection is made by the first call and again after a loss, so this may exist before containerd does and
/// outlive its restarts.
pub struct Containerd {
    channel: Channel,
    processes: Processes,
    /// Holds one permit when something has happened since the last `changed`.
    happened: Arc<Notify>,
    _events: AbortOnDropHandle<()>,
}

impl Containerd {
    /// A client of the containerd that listens on `socket`. Must be called within a tokio runtime: it starts the task that
    /// follows containerd's events, which ends when the client is dropped.
    #[must_use]
    pub fn connect(socket: impl Into<PathBuf>) -> Self {
        let socket = socket.into();
        // The name only fills HTTP/2's authority; the connector below ignores it.
        let channel = Endpoint::from_static("http://containerd").connect_with_connector_lazy(
            tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }),
        );
        let happened = Arc::new(Notify::new());
        let events = tokio::spawn(events::follow(channel.clone(), happened.clone()));
        Self { channel, processes: Processes::default(), happened, _events: AbortOnDropHandle::new(events) }
    }

    fn runtime(&self) -> proto::runtime_service_client::RuntimeServiceClient<Channel> {
        proto::runtime_service_client::RuntimeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn images(&self) -> proto::image_service_client::ImageServiceClient<Channel> {
        proto::image_service_client::ImageServiceClient::new(self.channel.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

/// A request of containerd's own protocol, which wants to know the namespace where CRI's does not.
fn in_namespace<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    request
}

/// Waits for `answer` no longer than `bound`. `what` names the thing asked about, for "not found".
async fn bounded<T>(
    call: &'static str,
    what: impl Into<String> + Send,
    bound: Duration,
    answer: impl Future<Output = Result<tonic::Response<T>, Status>> + Send,
) -> Result<T, RuntimeError> {
    match timeout(bound, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(error(call, what.into(), bound, &status)),
        Err(_) => Err(RuntimeError::Timeout { call, timeout_s: bound.as_secs() }),
    }
}

/// The port's error for gRPC's.
fn error(call: &'static str, what: String, bound: Duration, status: &Status) -> RuntimeError {
    let of_transport = std::error::Error::source(status).is_some();
    match status.code() {
        Code::NotFound => RuntimeError::NotFound(what),
        Code::DeadlineExceeded => RuntimeError::Timeout { call, timeout_s: bound.as_secs() },
        Code::Unavailable => RuntimeError::Unavailable(status.message().to_owned()),
        _ if of_transport => RuntimeError::Unavailable(hitless_base::chain(status)),
        // containerd listens before its CRI part has loaded what there was, and says so with this text and no code.
        Code::Unknown if status.message().contains("not initialized yet") => {
            RuntimeError::Unavailable(status.message().to_owned())
        }
        _ => RuntimeError::Failed(status.message().to_owned()),
    }
}

/// "Gone already" is what was wanted.
fn gone_is_fine(result: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    match result {
        Err(RuntimeError::NotFound(_)) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: Status) -> RuntimeError {
        error("ContainerStatus", "container c".into(), ASK, &status)
    }

    #[test]
    fn codes_become_the_errors_of_the_port() {
        assert!(matches!(of(Status::not_found("x")), RuntimeError::NotFound(what) if what == "container c"));
        assert!(matches!(
            of(Status::deadline_exceeded("x")),
            RuntimeError::Timeout { call: "ContainerStatus", timeout_s: 10 }
        ));
        assert!(matches!(of(Status::unavailable("x")), RuntimeError::Unavailable(_)));
        assert!(matches!(of(Status::unknown("server is not initialized yet")), RuntimeError::Unavailable(_)));
        assert!(
            matches!(of(Status::unknown("runc: no")), RuntimeError::Failed(words) if words == "runc: no")
        );
    }

    #[tokio::test]
    async fn nobody_on_the_socket_is_unavailable() {
        let directory = tempfile::tempdir().unwrap();
        let client = Containerd::connect(directory.path().join("none.sock"));
        use hitless_kubelet::ports::Runtime;
        let answer = client.version().await;
        assert!(matches!(answer, Err(RuntimeError::Unavailable(_))), "{answer:?}");
    }
}
