//! A program on a PTY, its history, its readers.

mod news;

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use belljar_link::message::{Exit, OpenTerminal, Size, TerminalInfo};
use rustix::process::Pid;
use tokio::sync::Notify;

use crate::flow::Flow;
use crate::history::{History, Read};
use crate::pty::Pty;
use crate::reaper::Reaper;
use crate::tasks;

use news::News;

/// Bytes taken from the PTY at once, and held back at most while the window is closed. A PTY gives no
/// more, Linux's and gVisor's.
const TURN: usize = 4 * 1024;

/// A read of so much has most likely left something in the PTY.
const FULL: usize = TURN - 1;

/// After the program has ended, how long its last output is waited for. Something it left running
/// may hold the PTY open and silent for ever.
const DRAIN_QUIET: Duration = Duration::from_millis(50);

/// After the program has ended, how much more output is taken. The PTY itself buffers less; more
/// comes from something left running in the background.
const DRAIN_BYTES: u64 = 256 * 1024;

/// And how long at most, not counting what a slow controller or gateway takes: what is left running may write
/// a little for ever.
const DRAIN_LONGEST: Duration = Duration::from_secs(2);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A terminal. Shared by the thread that reads it and the tasks of its viewers.
pub(crate) struct Terminal {
    pty: Arc<Pty>,
    pid: Pid,
    state: Mutex<State>,
    /// Rung after new output and at the exit: for readers.
    pub(crate) changed: Notify,
    /// Rung when the flow may have opened, and when nothing more will come: for threads.
    moved: Condvar,
    news: News,
}

struct State {
    history: History,
    flow: Flow,
    size: Size,
    /// Its thread waits for output, and does not carry some.
    reading: bool,
    /// Every process has closed the PTY.
    hung_up: bool,
    /// Set once everything the program wrote is in the history.
    exit: Option<Exit>,
}

