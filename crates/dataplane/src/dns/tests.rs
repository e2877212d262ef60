//! What the cluster's names answer, question by question, and what packets of any kind get.

mod serving;

use std::{fmt::Write, sync::LazyLock};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RecordType},
};
use hitless_base::Revision;
use hitless_client::Change;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    message::Transport,
    respond::{Reply, respond},
    table::{NameTable, Step},
    zone::{Domain, Zone},
};

fn domain() -> Domain {
    let ranges = ["10.150.0.0/16", "10.100.0.0/16", "fd00:10::/32"];
    Domain::new("cluster.local", ranges.iter().map(|range| range.parse().unwrap()).collect()).unwrap()
}

fn service(name: &str, spec: Value) -> Step {
    let service: Service =
        serde_json::from_value(json!({"metadata": {"namespace": "default", "name": name}, "spec": spec}))
            .unwrap();
    Step::of_service(Change::Applied(service)).unwrap()
}

fn slice(name: &str, service: &str, revision: u64, spec: Value) -> Step {
    let mut object = json!({"metadata": {
        "namespace": "default", "name": name, "resourceVersion": revision.to_string(),
        "labels": {"kubernetes.io/service-name": service},
    }});
    let (to, from) = (object.as_object_mut().unwrap(), spec.as_object().unwrap());
    to.extend(from.iter().map(|(field, value)| (field.clone(), value.clone())));
    let slice: EndpointSlice = serde_json::from_value(object).unwrap();
    Step::of_slice(Change::Applied(slice))
}

fn endpoint(address: &str, ready: bool, hostname: Option<&str>) -> Value {
    json!({"addresses": [address], "hostname": hostname, "conditions": {"ready": ready, "serving": true, "terminating": !ready}})
}

/// A Service of each sort.
fn steps() -> Vec<Step> {
    let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "protocol": "UDP", "port": 53}]);
    vec![
        Step::ServicesListed(Vec::new()),
        Step::SlicesListed(Vec::new(), Revision(1)),
        Step::NamespacesListed(["default".to_owned(), "empty".to_owned()].into()),
        service(
            "web",
            json!({"clusterIP": "10.150.0.20", "clusterIPs": ["10.150.0.20", "fd00:10::20"], "ports": ports}),
        ),
        service("plain", json!({"clusterIP": "10.150.0.21", "ports": [{"port": 80}]})),
        service("db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]})),
        service("idle", json!({"clusterIP": "None"})),
        service("out", json!({"type": "ExternalName", "externalName": "www.example.com"})),
        service("near", json!({"type": "ExternalName", "externalName": "db.default.svc.cluster.local"})),
        service("loop", json!({"type": "ExternalName", "externalName": "loop.default.svc.cluster.local"})),
        slice(
            "web-1",
            "web",
            2,
            json!({"addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": [endpoint("10.100.1.9", true, Some("web-0"))]}),
        ),
        slice(
            "db-1",
            "db",
            3,
            json!({"addressType": "IPv4", "ports": [{"name": "sql", "port": 5433}], "endpoints": [
                endpoint("10.100.1.2", true, Some("db-0")), endpoint("10.100.1.3", true, None), endpoint("10.100.1.4", false, Some("db-2")),
            ]}),
        ),
        slice(
            "db-2",
            "db",
            4,
            json!({"addressType": "IPv6", "ports": [{"name": "sql", "port": 5433}],
            "endpoints": [endpoint("fd00:10::2", true, Some("db-0"))]}),
        ),
        slice(
            "idle-1",
            "idle",
            5,
            json!({"addressType": "IPv4", "endpoints": [endpoint("10.100.1.5", false, None)]}),
        ),
    ]
}

fn zone_of(steps: impl IntoIterator<Item = Step>) -> Zone {
    let mut table = NameTable::new(domain());
    steps.into_iter().for_each(|step| table.take(step));
    assert!(table.is_complete());
    table.zone()
}

/// The zone of [`steps`], for tests that look at it many times.
static ZONE: LazyLock<Zone> = LazyLock::new(|| zone_of(steps()));

fn query(name: &str, type_: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), type_));
    message
}

