//! The server and the load generator against each other, over loopback: what the generator counts must be what happened.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking")]

mod common;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, ExitStatus},
    time::{Duration, Instant},
};

use common::{WEB, Web, connect, number, relay, summary};

/// Runs kept-alive traffic through a relay, moves new connections to a second server, stops the first, and returns the
/// first one's exit and the generator's output.
fn hand_over(on_term: &str, delay_ms: &str) -> (ExitStatus, String) {
    // Each answer takes a while, so that some request is in flight at every moment.
    let (mut first, first_port) = Web::serve(&["--on-term", on_term, "--delay-ms", delay_ms]);
    let (_second, second_port) = Web::serve(&["--delay-ms", delay_ms]);
    let (port, backend) = relay(first_port);
    let mut load =
        Web::load(port, &["--mode", "keep-alive", "--rate", "200", "--duration", "30", "--workers", "8"]);
    load.until_sent(100);
    *backend.lock().unwrap() = second_port;
    first.signal("TERM");
    let status = first.wait();
    let sent = number(&load.line_with("sent"), "sent");
    load.until_sent(sent + 100);
    load.signal("TERM");
    let text = load.rest();
    assert!(load.wait().success());
    (status, text)
}

#[test]
fn finishing_under_kept_alive_traffic_loses_nothing() {
    let (status, text) = hand_over("finish", "20");
    assert!(status.success());
    let summary = summary(&text);
    assert_eq!(number(summary, "failed"), 0, "{text}");
    assert_eq!(number(summary, "ok"), number(summary, "sent"));
    assert!(number(summary, "connections") >= 16, "every connection moved: {summary}");
}

#[test]
fn exiting_at_once_under_kept_alive_traffic_loses_what_is_in_flight() {
    let (_, text) = hand_over("exit", "500");
    assert!(number(summary(&text), "failed") > 0, "{text}");
}

#[test]
fn a_server_killed_by_force_is_counted_as_loss() {
    let (mut server, port) = Web::serve(&[]);
    let mut load = Web::load(port, &["--mode", "new", "--rate", "200", "--duration", "30"]);
    load.until_sent(50);
    server.child.kill().unwrap();
    server.wait();
    let line = load.line_with("fail");
    assert!(
        line.contains("\"cause\":\"") && line.contains(&format!("\"target\":\"127.0.0.1:{port}\"")),
        "{line}"
    );
    load.signal("TERM");
    let text = load.rest();
    let summary = summary(&text);
    assert!(number(summary, "ok") > 0 && number(summary, "failed") > 0, "{summary}");
    assert_eq!(number(summary, "ok") + number(summary, "failed"), number(summary, "sent"));
}

#[test]
fn the_pace_is_kept_and_every_answer_is_in_the_histogram() {
    let (_server, port) = Web::serve(&[]);
    for (mode, connections) in [("new", 150), ("keep-alive", 32)] {
        let mut load =
            Web::load(port, &["--mode", mode, "--rate", "300", "--duration", "0.5", "--workers", "32"]);
        let text = load.rest();
        let summary = summary(&text);
        assert_eq!(number(summary, "sent"), 150, "{summary}");
        assert_eq!(number(summary, "ok"), 150, "{summary}");
        assert!(number(summary, "connections") >= connections, "{mode}: {summary}");
        if mode == "keep-alive" {
            // More may open while all of them wait, on a machine that stalls.
            assert!(number(summary, "connections") < 150, "none was used twice: {summary}");
        }
        let hist = summary.split("\"hist\":[").nth(1).unwrap();
        let counted: u64 =
            hist.split(']').filter_map(|pair| pair.rsplit(',').next()?.parse::<u64>().ok()).sum();
        assert_eq!(counted, 150, "{summary}");
        let ms = (number(summary, "ended_us") - number(summary, "started_us")) / 1000;
        assert!((490..5_000).contains(&ms), "{ms} ms");
    }
}

#[test]
fn statuses_of_400_and_above_and_timeouts_fail() {
    let (_server, port) = Web::serve(&["--ready-after", "600"]);
    let run = |path| {
        let words = [
            "--mode",
            "keep-alive",
            "--rate",
            "50",
            "--duration",
            "0.2",
            "--timeout-ms",
            "100",
            "--path",
            path,
        ];
        Web::load(port, &words).rest()
    };
    let unready = run("/readyz");
    assert_eq!(number(summary(&unready), "failed"), 10, "{unready}");
    assert!(unready.contains(r#""cause":"status 503""#) && unready.contains(r#""pod":"pod-a""#), "{unready}");
    assert_eq!(number(summary(&run("/nowhere")), "failed"), 10, "404");
    let slow = run("/slow?ms=5000");
    assert_eq!(number(summary(&slow), "failed"), 10, "{slow}");
    assert!(slow.contains(r#""cause":"timeout""#), "{slow}");
    assert_eq!(number(summary(&run("/livez")), "failed"), 0);
}

fn ask(stream: &mut TcpStream, path: &str) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
}

/// Everything up to the server's close.
fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn finishing_answers_the_backlog_what_is_in_flight_and_one_more_on_each_connection() {
    let (mut server, port) = Web::serve(&["--on-term", "finish"]);
    let mut in_flight = connect(port);
    ask(&mut in_flight, "/slow?ms=300");
    let mut idle = connect(port);
    ask(&mut idle, "/livez");
    let mut some = [0; 4];
    idle.read_exact(&mut some).unwrap();
    // While the server stands still, its signal comes, and after it connections that only the kernel has taken.
    server.signal("STOP");
    server.signal("TERM");
    let backlog: Vec<_> = (0..50).map(|_| connect(port)).collect();
    server.signal("CONT");
    assert!(server.line_with("at_us").contains("SIGTERM"));
    for mut stream in backlog.into_iter().chain([idle]) {
        ask(&mut stream, "/");
        let text = answer(stream);
        assert!(text.contains("HTTP/1.1 200 OK") && text.contains("Connection: close"), "{text}");
    }
    let text = answer(in_flight);
    assert!(text.contains("pod-a\nGET /slow?ms=300 HTTP/1.1\r\nHost: test\n"), "{text}");
    assert!(text.contains("Connection: close"), "told after the request came: {text}");
    assert!(server.wait().success());
    assert!(TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_err());
}

#[test]
fn the_other_ways_of_ending() {
    for (on_term, ends_after_ms) in [("exit", Some(0)), ("slow=0.3", Some(300)), ("ignore", None)] {
        let (mut server, port) = Web::serve(&["--on-term", on_term]);
        server.signal("TERM");
        let told = server.line_with("at_us");
        assert!(told.contains("SIGTERM"), "{told}");
        if on_term != "exit" {
            let mut stream = connect(port);
            ask(&mut stream, "/");
            stream.read_exact(&mut [0; 15]).unwrap();
        }
        if let Some(ms) = ends_after_ms {
            let started = Instant::now();
            assert!(server.wait().success());
            assert!(started.elapsed() < Duration::from_millis(ms + 2_000));
        }
    }
}

#[test]
fn helpers_exit_as_told_and_nonsense_is_refused() {
    let code = |words: &[&str]| Command::new(WEB).args(words).output().unwrap().status.code();
    assert_eq!(code(&["true"]), Some(0));
    assert_eq!(code(&["false"]), Some(1));
    assert_eq!(code(&["exit", "42"]), Some(42));
    assert_eq!(code(&["sleep", "0"]), Some(0));
    for words in [&["exit", "256"][..], &[], &["serve", "--port"], &["load"], &["sleep", "x"]] {
        assert_eq!(code(words), Some(2), "{words:?}");
    }
}
