//! TLS: the certificate by server name, its change, and HTTP/2 by ALPN.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::world::{Endpoint, Manner, World, path};

/// A certificate of its own authority, and its key, in PEM.
fn certificate(host: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// Asks for `/` over HTTP/2 as a client that trusts this certificate alone. Errors are in words.
async fn ask(world: &World, host: &'static str, trusted: &str) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut config = builder
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(world.https).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(host.try_into().unwrap(), stream).await.map_err(|e| e.to_string())?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("https://{host}/x"));
    let request = request.body(Full::new(Bytes::from_static(b"hello"))).unwrap();
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
    Ok(format!("{} {}", status.as_u16(), String::from_utf8_lossy(&body)))
}

#[tokio::test]
async fn the_certificate_goes_by_name_and_changes_with_its_secret() {
    let (a, _ta) = Endpoint::start("a", Manner::Answers).await;
    let mut world = World::with(&[&a]).await;
    let (one, two, new) = (certificate("one.org"), certificate("two.org"), certificate("one.org"));
    world.secret("one", one.0.clone(), one.1);
    world.secret("two", two.0.clone(), two.1);
    world.ingress(
        json!({
            "rules": [{"http": {"paths": [path("/", "s")]}}],
            "tls": [{"hosts": ["one.org"], "secretName": "one"}, {"hosts": ["two.org"], "secretName": "two"}],
        }),
        &[],
    );
    world.commit().await;
    let answer = ask(&world, "one.org", &one.0).await.unwrap();
    assert!(answer.starts_with("200 a\nPOST /x HTTP/1.1\r\n") && answer.ends_with("hello"), "{answer}");
    assert!(
        answer.contains("x-forwarded-proto: https\r\n") && answer.contains("host: one.org\r\n"),
        "{answer}"
    );
    assert!(ask(&world, "two.org", &two.0).await.is_ok());
    assert!(ask(&world, "two.org", &one.0).await.is_err(), "the other's certificate is shown");
    assert!(ask(&world, "three.org", &one.0).await.is_err(), "none of them is shown");

    world.secret("one", new.0.clone(), new.1);
    world.commit().await;
    assert!(ask(&world, "one.org", &new.0).await.is_ok());
    assert!(ask(&world, "one.org", &one.0).await.is_err(), "the old one is shown no more");
    world.stop().await;
}
