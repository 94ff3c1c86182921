//! The words as `belljar.v1` frames.

use axum::extract::ws::Message;
use belljar_link::message::{HISTORY_BYTES, MIN_WINDOW};
use serde::{Deserialize, Serialize};

use super::{
    AttachMessage, ClientMessage, Notice, ServerMessage, farewell, millis, size, timestamp,
};

/// The WebSocket subprotocol's name.
pub const SUBPROTOCOL: &str = "belljar.v1";

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum Incoming {
    Attach {
        token: Option<String>,
        from: Option<u64>,
        cols: Option<u32>,
        rows: Option<u32>,
        window: Option<u32>,
    },
    Resize {
        cols: u32,
        rows: u32,
    },
    Ack {
        offset: u64,
    },
    Extend {},
    Ping {
        id: u64,
    },
    Close {},
}

/// What a `belljar.v1` client's frame says.
pub fn decode(message: Message) -> ClientMessage {
    match message {
        Message::Binary(bytes) => ClientMessage::Input(bytes),
        Message::Text(text) => decode_text(&text),
        Message::Close(_) => ClientMessage::Leave,
        Message::Ping(_) | Message::Pong(_) => ClientMessage::Nothing,
    }
}

fn decode_text(text: &str) -> ClientMessage {
    let mut track = serde_path_to_error::Track::new();
    let mut json = serde_json::Deserializer::from_str(text);
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let incoming = Incoming::deserialize(tracked).and_then(|incoming| {
        json.end()?;
        Ok(incoming)
    });
    match incoming {
        Ok(Incoming::Attach {
            token,
            from,
            cols,
            rows,
            window,
        }) => ClientMessage::Attach(AttachMessage {
            token,
            from,
            size: cols.zip(rows).map(|(cols, rows)| size(cols, rows)),
            window: window
                .unwrap_or(HISTORY_BYTES)
                .clamp(MIN_WINDOW, HISTORY_BYTES),
        }),
        Ok(Incoming::Resize { cols, rows }) => ClientMessage::Resize(size(cols, rows)),
        Ok(Incoming::Ack { offset }) => ClientMessage::Ack(offset),
        Ok(Incoming::Extend {}) => ClientMessage::Extend,
        Ok(Incoming::Ping { id }) => ClientMessage::Ping(id),
        Ok(Incoming::Close {}) => ClientMessage::Close,
        Err(error) => ClientMessage::Bad(complaint(text, &error)),
    }
}

/// How much of a parser's own words a client is told, characters.
const MAX_CAUSE: usize = 120;

/// What is wrong with a control message: its type, the field, what is allowed.
fn complaint(text: &str, error: &serde_json::Error) -> String {
    #[derive(Deserialize)]
    struct Head {
        r#type: String,
    }
    const TYPES: &str = "attach, resize, ack, extend, ping or close";
    let Ok(head) = serde_json::from_str::<Head>(text) else {
        return format!("a text frame must be a JSON object with a type: {TYPES}");
    };
    let fields = match head.r#type.as_str() {
        "attach" => {
            "attach takes token (text), from (a whole number from 0), cols (2 to 1000), \
             rows (1 to 500), window (4096 to 262144), each optional"
        }
        "resize" => "resize takes cols (2 to 1000) and rows (1 to 500)",
        "ack" => "ack takes offset (a whole number from 0)",
        "ping" => "ping takes id (a whole number from 0)",
        "extend" | "close" => "extend and close take no fields",
        _ => return format!("type: must be {TYPES}"),
    };
    // serde_json's own message names the field or the value; the position says nothing to a client.
    let cause = error.to_string();
    let cause = cause.split(" at line").next().unwrap_or_default();
    // It may quote what the client sent, at any length.
    let cause: String = cause.chars().take(MAX_CAUSE).collect();
    format!("{fields}: {cause}")
}

