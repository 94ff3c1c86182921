//! Id to session. Look-up only: a session's state belongs to its task.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Session;

/// How long an ended session is remembered, so that a visitor who comes back learns why it ended.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Ended sessions remembered at once, about 1 KiB each.
const MAX_ENDED: usize = 4096;

#[derive(Debug)]
struct Entry {
    session: Arc<Session>,
    /// When it was first seen to have ended.
    ended: Option<Instant>,
}

/// The sessions.
#[derive(Debug, Default)]
pub(super) struct Store {
    entries: Mutex<HashMap<String, Entry>>,
}

impl Store {
    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        // No code that could panic runs under the lock.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insert(&self, session: Arc<Session>) {
        let id = session.id.as_str().to_owned();
        let entry = Entry {
            session,
            ended: None,
        };
        self.entries().insert(id, entry);
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<Session>> {
        Some(self.entries().get(id)?.session.clone())
    }

    /// Forget the sessions that ended long ago, and the oldest of too many.
    pub(super) fn prune(&self, now: Instant) {
        let mut entries = self.entries();
        let mut ended: Vec<(Instant, String)> = Vec::new();
        entries.retain(|id, entry| {
            if entry.ended.is_none() && entry.session.ending().is_some() {
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
