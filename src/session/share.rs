//! Who else may look at a session, or type into it: share tokens, and the viewers they let in.
//!
//! Terminal bytes and the session's task know nothing of this. Under one lock, like the store: a
//! token is looked up where it is presented, and check and reservation of a viewer's seat are one
//! step.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::secret::{Token, TokenHash, random_hex};
use crate::telemetry::Metrics;

/// Shares of a session. Each presented token is compared with all of them.
pub const MAX_SHARES: usize = 16;

/// Viewers of a session besides its owner. Each may keep 256 KiB of unread output in the gateway,
/// and two of the link's 128 streams.
pub const MAX_VIEWERS: usize = 32;

/// An operator's share without viewers counts as left behind after so long: who asked for it comes
/// within seconds, and comes back from a lost connection within a minute.
const UNUSED: Duration = Duration::from_secs(60);

/// A share's identity: `share_` and 32 hexadecimal digits. Opens nothing without its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareId(String);

impl ShareId {
    fn random() -> Self {
        Self(format!("share_{}", random_hex::<16>()))
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ShareId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a share lets its viewers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Watch.
    Read,
    /// Watch and type.
    Write,
}

impl Mode {
    /// The stable name in the API and the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// A share as it is kept, wherever that is: everything but the token itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShareRecord {
    /// Its identity.
    pub id: ShareId,
    token: TokenHash,
    /// What it lets its viewers do.
    pub mode: Mode,
    /// When it was created.
    #[serde(with = "humantime_serde")]
    pub created_at: SystemTime,
    /// Made for the operator, and not by the session's owner.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub operator: bool,
}

/// There are [`MAX_SHARES`] already.
#[derive(Debug, thiserror::Error)]
#[error("a session has at most {MAX_SHARES} shares")]
pub struct TooManyShares;

/// Why a share's token lets nobody in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeatError {
    /// No share has this token, or not any more.
    #[error("no share has this token")]
    WrongToken,
    /// There are [`MAX_VIEWERS`] already.
    #[error("a session has at most {MAX_VIEWERS} viewers")]
    TooManyViewers,
}

#[derive(Debug)]
struct Entry {
    record: ShareRecord,
    viewers: usize,
    /// Cancelled when the share is revoked.
    revoked: CancellationToken,
}

/// The shares of one session.
#[derive(Debug)]
pub struct Shares {
    entries: Mutex<Vec<Entry>>,
    /// Viewers of all shares, those of revoked ones included until they are gone.
    viewers: watch::Sender<usize>,
    metrics: Arc<Metrics>,
}

impl Shares {
    /// These shares, without viewers yet.
    pub fn new(records: Vec<ShareRecord>, metrics: Arc<Metrics>) -> Self {
        let entry = |record| Entry {
            record,
            viewers: 0,
            revoked: CancellationToken::new(),
        };
        Self {
            entries: Mutex::new(records.into_iter().map(entry).collect()),
            viewers: watch::Sender::new(0),
            metrics,
        }
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        // No code that could panic runs under the lock.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new share. The token is its viewers' only key.
    pub fn create(&self, mode: Mode) -> Result<(ShareRecord, Token), TooManyShares> {
        self.add(mode, false)
    }

    /// A new share for the operator, to watch. Earlier ones that nobody has come by for a while, or
    /// does any more, make room: an operator's page that was closed takes nothing back.
    pub fn create_for_operator(&self) -> Result<(ShareRecord, Token), TooManyShares> {
        let left = |entry: &Entry| {
            let age = entry.record.created_at.elapsed().unwrap_or_default();
            entry.record.operator && entry.viewers == 0 && age >= UNUSED
        };
        self.entries().retain(|entry| !left(entry));
        self.add(Mode::Read, true)
    }

    fn add(&self, mode: Mode, operator: bool) -> Result<(ShareRecord, Token), TooManyShares> {
        let mut entries = self.entries();
        if entries.len() >= MAX_SHARES {
            return Err(TooManyShares);
        }
        let token = Token::random();
        let record = ShareRecord {
            id: ShareId::random(),
            token: token.hash(),
            mode,
            created_at: SystemTime::now(),
            operator,
        };
        entries.push(Entry {
            record: record.clone(),
            viewers: 0,
            revoked: CancellationToken::new(),
        });
        Ok((record, token))
    }

    /// Every share, oldest first, with the viewers it has now.
    pub fn list(&self) -> Vec<(ShareRecord, usize)> {
        let entries = self.entries();
        let listed = entries.iter().map(|e| (e.record.clone(), e.viewers));
        listed.collect()
    }

    /// Take a share back: its token opens nothing any more, its viewers are sent away. False if
    /// there is no such share.
    pub fn revoke(&self, id: &str) -> bool {
        let mut entries = self.entries();
        let Some(at) = entries.iter().position(|e| e.record.id.as_str() == id) else {
            return false;
        };
        entries.remove(at).revoked.cancel();
        true
    }

    /// Whether a share has this token, in constant time for each.
    pub fn open_with(&self, presented: &str) -> bool {
        let presented = TokenHash::of(presented);
        self.entries()
            .iter()
            .any(|entry| entry.record.token.is(&presented))
    }

    /// Let a viewer in.
    pub fn seat(self: &Arc<Self>, presented: &str) -> Result<Seat, SeatError> {
        let presented = TokenHash::of(presented);
        let mut entries = self.entries();
        let entry = entries.iter_mut().find(|e| e.record.token.is(&presented));
        let entry = entry.ok_or(SeatError::WrongToken)?;
        if *self.viewers.borrow() >= MAX_VIEWERS {
            return Err(SeatError::TooManyViewers);
        }
        entry.viewers += 1;
        self.viewers.send_modify(|viewers| *viewers += 1);
        self.metrics.viewers(entry.record.mode.name()).inc();
        Ok(Seat {
            mode: entry.record.mode,
            revoked: entry.revoked.clone(),
            share: entry.record.id.clone(),
            shares: self.clone(),
        })
    }

    /// How many viewers there are, now and from now on.
    pub fn viewers(&self) -> watch::Receiver<usize> {
        self.viewers.subscribe()
    }
}

/// A viewer's place; free again when it is dropped.
#[derive(Debug)]
pub struct Seat {
    /// What the viewer may do.
    pub mode: Mode,
    /// Cancelled when the share is revoked.
    pub revoked: CancellationToken,
    share: ShareId,
    shares: Arc<Shares>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut entries = self.shares.entries();
        if let Some(entry) = entries.iter_mut().find(|e| e.record.id == self.share) {
            entry.viewers -= 1;
        }
        // Under the lock, like its counterpart, or the bound could be passed.
        self.shares.viewers.send_modify(|viewers| *viewers -= 1);
        self.shares.metrics.viewers(self.mode.name()).dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares() -> Arc<Shares> {
        Arc::new(Shares::new(Vec::new(), Arc::default()))
    }

