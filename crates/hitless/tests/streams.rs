//! `kubectl exec`, `attach`, `cp` and `port-forward`, as stock kubectl asks for them: over WebSockets, and over SPDY as its fallback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{Cluster, PATIENCE, Space, run, run_with_input, tools, until};
use serde_json::json;

/// kubectl's own switches for its two ways; WebSockets are its default.
const SPDY: [(&str, &str); 2] =
    [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")];

#[test]
fn streams_reach_containers() {
    let cluster = Cluster::up("streams");
    cluster.steps(
        3,
        &[
            ("commands_have_streams_and_exit_codes", commands_have_streams_and_exit_codes),
            ("terminals_have_a_size", terminals_have_a_size),
            ("files_are_copied_both_ways", files_are_copied_both_ways),
            ("attachments_see_what_is_said", attachments_see_what_is_said),
            ("ports_are_forwarded", ports_are_forwarded),
            ("sessions_end_with_their_pod", sessions_end_with_their_pod),
            ("refusals_are_kubernetes_own", refusals_are_kubernetes_own),
        ],
    );
}

fn shell(space: &Space, name: &str) {
    tools::pod(space, name, "trap 'exit 0' TERM; while :; do sleep 0.2; done", json!({}));
    space.ready(name);
}

fn commands_have_streams_and_exit_codes(space: &Space) {
    shell(space, "p");
    for way in [&[][..], &SPDY] {
        let exec = |args: &[&str]| {
            let mut command = space.kubectl.command(&[&["exec", "-i", "p", "--"], args].concat());
            command.envs(way.iter().copied());
            command
        };
        let output = run(&mut exec(&["sh", "-c", "echo out; echo err >&2; exit 7"]));
        assert_eq!((output.code, output.stdout.as_str()), (Some(7), "out\n"), "{way:?}: {}", output.all());
        assert!(
            output.stderr.contains("err\n") && output.stderr.contains("exit code 7"),
            "{}",
            output.stderr
        );
        // The command learns that its input has ended; else this would not.
        let input = "0123456789abcdef".repeat(128 * 1024);
        let counted = run_with_input(&mut exec(&["wc", "-c"]), &input).succeeded();
        assert_eq!(counted.stdout.trim(), input.len().to_string(), "{way:?}");
        let echoed = run_with_input(&mut exec(&["cat"]), &input).succeeded();
        assert!(echoed.stdout == input, "{way:?}: {} bytes came back", echoed.stdout.len());
    }
    let words = space.kubectl.ok(&["exec", "p", "--", "printf", "%s|", "a b", "c&d=e", "ü", ""]);
    assert_eq!(words, "a b|c&d=e|ü||");
}

fn terminals_have_a_size(space: &Space) {
    shell(space, "p");
    let inside = "until [ \"$(stty size)\" = '33 77' ]; do sleep 0.05; done; tty; exit 3";
    let exec = format!(
        "stty rows 33 cols 77; exec kubectl --kubeconfig {} -n {} exec -it p -- sh -c '{}'",
        space.kubectl.kubeconfig.display(),
        space.kubectl.namespace,
        inside.replace('\'', "'\\''")
    );
    let output = run(Command::new("script").args(["-q", "-e", "-c", &exec, "/dev/null"]));
    assert_eq!(output.code, Some(3), "{}", output.all());
    assert!(output.stdout.contains("/dev/pts/"), "{}", output.all());
}

fn files_are_copied_both_ways(space: &Space) {
    shell(space, "p");
    let directory = space.home.path().join("copies");
    fs::create_dir_all(directory.join("tree/deep")).unwrap();
    let noise: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(directory.join("tree/deep/noise"), &noise).unwrap();
    fs::write(directory.join("tree/plain"), "text").unwrap();
    let (from, back) = (directory.join("tree"), directory.join("back"));
    space.kubectl.ok(&["cp", from.to_str().unwrap(), "p:/tree"]);
    space.kubectl.ok(&["cp", "p:/tree", back.to_str().unwrap()]);
    assert!(fs::read(back.join("deep/noise")).unwrap() == noise);
    assert_eq!(fs::read_to_string(back.join("plain")).unwrap(), "text");
}

fn attachments_see_what_is_said(space: &Space) {
    let container = json!([json!({
        "name": "web", "image": "hitless.dev/web:1", "stdin": true, "stdinOnce": true,
        "command": ["/bin/sh", "-c", "read line; echo got $line; cat; echo over"],
        "volumeMounts": tools::volumes().1,
    })]);
    tools::pod(space, "p", "", json!({"containers": container, "restartPolicy": "Never"}));
    space.ready("p");
    let output = space.kubectl.with_input(&["attach", "-i", "-q", "p"], "one\ntwo\n").succeeded();
    assert_eq!(output.stdout, "got one\ntwo\nover\n", "{}", output.stderr);
    // stdinOnce: what it read ended with the attachment, and so did it.
    space.kubectl.ok(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/p", "--timeout=30s"]);
}

/// A program that is ended with the test, and what it says line by line.
struct Running {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (send, lines) = std::sync::mpsc::channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let send = send.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let _test_is_over = send.send(line);
                }
            });
        }
        Self { child, lines }
    }

    fn says(&self, words: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("never said {words:?}"));
            if line.contains(words) {
                return line;
            }
        }
    }

    fn ends(&mut self) -> Option<i32> {
        until("the program ends", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn get(port: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ports_are_forwarded(space: &Space) {
    space.pod("p", &["serve", "--port", "3000"], json!({}), json!({"terminationGracePeriodSeconds": 1}));
    space.ready("p");
    for way in [&SPDY[..], &[]] {
        let forward = |port: &str| {
            let mut command = space.kubectl.command(&["port-forward", "pod/p", port]);
            let forward = Running::start(command.envs(way.iter().copied()));
            let line = forward.says("Forwarding from 127.0.0.1");
            let local = line.split(" -> ").next().and_then(|l| l.rsplit(':').next()).unwrap().to_owned();
            (forward, local)
        };
        let (mut web, open) = forward(":3000");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let answer = get(&open).unwrap();
                        assert!(answer.starts_with("HTTP/1.1 200"), "{way:?}: {answer}");
                    }
                });
            }
        });
        // Nobody listens there: the connection fails, and kubectl says why.
        let (nobody, closed) = forward(":3999");
        assert!(get(&closed).map_or(true, |answer| answer.is_empty()));
        nobody.says("connection refused");
        assert!(get(&open).is_ok(), "the other one goes on");
        if way.is_empty() {
            space.kubectl.ok(&["delete", "pod", "p", "--wait=false"]);
            assert_ne!(web.ends(), Some(0), "it says that the Pod is gone");
        }
    }
}

