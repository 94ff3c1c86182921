//! The bytes of one link: a thread that reads, and writes that block.
//!
//! A gateway reads its links whatever else it does, so a blocked write is over soon or the link is
//! broken; meanwhile this holds up the link's own tasks and nothing else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tasks;

/// How often a write that the engine does not take looks whether its link has been given up.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// Bytes read at once.
const READ: usize = 16 * 1024;

/// What was read and not processed yet; at most one read.
#[derive(Default)]
struct Inbox {
    state: Mutex<InboxState>,
    /// Rung when it is empty, or nobody will read it any more.
    drained: Condvar,
}

#[derive(Default)]
struct InboxState {
    bytes: Vec<u8>,
    /// How many of them are processed.
    taken: usize,
    /// Nothing more will come.
    ended: bool,
    /// Nobody will read it any more.
    abandoned: bool,
    /// Its task waits for bytes.
    reader: Option<Waker>,
    /// Its thread waits until it is empty. Kept, because ringing costs a system call.
    full: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, InboxState> {
        self.state.lock().expect("no panic while it is held")
    }

    /// Hand over what was read, once what came before is processed. False if nobody wants it.
    fn put(&self, bytes: &[u8]) -> bool {
        let busy = |state: &mut InboxState| {
            state.full = state.taken < state.bytes.len() && !state.abandoned;
            state.full
        };
        let waited = self.drained.wait_while(self.lock(), busy);
        let mut state = waited.expect("no panic while it is held");
        state.bytes.clear();
        state.bytes.extend_from_slice(bytes);
        state.taken = 0;
        state.ended = bytes.is_empty();
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        !state.abandoned
    }
}

/// One end of a link, for its tasks.
pub(crate) struct Wire {
    inbox: Arc<Inbox>,
    output: OwnedFd,
    /// Whether the link has been given up.
    over: Over,
}

/// Tells whether a link has been given up, to a write that is held up.
pub(crate) type Over = Box<dyn Fn() -> bool + Send + Sync>;

impl Drop for Wire {
    fn drop(&mut self) {
        self.inbox.lock().abandoned = true;
        self.inbox.drained.notify_one();
        // Ends the thread's read. Of a pipe it does not; its next bytes will.
        let _ = rustix::net::shutdown(&self.output, Shutdown::Both);
    }
}

/// Serve a link until its input ends: `start` makes its tasks.
pub(crate) fn serve(input: &OwnedFd, output: OwnedFd, over: Over, start: impl FnOnce(Wire)) {
    let inbox = Arc::new(Inbox::default());
    start(Wire {
        inbox: inbox.clone(),
        output,
        over,
    });
    tasks::run();
    let mut buffer = vec![0; READ];
    loop {
        let read = match rustix::io::read(input, &mut buffer) {
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(_) => 0,
        };
        let wanted = inbox.put(&buffer[..read]);
        tasks::run();
        if read == 0 || !wanted {
            return;
        }
    }
}

/// Let writes to a pipe be given up: nothing can end one that blocks in the kernel because the engine
/// has stopped reading. Not for a socket, whose reads would not block any more either, and whose
/// shutdown ends a write.
pub(crate) fn can_give_up(pipe: impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(&pipe)?;
    Ok(fcntl_setfl(pipe, flags | OFlags::NONBLOCK)?)
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.inbox.lock();
        let rest = &state.bytes[state.taken..];
        if rest.is_empty() {
            if state.ended {
                return Poll::Ready(Ok(()));
            }
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let now = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..now]);
        state.taken += now;
        if state.full && state.taken == state.bytes.len() {
            self.inbox.drained.notify_one();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match rustix::io::write(&self.output, buf) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if (self.over)() => {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                // Here, and not as a task's wait: a blocked write is what this type promises.
                Err(Errno::AGAIN) => {
                    let mut output = [PollFd::new(&self.output, PollFlags::OUT)];
                    let _ = poll(&mut output, Some(&LOOK));
                }
                written => return Poll::Ready(Ok(written?)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = rustix::net::shutdown(&self.output, Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}
