//! What a visitor has typed and the terminal has not taken yet.
//!
//! A queue between the socket and the terminal, for two reasons: commands over the rate wait here,
//! told and not lost; and acknowledgements that follow a large paste on the same socket must be
//! read although the program does not take the paste yet.

use std::collections::VecDeque;
use std::time::Duration;

use axum::body::Bytes;
use belljar_link::client::{LinkError, TerminalInput};

use crate::limit::{Client, Limiter};

/// Bytes that may wait. Beyond this the socket is not read, so the visitor's machine waits.
const CAPACITY: usize = 256 * 1024;

/// What a piece costs besides its bytes, at least: its place in the queue and an allocation.
/// Counted, or frames of one byte would take a hundred times what is bounded.
const PIECE: usize = 96;

/// Ctrl-C, Ctrl-Z and Ctrl-\ alone in a frame: they overtake commands that are held back.
const INTERRUPTS: [&[u8]; 3] = [b"\x03", b"\x1a", b"\x1c"];

#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    /// Ends with Enter and has not been let through yet.
    submits: bool,
}

/// The queue of one viewer.
#[derive(Debug)]
pub(super) struct InputQueue {
    client: Client,
    pieces: VecDeque<Piece>,
    /// Bytes in the pieces.
    length: usize,
    /// Whether the visitor has been told of the wait at hand.
    told: bool,
}

/// What a step of delivery did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Typed this many bytes.
    Typed(usize),
    /// The next command waits this long; said once for each stretch of waiting.
    Slowed(Duration),
}

impl InputQueue {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            pieces: VecDeque::new(),
            length: 0,
            told: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.length + self.pieces.len() * PIECE >= CAPACITY
    }

    /// Queue one frame of input. A frame that ends with Enter submits a command; what a paste holds
    /// in its middle does not, so a large paste is a few commands and not thousands.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.length += bytes.len();
        let piece = Piece {
            submits: matches!(bytes.last(), Some(b'\r' | b'\n')),
            // A copy, because a frame shares the buffer that it was read into: one byte could keep
            // 64 KiB.
            bytes: Bytes::copy_from_slice(bytes),
        };
        if INTERRUPTS.contains(&&piece.bytes[..]) {
            self.pieces.push_front(piece);
        } else {
            self.pieces.push_back(piece);
        }
    }

    /// Deliver some of the first piece. Cancel-safe. Call only if the queue is not empty.
    pub(super) async fn deliver(
        &mut self,
        input: &mut TerminalInput,
        limiter: &Limiter,
    ) -> Result<Step, LinkError> {
        let Some(piece) = self.pieces.front_mut() else {
            return Ok(Step::Typed(0));
        };
        while piece.submits {
            match limiter.submit(self.client) {
                Ok(()) => piece.submits = false,
                Err(wait) if self.told => tokio::time::sleep(wait).await,
                Err(wait) => {
                    self.told = true;
                    return Ok(Step::Slowed(wait));
                }
            }
        }
        let typed = input.write(&piece.bytes).await?;
        self.length -= typed;
        let _ = piece.bytes.split_to(typed);
        if piece.bytes.is_empty() {
            self.pieces.pop_front();
            // The stretch of waiting ends when nothing waits any more.
            self.told &= !self.pieces.is_empty();
        }
        Ok(Step::Typed(typed))
    }
}
