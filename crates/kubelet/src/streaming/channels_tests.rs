//! Both sides by hand: a client's WebSocket here, the runtime's SPDY there.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

struct Lab {
    client: WebSocketStream<DuplexStream>,
    runtime: DuplexStream,
    over: tokio::task::JoinHandle<()>,
}

/// Stream ids follow the order of opening: error 1, stdin 3, stdout 5.
async fn lab(protocol: Protocol, end: impl Future<Output = String> + Send + 'static) -> Lab {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (own, mut runtime) = tokio::io::duplex(64 * 1024);
    let channels = Channels { stdin: true, stdout: true, ..Channels::default() };
    let open = tokio::spawn(async move { Streams::open(own, channels).await.unwrap() });
    for id in [1_u8, 3, 5] {
        let mut head = [0; 8];
        runtime.read_exact(&mut head).await.unwrap();
        runtime.read_exact(&mut vec![0; usize::from(head[7])]).await.unwrap();
        runtime.write_all(&[0x80, 3, 0, 2, 0, 0, 0, 4, 0, 0, 0, id]).await.unwrap();
    }
    let streams = open.await.unwrap();
    let socket = web_socket(server).await;
    let over = tokio::spawn(run(socket, streams, protocol, end));
    let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    Lab { client, runtime, over }
}

impl Lab {
    /// The next message that says something.
    async fn said(&mut self) -> Option<Vec<u8>> {
        loop {
            match self.client.next().await {
                Some(Ok(Message::Binary(data))) if data.len() > 1 => return Some(data.to_vec()),
                Some(Ok(Message::Binary(_))) => {}
                _ => return None,
            }
        }
    }

    async fn frame(&mut self, stream: u8, flags: u8, data: &[u8]) {
        let head = [0, 0, 0, stream, flags, 0, 0, u8::try_from(data.len()).unwrap()];
        self.runtime.write_all(&[&head[..], data].concat()).await.unwrap();
    }
}

#[tokio::test]
async fn input_is_closed_by_v5_and_output_comes_before_the_end() {
    let mut lab = lab(Protocol::V5, std::future::pending()).await;
    for message in [&b"\0abc"[..], b"\xff\0", b"\0late"] {
        lab.client.send(Message::binary(message.to_vec())).await.unwrap();
    }
    let mut got = [0; 19];
    lab.runtime.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"\0\0\0\x03\0\0\0\x03abc\0\0\0\x03\x01\0\0\0");
    lab.frame(5, 0, b"out").await;
    lab.frame(1, 0, b"{\"status\":\"Success\"}").await;
    lab.frame(5, 1, b"").await;
    lab.frame(1, 1, b"").await;
    assert_eq!(lab.said().await.unwrap(), b"\x01out");
    assert_eq!(lab.said().await.unwrap(), b"\x03{\"status\":\"Success\"}");
    assert_eq!(lab.said().await, None);
    lab.over.await.unwrap();
}

#[tokio::test]
async fn v4_does_not_know_the_closing_message() {
    let mut lab = lab(Protocol::V4, std::future::pending()).await;
    lab.client.send(Message::binary(b"\xff\0".to_vec())).await.unwrap();
    lab.client.send(Message::binary(b"\0x".to_vec())).await.unwrap();
    let mut got = [0; 9];
    lab.runtime.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"\0\0\0\x03\0\0\0\x01x");
    drop(lab.client);
    lab.over.await.unwrap();
}

#[tokio::test]
async fn a_lost_runtime_and_a_pod_that_goes_are_told() {
    let mut lost = lab(Protocol::V5, std::future::pending()).await;
    lost.runtime.shutdown().await.unwrap();
    let words = String::from_utf8(lost.said().await.unwrap()).unwrap();
    assert!(words.starts_with('\u{3}') && words.contains("runtime closed the connection"), "{words}");
    let mut gone = lab(Protocol::V5, async { "the pod is gone".to_owned() }).await;
    let words = String::from_utf8(gone.said().await.unwrap()).unwrap();
    assert!(words.contains("the pod is gone") && words.contains("Failure"), "{words}");
    assert_eq!(gone.said().await, None);
    gone.over.await.unwrap();
}

#[test]
fn the_best_protocol_that_both_know() {
    let offered = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    assert_eq!(Protocol::choose(&offered(&["v4.channel.k8s.io", "v5.channel.k8s.io"])), Some(Protocol::V5));
    assert_eq!(Protocol::choose(&offered(&["v4.channel.k8s.io"])), Some(Protocol::V4));
    assert_eq!(Protocol::choose(&offered(&["base64.channel.k8s.io"])), None);
}
