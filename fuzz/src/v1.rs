//! `belljar.v1`, as a hostile client may speak it.

use axum::extract::ws::Message;
use belljar::web::protocol::{ClientMessage, Notice, ServerMessage, v1};
use belljar_link::message::{HISTORY_BYTES, MIN_WINDOW, Size};
use bytes::Bytes;
use serde_json::Value;

/// Longest complaint, bytes: the fields of a message and 120 characters of the cause.
const MAX_COMPLAINT: usize = 1024;

/// Whatever a frame holds, what it asks for is within the bounds, or the client is told, in a frame
/// that it can read.
pub fn hold(bytes: &[u8]) {
    let input = Bytes::copy_from_slice(bytes);
    assert_eq!(
        v1::decode(Message::Binary(input.clone())),
        ClientMessage::Input(input.clone())
    );
    assert_eq!(
        v1::encode(&ServerMessage::Output(input.clone())),
        Some(Message::Binary(input))
    );

    let text = String::from_utf8_lossy(bytes);
    match v1::decode(Message::Text(text.as_ref().into())) {
        ClientMessage::Attach(attach) => {
            assert!((MIN_WINDOW..=HISTORY_BYTES).contains(&attach.window));
            attach.size.into_iter().for_each(in_bounds);
        }
        ClientMessage::Resize(size) => in_bounds(size),
        ClientMessage::Ack(_)
        | ClientMessage::Extend
        | ClientMessage::Ping(_)
        | ClientMessage::Close => {}
        ClientMessage::Bad(complaint) => {
            assert!(!complaint.is_empty() && complaint.len() <= MAX_COMPLAINT);
            let notice = ServerMessage::Notice(Notice::BadMessage(complaint.clone()));
            let Some(Message::Text(told)) = v1::encode(&notice) else {
                panic!("a complaint is told as text");
            };
            let told: Value = serde_json::from_str(&told).expect("JSON");
            assert_eq!(told["message"], complaint);
        }
        other => panic!("no text is taken for {other:?}"),
    }
}

fn in_bounds(size: Size) {
    assert_eq!(size, size.clamped());
}