#[derive(Debug, Serialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
enum Outgoing<'a> {
    Ready {
        session: &'a str,
        token: &'a str,
        offset: u64,
        end: u64,
        cols: u16,
        rows: u16,
        read_only: bool,
        recorded: bool,
        idle_timeout_ms: u64,
        expires_at: String,
        remaining_ms: u64,
        window: u32,
    },
    Queued {
        position: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        eta_ms: Option<u64>,
    },
    Gap {
        from: u64,
        to: u64,
    },
    Size {
        cols: u16,
        rows: u16,
    },
    Viewers {
        count: usize,
    },
    Notice {
        code: &'static str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        remaining_ms: Option<u64>,
    },
    Pong {
        id: u64,
    },
    Exit {
        code: Option<i32>,
        signal: Option<&'a str>,
        reason: &'static str,
        message: &'static str,
    },
    Error {
        code: &'static str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
}

/// The frame for a `belljar.v1` client; `None` for what this dialect does not say.
pub fn encode(message: &ServerMessage) -> Option<Message> {
    let outgoing = match message {
        ServerMessage::Output(bytes) => return Some(Message::Binary(bytes.clone())),
        ServerMessage::InitComplete { .. } => return None,
        ServerMessage::Ready(ready) => Outgoing::Ready {
            session: &ready.session,
            token: &ready.token,
            offset: ready.offset,
            end: ready.end,
            cols: ready.size.cols,
            rows: ready.size.rows,
            read_only: ready.read_only,
            recorded: ready.recorded,
            idle_timeout_ms: millis(ready.idle_timeout),
            expires_at: timestamp(ready.expires_at),
            remaining_ms: millis(ready.remaining),
            window: ready.window,
        },
        ServerMessage::Queued(place) => Outgoing::Queued {
            position: place.position,
            eta_ms: place.eta.map(millis),
        },
        ServerMessage::Gap { from, to } => Outgoing::Gap {
            from: *from,
            to: *to,
        },
        ServerMessage::Size(size) => Outgoing::Size {
            cols: size.cols,
            rows: size.rows,
        },
        ServerMessage::Viewers(count) => Outgoing::Viewers { count: *count },
        ServerMessage::Notice(notice) => {
            let (code, message, remaining) = match notice {
                Notice::IdleWarning(left) => (
                    "idle_warning",
                    "Still there? The session ends soon if nothing is typed.",
                    Some(*left),
                ),
                Notice::ExpiryWarning(left) => (
                    "expiry_warning",
                    "The session will soon reach its time limit.",
                    Some(*left),
                ),
                Notice::InputSlowed(wait) => (
                    "input_slowed",
                    "Commands are coming fast; they will run one after the other.",
                    Some(*wait),
                ),
                Notice::TakenOver => ("taken_over", "The session continues elsewhere.", None),
                Notice::BadMessage(message) => ("bad_message", message.as_str(), None),
                Notice::Recorded => ("recorded", "This session is being recorded.", None),
                Notice::RecordingStopped => (
                    "recording_stopped",
                    "The recording has stopped. The session goes on.",
                    None,
                ),
                Notice::ReadOnly => (
                    "read_only",
                    "You are watching: what you type is not sent.",
                    None,
                ),
                Notice::OwnerOnly => ("owner_only", "Only the session's owner can do that.", None),
            };
            Outgoing::Notice {
                code,
                message,
                remaining_ms: remaining.map(millis),
            }
        }
        ServerMessage::Pong(id) => Outgoing::Pong { id: *id },
        ServerMessage::Exit { reason, exit } => Outgoing::Exit {
            code: exit.as_ref().and_then(|exit| exit.code),
            signal: exit.as_ref().and_then(|exit| exit.signal.as_deref()),
            reason: reason.name(),
            message: farewell(*reason),
        },
        ServerMessage::Error(fault) => Outgoing::Error {
            code: fault.code.name(),
            message: &fault.message,
            retry_after_ms: fault.retry_after.map(millis),
        },
    };
    let json = serde_json::to_string(&outgoing).expect("plain data becomes JSON");
    Some(Message::Text(json.into()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sandbox::Place;
    use crate::session::EndReason;
    use crate::web::protocol::{Fault, FaultCode};
    use axum::body::Bytes;
    use belljar_link::message::{Exit, Size};
    use proptest::prelude::*;

    fn text(json: &str) -> ClientMessage {
        decode(Message::Text(json.into()))
    }

    #[test]
    fn understands_every_message() {
        assert_eq!(
            text(r#"{"type":"attach","token":"t","from":5,"cols":100,"rows":30}"#),
            ClientMessage::Attach(AttachMessage {
                token: Some("t".into()),
                from: Some(5),
                size: Some(Size {
                    cols: 100,
                    rows: 30
                }),
                window: HISTORY_BYTES,
            })
        );
        assert_eq!(
            text(r#"{"type":"resize","cols":0,"rows":4000000000}"#),
            ClientMessage::Resize(Size { cols: 2, rows: 500 })
        );
        assert_eq!(text(r#"{"type":"ack","offset":7}"#), ClientMessage::Ack(7));
        assert_eq!(text(r#"{"type":"ping","id":9}"#), ClientMessage::Ping(9));
        assert_eq!(text(r#"{"type":"extend"}"#), ClientMessage::Extend);
        assert_eq!(text(r#"{"type":"close"}"#), ClientMessage::Close);
        assert_eq!(
            decode(Message::Binary(Bytes::from_static(b"\xff\x00"))),
            ClientMessage::Input(Bytes::from_static(b"\xff\x00"))
        );
    }

    #[test]
    fn complaints_name_the_field_and_the_range() {
        for (json, expected) in [
            (
                r#"{"type":"resize","cols":-1,"rows":5}"#,
                "cols (2 to 1000)",
            ),
            (r#"{"type":"resize","cols":80}"#, "missing field `rows`"),
            (
                r#"{"type":"ack","offset":"x"}"#,
                "offset (a whole number from 0)",
            ),
            (r#"{"type":"dance"}"#, "type: must be attach"),
            (r#"{"type":"ping","id":"é"}"#, "ping takes id"),
            ("[1]", "a JSON object with a type"),
            ("{\"type\":\"close\"} extra", "a JSON object with a type"),
            ("", "a JSON object with a type"),
        ] {
            match text(json) {
                ClientMessage::Bad(complaint) => {
                    assert!(complaint.contains(expected), "{json}: {complaint}");
                }
                other => panic!("{json} was taken for {other:?}"),
            }
        }
    }

    #[test]
    fn absent_values_are_left_out_or_null_as_documented() {
        let error = ServerMessage::Error(Fault::new(FaultCode::AtCapacity, "Full."));
        assert_eq!(
            encode(&error),
            Some(Message::Text(
                r#"{"type":"error","code":"at_capacity","message":"Full."}"#.into()
            ))
        );
        let queued = |eta| encode(&ServerMessage::Queued(Place { position: 3, eta }));
        assert_eq!(
            [queued(None), queued(Some(Duration::from_secs(20)))],
            [
                r#"{"type":"queued","position":3}"#,
                r#"{"type":"queued","position":3,"etaMs":20000}"#
            ]
            .map(|json| Some(Message::Text(json.into())))
        );
        let exit = ServerMessage::Exit {
            reason: EndReason::Exited,
            exit: Some(Exit {
                code: Some(3),
                signal: None,
            }),
        };
        let Some(Message::Text(json)) = encode(&exit) else {
            panic!("exit is a text frame");
        };
        assert!(
            json.contains(r#""code":3,"signal":null,"reason":"exited""#),
            "{json}"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(json in "\\PC{0,200}") {
            let _ = text(&json);
        }

        #[test]
        fn no_json_panics(kind in "[a-z]{0,8}", field in "[a-z]{0,8}", value in any::<i64>()) {
            let _ = text(&format!(r#"{{"type":"{kind}","{field}":{value}}}"#));
        }
    }
}
