//! A gateway as a process of its own, and HTTP by hand: to it, and to the engine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// What takes longer than this is a failure, not a slow result.
const DEADLINE: Duration = Duration::from_secs(60);

/// Sandboxes of this gateway bear this name on the engine.
const NAMESPACE: &str = "bench-api";

trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// A server.
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(String),
}

impl Address {
    /// The engine's.
    pub(crate) fn engine() -> Self {
        let host = std::env::var("DOCKER_HOST").unwrap_or_default();
        let path = host
            .strip_prefix("unix://")
            .unwrap_or("/var/run/docker.sock");
        Self::Unix(path.to_owned())
    }

    fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                Box::new(stream)
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                Box::new(stream)
            }
        })
    }

    fn try_send(&self, method: &str, path: &str, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
        let mut stream = self.connect()?;
        let host = match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(_) => "engine".into(),
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let body = answer.split_off(end + 4);
        Ok((status.ok_or(std::io::ErrorKind::InvalidData)?, body))
    }

    /// A request on a connection of its own; the answer's status and body.
    pub(crate) fn send(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        self.try_send(method, path, body).expect("it answers")
    }

    /// The same for JSON; null where there is none. A chunked answer is read from its first brace to its
    /// last.
    pub(crate) fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (status, answer) = self.send(method, path, body.as_bytes());
        let text = String::from_utf8_lossy(&answer);
        let from = text.find(['{', '[']);
        let json = from.and_then(|from| {
            let to = text.rfind(['}', ']'])?;
            serde_json::from_str(text.get(from..=to)?).ok()
        });
        (status, json.unwrap_or_default())
    }
}

/// A sandbox's container, as the engine calls it.
pub(crate) fn container(sandbox: &str) -> String {
    let filter = json!({"label": [format!("belljar.session={sandbox}")]}).to_string();
    let filter: String = filter.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let path = format!("/containers/json?filters={filter}");
    let (_, listed) = Address::engine().json("GET", &path, &Value::Null);
    listed[0]["Id"].as_str().expect("it is there").to_owned()
}

/// A gateway process.
pub(crate) struct Gateway {
    pub(crate) address: Address,
    process: Child,
}

impl Gateway {
    /// With sandboxes in gVisor, and room in them for a large file.
    pub(crate) fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let process = Command::new(env!("CARGO_BIN_EXE_belljar"))
            .arg("serve")
            // What configures the tests is no setting.
            .env_remove("BELLJAR_TEST_DOCKER")
            .env("BELLJAR_LISTEN", address.to_string())
            .env(
                "BELLJAR_RUN_DIR",
                std::env::temp_dir().join("belljar-bench-api"),
            )
            .env("BELLJAR_DOCKER__NAMESPACE", NAMESPACE)
            .env("BELLJAR_LOG__FILTER", "error")
            .env("BELLJAR_API__KEYS_FILE", "/nowhere/belljar/keys.toml")
            .env("BELLJAR_TEMPLATES__BASE__HOME_SIZE", "200MiB")
            .env("BELLJAR_TEMPLATES__BASE__POOL", "0")
            .spawn()
            .expect("the gateway starts");
        let address = Address::Tcp(address);
        let begun = Instant::now();
        while !matches!(address.try_send("GET", "/health", b""), Ok((200, _))) {
            assert!(
                begun.elapsed() < DEADLINE,
                "the gateway is not healthy in time"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { address, process }
    }

    /// A sandbox of this order; its id.
    pub(crate) fn sandbox(&self, order: &Value) -> String {
        let (status, made) = self.address.json("POST", "/api/v1/sandboxes", order);
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().expect("an id").to_owned()
    }

    pub(crate) fn end(&self, sandbox: &str) {
        let path = format!("/api/v1/sandboxes/{sandbox}");
        let (status, _) = self.address.send("DELETE", &path, b"");
        assert_eq!(status, 204);
    }

    /// Let it go away in order, so that no sandbox is left.
    pub(crate) fn stop(mut self) {
        kill_process(Pid::from_child(&self.process), Signal::INT).expect("it is ours");
        self.process.wait().expect("it ends");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // After a failure; otherwise it has ended.
        let _ = self.process.kill();
    }
}
