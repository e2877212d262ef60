//! The queue and its workers over loopback: no task is lost or run twice, and the counts show it where that is not so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking")]

mod common;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use common::{BOUND, Web, connect, number};

fn ask(port: u16, request: &str) -> String {
    let mut stream = connect(port);
    write!(stream, "{request} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Waits until the queue's counts are so; gives them.
fn until(port: u16, what: &str, holds: impl Fn(&str) -> bool) -> String {
    let end = Instant::now() + BOUND;
    loop {
        let state = ask(port, "GET /state");
        if holds(&state) {
            return state;
        }
        assert!(Instant::now() < end, "not in time: {what}: {state}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn all_done(state: &str) -> bool {
    number(state, "done") == number(state, "added")
}

fn work(port: u16, words: &[&str]) -> Web {
    Web::start(&[&["work", "--queue", &format!("127.0.0.1:{port}")], words].concat())
}

/// Added, and each exactly once taken and done.
fn exactly_once(state: &str, added: u64) {
    let figures = ["added", "waiting", "done", "taken_twice", "done_twice", "done_unknown"];
    assert_eq!(figures.map(|name| number(state, name)), [added, 0, added, 0, 0, 0], "{state}");
}

#[test]
fn a_worker_that_is_told_to_stop_finishes_what_it_has_and_takes_no_more() {
    let (_queue, port) = Web::on_port("queue", &[]);
    assert!(ask(port, "POST /tasks?count=100").contains("\r\n\r\n100\n"));
    let mut first = work(port, &["--task-ms", "300", "--at-once", "4"]);
    until(port, "four are being worked on", |state| number(state, "taken") == 4);
    first.signal("TERM");
    let text = first.rest();
    assert!(first.wait().success());
    let done = text.lines().filter(|line| line.contains("\"task\":")).count();
    let after = text.split("SIGTERM").nth(1).unwrap();
    let finished = after.lines().filter(|line| line.contains("\"task\":")).count();
    assert!(done >= 4 && (1..=4).contains(&finished), "each slot ends what it had and takes no more: {text}");
    assert!(text.contains(r#""signal":"SIGTERM","working":"#), "{text}");
    assert!(text.lines().last().unwrap().contains(&format!(r#""exit":true,"done":{done}}}"#)), "{text}");
    let state = ask(port, "GET /state");
    assert_eq!((number(&state, "done"), number(&state, "taken")), (done as u64, 0), "{state}");
    assert!(state.contains("application/json") && state.contains(r#""pod-a/3":{"taken":"#), "{state}");

    let mut second = work(port, &["--task-ms", "1", "--at-once", "8"]);
    let state = until(port, "all are done", all_done);
    exactly_once(&state, 100);
    second.signal("TERM");
    assert!(second.wait().success(), "also with nothing to do");
}

#[test]
fn a_worker_that_is_killed_shows_in_the_counts() {
    let (_queue, port) = Web::on_port("queue", &["--lease", "1"]);
    ask(port, "POST /tasks?count=2");
    let mut killed = work(port, &["--task-ms", "60000"]);
    until(port, "one is being worked on", |state| number(state, "taken") == 1);
    killed.child.kill().unwrap();
    killed.wait();
    let _other = work(port, &["--task-ms", "1"]);
    let state = until(port, "all are done", all_done);
    assert_eq!(number(&state, "taken_twice"), 1, "{state}");
}

/// A relay that lets every request through, but cuts the connection instead of handing on every third answer.
fn losing_answers(to: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut answers = 0;
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut server = TcpStream::connect(("127.0.0.1", to)).unwrap();
            let mut buffer = [0; 4096];
            // One worker, one request at a time: both fit one read.
            while let Ok(count @ 1..) = client.read(&mut buffer) {
                server.write_all(&buffer[..count]).unwrap();
                let count = server.read(&mut buffer).unwrap();
                answers += 1;
                if answers % 3 == 0 {
                    let _closed = client.shutdown(Shutdown::Both);
                    break;
                }
                client.write_all(&buffer[..count]).unwrap();
            }
        }
    });
    port
}

#[test]
fn a_lost_answer_loses_no_task() {
    let (_queue, port) = Web::on_port("queue", &[]);
    ask(port, "POST /tasks?count=20");
    let mut worker = work(losing_answers(port), &["--task-ms", "1"]);
    let state = until(port, "all are done", all_done);
    exactly_once(&state, 20);
    worker.signal("TERM");
    let text = worker.rest();
    assert!(worker.wait().success());
    assert_eq!(text.lines().filter(|line| line.contains("\"task\":")).count(), 20, "{text}");
    assert!(text.contains("sent again until it is answered"), "{text}");
}

#[test]
fn a_worker_waits_for_its_queue_and_ends_without_one() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = gone.local_addr().unwrap().port();
    drop(gone);
    let mut worker = work(port, &[]);
    assert!(worker.line_with("trouble").contains("refused"));
    worker.signal("TERM");
    assert!(worker.wait().success());
}

#[test]
fn nonsense_is_refused_and_the_queue_goes_on() {
    let (_queue, port) = Web::on_port("queue", &[]);
    for (request, status) in [
        ("POST /take", 400),
        ("POST /take?worker=a", 400),
        ("GET /take?worker=a&n=1", 405),
        ("POST /done?worker=a&n=1&id=7", 404),
        ("POST /tasks?count=999999", 503),
        ("GET /nowhere", 404),
        ("POST /take?worker=b&n=1", 204),
        ("GET /readyz", 200),
    ] {
        let answer = ask(port, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
    assert_eq!(number(&ask(port, "GET /state"), "done_unknown"), 1);
}
