//! Which sandboxes exist. The one place that counts them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::Span;

use super::SandboxId;

/// Every place for a sandbox is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {max} places for sandboxes are taken")]
pub struct AtCapacity {
    /// `limits.max_sandboxes`.
    pub max: usize,
}

/// Pause before a failed removal is tried again; doubled up to the second each time.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

#[derive(Debug)]
enum Entry {
    /// Reserved, starting or in use.
    Wanted,
    /// To be removed at `due`, after `failures` attempts that failed. `span` is its session's,
    /// which ends with the removal.
    Doomed {
        due: Instant,
        failures: u32,
        span: Span,
    },
    /// A removal is under way.
    Leaving { failures: u32, span: Span },
    /// The next gateway's: neither counted nor removed here.
    HandedOver,
}

/// Identities and their states; bounded by what [`Registry::reserve`] is given.
#[derive(Debug, Default)]
pub(super) struct Registry {
    entries: Mutex<HashMap<SandboxId, Entry>>,
    /// Rung when a sandbox has become unwanted.
    pub(super) doomed: Notify,
}

impl Registry {
    fn entries(&self) -> MutexGuard<'_, HashMap<SandboxId, Entry>> {
        // No code that could panic runs under the lock.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        let entries = self.entries();
        let ours = |entry: &&Entry| !matches!(entry, Entry::HandedOver);
        entries.values().filter(ours).count()
    }

    pub(super) fn contains(&self, id: &SandboxId) -> bool {
        self.entries().contains_key(id)
    }

    /// Take one of `max` places.
    pub(super) fn reserve(self: &Arc<Self>, id: SandboxId, max: usize) -> Result<Slot, AtCapacity> {
        let mut entries = self.entries();
        if entries.len() >= max {
            return Err(AtCapacity { max });
        }
        entries.insert(id.clone(), Entry::Wanted);
        Ok(Slot {
            id,
            registry: self.clone(),
            fate: Fate::Free,
            span: Span::none(),
        })
    }

    /// A sandbox that an earlier gateway left: in use again, over the cap or not.
    pub(super) fn adopt(self: &Arc<Self>, id: SandboxId) -> Slot {
        self.entries().insert(id.clone(), Entry::Wanted);
        Slot {
            id,
            registry: self.clone(),
            fate: Fate::Remove,
            span: Span::none(),
        }
    }

    /// An orphan that the engine listed: to be removed, over the cap or not.
    pub(super) fn doom_orphan(&self, id: SandboxId) {
        let due = Instant::now();
        self.entries().entry(id).or_insert(Entry::Doomed {
            due,
            failures: 0,
            span: Span::none(),
        });
    }

    /// Up to `most` sandboxes whose removal is due, now under way, each with its session's span.
    pub(super) fn take_due(&self, most: usize, now: Instant) -> Vec<(SandboxId, Span)> {
        let mut entries = self.entries();
        let due = entries.iter_mut().filter_map(|(id, entry)| match entry {
            Entry::Doomed {
                due,
                failures,
                span,
            } if *due <= now => {
                let (failures, span) = (*failures, span.clone());
                *entry = Entry::Leaving {
                    failures,
                    span: span.clone(),
                };
                Some((id.clone(), span))
            }
            _ => None,
        });
        due.take(most).collect()
    }

    /// When the next removal is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let entries = self.entries();
        let due = entries.values().filter_map(|entry| match entry {
            Entry::Doomed { due, .. } => Some(*due),
            _ => None,
        });
        due.min()
    }

    /// A removal has succeeded, or failed and is put off.
    pub(super) fn removal_ended(&self, id: &SandboxId, removed: bool, now: Instant) {
        let mut entries = self.entries();
        if removed {
            let gone = entries.remove(id);
            drop(entries);
            if let Some(Entry::Leaving { span, .. }) = gone {
                // A span ends when it was last entered.
                span.in_scope(|| {});
            }
        } else if let Some(entry) = entries.get_mut(id)
            && let Entry::Leaving { failures, span } = entry
        {
            let pause = RETRY.0.saturating_mul(1 << (*failures).min(8)).min(RETRY.1);
            *entry = Entry::Doomed {
                due: now + pause,
                failures: *failures + 1,
                span: span.clone(),
            };
        }
    }
}

/// A place for one sandbox. Dropping it gives the sandbox up; the place is free again once the
/// engine has removed it.
#[derive(Debug)]
pub struct Slot {
    id: SandboxId,
    registry: Arc<Registry>,
    fate: Fate,
    span: Span,
}

