//! What the DNS server does on one core: 10,000 Services, 1,000 of them headless with 50 endpoints each, questions of several sorts.
//!
//! `cargo run --release -p hitless-dataplane --example dns_bench [SECONDS] [IN_FLIGHT] [RATE]`
//!
//! The server's one thread answers over UDP on the loopback; one other thread asks. First as fast as answers come, with so many questions
//! in flight; then at the given rate, each question's latency counted from the moment at which it was due. Prints questions a second of the
//! wall clock and of the server thread's own CPU time, and latencies. Last, what one changed endpoint costs from the table to the server.

use std::{
    collections::HashSet,
    fs,
    io::{self, Write},
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use hitless_base::{Revision, SystemClock};
use hitless_client::Change;
use hitless_dataplane::dns::{
    Domain,
    forward::Forwarder,
    server::Server,
    table::{NameTable, Step},
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::json;

const SERVICES: usize = 10_000;
/// Every tenth Service is headless, with so many endpoints.
const ENDPOINTS: usize = 50;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn service(n: usize) -> Outcome<Step> {
    let ip = if n.is_multiple_of(10) { "None".to_owned() } else { format!("10.150.{}.{}", n / 250, n % 250) };
    let object = json!({"metadata": {"namespace": "default", "name": format!("service-{n}")},
        "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80}]}});
    let service: Service = serde_json::from_value(object)?;
    Step::of_service(Change::Applied(service)).ok_or_else(|| "no step".into())
}

fn slice(n: usize, revision: usize, ready: bool) -> Outcome<Step> {
    let address = |e: usize| format!("10.{}.{}.{}", 100 + n / 5_000, (n / 20) % 250, (n % 20) / 10 * 100 + e);
    let endpoints: Vec<_> = (0..ENDPOINTS)
        .map(|e| json!({"addresses": [address(e)], "conditions": {"ready": ready || e > 0}}))
        .collect();
    let object = json!({
        "metadata": {"namespace": "default", "name": format!("slice-{n}"), "resourceVersion": revision.to_string(),
            "labels": {"kubernetes.io/service-name": format!("service-{n}")}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
    });
    let slice: EndpointSlice = serde_json::from_value(object)?;
    Ok(Step::of_slice(Change::Applied(slice)))
}

fn table() -> Outcome<NameTable> {
    let ranges = vec!["10.150.0.0/16".parse()?, "10.100.0.0/15".parse()?];
    let mut table = NameTable::new(Domain::new("cluster.local", ranges)?);
    table.take(Step::ServicesListed(Vec::new()));
    table.take(Step::SlicesListed(Vec::new(), Revision(1)));
    table.take(Step::NamespacesListed(HashSet::from(["default".to_owned()])));
    for n in 0..SERVICES {
        table.take(service(n)?);
        if n.is_multiple_of(10) {
            table.take(slice(n, n + 2, true)?);
        }
    }
    Ok(table)
}

/// Questions as a cluster asks them: cluster IPs, names that a search list makes and that are not there, headless Services, ports.
fn questions() -> Outcome<Vec<Vec<u8>>> {
    let question = |n: usize| {
        let (name, type_) = match n % 8 {
            0..4 => (format!("service-{}.default.svc.cluster.local.", n * 7 % SERVICES), RecordType::A),
            4 => (format!("service-{}.default.svc.cluster.local.", n * 7 % SERVICES), RecordType::AAAA),
            5 => (format!("www{n}.example.com.default.svc.cluster.local."), RecordType::A),
            6 => (format!("service-{}.default.svc.cluster.local.", n % 1_000 * 10), RecordType::A),
            _ => (
                format!("_http._tcp.service-{}.default.svc.cluster.local.", n * 7 % SERVICES),
                RecordType::SRV,
            ),
        };
        let mut message = Message::new(0, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name)?, type_));
        Ok(message.to_vec()?)
    };
    (0..4_096).map(question).collect()
}

struct Asker {
    socket: UdpSocket,
    questions: Vec<Vec<u8>>,
    asked_at: Vec<Instant>,
    open: HashSet<u16>,
    next: usize,
}

impl Asker {
    fn ask(&mut self, due: Instant) -> io::Result<()> {
        let id = u16::try_from(self.next % 65_536).unwrap_or_default();
        let count = self.questions.len();
        if let Some(question) = self.questions.get_mut(self.next % count) {
            question.splice(..2, id.to_be_bytes());
            self.socket.send(question)?;
        }
        if let Some(at) = self.asked_at.get_mut(usize::from(id)) {
            *at = due;
        }
        self.open.insert(id);
        self.next += 1;
        Ok(())
    }

    /// Takes an answer, if there is one; gives how long it took.
    fn take(&mut self) -> io::Result<Option<Duration>> {
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(_) => {
                let id = u16::from_be_bytes([buffer[0], buffer[1]]);
                let took = self.asked_at.get(usize::from(id)).map(Instant::elapsed);
                Ok(took.filter(|_| self.open.remove(&id)))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// CPU time of the server's thread. Seconds.
fn server_cpu_s() -> io::Result<f64> {
    for task in fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        if fs::read_to_string(path.join("comm"))?.trim() == "dns" {
            let stat = fs::read_to_string(path.join("schedstat"))?;
            let nanos = stat.split(' ').next().and_then(|word| word.parse::<f64>().ok());
            return Ok(nanos.unwrap_or(f64::NAN) / 1e9);
        }
    }
    Err(io::Error::from(io::ErrorKind::NotFound))
}

fn report(name: &str, mut took: Vec<Duration>, lost: usize, wall_s: f64, cpu_s: f64) -> io::Result<()> {
    took.sort_unstable();
    let at = |per_mille: usize| {
        took.get(took.len() * per_mille / 1_000).copied().unwrap_or_default().as_secs_f64() * 1e3
    };
    let count = took.len() as f64;
    writeln!(
        io::stdout(),
        "{name}: {:.0}/s, {:.0} for each second of the server's core ({:.0} % of it used); p50 {:.3} ms, p99 {:.3} ms, \
         p99.9 {:.3} ms, lost {lost}",
        count / wall_s,
        count / cpu_s,
        cpu_s / wall_s * 100.0,
        at(500),
        at(990),
        at(999),
    )
}

fn flat_out(asker: &mut Asker, seconds: u64, in_flight: usize) -> Outcome<()> {
    let (began, cpu) = (Instant::now(), server_cpu_s()?);
    let mut took = Vec::new();
    let mut last = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds) && last.elapsed() < Duration::from_secs(1) {
        while asker.open.len() < in_flight {
            asker.ask(Instant::now())?;
        }
        match asker.take()? {
            Some(time) => {
                took.push(time);
                last = Instant::now();
            }
            None => std::thread::yield_now(),
        }
    }
    let (wall_s, cpu_s) = (began.elapsed().as_secs_f64(), server_cpu_s()? - cpu);
    std::thread::sleep(Duration::from_millis(200));
    while asker.take()?.is_some() {}
    report("flat out", took, asker.open.len(), wall_s, cpu_s)?;
    asker.open.clear();
    Ok(())
}

fn paced(asker: &mut Asker, seconds: u64, rate: u64) -> Outcome<()> {
    let (began, cpu) = (Instant::now(), server_cpu_s()?);
    let mut took = Vec::new();
    let (total, mut sent) = (rate * seconds, 0);
    let end = Duration::from_secs(seconds) + Duration::from_millis(500);
    while began.elapsed() < end && (took.len() as u64) < total {
        let due = began + Duration::from_nanos(sent * 1_000_000_000 / rate);
        if sent < total && due <= Instant::now() {
            asker.ask(due)?;
            sent += 1;
        }
        match asker.take()? {
            Some(time) => took.push(time),
            None => std::thread::yield_now(),
        }
    }
    report(&format!("at {rate}/s"), took, asker.open.len(), seconds as f64, server_cpu_s()? - cpu)?;
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<u64>().unwrap_or(0).max(1));
    let seconds = arguments.next().unwrap_or(5);
    let in_flight = usize::try_from(arguments.next().unwrap_or(64))?;
    let rate = arguments.next().unwrap_or(50_000);
    let mut table = table()?;
    let began = Instant::now();
    let zone = table.zone();
    writeln!(
        io::stdout(),
        "{} Services, {} endpoints of headless ones: zone built in {:.0} ms",
        zone.services(),
        SERVICES / 10 * ENDPOINTS,
        began.elapsed().as_secs_f64() * 1e3
    )?;
    let forwarder = Forwarder::new(Box::new(Vec::new), Arc::new(SystemClock));
    let server = Server::start(SocketAddr::from(([127, 0, 0, 1], 0)), zone, forwarder)?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server.address())?;
    socket.set_nonblocking(true)?;
    let asked_at = vec![Instant::now(); 65_536];
    let mut asker = Asker { socket, questions: questions()?, asked_at, open: HashSet::new(), next: 0 };
    tokio::task::block_in_place(|| {
        flat_out(&mut asker, seconds, in_flight)?;
        paced(&mut asker, seconds, rate)
    })?;
    let mut costs = Vec::new();
    for n in 0..1_000 {
        let step = slice(n * 10, SERVICES + 10 + n, false)?;
        let began = Instant::now();
        table.take(step);
        server.publish(table.zone());
        costs.push(began.elapsed());
    }
    costs.sort_unstable();
    let at = |q: usize| costs.get(costs.len() * q / 100).copied().unwrap_or_default().as_secs_f64() * 1e3;
    writeln!(
        io::stdout(),
        "one endpoint changed, until no older answer leaves: p50 {:.3} ms, p99 {:.3} ms",
        at(50),
        at(99)
    )?;
    Ok(())
}
