//! What a client may send as a WebSocket, and what not.

use belljar::config::Config;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::harness::{TestGateway, visits};
use crate::raw::{BINARY, CONTINUATION, FIN, PING, Raw, TEXT, frame};

use super::assert_well;

visits! {
    on processes, cluster: {
        a_message_may_be_64_kib_and_no_more,
        a_message_in_many_pieces_is_one_message,
        pieces_without_end_are_too_big,
        a_text_frame_must_be_utf_8,
        a_client_that_closes_is_answered,
    }
}

pub async fn a_message_may_be_64_kib_and_no_more(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    client.input("head -c 65536 | wc -c\r").await;
    client.until("wc -c\r\n").await;
    let mut largest = [b"x".repeat(63), vec![b'\n']].concat().repeat(1024);
    client.input(&largest).await;
    client.until("65536\r\n").await;

    for over in [1, 1024 * 1024] {
        let mut client = gateway.visit().await;
        largest.resize(65536 + over, b'x');
        // The gateway need not read to the end what it has refused.
        let message = Message::Binary(largest.clone().into());
        let (mut sink, mut stream) = (&mut client.socket).split();
        let told = async {
            let mut told = Value::Null;
            loop {
                match stream.next().await {
                    Some(Ok(Message::Text(text))) => {
                        told = serde_json::from_str(&text).expect("JSON");
                    }
                    Some(Ok(Message::Close(Some(frame)))) => return (told, frame.code),
                    Some(Ok(_)) => {}
                    other => panic!("{other:?} before a close frame, told {told}"),
                }
            }
        };
        let (_, (told, code)) = tokio::join!(sink.send(message), told);
        drop((sink, stream));
        assert_eq!(told["code"], "message_too_big");
        assert!(told["message"].as_str().unwrap().contains("65536 bytes"));
        assert_eq!(code, CloseCode::Size);
        // Whoever made that mistake may come back.
        let (session, token, _) = client.cut();
        let mut client = gateway.resume(&session, &token, None).await;
        client.ready().await;
        client.until("$ ").await;
    }
    gateway.stop().await;
}

pub async fn a_message_in_many_pieces_is_one_message(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut raw = Raw::visit(&gateway).await;
    let command = b"echo in $((1+1)) pieces\r";
    let mut frames = frame(BINARY, &command[..1]);
    for byte in &command[1..command.len() - 1] {
        frames.extend(frame(CONTINUATION, &[*byte]));
        // Empty pieces and pings may stand between.
        frames.extend(frame(CONTINUATION, b""));
        frames.extend(frame(FIN | PING, b"?"));
    }
    frames.extend(frame(FIN | CONTINUATION, &command[command.len() - 1..]));
    raw.send(&frames).await;
    raw.until("in 2 pieces\r\n").await;
    gateway.stop().await;
}

pub async fn pieces_without_end_are_too_big(config: Config) {
    let gateway = TestGateway::with(config).await;
    for first in [BINARY, TEXT] {
        let mut raw = Raw::visit(&gateway).await;
        raw.send(&frame(first, &[b'x'; 1024])).await;
        let more = frame(CONTINUATION, &[b'x'; 1024]).repeat(64);
        raw.send(&more).await;
        let (told, code) = raw.farewell().await;
        assert_eq!(
            (told["code"].as_str(), code),
            (Some("message_too_big"), 1009)
        );
    }
    assert_well(&gateway).await;
    gateway.stop().await;
}

pub async fn a_text_frame_must_be_utf_8(config: Config) {
    let gateway = TestGateway::with(config).await;
    let half = "é".as_bytes();
    for frames in [
        frame(FIN | TEXT, b"{\"type\":\"\xff\xfe\"}"),
        frame(FIN | TEXT, &half[..1]),
        [frame(TEXT, &half[..1]), frame(FIN | CONTINUATION, b"x")].concat(),
    ] {
        let mut raw = Raw::visit(&gateway).await;
        raw.send(&frames).await;
        let (told, code) = raw.farewell().await;
        assert_eq!((told["code"].as_str(), code), (Some("invalid_text"), 1007));
    }
    // A character may well lie across the pieces of one message.
    let mut raw = Raw::visit(&gateway).await;
    let whole = [
        frame(TEXT, b"{\"type\":\"ping\",\"id\":7,\"x\":\"\xc3"),
        frame(FIN | CONTINUATION, b"\xa9\"}"),
    ];
    raw.send(&whole.concat()).await;
    loop {
        match raw.next().await {
            Some((TEXT, json)) => {
                assert_eq!(json, br#"{"type":"pong","id":7}"#);
                break;
            }
            Some(_) => {}
            None => panic!("closed"),
        }
    }
    gateway.stop().await;
}

#[tokio::test]
async fn who_breaks_the_websocket_protocol_is_closed_with_1002() {
    let gateway = TestGateway::process().await;
    let broken = |name, frames| (name, frames);
    for (name, frames) in [
        broken("unmasked", vec![FIN | BINARY, 2, b'l', b's']),
        broken("reserved bit 1", frame(FIN | 0x40 | BINARY, b"ls")),
        broken("reserved bit 2", frame(FIN | 0x20 | TEXT, b"{}")),
        broken("reserved bit 3", frame(FIN | 0x10 | BINARY, b"ls")),
        broken("reserved data opcode", frame(FIN | 0x3, b"ls")),
        broken("reserved control opcode", frame(FIN | 0xb, b"")),
        broken("end without beginning", frame(FIN | CONTINUATION, b"ls")),
        broken(
            "beginning within another",
            [frame(BINARY, b"l"), frame(FIN | BINARY, b"s")].concat(),
        ),
        broken("ping in pieces", frame(PING, b"")),
        broken("long ping", frame(FIN | PING, &[0; 126])),
    ] {
        let mut raw = Raw::visit(&gateway).await;
        raw.send(&frames).await;
        let (told, code) = raw.farewell().await;
        assert_eq!(
            (told["code"].as_str(), code),
            (Some("protocol_error"), 1002),
            "{name}"
        );
    }
    assert_well(&gateway).await;
    gateway.stop().await;
}

pub async fn a_client_that_closes_is_answered(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    let frame = CloseFrame {
        code: CloseCode::Away,
        reason: "".into(),
    };
    client.socket.close(Some(frame)).await.expect("it reads");
    assert_eq!(client.closed().await, 1001, "the handshake's other half");
    gateway.stop().await;
}
