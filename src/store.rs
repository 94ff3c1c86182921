//! Id to handle, of what ends and is then remembered for a while, so that whoever comes back learns
//! why. Look-up only: the state of each belongs to its own task.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long what has ended is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Something with an end.
pub(crate) trait Ends {
    /// Whether it is over.
    fn is_over(&self) -> bool;
}

#[derive(Debug)]
struct Entry<T> {
    handle: Arc<T>,
    /// When it was first seen to be over.
    ended: Option<Instant>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Store<T> {
    entries: Mutex<HashMap<String, Entry<T>>>,
    /// Ended ones remembered at once.
    max_ended: usize,
}

impl<T: Ends> Store<T> {
    /// Empty; of what has ended it remembers so many at once.
    pub(crate) fn new(max_ended: usize) -> Self {
        Self {
            entries: Mutex::default(),
            max_ended,
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry<T>>> {
        // No code that could panic runs under the lock.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, id: &str, handle: Arc<T>) {
        let ended = None;
        self.entries()
            .insert(id.to_owned(), Entry { handle, ended });
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<T>> {
        Some(self.entries().get(id)?.handle.clone())
    }

    /// Those that are not over.
    pub(crate) fn live(&self) -> Vec<Arc<T>> {
        let entries = self.entries();
        let live = entries.values().filter(|entry| !entry.handle.is_over());
        live.map(|entry| entry.handle.clone()).collect()
    }

    /// All of them, those that ended a while ago too.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        let entries = self.entries();
        entries.values().map(|entry| entry.handle.clone()).collect()
    }

    /// Forget what ended long ago, and the oldest of too many.
    pub(crate) fn prune(&self, now: Instant) {
        let mut entries = self.entries();
        let mut ended: Vec<(Instant, String)> = Vec::new();
        entries.retain(|id, entry| {
            if entry.ended.is_none() && entry.handle.is_over() {
                entry.ended = Some(now);
            }
            let Some(since) = entry.ended else {
                return true;
            };
            ended.push((since, id.clone()));
            now.duration_since(since) < REMEMBERED
        });
        ended.sort_unstable();
        for (_, id) in ended.iter().rev().skip(self.max_ended) {
            entries.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[derive(Debug, Default)]
    struct Thing(AtomicBool);

    impl Ends for Thing {
        fn is_over(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn what_has_ended_is_remembered_for_a_while_and_not_too_many_of_it() {
        let store = Store::<Thing>::new(2);
        let begun = Instant::now();
        for (minute, id) in ["a", "b", "c", "d"].into_iter().enumerate() {
            store.insert(id, Arc::default());
            if id != "d" {
                store.find(id).unwrap().0.store(true, Ordering::Relaxed);
            }
            store.prune(begun + Duration::from_secs(60) * u32::try_from(minute).unwrap());
        }
        let known = |store: &Store<Thing>| -> Vec<&str> {
            let ids = ["a", "b", "c", "d"].into_iter();
            ids.filter(|id| store.find(id).is_some()).collect()
        };
        assert_eq!(known(&store), ["b", "c", "d"], "two of the ended ones");
        assert_eq!((store.live().len(), store.all().len()), (1, 3));
        store.prune(begun + REMEMBERED + Duration::from_secs(60));
        assert_eq!(known(&store), ["c", "d"], "b ended ten minutes ago");
        store.prune(begun + REMEMBERED * 10);
        assert_eq!(known(&store), ["d"]);
    }
}
