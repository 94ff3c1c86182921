//! Waits for many descriptors, and for points in time, on one thread.
//!
//! A terminal has a thread of its own, because a keystroke's way is short by it (see [`crate::tasks`]).
//! A hundred processes cannot have two or three each: threads count as processes of the sandbox. So
//! what comes out of them, connections to ports and watches share this one. A task tries its
//! descriptor, which does not block, and waits here until it may try again.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use crate::tasks;

/// Events taken at once.
const EVENTS: usize = 64;

/// Longest sleep; then it looks at the clock and sleeps on.
const LONGEST: Duration = Duration::from_secs(3600);

/// Number of the bell among the descriptors.
const BELL: u64 = 0;

/// See the module's documentation.
pub(crate) struct Poller {
    epoll: OwnedFd,
    /// Rung when the thread must look at the clock again.
    bell: OwnedFd,
    state: Mutex<State>,
}

struct State {
    /// Who waits for which descriptor.
    waiting: HashMap<u64, Waker>,
    /// Who waits for which moment.
    sleeping: BTreeMap<(Instant, u64), Waker>,
    /// Number of the next descriptor or sleeper.
    next: u64,
    /// Until when the thread sleeps unless something happens; `None` while it is awake.
    asleep_until: Option<Instant>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN)?;
        Ok(Arc::new(Self {
            epoll,
            bell,
            state: Mutex::new(State {
                waiting: HashMap::new(),
                sleeping: BTreeMap::new(),
                next: BELL + 1,
                asleep_until: None,
            }),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    fn number(&self) -> u64 {
        let mut state = self.lock();
        state.next += 1;
        state.next - 1
    }

    /// Wait for ever.
    pub(crate) fn run(&self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let timeout = {
                let mut state = self.lock();
                let now = Instant::now();
                let first = state.sleeping.keys().next().map(|(at, _)| *at);
                let until = first.unwrap_or(now + LONGEST).min(now + LONGEST);
                state.asleep_until = Some(until);
                until.saturating_duration_since(now)
            };
            // Whole milliseconds, upwards: it would wake too early otherwise, and again.
            let millis = (timeout + Duration::from_nanos(999_999)).as_millis();
            let millis = u32::try_from(millis).expect("no longer than LONGEST");
            let timeout = Timespec {
                tv_sec: (millis / 1000).into(),
                tv_nsec: (millis % 1000 * 1_000_000).into(),
            };
            events.clear();
            // An interruption is one more look around.
            let _ = epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&timeout),
            );
            // Before anything runs: whoever gives a descriptor so long is not woken before it was looked at
            // once more, however late this thread is.
            let now = Instant::now();
            self.wake_waiting(&events);
            tasks::run();
            if events.len() < EVENTS {
                self.wake_sleepers(now);
                tasks::run();
            }
        }
    }

    fn wake_waiting(&self, events: &[Event]) {
        let mut state = self.lock();
        state.asleep_until = None;
        for event in events {
            let number = event.data.u64();
            if number == BELL {
                let _ = rustix::io::read(&self.bell, &mut [0; 8]);
            } else if let Some(waker) = state.waiting.remove(&number) {
                waker.wake();
            }
        }
    }

    fn wake_sleepers(&self, now: Instant) {
        let mut state = self.lock();
        while let Some(first) = state.sleeping.first_entry()
            && first.key().0 <= now
        {
            first.remove().wake();
        }
    }

    /// Wait this long.
    pub(crate) async fn sleep(&self, duration: Duration) {
        /// Takes the sleeper away if it is no longer wanted.
        struct Sleeper<'a>(&'a Poller, (Instant, u64));

        impl Drop for Sleeper<'_> {
            fn drop(&mut self) {
                self.0.lock().sleeping.remove(&self.1);
            }
        }

        let at = Instant::now() + duration;
        let sleeper = Sleeper(self, (at, self.number()));
        poll_fn(|cx| {
            if at <= Instant::now() {
                return Poll::Ready(());
            }
            let mut state = self.lock();
            state.sleeping.insert(sleeper.1, cx.waker().clone());
            if state.asleep_until.is_some_and(|until| at < until) {
                // Once is enough: it looks at all of them.
                state.asleep_until = None;
                let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
            }
            Poll::Pending
        })
        .await;
    }
}

