//! How every WebSocket of the gateway is bounded.

use axum::extract::ws::WebSocketUpgrade;

use super::protocol::MAX_MESSAGE;

/// Read buffer, bytes: small, because thousands of connections are held.
const READ_BUFFER: usize = 4 * 1024;

/// Bytes that may wait to be written at most. One output frame (64 KiB) and a few messages.
const MAX_WRITE_BUFFER: usize = 256 * 1024;

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
