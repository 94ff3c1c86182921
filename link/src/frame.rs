//! How messages and terminal bytes are laid out on a stream.
//!
//! ```text
//! frame = kind (1 byte: 0 data, 1 message) · length (4 bytes, big endian) · payload
//! ```
//!
//! A data frame's payload is terminal bytes, a message frame's is JSON. The length is checked
//! before a buffer is grown for it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::codec::{Decoder, Encoder};

/// Largest payload of a data frame, bytes. One read of a busy PTY fits; a frame is short enough
/// that events between frames are not delayed.
pub const MAX_DATA: usize = 64 * 1024;

/// Largest payload of a message frame, bytes. The largest message is an `open_terminal` with its
/// environment.
pub const MAX_MESSAGE: usize = 128 * 1024;

const HEADER: usize = 5;
const KIND_DATA: u8 = 0;
const KIND_MESSAGE: u8 = 1;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Terminal bytes.
    Data(Bytes),
    /// A JSON message, not yet parsed.
    Message(Bytes),
}

impl Frame {
    /// Encode a message. Fails only if it is larger than [`MAX_MESSAGE`].
    pub fn message<T: Serialize>(message: &T) -> Result<Self, FrameError> {
        let json = serde_json::to_vec(message).map_err(|e| FrameError::Json(e.to_string()))?;
        if json.len() > MAX_MESSAGE {
            return Err(FrameError::TooLong {
                length: json.len(),
                max: MAX_MESSAGE,
            });
        }
        Ok(Self::Message(json.into()))
    }

    /// Bytes of its payload.
    pub fn len(&self) -> usize {
        match self {
            Self::Data(payload) | Self::Message(payload) => payload.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Parse a message frame; a data frame is an error.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        match self {
            Self::Message(json) => {
                serde_json::from_slice(json).map_err(|e| FrameError::Json(e.to_string()))
            }
            Self::Data(_) => Err(FrameError::UnexpectedData),
        }
    }
}

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The connection failed.
    #[error("link: {0}")]
    Io(#[from] std::io::Error),
    /// The first byte is neither data nor message.
    #[error("link: unknown frame kind {0}")]
    UnknownKind(u8),
    /// The announced length is over the bound of its kind.
    #[error("link: a frame of {length} bytes is over the limit of {max}")]
    TooLong {
        /// Announced bytes.
        length: usize,
        /// Allowed bytes.
        max: usize,
    },
    /// The payload is not the JSON that was expected.
    #[error("link: bad message: {0}")]
    Json(String),
    /// A data frame stood where a message was expected.
    #[error("link: a data frame where a message was expected")]
    UnexpectedData,
}

/// [`Frame`]s on a byte stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct FrameCodec;

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if src.len() < HEADER {
            return Ok(None);
        }
        let kind = src[0];
        let max = match kind {
            KIND_DATA => MAX_DATA,
            KIND_MESSAGE => MAX_MESSAGE,
            other => return Err(FrameError::UnknownKind(other)),
        };
        let length = u32::from_be_bytes([src[1], src[2], src[3], src[4]]) as usize;
        if length > max {
            return Err(FrameError::TooLong { length, max });
        }
        if src.len() < HEADER + length {
            src.reserve(HEADER + length - src.len());
            return Ok(None);
        }
        src.advance(HEADER);
        let payload = src.split_to(length).freeze();
        Ok(Some(if kind == KIND_DATA {
            Frame::Data(payload)
        } else {
            Frame::Message(payload)
        }))
    }
}

impl Encoder<Frame> for FrameCodec {
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, dst: &mut BytesMut) -> Result<(), FrameError> {
        let (kind, payload, max) = match frame {
            Frame::Data(payload) => (KIND_DATA, payload, MAX_DATA),
            Frame::Message(payload) => (KIND_MESSAGE, payload, MAX_MESSAGE),
        };
        if payload.len() > max {
            return Err(FrameError::TooLong {
                length: payload.len(),
                max,
            });
        }
        dst.reserve(HEADER + payload.len());
        dst.put_u8(kind);
        // Cannot truncate: both bounds are far below 4 GiB.
        #[expect(clippy::cast_possible_truncation)]
        dst.put_u32(payload.len() as u32);
        dst.put_slice(&payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame() -> impl Strategy<Value = Frame> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..3000);
        (any::<bool>(), bytes).prop_map(|(data, bytes)| {
            if data {
                Frame::Data(bytes.into())
            } else {
                Frame::Message(bytes.into())
            }
        })
    }

    proptest! {
        /// Whatever way a stream is cut into pieces, the same frames come out.
        #[test]
        fn survives_any_fragmentation(frames in proptest::collection::vec(frame(), 0..8), cut in 1usize..700) {
            let mut wire = BytesMut::new();
            for frame in &frames {
                FrameCodec.encode(frame.clone(), &mut wire).unwrap();
            }
            let mut buffer = BytesMut::new();
            let mut out = Vec::new();
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = FrameCodec.decode(&mut buffer).unwrap() {
                    out.push(frame);
                }
            }
            prop_assert_eq!(out, frames);
            prop_assert!(buffer.is_empty());
        }

        /// Garbage is an error or an incomplete frame, never a panic and never a large buffer.
        #[test]
        fn garbage_is_bounded(garbage in proptest::collection::vec(any::<u8>(), 0..4000)) {
            let mut buffer = BytesMut::from(&garbage[..]);
            while let Ok(Some(_)) = FrameCodec.decode(&mut buffer) {}
            prop_assert!(buffer.capacity() <= 2 * (MAX_MESSAGE + HEADER + 4000));
        }
    }

    #[test]
    fn a_length_over_the_bound_is_refused_before_its_payload_comes() {
        let mut wire = BytesMut::from(&[KIND_DATA, 0xff, 0xff, 0xff, 0xff][..]);
        assert!(matches!(
            FrameCodec.decode(&mut wire),
            Err(FrameError::TooLong { max: MAX_DATA, .. })
        ));
    }

    #[test]
    fn unknown_fields_are_ignored_and_unknown_operations_are_errors() {
        use crate::message::Request;
        let newer = Frame::Message(Bytes::from_static(
            br#"{"op":"input","terminal":3,"colour":"red"}"#,
        ));
        assert_eq!(
            newer.parse::<Request>().unwrap(),
            Request::Input { terminal: 3 }
        );
        let unknown = Frame::Message(Bytes::from_static(br#"{"op":"teleport"}"#));
        assert!(unknown.parse::<Request>().is_err());
    }
}
