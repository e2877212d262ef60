//! How a client comes to its API server.

use std::path::Path;

use http::{Request, Response};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use tower::{BoxError, Service};

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be read.
    #[error("kubeconfig {path} cannot be used")]
    Kubeconfig {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// No client can be built from it.
    #[error("no client can be made from kubeconfig {path}")]
    Client {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

/// A client from a kubeconfig file.
///
/// Reads have no time limit of their own (watches are long); calls that must end are bounded by who makes them.
pub async fn from_kubeconfig(path: &Path) -> Result<Client, ConnectError> {
    let shown = path.display().to_string();
    let kubeconfig = Kubeconfig::read_from(path)
        .map_err(|source| ConnectError::Kubeconfig { path: shown.clone(), source })?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|source| ConnectError::Kubeconfig { path: shown.clone(), source })?;
    config.read_timeout = None;
    config.connect_timeout = Some(std::time::Duration::from_secs(5));
    Client::try_from(config).map_err(|source| ConnectError::Client { path: shown, source: Box::new(source) })
}

/// A client that calls `service` in this process: no socket, no TLS, about 20 us a call.
pub fn in_process<S, B>(service: S) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body_like::Body,
{
    Client::new(service, "default")
}

/// The bounds that `kube::Client::new` puts on a response's body.
pub mod http_body_like {
    /// A response body: bytes, with an error that can be boxed.
    pub trait Body:
        hyper::body::Body<Data = hyper::body::Bytes, Error: Into<tower::BoxError>> + Send + 'static
    {
    }
    impl<B> Body for B where
        B: hyper::body::Body<Data = hyper::body::Bytes, Error: Into<tower::BoxError>> + Send + 'static
    {
    }
}
