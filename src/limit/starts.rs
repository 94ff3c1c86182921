//! Things held by each of many holders: so many at once, so many starts an hour.
//!
//! Check and reservation are one step under one lock; a reservation is a guard, so it ends with
//! whatever holds it, on every path.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Client, Receipt};

pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// Holders remembered at once. Each costs about 200 bytes; whoever comes when all places are taken
/// by others active within the hour is refused.
pub(super) const MAX_HOLDERS: usize = 65_536;

/// What a newcomer is told to wait when too many others are remembered. Some are forgotten whenever
/// the gateway prunes, twice in this time.
const CROWDED_RETRY: Duration = Duration::from_secs(60);

/// What a holder of too many at once is told to wait: there is no telling when one of
/// them ends.
pub const CONCURRENT_RETRY: Duration = Duration::from_secs(10);

/// Why a holder may not have one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has as many as it may have at once.
    #[error("too many at once")]
    Concurrent {
        /// When to try again.
        retry_after: Duration,
    },
    /// It has started as many as it may in an hour.
    #[error("too many starts within an hour")]
    Hourly {
        /// When to try again.
        retry_after: Duration,
    },
    /// What it has started at other gateways cannot be known at the moment.
    #[error("the store of limits does not answer")]
    Uncounted {
        /// When to try again.
        retry_after: Duration,
    },
    /// It is new, and no more can be remembered.
    #[error("too many others within an hour")]
    Crowded {
        /// When to try again.
        retry_after: Duration,
    },
}

impl Refusal {
    /// When to try again.
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Concurrent { retry_after }
            | Self::Hourly { retry_after }
            | Self::Uncounted { retry_after }
            | Self::Crowded { retry_after } => *retry_after,
        }
    }
}

#[derive(Debug, Default)]
struct Record {
    /// Held now.
    held: u32,
    /// Starts within the last hour, oldest first; at most as many as may be.
    starts: VecDeque<Instant>,
}

impl Record {
    fn forget_old(&mut self, now: Instant) {
        while self
            .starts
            .front()
            .is_some_and(|start| now.duration_since(*start) >= HOUR)
        {
            self.starts.pop_front();
        }
    }

    fn is_blank(&self) -> bool {
        self.held == 0 && self.starts.is_empty()
    }
}

/// How many of something one holder may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// At once.
    pub at_once: u32,
    /// Starts within any hour.
    pub per_hour: u32,
}

/// Every holder's record.
#[derive(Debug)]
pub struct Starts<K: Eq + Hash = Client>(Mutex<HashMap<K, Record>>);

impl<K: Eq + Hash> Default for Starts<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash> Starts<K> {
    fn records(&self) -> MutexGuard<'_, HashMap<K, Record>> {
        // No code that could panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admit a holder to one more, or say why not.
    pub fn admit(
        self: &Arc<Self>,
        holder: &K,
        allowance: Allowance,
        now: Instant,
    ) -> Result<Permit<K>, Refusal> {
        let mut records = self.records();
        if records.len() >= MAX_HOLDERS && !records.contains_key(holder) {
            return Err(Refusal::Crowded {
                retry_after: CROWDED_RETRY,
            });
        }
        let record = records.entry(holder.clone()).or_default();
        record.forget_old(now);
        if record.held >= allowance.at_once {
            return Err(Refusal::Concurrent {
                retry_after: CONCURRENT_RETRY,
            });
        }
        if let Some(over) = record.starts.len().checked_sub(allowance.per_hour as usize) {
            // The last of those that must be an hour old first: more than one, if the limit was
            // lowered.
            let last = record.starts.get(over).copied().unwrap_or(now);
            return Err(Refusal::Hourly {
                retry_after: (last + HOUR).saturating_duration_since(now),
            });
        }
        record.held += 1;
        record.starts.push_back(now);
        Ok(Permit {
            holder: holder.clone(),
            start: now,
            starts: self.clone(),
            receipt: OnceLock::new(),
        })
    }

    /// A holder has one that it was admitted to by an earlier gateway, this long ago.
    pub fn readmit(self: &Arc<Self>, holder: &K, ago: Duration, now: Instant) -> Permit<K> {
        let start = now.checked_sub(ago);
        let mut records = self.records();
        let record = records.entry(holder.clone()).or_default();
        record.held += 1;
        if let Some(start) = start.filter(|_| ago < HOUR) {
            let later = record.starts.partition_point(|other| *other <= start);
            record.starts.insert(later, start);
        }
        Permit {
            holder: holder.clone(),
            start: start.unwrap_or(now),
            starts: self.clone(),
            receipt: OnceLock::new(),
        }
    }

    /// Forget holders that left no trace within the hour. Call now and then.
    pub fn prune(&self, now: Instant) {
        self.records().retain(|_, record| {
            record.forget_old(now);
            !record.is_blank()
        });
    }

    /// Held by all.
    pub fn held(&self) -> u32 {
        self.records().values().map(|record| record.held).sum()
    }

    /// How many holders are remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.records().len()
    }
}

/// Leave to hold one; given back on drop.
#[derive(Debug)]
pub struct Permit<K: Clone + Eq + Hash = Client> {
    holder: K,
    start: Instant,
    starts: Arc<Starts<K>>,
    /// Where it was counted together with other gateways' starts.
    receipt: OnceLock<Receipt>,
}

impl<K: Clone + Eq + Hash> Permit<K> {
    /// It never came to be, through no fault of the holder: it does not count in the holder's hour.
    pub fn forgive(&self) {
        let mut records = self.starts.records();
        if let Some(record) = records.get_mut(&self.holder)
            && let Some(at) = record.starts.iter().position(|start| *start == self.start)
        {
            record.starts.remove(at);
        }
        if let Some(receipt) = self.receipt.get() {
            receipt.forget();
        }
    }

    /// It was counted elsewhere, too.
    pub(super) fn counted(&self, receipt: Option<Receipt>) {
        if let Some(receipt) = receipt {
            let _ = self.receipt.set(receipt);
        }
    }
}

impl<K: Clone + Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        if let Some(record) = self.starts.records().get_mut(&self.holder) {
            record.held = record.held.saturating_sub(1);
        }
    }
}
