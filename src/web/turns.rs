//! Floods take turns.

use std::sync::Arc;

use axum::extract::ws::Message;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::yield_now;

/// What a connection sends in one turn, bytes. A key's echo is far below, so whoever types seldom
/// waits for a turn; more would be longer for others to wait for.
const TURN: usize = 16 * 1024;

/// The turns of all connections that carry output.
///
/// Whoever has sent much lets the runtime look at everything else before it sends more. Of all who
/// do so, only as many as the runtime has threads are in its queue at a time; the others stand in a
/// line of their own. So however many flood, a key finds only a few turns before it. Where nobody
/// else floods, there is nobody to wait for.
#[derive(Debug)]
pub struct Turns(Semaphore);

impl Turns {
    /// As many at a time as there are threads.
    pub fn of(runtime: &Handle) -> Self {
        Self(Semaphore::new(runtime.metrics().num_workers()))
    }

    /// Wait for the next turn, in the order in which all come. Nothing is held once it has come, so
    /// whoever sends to a slow visitor is in nobody's way.
    async fn next(&self) {
        let _first_in_line = self.0.acquire().await;
        yield_now().await;
    }
}

/// The turn of one connection.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    /// Bytes sent in it.
    sent: usize,
}

impl Turn {
    pub(super) fn new(turns: &Arc<Turns>) -> Self {
        Self {
            turns: turns.clone(),
            sent: 0,
        }
    }

    /// So many bytes were sent. Waits for the next turn if that was much.
    pub(super) async fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes);
        if self.sent >= TURN {
            self.sent = 0;
            self.turns.next().await;
        }
    }
}

/// Bytes of a message that count.
pub(super) fn length(message: &Message) -> usize {
    match message {
        Message::Text(text) => text.len(),
        Message::Binary(bytes) => bytes.len(),
        // Bounded by the protocol, and too short to matter.
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::task::LocalSet;

    use super::*;

    const FLOODS: usize = 100;

    /// How often somebody else is looked at while the floods show.
    const LOOKS: usize = 1000;

    #[tokio::test]
    async fn however_many_flood_the_others_are_looked_at_after_a_turn_or_two() {
        let floods = LocalSet::new();
        let turns = Rc::new(Turns::of(&Handle::current()));
        let taken: Vec<Rc<Cell<usize>>> = (0..FLOODS).map(|_| Rc::default()).collect();
        for taken in &taken {
            let (turns, taken) = (turns.clone(), taken.clone());
            floods.spawn_local(async move {
                loop {
                    turns.next().await;
                    taken.set(taken.get() + 1);
                }
            });
        }
        let look = async {
            for _ in 0..LOOKS {
                yield_now().await;
            }
        };
        floods.run_until(look).await;
        let taken: Vec<usize> = taken.iter().map(|taken| taken.get()).collect();
        let (least, most) = (taken.iter().min().unwrap(), taken.iter().max().unwrap());
        let all: usize = taken.iter().sum();
        assert!(*least > 0 && most - least <= 1, "in order: {taken:?}");
        assert!(all <= 2 * LOOKS, "{all} turns between {LOOKS} looks");
    }
}