/// A descriptor that does not block, and who waits for it: one at a time.
pub(crate) struct Watched {
    poller: Arc<Poller>,
    fd: OwnedFd,
    number: u64,
    /// Whether the kernel watches it already.
    added: AtomicBool,
}

impl Watched {
    /// `fd` must not block, and must be something that can be waited for.
    pub(crate) fn new(poller: &Arc<Poller>, fd: OwnedFd) -> Self {
        Self {
            poller: poller.clone(),
            fd,
            number: poller.number(),
            added: AtomicBool::new(false),
        }
    }

    /// Wait until it may be read.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.ready(EventFlags::IN).await
    }

    /// Wait until it may be written.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.ready(EventFlags::OUT).await
    }

    async fn ready(&self, event: EventFlags) -> io::Result<()> {
        /// Takes the waker away if it is no longer wanted.
        struct Waiting<'a>(&'a Watched);

        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.poller.lock().waiting.remove(&self.0.number);
            }
        }

        let mut asked = false;
        let _waiting = Waiting(self);
        poll_fn(|cx: &mut Context<'_>| {
            let mut state = self.poller.lock();
            if asked && !state.waiting.contains_key(&self.number) {
                return Poll::Ready(Ok(()));
            }
            state.waiting.insert(self.number, cx.waker().clone());
            drop(state);
            if !asked {
                asked = true;
                // After the waker is there: it may be ready at once, on the other thread.
                self.ask(event)?;
            }
            Poll::Pending
        })
        .await
    }

    fn ask(&self, event: EventFlags) -> io::Result<()> {
        let (data, flags) = (EventData::new_u64(self.number), event | EventFlags::ONESHOT);
        if self.added.swap(true, Ordering::Relaxed) {
            epoll::modify(&self.poller.epoll, &self.fd, data, flags)?;
        } else {
            epoll::add(&self.poller.epoll, &self.fd, data, flags)?;
        }
        Ok(())
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.added.load(Ordering::Relaxed) {
            let _ = epoll::delete(&self.poller.epoll, &self.fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn poller() -> Arc<Poller> {
        let poller = Poller::new().expect("it can be made");
        let running = poller.clone();
        tasks::thread("poller", move || running.run()).expect("a thread");
        poller
    }

    #[test]
    fn whoever_waits_for_a_descriptor_is_woken() {
        let poller = poller();
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
        let read = Watched::new(&poller, read);
        let (tell, told) = mpsc::channel();
        tasks::spawn(async move {
            for _ in 0..3 {
                read.readable().await.expect("it can be waited for");
                let mut byte = [0];
                rustix::io::read(&read, &mut byte).expect("a byte");
                tell.send(byte[0]).expect("it is heard");
            }
        });
        tasks::run();
        for byte in 1..=3 {
            assert!(told.try_recv().is_err(), "it waits");
            rustix::io::write(&write, &[byte]).expect("there is room");
            assert_eq!(told.recv_timeout(PATIENCE), Ok(byte));
        }
    }

    #[test]
    fn sleepers_wake_in_their_order() {
        let poller = poller();
        let (tell, told) = mpsc::channel();
        for millis in [60, 1, 30] {
            let (poller, tell) = (poller.clone(), tell.clone());
            tasks::spawn(async move {
                poller.sleep(Duration::from_millis(millis)).await;
                tell.send(millis).expect("it is heard");
            });
            tasks::run();
        }
        let woken: Vec<_> = (0..3).map(|_| told.recv_timeout(PATIENCE)).collect();
        assert_eq!(woken, [Ok(1), Ok(30), Ok(60)]);
        assert!(poller.lock().sleeping.is_empty());
    }
}
