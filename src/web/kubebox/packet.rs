//! Packets of Socket.IO 5 on Engine.IO 4, as far as a WebSocket carries them. Pure.
//!
//! A text message's first digit is Engine.IO's kind; that of a message is followed by Socket.IO's. Only
//! the namespace `/` is known, and no binary attachments.

use serde_json::{Value, json};

use crate::web::protocol::{MAX_MESSAGE, millis};
use crate::web::websocket::{PING_EVERY, PONG_DEADLINE};

/// What a client says.
#[derive(Debug, PartialEq)]
pub(super) enum Packet {
    /// A sign of life, or nothing of importance.
    Pong,
    /// It wants one.
    Ping,
    /// It connects to the namespace.
    Connect,
    /// It goes.
    Leave,
    /// An event, its first argument, and the number by which it wants to hear that it has arrived.
    Event {
        name: String,
        argument: Value,
        id: Option<u64>,
    },
    /// An event of ours has arrived.
    Ack,
}

/// Read a message; `None` if it is none of these.
pub(super) fn read(text: &str) -> Option<Packet> {
    let mut chars = text.chars();
    match chars.next()? {
        '1' => Some(Packet::Leave),
        '2' => Some(Packet::Ping),
        '3' => Some(Packet::Pong),
        '4' => message(chars.as_str()),
        _ => None,
    }
}

fn message(text: &str) -> Option<Packet> {
    let mut chars = text.chars();
    let kind = chars.next()?;
    let rest = chars.as_str();
    match kind {
        // What comes behind it would be another namespace, or what is to prove who this is.
        '0' if !rest.starts_with('/') => Some(Packet::Connect),
        '1' => Some(Packet::Leave),
        '2' => event(rest),
        '3' => Some(Packet::Ack),
        _ => None,
    }
}

fn event(text: &str) -> Option<Packet> {
    let begin = text.find('[')?;
    let id = match &text[..begin] {
        "" => None,
        digits => Some(digits.parse().ok()?),
    };
    let Ok(Value::Array(arguments)) = serde_json::from_str(&text[begin..]) else {
        return None;
    };
    let mut arguments = arguments.into_iter();
    let Some(Value::String(name)) = arguments.next() else {
        return None;
    };
    let argument = arguments.next().unwrap_or_default();
    Some(Packet::Event { name, argument, id })
}

/// The first packet: who this is, and how often there is a sign of life.
pub(super) fn open(id: &str) -> String {
    let open = json!({
        "sid": id,
        "upgrades": [],
        "pingInterval": millis(PING_EVERY),
        "pingTimeout": millis(PONG_DEADLINE),
        "maxPayload": MAX_MESSAGE,
    });
    format!("0{open}")
}

/// The namespace is connected.
pub(super) fn connected(id: &str) -> String {
    format!("40{}", json!({"sid": id}))
}

/// A ping of the server's.
pub(super) const PING: &str = "2";

/// The answer to a client's.
pub(super) const PONG: &str = "3";

/// An event has arrived.
pub(super) fn ack(id: u64) -> String {
    format!("43{id}[]")
}

/// An event.
pub(super) fn emit(name: &str, argument: &Value) -> String {
    format!("42{}", json!([name, argument]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn packets_are_read() {
        let event = |id| Packet::Event {
            name: "check".into(),
            argument: json!({"a": [1]}),
            id,
        };
        for (text, packet) in [
            ("2probe", Packet::Ping),
            ("3", Packet::Pong),
            ("1", Packet::Leave),
            ("40", Packet::Connect),
            ("40{}", Packet::Connect),
            ("41", Packet::Leave),
            ("430[]", Packet::Ack),
            (r#"42["check",{"a":[1]}]"#, event(None)),
            (r#"4217["check",{"a":[1]},2]"#, event(Some(17))),
        ] {
            assert_eq!(read(text), Some(packet), "{text}");
        }
        for text in [
            "",
            "4",
            "5",
            "x",
            "40/admin,",
            "42",
            "42[]",
            "42[1]",
            "42{}",
            "42x[\"a\"]",
            "451-[\"a\"]",
            "42[\"a\"",
            "42/admin,[\"a\"]",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn packets_are_written() {
        assert_eq!(emit("a", &json!({"b": 1})), r#"42["a",{"b":1}]"#);
        assert_eq!(ack(3), "433[]");
        assert!(open("x").starts_with("0{"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9]{0,4}\\PC{0,40}") {
            let _ = read(&text);
        }
    }
}
