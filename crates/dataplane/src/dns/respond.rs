//! From a packet to the packet that answers it, or to the question that others are to be asked. Pure.

use hickory_proto::{
    op::ResponseCode,
    rr::{DNSClass, LowerName, Name, Record, RecordType},
};

use super::{
    cache::Question,
    message::{self, Read, Records, Request, Transport},
    zone::{Answer, Zone},
};

/// Aliases that are followed one after the other.
const ALIASES_MAX: usize = 8;

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Nothing.
    Silence,
    /// This packet.
    Packet(Vec<u8>),
    /// Others are to be asked first.
    Ask(Box<Ask>),
}

/// A request that others know the answer to.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The request.
    pub request: Request,
    /// What others are to be asked.
    pub question: Question,
    /// The aliases that led there.
    pub aliases: Vec<Record>,
}

impl Ask {
    /// The packet that answers the request, from what the others said.
    #[must_use]
    pub fn answered(self, mut records: Records) -> Vec<u8> {
        if !self.aliases.is_empty() {
            records.authentic = false;
            records.answers.splice(0..0, self.aliases);
        }
        message::write(&self.request, records)
    }
}

/// What becomes of this packet, by this zone.
#[must_use]
pub fn respond(zone: &Zone, packet: &[u8], transport: Transport, turn: usize) -> Reply {
    let request = match message::read(packet, transport) {
        Read::Silence => return Reply::Silence,
        Read::Refusal(packet) => return Reply::Packet(packet),
        Read::Request(request) => request,
    };
    let (class, type_) = (request.query.query_class(), request.query.query_type());
    // Zones are not given away, and there are no names of other classes.
    if class != DNSClass::IN || matches!(type_, RecordType::AXFR | RecordType::IXFR) {
        return Reply::Packet(message::write(&request, Records::none(ResponseCode::Refused)));
    }
    let mut aliases = Vec::new();
    let mut name = request.query.name().clone();
    loop {
        let records = match zone.answer(&name, type_, turn) {
            Answer::Elsewhere => return Reply::Ask(ask(*request, name, type_, aliases)),
            Answer::Alias { record, target } if aliases.len() < ALIASES_MAX => {
                aliases.push(*record);
                name = target;
                continue;
            }
            Answer::Alias { .. } => Records::none(ResponseCode::ServFail),
            Answer::Found { answers, additionals } => Records { answers, additionals, ..Records::default() },
            Answer::NoData => {
                Records { authorities: vec![zone.soa(&name)], ..Records::none(ResponseCode::NoError) }
            }
            Answer::NoName => {
                Records { authorities: vec![zone.soa(&name)], ..Records::none(ResponseCode::NXDomain) }
            }
        };
        let mut records = Records { authoritative: true, ..records };
        if !aliases.is_empty() {
            records.answers.splice(0..0, aliases);
        }
        return Reply::Packet(message::write(&request, records));
    }
}

fn ask(request: Request, name: Name, type_: RecordType, aliases: Vec<Record>) -> Box<Ask> {
    let question = Question {
        name: LowerName::new(&name),
        type_,
        dnssec_ok: request.edns == Some(true),
        checking_disabled: request.checking_disabled,
    };
    Box::new(Ask { request, question, aliases })
}
