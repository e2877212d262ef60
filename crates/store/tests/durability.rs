//! What was acknowledged survives kill -9.
//!
//! The test starts itself again as a child that writes and prints each acknowledgement, kills it in the middle, and
//! compares what the file holds with what was printed. Several rounds run on one directory, so that a store that was
//! killed is also opened and written again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use hitless_store::{Embedded, Op, Options, Precondition, Revision, Store};

const CHILD: &str = "HITLESS_STORE_TEST_CHILD_DIRECTORY";
const WRITERS: usize = 8;
const ROUNDS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_commits_survive_kill_9() {
    if let Some(directory) = std::env::var_os(CHILD) {
        return write_for_ever(Path::new(&directory)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged: HashMap<String, u64> = HashMap::new();
    let mut highest = Revision::ZERO;
    for round in 0..ROUNDS {
        let lines = kill_after(directory.path(), 50 + 70 * round);
        assert!(lines.len() >= 50 + 70 * round, "the child wrote only {} lines", lines.len());
        for line in lines {
            let [key, value, revision] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
            acknowledged.insert(key.to_owned(), value.parse().unwrap());
            highest = highest.max(revision.parse().unwrap());
        }
        let store = Embedded::open(directory.path(), Options::default()).unwrap();
        assert!(store.revision() >= highest, "{} after {highest} was acknowledged", store.revision());
        for (key, &at_least) in &acknowledged {
            let entry = store.get(key).await.unwrap().unwrap_or_else(|| panic!("{key} is gone"));
            let found: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
            assert!(found >= at_least, "{key} is {found}, {at_least} was acknowledged");
            // Both keys of a commit, or neither: also for the commit that was in flight.
            let twin = store.get(&format!("{key}/twin")).await.unwrap().unwrap();
            assert_eq!((&twin.value, twin.modified), (&entry.value, entry.modified));
        }
    }
}

/// Runs the child until it has acknowledged `count` commits, kills it, and returns all that it printed.
fn kill_after(directory: &Path, count: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "acknowledged_commits_survive_kill_9", "--nocapture", "--quiet"])
        .env(CHILD, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = Vec::new();
    let mut output = BufReader::new(child.stdout.take().unwrap()).split(b'\n').map_while(Result::ok);
    let mut take = |bytes: Vec<u8>| {
        // The last line may be cut short, and the test runner prints its own.
        let line = String::from_utf8(bytes).unwrap_or_default();
        if let Some(line) = line.strip_prefix("ack ").and_then(|line| line.strip_suffix(" .")) {
            lines.push(line.to_owned());
        }
        lines.len()
    };
    for bytes in output.by_ref() {
        if take(bytes) >= count {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for bytes in output {
        take(bytes);
    }
    lines
}

async fn write_for_ever(directory: &Path) {
    let store = Embedded::open(directory, Options::default()).unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            let key = format!("/counter/{writer}");
            let twin = format!("{key}/twin");
            let start = match store.get(&key).await.unwrap() {
                Some(entry) => std::str::from_utf8(&entry.value).unwrap().parse::<u64>().unwrap(),
                None => 0,
            };
            for value in start + 1.. {
                let ops = [&key, &twin].map(|key| Op::Put {
                    key: key.as_str().into(),
                    value: value.to_string().into(),
                    expect: Precondition::None,
                });
                let revision = store.commit(ops.to_vec()).await.unwrap().revision;
                let line = format!("ack {key} {value} {revision} .\n");
                // Ends when the parent has gone, even if it could not kill us.
                if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
                    std::process::exit(1);
                }
            }
        });
    }
    while writers.join_next().await.is_some() {}
}
