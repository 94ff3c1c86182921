//! A stream as it may come: cut anywhere.

/// Cut `bytes` into pieces of 0 to 63 bytes, all of it decided by its first byte and its length.
pub(crate) fn pieces(bytes: &[u8]) -> Vec<&[u8]> {
    let first = bytes.first().copied().unwrap_or_default();
    // A step of xorshift32 for each cut; never zero.
    let mut state =
        1 + u32::from(first) + 256 * u32::try_from(bytes.len()).unwrap_or(u32::MAX / 512);
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let (piece, after) = rest.split_at(rest.len().min(state as usize % 64));
        pieces.push(piece);
        rest = after;
    }
    pieces
}
