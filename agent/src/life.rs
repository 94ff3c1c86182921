//! When the sandbox must end: the dead-man's switch.
//!
//! Two clocks, both the agent's own, so that a sandbox dies on time even if no gateway is left
//! alive: the sandbox's deadline, and how long it may go without a link.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Longest deadline that is kept, so that clock arithmetic cannot overflow: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The two clocks.
#[derive(Debug)]
pub(crate) struct Life {
    deadline: Cell<Instant>,
    /// When the last gateway was lost; `None` while there is one.
    unlinked_since: Cell<Option<Instant>>,
    unlinked_limit: Duration,
    changed: Notify,
}

impl Life {
    pub(crate) fn new(deadline: Duration, unlinked_limit: Duration) -> Self {
        let now = Instant::now();
        Self {
            deadline: Cell::new(now + deadline.min(LONGEST)),
            unlinked_since: Cell::new(Some(now)),
            unlinked_limit: unlinked_limit.min(LONGEST),
            changed: Notify::new(),
        }
    }

    /// Move the deadline to `remaining` from now.
    pub(crate) fn set_deadline(&self, remaining: Duration) {
        self.deadline.set(Instant::now() + remaining.min(LONGEST));
        self.changed.notify_one();
    }

    /// Time left.
    pub(crate) fn remaining(&self) -> Duration {
        self.deadline
            .get()
            .saturating_duration_since(Instant::now())
    }

    /// A gateway has said hello, or its link was lost. A link that is lost without a hello changes
    /// nothing: what hangs or breaks at once is no gateway.
    pub(crate) fn set_linked(&self, linked: bool) {
        let since = (!linked).then(|| self.unlinked_since.get().unwrap_or_else(Instant::now));
        self.unlinked_since.set(since);
        self.changed.notify_one();
    }

    /// Resolves, with the reason, when the sandbox must end.
    pub(crate) async fn over(&self) -> &'static str {
        loop {
            let deadline = self.deadline.get();
            let unlinked = self
                .unlinked_since
                .get()
                .map(|since| since + self.unlinked_limit);
            let (at, reason) = match unlinked {
                Some(at) if at < deadline => (at, "no gateway has linked in time"),
                _ => (deadline, "the sandbox's deadline has passed"),
            };
            tokio::select! {
                () = sleep_until(at) => return reason,
                () = self.changed.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn ends_without_a_gateway_and_not_with_one() {
        let life = Life::new(HOUR, MINUTE);
        let begun = Instant::now();
        life.set_linked(true);
        tokio::select! {
            _ = life.over() => panic!("linked"),
            () = tokio::time::sleep(5 * MINUTE) => {}
        }
        life.set_linked(false);
        // Links without a hello do not count.
        tokio::time::sleep(MINUTE / 2).await;
        life.set_linked(false);
        assert_eq!(life.over().await, "no gateway has linked in time");
        assert_eq!(begun.elapsed().as_secs(), 6 * 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_moved_deadline_counts_even_while_waiting() {
        let life = Life::new(HOUR, MINUTE);
        life.set_linked(true);
        let begun = Instant::now();
        let (reason, ()) = tokio::join!(life.over(), async {
            tokio::time::sleep(MINUTE).await;
            life.set_deadline(MINUTE);
        });
        assert_eq!(reason, "the sandbox's deadline has passed");
        assert_eq!(begun.elapsed().as_secs(), 120);
        life.set_deadline(Duration::MAX);
        assert!(life.remaining() > HOUR);
    }
}