impl Terminal {
    /// Start a program on a new PTY. `reaper` says how it ends.
    pub(crate) fn open(open: &OpenTerminal, reaper: &Reaper) -> Result<Arc<Self>, String> {
        let size = open.size.clamped();
        reaper.spawn(|| {
            let (pty, pid) = Pty::open(open, size)?;
            let terminal = Arc::new(Self {
                pty,
                pid,
                state: Mutex::new(State {
                    history: History::new(),
                    flow: Flow::default(),
                    size,
                    reading: false,
                    hung_up: false,
                    exit: None,
                }),
                changed: Notify::new(),
                moved: Condvar::new(),
                news: News::default(),
            });
            let (reading, ending) = (terminal.clone(), terminal.clone());
            tasks::thread("pty", move || reading.pump()).map_err(|e| format!("no thread: {e}"))?;
            let ended = move |exit| ending.ended(exit);
            Ok((terminal, pid, Box::new(ended) as _))
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    /// The program's process id, which is also its session's.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn exit(&self) -> Option<Exit> {
        self.lock().exit.clone()
    }

    pub(crate) fn info(&self, terminal: u32) -> TerminalInfo {
        let state = self.lock();
        TerminalInfo {
            terminal,
            start: state.history.start(),
            end: state.history.end(),
            size: state.size,
            exit: state.exit.clone(),
        }
    }

    /// Set the size and tell the program, if it is new.
    pub(crate) fn resize(&self, size: Size) {
        let size = size.clamped();
        if std::mem::replace(&mut self.lock().size, size) != size {
            self.pty.resize(size, self.pid);
        }
    }

    /// Type some of these bytes; returns how many. Waits while the program does not read.
    pub(crate) async fn write(&self, bytes: &[u8]) -> std::io::Result<usize> {
        self.pty.write(bytes).await
    }

    /// Output from an offset on, and the exit once there is no more of it.
    pub(crate) fn read(&self, offset: u64, most: usize) -> (Read, Option<Exit>) {
        let state = self.lock();
        let read = state.history.read(offset, most);
        let exit = state.exit.clone().filter(|_| read == Read::UpToDate);
        (read, exit)
    }

    /// A new controller takes over, having processed everything before `offset`. Returns its turn.
    pub(crate) fn take(&self, offset: u64, window: u32) -> u64 {
        let turn = self.lock().flow.take(offset, window);
        self.moved.notify_all();
        turn
    }

    /// A controller has processed everything before `offset`.
    pub(crate) fn ack(&self, turn: u64, offset: u64) {
        let mut state = self.lock();
        let end = state.history.end();
        state.flow.ack(turn, offset, end);
        self.moved.notify_all();
    }

    /// A controller is gone; its window stays for `hold`.
    pub(crate) fn release(&self, turn: u64, hold: Duration) {
        self.lock().flow.release(turn, hold, Instant::now());
        self.moved.notify_all();
    }

    /// Move output from the PTY into the history until there is no more.
    fn pump(self: &Arc<Self>) {
        let mut buffer = vec![0; TURN];
        loop {
            self.lock().reading = true;
            let read = self.pty.read(&mut buffer);
            self.lock().reading = false;
            if read == 0 || !self.keep(&buffer[..read]) {
                self.lock().hung_up = true;
                self.moved.notify_all();
                self.news.end();
                return;
            }
        }
    }

    /// Tell the readers of new output, on this thread.
    fn tell(&self) {
        self.changed.notify_waiters();
        tasks::run();
    }

    /// Put output into the history, as the controller's window lets the program go on. False when
    /// the exit has been told and no more output counts.
    ///
    /// The window is looked at after the read: who controls the terminal may have changed meanwhile.
    fn keep(self: &Arc<Self>, mut output: &[u8]) -> bool {
        let flood = output.len() >= FULL;
        while !output.is_empty() {
            let Some((mut state, room)) = self.room() else {
                return false;
            };
            let (now, later) = output.split_at(room.min(output.len()));
            state.history.push(now);
            drop(state);
            output = later;
            let teller = || {
                let terminal = self.clone();
                tasks::thread("pty-news", move || terminal.news.tell(|| terminal.tell()))
            };
            if !self.news.leave(flood, teller) {
                self.tell();
            }
        }
        true
    }

    /// Wait until the controller's window lets the program go on, by how many bytes; `None` when
    /// the exit has been told.
    fn room(&self) -> Option<(MutexGuard<'_, State>, usize)> {
        let mut state = self.lock();
        while state.exit.is_none() {
            let end = state.history.end();
            let (allowance, changes_at) = state.flow.allowance(end, Instant::now());
            if allowance > 0 {
                return Some((state, usize::try_from(allowance).unwrap_or(usize::MAX)));
            }
            // A day is as good as for ever: it only looks again.
            let left = changes_at.map_or(DAY, |at| at.saturating_duration_since(Instant::now()));
            let waited = self.moved.wait_timeout(state, left);
            state = waited.expect("no panic while it is held").0;
        }
        None
    }

    /// The program has ended. Its last output may take as long as a slow controller does, so this
    /// waits on a thread of its own.
    fn ended(self: Arc<Self>, exit: Exit) {
        let terminal = self.clone();
        let drained = tasks::thread("pty-drain", {
            let exit = exit.clone();
            move || {
                terminal.drain();
                terminal.over(exit);
            }
        });
        if drained.is_err() {
            self.over(exit);
        }
    }

    /// Wait until there is nothing more to come. Waiting for a slow controller is not waiting for
    /// output.
    fn drain(&self) {
        let mut state = self.lock();
        let most = state.history.end() + DRAIN_BYTES;
        let mut left = DRAIN_LONGEST;
        while !state.hung_up && state.history.end() < most && !left.is_zero() {
            let begun = Instant::now();
            let before = state.history.end();
            let stopped = state.flow.allowance(before, Instant::now()).0 == 0;
            let waited = self.moved.wait_timeout(state, DRAIN_QUIET);
            let timed_out;
            (state, timed_out) = waited.expect("no panic while it is held");
            // The thread that reads may be late: the sandbox has half a processor, and a gateway may hold it up.
            if stopped || !state.reading {
                continue;
            }
            left = left.saturating_sub(begun.elapsed());
            let quiet = timed_out.timed_out() && state.history.end() == before;
            if quiet && !self.pty.has_output() {
                return;
            }
        }
    }

    fn over(&self, exit: Exit) {
        self.lock().exit = Some(exit);
        self.moved.notify_all();
        self.changed.notify_waiters();
        tasks::run();
    }
}
