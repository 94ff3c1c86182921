//! News of a flood, told by a thread of its own.
//!
//! Inside gVisor the thread that reads a PTY must read on: a program whose PTY is full is woken anew for
//! every 4 KiB that is taken out, which costs twice what the output does. And each telling costs a
//! system call here, and a wake-up at the gateway and at the client: so a flood is told in larger pieces.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::sleep;
use std::time::Duration;

/// Between two tellings. The program goes on meanwhile: a window is worth more than it prints in that
/// time, and nobody sees a millisecond.
const GATHER: Duration = Duration::from_millis(1);

/// What is to be told, and who tells it.
#[derive(Default)]
pub(super) struct News {
    state: Mutex<State>,
    /// Rung when there is something to tell, and at the end.
    there: Condvar,
}

#[derive(Default)]
struct State {
    untold: bool,
    teller: Teller,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Teller {
    /// There was no flood yet.
    #[default]
    None,
    Waits,
    Tells,
    /// There will be no more output.
    Over,
}

impl News {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    /// Leave it to the teller if this is a flood, or if it is telling of one. False: whoever asks is to
    /// tell. So the echo of a key waits for no other thread. `start` starts the teller, with the first
    /// flood.
    pub(super) fn leave(&self, flood: bool, start: impl FnOnce() -> io::Result<()>) -> bool {
        let mut state = self.lock();
        match state.teller {
            Teller::Tells => {}
            Teller::Waits if flood => self.there.notify_one(),
            Teller::None if flood && start().is_ok() => state.teller = Teller::Tells,
            _ => return false,
        }
        state.untold = true;
        true
    }

    /// Tell until the end: the body of the teller.
    pub(super) fn tell(&self, tell: impl Fn()) {
        while self.next() {
            tell();
            sleep(GATHER);
        }
    }

    /// Wait for something to tell. False at the end, when all has been told.
    fn next(&self) -> bool {
        let mut state = self.lock();
        while !state.untold {
            if state.teller == Teller::Over {
                return false;
            }
            state.teller = Teller::Waits;
            state = self.there.wait(state).expect("no panic while it is held");
        }
        if state.teller == Teller::Waits {
            state.teller = Teller::Tells;
        }
        state.untold = false;
        true
    }

    /// There will be no more output.
    pub(super) fn end(&self) {
        self.lock().teller = Teller::Over;
        self.there.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn a_key_is_told_at_once_and_a_flood_by_its_teller() {
        let never = || -> io::Result<()> { unreachable!("there is no flood") };
        let news = News::default();
        assert!(!news.leave(false, never));
        let none = || Err(io::ErrorKind::WouldBlock.into());
        assert!(!news.leave(true, none), "there is no room for a thread");
        assert!(news.leave(true, || Ok(())));
        assert!(news.leave(false, never), "the end of the flood");

        assert!(news.next(), "there is something to tell");
        news.end();
        assert!(!news.next());
        assert!(!news.leave(true, never), "what comes after the end");
    }

    #[test]
    fn all_is_told_and_the_teller_ends() {
        let news = Arc::new(News::default());
        let told = Arc::new(AtomicU32::new(0));
        let left = Arc::new(AtomicU32::new(0));
        let (teller, tells, seen) = (news.clone(), told.clone(), left.clone());
        let tell = move || tells.store(seen.load(Ordering::SeqCst), Ordering::SeqCst);
        let mut thread = None;
        for _ in 0..1000 {
            left.fetch_add(1, Ordering::SeqCst);
            let (teller, tell) = (teller.clone(), tell.clone());
            let started = &mut thread;
            assert!(news.leave(true, move || {
                *started = Some(thread::spawn(move || teller.tell(tell)));
                Ok(())
            }));
        }
        news.end();
        thread.expect("one was started").join().expect("it ends");
        assert_eq!(told.load(Ordering::SeqCst), 1000);
    }
}
