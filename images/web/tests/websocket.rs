//! WebSockets over loopback: the server against frames written by hand, and against the program's own client.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking")]

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use common::{Web, connect, number, relay, summary};

const HANDSHAKE: &str = "GET /any/path HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Asks, and reads the head of the answer.
fn head(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn open(port: u16) -> TcpStream {
    let mut stream = connect(port);
    let head = head(&mut stream, HANDSHAKE);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    stream
}

/// A masked frame with a short payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [9, 8, 7, 6];
    let mut bytes = vec![first, 0x80 | u8::try_from(payload.len()).unwrap()];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Everything up to the server's close.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn messages_and_pings_come_back_and_the_close_is_answered() {
    let (_server, port) = Web::serve(&[]);
    let mut stream = open(port);
    // In one go with what follows: a message in two parts with a ping between them, and an empty one.
    let mut bytes = frame(0x01, b"Hel");
    bytes.extend(frame(0x89, b"?"));
    bytes.extend(frame(0x80, b"lo"));
    bytes.extend(frame(0x82, b""));
    stream.write_all(&bytes).unwrap();
    assert_eq!(read(&mut stream, 3 + 7 + 2), b"\x8a\x01?\x81\x05Hello\x82\x00");
    stream.write_all(&frame(0x88, b"\x03\xe8bye")).unwrap();
    // The server closes the connection after its own word.
    assert_eq!(rest(&mut stream), b"\x88\x02\x03\xe8");

    // A client that asks and sends at once loses nothing.
    let mut stream = connect(port);
    stream.write_all(&[HANDSHAKE.as_bytes(), &frame(0x81, b"early")].concat()).unwrap();
    let head = head(&mut stream, "");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(read(&mut stream, 7), b"\x81\x05early");
}

