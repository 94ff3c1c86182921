//! Servers in a sandbox that has no network.

use serde_json::json;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

use super::{Sealed, config, place};
use crate::inside::{connect, next, say, until};

/// A WebSocket echo of short text messages, with nothing but the standard library.
const ECHO: &str = r#"
import base64, hashlib, socket
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
server = socket.create_server(("127.0.0.1", 9001))
while True:
    stream = server.accept()[0].makefile("rwb")
    key = b""
    while (line := stream.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"sec-websocket-key":
            key = value.strip()
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    stream.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    stream.flush()
    while (head := stream.read(2)) and head[0] & 15 == 1:
        mask, length = stream.read(4), head[1] & 127
        text = bytes(b ^ mask[i % 4] for i, b in enumerate(stream.read(length)))
        stream.write(bytes([0x81, length]) + text)
        stream.flush()
    stream.close()
"#;

#[tokio::test]
async fn servers_answer_and_nothing_else_is_reached() {
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(config()).await;
    let made = async || {
        let (status, made) = gateway.json("POST", "/sandboxes", &[], json!({})).await;
        assert_eq!(status, 201, "{made}");
        format!("/sandboxes/{}", made["id"].as_str().expect("an id"))
    };
    let (below, other) = (made().await, made().await);
    for command in [
        json!([
            "python3",
            "-m",
            "http.server",
            "--bind",
            "127.0.0.1",
            "8000"
        ]),
        json!(["python3", "-c", ECHO]),
    ] {
        let start = json!({"command": command, "mode": "background"});
        let (status, started) = gateway
            .json("POST", &format!("{below}/commands"), &[], start)
            .await;
        assert_eq!(status, 202, "{started}");
    }
    let (status, _) = gateway
        .http(
            "PUT",
            &format!("{below}/files?path=page.txt"),
            &[],
            "served",
        )
        .await;
    assert!((200..300).contains(&status), "{status}");
    let page = format!("{below}/ports/8000/page.txt");
    until("the server listens", async || {
        gateway.http("GET", &page, &[], "").await.0 != 502
    })
    .await;
    let (status, body) = gateway.http("GET", &page, &[], "").await;
    assert_eq!((status, body.as_str()), (200, "served"));
    let path = format!("{below}/ports/8000/nothing");
    assert_eq!(gateway.http("GET", &path, &[], "").await.0, 404);

    let echo = format!("{below}/ports/9001/");
    until("the echo listens", async || {
        gateway.connect_with(&echo, &[]).await.is_ok()
    })
    .await;
    let mut client = connect(&gateway, &echo).await;
    for text in ["hello", "again"] {
        say(&mut client, Message::text(text)).await;
        assert_eq!(next(&mut client).await, Some(Message::text(text)));
    }
    drop(client);

    // The neighbour's loopback is its own, and so is the host's.
    let host = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = host.local_addr().expect("bound").port();
    for path in [
        format!("{other}/ports/8000/page.txt"),
        format!("{other}/ports/{port}/"),
        format!("{other}/ports/{}/", gateway.address.port()),
    ] {
        let (status, body) = gateway.http("GET", &path, &[], "").await;
        assert_eq!(
            (status, body.contains("connection_refused")),
            (502, true),
            "{path}: {body}"
        );
    }
    gateway.stop().await;
}
