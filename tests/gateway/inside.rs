//! What programs do inside their sandboxes by WebSocket, and by servers that run there. The agents are
//! plain processes here, so a server of the test is one of the sandbox's.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Client, PATIENCE, TestGateway};

mod commands;

mod kubebox;

mod liteboxd;

mod ports;

mod pty;

mod watch;

/// A sandbox of the default template; returns the path of what is below it.
pub async fn sandbox(gateway: &TestGateway) -> String {
    let (status, made) = gateway
        // Its home is only there where there is an image.
        .json("POST", "/api/v1/sandboxes", &[], json!({"cwd": "/tmp"}))
        .await;
    assert_eq!(status, 201, "{made}");
    let id = made["id"].as_str().expect("an id");
    format!("/api/v1/sandboxes/{id}")
}

/// Connect without a subprotocol, as these clients do.
pub async fn connect(gateway: &TestGateway, path: &str) -> Client {
    let connected = gateway.connect_with(path, &[]).await;
    connected.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The next message that is no ping.
pub async fn next(client: &mut Client) -> Option<Message> {
    let heard = async {
        loop {
            match client.socket.next().await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return Some(message),
                Some(Err(_)) | None => return None,
            }
        }
    };
    timeout(PATIENCE, heard).await.expect("it comes in time")
}

/// The next message, which is JSON; or the code it was closed with.
pub async fn told(client: &mut Client) -> Result<Value, u16> {
    match next(client).await {
        Some(Message::Text(text)) => Ok(serde_json::from_str(&text).expect("JSON")),
        Some(Message::Close(frame)) => Err(frame.map_or(1005, |frame| frame.code.into())),
        Some(other) => panic!("{other:?}"),
        None => Err(1006),
    }
}

pub async fn say(client: &mut Client, message: Message) {
    let sent = timeout(PATIENCE, client.socket.send(message)).await;
    sent.expect("it reads in time").expect("it is connected");
}

/// Look again until it is so.
pub async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let so = timeout(PATIENCE, looking).await;
    so.unwrap_or_else(|_| panic!("never: {what}"));
}
