//! A visitor in line: no session yet, but everything that one needs except a place.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use super::Session;
use super::create::{CreateError, Plan};
use super::sessions::{Room, Sessions};
use crate::limit::Permit;
use crate::sandbox::{Place, Slot, Ticket, Turn};
use crate::secret::Token;

/// What became of a creation.
#[derive(Debug)]
pub enum Entry {
    /// The session has begun.
    Begun(Arc<Session>, Token),
    /// There is no place for it yet.
    Waiting(Box<Waiting>),
}

/// What has come of waiting.
#[derive(Debug)]
pub enum Progress {
    /// The visitor stands here now.
    Moved(Place),
    /// The session has begun; the wait is over.
    Begun(Arc<Session>, Token),
}

/// A visitor in line. Dropping it leaves the line, and nothing of the wait counts against the
/// visitor. The session's own clocks have not begun.
#[derive(Debug)]
pub struct Waiting {
    sessions: Arc<Sessions>,
    ticket: Ticket,
    /// Until the session has begun. The permit is held already, so that one client has no more
    /// places in line than it may have sessions.
    held: Option<(Plan, Permit)>,
    since: Instant,
    /// How the wait ends, for the metrics.
    outcome: &'static str,
}

impl Waiting {
    pub(super) fn new(sessions: Arc<Sessions>, ticket: Ticket, plan: Plan, permit: Permit) -> Self {
        Self {
            sessions,
            ticket,
            held: Some((plan, permit)),
            since: Instant::now(),
            outcome: "left",
        }
    }

    /// Resolves at once with the first place, then with every new one, at last with the session.
    /// Cancel-safe. Fails when the wait has become too long or pointless.
    pub async fn next(&mut self) -> Result<Progress, CreateError> {
        let limit = self.since + self.sessions.config.get().limits.queue_timeout;
        let mut leave = self.sessions.leave.subscribe();
        tokio::select! {
            biased;
            _ = leave.wait_for(Option::is_some) => {
                self.outcome = "shutdown";
                Err(CreateError::ShuttingDown)
            }
            turn = self.ticket.next() => match turn {
                Turn::Moved(place) => Ok(Progress::Moved(place)),
                Turn::Yours(slot) => self.begin(slot),
            },
            () = sleep_until(limit) => {
                self.outcome = "timeout";
                Err(CreateError::WaitedTooLong)
            }
        }
    }

    fn begin(&mut self, slot: Slot) -> Result<Progress, CreateError> {
        if let Err(error) = self.sessions.check_engine() {
            self.outcome = "engine_unavailable";
            return Err(error);
        }
        let (plan, permit) = self.held.take().expect("a ticket has one turn");
        self.outcome = "admitted";
        let (session, token) = self.sessions.begin(plan, permit, Room::Cold(slot));
        Ok(Progress::Begun(session, token))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((_, permit)) = &self.held {
            permit.forgive();
        }
        let wait = self.since.elapsed();
        self.sessions.metrics.waited(self.outcome, wait);
    }
}
