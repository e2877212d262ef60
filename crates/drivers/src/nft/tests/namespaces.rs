//! Network namespaces of a test's own: each is a thread that has left the machine's namespace, with a runtime on it.
//! The namespace goes with its thread, so nothing is left behind however a test ends.

use std::{
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    process::Command,
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    runtime::Runtime,
    sync::mpsc::{UnboundedSender, unbounded_channel},
};

type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// One namespace, with its loopback up and forwarding on.
pub struct Namespace {
    jobs: Option<UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
    thread_id: i32,
}

impl Namespace {
    pub fn new() -> Self {
        let (jobs, mut incoming) = unbounded_channel::<Job>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            leave_network_namespace().unwrap();
            let runtime: Runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            runtime.block_on(async move {
                let local = tokio::task::LocalSet::new();
                local
                    .run_until(async {
                        while let Some(job) = incoming.recv().await {
                            tokio::task::spawn_local(job());
                        }
                    })
                    .await;
            });
        });
        let namespace = Self { jobs: Some(jobs), thread: Some(thread), thread_id: told.recv().unwrap() };
        namespace.sh("ip link set lo up");
        namespace.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        namespace
    }

    /// Runs `work` in the namespace and waits for its result.
    pub fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> T {
        self.start(work).recv_timeout(Duration::from_secs(60)).unwrap()
    }

    /// Starts `work` in the namespace; its result can be waited for.
    pub fn start<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> mpsc::Receiver<T> {
        let (tell, told) = mpsc::channel();
        let job: Job = Box::new(move || {
            Box::pin(async move {
                _ = tell.send(work().await);
            })
        });
        assert!(self.jobs.as_ref().unwrap().send(job).is_ok());
        told
    }

    /// Runs a shell script in the namespace; gives what it printed.
    pub fn sh(&self, script: &str) -> String {
        let script = script.to_owned();
        self.run(move || async move {
            let output = Command::new("sh").args(["-ec", &script]).output().unwrap();
            assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
    }

    /// Joins it with another by a veth pair; `NAME` here is `PEER` there.
    pub fn join(&self, name: &str, other: &Self, peer: &str) {
        self.sh(&format!(
            "ip link add {name} type veth peer name {peer} netns {}; ip link set {name} up",
            other.thread_id
        ));
        other.sh(&format!("ip link set {peer} up"));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

#[allow(unsafe_code, reason = "`unshare` is unsafe by its contract")]
fn leave_network_namespace() -> io::Result<()> {
    // SAFETY: only the network namespace of the calling thread changes, which has opened no file or socket yet; memory and files stay shared.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Three namespaces: a client and Pods, with a node between them that has the table.
///
/// Pods are 10.3.0.2 to 10.3.0.9 and answer on 3000 with their last number and the client's address, then echo.
pub struct World {
    pub client: Namespace,
    pub node: Namespace,
    pub pods: Namespace,
}

impl World {
    pub fn new() -> Self {
        let world = Self { client: Namespace::new(), node: Namespace::new(), pods: Namespace::new() };
        world.node.join("to-client", &world.client, "eth0");
        world.node.join("to-pods", &world.pods, "eth0");
        world.node.sh("ip addr add 10.2.0.1/24 dev to-client; ip addr add 10.3.0.1/24 dev to-pods; ip route add 10.96.0.0/16 dev to-client");
        world.client.sh("ip addr add 10.2.0.2/24 dev eth0; ip route add default via 10.2.0.1");
        world.pods.sh("for n in 2 3 4 5 6 7 8 9; do ip addr add 10.3.0.$n/24 dev eth0; done; ip route add default via 10.3.0.1");
        for n in 2..10_u8 {
            world.pods.run(move || async move {
                let address = SocketAddr::from(([10, 3, 0, n], 3000));
                tokio::task::spawn_local(serve_tcp(TcpListener::bind(address).await.unwrap(), n));
                tokio::task::spawn_local(serve_udp(UdpSocket::bind(address).await.unwrap(), n));
            });
        }
        world
    }
}

async fn serve_tcp(listener: TcpListener, n: u8) {
    while let Ok((mut stream, peer)) = listener.accept().await {
        tokio::task::spawn_local(async move {
            let [a, b, c, d] = match peer.ip() {
                std::net::IpAddr::V4(ip) => ip.octets(),
                std::net::IpAddr::V6(_) => [0; 4],
            };
            if stream.write_all(&[n, a, b, c, d]).await.is_err() {
                return;
            }
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() && stream.write_all(&byte).await.is_ok() {}
        });
    }
}

async fn serve_udp(socket: UdpSocket, n: u8) {
    let mut buffer = [0; 16];
    while let Ok((_, peer)) = socket.recv_from(&mut buffer).await {
        _ = socket.send_to(&[n], peer).await;
    }
}

/// An open connection: who answered, and whom he saw.
pub struct Open {
    pub stream: TcpStream,
    pub pod: u8,
    pub seen_as: [u8; 4],
}

/// Connects and reads who answers, within two seconds.
pub async fn connect(to: SocketAddr) -> io::Result<Open> {
    connect_from(Ipv4Addr::UNSPECIFIED, to).await
}

/// The same with this address as source.
pub async fn connect_from(source: Ipv4Addr, to: SocketAddr) -> io::Result<Open> {
    let work = async {
        let socket = TcpSocket::new_v4()?;
        if !source.is_unspecified() {
            socket.bind((source, 0).into())?;
        }
        let mut stream = socket.connect(to).await?;
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).await?;
        let [pod, a, b, c, d] = hello;
        Ok(Open { stream, pod, seen_as: [a, b, c, d] })
    };
    tokio::time::timeout(Duration::from_secs(2), work).await.map_err(|_| io::ErrorKind::TimedOut)?
}

impl Open {
    /// Sends a byte and waits for it to come back.
    pub async fn ping(&mut self) -> io::Result<()> {
        let work = async {
            self.stream.write_all(&[7]).await?;
            self.stream.read_exact(&mut [0]).await
        };
        tokio::time::timeout(Duration::from_secs(2), work)
            .await
            .map_err(|_| io::ErrorKind::TimedOut)?
            .map(|_| ())
    }
}
