//! One PTY, its program, its history, its readers.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use belljar_link::message::{Exit, OpenTerminal, Size, TerminalInfo};
use futures::future::poll_fn;
use portable_pty::{CommandBuilder, MasterPty, PtySize, native_pty_system};
use rustix::io::Errno;
use rustix::process::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use crate::flow::Flow;
use crate::history::History;
use crate::literal;
use crate::reaper::Reaper;

/// Bytes taken from the PTY in one turn before readers get theirs. gVisor's PTY gives at most
/// 4 KiB a read; several of them make one frame.
const TURN: usize = 32 * 1024;

/// A read this short has most likely emptied the PTY: readers get it at once, and the read that
/// finds nothing comes after them. This is the echo of a keystroke.
const SHORT: usize = 1024;

/// After the program has ended, how long its last output is waited for. Something it left running
/// may hold the PTY open and silent for ever.
const DRAIN_QUIET: Duration = Duration::from_millis(50);

/// After the program has ended, how much more output is taken. The PTY itself buffers less; more
/// comes from something left running in the background.
const DRAIN_BYTES: u64 = 256 * 1024;

/// A terminal. Shared by the tasks that read it, type into it and watch its program.
pub(crate) struct Terminal {
    /// Sets the size. Dropped last: closing it hangs up the program.
    master: Box<dyn MasterPty>,
    pty: AsyncFd<OwnedFd>,
    pid: Pid,
    pub(crate) history: RefCell<History>,
    pub(crate) flow: RefCell<Flow>,
    size: Cell<Size>,
    exit: RefCell<Option<Exit>>,
    /// Rung after new output and at the exit: for readers.
    pub(crate) changed: Notify,
    /// Rung when the flow may have opened: for the pump.
    pub(crate) flow_changed: Notify,
}

impl Terminal {
    /// Start a program on a new PTY. `reaper` will say how it ends.
    pub(crate) fn open(open: &OpenTerminal, reaper: &Reaper) -> Result<Rc<Self>, String> {
        let size = open.size.clamped();
        let pair = native_pty_system()
            .openpty(pty_size(size))
            .map_err(|e| format!("no PTY: {e:#}"))?;
        let mut command = CommandBuilder::from_argv(open.command.iter().map(Into::into).collect());
        command.env("TERM", "xterm-256color");
        command.env("COLORTERM", "truecolor");
        for (name, value) in &open.env {
            command.env(name, value);
        }
        if let Some(cwd) = &open.cwd {
            command.cwd(cwd);
        }
        let child = pair
            .slave
            .spawn_command(command)
            .map_err(|e| format!("{}: {e:#}", open.command.join(" ")))?;
        let pid = child
            .process_id()
            .and_then(|pid| Pid::from_raw(pid.cast_signed()))
            .ok_or("the program has no process id")?;
        let exit = reaper.watch(pid);

        let raw = pair.master.as_raw_fd().ok_or("the PTY has no descriptor")?;
        // SAFETY: `pair.master` owns the descriptor and outlives this borrow.
        let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
        let pty = nonblocking(borrowed, Interest::READABLE).map_err(|e| format!("PTY: {e}"))?;
        let terminal = Rc::new(Self {
            master: pair.master,
            pty,
            pid,
            history: RefCell::new(History::new()),
            flow: RefCell::default(),
            size: Cell::new(size),
            exit: RefCell::new(None),
            changed: Notify::new(),
            flow_changed: Notify::new(),
        });
        tokio::task::spawn_local(terminal.clone().pump(exit));
        Ok(terminal)
    }

