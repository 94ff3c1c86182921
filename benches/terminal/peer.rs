//! The peer: ttyd, which puts a command on a web page without a sandbox.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tokio_tungstenite::tungstenite::{Message, WebSocket};

use crate::Terminal;
use crate::cpu::Cost;
use crate::engine::SHELL;
use crate::gateway::{connect, free_address, wait_until};
use crate::report::ttyd;

/// A ttyd process.
pub(crate) struct Peer {
    address: std::net::SocketAddr,
    process: Child,
}

impl Peer {
    /// `None` if it has not been built.
    pub(crate) fn start() -> Option<Self> {
        let address = free_address();
        let process = Command::new(ttyd())
            .args(["--interface", "127.0.0.1", "--writable", "--port"])
            .arg(address.port().to_string())
            .args(SHELL)
            .env("PS1", "$ ")
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        wait_until("ttyd listens", || TcpStream::connect(address).is_ok());
        Some(Self { address, process })
    }

    pub(crate) fn cost(&self) -> Cost {
        Cost {
            trees: vec![self.process.id()],
            ..Cost::default()
        }
    }

    /// A new shell; resolves at the prompt.
    pub(crate) fn open(&self, read: usize) -> Tab {
        let mut socket = connect(&format!("ws://{}/ws", self.address), "tty", read);
        let hello = json!({"AuthToken": "", "columns": 80, "rows": 24});
        let hello = Message::Binary(hello.to_string().into());
        socket.send(hello).expect("it reads");
        let mut tab = Tab { socket };
        tab.until(b"$ ");
        tab
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A page of it.
pub(crate) struct Tab {
    socket: WebSocket<TcpStream>,
}

/// The first byte of a message says what it is: this one is input, and output.
const DATA: u8 = b'0';

impl Terminal for Tab {
    fn send(&mut self, bytes: &[u8]) {
        let message = [&[DATA], bytes].concat();
        let message = Message::Binary(message.into());
        self.socket.send(message).expect("it reads");
    }

    fn receive(&mut self, into: Option<&mut Vec<u8>>) -> usize {
        loop {
            let message = self.socket.read().expect("it goes on");
            if let Message::Binary(bytes) = message
                && bytes.first() == Some(&DATA)
            {
                if let Some(into) = into {
                    into.extend_from_slice(&bytes[1..]);
                }
                return bytes.len() - 1;
            }
        }
    }
}
