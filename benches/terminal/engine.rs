//! The raw side: a TTY container and its attach, over the engine's API by hand.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::cpu::Cost;
use crate::{BULK_READ, DEADLINE, Terminal, read};

const SOCKET: &str = "/var/run/docker.sock";

/// The shell both sides run.
pub(crate) const SHELL: [&str; 3] = ["/bin/bash", "--noprofile", "--norc"];

/// The engine.
pub(crate) struct Engine {
    socket: String,
}

impl Engine {
    pub(crate) fn new() -> Self {
        let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| SOCKET.into());
        Self {
            socket: host.trim_start_matches("unix://").to_owned(),
        }
    }

    fn request(&self, method: &str, path: &str, headers: &str, body: &Value) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).expect("the engine");
        let deadline = stream.set_read_timeout(Some(DEADLINE));
        deadline.expect("a duration");
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let head = format!(
            "{method} /v1.41{path} HTTP/1.1\r\nHost: engine\r\n{headers}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("it reads");
        stream
    }

    /// The status, for calls whose body says nothing.
    fn call(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let mut stream = self.request(method, path, "Connection: close\r\n", body);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status.expect("a status"), body.to_owned())
    }

    /// Ids of a gateway's sandboxes.
    pub(crate) fn containers(&self, namespace: &str) -> Vec<String> {
        let filter = format!("%7B%22label%22%3A%5B%22belljar.namespace%3D{namespace}%22%5D%7D");
        let path = format!("/containers/json?filters={filter}");
        let (status, body) = self.call("GET", &path, &Value::Null);
        assert_eq!(status, 200, "{body}");
        let ids = body.split("\"Id\":\"").skip(1);
        ids.map(|rest| rest.chars().take(64).collect()).collect()
    }

    /// A container that has not started; its id.
    pub(crate) fn create(&self) -> String {
        let create = json!({
            "Image": "belljar-sandbox:latest",
            "Entrypoint": SHELL,
            "Cmd": [],
            "User": "1000:1000",
            "Env": ["TERM=xterm-256color", "PS1=$ "],
            "Tty": true, "OpenStdin": true, "StdinOnce": true,
            "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
            "HostConfig": {
                // Should the bench be ended, its container ends with the attach.
                "AutoRemove": true,
                "Runtime": "runsc", "NetworkMode": "none", "ReadonlyRootfs": true,
                "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"],
                "Memory": 128 << 20, "MemorySwap": 128 << 20, "NanoCpus": 2_000_000_000_i64,
                "PidsLimit": 512, "LogConfig": {"Type": "none"},
                "Tmpfs": {"/home/sandbox": "size=50m,uid=1000,gid=1000", "/tmp": "size=10m"},
            },
        });
        let (status, body) = self.call("POST", "/containers/create", &create);
        assert_eq!(status, 201, "{body}");
        // The body may be chunked; the id is the only run of 64 digits.
        let id = body.split('"').find(|word| word.len() == 64);
        id.expect("an id").to_owned()
    }

    pub(crate) fn start(&self, id: &str) {
        let (status, body) = self.call("POST", &format!("/containers/{id}/start"), &Value::Null);
        assert_eq!(status, 204, "{body}");
    }

    pub(crate) fn remove(&self, id: &str) {
        self.call("DELETE", &format!("/containers/{id}?force=1"), &Value::Null);
    }

    /// Create, attach, start; resolves at the prompt.
    pub(crate) fn open(&self) -> Attached {
        let id = self.create();
        let path = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1");
        let upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n";
        let mut stream = self.request("POST", &path, upgrade, &Value::Null);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            head.extend(byte);
        }
        self.start(&id);
        let mut attached = Attached {
            id,
            stream,
            buffer: vec![0; BULK_READ],
        };
        attached.until(b"$ ");
        attached
    }
}

/// An attached TTY.
pub(crate) struct Attached {
    id: String,
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Attached {
    pub(crate) fn cost(&self) -> Cost {
        Cost {
            containers: vec![self.id.clone()],
            ..Cost::default()
        }
    }

    pub(crate) fn remove(self, engine: &Engine) {
        engine.remove(&self.id);
    }
}

impl Terminal for Attached {
    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("it reads");
    }

    fn receive(&mut self, into: Option<&mut Vec<u8>>) -> usize {
        read(&mut self.stream, &mut self.buffer, into)
    }
}
