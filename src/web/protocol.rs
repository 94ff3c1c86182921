//! The terminal protocol `belljar.v1`, as docs/protocol.md specifies it. Pure: messages in and out.

use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes};
use belljar_link::message::{Exit, HISTORY_BYTES, MIN_WINDOW, Size};
use serde::{Deserialize, Serialize};

use crate::session::EndReason;

/// The WebSocket subprotocol's name.
pub const SUBPROTOCOL: &str = "belljar.v1";

/// Largest message a client may send, bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// What a client says, in any dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage {
    /// Bytes to type.
    Input(Bytes),
    /// The first message of a client that did not put everything into its URL.
    Attach(AttachMessage),
    /// New size, clamped.
    Resize(Size),
    /// Output processed up to this offset.
    Ack(u64),
    /// "I am still here."
    Extend,
    /// To be answered by a pong that has been to the agent.
    Ping(u64),
    /// End the session.
    Close,
    /// toolkata: type these commands and say when they are done.
    Init(Init),
    /// The peer closes the connection.
    Leave,
    /// Nothing to do (a pong of the WebSocket itself).
    Nothing,
    /// Not understood: a sentence that names the field and what is allowed.
    Bad(String),
}

/// The `attach` message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachMessage {
    /// The session's token.
    pub token: Option<String>,
    /// Byte offset to go on from.
    pub from: Option<u64>,
    /// The viewer's size.
    pub size: Option<Size>,
    /// Unacknowledged bytes allowed; at most 256 KiB.
    pub window: u32,
}

/// The toolkata dialect's `init` message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Init {
    /// Shell lines.
    pub commands: Vec<String>,
    /// How long they may take, ms.
    #[serde(default)]
    pub timeout: Option<u64>,
    /// Show nothing of them.
    #[serde(default)]
    pub silent: bool,
}

/// What is said to a client, in any dialect.
#[derive(Debug, Clone)]
pub enum ServerMessage {
    /// Attached; output follows from `offset` on.
    Ready(Ready),
    /// Terminal bytes.
    Output(Bytes),
    /// This much output is no longer held.
    Gap {
        /// First missing offset.
        from: u64,
        /// Offset the output goes on with.
        to: u64,
    },
    /// Something to tell the visitor.
    Notice(Notice),
    /// Answer to a ping.
    Pong(u64),
    /// toolkata: the answer to `init`.
    InitComplete {
        /// Whether every command succeeded in time.
        success: bool,
    },
    /// The session is over.
    Exit {
        /// Why.
        reason: EndReason,
        /// How the shell ended, if it did.
        exit: Option<Exit>,
    },
    /// The visitor is refused, or something broke.
    Error(Fault),
}

/// The `ready` message.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The session's id.
    pub session: String,
    /// The token to come back with.
    pub token: String,
    /// Offset of the first byte that follows.
    pub offset: u64,
    /// Offset after the newest byte at this moment: output before it is a replay, in which a
    /// terminal must not answer queries.
    pub end: u64,
    /// The terminal's size.
    pub size: Size,
    /// The session ends after this long without input.
    pub idle_timeout: Duration,
    /// The session ends then at the latest.
    pub expires_at: SystemTime,
    /// Time left until then.
    pub remaining: Duration,
    /// Unacknowledged bytes allowed.
    pub window: u32,
}

/// Something to tell the visitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// No input for a while.
    IdleWarning(Duration),
    /// The longest time is nearly over.
    ExpiryWarning(Duration),
    /// Commands come too fast; this one waits that long.
    InputSlowed(Duration),
    /// Another viewer took over.
    TakenOver,
    /// A message was not understood.
    BadMessage(String),
}

/// Why a visitor is refused or a connection ends badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultCode {
    /// The page's origin is not allowed.
    OriginRefused,
    /// No token, or the wrong one.
    TokenRefused,
    /// There is no such session.
    NoSuchSession,
    /// There is no such template.
    NoSuchTemplate,
    /// Too many sessions, at once or within the hour.
    RateLimited,
    /// Every place is taken.
    AtCapacity,
    /// The engine is not usable.
    EngineUnavailable,
    /// The sandbox did not start.
    StartFailed,
    /// A parameter is out of range.
    BadRequest,
    /// A message was too long.
    MessageTooBig,
    /// A text frame was not UTF-8.
    InvalidText,
    /// The peer broke the WebSocket protocol.
    ProtocolError,
    /// Too many messages were not understood.
    TooManyBadMessages,
    /// The gateway is going away.
    GoingAway,
    /// Something broke.
    Internal,
}

