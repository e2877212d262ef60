//! `kubectl port-forward` over a WebSocket: its messages carry SPDY's bytes, which are the runtime's to understand.
//!
//! kubectl speaks SPDY/3.1 inside binary messages (subprotocol `SPDY/3.1+portforward.k8s.io`), so that proxies which know
//! WebSockets let it through. See <https://github.com/kubernetes/enhancements/issues/4006>.

use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

/// The subprotocol.
pub(super) const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// What the runtime is asked to speak inside.
pub(super) const INNER_PROTOCOL: &str = "portforward.k8s.io";
const PIECE_LEN: usize = 32 * 1024;

/// Carries bytes until either side ends, or `end` resolves.
pub(super) async fn run<C, S>(socket: WebSocketStream<C>, runtime: S, end: impl Future<Output = String>)
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite,
{
    let (mut read, mut write) = tokio::io::split(runtime);
    let (mut sink, mut source) = socket.split();
    let to_client = async {
        let mut buffer = BytesMut::with_capacity(PIECE_LEN);
        while read.read_buf(&mut buffer).await.is_ok_and(|n| n > 0) {
            if sink.send(Message::Binary(buffer.split().freeze())).await.is_err() {
                return;
            }
            buffer.reserve(PIECE_LEN);
        }
        let _client_is_gone = sink.send(Message::Close(None)).await;
    };
    let from_client = async {
        while let Some(Ok(message)) = source.next().await {
            let sent = match message {
                Message::Binary(data) => write.write_all(&data).await,
                Message::Close(_) => return,
                _ => continue,
            };
            if sent.is_err() || write.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = to_client => {}
        () = from_client => {}
        _why = end => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[tokio::test]
    async fn bytes_go_both_ways_until_the_runtime_ends() {
        // With room for all that is said before anybody reads.
        let (client, server) = tokio::io::duplex(4096);
        let (runtime, mut other) = tokio::io::duplex(4096);
        let socket = super::super::channels::web_socket(server).await;
        let carried = tokio::spawn(run(socket, runtime, std::future::pending()));
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        client.send(Message::binary(vec![1, 2, 3])).await.unwrap();
        let mut got = [0; 3];
        other.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [1, 2, 3]);
        other.write_all(&[4; 1000]).await.unwrap();
        drop(other);
        let mut said = Vec::new();
        while let Some(Ok(Message::Binary(data))) = client.next().await {
            said.extend_from_slice(&data);
        }
        assert_eq!(said, vec![4; 1000]);
        carried.await.unwrap();
    }
}
