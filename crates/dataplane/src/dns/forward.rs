//! Asks others: the machine's own resolvers, one after the other, within a bound, and keeps what they say for as long as they say.
//!
//! What must hold: at most [`ASKING_MAX`] questions are under way; the same question is under way once, however many ask it; every one
//! ends within [`ANSWER_WITHIN`]. A datagram counts as an answer only if it comes from the server that was asked, with the number and the
//! question that it was asked with; number and port are drawn at random for each question.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::Name,
};
use hitless_base::{Clock, Timestamp, chain};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    cache::{Cache, Question},
    message::{Records, own_edns},
};

/// Questions under way.
pub const ASKING_MAX: usize = 1_000;
/// Every question ends by then: the system's resolver asks again after 5 s.
const ANSWER_WITHIN: Duration = Duration::from_millis(4_500);
/// How long one server has for an answer.
const TRY_WITHIN: Duration = Duration::from_millis(1_500);
/// How often all servers are asked, as long as there is time.
const ROUNDS_MAX: usize = 2;
/// For how long the servers' addresses are taken as known.
const SERVERS_KEPT: Duration = Duration::from_secs(5);
/// Longest answer over UDP.
const PACKET_BYTES_MAX: usize = 4_096;

/// Gives the servers' addresses. Called every few seconds at most; it may read a file.
pub type Servers = Box<dyn Fn() -> Vec<SocketAddr> + Send + Sync>;

/// Why a server's answer is none.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("no answer in time")]
    Timeout,
    #[error("cannot be asked")]
    Io(#[from] io::Error),
    #[error("the question cannot be said")]
    Unsayable(#[from] hickory_proto::ProtoError),
    #[error("the answer makes no sense")]
    Malformed,
    #[error("it answers {0}")]
    Code(ResponseCode),
}

/// See the module.
pub struct Forwarder {
    servers: Servers,
    known: Mutex<(Option<Timestamp>, Vec<SocketAddr>)>,
    cache: Mutex<Cache>,
    flights: Mutex<HashMap<Question, Arc<OnceCell<Records>>>>,
    permits: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
}

impl Forwarder {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(servers: Servers, clock: Arc<dyn Clock>) -> Self {
        Self {
            servers,
            known: Mutex::new((None, Vec::new())),
            cache: Mutex::default(),
            flights: Mutex::default(),
            permits: Arc::new(Semaphore::new(ASKING_MAX)),
            clock,
        }
    }

    /// What is known without asking.
    pub fn known(&self, question: &Question) -> Option<Records> {
        self.cache.lock().get(question, self.clock.now())
    }

    /// A place among those that ask; `None`: there are too many.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    /// Asks. If nobody answers, that is the answer.
    pub async fn ask(&self, question: &Question, _place: OwnedSemaphorePermit) -> Records {
        let flight = self.flights.lock().entry(question.clone()).or_default().clone();
        let asked = async {
            let asked = timeout(ANSWER_WITHIN, self.ask_servers(question)).await;
            let records = asked.unwrap_or_else(|_elapsed| Records::none(ResponseCode::ServFail));
            self.cache.lock().put(question.clone(), &records, self.clock.now());
            self.flights.lock().remove(question);
            records
        };
        flight.get_or_init(|| asked).await.clone()
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let now = self.clock.now();
        let mut known = self.known.lock();
        let is_fresh =
            |at: Timestamp| Duration::try_from(now.duration_since(at)).is_ok_and(|age| age < SERVERS_KEPT);
        if !known.0.is_some_and(is_fresh) {
            *known = (Some(now), (self.servers)());
        }
        known.1.clone()
    }

    async fn ask_servers(&self, question: &Question) -> Records {
        let servers = self.servers();
        for _ in 0..ROUNDS_MAX {
            for server in &servers {
                match ask_server(question, *server).await {
                    Ok(records) => return records,
                    Err(error) => {
                        tracing::debug!(%server, name = %question.name, error = %chain(&error), "asked in vain");
                    }
                }
            }
        }
        Records::none(ResponseCode::ServFail)
    }
}

async fn ask_server(question: &Question, server: SocketAddr) -> Result<Records, AskError> {
    match timeout(TRY_WITHIN, ask_once(question, server, true)).await {
        // A server that has not heard of EDNS.
        Ok(Err(AskError::Code(ResponseCode::FormErr | ResponseCode::NotImp))) => {
            timeout(TRY_WITHIN, ask_once(question, server, false)).await.unwrap_or(Err(AskError::Timeout))
        }
        done => done.unwrap_or(Err(AskError::Timeout)),
    }
}

async fn ask_once(question: &Question, server: SocketAddr, edns: bool) -> Result<Records, AskError> {
    let query = Query::query(Name::from(&question.name), question.type_);
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = question.checking_disabled;
    message.add_query(query);
    if edns {
        message.set_edns(own_edns(question.dnssec_ok));
    }
    let packet = message.to_vec()?;
    let mut answer = over_udp(&message, &packet, server).await?;
    if answer.metadata.truncation {
        answer = over_tcp(&message, &packet, server).await?;
    }
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(Records {
            code: answer.metadata.response_code,
            authoritative: false,
            authentic: answer.metadata.authentic_data,
            answers: answer.answers,
            authorities: answer.authorities,
            additionals: answer.additionals,
        }),
        code => Err(AskError::Code(code)),
    }
}

async fn over_udp(asked: &Message, packet: &[u8], server: SocketAddr) -> Result<Message, AskError> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    // Connected: the kernel takes datagrams of nobody else.
    socket.connect(server).await?;
    socket.send(packet).await?;
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let read = buffer.get(..length).map(Message::from_vec);
        if let Some(Ok(answer)) = read
            && answers(asked, &answer)
        {
            return Ok(answer);
        }
    }
}

async fn over_tcp(asked: &Message, packet: &[u8], server: SocketAddr) -> Result<Message, AskError> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(packet.len()).map_err(|_| AskError::Malformed)?;
    stream.write_all(&[&length.to_be_bytes(), packet].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(|_| AskError::Malformed)?;
    if answers(asked, &answer) { Ok(answer) } else { Err(AskError::Malformed) }
}

/// Whether it is an answer to what was asked.
fn answers(asked: &Message, answer: &Message) -> bool {
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == asked.metadata.id
        && answer.queries == asked.queries
}
