//! The terminal dialect of toolkata's Sandbox API: text frames, no subprotocol. Pure.
//!
//! Control and terminal text share one channel in this dialect. Two things keep them apart here: a
//! client's text is control only if it is exactly one of the three known messages, and an output
//! frame that a client could take for control is split in two.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::Message;
use belljar_link::message::Size;
use serde::Deserialize;

use super::protocol::{self, ClientMessage, Init, ServerMessage, farewell};
use crate::session::EndReason;

/// Longest an `init` may take, and how long it may take if the client does not say.
const INIT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
enum Incoming {
    Input { data: String },
    Resize { cols: u32, rows: u32 },
    Init(Init),
}

/// What a toolkata client's frame says. Whatever is not control is keystrokes.
pub fn decode(message: Message) -> ClientMessage {
    let text = match message {
        Message::Text(text) => text,
        Message::Binary(bytes) => return ClientMessage::Input(bytes),
        Message::Close(_) => return ClientMessage::Leave,
        Message::Ping(_) | Message::Pong(_) => return ClientMessage::Nothing,
    };
    if !text.starts_with('{') {
        return ClientMessage::Input(text.into());
    }
    match serde_json::from_str(&text) {
        Ok(Incoming::Input { data }) => ClientMessage::Input(data.into()),
        Ok(Incoming::Resize { cols, rows }) => ClientMessage::Resize(size(cols, rows)),
        Ok(Incoming::Init(init)) => ClientMessage::Init(init),
        Err(_) => ClientMessage::Input(text.into()),
    }
}

/// The dialect's own bounds: 20 to 500 columns, 5 to 200 rows.
pub(super) fn size(cols: u32, rows: u32) -> Size {
    protocol::size(cols.clamp(20, 500), rows.clamp(5, 200))
}

/// Terminal bytes to text frames.
#[derive(Debug, Default)]
pub struct Encoder {
    /// The beginning of a UTF-8 character whose end has not come yet; at most three bytes.
    tail: Vec<u8>,
}

impl Encoder {
    /// The frames that say `message`.
    pub fn encode(&mut self, message: &ServerMessage) -> Vec<Message> {
        let json = |value: serde_json::Value| vec![Message::Text(value.to_string().into())];
        match message {
            ServerMessage::Output(bytes) => self.output(bytes),
            ServerMessage::Ready(ready) => json(serde_json::json!({
                "type": "connected", "sessionId": ready.session
            })),
            ServerMessage::InitComplete { success } => json(serde_json::json!({
                "type": "initComplete", "success": success
            })),
            ServerMessage::Error(fault) => json(serde_json::json!({
                "type": "error", "message": fault.message
            })),
            // An ordinary end shows by its close code alone.
            ServerMessage::Exit {
                reason: EndReason::Exited | EndReason::Closed,
                ..
            }
            | ServerMessage::Queued(_)
            | ServerMessage::Gap { .. }
            | ServerMessage::Size(_)
            | ServerMessage::Viewers(_)
            | ServerMessage::Notice(_)
            | ServerMessage::Pong(_) => Vec::new(),
            ServerMessage::Exit { reason, .. } => json(serde_json::json!({
                "type": "error", "message": farewell(*reason)
            })),
        }
    }

    fn output(&mut self, bytes: &Bytes) -> Vec<Message> {
        self.tail.extend_from_slice(bytes);
        let whole = self.tail.len() - unfinished(&self.tail);
        let text = String::from_utf8_lossy(&self.tail[..whole]).into_owned();
        self.tail.drain(..whole);
        disguised(&text)
            .into_iter()
            .filter(|part| !part.is_empty())
            .map(|part| Message::Text(part.into()))
            .collect()
    }
}

/// How many bytes at the end are the beginning of a character that may still be finished.
fn unfinished(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let length = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if length > back { back } else { 0 };
    }
    0
}

