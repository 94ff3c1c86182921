//! Where a session is in its life, and how that ends.

use std::time::Duration;

use belljar_link::message::Exit;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The shell ended.
    Exited,
    /// The visitor asked for it.
    Closed,
    /// The operator asked for it.
    ByOperator,
    /// No input for too long.
    IdleTimeout,
    /// The longest time a session may take.
    MaxDuration,
    /// The visitor was lost and did not come back.
    DetachTimeout,
    /// The sandbox reached its memory limit.
    OutOfMemory,
    /// The sandbox died of something else.
    SandboxLost,
    /// The sandbox could not be started.
    StartFailed,
    /// Its visitor has as many as may be, together with those at other gateways.
    TooMany,
    /// The gateway is going away, and the session with it.
    Shutdown,
    /// The gateway is going away, and the session lives on for the next one.
    HandedOver,
    /// Another gateway has taken the session over, for a visitor who came there.
    TakenOver,
}

impl EndReason {
    /// The stable name in the protocol, the metrics and the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Closed => "closed",
            Self::ByOperator => "ended_by_operator",
            Self::IdleTimeout => "idle_timeout",
            Self::MaxDuration => "max_duration",
            Self::DetachTimeout => "detach_timeout",
            Self::OutOfMemory => "out_of_memory",
            Self::SandboxLost => "sandbox_lost",
            Self::StartFailed => "start_failed",
            Self::TooMany => "too_many_sessions",
            Self::Shutdown => "shutdown",
            Self::HandedOver => "handed_over",
            Self::TakenOver => "taken_over",
        }
    }
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Why.
    pub reason: EndReason,
    /// How the shell ended, if it did.
    pub exit: Option<Exit>,
}

impl From<EndReason> for Ending {
    fn from(reason: EndReason) -> Self {
        Self { reason, exit: None }
    }
}

/// Where a session is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Its sandbox is being started.
    Starting,
    /// A viewer is attached.
    Attached,
    /// It lives, and nobody looks.
    Detached,
    /// It is over.
    Ended(Ending),
}

impl State {
    /// The stable name in the API and the metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Attached => "attached",
            Self::Detached => "detached",
            Self::Ended(_) => "ended",
        }
    }
}

/// Something a viewer should be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The session will end for want of input after this long.
    Idle(Duration),
    /// The session will reach its maximum duration after this long.
    Expiry(Duration),
    /// Another viewer has taken this one's place. The last notice.
    TakenOver,
}
