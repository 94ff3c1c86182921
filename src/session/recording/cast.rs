//! Terminal bytes to lines of an asciicast, version 2. Pure.
//!
//! The format: <https://docs.asciinema.org/manual/asciicast/v2/>. One JSON object, then one JSON
//! array for each event: seconds since the beginning, a code, text.

use std::time::{Duration, SystemTime};

use belljar_link::message::Size;
use serde_json::json;

/// Writes events, whose text is UTF-8: a character that lies across two reads is kept whole, what
/// is no character becomes U+FFFD.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    /// The beginning of a character whose end has not come yet; at most three bytes.
    tail: Vec<u8>,
}

/// The first line.
pub(super) fn header(size: Size, begun_at: SystemTime) -> Vec<u8> {
    let since = begun_at.duration_since(SystemTime::UNIX_EPOCH);
    let mut line = json!({
        "version": 2,
        "width": size.cols,
        "height": size.rows,
        "timestamp": since.unwrap_or_default().as_secs(),
        "env": {"TERM": "xterm-256color"},
    })
    .to_string();
    line.push('\n');
    line.into_bytes()
}

/// The terminal has another size.
pub(super) fn resize(at: Duration, size: Size, lines: &mut Vec<u8>) {
    event(at, "r", &format!("{}x{}", size.cols, size.rows), lines);
}

/// Something worth finding again.
pub(super) fn marker(at: Duration, label: &str, lines: &mut Vec<u8>) {
    event(at, "m", label, lines);
}

impl Encoder {
    /// The terminal has printed this.
    pub(super) fn output(&mut self, at: Duration, bytes: &[u8], lines: &mut Vec<u8>) {
        self.tail.extend_from_slice(bytes);
        let kept = unfinished(&self.tail);
        let tail = self.tail.split_off(self.tail.len() - kept);
        let whole = std::mem::replace(&mut self.tail, tail);
        if !whole.is_empty() {
            event(at, "o", &String::from_utf8_lossy(&whole), lines);
        }
    }

    /// What comes next does not continue what came: the end of a character will not come any more,
    /// and the screen begins anew (RIS, ECMA-48 §8.3.105).
    pub(super) fn gap(&mut self, at: Duration, from: u64, to: u64, lines: &mut Vec<u8>) {
        self.end(at, lines);
        marker(at, &format!("output from {from} to {to} is missing"), lines);
        event(at, "o", "\x1bc", lines);
    }

    /// There is no more output.
    pub(super) fn end(&mut self, at: Duration, lines: &mut Vec<u8>) {
        if !std::mem::take(&mut self.tail).is_empty() {
            event(at, "o", "\u{fffd}", lines);
        }
    }

    /// How many bytes have come that are in no event yet.
    pub(super) fn held(&self) -> u64 {
        self.tail.len() as u64
    }
}

/// How many bytes at the end are the beginning of a character that may still be finished.
fn unfinished(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last();
    let invalid = last.map_or(&[][..], |chunk| chunk.invalid());
    match str::from_utf8(invalid) {
        Err(error) if error.error_len().is_none() => invalid.len(),
        _ => 0,
    }
}

fn event(at: Duration, code: &str, text: &str, lines: &mut Vec<u8>) {
    // Milliseconds are finer than any screen, and short in text.
    let seconds = Duration::from_millis(u64::try_from(at.as_millis()).unwrap_or(u64::MAX));
    serde_json::to_writer(&mut *lines, &(seconds.as_secs_f64(), code, text))
        .expect("a vector takes everything");
    lines.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Event = (f64, String, String);

    fn events(lines: &[u8]) -> Vec<Event> {
        let lines = str::from_utf8(lines).unwrap().lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn text(lines: &[u8]) -> String {
        let output = events(lines).into_iter().filter(|e| e.1 == "o");
        output.map(|e| e.2).collect()
    }

    #[test]
    fn a_header_says_size_and_time() {
        let begun_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_504_467_315_900);
        let line = header(Size { cols: 80, rows: 24 }, begun_at);
        let header: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(str::from_utf8(&line).unwrap().lines().count(), 1);
        assert!(line.ends_with(b"\n"));
        assert_eq!(header["version"], 2);
        assert_eq!(header["width"], 80);
        assert_eq!(header["height"], 24);
        assert_eq!(header["timestamp"], 1_504_467_315);
    }

    #[test]
    fn events_are_those_of_the_format() {
        let mut encoder = Encoder::default();
        let mut lines = Vec::new();
        encoder.output(Duration::from_micros(248_848), b"\x1b[1mHi\n", &mut lines);
        resize(
            Duration::from_secs(4),
            Size {
                cols: 120,
                rows: 40,
            },
            &mut lines,
        );
        encoder.gap(Duration::from_millis(5500), 10, 20, &mut lines);
        assert_eq!(
            str::from_utf8(&lines).unwrap(),
            "[0.248,\"o\",\"\\u001b[1mHi\\n\"]\n\
             [4.0,\"r\",\"120x40\"]\n\
             [5.5,\"m\",\"output from 10 to 20 is missing\"]\n\
             [5.5,\"o\",\"\\u001bc\"]\n"
        );
    }

    #[test]
    fn a_character_over_two_reads_stays_whole_and_a_broken_one_is_replaced() {
        let mut encoder = Encoder::default();
        let mut lines = Vec::new();
        let now = Duration::ZERO;
        encoder.output(now, b"a\xf0\x9f", &mut lines);
        assert_eq!((text(&lines).as_str(), encoder.held()), ("a", 2));
        encoder.output(now, b"\xab", &mut lines);
        assert_eq!((text(&lines).as_str(), encoder.held()), ("a", 3));
        encoder.output(now, b"\x99b\xff", &mut lines);
        assert_eq!((text(&lines).as_str(), encoder.held()), ("a🫙b\u{fffd}", 0));
        encoder.output(now, b"\xe6\x97", &mut lines);
        encoder.end(now, &mut lines);
        assert_eq!(text(&lines), "a🫙b\u{fffd}\u{fffd}");
    }

    proptest! {
        /// However the bytes are cut, the text is that of the whole.
        #[test]
        fn survives_any_fragmentation(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 1usize..9) {
            let mut encoder = Encoder::default();
            let mut lines = Vec::new();
            for piece in bytes.chunks(cut) {
                encoder.output(Duration::ZERO, piece, &mut lines);
                prop_assert!(encoder.held() <= 3);
            }
            encoder.end(Duration::ZERO, &mut lines);
            prop_assert_eq!(text(&lines), String::from_utf8_lossy(&bytes));
        }
    }
}
