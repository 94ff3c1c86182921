//! An owner's acknowledgements, gathered on their way to the agent.
//!
//! Each one wakes the agent inside gVisor, which costs more than the output it is about: a client that
//! acknowledges every frame, as it should, would halve its own flood.

use std::time::Duration;

use tokio::time::Instant;

/// The agent learns of every so many-th part of the window at once, so a program always has the
/// rest of it.
const PARTS: u64 = 4;

/// And of less after this long, so that no program waits for an acknowledgement that was given.
const LATEST: Duration = Duration::from_millis(50);

/// What the client has processed, and what of that the agent has been told.
pub(super) struct Acks {
    step: u64,
    processed: u64,
    told: u64,
    /// When the agent is to be told at the latest.
    due: Option<Instant>,
}

impl Acks {
    /// Of a client that has processed everything before `offset`, with a window of so many bytes.
    pub(super) fn new(offset: u64, window: u32) -> Self {
        Self {
            step: u64::from(window) / PARTS,
            processed: offset,
            told: offset,
            due: None,
        }
    }

    /// The client has processed everything before `offset`. What the agent is to be told now, if
    /// anything.
    pub(super) fn add(&mut self, offset: u64, now: Instant) -> Option<u64> {
        if offset <= self.processed {
            return None;
        }
        self.processed = offset;
        if offset - self.told >= self.step {
            return Some(self.take());
        }
        self.due.get_or_insert(now + LATEST);
        None
    }

    /// When [`Acks::take`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What the agent is to be told.
    pub(super) fn take(&mut self) -> u64 {
        self.due = None;
        self.told = self.processed;
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_window_is_told_at_once_and_less_of_it_soon() {
        let now = Instant::now();
        let mut acks = Acks::new(1000, 4096);
        assert_eq!(acks.add(2000, now), None);
        assert_eq!(acks.add(2024, now + LATEST), Some(2024));
        assert_eq!(acks.due(), None);

        // The first of those that wait says for how long.
        assert_eq!(acks.add(2100, now), None);
        assert_eq!(acks.add(2200, now + LATEST / 2), None);
        assert_eq!(acks.due(), Some(now + LATEST));
        assert_eq!(acks.take(), 2200);
        assert_eq!(acks.due(), None);
    }

    #[test]
    fn what_goes_back_changes_nothing() {
        let now = Instant::now();
        let mut acks = Acks::new(1000, 4096);
        assert_eq!(acks.add(1000, now), None);
        assert_eq!(acks.add(0, now), None);
        assert_eq!(acks.due(), None);
    }
}
