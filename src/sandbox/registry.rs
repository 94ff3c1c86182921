//! Which sandboxes exist. The one place that counts them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::Span;

use super::SandboxId;
use super::pressure::Shortage;
use super::queue::{Line, Place, Ticket, Turn};
use crate::config::Live;

/// Why there is no place for a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AtCapacity {
    /// Every place is taken, or promised to those who wait in line.
    #[error("all {max} places for sandboxes are taken")]
    Taken {
        /// `limits.max_sandboxes`.
        max: usize,
    },
    /// The host is short of something.
    #[error("the host is short of {}", .0.name())]
    Shortage(Shortage),
    /// Nor is there one in line.
    #[error("all {max} places in line are taken")]
    LineFull {
        /// `limits.queue_length`.
        max: usize,
    },
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

#[derive(Debug, Default)]
struct State {
    /// Bounded by `limits.max_sandboxes`, orphans apart.
    entries: HashMap<SandboxId, Entry>,
    line: Line,
    /// While there is one, no place is given away.
    shortage: Option<Shortage>,
}

/// Identities and their states, and who waits for a place.
#[derive(Debug)]
pub(super) struct Registry {
    config: Arc<Live>,
    state: Mutex<State>,
    /// How many wait. Written whenever the line may move, whether or not the number has changed.
    changes: watch::Sender<usize>,
    /// Rung when a sandbox has become unwanted.
    pub(super) doomed: Notify,
}

impl Registry {
    pub(super) fn new(config: Arc<Live>) -> Self {
        Self {
            config,
            state: Mutex::default(),
            changes: watch::Sender::new(0),
            doomed: Notify::new(),
        }
    }

    fn max(&self) -> usize {
        self.config.get().limits.max_sandboxes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that could panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        let state = self.state();
        let ours = |entry: &&Entry| !matches!(entry, Entry::HandedOver);
        state.entries.values().filter(ours).count()
    }

    pub(super) fn contains(&self, id: &SandboxId) -> bool {
        self.state().entries.contains_key(id)
    }

    pub(super) fn changes(&self) -> watch::Receiver<usize> {
        self.changes.subscribe()
    }

    /// Why a newcomer would not get a place now.
    pub(super) fn closed(&self) -> Option<AtCapacity> {
        self.closed_to_newcomers(&self.state())
    }

    fn closed_to_newcomers(&self, state: &State) -> Option<AtCapacity> {
        if let Some(shortage) = state.shortage {
            return Some(AtCapacity::Shortage(shortage));
        }
        // Nobody overtakes those who wait.
        let max = self.max();
        let taken = state.entries.len() >= max || state.line.len() > 0;
        taken.then_some(AtCapacity::Taken { max })
    }

    pub(super) fn reserve(self: &Arc<Self>, id: SandboxId) -> Result<Slot, AtCapacity> {
        let mut state = self.state();
        match self.closed_to_newcomers(&state) {
            None => Ok(self.take(&mut state, id)),
            Some(reason) => Err(reason),
        }
    }

    fn take(self: &Arc<Self>, state: &mut State, id: SandboxId) -> Slot {
        state.entries.insert(id.clone(), Entry::Wanted);
        let all_taken = state.entries.len() >= self.max();
        state.line.taken(all_taken, Instant::now());
        Slot {
            id,
            registry: self.clone(),
            fate: Fate::Free,
            span: Span::none(),
        }
    }

    fn free(&self, state: &mut State, id: &SandboxId) -> Option<Entry> {
        let gone = state.entries.remove(id);
        // Orphans come on top of the places.
        if state.entries.len() < self.max() {
            state.line.freed(Instant::now());
        }
        self.changes.send_replace(state.line.len());
        gone
    }

    /// Join the line, at its end.
    pub(super) fn join(self: &Arc<Self>) -> Result<Ticket, AtCapacity> {
        let max = self.config.get().limits.queue_length;
        let mut state = self.state();
        let number = state.line.join(max).ok_or(AtCapacity::LineFull { max })?;
        self.changes.send_replace(state.line.len());
        Ok(Ticket::new(number, self.clone()))
    }