fn answer_to(zone: &Zone, query: &Message, transport: Transport) -> Message {
    match respond(zone, &query.to_vec().unwrap(), transport, 0) {
        Reply::Packet(packet) => Message::from_vec(&packet).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// `CODE | answers | authorities | additionals`, with times to live left out where they are the usual 5 s.
fn ask(zone: &Zone, name: &str, type_: RecordType) -> String {
    let query = query(name, type_);
    let reply = respond(zone, &query.to_vec().unwrap(), Transport::Udp, 0);
    let answer = match reply {
        Reply::Packet(packet) => Message::from_vec(&packet).unwrap(),
        Reply::Ask(ask) => {
            return format!(
                "asks for {} {}, aliases {}",
                ask.question.name,
                ask.question.type_,
                ask.aliases.len()
            );
        }
        Reply::Silence => return "silence".to_owned(),
    };
    assert_eq!((answer.metadata.id, &answer.queries), (7, &query.queries));
    assert!(answer.metadata.recursion_available && answer.metadata.recursion_desired);
    let mut text = answer.metadata.response_code.to_string();
    if answer.metadata.truncation {
        text.push_str(" truncated");
    }
    for section in [&answer.answers, &answer.authorities, &answer.additionals] {
        text.push_str(" |");
        for record in section {
            assert_eq!(record.ttl, super::zone::TTL_S);
            let _infallible = write!(text, " {} {} {};", record.name, record.record_type(), record.data);
        }
    }
    text.replace(".default.svc.cluster.local.", "~")
}

#[test]
fn every_name_of_the_specification() {
    let zone = zone_of(steps());
    let questions = [
        ("web.default.svc.cluster.local.", RecordType::A),
        ("WEB.Default.svc.Cluster.local.", RecordType::AAAA),
        ("web.default.svc.cluster.local.", RecordType::MX),
        ("web.default.svc.cluster.local.", RecordType::SRV),
        ("_http._tcp.web.default.svc.cluster.local.", RecordType::SRV),
        ("_dns._udp.web.default.svc.cluster.local.", RecordType::SRV),
        ("_dns._tcp.web.default.svc.cluster.local.", RecordType::SRV),
        ("_tcp.web.default.svc.cluster.local.", RecordType::SRV),
        ("web-0.web.default.svc.cluster.local.", RecordType::A),
        ("_._tcp.plain.default.svc.cluster.local.", RecordType::SRV),
        ("db.default.svc.cluster.local.", RecordType::A),
        ("db.default.svc.cluster.local.", RecordType::AAAA),
        ("db-0.db.default.svc.cluster.local.", RecordType::A),
        ("10-100-1-3.db.default.svc.cluster.local.", RecordType::A),
        ("db-2.db.default.svc.cluster.local.", RecordType::A),
        ("_sql._tcp.db.default.svc.cluster.local.", RecordType::SRV),
        ("idle.default.svc.cluster.local.", RecordType::A),
        ("out.default.svc.cluster.local.", RecordType::CNAME),
        ("out.default.svc.cluster.local.", RecordType::A),
        ("near.default.svc.cluster.local.", RecordType::A),
        ("loop.default.svc.cluster.local.", RecordType::A),
        ("20.0.150.10.in-addr.arpa.", RecordType::PTR),
        ("2.1.100.10.in-addr.arpa.", RecordType::PTR),
        ("9.1.100.10.in-addr.arpa.", RecordType::PTR),
        ("1.0.0.9.in-addr.arpa.", RecordType::PTR),
        ("2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.d.f.ip6.arpa.", RecordType::PTR),
        ("10-1-2-3.default.pod.cluster.local.", RecordType::A),
        ("fd00--1.default.pod.cluster.local.", RecordType::AAAA),
        ("10-1-2-3.nowhere.pod.cluster.local.", RecordType::A),
        ("ten.default.pod.cluster.local.", RecordType::A),
        ("dns-version.cluster.local.", RecordType::TXT),
        ("cluster.local.", RecordType::SOA),
        ("cluster.local.", RecordType::NS),
        ("svc.cluster.local.", RecordType::A),
        ("empty.svc.cluster.local.", RecordType::A),
        ("nowhere.svc.cluster.local.", RecordType::A),
        ("www.example.com.default.svc.cluster.local.", RecordType::A),
        ("a.b.c.d.e.f.g.cluster.local.", RecordType::A),
        ("www.example.com.", RecordType::A),
        ("local.", RecordType::A),
        (".", RecordType::NS),
    ];
    let mut shown = String::new();
    for (name, type_) in questions {
        let _infallible = writeln!(shown, "{name} {type_}\n    {}", ask(&zone, name, type_));
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn an_endpoint_that_is_no_longer_ready_is_out_of_the_next_zone_and_in_the_one_before() {
    let mut table = NameTable::new(domain());
    steps().into_iter().for_each(|step| table.take(step));
    let before = table.zone();
    table.take(slice(
        "db-1",
        "db",
        9,
        json!({"addressType": "IPv4", "endpoints": [endpoint("10.100.1.2", false, Some("db-0"))]}),
    ));
    table.take(Step::SlicesReached(Revision(11)));
    let after = table.zone();
    let shown = |zone: &Zone| ask(zone, "db.default.svc.cluster.local.", RecordType::A);
    assert!(shown(&before).contains("10.100.1.2"), "{}", shown(&before));
    assert!(
        shown(&after).starts_with("No Error |") && !shown(&after).contains("10.100."),
        "{}",
        shown(&after)
    );
    assert_eq!((before.revision(), after.revision()), (Revision(5), Revision(11)));
    assert!(ask(&after, "2.1.100.10.in-addr.arpa.", RecordType::PTR).starts_with("Non-Existent Domain"));
    table.take(Step::ServiceDeleted("default/db".to_owned()));
    assert!(
        ask(&table.zone(), "db.default.svc.cluster.local.", RecordType::AAAA)
            .starts_with("Non-Existent Domain")
    );
}

#[test]
fn everybody_begins_at_another_address() {
    let zone = zone_of(steps());
    let packet = query("db.default.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let first = |turn| match respond(&zone, &packet, Transport::Udp, turn) {
        Reply::Packet(packet) => Message::from_vec(&packet).unwrap().answers[0].data.to_string(),
        other => panic!("{other:?}"),
    };
    assert_ne!(first(0), first(1));
}

fn large() -> Zone {
    let endpoints: Vec<_> =
        (0..300).map(|n| endpoint(&format!("10.100.{}.{}", n / 250, n % 250), true, None)).collect();
    let many = slice(
        "many-1",
        "many",
        9,
        json!({"addressType": "IPv4", "ports": [{"name": "sql", "port": 1}], "endpoints": endpoints}),
    );
    zone_of(steps().into_iter().chain([service("many", json!({"clusterIP": "None"})), many]))
}

#[test]
fn what_does_not_fit_is_cut_and_the_asker_told_to_come_over_tcp() {
    let zone = large();
    let plain = query("many.default.svc.cluster.local.", RecordType::A);
    let mut wide = plain.clone();
    wide.set_edns({
        let mut edns = Edns::new();
        edns.set_max_payload(60_000);
        edns
    });
    let bytes = |query: &Message, transport| match respond(&zone, &query.to_vec().unwrap(), transport, 0) {
        Reply::Packet(packet) => packet.len(),
        other => panic!("{other:?}"),
    };
    let small = answer_to(&zone, &plain, Transport::Udp);
    assert!(small.metadata.truncation && small.answers.len() > 15 && small.edns.is_none());
    assert!(bytes(&plain, Transport::Udp) <= 512 && bytes(&wide, Transport::Udp) <= 1232);
    let larger = answer_to(&zone, &wide, Transport::Udp);
    assert!(larger.metadata.truncation && larger.answers.len() > 45 && larger.edns.is_some());
    let whole = answer_to(&zone, &plain, Transport::Tcp);
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 300);
    let srv = answer_to(
        &zone,
        &query("_sql._tcp.many.default.svc.cluster.local.", RecordType::SRV),
        Transport::Tcp,
    );
    assert_eq!((srv.answers.len(), srv.additionals.len(), srv.metadata.truncation), (300, 300, false));
}

#[test]
fn what_is_no_question_for_this_server_is_refused_as_it_should_be() {
    let zone = zone_of(steps());
    let code = |message: &Message| answer_to(&zone, message, Transport::Udp).metadata.response_code;
    let web = query("web.default.svc.cluster.local.", RecordType::A);
    let mut two = web.clone();
    two.add_query(web.queries[0].clone());
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut notify = web.clone();
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&notify), ResponseCode::NotImp);
    let mut chaos = web.clone();
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos), ResponseCode::Refused);
    assert_eq!(code(&query("cluster.local.", RecordType::AXFR)), ResponseCode::Refused);
    let mut newer = web.clone();
    newer.set_edns(Edns::new()).edns.as_mut().unwrap().set_version(1);
    // BADVERS, whose number TSIG uses too.
    assert_eq!(u16::from(code(&newer)), 16);
    let mut answer = web.clone();
    answer.metadata.message_type = MessageType::Response;
    assert_eq!(respond(&zone, &answer.to_vec().unwrap(), Transport::Udp, 0), Reply::Silence);
    let packet = web.to_vec().unwrap();
    let Reply::Packet(cut) = respond(&zone, &packet[..packet.len() - 3], Transport::Udp, 0) else { panic!() };
    assert_eq!((&cut[..2], cut[3] & 0x0f), (&packet[..2], 1), "FORMERR, to the same number");
    assert_eq!(respond(&zone, &packet[..11], Transport::Udp, 0), Reply::Silence);
}

