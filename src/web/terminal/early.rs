//! What a visitor says before the terminal is there.

use std::collections::VecDeque;

use axum::body::Bytes;

use crate::session::AttachRequest;
use crate::web::protocol::ClientMessage;
use crate::web::protocol::MAX_MESSAGE;

/// Type-ahead kept: messages, and their bytes.
const MAX_EARLY: (usize, usize) = (256, MAX_MESSAGE);

/// Messages that take effect once the terminal is there.
pub(super) struct Early {
    /// What to attach with, as far as it is known.
    pub(super) request: AttachRequest,
    /// The largest window that may be asked for.
    window: u32,
    kept: VecDeque<ClientMessage>,
    bytes: usize,
}

impl Early {
    pub(super) fn new(request: AttachRequest) -> Self {
        Self {
            request,
            window: request.window,
            kept: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Whether more would be kept. Otherwise the socket is not to be read.
    pub(super) fn has_room(&self) -> bool {
        self.kept.len() < MAX_EARLY.0 && self.bytes < MAX_EARLY.1
    }

    /// Keep a message that was `length` bytes long.
    pub(super) fn keep(&mut self, message: ClientMessage, length: usize) {
        self.bytes += length;
        match message {
            ClientMessage::Nothing => {}
            // The first message of a client whose URL said nothing.
            ClientMessage::Attach(attach) => {
                self.request.size = attach.size.or(self.request.size);
                self.request.window = attach.window.min(self.window);
            }
            // A copy, for the reason that the input queue copies.
            ClientMessage::Input(bytes) => {
                let bytes = Bytes::copy_from_slice(&bytes);
                self.kept.push_back(ClientMessage::Input(bytes));
            }
            message => self.kept.push_back(message),
        }
    }

    pub(super) fn into_messages(self) -> VecDeque<ClientMessage> {
        self.kept
    }
}
