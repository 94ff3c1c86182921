//! When the sandbox must end: the dead-man's switch.
//!
//! Two clocks, both the agent's own, so that a sandbox dies on time even if no gateway is left
//! alive: the sandbox's deadline, and how long it may go without a link.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Longest deadline that is kept, so that clock arithmetic cannot overflow: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Where a lost gateway leaves no trace, it counts as lost once nothing was heard of it for so long:
/// three of the pings that a gateway sends every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// The two clocks, running.
pub(crate) struct Life {
    clocks: Mutex<Clocks>,
    changed: Condvar,
}

impl Life {
    pub(crate) fn new(deadline: Duration, unlinked_limit: Duration) -> Self {
        Self {
            clocks: Mutex::new(Clocks::new(deadline, unlinked_limit, Instant::now())),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Clocks> {
        self.clocks.lock().expect("no panic while it is held")
    }

    /// Move the deadline to `remaining` from now.
    pub(crate) fn set_deadline(&self, remaining: Duration) {
        self.lock().set_deadline(remaining, Instant::now());
        self.changed.notify_one();
    }

    /// The sandbox may be without a gateway for so long from now on.
    pub(crate) fn set_unlinked(&self, limit: Duration) {
        self.lock().unlinked_limit = limit.min(LONGEST);
        self.changed.notify_one();
    }

    /// Time left.
    pub(crate) fn remaining(&self) -> Duration {
        let deadline = self.lock().deadline;
        deadline.saturating_duration_since(Instant::now())
    }

    /// A gateway has said hello, or its link was lost. A link that is lost without a hello changes
    /// nothing: what hangs or breaks at once is no gateway.
    pub(crate) fn set_linked(&self, linked: bool) {
        self.lock().set_linked(linked, Instant::now());
        self.changed.notify_one();
    }

    /// From now on, a gateway is lost when it is silent, too: its link does not tell. An engine's attach
    /// keeps the standard input of a container open when whoever was attached is gone.
    pub(crate) fn mistrust_silence(&self) {
        self.lock().heard = Some(Instant::now());
        self.changed.notify_one();
    }

    /// The gateway is there. Costs no wake-up: the end only moves away.
    pub(crate) fn heard(&self) {
        if let Some(heard) = &mut self.lock().heard {
            *heard = Instant::now();
        }
    }

    /// Wait until the sandbox must end; returns why.
    pub(crate) fn over(&self) -> &'static str {
        let mut clocks = self.lock();
        loop {
            let (at, reason) = clocks.end();
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return reason;
            }
            let waited = self.changed.wait_timeout(clocks, left);
            clocks = waited.expect("no panic while it is held").0;
        }
    }
}

/// What the clocks say, at times that are given.
#[derive(Debug)]
struct Clocks {
    deadline: Instant,
    /// When the last gateway was lost; `None` while there is one.
    unlinked_since: Option<Instant>,
    unlinked_limit: Duration,
    /// When a gateway was last heard, where its silence means that it is lost.
    heard: Option<Instant>,
}

impl Clocks {
    fn new(deadline: Duration, unlinked_limit: Duration, now: Instant) -> Self {
        Self {
            deadline: now + deadline.min(LONGEST),
            unlinked_since: Some(now),
            unlinked_limit: unlinked_limit.min(LONGEST),
            heard: None,
        }
    }

    fn set_deadline(&mut self, remaining: Duration, now: Instant) {
        self.deadline = now + remaining.min(LONGEST);
    }

    fn set_linked(&mut self, linked: bool, now: Instant) {
        self.unlinked_since = (!linked).then(|| self.unlinked_since.unwrap_or(now));
    }

    /// When the sandbox must end as things are, and why.
    fn end(&self) -> (Instant, &'static str) {
        let silent = || self.heard.map(|heard| heard + SILENCE);
        let unlinked = self.unlinked_since.or_else(silent);
        let unlinked = unlinked.map(|since| since + self.unlinked_limit);
        match unlinked {
            Some(at) if at < self.deadline => (at, "no gateway has linked in time"),
            _ => (self.deadline, "the sandbox's deadline has passed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn ends_without_a_gateway_and_not_with_one() {
        let begun = Instant::now();
        let mut clocks = Clocks::new(HOUR, MINUTE, begun);
        assert_eq!(clocks.end().0, begun + MINUTE);
        clocks.set_linked(true, begun);
        assert_eq!(clocks.end().0, begun + HOUR);
        clocks.set_linked(false, begun + 5 * MINUTE);
        // Links without a hello do not count.
        clocks.set_linked(false, begun + 5 * MINUTE + MINUTE / 2);
        let end = (begun + 6 * MINUTE, "no gateway has linked in time");
        assert_eq!(clocks.end(), end);
    }

    #[test]
    fn what_has_waited_long_without_a_gateway_waits_less_once_it_is_taken() {
        let begun = Instant::now();
        let mut clocks = Clocks::new(HOUR, HOUR / 2, begun);
        clocks.set_linked(true, begun);
        clocks.set_linked(false, begun);
        assert_eq!(clocks.end().0, begun + HOUR / 2);
        clocks.set_linked(true, begun + MINUTE);
        clocks.unlinked_limit = MINUTE;
        clocks.set_linked(false, begun + 10 * MINUTE);
        assert_eq!(clocks.end().0, begun + 11 * MINUTE);
    }

    #[test]
    fn a_silent_gateway_is_lost_where_nothing_else_tells() {
        let begun = Instant::now();
        let mut clocks = Clocks::new(HOUR, MINUTE, begun);
        clocks.set_linked(true, begun);
        clocks.heard = Some(begun + 5 * MINUTE);
        assert_eq!(clocks.end().0, begun + 6 * MINUTE + SILENCE);
        clocks.set_linked(false, begun + 5 * MINUTE);
        assert_eq!(clocks.end().0, begun + 6 * MINUTE);
    }

    #[test]
    fn a_moved_deadline_counts() {
        let begun = Instant::now();
        let mut clocks = Clocks::new(HOUR, MINUTE, begun);
        clocks.set_linked(true, begun);
        clocks.set_deadline(MINUTE, begun + MINUTE);
        let end = (begun + 2 * MINUTE, "the sandbox's deadline has passed");
        assert_eq!(clocks.end(), end);
        clocks.set_deadline(Duration::MAX, begun);
        assert!(clocks.end().0 > begun + HOUR);
    }

    #[test]
    fn a_change_is_noticed_while_waiting() {
        let life = Life::new(HOUR, HOUR);
        std::thread::scope(|scope| {
            let over = scope.spawn(|| life.over());
            life.set_deadline(Duration::ZERO);
            let reason = over.join().expect("no panic");
            assert_eq!(reason, "the sandbox's deadline has passed");
        });
    }
}