#[test]
fn large_messages_come_back_whole_and_larger_ones_are_refused() {
    let (_server, port) = Web::serve(&[]);
    let mut stream = open(port);
    // 64 KiB is the longest frame and 256 KiB the longest message: four such frames are both.
    let part = |first: u8| {
        let mut bytes = vec![first, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.resize(bytes.len() + 65536, 7);
        bytes
    };
    let mut writer = stream.try_clone().unwrap();
    let bytes = [part(0x02), part(0x00), part(0x00), part(0x80)].concat();
    let writing = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
    for first in [0x02, 0x00, 0x00, 0x80] {
        assert_eq!(read(&mut stream, 10), [first, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert!(read(&mut stream, 65536).iter().all(|byte| *byte == 7));
    }
    writing.join().unwrap();
    stream.write_all(&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 1]).unwrap();
    assert_eq!(rest(&mut stream), b"\x88\x02\x03\xf1", "1009");
}

#[test]
fn a_client_that_does_not_read_holds_up_itself_alone() {
    let (server, port) = Web::serve(&[]);
    let mut stream = open(port);
    let mut writer = stream.try_clone().unwrap();
    writer.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let message = frame(0x82, &[7; 100]);
    let (bytes, mut written) = (message.repeat(1000), 0);
    // Until nothing goes any more: the server reads no further while its echoes are not taken.
    let stuck = loop {
        match writer.write(&bytes[written % bytes.len()..]) {
            Ok(count) => written += count,
            Err(error) => break error,
        }
        assert!(written < 1 << 30, "the server takes all and must be keeping it");
    };
    assert!(matches!(stuck.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{stuck}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
    let kib: u64 = peak.trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 16 * 1024, "{kib} KiB");
    let mut other = open(port);
    other.write_all(&frame(0x81, b"hi")).unwrap();
    assert_eq!(read(&mut other, 4), b"\x81\x02hi");
    // Once it reads, all comes back.
    for _ in 0..written / message.len() {
        assert_eq!(read(&mut stream, 102)[..2], [0x82, 100]);
    }
}

#[test]
fn wrong_frames_and_wrong_handshakes_are_refused() {
    let (_server, port) = Web::serve(&[]);
    for (bytes, code) in [
        (vec![0x81, 0x02, b'h', b'i'], 1002_u16),
        (frame(0x80, b"of nothing"), 1002),
        (frame(0xc1, b"reserved"), 1002),
        (frame(0x83, b"unknown"), 1002),
        (frame(0x81, b"\xff"), 1007),
    ] {
        let mut stream = open(port);
        stream.write_all(&bytes).unwrap();
        assert_eq!(rest(&mut stream), [&b"\x88\x02"[..], &code.to_be_bytes()].concat(), "{bytes:02x?}");
    }
    for (from, to, status) in [
        ("Version: 13", "Version: 8", "426"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", "400"),
        ("GET", "POST", "400"),
        ("Upgrade: websocket", "Upgrade: h2c", "404"),
    ] {
        let head = head(&mut connect(port), &HANDSHAKE.replace(from, to));
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{to}: {head}");
        assert_eq!(head.contains("Sec-WebSocket-Version: 13"), status == "426", "{head}");
    }
}

#[test]
fn finishing_keeps_what_is_open_and_takes_nothing_new() {
    let (mut server, port) = Web::serve(&["--on-term", "finish", "--finish-within", "60"]);
    let mut stream = open(port);
    server.signal("TERM");
    assert!(server.line_with("at_us").contains("SIGTERM"));
    let refused = TcpStream::connect(("127.0.0.1", port)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    stream.write_all(&frame(0x81, b"still here")).unwrap();
    assert_eq!(read(&mut stream, 12), b"\x81\x0astill here");
    stream.write_all(&frame(0x88, b"")).unwrap();
    assert_eq!(rest(&mut stream), b"\x88\x00");
    drop(stream);
    assert!(server.wait().success());
}

#[test]
fn finishing_ends_at_its_bound_and_says_so() {
    let (mut server, port) = Web::serve(&["--on-term", "finish", "--finish-within", "0.3"]);
    let mut stream = open(port);
    let began = Instant::now();
    server.signal("TERM");
    assert_eq!(rest(&mut stream), b"\x88\x02\x03\xe9", "1001: going away");
    assert!(began.elapsed() >= Duration::from_millis(290), "{:?}", began.elapsed());
    assert!(server.wait().success());
}

fn ws(port: u16, words: &[&str]) -> Web {
    Web::start(&[&["ws", "--target", &format!("127.0.0.1:{port}"), "--linger-ms", "0"], words].concat())
}

#[test]
fn a_thousand_stay_open_and_every_message_comes_back() {
    let (_server, port) = Web::serve(&[]);
    let words = ["--connections", "1000", "--duration", "2", "--every-ms", "500", "--timeout-ms", "15000"];
    let mut client = ws(port, &words);
    let text = client.rest();
    assert_eq!(client.wait().code(), Some(0), "{text}");
    let summary = summary(&text);
    for (name, count) in [("connections", 1000), ("opened", 1000), ("closed", 1000), ("failed", 0)] {
        assert_eq!(number(summary, name), count, "{summary}");
    }
    // At least one each; up to three on an idle machine.
    assert!(number(summary, "echoed") >= 1000, "{summary}");
    assert!(summary.contains(r#""pods":{"pod-a":1000}"#), "{summary}");
}

#[test]
fn a_signal_closes_them_all_well() {
    let (_server, port) = Web::serve(&[]);
    let mut client = ws(port, &["--connections", "5", "--duration", "60", "--every-ms", "10"]);
    while number(&client.line_with("echoed"), "echoed") < 10 {}
    client.signal("TERM");
    let text = client.rest();
    assert_eq!(client.wait().code(), Some(0), "{text}");
    assert_eq!(number(summary(&text), "closed"), 5, "{text}");
}

#[test]
fn every_other_end_is_a_failure_with_its_cause() {
    let run = |port, words: &[&str]| {
        let mut client = ws(port, &[&["--connections", "3", "--every-ms", "20"], words].concat());
        let text = client.rest();
        assert_eq!(client.wait().code(), Some(1), "{text}");
        assert_eq!(number(summary(&text), "failed"), 3, "{text}");
        text
    };
    // Ended by the server's bound.
    let (server, port) = Web::serve(&["--on-term", "finish", "--finish-within", "0.1"]);
    let mut client = ws(port, &["--connections", "3", "--duration", "60", "--every-ms", "20"]);
    while number(&client.line_with("echoed"), "echoed") < 3 {}
    server.signal("TERM");
    let text = client.rest();
    assert_eq!((client.wait().code(), number(summary(&text), "failed")), (Some(1), 3), "{text}");
    assert!(text.contains(r#""cause":"closed by the server: 1001""#), "{text}");
    // Nobody there any more.
    drop(server);
    let text = run(port, &["--duration", "0.2"]);
    assert!(text.contains(r#""cause":"connection refused""#), "{text}");
    // A server that does not speak it.
    let (_queue, queue_port) = Web::on_port("queue", &[]);
    let text = run(queue_port, &["--duration", "0.2"]);
    assert!(text.contains(r#""cause":"status 200""#), "{text}");
    // A relay to nobody: accepted, then closed without an answer.
    let (dead, _) = relay(port);
    let text = run(dead, &["--duration", "0.2"]);
    assert!(
        text.contains(r#""cause":"closed without an answer""#) || text.contains(r#""cause":"reset""#),
        "{text}"
    );
    // A server that stands still.
    let (server, port) = Web::serve(&[]);
    server.signal("STOP");
    let text = run(port, &["--duration", "0.2", "--timeout-ms", "100"]);
    assert!(text.contains(r#""cause":"timeout""#), "{text}");
}