    /// Where ticket `number` stands, or the place for the sandbox `id` if it is its turn; `None` if
    /// it is not in line. Leaving the line and taking the place are one step.
    pub(super) fn turn(self: &Arc<Self>, number: u64, id: &SandboxId) -> Option<Turn> {
        let mut state = self.state();
        let place = state.line.place(number)?;
        if state.shortage.is_some() {
            return Some(Turn::Moved(Place { eta: None, ..place }));
        }
        if place.position > 1 || state.entries.len() >= self.max() {
            return Some(Turn::Moved(place));
        }
        state.line.leave(number);
        let slot = self.take(&mut state, id.clone());
        self.changes.send_replace(state.line.len());
        Some(Turn::Yours(slot))
    }

    pub(super) fn leave(&self, number: u64) {
        let mut state = self.state();
        if state.line.leave(number) {
            self.changes.send_replace(state.line.len());
        }
    }

    /// Close the door, or open it again.
    pub(super) fn set_shortage(&self, shortage: Option<Shortage>) {
        let mut state = self.state();
        state.shortage = shortage;
        self.changes.send_replace(state.line.len());
    }

    /// A sandbox that an earlier gateway left: in use again, over the cap or not.
    pub(super) fn adopt(self: &Arc<Self>, id: SandboxId) -> Slot {
        self.state().entries.insert(id.clone(), Entry::Wanted);
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
        self.state().entries.entry(id).or_insert(Entry::Doomed {
            due,
            failures: 0,
            span: Span::none(),
        });
    }

