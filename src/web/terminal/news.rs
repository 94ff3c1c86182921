//! What changes around a terminal while somebody looks at it: its size, its viewers, its recording.

use belljar_link::message::Size;
use tokio::sync::watch;

use super::Shared;
use crate::session::Recorded;
use crate::web::protocol::{Notice, ServerMessage};

/// What one viewer has not been told yet. Of each kind only the latest is kept.
pub(super) struct News {
    /// For guests: the owner's own client knows its size.
    size: Option<watch::Receiver<Size>>,
    told_size: Size,
    /// For the owner.
    viewers: Option<watch::Receiver<usize>>,
    told_viewers: usize,
    recorded: watch::Receiver<Recorded>,
    told_recorded: Recorded,
}

impl News {
    /// The news for a viewer that was told of `size`.
    pub(super) fn of(shared: &Shared, size: Size) -> Self {
        let session = &shared.session;
        Self {
            size: (!shared.owner).then(|| session.size()),
            told_size: size,
            viewers: shared.owner.then(|| session.shares.viewers()),
            told_viewers: 0,
            recorded: session.recorded(),
            told_recorded: Recorded::No,
        }
    }

    /// Resolves with the next thing to tell. Cancel-safe.
    pub(super) async fn next(&mut self) -> ServerMessage {
        loop {
            if let Some(message) = self.untold() {
                return message;
            }
            // Senders live as long as the session, which this viewer holds.
            tokio::select! {
                Ok(()) = changed(self.size.as_mut()) => {}
                Ok(()) = changed(self.viewers.as_mut()) => {}
                Ok(()) = self.recorded.changed() => {}
            }
        }
    }

    fn untold(&mut self) -> Option<ServerMessage> {
        let recorded = *self.recorded.borrow_and_update();
        if recorded != self.told_recorded {
            self.told_recorded = recorded;
            return Some(ServerMessage::Notice(match recorded {
                Recorded::Running => Notice::Recorded,
                Recorded::Stopped | Recorded::No => Notice::RecordingStopped,
            }));
        }
        if let Some(size) = self.size.as_mut().map(|size| *size.borrow_and_update())
            && size != self.told_size
        {
            self.told_size = size;
            return Some(ServerMessage::Size(size));
        }
        if let Some(count) = self
            .viewers
            .as_mut()
            .map(|count| *count.borrow_and_update())
            && count != self.told_viewers
        {
            self.told_viewers = count;
            return Some(ServerMessage::Viewers(count));
        }
        None
    }
}

async fn changed<T>(
    receiver: Option<&mut watch::Receiver<T>>,
) -> Result<(), watch::error::RecvError> {
    match receiver {
        Some(receiver) => receiver.changed().await,
        None => std::future::pending().await,
    }
}
