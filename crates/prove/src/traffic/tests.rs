//! Following a generator's log, against an API server that is not always up to it.

use std::{collections::VecDeque, convert::Infallible};

use http::{Request, Response, StatusCode};
use kube::{Client, client::Body};
use tower::service_fn;

use super::*;
use crate::{Silent, paths::path};

const PROGRESS: &str = r#"{"t":1,"sent":10,"ok":10,"failed":0}"#;
const FAILURE: &str = r#"{"fail":{"at_us":1767225600000000,"cause":"reset"}}"#;
const SUMMARY: &str = r#"{"summary":{"sent":20,"ok":19,"failed":1,"hist":[[400,19]]}}"#;

/// Answers each read of the log with the next of these; everything else with `pod`.
fn follower(logs: &[(StatusCode, String)], pod: Option<&'static str>) -> Follower {
    let logs = Arc::new(Mutex::new(logs.iter().cloned().collect::<VecDeque<_>>()));
    let client = Client::new(
        service_fn(move |request: Request<Body>| {
            let (status, body) = if request.uri().path().ends_with("/log") {
                assert_eq!(request.uri().query(), Some("&container=clusterip-node-new&follow=true"));
                logs.lock().unwrap().pop_front().unwrap_or((StatusCode::OK, String::new()))
            } else {
                pod.map_or((StatusCode::NOT_FOUND, String::new()), |body| (StatusCode::OK, body.to_owned()))
            };
            let response = Response::builder().status(status).body(Body::from(body.into_bytes()));
            async move { Ok::<_, Infallible>(response.unwrap()) }
        }),
        "default",
    );
    Follower {
        pods: Api::namespaced(client, "prove"),
        pod: "traffic-node-node-1".to_owned(),
        container: "clusterip-node-new".to_owned(),
        path: path("clusterip-node/new"),
        tally: Arc::default(),
        progress: Arc::new(Silent),
        seen: 0,
        said: None,
        reopen_after: Duration::from_millis(1),
        silence_max: Duration::from_millis(50),
    }
}

fn ok(lines: &[&str]) -> (StatusCode, String) {
    (StatusCode::OK, lines.iter().map(|line| format!("{line}\n")).collect())
}

const RUNNING: &str = r#"{"metadata":{"name":"traffic-node-node-1"},"status":{"phase":"Running"}}"#;
const ENDED: &str = r#"{"metadata":{"name":"traffic-node-node-1"},"status":{"phase":"Failed"}}"#;

#[tokio::test]
async fn a_log_that_breaks_off_is_read_on_and_no_line_is_taken_twice() {
    let waiting =
        (StatusCode::BAD_REQUEST, r#"{"code":400,"message":"container is waiting to start"}"#.to_owned());
    let logs = [
        waiting,
        ok(&[PROGRESS, FAILURE]),
        ok(&[PROGRESS, FAILURE]),
        ok(&[PROGRESS, FAILURE, PROGRESS, SUMMARY]),
    ];
    let follower = follower(&logs, Some(RUNNING));
    let tally = Arc::clone(&follower.tally);
    follower.run().await.unwrap();
    let tally = lock(&tally);
    assert_eq!((tally.total().sent, tally.total().failed), (20, 1));
    assert_eq!(tally.failures().count(), 1, "taken once");
}

#[tokio::test]
async fn a_generator_that_ends_without_a_summary_is_an_error_with_its_last_words() {
    let logs = [ok(&[PROGRESS, "web: cannot go on: no file descriptors"])];
    let error = follower(&logs, Some(ENDED)).run().await.unwrap_err().to_string();
    assert_eq!(
        error,
        "the traffic generator traffic-node-node-1/clusterip-node-new ended without a summary: web: cannot go on: no file descriptors"
    );
}

#[tokio::test]
async fn a_pod_that_is_gone_and_one_that_is_silent_are_given_up() {
    assert!(follower(&[], None).run().await.is_err());
    let started = Instant::now();
    assert!(follower(&[], Some(RUNNING)).run().await.is_err());
    assert!(started.elapsed() >= Duration::from_millis(50));
}
