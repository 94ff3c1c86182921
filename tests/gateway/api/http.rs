//! An HTTP client that does as it is told: bodies of bytes, bodies that break off, answers unread.

use std::fmt::Write as _;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::PATIENCE;

/// An answer, whole.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Status and stable code, for answers that are refusals.
    pub fn refusal(&self) -> (u16, String) {
        let code = self.json()["error"].as_str().unwrap_or_default().to_owned();
        (self.status, code)
    }
}

/// A connection on which a request's head has been sent.
pub async fn begin(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "host") {
        let _ = write!(head, "host: {address}\r\n");
    }
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head += "\r\n";
    stream.write_all(head.as_bytes()).await.expect("it reads");
    stream
}

/// The answer's head, and nothing after it.
pub async fn head(stream: &mut TcpStream) -> (u16, String) {
    let mut head = Vec::new();
    let reading = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("it answers"));
        }
    };
    timeout(PATIENCE, reading)
        .await
        .expect("it answers in time");
    let head = String::from_utf8(head).expect("text");
    let status = head.split(' ').nth(1).expect("a status");
    (status.parse().expect("a number"), head)
}

/// The whole answer, up to the end of the connection.
pub async fn answer(mut stream: TcpStream) -> Answer {
    let (status, head) = head(&mut stream).await;
    let mut body = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut body)).await;
    read.expect("it ends in time").expect("it ends");
    Answer { status, head, body }
}

/// A request with a body of bytes.
pub async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let length = body.len().to_string();
    let mut headers = headers.to_vec();
    headers.push(("content-length", &length));
    let mut stream = begin(address, method, path, &headers).await;
    // Who refuses a body need not read it.
    let _ = stream.write_all(body).await;
    answer(stream).await
}

/// `POST` of a JSON text.
pub async fn post(address: SocketAddr, path: &str, json: &serde_json::Value) -> Answer {
    let headers = [("content-type", "application/json")];
    send(address, "POST", path, &headers, json.to_string().as_bytes()).await
}

/// `GET`.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, "GET", path, &[], b"").await
}
