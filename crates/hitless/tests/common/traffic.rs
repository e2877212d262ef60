//! Requests as a client in a node's network sends them: plain HTTP/1.1 over a socket that is made in the node's namespace.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use hitless_drivers::node::netns;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// `GET /` from the node's network; gives the name of the Pod that answered.
pub fn get(cluster: &str, node: &str, target: &str) -> Result<String, String> {
    get_path(cluster, node, target, "/")
}

/// The same, of another path.
pub fn get_path(cluster: &str, node: &str, target: &str, path: &str) -> Result<String, String> {
    let target: SocketAddr = target.parse().unwrap();
    netns::inside(&format!("hitless.{cluster}.{node}"), || request(target, path)).unwrap()
}

/// The same from the machine's own network: no Pod and no node of the cluster.
pub fn get_from_outside(target: &str) -> Result<String, String> {
    request(target.parse().unwrap(), "/")
}

/// The first line of the answer to a `GET /` from the node's network, whoever answers; an error unless it is a 200.
pub fn status(cluster: &str, node: &str, target: &str) -> Result<String, String> {
    let target: SocketAddr = target.parse().unwrap();
    netns::inside(&format!("hitless.{cluster}.{node}"), || answered(target)).unwrap()
}

fn answered(target: SocketAddr) -> Result<String, String> {
    let answer = exchange(target, "/").map_err(|error| error.to_string())?;
    let line = answer.lines().next().unwrap_or("nothing").to_owned();
    if line.starts_with("HTTP/1.1 200") { Ok(line) } else { Err(line) }
}

/// What became of a stream of requests.
#[derive(Debug, Default)]
pub struct Count {
    /// Answered.
    pub answered: usize,
    /// Why the others were not.
    pub failed: Vec<String>,
}

/// Ends the streams when it is dropped: also when the step that they run beside has failed.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends requests on new connections from the node's network to Pods that say who they are, one after another, until `end`.
pub fn stream(cluster: &str, node: &str, target: &str, end: &AtomicBool) -> Count {
    counted(cluster, node, target, end, |target| request(target, "/"))
}

/// The same, whoever answers.
pub fn answers(cluster: &str, node: &str, target: &str, end: &AtomicBool) -> Count {
    counted(cluster, node, target, end, answered)
}

fn counted(
    cluster: &str,
    node: &str,
    target: &str,
    end: &AtomicBool,
    ask: impl Fn(SocketAddr) -> Result<String, String> + Send + Sync,
) -> Count {
    let target: SocketAddr = target.parse().unwrap();
    netns::inside(&format!("hitless.{cluster}.{node}"), || {
        let mut count = Count::default();
        while !end.load(Ordering::Relaxed) {
            match ask(target) {
                Ok(_) => count.answered += 1,
                Err(cause) => count.failed.push(cause),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        count
    })
    .unwrap()
}

fn request(target: SocketAddr, path: &str) -> Result<String, String> {
    let answer = exchange(target, path).map_err(|error| error.to_string())?;
    if !answer.starts_with("HTTP/1.1 200") {
        return Err(format!("{:?}", answer.lines().next()));
    }
    let pod = answer.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("x-pod").then(|| value.trim().to_owned())
    });
    pod.ok_or_else(|| format!("no Pod says that it answered: {answer:?}"))
}

fn exchange(target: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect_timeout(&target, TIMEOUT)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}