    /// The program's process id, which is also its session's.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn size(&self) -> Size {
        self.size.get()
    }

    pub(crate) fn exit(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    pub(crate) fn info(&self, terminal: u32) -> TerminalInfo {
        let history = self.history.borrow();
        TerminalInfo {
            terminal,
            start: history.start(),
            end: history.end(),
            size: self.size.get(),
            exit: self.exit(),
        }
    }

    /// Set the size and tell the program (SIGWINCH), if it is new.
    pub(crate) fn resize(&self, size: Size) {
        let size = size.clamped();
        if self.size.replace(size) != size {
            // Fails only once the PTY is gone, which its readers learn by the exit.
            let _ = self.master.resize(pty_size(size));
        }
    }

    /// Type one piece of input; returns how much of it the PTY took. Waits while the program does
    /// not read.
    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let _literal = literal::keys(self.pty.get_ref().as_fd(), bytes);
        match rustix::io::write(self.pty.get_ref(), bytes) {
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            written => return Ok(written?),
        }
        // Registered for writing only while that is waited for: see `belljar_link::socket`.
        let pty = nonblocking(self.pty.get_ref().as_fd(), Interest::WRITABLE)?;
        loop {
            let mut ready = pty.writable().await?;
            if let Ok(written) = ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                return written;
            }
        }
    }

    /// Move output from the PTY into the history until the program has ended.
    async fn pump(self: Rc<Self>, mut exited: oneshot::Receiver<Exit>) {
        let mut buffer = vec![0; TURN];
        // What may still be read; bounded once the program has ended.
        let mut rest = u64::MAX;
        let exit = loop {
            tokio::select! {
                biased;
                exit = &mut exited => break exit.ok(),
                alive = self.turn(&mut buffer, &mut rest) => {
                    if !alive {
                        // Every process has closed the PTY; its program is ending.
                        break exited.await.ok();
                    }
                }
            }
        };
        rest = DRAIN_BYTES;
        while rest > 0 && self.drain(&mut buffer, &mut rest).await {}
        *self.exit.borrow_mut() = exit.or(Some(Exit {
            code: None,
            signal: Some("SIGKILL".into()),
        }));
        self.changed.notify_waiters();
    }

    /// One more turn after the program's end; false when there is nothing more to come. Waiting
    /// for a slow controller is not waiting for output.
    async fn drain(&self, buffer: &mut [u8], rest: &mut u64) -> bool {
        self.flow_open().await;
        timeout(DRAIN_QUIET, self.turn(buffer, rest))
            .await
            .unwrap_or(false)
    }

    /// Wait until the controller's window lets the program go on.
    async fn flow_open(&self) {
        loop {
            let end = self.history.borrow().end();
            let (allowance, changes_at) = self.flow.borrow_mut().allowance(end, Instant::now());
            if allowance > 0 {
                return;
            }
            let changed = self.flow_changed.notified();
            match changes_at {
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }

    /// Wait for output, take up to a buffer of it, tell the readers. False at the PTY's end.
    /// Cancel-safe: bytes are in the history before it awaits again.
    async fn turn(&self, buffer: &mut [u8], rest: &mut u64) -> bool {
        self.flow_open().await;
        let Ok(mut ready) = self.pty.readable().await else {
            return false;
        };
        // Only now, for the PTY may have been quiet until another controller came.
        let end = self.history.borrow().end();
        let (allowance, _) = self.flow.borrow_mut().allowance(end, Instant::now());
        let most = usize::try_from(allowance.min(*rest))
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let mut taken = 0;
        let mut alive = true;
        while taken < most {
            let room = &mut buffer[taken..most];
            match ready.try_io(|fd| Ok(rustix::io::read(fd, &mut *room)?)) {
                Ok(Ok(0)) => {
                    alive = false;
                    break;
                }
                Ok(Ok(n)) => {
                    taken += n;
                    if n < SHORT {
                        break;
                    }
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // EIO: nobody holds the other side any more.
                Ok(Err(_)) => {
                    alive = false;
                    break;
                }
                Err(_would_block) => break,
            }
        }
        if taken > 0 {
            *rest -= taken as u64;
            self.history.borrow_mut().push(&buffer[..taken]);
            self.changed.notify_waiters();
            // What was read goes out before more is taken: a flood would starve its readers, and a
            // keystroke's echo would wait for a read that finds nothing.
            let_readers_run().await;
        }
        alive
    }
}

/// Let the tasks run that move output on: the attach that was woken, and the link's driver that it
/// wakes in turn. Not `yield_now`, which asks the kernel for news in between.
async fn let_readers_run() {
    let mut turns = 2;
    poll_fn(|cx| {
        if turns == 0 {
            return Poll::Ready(());
        }
        turns -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn pty_size(size: Size) -> PtySize {
    PtySize {
        rows: size.rows,
        cols: size.cols,
        pixel_width: 0,
        pixel_height: 0,
    }
}

/// A non-blocking descriptor of our own for the PTY's master.
fn nonblocking(fd: BorrowedFd<'_>, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = rustix::io::fcntl_dupfd_cloexec(fd, 0)?;
    let flags = rustix::fs::fcntl_getfl(fd.as_fd())?;
    rustix::fs::fcntl_setfl(fd.as_fd(), flags | rustix::fs::OFlags::NONBLOCK)?;
    // SAFETY: an `OwnedFd` names the same open descriptor until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
