//! A visitor who keeps to no rules: bytes over TCP, and WebSocket frames made by hand.

use std::future::Future;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{PATIENCE, TestGateway};

/// First bytes of a frame: FIN and the opcode.
pub const FIN: u8 = 0x80;
pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

/// A frame as a client sends it, masked.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];
    const MASKED: u8 = 0x80;
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(MASKED | u8::try_from(short).expect("below 126")),
        middle @ 126..=0xffff => {
            frame.push(MASKED | 0x7e);
            let length = u16::try_from(middle).expect("below 65,536");
            frame.extend(length.to_be_bytes());
        }
        long => {
            frame.push(MASKED | 0x7f);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
    frame
}

/// A TCP connection to the gateway.
pub struct Raw {
    pub stream: TcpStream,
    /// Received and not looked at yet.
    buffer: Vec<u8>,
}

impl Raw {
    pub async fn connect(gateway: &TestGateway) -> Self {
        let stream = TcpStream::connect(gateway.address)
            .await
            .expect("it listens");
        stream.set_nodelay(true).expect("TCP");
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// A WebSocket with these headers besides the necessary ones.
    pub async fn upgrade(gateway: &TestGateway, path: &str, headers: &str) -> Self {
        let mut raw = Self::connect(gateway).await;
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             {headers}\r\n",
            gateway.address
        );
        raw.send(head.as_bytes()).await;
        let answer = raw.head().await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        raw
    }

    /// A visitor with a session of its own, at its prompt.
    pub async fn visit(gateway: &TestGateway) -> Self {
        let protocol = "sec-websocket-protocol: belljar.v1\r\n";
        let mut raw = Self::upgrade(gateway, "/ws?cols=80&rows=24", protocol).await;
        raw.until("$ ").await;
        raw
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .expect("it reads in time")
            .expect("it reads");
    }

    /// Receive more; false at the end.
    async fn receive(&mut self) -> bool {
        let received = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer))
            .await
            .expect("something comes in time");
        matches!(received, Ok(1..))
    }

    /// The head of an answer.
    pub async fn head(&mut self) -> String {
        loop {
            let end = self.buffer.windows(4).position(|w| w == b"\r\n\r\n");
            if let Some(end) = end {
                let rest = self.buffer.split_off(end + 4);
                let head = std::mem::replace(&mut self.buffer, rest);
                return String::from_utf8(head).expect("text");
            }
            assert!(
                self.receive().await,
                "closed within a head: {:?}",
                String::from_utf8_lossy(&self.buffer)
            );
        }
    }

    /// Everything until the gateway closes.
    pub async fn rest(&mut self) -> String {
        while self.receive().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }

    /// The connection ends, and not with a reset, which would have destroyed what was not read yet.
    pub async fn assert_not_reset(&mut self) {
        let end = timeout(PATIENCE, self.stream.read_to_end(&mut self.buffer)).await;
        let end = end.expect("it ends in time");
        assert!(end.is_ok(), "{end:?}");
    }

    /// The next frame: opcode and payload; `None` if there is none to come.
    pub async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((opcode, header, length)) = parse(&self.buffer)
                && self.buffer.len() >= header + length
            {
                let rest = self.buffer.split_off(header + length);
                let mut whole = std::mem::replace(&mut self.buffer, rest);
                return Some((opcode, whole.split_off(header)));
            }
            if !self.receive().await {
                return None;
            }
        }
    }

    /// Wait for text in the output.
    pub async fn until(&mut self, text: &str) {
        let mut output = Vec::new();
        while !output.windows(text.len()).any(|w| w == text.as_bytes()) {
            match self.next().await {
                Some((BINARY, bytes)) => output.extend(bytes),
                Some((TEXT | PING | PONG, _)) => {}
                other => panic!("{other:?} instead of {text:?}"),
            }
        }
    }

    /// The end of the connection: the last control message and the close code (1006 without a
    /// close frame).
    pub async fn farewell(&mut self) -> (Value, u16) {
        let mut last = Value::Null;
        loop {
            match self.next().await {
                Some((TEXT, json)) => last = serde_json::from_slice(&json).expect("JSON"),
                Some((CLOSE, payload)) => {
                    let code = payload.first_chunk().copied().map(u16::from_be_bytes);
                    return (last, code.unwrap_or(1005));
                }
                Some(_) => {}
                None => return (last, 1006),
            }
        }
    }
}

/// Opcode, length of the header and of the payload of the frame at the beginning.
fn parse(buffer: &[u8]) -> Option<(u8, usize, usize)> {
    let opcode = buffer.first()? & 0x0f;
    let (header, length) = match buffer.get(1)? {
        126 => {
            let length = buffer.get(2..)?.first_chunk()?;
            (4, usize::from(u16::from_be_bytes(*length)))
        }
        127 => {
            let length = u64::from_be_bytes(*buffer.get(2..)?.first_chunk()?);
            (10, usize::try_from(length).expect("it fits into memory"))
        }
        short => (2, usize::from(*short)),
    };
    Some((opcode, header, length))
}

/// Run a test in a process of its own, where nothing else uses memory: `test` is its full name.
pub async fn alone(test: &str, body: impl Future<Output = ()>) {
    const MARK: &str = "BELLJAR_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return body.await;
    }
    let binary = std::env::current_exe().expect("it runs");
    let child = tokio::process::Command::new(binary)
        .args([test, "--exact", "--nocapture"])
        .env(MARK, "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(2 * PATIENCE, child).await.expect("it ends in time");
    let output = output.expect("it can be started");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && out.contains("1 passed"),
        "{out}{err}"
    );
}

/// Resident memory of this process, bytes.
pub fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<usize>().ok())
        .expect("a number")
        * 1024
}

/// Poll until a condition holds: for what the gateway offers no event for.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let polled = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let polled = timeout(PATIENCE, polled).await;
    assert!(polled.is_ok(), "{what}: not in time");
}