fn sessions_end_with_their_pod(space: &Space) {
    shell(space, "p");
    let script = "echo begun; exec sleep 1000";
    let mut exec = Running::start(&mut space.kubectl.command(&["exec", "p", "--", "sh", "-c", script]));
    exec.says("begun");
    let began = Instant::now();
    space.kubectl.ok(&["delete", "pod", "p", "--wait=false"]);
    assert_eq!(exec.ends(), Some(137), "the command was killed with its container");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

fn refusals_are_kubernetes_own(space: &Space) {
    shell(space, "p");
    let no_such_pod = space.kubectl.refused(&["exec", "none", "--", "true"]);
    assert!(no_such_pod.contains("pods \"none\" not found"), "{no_such_pod}");
    let no_such_container = space.kubectl.refused(&["exec", "p", "-c", "none", "--", "true"]);
    assert!(no_such_container.contains("container none"), "{no_such_container}");
    let no_such_command = space.kubectl.run(&["exec", "p", "--", "/no/such"]);
    assert!(
        !no_such_command.ok && no_such_command.stderr.contains("no such file"),
        "{}",
        no_such_command.all()
    );
    let url = format!("/api/v1/namespaces/{}/pods/p/exec?command=true&stdout=true", space.kubectl.namespace);
    let plain = space.kubectl.refused(&["get", "--raw", &url]);
    assert!(plain.contains("Upgrade request required"), "{plain}");
}
