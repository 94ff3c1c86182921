//! The master's side of a PTY: reads that block, writes that do not.
//!
//! The two share one open file, which either blocks or does not. It blocks, so that a program's
//! output is one system call away; and a key is written as it is once it is sure that there is room
//! for it, for inside gVisor every further call costs tens of microseconds. Only a paste is written
//! with the file set not to block.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use belljar_link::message::{OpenTerminal, Size};
use portable_pty::{CommandBuilder, MasterPty, PtySize, native_pty_system};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::Pid;
use tokio::sync::Notify;

use crate::{environment, tasks};

mod job;

mod literal;

/// Input this short is a key, or a few in quick succession, bytes.
const KEYS: usize = 64;

/// Bytes of keys for which there is room in an empty PTY: Linux has 64 KiB, gVisor 128.
const ROOM: usize = 4096;

/// A PTY and its program.
pub(crate) struct Pty {
    /// Sets the size. Dropped last: closing it hangs up the program.
    master: Mutex<Box<dyn MasterPty + Send>>,
    fd: OwnedFd,
    /// The descriptor's flags as they are while nobody writes.
    flags: OFlags,
    /// Bytes typed since it was empty; a paste counts as [`ROOM`]. Held while writing.
    unread: Mutex<usize>,
    /// Whether a thread waits until it may be written.
    blocked: Mutex<bool>,
    /// Rung when it may.
    writable: Notify,
}

impl Pty {
    /// Start a program on a new PTY.
    pub(crate) fn open(open: &OpenTerminal, size: Size) -> Result<(Arc<Self>, Pid), String> {
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
        environment::limit_processes(pid);
        let raw = pair.master.as_raw_fd().ok_or("the PTY has no descriptor")?;
        // SAFETY: `pair.master` owns the descriptor and outlives this borrow.
        let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
        let duplicate = || Ok::<_, Errno>((fcntl_dupfd(borrowed)?, fcntl_getfl(borrowed)?));
        let (fd, flags) = duplicate().map_err(|e| format!("PTY: {e}"))?;
        let pty = Self {
            master: Mutex::new(pair.master),
            fd,
            flags,
            unread: Mutex::new(0),
            blocked: Mutex::new(false),
            writable: Notify::new(),
        };
        Ok((Arc::new(pty), pid))
    }

    /// Set the size and tell the programs of the session (SIGWINCH).
    pub(crate) fn resize(&self, size: Size, session: Pid) {
        // Fails only once the PTY is gone, which its readers learn by the exit.
        let _ = self.master.lock().map(|m| m.resize(pty_size(size)));
        job::resized(self.fd.as_fd(), session);
    }

    /// Wait for output and take what one call gives. 0 at the end, when every process has closed it.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> usize {
        loop {
            match rustix::io::read(&self.fd, &mut *buffer) {
                Ok(read) => return read,
                Err(Errno::INTR) => {}
                // Somebody writes at this moment.
                Err(Errno::AGAIN) => self.wait(PollFlags::IN),
                // EIO is the end.
                Err(_) => return 0,
            }
        }
    }

    /// Whether there is output to be read.
    pub(crate) fn has_output(&self) -> bool {
        let mut output = [PollFd::new(&self.fd, PollFlags::IN)];
        let now = Timespec::default();
        poll(&mut output, Some(&now)).is_ok() && output[0].revents().contains(PollFlags::IN)
    }

    /// Type some of these bytes; returns how many. Waits while the program does not read.
    pub(crate) async fn write(self: &Arc<Self>, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.try_write(bytes) {
                Err(Errno::AGAIN) => self.clone().writable().await?,
                Err(Errno::INTR) => {}
                written => return Ok(written?),
            }
        }
    }

    fn try_write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let mut unread = self.unread.lock().expect("no panic while it is held");
        if let Some(at) = job::signal(bytes) {
            // What was typed after it is not dropped with what was typed before.
            return self.write_signal(&mut unread, &bytes[..=at]);
        }
        if bytes.len() <= KEYS {
            if *unread + bytes.len() > ROOM && self.is_read() {
                *unread = 0;
            }
            if *unread + bytes.len() <= ROOM {
                *unread += bytes.len();
                return rustix::io::write(&self.fd, bytes);
            }
        }
        *unread = ROOM;
        self.write_waiting(bytes)
    }

    /// Type bytes of which the last means a signal, unless the program wants it typed.
    fn write_signal(&self, unread: &mut usize, bytes: &[u8]) -> Result<usize, Errno> {
        // It is looked at before the next key.
        *unread = ROOM;
        let is_keys = bytes.len() <= KEYS;
        let literal = is_keys.then(|| literal::keys(self.fd.as_fd(), bytes));
        let written = self.write_waiting(bytes)?;
        if let (None, Some(key)) = (literal.flatten(), bytes[..written].last()) {
            job::typed(self.fd.as_fd(), *key);
        }
        Ok(written)
    }

    /// Type what there may be no room for. For this moment the file does not block, the thread that reads
    /// it neither.
    fn write_waiting(&self, bytes: &[u8]) -> Result<usize, Errno> {
        fcntl_setfl(&self.fd, self.flags | OFlags::NONBLOCK)?;
        let written = rustix::io::write(&self.fd, bytes);
        fcntl_setfl(&self.fd, self.flags)?;
        written
    }

    /// Whether the program has read what was typed: there is less than a line of it.
    fn is_read(&self) -> bool {
        slave(&self.fd).and_then(rustix::io::ioctl_fionread) == Ok(0)
    }

    /// A thread waits, for this is rare: a large paste into a program that does not read. One for
    /// the PTY, however many come and go while it waits.
    async fn writable(self: Arc<Self>) -> io::Result<()> {
        let writable = self.writable.notified();
        tokio::pin!(writable);
        writable.as_mut().enable();
        {
            let mut blocked = self.blocked.lock().expect("no panic while it is held");
            if !*blocked {
                let pty = self.clone();
                tasks::thread("pty-full", move || {
                    pty.wait(PollFlags::OUT);
                    *pty.blocked.lock().expect("no panic while it is held") = false;
                    pty.writable.notify_waiters();
                })?;
                *blocked = true;
            }
        }
        writable.await;
        Ok(())
    }

    fn wait(&self, event: PollFlags) {
        // An error is one for the read or write that follows.
        let _ = poll(&mut [PollFd::new(&self.fd, event)], None);
    }
}

/// The other side, to be looked at; it does not block.
fn slave(master: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let name = rustix::pty::ptsname(master, Vec::new())?;
    rustix::fs::open(name, flags, Mode::empty())
}

fn fcntl_dupfd(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0)
}

fn pty_size(size: Size) -> PtySize {
    PtySize {
        rows: size.rows,
        cols: size.cols,
        pixel_width: 0,
        pixel_height: 0,
    }
}
