//! The ingress on real sockets: what it forwards, what it tries again, what it refuses, and when it says that a change is in force.

mod refusals;
mod tls;
mod watermark;
mod world;

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use world::{Endpoint, Manner, World, path, until, who};

#[tokio::test]
async fn a_request_reaches_its_endpoint_and_names_its_origin() {
    let (a, _task) = Endpoint::start("a", Manner::Answers).await;
    let world = World::with(&[&a]).await;
    let mut client = world.client().await;
    assert_eq!(who(&client.get("/x?y=z").await), "a");
    assert_eq!(who(&client.ask("POST", "/p", "hello").await), "a");
    let heard = a.heard();
    assert!(heard[0].starts_with("GET /x?y=z HTTP/1.1\r\n"), "{heard:?}");
    for line in
        ["host: a.org", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http", "x-forwarded-host: a.org"]
    {
        assert!(heard[0].contains(&format!("{line}\r\n")), "{line}: {heard:?}");
    }
    assert!(heard[1].ends_with("\r\n\r\nhello"), "{heard:?}");
    assert_eq!(a.connections.load(Ordering::SeqCst), 1, "the connection is kept alive");
    world.stop().await;
}

#[tokio::test]
async fn nobody_to_serve_it_is_503_no_rule_404_and_a_broken_answer_is_cut() {
    let (a, _task) = Endpoint::start("a", Manner::Answers).await;
    let mut world = World::start().await;
    world.ingress(json!({"rules": [{"http": {"paths": [path("/s", "s"), path("/none", "none")]}}]}), &[]);
    world.commit().await;
    let mut client = world.client().await;
    assert_eq!(client.get("/s").await.0, 503);
    assert_eq!(client.get("/none").await.0, 503);
    assert_eq!(client.get("/other").await.0, 404);
    assert_eq!(client.get("/s/../other").await.0, 404);
    world.endpoints(&[&a]);
    world.commit().await;
    assert_eq!(who(&client.get("/s").await), "a");
    a.manner(Manner::BreaksOff);
    let raw = world.raw(b"GET /s HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(raw.contains("content-length: 100") && raw.ends_with("half"), "{raw}");
    world.stop().await;
}

#[tokio::test]
async fn requests_are_spread_and_idle_connections_end_with_their_endpoint() {
    let (a, _ta) = Endpoint::start("a", Manner::Answers).await;
    let (b, _tb) = Endpoint::start("b", Manner::Answers).await;
    let mut world = World::with(&[&a, &b]).await;
    let mut client = world.client().await;
    for _ in 0..200 {
        client.get("/").await;
    }
    let counts = [a.heard().len(), b.heard().len()];
    assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
    world.endpoints(&[&b]);
    world.commit().await;
    until("the idle connection to what has gone is closed", || a.open.load(Ordering::SeqCst) == 0).await;
    for _ in 0..50 {
        assert_eq!(who(&client.get("/").await), "b");
    }
    assert_eq!(a.heard().len(), counts[0]);
    world.stop().await;
}

#[tokio::test]
async fn what_was_not_sent_goes_to_another_whatever_it_is() {
    let (gone, task) = Endpoint::start("gone", Manner::Answers).await;
    let (b, _tb) = Endpoint::start("b", Manner::Answers).await;
    task.abort();
    let _ended = task.await;
    let world = World::with(&[&gone, &b]).await;
    let mut client = world.client().await;
    for _ in 0..20 {
        assert_eq!(who(&client.ask("POST", "/", "once").await), "b");
    }
    assert_eq!(b.heard().iter().filter(|request| request.ends_with("once")).count(), 20);
    world.stop().await;
}

#[tokio::test]
async fn all_endpoints_gone_is_502() {
    let (gone, task) = Endpoint::start("gone", Manner::Answers).await;
    task.abort();
    let _ended = task.await;
    let world = World::with(&[&gone]).await;
    assert_eq!(world.client().await.get("/").await.0, 502);
    world.stop().await;
}

#[tokio::test]
async fn what_may_have_been_acted_upon_is_sent_again_only_if_idempotent() {
    let (a, _ta) = Endpoint::start("a", Manner::Closes).await;
    let (b, _tb) = Endpoint::start("b", Manner::Closes).await;
    let world = World::with(&[&a, &b]).await;
    let mut client = world.client().await;
    assert_eq!(client.ask("POST", "/", "once").await.0, 502);
    assert_eq!(a.heard().len() + b.heard().len(), 1, "sent once");
    b.manner(Manner::Answers);
    for _ in 0..20 {
        assert_eq!(who(&client.get("/").await), "b");
    }
    assert!(a.heard().len() > 1, "some were tried there first");
    world.stop().await;
}

#[tokio::test]
async fn an_idle_connection_that_closes_under_a_request_is_no_failure() {
    let (a, _ta) = Endpoint::start("a", Manner::ClosesOnReuse).await;
    let world = World::with(&[&a]).await;
    let mut client = world.client().await;
    for _ in 0..20 {
        assert_eq!(who(&client.get("/").await), "a");
    }
    let before = a.heard().len();
    assert_eq!(client.ask("POST", "/", "once").await.0, 502, "it was heard, and may have been acted upon");
    assert_eq!(a.heard().len(), before + 1);
    world.stop().await;
}

#[tokio::test]
async fn a_silent_endpoint_is_504() {
    let (a, _ta) = Endpoint::start("a", Manner::Silent).await;
    let mut world = World::with(&[&a]).await;
    world.ingress(
        json!({"rules": [{"http": {"paths": [path("/", "s")]}}]}),
        &[("hitless.dev/ingress-timeout", "200ms")],
    );
    world.commit().await;
    assert_eq!(world.client().await.get("/").await.0, 504);
    assert_eq!(a.heard().len(), 1, "what an endpoint works on is not given to another");
    world.stop().await;
}

#[tokio::test]
async fn another_protocol_passes_through() {
    let (a, _ta) = Endpoint::start("a", Manner::Upgrades).await;
    let mut world = World::with(&[&a]).await;
    let mut stream = TcpStream::connect(world.http).await.unwrap();
    stream
        .write_all(b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\nearly")
        .await
        .unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"early") {
        assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0, "{}", String::from_utf8_lossy(&heard));
    }
    let text = String::from_utf8_lossy(&heard).into_owned();
    assert!(text.starts_with("HTTP/1.1 101 ") && text.contains("upgrade: echo\r\n"), "{text}");
    // The endpoint goes, and the connection stays with it.
    world.endpoints(&[]);
    world.commit().await;
    stream.write_all(b"late").await.unwrap();
    let mut late = [0; 4];
    tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut late)).await.unwrap().unwrap();
    assert_eq!(&late, b"late");
    world.stop().await;
}