    #[test]
    fn a_token_opens_until_it_is_revoked() {
        let shares = shares();
        let (record, token) = shares.create(Mode::Read).unwrap();
        let (_, other) = shares.create(Mode::Write).unwrap();
        let seat = shares.seat(token.reveal()).unwrap();
        assert_eq!(seat.mode, Mode::Read);
        assert_eq!(shares.list()[0].1, 1);
        assert!(shares.revoke(record.id.as_str()));
        assert!(!shares.revoke(record.id.as_str()), "once");
        assert!(seat.revoked.is_cancelled());
        assert!(!shares.open_with(token.reveal()));
        assert_eq!(
            shares.seat(token.reveal()).unwrap_err(),
            SeatError::WrongToken
        );
        assert_eq!(*shares.viewers().borrow(), 1, "until it is gone");
        drop(seat);
        assert_eq!(*shares.viewers().borrow(), 0);
        assert!(!shares.seat(other.reveal()).unwrap().revoked.is_cancelled());
    }

    #[test]
    fn both_bounds_hold_and_give_way_again() {
        let shares = shares();
        let (_, token) = shares.create(Mode::Read).unwrap();
        for _ in 1..MAX_SHARES {
            shares.create(Mode::Read).unwrap();
        }
        shares.create(Mode::Read).unwrap_err();
        let mut seats: Vec<_> = (0..MAX_VIEWERS)
            .map(|_| shares.seat(token.reveal()).unwrap())
            .collect();
        assert_eq!(
            shares.seat(token.reveal()).unwrap_err(),
            SeatError::TooManyViewers
        );
        seats.pop();
        shares.seat(token.reveal()).unwrap();
    }

    #[test]
    fn what_operators_leave_behind_makes_room_and_nothing_else_does() {
        let shares = shares();
        for _ in 0..2 {
            shares.create(Mode::Read).unwrap();
        }
        let (used, token) = shares.create_for_operator().unwrap();
        let _seat = shares.seat(token.reveal()).unwrap();
        let (left, _) = shares.create_for_operator().unwrap();
        for entry in shares.entries().iter_mut() {
            entry.record.created_at -= UNUSED;
        }
        let (fresh, _) = shares.create_for_operator().unwrap();
        shares.create_for_operator().unwrap();
        let listed = shares.list();
        let is_there = |id: &ShareId| listed.iter().any(|(record, _)| record.id == *id);
        assert!(is_there(&used.id) && !is_there(&left.id) && is_there(&fresh.id));
        assert_eq!(listed.len(), 5, "the owner's own are the owner's");
        while shares.create_for_operator().is_ok() {}
        assert_eq!(shares.list().len(), MAX_SHARES);
    }

    #[test]
    fn shares_outlive_the_gateway_as_records_without_their_tokens() {
        let (record, token) = shares().create(Mode::Write).unwrap();
        let kept = serde_json::to_string(&[&record]).unwrap();
        assert!(!kept.contains(token.reveal()));
        let restored = serde_json::from_str(&kept).unwrap();
        let shares = Arc::new(Shares::new(restored, Arc::default()));
        assert_eq!(shares.list()[0].0.id, record.id);
        assert_eq!(shares.list()[0].0.created_at, record.created_at);
        assert_eq!(shares.seat(token.reveal()).unwrap().mode, Mode::Write);
    }
}
