//! How every WebSocket of the gateway is bounded, and the two halves of one that carries no session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::time::{Instant, Interval, interval_at, timeout};
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

use super::protocol::{self, Fault, FaultCode, MAX_MESSAGE, millis};
use super::turns::{self, Turn, Turns};

/// Read buffer, bytes: small, because thousands of connections are held, and what visitors send is
/// keys and acknowledgements. A longer message makes room for itself.
const READ_BUFFER: usize = 1024;

/// Bytes that may wait to be written at most. One output frame (64 KiB) and a few messages.
const MAX_WRITE_BUFFER: usize = 256 * 1024;

/// A ping this often keeps proxies from closing a quiet connection (Caddy's and most others' limit
/// is 60 s) and finds dead ones.
pub(super) const PING_EVERY: Duration = Duration::from_secs(25);

/// After a ping, how long until something must have been heard.
pub(super) const PONG_DEADLINE: Duration = Duration::from_secs(15);

/// How long a client may take to read what was sent before the connection counts as lost.
pub(super) const SEND_DEADLINE: Duration = Duration::from_secs(30);

/// How long saying goodbye may take.
pub(super) const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Bytes of output that are put into one JSON message: as text it may have six times as many, which
/// must fit into what may wait to be written.
pub(super) const MAX_TEXT: usize = 16 * 1024;

/// The same upgrade, bounded.
pub fn bounded(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
        .read_buffer_size(READ_BUFFER)
        // Every message is flushed at once: there is nothing to wait for.
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_WRITE_BUFFER)
}

/// What a broken connection is told; nothing if nobody is left to hear it.
pub(super) fn broken(error: axum::Error) -> Option<Fault> {
    let inner = error.into_inner();
    Some(match inner.downcast_ref::<tungstenite::Error>()? {
        tungstenite::Error::Capacity(_) => Fault::new(
            FaultCode::MessageTooBig,
            format!("A message may be at most {MAX_MESSAGE} bytes long."),
        ),
        tungstenite::Error::Utf8(_) => {
            Fault::new(FaultCode::InvalidText, "A text frame must be UTF-8.")
        }
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return None,
        tungstenite::Error::Protocol(_) => Fault::new(
            FaultCode::ProtocolError,
            "The connection broke its protocol.",
        ),
        _ => return None,
    })
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The peer is gone.
    Gone,
    /// The peer has closed; it is to be answered.
    Left,
    /// Close with this code and reason.
    Close(u16, &'static str),
}

impl From<FaultCode> for End {
    fn from(code: FaultCode) -> Self {
        Self::Close(code.close_code(), code.name())
    }
}

/// When the peer was last heard.
#[derive(Debug)]
struct Heard {
    begun: Instant,
    /// Milliseconds after `begun`; `u64::MAX` while it is not listened to, when its silence says
    /// nothing.
    at: AtomicU64,
}

impl Heard {
    fn now(&self) {
        self.at
            .store(millis(self.begun.elapsed()), Ordering::Relaxed);
    }
}

/// The sending half: every message has a deadline, and whoever is silent too long is gone.
#[derive(Debug)]
pub(super) struct Sender {
    sink: SplitSink<WebSocket, Message>,
    heard: Arc<Heard>,
    pings: Interval,
    turn: Turn,
}

/// The reading half.
#[derive(Debug)]
pub(super) struct Receiver {
    stream: SplitStream<WebSocket>,
    heard: Arc<Heard>,
}

/// The halves of a new connection.
pub(super) fn split(socket: WebSocket, turns: &Arc<Turns>) -> (Sender, Receiver) {
    let (sink, stream) = socket.split();
    let begun = Instant::now();
    let at = AtomicU64::new(0);
    let heard = Arc::new(Heard { begun, at });
    let sender = Sender {
        sink,
        heard: heard.clone(),
        pings: interval_at(begun + PING_EVERY, PING_EVERY),
        turn: Turn::new(turns),
    };
    (sender, Receiver { stream, heard })
}

impl Sender {
    /// Send a message. Waits while the peer does not read, up to [`SEND_DEADLINE`]; and for the
    /// others, after much.
    pub(super) async fn send(&mut self, message: Message) -> Result<(), End> {
        let length = turns::length(&message);
        match timeout(SEND_DEADLINE, self.sink.send(message)).await {
            Ok(Ok(())) => {
                self.turn.sent(length).await;
                Ok(())
            }
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }

    /// Resolves when it is time for [`Sender::ping`]. Cancel-safe.
    pub(super) async fn ping_due(&mut self) {
        self.pings.tick().await;
    }

    /// Ask for a sign of life.
    pub(super) async fn ping(&mut self) -> Result<(), End> {
        let now = millis(self.heard.begun.elapsed());
        let silence = now.saturating_sub(self.heard.at.load(Ordering::Relaxed));
        // The pings before this one went unanswered.
        if silence > millis(PING_EVERY + PONG_DEADLINE) {
            return Err(End::Gone);
        }
        self.send(Message::Ping(Bytes::new())).await
    }

    /// Say goodbye. What the peer may still be sending is the socket's to deal with: it lingers.
    pub(super) async fn finish(mut self, mut receiver: Receiver, end: End) {
        let farewell = async {
            match end {
                End::Gone => {}
                // Reading on sends the answer to the peer's close frame.
                End::Left => drop(receiver.stream.next().await),
                End::Close(code, reason) => {
                    let _ = self.sink.send(protocol::close(code, reason)).await;
                }
            }
        };
        // A peer that does not read is gone either way.
        let _ = timeout(CLOSE_DEADLINE, farewell).await;
    }
}

impl Receiver {
    /// The next text or binary message. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Message, End> {
        self.heard.now();
        loop {
            let message = match self.stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    return Err(broken(error).map_or(End::Gone, |fault| fault.code.into()));
                }
                None => return Err(End::Gone),
            };
            match message {
                Message::Ping(_) | Message::Pong(_) => self.heard.now(),
                Message::Close(_) => return Err(End::Left),
                message => {
                    // Until the next call, it is not listened to.
                    self.heard.at.store(u64::MAX, Ordering::Relaxed);
                    return Ok(message);
                }
            }
        }
    }
}
