//! Those who look at a session's terminal.

use belljar_link::client::{LinkError, TerminalControl, TerminalInput, TerminalOutput};
use belljar_link::message::{Attached, HISTORY_BYTES, Size};
use tokio::sync::{mpsc, oneshot};

use super::share::Seat;
use super::state::{Ending, Notice};

/// Why a viewer was not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The session is over.
    #[error("the session has ended: {}", .0.reason.name())]
    Ended(Ending),
    /// The agent did not do it.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// What a viewer asks for when it attaches.
#[derive(Debug, Clone, Copy)]
pub struct AttachRequest {
    /// Byte offset to go on from; absent: everything still held.
    pub from: Option<u64>,
    /// The viewer's size; the terminal keeps its own if absent.
    pub size: Option<Size>,
    /// Unacknowledged bytes allowed.
    pub window: u32,
}

impl Default for AttachRequest {
    fn default() -> Self {
        Self {
            from: None,
            size: None,
            window: HISTORY_BYTES,
        }
    }
}

/// One viewer's access to the terminal.
#[derive(Debug)]
pub struct Viewer {
    /// Where the output begins.
    pub attached: Attached,
    /// Unacknowledged bytes allowed.
    pub window: u32,
    /// The output.
    pub output: TerminalOutput,
    /// Acknowledgements, size, pings.
    pub control: TerminalControl,
    /// The input; absent if this viewer may only watch.
    pub input: Option<TerminalInput>,
    /// What to tell the visitor.
    pub notices: mpsc::Receiver<Notice>,
    /// Hold it as long as the visitor is there.
    pub presence: Presence,
}

/// A viewer's being there.
#[derive(Debug)]
pub struct Presence(pub(super) Place);

#[derive(Debug)]
pub(super) enum Place {
    /// Its drop tells the session's task.
    Owner {
        _alive: oneshot::Sender<()>,
    },
    Guest(Seat),
}

impl Presence {
    /// Whether this is the session's owner, who alone sets its size, holds its program by not
    /// acknowledging, and ends it; not somebody whom a share let in.
    pub fn is_owner(&self) -> bool {
        matches!(self.0, Place::Owner { .. })
    }

    /// Resolves when the viewer's share is revoked.
    pub async fn revoked(&self) {
        match &self.0 {
            Place::Owner { .. } => std::future::pending().await,
            Place::Guest(seat) => seat.revoked.cancelled().await,
        }
    }
}
