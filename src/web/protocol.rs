//! What a visitor's client and the gateway say to each other. Pure: messages in and out.
//!
//! The words here belong to no dialect. [`v1`] writes them as `belljar.v1` frames, as
//! docs/protocol.md specifies; [`super::toolkata`] as the text of that API.

use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use belljar_link::message::{Exit, Size};
use serde::Deserialize;

use crate::sandbox::Place;
use crate::session::EndReason;

mod fault;

pub mod v1;

pub use fault::{CLOSE_TAKEN_OVER, Fault, FaultCode, close, close_code, farewell};

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
    /// In line for a sandbox, here.
    Queued(Place),
    /// Terminal bytes.
    Output(Bytes),
    /// This much output is no longer held.
    Gap {
        /// First missing offset.
        from: u64,
        /// Offset the output goes on with.
        to: u64,
    },
    /// To guests: the owner has set another size.
    Size(Size),
    /// To the owner: so many guests are looking.
    Viewers(usize),
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
    /// This viewer may not type.
    pub read_only: bool,
    /// The session is being recorded.
    pub recorded: bool,
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
    /// The session is being recorded.
    Recorded,
    /// It is not recorded any more.
    RecordingStopped,
    /// What this viewer types is ignored.
    ReadOnly,
    /// Only the owner may do that.
    OwnerOnly,
}

/// A size from two numbers of any size.
pub fn size(cols: u32, rows: u32) -> Size {
    let narrow = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let (cols, rows) = (narrow(cols), narrow(rows));
    Size { cols, rows }.clamped()
}

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// RFC 3339 with milliseconds, UTC.
pub fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