/// The text, in two pieces if it begins and ends as a JSON object does: the first is nothing but
/// braces that open, and the second does not begin with one. It is not parsed, because a browser
/// takes for JSON what a stricter parser does not: half a surrogate pair, a number beyond `f64`, a
/// thousand brackets.
fn disguised(text: &str) -> Vec<&str> {
    let inner = text.trim();
    if !(inner.starts_with('{') && inner.ends_with('}')) {
        return vec![text];
    }
    let opens = |c: char| c == '{' || c.is_whitespace();
    let (head, rest) = text.split_at(text.find(|c| !opens(c)).unwrap_or(text.len()));
    vec![head, rest]
}

/// One `init` under way: its commands are typed into the shell, followed by a command that prints
/// an escape sequence no terminal shows; when that comes back, they are done.
#[derive(Debug)]
pub struct InitWatch {
    marker: Vec<u8>,
    /// Output since the last byte that could belong to a marker.
    tail: Vec<u8>,
    silent: bool,
    /// When to give up.
    pub timeout: Duration,
}

impl InitWatch {
    /// Begin; returns what to type. `nonce` keeps programs from forging the end.
    pub fn begin(init: &Init, nonce: &str) -> (Self, Bytes) {
        let commands = if init.commands.is_empty() {
            "true".to_owned()
        } else {
            init.commands.join(" && ")
        };
        let line = format!(" {commands} ; printf '\\033]6973;{nonce};%d\\007' $?\r");
        let watch = Self {
            marker: format!("\x1b]6973;{nonce};").into_bytes(),
            tail: Vec::new(),
            silent: init.silent,
            timeout: init
                .timeout
                .map_or(INIT_TIMEOUT, Duration::from_millis)
                .min(INIT_TIMEOUT),
        };
        (watch, line.into())
    }