/// What becomes of a place that is given up.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// Nothing was started: it is free.
    Free,
    /// It is free once the sandbox has been removed.
    Remove,
    /// The sandbox is the next gateway's.
    HandOver,
}

impl Slot {
    /// The id of the sandbox that may be started here.
    pub fn id(&self) -> &SandboxId {
        &self.id
    }

    /// The span of the session it is for: the removal is a part of it.
    pub fn belongs_to(&mut self, session: Span) {
        self.span = session;
    }

    /// From now on there may be something to remove.
    pub(super) fn mark_started(&mut self) {
        self.fate = Fate::Remove;
    }

    /// Give this sandbox up for another in its place. Until the engine has removed it, that is one
    /// more than the cap; it is better than to refuse a visitor for the sake of nobody.
    pub(super) fn replace(self, id: SandboxId) -> Self {
        let registry = self.registry.clone();
        drop(self);
        registry.entries().insert(id.clone(), Entry::Wanted);
        Self {
            id,
            registry,
            fate: Fate::Free,
            span: Span::none(),
        }
    }

    /// Leave the sandbox to the next gateway.
    pub(super) fn hand_over(mut self) {
        self.fate = Fate::HandOver;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut entries = self.registry.entries();
        match self.fate {
            Fate::Free => drop(entries.remove(&self.id)),
            Fate::Remove => {
                let doomed = Entry::Doomed {
                    due: Instant::now(),
                    failures: 0,
                    span: std::mem::replace(&mut self.span, Span::none()),
                };
                entries.insert(self.id.clone(), doomed);
                self.registry.doomed.notify_one();
            }
            Fate::HandOver => drop(entries.insert(self.id.clone(), Entry::HandedOver)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_place_is_free_again_only_after_removal() {
        let registry = Arc::new(Registry::default());
        let mut slot = registry.reserve(SandboxId::random(), 1).unwrap();
        assert_eq!(
            registry.reserve(SandboxId::random(), 1).unwrap_err(),
            AtCapacity { max: 1 }
        );
        slot.mark_started();
        let id = slot.id().clone();
        drop(slot);
        assert_eq!(registry.count(), 1);

        let now = Instant::now();
        let due = |now| -> Vec<SandboxId> {
            let due = registry.take_due(8, now).into_iter();
            due.map(|(id, _)| id).collect()
        };
        assert_eq!(due(now), std::slice::from_ref(&id));
        assert!(registry.take_due(8, now).is_empty(), "already under way");
        registry.removal_ended(&id, false, now);
        assert!(registry.take_due(8, now).is_empty(), "put off");
        let later = registry.next_due().unwrap();
        assert_eq!(later - now, RETRY.0);
        assert_eq!(due(later), std::slice::from_ref(&id));
        registry.removal_ended(&id, true, later);
        assert_eq!(registry.count(), 0);
    }

    #[test]
    fn a_place_that_was_never_used_needs_no_removal() {
        let registry = Arc::new(Registry::default());
        drop(registry.reserve(SandboxId::random(), 1).unwrap());
        assert_eq!(registry.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_spare_makes_room_and_is_still_removed() {
        let registry = Arc::new(Registry::default());
        let mut spare = registry.reserve(SandboxId::random(), 1).unwrap();
        spare.mark_started();
        let old = spare.id().clone();
        let slot = spare.replace(SandboxId::random());
        assert_eq!(registry.count(), 2, "until the spare is gone");
        let due = registry.take_due(8, Instant::now());
        assert!(due.len() == 1 && due[0].0 == old, "{due:?}");
        registry.removal_ended(&old, true, Instant::now());
        assert!(registry.reserve(SandboxId::random(), 1).is_err());
        drop(slot);
        assert_eq!(registry.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_handed_over_is_neither_counted_nor_removed_nor_an_orphan() {
        let registry = Arc::new(Registry::default());
        let slot = registry.adopt(SandboxId::random());
        let id = slot.id().clone();
        assert_eq!(registry.count(), 1);
        slot.hand_over();
        assert_eq!(registry.count(), 0);
        assert!(registry.contains(&id));
        registry.doom_orphan(id);
        assert!(registry.take_due(8, Instant::now()).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn removals_that_fail_for_ever_are_tried_for_ever_but_rarely() {
        let registry = Arc::new(Registry::default());
        let id = SandboxId::random();
        registry.doom_orphan(id.clone());
        let mut now = Instant::now();
        for _ in 0..40 {
            assert_eq!(registry.take_due(1, now).len(), 1);
            registry.removal_ended(&id, false, now);
            let next = registry.next_due().unwrap();
            assert!(next - now <= RETRY.1);
            now = next;
        }
    }
}
