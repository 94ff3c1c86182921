//! Id to held sandbox. Look-up only: its state belongs to its task.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Held, HeldId, State};

/// How long one that ended is remembered, so that its owner learns why.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Ended ones remembered at once. The largest has 0.4 MiB of environment and metadata.
const MAX_ENDED: usize = 1024;

#[derive(Debug)]
struct Entry {
    held: Arc<Held>,
    /// When it was first seen to have ended.
    ended: Option<Instant>,
}

/// The held sandboxes.
#[derive(Debug, Default)]
pub(super) struct Store {
    entries: Mutex<HashMap<HeldId, Entry>>,
}

fn over(held: &Held) -> bool {
    matches!(held.state(), State::Ended(_))
}

impl Store {
    fn entries(&self) -> MutexGuard<'_, HashMap<HeldId, Entry>> {
        // No code that could panic runs under the lock.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insert(&self, held: Arc<Held>) {
        let id = held.id.clone();
        self.entries().insert(id, Entry { held, ended: None });
    }

    pub(super) fn remove(&self, id: &HeldId) {
        self.entries().remove(id);
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<Held>> {
        Some(self.entries().get(id)?.held.clone())
    }

    /// Those that have not ended.
    pub(super) fn live(&self) -> Vec<Arc<Held>> {
        let entries = self.entries();
        let live = entries.values().filter(|entry| !over(&entry.held));
        live.map(|entry| entry.held.clone()).collect()
    }

    /// Forget those that ended long ago, and the oldest of too many.
    pub(super) fn prune(&self, now: Instant) {
        let mut entries = self.entries();
        let mut ended: Vec<(Instant, HeldId)> = Vec::new();
        entries.retain(|id, entry| {
            if entry.ended.is_none() && over(&entry.held) {
                entry.ended = Some(now);
            }
            let Some(since) = entry.ended else {
                return true;
            };
            ended.push((since, id.clone()));
            now.duration_since(since) < REMEMBERED
        });
        ended.sort_unstable();
        for (_, id) in ended.iter().rev().skip(MAX_ENDED) {
            entries.remove(id);
        }
    }
}
