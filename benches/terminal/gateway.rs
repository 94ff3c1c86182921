//! Our side: the gateway as a process of its own, and a WebSocket client on loopback.

use std::net::SocketAddr;
use std::time::Instant;

use futures::{SinkExt, StreamExt};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::engine::SHELL;
use crate::{DEADLINE, Terminal};

/// A gateway process.
pub(crate) struct Gateway {
    address: SocketAddr,
    process: Child,
}

impl Gateway {
    pub(crate) async fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let process = Command::new(env!("CARGO_BIN_EXE_belljar"))
            .arg("serve")
            .env("BELLJAR_LISTEN", address.to_string())
            .env("BELLJAR_DOCKER__NAMESPACE", "bench")
            .env(
                "BELLJAR_RUN_DIR",
                std::env::temp_dir().join("belljar-bench"),
            )
            .env("BELLJAR_LOG__FILTER", "warn")
            .env("BELLJAR_LIMITS__SESSIONS_PER_HOUR", "100000")
            .env("BELLJAR_LIMITS__CONCURRENT_SESSIONS", "1000")
            .env("BELLJAR_LIMITS__COMMANDS_PER_MINUTE", "60000")
            // As much as the raw side gets.
            .env("BELLJAR_TEMPLATES__BASE__CPUS", "2")
            .env("BELLJAR_TEMPLATES__BASE__COMMAND", format!("{SHELL:?}"))
            .env("BELLJAR_TEMPLATES__BASE__ENV__PS1", "$ ")
            .kill_on_drop(true)
            .spawn()
            .expect("the gateway starts");
        let gateway = Self { address, process };
        let begun = Instant::now();
        while !gateway.is_healthy().await {
            assert!(begun.elapsed() < DEADLINE, "the gateway is not healthy");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        gateway
    }

    /// Let it go away in order, so that no sandbox is left.
    pub(crate) async fn stop(mut self) {
        let pid = self
            .process
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()));
        let pid = pid.expect("it runs");
        kill_process(pid, Signal::TERM).expect("it is ours");
        let ended = tokio::time::timeout(DEADLINE, self.process.wait()).await;
        ended.expect("in time").expect("it ends");
    }

    async fn is_healthy(&self) -> bool {
        let ask = async {
            let mut stream = TcpStream::connect(self.address).await?;
            let request = "GET /health HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer.starts_with("HTTP/1.1 200"))
        };
        ask.await.unwrap_or(false)
    }

    /// A new session; resolves at the prompt.
    pub(crate) async fn open(&self) -> Session {
        let url = format!("ws://{}/ws?cols=80&rows=24", self.address);
        let mut request = url.into_client_request().expect("a URL");
        let protocol = HeaderValue::from_static("belljar.v1");
        request
            .headers_mut()
            .insert("sec-websocket-protocol", protocol);
        let stream = TcpStream::connect(self.address).await.expect("it listens");
        stream.set_nodelay(true).expect("TCP");
        let connected = tokio_tungstenite::client_async(request, stream).await;
        let mut session = Session {
            socket: connected.expect("it upgrades").0,
            offset: 0,
            acked: 0,
        };
        session.until(b"$ ").await;
        session
    }
}

/// A visitor's end.
pub(crate) struct Session {
    socket: WebSocketStream<TcpStream>,
    offset: u64,
    acked: u64,
}

impl Session {
    async fn tell(&mut self, message: Value) {
        let message = Message::Text(message.to_string().into());
        self.socket.send(message).await.expect("it reads");
    }

    /// To the agent and back, without a PTY.
    pub(crate) async fn ping(&mut self) {
        self.tell(json!({"type": "ping", "id": 1})).await;
        while let Some(Ok(message)) = self.socket.next().await {
            if message.is_text() {
                return;
            }
        }
        panic!("no pong");
    }

    pub(crate) async fn close(mut self) {
        self.tell(json!({"type": "close"})).await;
        while let Some(Ok(_)) = self.socket.next().await {}
    }
}

impl Terminal for Session {
    async fn send(&mut self, bytes: &[u8]) {
        let message = Message::Binary(bytes.to_vec().into());
        self.socket.send(message).await.expect("it reads");
    }

    async fn receive(&mut self, into: Option<&mut Vec<u8>>) -> usize {
        loop {
            let message = self.socket.next().await.expect("it goes on");
            if let Message::Binary(bytes) = message.expect("it writes") {
                self.offset += bytes.len() as u64;
                // As our page does: not for each frame.
                if self.offset - self.acked >= 16 * 1024 {
                    self.acked = self.offset;
                    self.tell(json!({"type": "ack", "offset": self.offset}))
                        .await;
                }
                if let Some(into) = into {
                    into.extend_from_slice(&bytes);
                }
                return bytes.len();
            }
        }
    }
}
