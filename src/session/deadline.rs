//! A session's clocks: idle, maximum duration, detached. Pure: time is a parameter.

use std::time::Duration;

use tokio::time::Instant;

use super::EndReason;

/// How long before the end a visitor is warned, at most.
const WARNING: Duration = Duration::from_secs(60);

/// The warning comes this fraction of a short period before its end.
const SHORT_WARNING: u32 = 4;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The session will end for want of input after this long.
    WarnIdle(Duration),
    /// The session will reach its maximum duration after this long.
    WarnExpiry(Duration),
    /// It is over.
    End(EndReason),
}

/// The clocks.
#[derive(Debug)]
pub(super) struct Deadlines {
    idle_timeout: Duration,
    detach_timeout: Duration,
    begun: Instant,
    expires: Instant,
    /// `None` while a viewer is attached.
    detached: Option<Instant>,
    /// The activity before which the idle warning was given.
    idle_warned: Option<Instant>,
    expiry_warned: bool,
}

impl Deadlines {
    /// The clocks of a session that begins now, without a viewer.
    pub(super) fn new(
        idle_timeout: Duration,
        max_duration: Duration,
        detach_timeout: Duration,
        now: Instant,
    ) -> Self {
        Self {
            idle_timeout,
            detach_timeout,
            begun: now,
            expires: now + max_duration,
            detached: Some(now),
            idle_warned: None,
            expiry_warned: false,
        }
    }

    /// A viewer has come. It counts as activity: see [`Deadlines::next`]'s `active`.
    pub(super) fn attached(&mut self) {
        self.detached = None;
        self.idle_warned = None;
        self.expiry_warned = false;
    }

    /// The last viewer has gone.
    pub(super) fn detached(&mut self, now: Instant) {
        self.detached = Some(now);
    }

    fn warning(period: Duration) -> Duration {
        WARNING.min(period / SHORT_WARNING)
    }

    fn expiry_warning_at(&self) -> Instant {
        self.expires - Self::warning(self.expires - self.begun)
    }

    /// When to look again, the last activity having been at `active`.
    pub(super) fn next(&self, active: Instant) -> Instant {
        let mut next = self.expires;
        if let Some(since) = self.detached {
            return next.min(since + self.detach_timeout);
        }
        if !self.expiry_warned {
            next = next.min(self.expiry_warning_at());
        }
        let idle_end = active + self.idle_timeout;
        next.min(if self.idle_warned == Some(active) {
            idle_end
        } else {
            idle_end - Self::warning(self.idle_timeout)
        })
    }

    /// What is due now, the last activity having been at `active`. Call until it says `None`.
    pub(super) fn due(&mut self, active: Instant, now: Instant) -> Option<Due> {
        if now >= self.expires {
            return Some(Due::End(EndReason::MaxDuration));
        }
        if let Some(since) = self.detached {
            let over = now >= since + self.detach_timeout;
            return over.then_some(Due::End(EndReason::DetachTimeout));
        }
        let idle_end = active + self.idle_timeout;
        if now >= idle_end {
            return Some(Due::End(EndReason::IdleTimeout));
        }
        if now >= idle_end - Self::warning(self.idle_timeout) && self.idle_warned != Some(active) {
            self.idle_warned = Some(active);
            return Some(Due::WarnIdle(idle_end - now));
        }
        if now >= self.expiry_warning_at() && !self.expiry_warned {
            self.expiry_warned = true;
            return Some(Due::WarnExpiry(self.expires - now));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn clocks(now: Instant) -> Deadlines {
        let mut clocks = Deadlines::new(5 * MINUTE, 30 * MINUTE, MINUTE, now);
        clocks.attached();
        clocks
    }

    #[tokio::test(start_paused = true)]
    async fn warns_then_ends_for_want_of_input() {
        let begun = Instant::now();
        let mut clocks = clocks(begun);
        assert_eq!(clocks.due(begun, begun), None);
        let warn = clocks.next(begun);
        assert_eq!(warn - begun, 4 * MINUTE);
        assert_eq!(clocks.due(begun, warn), Some(Due::WarnIdle(MINUTE)));
        assert_eq!(clocks.due(begun, warn), None, "once");
        let end = clocks.next(begun);
        assert_eq!(end - begun, 5 * MINUTE);
        assert_eq!(
            clocks.due(begun, end),
            Some(Due::End(EndReason::IdleTimeout))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn input_resets_the_idle_clock_and_its_warning() {
        let begun = Instant::now();
        let mut clocks = clocks(begun);
        assert!(clocks.due(begun, begun + 4 * MINUTE).is_some());
        let active = begun + 4 * MINUTE + MINUTE / 2;
        assert_eq!(clocks.due(active, begun + 5 * MINUTE), None);
        assert_eq!(
            clocks.due(active, active + 4 * MINUTE),
            Some(Due::WarnIdle(MINUTE))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_resets_the_maximum() {
        let begun = Instant::now();
        let mut clocks = clocks(begun);
        let late = begun + 29 * MINUTE;
        assert_eq!(clocks.due(late, late), Some(Due::WarnExpiry(MINUTE)));
        assert_eq!(clocks.due(late, late), None);
        let end = begun + 30 * MINUTE;
        assert_eq!(clocks.due(end, end), Some(Due::End(EndReason::MaxDuration)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_viewer_may_come_back_for_a_while() {
        let begun = Instant::now();
        let mut clocks = clocks(begun);
        clocks.detached(begun);
        assert_eq!(clocks.next(begun) - begun, MINUTE);
        clocks.attached();
        assert_eq!(clocks.due(begun, begun + MINUTE), None);
        clocks.detached(begun + MINUTE);
        assert_eq!(
            clocks.due(begun, begun + 2 * MINUTE),
            Some(Due::End(EndReason::DetachTimeout))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn short_periods_are_warned_of_in_proportion() {
        let begun = Instant::now();
        let mut clocks = Deadlines::new(Duration::from_secs(4), MINUTE, MINUTE, begun);
        clocks.attached();
        let warn = clocks.next(begun);
        assert_eq!(warn - begun, Duration::from_secs(3));
        assert_eq!(
            clocks.due(begun, warn),
            Some(Due::WarnIdle(Duration::from_secs(1)))
        );
    }
}
