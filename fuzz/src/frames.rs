//! The link's frames, as a hostile agent or gateway may lay them out.

use belljar_link::frame::{Frame, FrameCodec, FrameError, MAX_MESSAGE};
use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

use crate::pieces::pieces;

/// However a stream is cut, the same frames come out and the same end; no announced length takes
/// more memory than the largest frame; and what was read is written as it was.
pub fn hold(bytes: &[u8]) {
    let mut whole = BytesMut::from(bytes);
    let (frames, refused) = decode(&mut whole);

    let mut buffer = BytesMut::new();
    let mut cut = (Vec::new(), false);
    for piece in pieces(bytes) {
        buffer.extend_from_slice(piece);
        if !cut.1 {
            let (more, refused) = decode(&mut buffer);
            cut.0.extend(more);
            cut.1 = refused;
        }
        assert!(buffer.capacity() <= 2 * (MAX_MESSAGE + bytes.len() + 64));
    }
    assert_eq!(cut, (frames.clone(), refused), "the cuts have changed it");

    let mut again = BytesMut::new();
    for frame in frames {
        let written = FrameCodec.encode(frame, &mut again);
        written.expect("what was read is within the bounds");
    }
    assert!(bytes.starts_with(&again), "it is written as it was read");
    let consumed = bytes.len() - whole.len();
    assert_eq!(again.len(), consumed, "nothing is skipped");
}

/// Every whole frame, and whether the rest was refused.
fn decode(buffer: &mut BytesMut) -> (Vec<Frame>, bool) {
    let mut frames = Vec::new();
    loop {
        match FrameCodec.decode(buffer) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, false),
            Err(FrameError::UnknownKind(_) | FrameError::TooLong { .. }) => return (frames, true),
            Err(other) => panic!("no reason to refuse a frame: {other}"),
        }
    }
}
