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

use crate::cpu::Cost;
use crate::engine::{Engine, SHELL};
use crate::{DEADLINE, Terminal};

/// Sandboxes of this gateway bear this name on the engine.
const NAMESPACE: &str = "bench";

/// A gateway process.
pub(crate) struct Gateway {
    address: SocketAddr,
    process: Child,
}

impl Gateway {
    /// With sandboxes in gVisor, and so many of them started ahead.
    pub(crate) fn docker(pool: usize) -> Self {
        let mut settings = vec![
            ("DOCKER__NAMESPACE", NAMESPACE.to_owned()),
            // As much as the raw side gets.
            ("TEMPLATES__BASE__CPUS", "2".into()),
        ];
        if pool > 0 {
            settings.push(("TEMPLATES__BASE__POOL", pool.to_string()));
        }
        let gateway = Self::start(&settings);
        // Not by `/health`, which counts those that are being started too.
        gateway.full(pool);
        gateway
    }

    /// Wait until so many sandboxes are at their prompt, and no other is there.
    pub(crate) fn full(&self, pool: usize) {
        let ready = format!("belljar_pool_ready {pool}");
        wait_until("the pool is full", || {
            let metrics = self.get("/metrics").unwrap_or_default();
            metrics.lines().any(|line| line == ready) && self.sandboxes() == Some(pool)
        });
    }

    /// With plain processes.
    pub(crate) fn process() -> Self {
        let agent = std::env::var("BELLJAR_AGENT").unwrap_or_else(|_| {
            concat!(env!("CARGO_MANIFEST_DIR"), "/target/belljar-agent").to_owned()
        });
        Self::start(&[("LAUNCHER", "process".into()), ("AGENT", agent)])
    }

    fn start(settings: &[(&str, String)]) -> Self {
        let address = free_address();
        let settings = settings
            .iter()
            .map(|(key, value)| (format!("BELLJAR_{key}"), value));
        let process = Command::new(env!("CARGO_BIN_EXE_belljar"))
            .arg("serve")
            .env("BELLJAR_LISTEN", address.to_string())
            .env(
                "BELLJAR_RUN_DIR",
                std::env::temp_dir().join("belljar-bench"),
            )
            .env("BELLJAR_LOG__FILTER", "error")
            .env("BELLJAR_LIMITS__SESSIONS_PER_HOUR", "100000")
            .env("BELLJAR_LIMITS__CONCURRENT_SESSIONS", "1000")
            .env("BELLJAR_LIMITS__COMMANDS_PER_MINUTE", "60000")
            .env("BELLJAR_TEMPLATES__BASE__COMMAND", format!("{SHELL:?}"))
            .env("BELLJAR_TEMPLATES__BASE__ENV__PS1", "$ ")
            .envs(settings)
            .spawn()
            .expect("the gateway starts");
        let gateway = Self { address, process };
        wait_until("the gateway is healthy", || gateway.sandboxes().is_some());
        gateway
    }

    /// Whose processor time its sessions take. Ask while they are open.
    pub(crate) fn cost(&self, engine: Option<&Engine>) -> Cost {
        Cost {
            trees: vec![self.process.id()],
            containers: engine.map_or(Vec::new(), |engine| engine.containers(NAMESPACE)),
        }
    }

    /// Let it go away in order, so that no sandbox is left.
    pub(crate) fn stop(mut self) {
        kill_process(Pid::from_child(&self.process), Signal::INT).expect("it is ours");
        self.process.wait().expect("it ends");
    }

    /// A page, head and body; `None` unless it is 200.
    fn get(&self, path: &str) -> Option<String> {
        let ask = || {
            let mut stream = TcpStream::connect(self.address)?;
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            std::io::Result::Ok(answer)
        };
        let answer = ask().ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(answer)
    }

    /// How many it holds; `None` while it is not healthy.
    pub(crate) fn sandboxes(&self) -> Option<usize> {
        let answer = self.get("/health")?;
        let health: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        usize::try_from(health["containers"].as_u64()?).ok()
    }

    /// A new session; resolves at the prompt.
    pub(crate) fn open(&self, read: usize) -> Session {
        let url = format!("ws://{}/ws?cols=80&rows=24", self.address);
        let mut session = Session {
            socket: connect(&url, "belljar.v1", read),
            offset: 0,
            acked: 0,
        };
        session.until(b"$ ");
        session
    }
}

pub(crate) fn free_address() -> SocketAddr {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    free.local_addr().expect("bound")
}

pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A WebSocket with this subprotocol, which asks its socket for so many bytes at once.
pub(crate) fn connect(url: &str, protocol: &'static str, read: usize) -> WebSocket<TcpStream> {
    let mut request = url.into_client_request().expect("a URL");
    let address = request.uri().authority().expect("an address").to_string();
    let headers = request.headers_mut();
    headers.insert("sec-websocket-protocol", HeaderValue::from_static(protocol));
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_nodelay(true).expect("TCP");
    let deadline = stream.set_read_timeout(Some(DEADLINE));
    deadline.expect("a duration");
    let config = WebSocketConfig::default().read_buffer_size(read);
    let connected = client_with_config(request, stream, Some(config));
    connected.expect("it upgrades").0
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
