//! When the ingress says that a change is in force.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::world::{Endpoint, Manner, World, until};
use crate::{
    consumer::{
        Level, Plane,
        fake::{Api, TestClock},
    },
    ingress::{Options, run},
};

#[tokio::test]
async fn a_commit_waits_for_the_choice_that_is_being_made_and_not_for_requests() {
    let (a, _ta) = Endpoint::start("a", Manner::Silent).await;
    let mut world = World::with(&[&a]).await;
    let mut client = world.client().await;
    let asking = tokio::spawn(async move { client.get("/").await });
    until("the request has reached the endpoint", || a.heard().len() == 1).await;

    world.endpoints(&[]);
    let (entered, leave) = (Arc::new(std::sync::Barrier::new(2)), Arc::new(std::sync::Barrier::new(2)));
    let choosing = std::thread::spawn({
        let (table, entered, leave) = (world.table.clone(), entered.clone(), leave.clone());
        move || {
            table.choose(|_| {
                entered.wait();
                leave.wait();
            });
        }
    });
    entered.wait();
    let dirty = world.level.take_dirty();
    world.plane.take(dirty);
    let early = tokio::time::timeout(Duration::from_millis(100), world.plane.commit()).await;
    assert!(early.is_err(), "somebody may still choose by the table before");
    leave.wait();
    choosing.join().unwrap();
    // The request is still under way, and is not waited for.
    world.endpoints(&[&a]);
    world.commit().await;
    world.endpoints(&[]);
    world.commit().await;
    assert!(!asking.is_finished());
    assert_eq!(world.client().await.get("/").await.0, 503);
    asking.abort();
    world.stop().await;
}

fn object(version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let mut object =
        json!({"kind": kind, "apiVersion": version, "metadata": {"name": name, "namespace": "ns"}});
    for (field, value) in rest.as_object().unwrap() {
        object[field] = value.clone();
    }
    object
}

fn slice(endpoint: &Endpoint) -> Value {
    let mut slice = object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "s-1",
        json!({
            "addressType": "IPv4", "ports": [{"name": "", "port": endpoint.address.port()}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}],
        }),
    );
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": "s"});
    slice
}

#[tokio::test]
async fn it_registers_serves_and_reports_each_change() {
    let (a, _ta) = Endpoint::start("a", Manner::Answers).await;
    let (b, _tb) = Endpoint::start("b", Manner::Answers).await;
    let api = Api::default();
    api.put(
        "ingressclasses",
        object(
            "networking.k8s.io/v1",
            "IngressClass",
            "hitless",
            json!({"spec": {"controller": "hitless.dev/ingress"}}),
        ),
    );
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    api.put(
        "ingresses",
        object(
            "networking.k8s.io/v1",
            "Ingress",
            "i",
            json!({"spec": {"ingressClassName": "hitless", "defaultBackend": backend}}),
        ),
    );
    api.put("services", object("v1", "Service", "s", json!({"spec": {"ports": [{"port": 80}]}})));
    let first = api.put("endpointslices", slice(&a));
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let options =
        Options { http_port: port, https_port: 0, workers: 2, ..Options::new(vec![[127, 0, 0, 1].into()]) };
    let cancel = CancellationToken::new();
    let running = tokio::spawn(run(api.client(), "n1".to_owned(), options, TestClock::new(), cancel.clone()));
    let last = |api: &Api| api.reports().last().map_or(0, |(revision, _)| *revision);
    until("the first report", || last(&api) >= first).await;
    let own = api.get("endpointconsumers", "ingress-n1").unwrap();
    assert_eq!((&own["spec"]["type"], &own["spec"]["ackClass"]), (&json!("Ingress"), &json!("Proven")));
    assert_eq!(own["spec"]["nodeName"], "n1");
    let ask = || async {
        let body = body_of(port).await;
        body.lines().next().map(str::to_owned).unwrap_or_default()
    };
    assert_eq!(ask().await, "a");
    let second = api.put("endpointslices", slice(&b));
    until("a report of the change", || last(&api) >= second).await;
    for _ in 0..20 {
        assert_eq!(ask().await, "b", "after the report nobody is sent to the old endpoint");
    }
    cancel.cancel();
    running.await.unwrap().unwrap();
}

/// The body of the answer to a request on a new connection.
async fn body_of(port: u16) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}
