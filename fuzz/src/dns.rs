//! DNS packets, against a zone with a Service of each sort.

use std::sync::LazyLock;

use hitless_base::Revision;
use hitless_client::Change;
use hitless_dataplane::dns::{
    Domain,
    message::{Records, Transport, UDP_BYTES_MAX},
    respond::{Reply, respond},
    table::{NameTable, Step},
    zone::Zone,
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, from_value, json};

static ZONE: LazyLock<Option<Zone>> = LazyLock::new(zone);

fn zone() -> Option<Zone> {
    let ranges = ["10.150.0.0/16", "10.100.0.0/16"].iter().filter_map(|range| range.parse().ok()).collect();
    let mut table = NameTable::new(Domain::new("cluster.local", ranges).ok()?);
    let meta = |name: &str, labels: Value| json!({"namespace": "default", "name": name, "resourceVersion": "1", "labels": labels});
    table.take(Step::NamespacesListed(["default".to_owned()].into()));
    table.take(Step::ServicesListed(Vec::new()));
    table.take(Step::SlicesListed(Vec::new(), Revision(1)));
    for (name, spec) in [
        ("web", json!({"clusterIP": "10.150.0.20", "ports": [{"name": "http", "port": 80}]})),
        ("db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]})),
        ("out", json!({"type": "ExternalName", "externalName": "www.example.com"})),
        ("loop", json!({"type": "ExternalName", "externalName": "loop.default.svc.cluster.local"})),
    ] {
        let service: Service = from_value(json!({"metadata": meta(name, Value::Null), "spec": spec})).ok()?;
        table.take(Step::of_service(Change::Applied(service))?);
    }
    // More than fits one datagram.
    let endpoints: Vec<_> = (2..150)
        .map(|n| json!({"addresses": [format!("10.100.1.{n}")], "hostname": format!("db-{n}"), "conditions": {"ready": true}}))
        .collect();
    let slice: EndpointSlice = from_value(json!({
        "metadata": meta("db-1", json!({"kubernetes.io/service-name": "db"})),
        "addressType": "IPv4", "ports": [{"name": "sql", "port": 5433}], "endpoints": endpoints,
    }))
    .ok()?;
    table.take(Step::of_slice(Change::Applied(slice)));
    table.is_complete().then(|| table.zone())
}

/// Any packet, over UDP and TCP: the answer is no longer than its transport takes, and carries the asker's number.
pub fn dns(data: &[u8]) {
    let zone = ZONE.as_ref();
    assert!(zone.is_some(), "the zone of this target is not one");
    for (transport, bytes_max) in [(Transport::Udp, UDP_BYTES_MAX), (Transport::Tcp, u16::MAX)] {
        let Some(zone) = zone else { return };
        let answer = match respond(zone, data, transport, data.len()) {
            Reply::Silence => continue,
            Reply::Packet(packet) => packet,
            Reply::Ask(ask) => ask.answered(Records::default()),
        };
        assert!(answer.len() <= usize::from(bytes_max), "{} bytes over {transport:?}", answer.len());
        assert_eq!(answer.get(..2), data.get(..2), "the answer is not to this question");
        // An answer that comes back as a question must not go on for ever.
        assert_eq!(respond(zone, &answer, transport, 0), Reply::Silence);
    }
}
