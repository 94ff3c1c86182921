//! A terminal's recent output, addressed by byte offset.

use belljar_link::message::HISTORY_BYTES;

/// What [`History::read`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// Bytes from the asked offset on.
    Bytes(Vec<u8>),
    /// The asked offset is no longer held; the oldest that is.
    Expired {
        /// Offset of the oldest byte held.
        start: u64,
    },
    /// Nothing after the asked offset yet.
    UpToDate,
}

/// A ring of the last [`HISTORY_BYTES`] bytes. Offsets count every byte ever pushed.
#[derive(Debug)]
pub(crate) struct History {
    /// Grows to its bound as output comes, so that a quiet terminal costs nothing.
    ring: Vec<u8>,
    /// Offset after the newest byte; `end % CAPACITY` is where the next byte goes.
    end: u64,
}

const CAPACITY: usize = HISTORY_BYTES as usize;

impl History {
    pub(crate) const fn new() -> Self {
        Self {
            ring: Vec::new(),
            end: 0,
        }
    }

    /// Offset of the oldest byte held.
    pub(crate) fn start(&self) -> u64 {
        self.end - self.ring.len() as u64
    }

    /// Offset after the newest byte.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Where in the ring an offset lies.
    fn index(offset: u64) -> usize {
        // The remainder is below CAPACITY, which fits.
        #[expect(clippy::cast_possible_truncation)]
        let index = (offset % CAPACITY as u64) as usize;
        index
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        // Of more than a ringful only the last ringful can stay.
        let skipped = bytes.len().saturating_sub(CAPACITY);
        let mut rest = &bytes[skipped..];
        let mut end = self.end + skipped as u64;
        if skipped > 0 {
            self.ring.resize(CAPACITY, 0);
        }
        while !rest.is_empty() {
            let at = Self::index(end);
            let room = CAPACITY - at;
            let (now, later) = rest.split_at(rest.len().min(room));
            if self.ring.len() < at + now.len() {
                self.ring.resize(at + now.len(), 0);
            }
            self.ring[at..at + now.len()].copy_from_slice(now);
            end += now.len() as u64;
            rest = later;
        }
        self.end = end;
    }

    /// Up to `max` bytes from `offset` on. An offset beyond the end reads as up to date.
    pub(crate) fn read(&self, offset: u64, max: usize) -> Read {
        if offset < self.start() {
            return Read::Expired {
                start: self.start(),
            };
        }
        let Some(available) = self.end.checked_sub(offset).filter(|n| *n > 0) else {
            return Read::UpToDate;
        };
        let length = usize::try_from(available).unwrap_or(usize::MAX).min(max);
        let at = Self::index(offset);
        let first = length.min(CAPACITY - at);
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&self.ring[at..at + first]);
        bytes.extend_from_slice(&self.ring[..length - first]);
        Read::Bytes(bytes)
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "small numbers and wrapping bytes"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The ring agrees with a plain vector of everything ever written.
        #[test]
        fn agrees_with_a_model(
            pushes in proptest::collection::vec((0usize..90_000, any::<u8>()), 0..12),
            probes in proptest::collection::vec((0u64..1_100_000, 1usize..70_000), 1..20),
        ) {
            let mut history = History::new();
            let mut model: Vec<u8> = Vec::new();
            for (length, seed) in pushes {
                let bytes: Vec<u8> = (0..length).map(|i| seed.wrapping_add(i as u8)).collect();
                history.push(&bytes);
                model.extend_from_slice(&bytes);
            }
            let start = model.len().saturating_sub(CAPACITY);
            prop_assert_eq!(history.start(), start as u64);
            prop_assert_eq!(history.end(), model.len() as u64);
            for (offset, max) in probes {
                let at = offset as usize;
                let expected = if at < start {
                    Read::Expired { start: start as u64 }
                } else if at >= model.len() {
                    Read::UpToDate
                } else {
                    Read::Bytes(model[at..(at + max).min(model.len())].to_vec())
                };
                prop_assert_eq!(history.read(offset, max), expected);
            }
        }
    }

    #[test]
    fn one_push_larger_than_the_ring_keeps_its_tail() {
        let mut history = History::new();
        history.push(b"before");
        let big: Vec<u8> = (0..CAPACITY + 10).map(|i| (i % 251) as u8).collect();
        history.push(&big);
        assert_eq!(history.start(), 16);
        assert_eq!(history.read(16, CAPACITY), Read::Bytes(big[10..].to_vec()));
    }
}
