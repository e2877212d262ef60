//! One GET over a connection of its own, for probes and hooks. Certificates are not checked, as in Kubernetes: a Pod's
//! certificate names its Service, not its address.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::CryptoProvider,
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};

/// More of an answer than this is not read.
const BODY_LEN_MAX: usize = 10 * 1024;

/// Where to send a GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whether TLS is spoken.
    pub https: bool,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// Headers, in order.
    pub headers: Vec<(String, String)>,
    /// `User-Agent`, unless `headers` has one.
    pub user_agent: &'static str,
}

impl Target {
    /// As a person would write it.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Why there was no answer. The words are those of Kubernetes' own client.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// Nobody listens there (yet).
    #[error("dial tcp {0}: connect: connection refused")]
    Refused(String),
    /// No answer in time.
    #[error("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")]
    Timeout,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Opens a TCP connection within `timeout`.
///
/// # Errors
/// Refused, timed out, or anything else.
pub async fn connect(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, GetError> {
    let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let connecting = async {
        match host.parse() {
            Ok(ip) => TcpStream::connect(SocketAddr::new(ip, port)).await,
            Err(_) => TcpStream::connect((host, port)).await,
        }
    };
    match tokio::time::timeout(timeout, connecting).await {
        Err(_) => Err(GetError::Timeout),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Err(GetError::Refused(shown))
        }
        Ok(Err(error)) => Err(GetError::Other(format!("dial tcp {shown}: {error}"))),
        Ok(Ok(stream)) => Ok(stream),
    }
}

/// Status and (the beginning of) the body of a GET, within `timeout` in all.
///
/// # Errors
/// Why there was no answer.
pub async fn get(target: &Target, timeout: Duration) -> Result<(u16, Vec<u8>), GetError> {
    tokio::time::timeout(timeout, exchange(target, timeout)).await.unwrap_or(Err(GetError::Timeout))
}

async fn exchange(target: &Target, timeout: Duration) -> Result<(u16, Vec<u8>), GetError> {
    let request = request(target)?;
    let stream = connect(&target.host, target.port, timeout).await?;
    let other = |e: &dyn std::fmt::Display| GetError::Other(e.to_string());
    if target.https {
        let name = ServerName::try_from(target.host.clone()).map_err(|e| other(&e))?;
        let config = tls_config().map_err(|e| other(&e))?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|e| other(&e))?;
        send(stream, request).await
    } else {
        send(stream, request).await
    }
}

fn request(target: &Target) -> Result<Request<Empty<Bytes>>, GetError> {
    let other = |e: &dyn std::fmt::Display| GetError::Other(e.to_string());
    let path: Uri = target.path.parse().map_err(|e| other(&e))?;
    let mut request = Request::get(path).body(Empty::new()).map_err(|e| other(&e))?;
    let headers = request.headers_mut();
    for (name, value) in &target.headers {
        let name: HeaderName = name.parse().map_err(|e| other(&e))?;
        headers.append(name, HeaderValue::from_str(value).map_err(|e| other(&e))?);
    }
    let host = HeaderValue::from_str(&target.authority()).map_err(|e| other(&e))?;
    headers.entry(header::HOST).or_insert(host);
    headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(target.user_agent));
    headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<(u16, Vec<u8>), GetError> {
    let other = |e: hyper::Error| GetError::Other(hitless_base::chain(&e));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(other)?;
    let exchange = async {
        let mut response = sender.send_request(request).await.map_err(other)?;
        let mut body = Vec::new();
        while body.len() < BODY_LEN_MAX {
            match response.body_mut().frame().await {
                Some(Ok(frame)) => body.extend_from_slice(frame.data_ref().map_or(&[], |d| d.as_ref())),
                Some(Err(_)) | None => break,
            }
        }
        body.truncate(BODY_LEN_MAX);
        Ok((response.status().as_u16(), body))
    };
    // The connection is driven beside the exchange and ends with it: no task is left behind.
    tokio::pin!(exchange);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        ended = &mut connection => match ended {
            // The answer may be in the sender's hands already.
            Ok(()) => exchange.await,
            Err(error) => Err(other(error)),
        },
    }
}

fn tls_config() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Takes any certificate.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