/// Takes a packet as any sender on the network may make it.
fn survives(zone: &Zone, packet: &[u8]) -> Result<(), TestCaseError> {
    for (transport, bytes_max) in [(Transport::Udp, 1232), (Transport::Tcp, 65_535)] {
        match respond(zone, packet, transport, packet.len()) {
            Reply::Silence => prop_assert!(packet.len() < 12 || packet[2] & 0x80 != 0),
            Reply::Packet(answer) => {
                prop_assert!((12..=bytes_max).contains(&answer.len()), "{} bytes", answer.len());
                prop_assert_eq!(&answer[..2], &packet[..2]);
                prop_assert!(answer[2] & 0x80 != 0);
                prop_assert!(Message::from_vec(&answer).is_ok());
            }
            Reply::Ask(ask) => {
                let answer = ask.answered(super::message::Records::none(ResponseCode::ServFail));
                prop_assert!(Message::from_vec(&answer).is_ok());
            }
        }
    }
    Ok(())
}

fn shuffled() -> impl Strategy<Value = Vec<Step>> {
    let all = steps();
    (Just(all[..3].to_vec()), Just(all[3..].to_vec()).prop_shuffle())
        .prop_map(|(lists, rest)| [lists, rest].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn any_bytes_get_an_answer_or_silence(packet in prop::collection::vec(any::<u8>(), 0..300)) {
        survives(&ZONE, &packet)?;
    }

    #[test]
    fn a_query_with_bytes_changed_gets_an_answer_or_silence(
        which in 0_usize..4,
        type_ in any::<u16>(),
        changes in prop::collection::vec((0_usize..200, any::<u8>()), 0..6),
        cut in 0_usize..200,
    ) {
        let names = [
            "web.default.svc.cluster.local.", "_sql._tcp.db.default.svc.cluster.local.", "near.default.svc.cluster.local.",
            "2.1.100.10.in-addr.arpa.",
        ];
        let mut message = query(names[which], RecordType::from(type_));
        message.set_edns(Edns::new());
        let mut packet = message.to_vec().unwrap();
        for (at, byte) in changes {
            if let Some(changed) = packet.get_mut(at) {
                *changed = byte;
            }
        }
        packet.truncate(packet.len().saturating_sub(cut / 10));
        survives(&ZONE, &packet)?;
    }

    #[test]
    fn any_name_below_the_domain_gets_an_answer(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..12), 0..8)) {
        let name = Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap().append_domain(&Name::from_ascii("cluster.local.").unwrap());
        let mut message = query(".", RecordType::A);
        message.queries[0].set_name(name.unwrap());
        survives(&ZONE, &message.to_vec().unwrap())?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Steps of different objects in any order give the same answers.
    #[test]
    fn the_order_of_events_does_not_matter(steps_shuffled in shuffled(), zones_between in any::<bool>()) {
        let mut table = NameTable::new(domain());
        for step in steps_shuffled {
            table.take(step);
            if zones_between {
                let _ = table.zone();
            }
        }
        let (one, other) = (table.zone(), zone_of(steps()));
        for name in ["web", "db", "db-0.db", "idle", "near", "_sql._tcp.db"] {
            for type_ in [RecordType::A, RecordType::AAAA, RecordType::SRV] {
                let name = format!("{name}.default.svc.cluster.local.");
                prop_assert_eq!(ask(&one, &name, type_), ask(&other, &name, type_));
            }
        }
        prop_assert_eq!(one.revision(), other.revision());
    }
}
