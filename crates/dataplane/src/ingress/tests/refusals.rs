//! What a client must not get away with, each with the answer that nginx gives, or a stricter one.

use super::world::{Endpoint, Manner, World, path};
use serde_json::json;

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("none")
}

#[tokio::test]
async fn a_request_that_could_mean_two_things_smuggles_nothing() {
    let (a, _ta) = Endpoint::start("a", Manner::Answers).await;
    let world = World::with(&[&a]).await;
    for (name, lines, want) in [
        ("two lengths", "content-length: 5\r\ncontent-length: 6\r\n\r\nhello!", "400"),
        ("a length that is none", "content-length: +5\r\n\r\nhello", "400"),
        ("an unknown encoding", "transfer-encoding: gzip\r\n\r\nhello", "400"),
        ("chunked, but not last", "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", "400"),
        ("a space before the colon", "transfer-encoding : chunked\r\n\r\n0\r\n\r\n", "400"),
        ("a folded line", "x-a: b\r\n c\r\n\r\n", "400"),
        ("two hosts", "host: b\r\n\r\n", "400"),
        ("a NUL", "x-a: b\0c\r\n\r\n", "400"),
    ] {
        let answer = world.raw(format!("POST / HTTP/1.1\r\nhost: a\r\n{lines}").as_bytes()).await;
        assert_eq!(status(&answer), want, "{name}: {answer}");
    }
    assert_eq!(a.heard(), Vec::<String>::new());
    // With both, the encoding counts (RFC 9112, section 6.3), nothing goes on with the length, and the connection ends: what
    // follows the body is never taken for a request.
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    for order in [
        format!("content-length: {}\r\ntransfer-encoding: chunked\r\n\r\n{smuggled}", smuggled.len()),
        format!("transfer-encoding: chunked\r\ncontent-length: {}\r\n\r\n{smuggled}", smuggled.len()),
    ] {
        let answer = world.raw(format!("POST / HTTP/1.1\r\nhost: a\r\n{order}").as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
    }
    let heard = a.heard();
    assert_eq!(heard.len(), 2, "{heard:?}");
    for request in heard {
        assert!(request.starts_with("POST / ") && !request.contains("content-length"), "{request}");
        assert!(!request.contains("smuggled"), "{request}");
    }
    world.stop().await;
}

#[tokio::test]
async fn what_is_too_large_or_no_request_is_refused() {
    let (a, _ta) = Endpoint::start("a", Manner::Answers).await;
    let mut world = World::with(&[&a]).await;
    let long = "x".repeat(40_000);
    let many = "x-a: b\r\n".repeat(200);
    for (name, request, want) in [
        ("a long header", format!("GET / HTTP/1.1\r\nhost: a\r\nx-a: {long}\r\n\r\n"), "431"),
        ("many headers", format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), "431"),
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("a path out of the root", "GET /../x HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), "400"),
        ("a path that is none", "GET /%zz HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), "400"),
        ("a tunnel", "CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), "405"),
        ("no HTTP", "\x16\x03\x01\x02\r\n\r\n".to_owned(), "400"),
        (
            "a body that says so",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2000000\r\n\r\n".to_owned(),
            "413",
        ),
    ] {
        let answer = world.raw(request.as_bytes()).await;
        assert_eq!(status(&answer), want, "{name}: {answer}");
    }
    assert_eq!(a.heard(), Vec::<String>::new());
    world.ingress(
        json!({"rules": [{"http": {"paths": [path("/", "s")]}}]}),
        &[("hitless.dev/ingress-body-max", "10")],
    );
    world.commit().await;
    let chunks = "5\r\nhello\r\n".repeat(3);
    let request =
        format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
    let answer = world.raw(request.as_bytes()).await;
    assert_eq!(status(&answer), "413", "a body that goes on: {answer}");
    assert_eq!(a.heard(), Vec::<String>::new());
    world.stop().await;
}
