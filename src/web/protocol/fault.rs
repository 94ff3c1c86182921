//! Refusals, faults and ends: their names and close codes.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes};

use crate::session::EndReason;

/// Why a visitor is refused or a connection ends badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultCode {
    /// The page's origin is not allowed.
    OriginRefused,
    /// No token, or the wrong one.
    TokenRefused,
    /// The viewer's share was revoked.
    ShareRevoked,
    /// There is no such session.
    NoSuchSession,
    /// The session has no such share.
    NoSuchShare,
    /// The session has no recording, or not any more.
    NoRecording,
    /// There is no such template.
    NoSuchTemplate,
    /// Too many sessions, at once or within the hour.
    RateLimited,
    /// The session has as many shares as it may.
    TooManyShares,
    /// The session has as many viewers as it may.
    TooManyViewers,
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
            Self::ShareRevoked => "share_revoked",
            Self::NoSuchSession => "no_such_session",
            Self::NoSuchShare => "no_such_share",
            Self::NoRecording => "no_recording",
            Self::NoSuchTemplate => "no_such_template",
            Self::RateLimited => "rate_limited",
            Self::TooManyShares => "too_many_shares",
            Self::TooManyViewers => "too_many_viewers",
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
            Self::OriginRefused | Self::TokenRefused | Self::ShareRevoked => 4003,
            Self::NoSuchSession | Self::NoSuchShare | Self::NoRecording => 4004,
            Self::RateLimited | Self::TooManyShares => 4029,
            Self::AtCapacity | Self::TooManyViewers => 4030,
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
        EndReason::Exited | EndReason::Closed | EndReason::ByOperator => 1000,
        EndReason::Shutdown | EndReason::HandedOver => 1001,
        EndReason::TakenOver => CLOSE_TAKEN_OVER,
        EndReason::TooMany => 4029,
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
        EndReason::ByOperator => "The session was ended by the operator.",
        EndReason::IdleTimeout => "The session ended because nothing was typed for a while.",
        EndReason::MaxDuration => "The session has reached its time limit.",
        EndReason::DetachTimeout => "The session ended while nobody was connected.",
        EndReason::OutOfMemory => "The session used up its memory and was ended.",
        EndReason::SandboxLost => "The session ended unexpectedly.",
        EndReason::StartFailed => "The terminal could not be started. Please try again shortly.",
        EndReason::TooMany => {
            "You have as many terminals open as one visitor may. Close one and try again."
        }
        EndReason::Shutdown => "The service is restarting. Please try again in a moment.",
        EndReason::TakenOver => "The session was opened elsewhere.",
        EndReason::HandedOver => "The service is restarting. You will be back in a moment.",
    }
}

/// A close frame.
pub fn close(code: u16, reason: &'static str) -> Message {
    Message::Close(Some(CloseFrame {
        code,
        reason: Utf8Bytes::from_static(reason),
    }))
}
