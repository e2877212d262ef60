//! How a client comes to its API server.

use std::{path::Path, time::Duration};

use hitless_types::well_known;
use http::{HeaderName, HeaderValue, Request, Response};
use hyper_util::{
    client::legacy::{Builder, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt},
    config::{KubeConfigOptions, Kubeconfig},
};
use tower::{BoxError, Service, ServiceBuilder};

/// A connection that is not made within this time is not made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that does not answer a ping so long has gone, and its watches end.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// What one watch, and all of them together, may have under way unread. Bytes.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

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
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|source| ConnectError::Kubeconfig { path: shown.clone(), source })?;
    over_http(&config).map_err(|source| ConnectError::Client { path: shown, source: Box::new(source) })
}

/// All calls and watches share one HTTP/2 connection where the server speaks it, as Kubernetes' do. kube's own stack would give each
/// call that runs beside others a connection, and a TLS handshake costs more than most calls.
fn over_http(config: &Config) -> Result<Client, kube::Error> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(connector);
    let client = Builder::new(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_INTERVAL)
        .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_request(lean)
        .map_err(BoxError::from)
        .service(client);
    Ok(Client::new(service, &config.default_namespace))
}

/// A client that calls `service` in this process: no socket, no TLS, about 20 us a call.
pub fn in_process<S, B>(service: S) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body_like::Body,
{
    Client::new(ServiceBuilder::new().map_request(lean).service(service), "default")
}

/// Asks for objects without managed fields: nobody here looks at them, and they are half of what would be decoded. Other API servers
/// do not know the header.
fn lean(mut request: Request<Body>) -> Request<Body> {
    let value = HeaderValue::from_static(well_known::MANAGED_FIELDS);
    request.headers_mut().insert(HeaderName::from_static(well_known::OMIT_HEADER), value);
    request
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
