//! The line in front of the places for sandboxes: first come, first served.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::SandboxId;
use super::registry::{Registry, Slot};

/// Where a visitor stands in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// 1 is next.
    pub position: usize,
    /// How long it will take, judged by how often places came free of late; `None` while that is
    /// not known.
    pub eta: Option<Duration>,
}

/// What has come of waiting.
#[derive(Debug)]
pub enum Turn {
    /// The visitor has moved, or the estimate has changed.
    Moved(Place),
    /// It is the visitor's turn. The ticket is used up.
    Yours(Slot),
}

/// A visitor's place in line. Dropping it leaves the line.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
    id: SandboxId,
    registry: Arc<Registry>,
    changes: watch::Receiver<usize>,
    told: Option<Place>,
}

impl Ticket {
    pub(super) fn new(number: u64, registry: Arc<Registry>) -> Self {
        Self {
            number,
            id: SandboxId::random(),
            changes: registry.changes(),
            registry,
            told: None,
        }
    }

    /// Resolves at once with the first place, then with every new one, at last with the slot.
    /// Cancel-safe. A place that comes free waits for whoever is next, so keep polling until then.
    pub async fn next(&mut self) -> Turn {
        loop {
            // Before looking, so that no change after the look is missed.
            self.changes.mark_unchanged();
            match self.registry.turn(self.number, &self.id) {
                Some(Turn::Moved(place)) if self.told == Some(place) => {}
                Some(Turn::Moved(place)) => {
                    self.told = Some(place);
                    return Turn::Moved(place);
                }
                Some(turn) => return turn,
                None => std::future::pending().await,
            }
            // The registry is held here, so the channel stays open.
            let _ = self.changes.changed().await;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.registry.leave(self.number);
    }
}

/// The tickets in line, and how fast it moves. Pure; the registry holds it under its lock.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Ascending.
    tickets: VecDeque<u64>,
    next: u64,
    pace: Pace,
}

impl Line {
    pub(super) fn len(&self) -> usize {
        self.tickets.len()
    }

    /// A new ticket at the end of the line; `None` if `max` are in it already.
    pub(super) fn join(&mut self, max: usize) -> Option<u64> {
        (self.tickets.len() < max).then(|| {
            let number = self.next;
            self.next += 1;
            self.tickets.push_back(number);
            number
        })
    }

    /// Whether the ticket was in line.
    pub(super) fn leave(&mut self, number: u64) -> bool {
        let at = self.tickets.binary_search(&number);
        at.is_ok_and(|at| self.tickets.remove(at).is_some())
    }

    /// Where a ticket stands; `None` if it is not in line.
    pub(super) fn place(&self, number: u64) -> Option<Place> {
        let position = self.tickets.binary_search(&number).ok()? + 1;
        Some(Place {
            position,
            eta: self.pace.wait(position),
        })
    }

    /// A place was taken, perhaps the last.
    pub(super) fn taken(&mut self, all_taken: bool, now: Instant) {
        if all_taken {
            self.pace.since.get_or_insert(now);
        } else if self.tickets.is_empty() {
            self.pace.since = None;
        }
    }

    /// A place has come free.
    pub(super) fn freed(&mut self, now: Instant) {
        self.pace.freed(now);
        // As good as taken again, though the visitor has not come to it yet.
        self.pace.since = (!self.tickets.is_empty()).then_some(now);
    }
}

/// Intervals that the estimate looks back on: enough to be steady, few enough to follow the day.
const INTERVALS: usize = 16;

/// Intervals without which there is no estimate.
const MIN_INTERVALS: usize = 2;

/// How fast places come free while all of them are taken. At other times it says nothing about how
/// long a line would take.
#[derive(Debug, Default)]
struct Pace {
    /// Oldest first.
    intervals: VecDeque<Duration>,
    /// Since when every place has been taken, or promised to the line, without one coming free.
    since: Option<Instant>,
}

impl Pace {
    fn freed(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            if self.intervals.len() == INTERVALS {
                self.intervals.pop_front();
            }
            self.intervals.push_back(now.duration_since(since));
        }
    }

    /// How long until `places` have come free.
    fn wait(&self, places: usize) -> Option<Duration> {
        let intervals = u32::try_from(self.intervals.len()).ok()?;
        let places = u32::try_from(places).ok()?;
        if self.intervals.len() < MIN_INTERVALS {
            return None;
        }
        let sum: Duration = self.intervals.iter().sum();
        Some((sum / intervals).saturating_mul(places))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn position(line: &Line, number: u64) -> usize {
        line.place(number).unwrap().position
    }

    fn eta(line: &Line, number: u64) -> Option<Duration> {
        line.place(number).unwrap().eta
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn whoever_leaves_lets_those_behind_move_up() {
        let mut line = Line::default();
        let [a, b, c] = [(); 3].map(|()| line.join(3).unwrap());
        assert_eq!(line.join(3), None, "full");
        assert_eq!(position(&line, c), 3);
        assert!(line.leave(b));
        assert!(!line.leave(b), "once");
        assert_eq!((position(&line, a), position(&line, c)), (1, 2));
        let d = line.join(3).unwrap();
        assert_eq!(position(&line, d), 3, "at the end, not in the gap");
    }

    #[tokio::test(start_paused = true)]
    async fn the_estimate_comes_from_recent_intervals_and_follows_them() {
        let mut line = Line::default();
        let mut now = Instant::now();
        let ticket = line.join(10).unwrap();
        line.join(10).unwrap();
        line.taken(true, now);
        now += 10 * SECOND;
        line.freed(now);
        assert_eq!(eta(&line, ticket), None, "one interval says little");
        now += 20 * SECOND;
        line.freed(now);
        assert_eq!(eta(&line, ticket), Some(15 * SECOND));
        assert_eq!(eta(&line, ticket + 1), Some(30 * SECOND));
        for _ in 0..INTERVALS {
            now += 2 * SECOND;
            line.freed(now);
        }
        assert_eq!(line.pace.intervals.len(), INTERVALS);
        assert_eq!(eta(&line, ticket), Some(2 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn time_with_free_places_does_not_count() {
        let mut line = Line::default();
        let mut now = Instant::now();
        for _ in 0..2 {
            line.taken(true, now);
            now += SECOND;
            line.freed(now);
            // A quiet hour.
            now += 3600 * SECOND;
            line.freed(now);
        }
        let ticket = line.join(10).unwrap();
        assert_eq!(eta(&line, ticket), Some(SECOND));
    }

    proptest! {
        /// Whoever comes and goes, in whatever order: those in line stand as they came.
        #[test]
        fn order_is_the_order_of_arrival(steps in proptest::collection::vec((any::<bool>(), 0usize..8), 0..200)) {
            let mut line = Line::default();
            let mut model: Vec<u64> = Vec::new();
            for (joins, at) in steps {
                if joins {
                    let joined = line.join(8);
                    prop_assert_eq!(joined.is_some(), model.len() < 8);
                    model.extend(joined);
                } else if at < model.len() {
                    prop_assert!(line.leave(model.remove(at)));
                }
                prop_assert_eq!(line.len(), model.len());
                for (before, number) in model.iter().enumerate() {
                    prop_assert_eq!(position(&line, *number), before + 1);
                }
            }
        }
    }
}
