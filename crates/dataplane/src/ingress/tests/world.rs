//! An ingress on loopback in front of endpoints that do as they are told, without any API.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::super::{
    current::Current,
    level::{IngressLevel, Keyed, Step},
    plane::Workers,
    records::{ClassRecord, IngressRecord, SecretRecord, ServiceRecord, SliceRecord},
    server::{self, Options, Servers},
    table::Table,
    tls::Resolver,
};
use crate::consumer::{Level, Plane};

/// What an endpoint does with a request that it has read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Answers with its name and the request, and keeps the connection.
    Answers,
    /// Answers its connection's first request; closes without a word on the next.
    ClosesOnReuse,
    /// Closes without a word.
    Closes,
    /// Says nothing.
    Silent,
    /// Begins an answer and breaks off.
    BreaksOff,
    /// Agrees to another protocol, and then repeats what it hears.
    Upgrades,
}

#[derive(Debug)]
pub struct Endpoint {
    pub name: &'static str,
    pub address: SocketAddr,
    /// Every request, head and body.
    pub heard: Mutex<Vec<String>>,
    /// Connections so far.
    pub connections: AtomicUsize,
    /// Connections that are open.
    pub open: AtomicUsize,
    manner: Mutex<Manner>,
}

impl Endpoint {
    pub async fn start(name: &'static str, manner: Manner) -> (Arc<Self>, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Arc::new(Self {
            name,
            address: listener.local_addr().unwrap(),
            heard: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            manner: Mutex::new(manner),
        });
        let this = endpoint.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                this.connections.fetch_add(1, Ordering::SeqCst);
                this.open.fetch_add(1, Ordering::SeqCst);
                let this = this.clone();
                tokio::spawn(async move {
                    this.connection(stream).await;
                    this.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        (endpoint, task)
    }

    pub fn manner(&self, manner: Manner) {
        *self.manner.lock() = manner;
    }

    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().clone()
    }

    async fn connection(&self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        for number in 0.. {
            let Some(message) = message(&mut stream, &mut buffer).await else { return };
            self.heard.lock().push(message.clone());
            let manner = *self.manner.lock();
            match manner {
                Manner::Closes => return,
                Manner::ClosesOnReuse if number > 0 => return,
                Manner::Silent => tokio::time::sleep(Duration::from_secs(3600)).await,
                Manner::BreaksOff => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    return;
                }
                Manner::Upgrades => {
                    let head =
                        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
                    stream.write_all(head).await.unwrap();
                    let (mut read, mut write) = stream.split();
                    let _ended = tokio::io::copy(&mut read, &mut write).await;
                    return;
                }
                Manner::Answers | Manner::ClosesOnReuse => {
                    let body = format!("{}\n{message}", self.name);
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// One whole message: its head, and its body by length or in chunks. None: the other side has closed.
pub async fn message(stream: &mut (impl AsyncReadExt + Unpin), buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = end_of_message(buffer) {
            let rest = buffer.split_off(end);
            let whole = std::mem::replace(buffer, rest);
            return Some(String::from_utf8(whole).unwrap());
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

fn end_of_message(bytes: &[u8]) -> Option<usize> {
    let find = |what: &[u8]| bytes.windows(what.len()).position(|window| window == what);
    let head = find(b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    if text.contains("transfer-encoding: chunked") {
        return find(b"\r\n0\r\n\r\n").map(|at| at + 7);
    }
    let length =
        text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
    let end = head + length.unwrap_or(0);
    (bytes.len() >= end).then_some(end)
}

/// The ingress.
pub struct World {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub level: IngressLevel,
    pub plane: Workers,
    pub table: Current<Table<super::super::upstream::Connection>>,
    servers: Arc<Mutex<Option<Servers>>>,
    slices: u64,
}

impl World {
    /// With the class `hitless` and the Service `s` of one port, and no more.
    pub async fn start() -> Self {
        let options =
            Options { http_port: 0, https_port: 0, workers: 1, ..Options::new(vec![[127, 0, 0, 1].into()]) };
        let sockets = server::bind(&options).unwrap();
        let ports: Vec<u16> = sockets[0].iter().map(server::Bound::port).collect();
        let table = Current::new(Table::new(Arc::default(), Vec::new()));
        let resolver = Arc::new(Resolver::new().unwrap());
        let tls = Arc::new(resolver.clone().server_config().unwrap());
        let servers: Arc<Mutex<Option<Servers>>> = Arc::default();
        let ready = Box::new({
            let (table, servers) = (table.clone(), servers.clone());
            move || *servers.lock() = Some(Servers::start(sockets, &table, &tls, 64).unwrap())
        });
        let mut world = Self {
            http: ([127, 0, 0, 1], ports[0]).into(),
            https: ([127, 0, 0, 1], ports[1]).into(),
            level: IngressLevel::default(),
            plane: Workers::new(table.clone(), resolver, 1, ready),
            table,
            servers,
            slices: 0,
        };
        let class = ClassRecord { name: "hitless".to_owned(), ours: true, default: true };
        world.level.take(Step::Class(Keyed::Listed(vec![("hitless".to_owned(), class)])));
        let service = ServiceRecord { key: "ns/s".to_owned(), ports: vec![("web".to_owned(), 80)] };
        world.level.take(Step::Service(Keyed::Listed(vec![("ns/s".to_owned(), service)])));
        world.level.take(Step::Ingress(Keyed::Listed(Vec::new())));
        world.level.take(Step::Secret(Keyed::Listed(Vec::new())));
        world.level.take(Step::Slice(Keyed::Listed(Vec::new()), hitless_base::Revision(1)));
        world
    }

    /// With an Ingress that sends everything to `s`, whose endpoints are these.
    pub async fn with(endpoints: &[&Arc<Endpoint>]) -> Self {
        let mut world = Self::start().await;
        world.ingress(json!({"rules": [{"http": {"paths": [path("/", "s")]}}]}), &[]);
        world.endpoints(endpoints);
        world.commit().await;
        world
    }

    pub fn ingress(&mut self, spec: Value, annotations: &[(&str, &str)]) {
        let annotations: HashMap<_, _> = annotations.iter().copied().collect();
        let object =
            json!({"metadata": {"name": "i", "namespace": "ns", "annotations": annotations}, "spec": spec});
        let record = IngressRecord::of(&serde_json::from_value(object).unwrap());
        self.level.take(Step::Ingress(Keyed::Applied("ns/i".to_owned(), Some(record))));
    }

    pub fn secret(&mut self, name: &str, chain_pem: String, key_pem: String) {
        let key = format!("ns/{name}");
        let record = SecretRecord { key: key.clone(), chain_pem: chain_pem.into(), key_pem: key_pem.into() };
        self.level.take(Step::Secret(Keyed::Applied(key, Some(record))));
    }

    /// `s` has these endpoints from the next commit on: each in a slice of its own, for the sake of its port.
    pub fn endpoints(&mut self, endpoints: &[&Arc<Endpoint>]) {
        self.slices += 1;
        let slice = |endpoint: &&Arc<Endpoint>| {
            let key = format!("ns/{}", endpoint.name);
            let conditions =
                json!({"addresses": [endpoint.address.ip().to_string()], "conditions": {"ready": true}});
            let object = json!({
                "metadata": {"name": endpoint.name, "namespace": "ns", "labels": {"kubernetes.io/service-name": "s"}},
                "addressType": "IPv4", "endpoints": [conditions],
                "ports": [{"name": "web", "port": endpoint.address.port()}],
            });
            (key, SliceRecord::of(&serde_json::from_value(object).unwrap()))
        };
        let listed = Keyed::Listed(endpoints.iter().map(slice).collect());
        self.level.take(Step::Slice(listed, hitless_base::Revision(self.slices)));
    }

    pub async fn commit(&mut self) {
        let dirty = self.level.take_dirty();
        self.plane.take(dirty);
        self.plane.commit().await.unwrap();
    }

    /// Sends bytes on a new connection and gives all that comes until the ingress closes, or says nothing for half a second.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        // It may close before it has read everything.
        let _closed = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        while let Ok(Ok(count)) =
            tokio::time::timeout(Duration::from_millis(500), stream.read_buf(&mut answer)).await
        {
            if count == 0 {
                break;
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub async fn client(&self) -> Client {
        Client { stream: TcpStream::connect(self.http).await.unwrap(), buffer: Vec::new() }
    }

    pub async fn stop(self) {
        let servers = self.servers.lock().take();
        if let Some(servers) = servers {
            servers.stop().await;
        }
    }
}

/// A client that keeps its connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Status and body of the answer.
    pub async fn ask(&mut self, method: &str, path: &str, body: &str) -> (u16, String) {
        let length =
            if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: a.org\r\n{length}\r\n{body}");
        self.stream.write_all(head.as_bytes()).await.unwrap();
        let answer =
            tokio::time::timeout(Duration::from_secs(20), message(&mut self.stream, &mut self.buffer));
        let answer = answer.await.expect("no answer").unwrap_or_default();
        let status = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    pub async fn get(&mut self, path: &str) -> (u16, String) {
        self.ask("GET", path, "").await
    }
}

/// The first line of a body: who answered.
pub fn who(answer: &(u16, String)) -> &str {
    assert_eq!(answer.0, 200, "{answer:?}");
    answer.1.lines().next().unwrap_or_default()
}

pub fn path(path: &str, service: &str) -> Value {
    json!({"path": path, "pathType": "Prefix", "backend": {"service": {"name": service, "port": {"name": "web"}}}})
}

/// Waits until it holds.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..4000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}