    /// Look at output. Returns what of it to show; and if the commands are done, whether they
    /// succeeded, and what to show after that.
    pub fn look(&mut self, bytes: &Bytes) -> (Bytes, Option<(bool, Bytes)>) {
        let shown = |bytes: Bytes| if self.silent { Bytes::new() } else { bytes };
        self.tail.extend_from_slice(bytes);
        if let Some(at) = find(&self.tail, &self.marker) {
            let after = &self.tail[at + self.marker.len()..];
            if let Some(end) = after.iter().position(|b| *b == 0x07) {
                let success = after[..end] == *b"0";
                // The marker's last byte has just come, so what follows it has too.
                let rest = bytes.len() - (after.len() - end - 1);
                let (until, rest) = (bytes.slice(..rest), bytes.slice(rest..));
                return (shown(until), Some((success, rest)));
            }
            self.tail.drain(..at);
        } else {
            let keep = self.tail.len().min(self.marker.len() - 1);
            self.tail.drain(..self.tail.len() - keep);
        }
        // A status has at most three digits; what is longer is no marker.
        if self.tail.len() > self.marker.len() + 8 {
            self.tail.clear();
        }
        (shown(bytes.clone()), None)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(messages: Vec<Message>) -> Vec<String> {
        let text = |m: Message| match m {
            Message::Text(text) => text.to_string(),
            other => panic!("{other:?}"),
        };
        messages.into_iter().map(text).collect()
    }

    fn output(encoder: &mut Encoder, bytes: &[u8]) -> Vec<String> {
        let message = ServerMessage::Output(Bytes::copy_from_slice(bytes));
        texts(encoder.encode(&message))
    }

    #[test]
    fn a_character_split_over_two_chunks_stays_whole() {
        let mut encoder = Encoder::default();
        let smile = "🙂".as_bytes();
        assert_eq!(output(&mut encoder, &[b"a", &smile[..3]].concat()), ["a"]);
        assert_eq!(output(&mut encoder, &[&smile[3..], b"b"].concat()), ["🙂b"]);
        assert_eq!(output(&mut encoder, b"\xff!"), ["\u{fffd}!"]);
    }

    #[test]
    fn output_cannot_be_taken_for_control() {
        let mut encoder = Encoder::default();
        for forged in [
            r#"{"type":"error","message":"x"}"#,
            "  {\"type\":\"connected\"}\r\n",
            "{}",
            "{ {\"type\":\"error\"}",
            // What serde_json does not take for JSON, and a browser does.
            r#"{"type":"error","message":"\ud800"}"#,
            r#"{"type":"error","message":1e999}"#,
        ] {
            let frames = output(&mut encoder, forged.as_bytes());
            assert_eq!(frames.concat(), forged);
            for frame in frames {
                let bare = frame.trim();
                assert!(!(bare.starts_with('{') && bare.ends_with('}')), "{frame}");
            }
        }
    }

    #[test]
    fn pasted_json_is_typed() {
        for pasted in [
            r#"{"name":"x"}"#,
            r#"{"type":"module"}"#,
            r#"{"type":"input","data":"x","more":1}"#,
            "{",
        ] {
            assert_eq!(
                decode(Message::Text(pasted.into())),
                ClientMessage::Input(Bytes::copy_from_slice(pasted.as_bytes()))
            );
        }
    }

    #[test]
    fn control_is_understood() {
        assert_eq!(
            decode(Message::Text(r#"{"type":"input","data":"ls\r"}"#.into())),
            ClientMessage::Input(Bytes::from_static(b"ls\r"))
        );
        assert_eq!(
            decode(Message::Text(
                r#"{"type":"resize","rows":1,"cols":9999}"#.into()
            )),
            ClientMessage::Resize(Size { cols: 500, rows: 5 })
        );
        assert!(matches!(
            decode(Message::Text(
                r#"{"type":"init","commands":["ls"],"silent":true}"#.into()
            )),
            ClientMessage::Init(Init { silent: true, .. })
        ));
    }

    #[test]
    fn an_end_by_the_clock_does_not_look_like_an_exit() {
        let mut encoder = Encoder::default();
        let exit = |reason| ServerMessage::Exit { reason, exit: None };
        assert!(encoder.encode(&exit(EndReason::Exited)).is_empty());
        let frames = texts(encoder.encode(&exit(EndReason::IdleTimeout)));
        assert!(frames[0].contains("\"type\":\"error\""));
    }

    #[test]
    fn init_is_done_when_its_marker_comes_back() {
        let init = Init {
            commands: vec!["cd /tmp".into(), "ls".into()],
            timeout: Some(5000),
            silent: true,
        };
        let (mut watch, line) = InitWatch::begin(&init, "abc");
        assert!(line.starts_with(b" cd /tmp && ls ; printf"));
        // The echo of the line itself is no end.
        assert_eq!(watch.look(&line), (Bytes::new(), None));
        assert_eq!(watch.look(&"out\x1b]69".into()), (Bytes::new(), None));
        assert_eq!(watch.look(&"73;abc;".into()), (Bytes::new(), None));
        assert_eq!(
            watch.look(&"0\x07$ ".into()),
            (Bytes::new(), Some((true, "$ ".into())))
        );
    }

    #[test]
    fn what_follows_the_marker_is_left_for_the_next() {
        let init = Init {
            commands: vec![],
            timeout: None,
            silent: false,
        };
        let (mut watch, _) = InitWatch::begin(&init, "n");
        assert_eq!(watch.look(&"a\x1b]6973;n;1".into()).1, None);
        assert_eq!(
            watch.look(&"\x07b\x1b]6973;m;0\x07".into()),
            ("\x07".into(), Some((false, "b\x1b]6973;m;0\x07".into())))
        );
    }

    proptest! {
        /// Whatever way UTF-8 is cut into pieces, the same text comes out.
        #[test]
        fn text_survives_any_cut(text in "\\PC{0,120}", cut in 1usize..9) {
            let mut encoder = Encoder::default();
            let mut out = String::new();
            for piece in text.as_bytes().chunks(cut) {
                out.push_str(&output(&mut encoder, piece).concat());
            }
            prop_assert_eq!(out, text);
        }

        #[test]
        fn no_bytes_panic(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let mut encoder = Encoder::default();
            let (mut watch, _) = InitWatch::begin(&Init { commands: vec![], timeout: None, silent: false }, "n");
            for piece in pieces {
                output(&mut encoder, &piece);
                watch.look(&piece.into());
                prop_assert!(encoder.tail.len() <= 3);
            }
        }
    }
}
