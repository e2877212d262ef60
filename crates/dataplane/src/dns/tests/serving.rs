//! The server over real sockets, and the resolvers that it asks.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hickory_proto::rr::{RData, Record, rdata::A};
use hitless_base::SystemClock;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

use super::{
    super::{forward::Forwarder, server::Server},
    *,
};

fn start(zone: Zone, servers: Vec<SocketAddr>) -> Server {
    // The port that UDP was given may be taken for TCP.
    for _ in 0..10 {
        let servers = servers.clone();
        let forwarder = Forwarder::new(Box::new(move || servers.clone()), Arc::new(SystemClock));
        if let Ok(server) = Server::start(([127, 0, 0, 1], 0).into(), zone.clone(), forwarder) {
            return server;
        }
    }
    panic!("no port is free for both");
}

async fn over_udp(server: &Server, query: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.address()).await.unwrap();
    socket.send(&query.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn over_tcp(stream: &mut TcpStream, query: &Message) -> Message {
    let packet = query.to_vec().unwrap();
    stream.write_u16(u16::try_from(packet.len()).unwrap()).await.unwrap();
    stream.write_all(&packet).await.unwrap();
    let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

fn shown(message: &Message) -> Vec<String> {
    message.answers.iter().map(|r| format!("{} {} {}", r.name, r.ttl, r.data)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_zone_is_what_it_answers_from() {
    let server = start(zone_of(steps()), Vec::new());
    let asked = query("db-0.db.default.svc.cluster.local.", RecordType::A);
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let before = ["db-0.db.default.svc.cluster.local. 5 10.100.1.2"];
    assert_eq!(shown(&over_udp(&server, &asked).await), before);
    assert_eq!(shown(&over_tcp(&mut stream, &asked).await), before);
    server.publish(zone_of(
        steps().into_iter().chain([Step::SliceDeleted("default/db-1".to_owned(), Revision(20))]),
    ));
    // A zone of 300 endpoints is more than one datagram holds; over TCP on the same connection it comes whole.
    assert!(over_udp(&server, &asked).await.answers.is_empty());
    assert!(over_tcp(&mut stream, &asked).await.answers.is_empty());
    server.publish(large());
    let many = query("many.default.svc.cluster.local.", RecordType::A);
    assert!(over_udp(&server, &many).await.metadata.truncation);
    assert_eq!(over_tcp(&mut stream, &many).await.answers.len(), 300);
    assert!(server.is_alive());
    let address = server.address();
    drop(server);
    assert!(TcpListener::bind(address).await.is_ok(), "nothing is left of it");
}

/// A resolver that answers each question with an address, after a datagram of somebody else's.
async fn resolver(asked: Arc<AtomicUsize>) -> SocketAddr {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let answer = |query: &Message, last: u8| {
        let mut answer = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        answer.queries.clone_from(&query.queries);
        let name = query.queries[0].name().clone();
        answer.answers = vec![Record::from_rdata(name, 77, RData::A(A::new(192, 0, 2, last)))];
        answer
    };
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..length]).unwrap();
            asked.fetch_add(1, Ordering::Relaxed);
            let mut forged = answer(&query, 66);
            forged.metadata.id ^= 1;
            let mut other = answer(&query, 67);
            other.queries[0].set_name(Name::from_ascii("other.example.").unwrap());
            let mut own = answer(&query, 1);
            let large = query.queries[0].name().to_string().starts_with("large");
            if large {
                own.answers.clear();
                own.metadata.truncation = true;
            }
            for packet in [
                b"nonsense".to_vec(),
                forged.to_vec().unwrap(),
                other.to_vec().unwrap(),
                own.to_vec().unwrap(),
            ] {
                udp.send_to(&packet, from).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut packet = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut packet).await.unwrap();
            let packet = answer(&Message::from_vec(&packet).unwrap(), 2).to_vec().unwrap();
            stream.write_u16(u16::try_from(packet.len()).unwrap()).await.unwrap();
            stream.write_all(&packet).await.unwrap();
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_asked_once_and_believed_only_for_what_was_asked() {
    let asked = Arc::new(AtomicUsize::new(0));
    // Nobody listens at the first one.
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = start(zone_of(steps()), vec![dead, resolver(asked.clone()).await]);
    let question = query("www.example.com.", RecordType::A);
    let first = over_udp(&server, &question).await;
    assert_eq!(shown(&first), ["www.example.com. 77 192.0.2.1"]);
    assert!(!first.metadata.authoritative && first.metadata.recursion_available);
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    assert_eq!(over_tcp(&mut stream, &question).await.answers[0].data, first.answers[0].data);
    assert_eq!(over_udp(&server, &question).await.metadata.id, 7);
    assert_eq!(asked.load(Ordering::Relaxed), 1, "the answer is kept");
    // Another name of a Service, and the address behind it, in one answer.
    let out = over_udp(&server, &query("out.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(
        shown(&out),
        [
            "out.default.svc.cluster.local. 5 www.example.com.",
            &shown(&first)[0].replace("77", &out.answers[1].ttl.to_string())
        ]
    );
    let large = over_udp(&server, &query("large.example.", RecordType::A)).await;
    assert_eq!(shown(&large), ["large.example. 77 192.0.2.2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_anybody_to_ask_it_says_so() {
    let server = start(zone_of(steps()), Vec::new());
    let answer = over_udp(&server, &query("www.example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    // What is no query at all is passed over, and the next one answered.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for packet in [&b""[..], b"x", &[0xff; 600]] {
        socket.send_to(packet, server.address()).await.unwrap();
    }
    assert_eq!(
        shown(&over_udp(&server, &query("web.default.svc.cluster.local.", RecordType::A)).await).len(),
        1
    );
}
