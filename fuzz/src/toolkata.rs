//! The toolkata dialect: what a client may send, and what a program may print.

use axum::extract::ws::Message;
use belljar::web::protocol::{ClientMessage, Init, ServerMessage};
use belljar::web::toolkata::{Encoder, InitWatch, decode};
use bytes::Bytes;

use crate::pieces::pieces;

/// Nothing typed is lost, no output is taken for control, and the end of an `init` is seen however
/// the output is cut.
pub fn hold(bytes: &[u8]) {
    typed(&String::from_utf8_lossy(bytes));
    shown(bytes);
    watched(bytes, b"0", true);
    watched(bytes, b"127", false);
}

fn typed(text: &str) {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    match decode(Message::Text(text.into())) {
        ClientMessage::Input(input) if !text.starts_with('{') => assert_eq!(input, bytes),
        ClientMessage::Input(_) | ClientMessage::Init(_) => {}
        ClientMessage::Resize(size) => assert_eq!(size, size.clamped()),
        other => panic!("no text is taken for {other:?}"),
    }
    assert_eq!(
        decode(Message::Binary(bytes.clone())),
        ClientMessage::Input(bytes)
    );
}

fn shown(bytes: &[u8]) {
    let mut encoder = Encoder::default();
    let mut all = String::new();
    let mut show = |bytes: &[u8]| {
        let output = ServerMessage::Output(Bytes::copy_from_slice(bytes));
        for frame in encoder.encode(&output) {
            let Message::Text(text) = frame else {
                panic!("this dialect is text");
            };
            let bare = text.trim();
            assert!(
                !(bare.starts_with('{') && bare.ends_with('}')),
                "a client could take this for control: {text}"
            );
            all.push_str(&text);
        }
    };
    pieces(bytes).into_iter().for_each(&mut show);
    // Finishes or breaks a character that is still open.
    show(b"!");
    let mut whole = bytes.to_vec();
    whole.push(b'!');
    assert_eq!(all, String::from_utf8_lossy(&whole));
}

fn watched(before: &[u8], status: &[u8], success: bool) {
    let init = Init {
        commands: Vec::new(),
        timeout: None,
        silent: false,
    };
    let nonce = "00112233445566778899";
    // A program does not know it.
    if before
        .windows(nonce.len())
        .any(|bytes| bytes == nonce.as_bytes())
    {
        return;
    }
    let (mut watch, _) = InitWatch::begin(&init, nonce);
    let output = [
        before,
        b"\x1b]6973;",
        nonce.as_bytes(),
        b";",
        status,
        b"\x07$ ",
    ]
    .concat();
    let mut shown = Vec::new();
    let mut done = None;
    for piece in pieces(&output) {
        let piece = Bytes::copy_from_slice(piece);
        if done.is_some() {
            shown.extend_from_slice(&piece);
            continue;
        }
        let (now, end) = watch.look(&piece);
        shown.extend_from_slice(&now);
        if let Some((success, after)) = end {
            shown.extend_from_slice(&after);
            done = Some(success);
        }
    }
    assert_eq!(done, Some(success), "the end is seen");
    assert_eq!(shown, output, "everything is shown once");
}
