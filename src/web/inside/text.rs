//! Output as JSON has it: text, and base64 where it is none.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Serialize;

/// The longest beginning of a character that can be kept for the rest of it, bytes.
const MAX_PART: usize = 3;

/// A piece of output.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::web) enum Piece {
    /// Text.
    Data(String),
    /// Bytes that are no text.
    DataBase64(String),
}

/// Makes pieces of output, in which no character is split.
#[derive(Debug, Default)]
pub(in crate::web) struct Pieces {
    /// The beginning of a character.
    part: Vec<u8>,
}

impl Pieces {
    /// The next piece; `None` if these bytes are only the beginning of a character.
    pub(in crate::web) fn next(&mut self, bytes: &Bytes) -> Option<Piece> {
        let mut whole = std::mem::take(&mut self.part);
        whole.extend_from_slice(bytes);
        let cut = match str::from_utf8(&whole) {
            // Cut off in the middle of a character, not wrong.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => whole.len(),
        };
        if whole.len() - cut <= MAX_PART {
            self.part = whole.split_off(cut);
        }
        (!whole.is_empty()).then(|| piece(whole))
    }

    /// Bytes that are held back.
    pub(in crate::web) fn held(&self) -> usize {
        self.part.len()
    }

    /// What is left at the end.
    pub(in crate::web) fn rest(&mut self) -> Option<Piece> {
        let part = std::mem::take(&mut self.part);
        (!part.is_empty()).then(|| piece(part))
    }
}

fn piece(bytes: Vec<u8>) -> Piece {
    match String::from_utf8(bytes) {
        Ok(text) => Piece::Data(text),
        Err(error) => Piece::DataBase64(BASE64_STANDARD.encode(error.as_bytes())),
    }
}

/// Makes text of output, in which no character is split, for clients that have no word for bytes. What
/// is no text is shown as U+FFFD.
#[derive(Debug, Default)]
pub(in crate::web) struct Lossy {
    /// The beginning of a character.
    part: Vec<u8>,
}

impl Lossy {
    /// The next text.
    pub(in crate::web) fn next(&mut self, bytes: &[u8]) -> String {
        let mut whole = std::mem::take(&mut self.part);
        whole.extend_from_slice(bytes);
        let last = whole
            .utf8_chunks()
            .last()
            .map_or(&[][..], |chunk| chunk.invalid());
        // The beginning of a character, as far as it goes.
        let begun = str::from_utf8(last).is_err_and(|error| error.error_len().is_none());
        let cut = whole.len() - if begun { last.len() } else { 0 };
        let text = String::from_utf8_lossy(&whole[..cut]).into_owned();
        self.part = whole.split_off(cut);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(piece: Option<Piece>) -> Vec<u8> {
        match piece {
            None => Vec::new(),
            Some(Piece::Data(text)) => text.into_bytes(),
            Some(Piece::DataBase64(text)) => BASE64_STANDARD.decode(text).unwrap(),
        }
    }

    #[test]
    fn a_character_in_two_parts_stays_whole() {
        let mut pieces = Pieces::default();
        let (one, other) = "ä€😀".as_bytes().split_at(7);
        let first = pieces.next(&Bytes::copy_from_slice(one));
        assert_eq!(first, Some(Piece::Data("ä€".into())));
        let second = pieces.next(&Bytes::copy_from_slice(other));
        assert_eq!(second, Some(Piece::Data("😀".into())));
        assert_eq!(pieces.rest(), None);
    }

    #[test]
    fn what_is_no_text_is_shown_as_such() {
        let mut lossy = Lossy::default();
        let said: String = [&b"a\xe2\x82"[..], b"\xac\xff", b"b\xe2", b"c", b"\xf0\x9f"]
            .map(|bytes| lossy.next(bytes))
            .concat();
        assert_eq!(said, "a\u{20ac}\u{fffd}b\u{fffd}c");
    }

    proptest! {
        /// However text is cut, it comes out again.
        #[test]
        fn text_is_not_lost(string in "\\PC{0,60}", cut in 1usize..9) {
            let mut lossy = Lossy::default();
            let said: String = string.as_bytes().chunks(cut).map(|part| lossy.next(part)).collect();
            prop_assert_eq!(said, string);
        }

        /// However bytes are cut, they come out again.
        #[test]
        fn no_byte_is_lost(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 1usize..9) {
            let mut pieces = Pieces::default();
            let mut out = Vec::new();
            for part in bytes.chunks(cut) {
                out.extend(text(pieces.next(&Bytes::copy_from_slice(part))));
            }
            out.extend(text(pieces.rest()));
            prop_assert_eq!(out, bytes);
        }

        /// Text stays text.
        #[test]
        fn text_is_never_base64(string in "\\PC{0,60}", cut in 1usize..9) {
            let mut pieces = Pieces::default();
            for part in string.as_bytes().chunks(cut) {
                let piece = pieces.next(&Bytes::copy_from_slice(part));
                prop_assert!(!matches!(piece, Some(Piece::DataBase64(_))));
            }
            prop_assert_eq!(pieces.rest(), None);
        }
    }
}
