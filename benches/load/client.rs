//! A visitor.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::DEADLINE;

/// A `belljar.v1` client.
pub(crate) struct Client {
    socket: WebSocketStream<TcpStream>,
    /// Offset of the next byte of output.
    offset: u64,
    acked: u64,
}

impl Client {
    /// A new session; resolves when it is ready.
    pub(crate) async fn open(gateway: SocketAddr) -> Self {
        let url = format!("ws://{gateway}/ws?cols=80&rows=24");
        let mut request = url.into_client_request().expect("a URL");
        let protocol = HeaderValue::from_static("belljar.v1");
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", protocol);
        let stream = TcpStream::connect(gateway).await.expect("it listens");
        stream.set_nodelay(true).expect("TCP");
        // Its own 128 KiB, for thousands of clients, would be in the way.
        let config = WebSocketConfig::default().read_buffer_size(4 * 1024);
        let connected = client_async_with_config(request, stream, Some(config)).await;
        let mut client = Self {
            socket: connected.expect("it upgrades").0,
            offset: 0,
            acked: 0,
        };
        let first = client.soon().await;
        assert!(
            matches!(&first, Message::Text(text) if text.contains("\"ready\"")),
            "not ready: {first:?}"
        );
        client
    }

    /// The next message; `None` at the end. Output is acknowledged as a page does it: not each frame.
    async fn next(&mut self) -> Option<Message> {
        let message = self.socket.next().await?.expect("the connection holds");
        if let Message::Binary(bytes) = &message {
            self.offset += bytes.len() as u64;
            if self.offset - self.acked >= 16 * 1024 {
                self.acked = self.offset;
                let ack = json!({"type": "ack", "offset": self.offset});
                self.send(Message::Text(ack.to_string().into())).await;
            }
        }
        Some(message)
    }

    async fn soon(&mut self) -> Message {
        let message = timeout(DEADLINE, self.next()).await;
        message.expect("in time").expect("the session goes on")
    }

    async fn output(&mut self) -> Bytes {
        loop {
            if let Message::Binary(bytes) = self.soon().await {
                return bytes;
            }
        }
    }

    /// Read until the end, and count.
    pub(crate) async fn read(&mut self, bytes: &AtomicU64) {
        while let Some(message) = self.next().await {
            if let Message::Binary(output) = message {
                bytes.fetch_add(output.len() as u64, Ordering::Relaxed);
            }
        }
    }

    /// Read until this text.
    pub(crate) async fn until(&mut self, text: &[u8]) {
        let mut seen = Vec::new();
        while !seen.windows(text.len()).any(|window| window == text) {
            seen.extend(self.output().await);
        }
    }

    pub(crate) async fn type_in(&mut self, bytes: &[u8]) {
        self.send(Message::Binary(bytes.to_vec().into())).await;
    }

    /// How long a keystroke's echo takes.
    pub(crate) async fn echo(&mut self) -> Duration {
        let begun = Instant::now();
        self.type_in(b"x").await;
        self.output().await;
        begun.elapsed()
    }

    /// End the session.
    pub(crate) async fn close(mut self) {
        self.send(Message::Text(r#"{"type":"close"}"#.into())).await;
        let end = async { while let Some(Ok(_)) = self.socket.next().await {} };
        timeout(DEADLINE, end).await.expect("it closes");
    }

    async fn send(&mut self, message: Message) {
        let sent = timeout(DEADLINE, self.socket.send(message)).await;
        sent.expect("in time").expect("it reads");
    }
}