impl FaultCode {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::OriginRefused => "origin_refused",
            Self::TokenRefused => "token_refused",
            Self::NoSuchSession => "no_such_session",
            Self::NoSuchTemplate => "no_such_template",
            Self::RateLimited => "rate_limited",
            Self::AtCapacity => "at_capacity",
            Self::EngineUnavailable => "engine_unavailable",
            Self::StartFailed => "start_failed",
            Self::BadRequest => "bad_request",
            Self::MessageTooBig => "message_too_big",
            Self::InvalidText => "invalid_text",
            Self::ProtocolError => "protocol_error",
            Self::TooManyBadMessages => "too_many_bad_messages",
            Self::GoingAway => "going_away",
            Self::Internal => "internal",
        }
    }

    /// The WebSocket close code.
    pub fn close_code(self) -> u16 {
        match self {
            Self::GoingAway => 1001,
            Self::ProtocolError => 1002,
            Self::InvalidText => 1007,
            Self::BadRequest | Self::NoSuchTemplate | Self::TooManyBadMessages => 1008,
            Self::MessageTooBig => 1009,
            Self::EngineUnavailable | Self::StartFailed | Self::Internal => 1011,
            Self::OriginRefused | Self::TokenRefused => 4003,
            Self::NoSuchSession => 4004,
            Self::RateLimited => 4029,
            Self::AtCapacity => 4030,
        }
    }
}

/// A refusal or a fault, for the visitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which.
    pub code: FaultCode,
    /// One calm sentence.
    pub message: String,
    /// When to try again, if that may help.
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// A fault without a hint when to try again.
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after: None,
        }
    }

    /// The same, with a hint.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

/// Close code of another viewer's take-over.
pub const CLOSE_TAKEN_OVER: u16 = 4001;

/// The close code after an `exit`.
pub fn close_code(reason: EndReason) -> u16 {
    match reason {
        EndReason::Exited | EndReason::Closed => 1000,
        EndReason::Shutdown => 1001,
        EndReason::OutOfMemory | EndReason::SandboxLost | EndReason::StartFailed => 1011,
        EndReason::IdleTimeout | EndReason::DetachTimeout => 4008,
        EndReason::MaxDuration => 4009,
    }
}

/// One calm sentence on how a session ended.
pub fn farewell(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Exited => "The shell has exited.",
        EndReason::Closed => "The session was closed.",
        EndReason::IdleTimeout => "The session ended because nothing was typed for a while.",
        EndReason::MaxDuration => "The session has reached its time limit.",
        EndReason::DetachTimeout => "The session ended while nobody was connected.",
        EndReason::OutOfMemory => "The session used up its memory and was ended.",
        EndReason::SandboxLost => "The session ended unexpectedly.",
        EndReason::StartFailed => "The terminal could not be started. Please try again shortly.",
        EndReason::Shutdown => "The service is restarting. Please try again in a moment.",
    }
}

/// A close frame.
pub fn close(code: u16, reason: &'static str) -> Message {
    Message::Close(Some(CloseFrame {
        code,
        reason: Utf8Bytes::from_static(reason),
    }))
}

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

/// A size from two numbers of any size.
pub fn size(cols: u32, rows: u32) -> Size {
    let narrow = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let (cols, rows) = (narrow(cols), narrow(rows));
    Size { cols, rows }.clamped()
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
        idle_timeout_ms: u64,
        expires_at: String,
        remaining_ms: u64,
        window: u32,
    },
    Gap {
        from: u64,
        to: u64,
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

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// RFC 3339 with milliseconds, UTC.
pub fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
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
            read_only: false,
            idle_timeout_ms: millis(ready.idle_timeout),
            expires_at: timestamp(ready.expires_at),
            remaining_ms: millis(ready.remaining),
            window: ready.window,
        },
        ServerMessage::Gap { from, to } => Outgoing::Gap {
            from: *from,
            to: *to,
        },
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
    use super::*;
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
