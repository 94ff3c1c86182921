//! The newest output of a process: both streams in the order of arrival, addressed by one byte
//! offset. No I/O.

use std::collections::VecDeque;

use belljar_link::message::process::OUTPUT_BYTES;

/// Largest piece that is kept as one, bytes.
const CHUNK: usize = 16 * 1024;

/// Most pieces. A program that writes single bytes to both streams in turn makes one of each; this
/// many cost as much as the bytes of a program that does not.
const MAX_CHUNKS: usize = 2048;

/// What a read finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// The next bytes, all of one stream, behind a first byte that says which: as they are sent.
    Bytes(Vec<u8>),
    /// The offset is no longer held; the oldest that is.
    Expired {
        /// Offset of the oldest byte held.
        start: u64,
    },
    /// Nothing after the asked offset yet.
    UpToDate,
}

/// See the module's documentation. Offsets count every byte ever pushed.
#[derive(Debug, Default)]
pub(crate) struct Output {
    chunks: VecDeque<Chunk>,
    /// Offset after the newest byte.
    end: u64,
}

#[derive(Debug)]
struct Chunk {
    stream: u8,
    /// Offset of its first byte.
    offset: u64,
    bytes: Vec<u8>,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

impl Output {
    /// Offset of the oldest byte held.
    pub(crate) fn start(&self) -> u64 {
        self.chunks.front().map_or(self.end, |chunk| chunk.offset)
    }

    /// Offset after the newest byte.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn push(&mut self, stream: u8, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = match self.chunks.back() {
                Some(last) if last.stream == stream => CHUNK.saturating_sub(last.bytes.len()),
                _ => 0,
            };
            if room == 0 {
                self.chunks.push_back(Chunk {
                    stream,
                    offset: self.end,
                    bytes: Vec::new(),
                });
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(last) = self.chunks.back_mut() {
                last.bytes.extend_from_slice(now);
            }
            self.end += now.len() as u64;
            bytes = later;
        }
        // Whole pieces, and only those that are wholly beyond what is promised.
        while let Some(first) = self.chunks.front()
            && (self.end - first.end() >= OUTPUT_BYTES as u64 || self.chunks.len() > MAX_CHUNKS)
        {
            self.chunks.pop_front();
        }
    }

    /// How many bytes may be pushed before something is lost to a reader who has read up to `taken`.
    pub(crate) fn room(&self, taken: u64) -> usize {
        let unread = self.chunks.len() - self.index(taken);
        // The pieces that as much as fits may become.
        if unread + OUTPUT_BYTES / CHUNK + 1 > MAX_CHUNKS {
            return 0;
        }
        let ahead = usize::try_from(self.end.saturating_sub(taken)).unwrap_or(usize::MAX);
        OUTPUT_BYTES.saturating_sub(ahead)
    }

    /// Up to `max` bytes of one stream from `offset` on. An offset beyond the end is up to date.
    pub(crate) fn read(&self, offset: u64, max: usize) -> Read {
        if offset < self.start() {
            return Read::Expired {
                start: self.start(),
            };
        }
        let Some(chunk) = self.chunks.get(self.index(offset)) else {
            return Read::UpToDate;
        };
        let skipped = usize::try_from(offset - chunk.offset).expect("it lies in this piece");
        let bytes = &chunk.bytes[skipped..];
        let bytes = &bytes[..bytes.len().min(max)];
        let mut framed = Vec::with_capacity(1 + bytes.len());
        framed.push(chunk.stream);
        framed.extend_from_slice(bytes);
        Read::Bytes(framed)
    }

    /// Which piece holds the byte at `offset`; as many as there are if none does.
    fn index(&self, offset: u64) -> usize {
        self.chunks.partition_point(|chunk| chunk.end() <= offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whoever reads all along sees every byte, in order and of the right stream; whoever comes
        /// late is told where it goes on; and it never grows beyond its bounds.
        #[test]
        fn agrees_with_a_model(
            pushes in proptest::collection::vec((1u8..=2, 0usize..60_000), 0..30),
            most in 1usize..70_000,
        ) {
            let mut output = Output::default();
            let mut model: Vec<(u8, u8)> = Vec::new();
            for (stream, length) in pushes {
                let bytes: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).expect("small")).collect();
                model.extend(bytes.iter().map(|byte| (stream, *byte)));
                output.push(stream, &bytes);
                prop_assert_eq!(output.end(), model.len() as u64);
                let held = output.end() - output.start();
                prop_assert!(held <= (OUTPUT_BYTES + CHUNK) as u64);
                prop_assert!(held >= output.end().min(OUTPUT_BYTES as u64));
            }
            let mut offset = output.start();
            if offset > 0 {
                prop_assert_eq!(output.read(offset - 1, most), Read::Expired { start: offset });
            }
            loop {
                match output.read(offset, most) {
                    Read::Bytes(framed) => {
                        prop_assert!(framed.len() > 1 && framed.len() <= most + 1);
                        for byte in &framed[1..] {
                            let at = usize::try_from(offset).expect("small");
                            prop_assert_eq!(model[at], (framed[0], *byte));
                            offset += 1;
                        }
                    }
                    Read::UpToDate => break,
                    Read::Expired { .. } => prop_assert!(false, "it was held"),
                }
            }
            prop_assert_eq!(offset, output.end());
        }

        /// Who pushes no more than there is room for loses nothing that was not taken.
        #[test]
        fn what_was_not_taken_is_held(
            turns in proptest::collection::vec((1u8..=2, 0usize..80_000, 0u64..90_000), 0..200),
        ) {
            let mut output = Output::default();
            let mut taken = 0;
            for (stream, length, take) in turns {
                let length = length.min(output.room(taken));
                output.push(stream, &vec![0; length]);
                prop_assert!(output.start() <= taken);
                taken = (taken + take).min(output.end());
            }
        }
    }

    #[test]
    fn single_bytes_of_both_streams_in_turn_are_bounded() {
        let mut output = Output::default();
        for turn in 0..10_000_u64 {
            output.push(u8::try_from(turn % 2).expect("small"), b"x");
        }
        assert!(output.chunks.len() <= MAX_CHUNKS);
        assert_eq!(output.room(output.start()), 0, "a reader holds the program");
        assert_eq!(output.room(output.end()), OUTPUT_BYTES);
    }
}