    /// Up to `most` sandboxes whose removal is due, now under way, each with its session's span.
    pub(super) fn take_due(&self, most: usize, now: Instant) -> Vec<(SandboxId, Span)> {
        let mut state = self.state();
        let due = state
            .entries
            .iter_mut()
            .filter_map(|(id, entry)| match entry {
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
        let state = self.state();
        let due = state.entries.values().filter_map(|entry| match entry {
            Entry::Doomed { due, .. } => Some(*due),
            _ => None,
        });
        due.min()
    }

    /// A removal has succeeded, or failed and is put off.
    pub(super) fn removal_ended(&self, id: &SandboxId, removed: bool, now: Instant) {
        let mut state = self.state();
        if removed {
            let gone = self.free(&mut state, id);
            drop(state);
            if let Some(Entry::Leaving { span, .. }) = gone {
                // A span ends when it was last entered.
                span.in_scope(|| {});
            }
        } else if let Some(entry) = state.entries.get_mut(id)
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
    /// Another gateway has taken the sandbox: the place is free.
    LetGo,
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
        registry.take(&mut registry.state(), id)
    }

    /// A place for a sandbox that is there already and may take this one's.
    pub(super) fn beside(&self, id: SandboxId) -> Self {
        let mut slot = self.registry.adopt(id);
        slot.belongs_to(self.span.clone());
        slot
    }

    /// Leave the sandbox to the next gateway.
    pub(super) fn hand_over(mut self) {
        self.fate = Fate::HandOver;
    }

    /// Leave the sandbox to another gateway, which has it already.
    pub(super) fn let_go(mut self) {
        self.fate = Fate::LetGo;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.registry.state();
        match self.fate {
            Fate::Free | Fate::LetGo => drop(self.registry.free(&mut state, &self.id)),
            Fate::Remove => {
                let doomed = Entry::Doomed {
                    due: Instant::now(),
                    failures: 0,
                    span: std::mem::replace(&mut self.span, Span::none()),
                };
                state.entries.insert(self.id.clone(), doomed);
                self.registry.doomed.notify_one();
            }
            Fate::HandOver => drop(state.entries.insert(self.id.clone(), Entry::HandedOver)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::sandbox::queue::Turn;
    use futures::FutureExt;

    fn registry(max_sandboxes: usize, queue_length: usize) -> Arc<Registry> {
        let mut config = Config::defaults();
        config.limits.max_sandboxes = max_sandboxes;
        config.limits.queue_length = queue_length;
        Arc::new(Registry::new(Arc::new(Live::new(config))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_free_again_only_after_removal() {
        let registry = registry(1, 0);
        let mut slot = registry.reserve(SandboxId::random()).unwrap();
        assert_eq!(
            registry.reserve(SandboxId::random()).unwrap_err(),
            AtCapacity::Taken { max: 1 }
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
        let registry = registry(1, 0);
        drop(registry.reserve(SandboxId::random()).unwrap());
        assert_eq!(registry.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_spare_makes_room_and_is_still_removed() {
        let registry = registry(1, 0);
        let mut spare = registry.reserve(SandboxId::random()).unwrap();
        spare.mark_started();
        let old = spare.id().clone();
        let slot = spare.replace(SandboxId::random());
        assert_eq!(registry.count(), 2, "until the spare is gone");
        let due = registry.take_due(8, Instant::now());
        assert!(due.len() == 1 && due[0].0 == old, "{due:?}");
        registry.removal_ended(&old, true, Instant::now());
        assert!(registry.reserve(SandboxId::random()).is_err());
        drop(slot);
        assert_eq!(registry.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_handed_over_is_neither_counted_nor_removed_nor_an_orphan() {
        let registry = registry(1, 0);
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
    async fn what_another_gateway_has_taken_leaves_a_free_place() {
        let registry = registry(1, 0);
        let mut slot = registry.reserve(SandboxId::random()).unwrap();
        slot.mark_started();
        let id = slot.id().clone();
        slot.let_go();
        assert!(!registry.contains(&id));
        assert!(registry.take_due(8, Instant::now()).is_empty());
        drop(registry.reserve(SandboxId::random()).unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn removals_that_fail_for_ever_are_tried_for_ever_but_rarely() {
        let registry = registry(1, 0);
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

    /// Where a visitor stands; 0 at the end of the wait.
    fn position(turn: &Turn) -> usize {
        match turn {
            Turn::Moved(place) => place.position,
            Turn::Yours(_) => 0,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_comes_free_is_the_first_ones_and_nobody_overtakes() {
        let registry = registry(1, 2);
        let taken = registry.reserve(SandboxId::random()).unwrap();
        let mut first = registry.join().unwrap();
        let mut second = registry.join().unwrap();
        assert_eq!(position(&first.next().await), 1);
        assert_eq!(position(&second.next().await), 2);
        assert_eq!(
            registry.join().unwrap_err(),
            AtCapacity::LineFull { max: 2 }
        );
        drop(taken);
        // Before the first has come to it: neither a newcomer nor the second gets it.
        assert_eq!(
            registry.reserve(SandboxId::random()).unwrap_err(),
            AtCapacity::Taken { max: 1 }
        );
        assert!(second.next().now_or_never().is_none());
        let Turn::Yours(slot) = first.next().await else {
            panic!("it is the first one's turn");
        };
        assert_eq!(position(&second.next().await), 1);
        drop((first, slot));
        assert_eq!(position(&second.next().await), 0);
        assert_eq!((registry.count(), *registry.changes().borrow()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shortage_keeps_everyone_out_but_not_out_of_the_line() {
        let registry = registry(2, 2);
        registry.set_shortage(Some(Shortage::AvailableMemory));
        assert_eq!(
            registry.reserve(SandboxId::random()).unwrap_err(),
            AtCapacity::Shortage(Shortage::AvailableMemory)
        );
        let mut waiting = registry.join().unwrap();
        assert_eq!(position(&waiting.next().await), 1);
        assert!(waiting.next().now_or_never().is_none());
        registry.set_shortage(None);
        assert_eq!(position(&waiting.next().await), 0);
    }
}
