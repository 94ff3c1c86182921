//! Our side: the gateway as a process of its own, and a WebSocket client on loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::{IntoClientRequest, client_with_config};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, WebSocket};

use crate::engine::SHELL;
use crate::{DEADLINE, Terminal};

/// A gateway process.
pub(crate) struct Gateway {
    address: SocketAddr,
    process: Child,
}

impl Gateway {
    pub(crate) fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
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
            .spawn()
            .expect("the gateway starts");
        let gateway = Self { address, process };
        let begun = Instant::now();
        while !gateway.is_healthy() {
            assert!(begun.elapsed() < DEADLINE, "the gateway is not healthy");
            std::thread::sleep(Duration::from_millis(50));
        }
        gateway
    }

    /// Let it go away in order, so that no sandbox is left.
    pub(crate) fn stop(mut self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).expect("it is ours");
        self.process.wait().expect("it ends");
    }

    fn is_healthy(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(self.address)?;
            let request = "GET /health HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            std::io::Result::Ok(answer.starts_with("HTTP/1.1 200"))
        };
        ask().unwrap_or(false)
    }

    /// A new session; resolves at the prompt.
    pub(crate) fn open(&self) -> Session {
        let url = format!("ws://{}/ws?cols=80&rows=24", self.address);
        let mut request = url.into_client_request().expect("a URL");
        let protocol = HeaderValue::from_static("belljar.v1");
        request
            .headers_mut()
            .insert("sec-websocket-protocol", protocol);
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_nodelay(true).expect("TCP");
        let deadline = stream.set_read_timeout(Some(DEADLINE));
        deadline.expect("a duration");
        // Its own 128 KiB would be cleared for each key.
        let config = WebSocketConfig::default().read_buffer_size(4 * 1024);
        let connected = client_with_config(request, stream, Some(config));
        let mut session = Session {
            socket: connected.expect("it upgrades").0,
            offset: 0,
            acked: 0,
        };
        session.until(b"$ ");
        session
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // After a failure; otherwise it has ended.
        let _ = self.process.kill();
    }
}

/// A visitor's end.
pub(crate) struct Session {
    socket: WebSocket<TcpStream>,
    offset: u64,
    acked: u64,
}

impl Session {
    fn tell(&mut self, message: &Value) {
        let message = Message::Text(message.to_string().into());
        self.socket.send(message).expect("it reads");
    }

    /// To the agent and back, without a PTY.
    pub(crate) fn ping(&mut self) {
        self.tell(&json!({"type": "ping", "id": 1}));
        while let Ok(message) = self.socket.read() {
            if message.is_text() {
                return;
            }
        }
        panic!("no pong");
    }

    pub(crate) fn close(mut self) {
        self.tell(&json!({"type": "close"}));
        while self.socket.read().is_ok() {}
    }
}

impl Terminal for Session {
    fn send(&mut self, bytes: &[u8]) {
        let message = Message::Binary(bytes.to_vec().into());
        self.socket.send(message).expect("it reads");
    }

    fn receive(&mut self, into: Option<&mut Vec<u8>>) -> usize {
        loop {
            let message = self.socket.read().expect("it goes on");
            if let Message::Binary(bytes) = message {
                self.offset += bytes.len() as u64;
                // As our page does: not for each frame.
                if self.offset - self.acked >= 16 * 1024 {
                    self.acked = self.offset;
                    self.tell(&json!({"type": "ack", "offset": self.offset}));
                }
                if let Some(into) = into {
                    into.extend_from_slice(&bytes);
                }
                return bytes.len();
            }
        }
    }
}
