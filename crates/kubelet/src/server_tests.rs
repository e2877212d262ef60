//! Who may ask, and which log is meant; a whole exchange over TLS.

use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};

use super::*;
use crate::tests::api::{FakeApi, until};

fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"containerStatuses": [status]}}))
        .unwrap()
}

fn status(restarts: i32, state: Value, last: Value) -> Pod {
    pod(json!({"name": "web", "image": "i", "imageID": "", "ready": false, "restartCount": restarts,
        "state": state, "lastState": last}))
}

fn words(refusal: Result<u32, Refusal>) -> String {
    refusal.err().map(|r| r.1).unwrap_or_default()
}

#[test]
fn which_start_of_a_container_is_meant() {
    let running = json!({"running": {}});
    let ended = json!({"terminated": {"exitCode": 1}});
    let held = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    let of = |p: &Pod, previous| attempt(p, "p", "web", previous);
    assert_eq!(of(&status(0, running.clone(), json!({})), false).ok(), Some(0));
    assert_eq!(of(&status(3, running.clone(), ended.clone()), true).ok(), Some(2));
    assert_eq!(of(&status(3, held.clone(), ended.clone()), false).ok(), Some(3));
    assert_eq!(of(&status(3, held, ended), true).ok(), Some(3));
    let none = words(of(&status(0, running, json!({})), true));
    assert_eq!(none, "previous terminated container \"web\" in pod \"p\" not found\n");
}

#[test]
fn refusals_are_kubernetes_words() {
    let waiting = |reason: &str| status(0, json!({"waiting": {"reason": reason}}), json!({}));
    assert_eq!(
        words(attempt(&waiting("ContainerCreating"), "p", "web", false)),
        "container \"web\" in pod \"p\" is waiting to start: ContainerCreating\n"
    );
    assert_eq!(
        words(attempt(&waiting("ImagePullBackOff"), "p", "web", false)),
        "container \"web\" in pod \"p\" is waiting to start: trying and failing to pull image\n"
    );
    assert_eq!(
        words(attempt(&waiting("x"), "p", "other", false)),
        "container \"other\" in pod \"p\" is not available\n"
    );
    let query = HashMap::from([("tailLines".to_owned(), "x".to_owned())]);
    assert!(Wanted::read(&query, Timestamp::UNIX_EPOCH).is_err());
}

/// A CA of the test's own.
struct Ca {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    /// Certificate and key, as PEM.
    fn issue(&self, name: &str, organization: &str) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    }

    fn connector(&self, (cert, key): (String, String)) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        TlsConnector::from(Arc::new(config))
    }
}

/// Status of a GET, and its body as it comes.
async fn ask(connector: &TlsConnector, address: SocketAddr, path: &str) -> (u16, hyper::body::Incoming) {
    let stream = TcpStream::connect(address).await.unwrap();
    let tls = connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(path).header("host", "n").body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    (response.status().as_u16(), response.into_body())
}

async fn text(body: hyper::body::Incoming) -> String {
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_served_to_the_api_server_and_followed_to_the_end() {
    let ca = Ca::new();
    let (cert, key) = ca.issue("node", "system:nodes");
    let tls = tls_config(cert.as_bytes(), key.as_bytes(), ca.pem.as_bytes()).unwrap();
    let serving = Serving { address: SocketAddr::from(([127, 0, 0, 1], 0)), tls };
    let root = tempfile::tempdir().unwrap();
    let api = FakeApi::new();
    let object = |state: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "status": {"containerStatuses": [{"name": "web", "image": "i", "imageID": "", "ready": true,
                "restartCount": 0, "state": state}]}})
    };
    const PATH: &str = "/api/v1/namespaces/ns/pods/p";
    api.put(PATH, object(json!({"running": {}})));
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let pods = hitless_client::Reflector::<Pod>::new(kube::Api::all(api.client())).start(&tasks, &cancel);
    let shared = Shared {
        pods: pods.clone(),
        root_dir: root.path().into(),
        clock: Arc::new(hitless_base::SystemClock),
        cancel: cancel.clone(),
        streaming: Streaming {
            runtime: Arc::new(crate::tests::runtime::FakeRuntime::new()),
            sessions: Arc::new(Semaphore::new(1)),
            tasks: tasks.clone(),
        },
    };
    let address = start(&serving, shared, &tasks).await.unwrap();
    until("the cache is filled", || pods.get("ns/p")).await;
    let log = PodDirs::new(root.path(), "ns", "p", "u").logs.join("web/0.log");
    fs::create_dir_all(log.parent().unwrap()).unwrap();
    fs::write(&log, "2026-01-01T00:00:00Z stdout F one\n").unwrap();

    let stranger = ca.connector(ca.issue("somebody", "system:authenticated"));
    assert_eq!(ask(&stranger, address, "/healthz").await.0, 403);
    let server = ca.connector(ca.issue(API_SERVER_NAME, "x"));
    let (code, body) = ask(&server, address, "/healthz").await;
    assert_eq!((code, text(body).await.as_str()), (200, "ok"));
    let admin = ca.connector(ca.issue("me", ADMINISTRATORS));
    assert_eq!(ask(&admin, address, "/containerLogs/ns/none/web").await.0, 404);

    let (code, mut body) = ask(&server, address, "/containerLogs/ns/p/web?follow=true").await;
    assert_eq!(code, 200);
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "one\n");
    let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
    io::Write::write_all(&mut file, b"2026-01-01T00:00:01Z stdout F two\n").unwrap();
    let second = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(second, "two\n");
    api.put(PATH, object(json!({"terminated": {"exitCode": 0}})));
    let rest = tokio::time::timeout(Duration::from_secs(5), body.collect()).await.unwrap().unwrap();
    assert!(rest.to_bytes().is_empty());
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
}
