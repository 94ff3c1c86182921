//! Programs without a terminal, moving their output.
//!
//! A process costs no thread. What comes out of it is moved by two tasks, one for each stream, which
//! the poller wakes; a third waits for its end, and for its time to be up.

mod output;

mod spawn;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use belljar_link::message::code::{BAD_SIGNAL, NO_PROCESS};
use belljar_link::message::process::{
    MAX_ENDED, MAX_PROCESSES, ProcessExit, ProcessInfo, SHOWN_COMMAND, STDERR, STDOUT, StartProcess,
};
use belljar_link::message::{Exit, Refusal, Reply};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use tokio::sync::{Notify, oneshot};

use self::output::Output;
pub(crate) use self::output::Read;
use crate::hands::Hands;
use crate::poller::{Poller, Watched};
use crate::reaper::Reaper;
use crate::{environment, tasks};

/// Bytes taken from a pipe in one turn, which is what most pipes hold.
const TURN: usize = 64 * 1024;

/// Between asking a process to end and making it.
const GRACE: Duration = Duration::from_secs(2);

/// After the program has ended, how long its last output is waited for. Something it left running
/// may hold its pipes open and silent for ever.
const DRAIN_QUIET: Duration = Duration::from_millis(50);

/// After the program has ended, how much more output is taken. Pipes buffer less; more comes from
/// something left running in the background.
const DRAIN_BYTES: u64 = 256 * 1024;

/// And how long at most, waiting for a slow reader not counted: what is left running may write a little
/// for ever.
const DRAIN_LONGEST: Duration = Duration::from_secs(2);

/// Every process that the agent was asked to start.
pub(crate) struct Processes {
    reaper: Arc<Reaper>,
    poller: Arc<Poller>,
    hands: Arc<Hands>,
    /// Those that run, and those about to be started.
    running: AtomicUsize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    known: BTreeMap<u32, Arc<Process>>,
    /// Background processes that have ended, in that order.
    ended: VecDeque<u32>,
    last: u32,
}

impl Processes {
    pub(crate) fn new(reaper: Arc<Reaper>, poller: Arc<Poller>, hands: Arc<Hands>) -> Self {
        Self {
            reaper,
            poller,
            hands,
            running: AtomicUsize::new(0),
            table: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panic while it is held")
    }

    /// Start a program.
    pub(crate) async fn start(self: &Arc<Self>, start: StartProcess) -> Reply<Arc<Process>> {
        spawn::check(&start)?;
        let place = Place::take(self)?;
        let processes = self.clone();
        let started = move || processes.spawn(&start, place);
        self.hands.run(started).await
    }

    fn spawn(self: &Arc<Self>, start: &StartProcess, place: Place) -> Reply<Arc<Process>> {
        let (tell, ended) = oneshot::channel();
        let spawned = self.reaper.spawn(|| {
            let spawned = spawn::spawn(start)?;
            let pid = spawned.pid;
            let told = move |exit| {
                let _ = tell.send(exit);
                tasks::run();
            };
            Ok::<_, Refusal>((spawned, pid, Box::new(told) as _))
        })?;
        let process = {
            let mut table = self.table();
            table.last += 1;
            let number = table.last;
            let stdin = spawned.stdin.map(|fd| Watched::new(&self.poller, fd));
            let process = Arc::new(Process::new(number, spawned.pid, start, stdin));
            table.known.insert(number, process.clone());
            process
        };
        for (stream, fd) in [(STDOUT, spawned.stdout), (STDERR, spawned.stderr)] {
            tasks::spawn(process.clone().pump(stream, self.watched(fd)));
        }
        let (processes, supervised) = (self.clone(), process.clone());
        let timeout = start.timeout_ms.map(Duration::from_millis);
        tasks::spawn(async move {
            supervised
                .supervise(&processes.poller, ended, timeout)
                .await;
            drop(place);
            processes.ended(&supervised);
            // Who reads to the end may start the next at once, and finds a place.
            supervised.changed.notify_waiters();
        });
        Ok(process)
    }

    fn watched(&self, fd: OwnedFd) -> Watched {
        Watched::new(&self.poller, fd)
    }

    /// Keep what an ended background process has left, for a while.
    fn ended(&self, process: &Process) {
        if !process.background {
            return;
        }
        let mut table = self.table();
        table.ended.push_back(process.number);
        if table.ended.len() > MAX_ENDED
            && let Some(oldest) = table.ended.pop_front()
        {
            table.known.remove(&oldest);
        }
    }

    pub(crate) fn get(&self, number: u32) -> Reply<Arc<Process>> {
        let found = self.table().known.get(&number).cloned();
        found.ok_or_else(|| Refusal::new(NO_PROCESS, format!("there is no process {number}")))
    }

    pub(crate) fn infos(&self) -> Vec<ProcessInfo> {
        let known: Vec<_> = self.table().known.values().cloned().collect();
        known.iter().map(|process| process.info()).collect()
    }

    /// The reader of a foreground process is gone, and with it the process.
    pub(crate) fn abandon(&self, process: &Process) {
        self.table().known.remove(&process.number);
        process.abandon();
    }
}

/// A place for one process that runs.
struct Place(Arc<Processes>);

impl Place {
    fn take(processes: &Arc<Processes>) -> Reply<Self> {
        // The programs' own limit may be the lower one. What they start themselves counts there too,
        // and then the kernel refuses.
        let limit = environment::process_limit().unwrap_or(u64::MAX);
        let most = usize::try_from(limit)
            .unwrap_or(usize::MAX)
            .min(MAX_PROCESSES);
        let more = |running: usize| (running < most).then_some(running + 1);
        let taken = processes
            .running
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.map_err(|_| spawn::too_many())?;
        Ok(Self(processes.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A process: shared by the tasks that move its output and by those of its readers.
pub(crate) struct Process {
    pub(crate) number: u32,
    pub(crate) pid: Pid,
    command: String,
    started: Instant,
    pub(crate) background: bool,
    state: Mutex<State>,
    /// `None` inside: there is none, or it was closed. Held while writing.
    stdin: tokio::sync::Mutex<Option<Watched>>,
    /// Rung after new output and at the exit: for readers.
    pub(crate) changed: Notify,
    /// Rung when there may be room, and when a pipe was closed: for the tasks of the process.
    moved: Notify,
}

struct State {
    output: Output,
    /// What a foreground process's reader has taken; `None`: nobody is waited for.
    taken: Option<u64>,
    open_pipes: u8,
    timed_out: bool,
    /// It was reaped: its process id may belong to another.
    reaped: bool,
    /// Set once everything it wrote is in the output.
    exit: Option<ProcessExit>,
}

impl Process {
    fn new(number: u32, pid: Pid, start: &StartProcess, stdin: Option<Watched>) -> Self {
        Self {
            number,
            pid,
            command: shown(&start.command),
            started: Instant::now(),
            background: start.background,
            state: Mutex::new(State {
                output: Output::default(),
                taken: (!start.background).then_some(0),
                open_pipes: 2,
                timed_out: false,
                reaped: false,
                exit: None,
            }),
            stdin: tokio::sync::Mutex::new(stdin),
            changed: Notify::new(),
            moved: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    pub(crate) fn info(&self) -> ProcessInfo {
        let state = self.lock();
        ProcessInfo {
            process: self.number,
            pid: self.pid.as_raw_nonzero().get().cast_unsigned(),
            command: self.command.clone(),
            started_ms_ago: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            background: self.background,
            start: state.output.start(),
            end: state.output.end(),
            exit: state.exit.clone(),
        }
    }

    /// Output from an offset on, and the exit once there is no more of it.
    pub(crate) fn read(&self, offset: u64, most: usize) -> (Read, Option<ProcessExit>) {
        let state = self.lock();
        let read = state.output.read(offset, most);
        let exit = state.exit.clone().filter(|_| read == Read::UpToDate);
        (read, exit)
    }

    /// The one reader of a foreground process has taken everything before `offset`.
    pub(crate) fn take(&self, offset: u64) {
        let mut state = self.lock();
        if let Some(taken) = &mut state.taken {
            *taken = offset;
            drop(state);
            self.moved.notify_waiters();
        }
    }

    /// Send a signal to its process group.
    pub(crate) fn signal(&self, number: i32) -> Reply<()> {
        let signal = Signal::from_named_raw(number)
            .ok_or_else(|| Refusal::new(BAD_SIGNAL, format!("signal: there is none {number}")))?;
        self.kill(signal)
    }

    fn kill(&self, signal: Signal) -> Reply<()> {
        let state = self.lock();
        let ended = || Refusal::new(NO_PROCESS, format!("process {} has ended", self.number));
        if state.reaped {
            return Err(ended());
        }
        rustix::process::kill_process_group(self.pid, signal).map_err(|_| ended())
    }

    /// Nobody will read it: it is killed, and what it still writes counts no more. What it has
    /// started and left behind lives, as it would under any shell.
    fn abandon(&self) {
        let _ = self.kill(Signal::KILL);
        self.lock().taken = None;
        self.moved.notify_waiters();
    }

    /// Write some of these bytes; returns how many. Waits while the program does not read. An error
    /// is that of a program which never will.
    pub(crate) async fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let stdin = self.stdin.lock().await;
        let Some(pipe) = &*stdin else {
            return Err(Errno::PIPE);
        };
        loop {
            match rustix::io::write(pipe, bytes) {
                Err(Errno::AGAIN) => pipe.writable().await.map_err(|_| Errno::IO)?,
                Err(Errno::INTR) => {}
                written => return written,
            }
        }
    }

    /// Let the program read the end.
    pub(crate) async fn close_input(&self) {
        drop(self.stdin.lock().await.take());
    }

    /// Whether there is an input to write to.
    pub(crate) async fn has_input(&self) -> bool {
        self.stdin.lock().await.is_some()
    }

    /// Move output from a pipe until there is no more.
    async fn pump(self: Arc<Self>, stream: u8, pipe: Watched) {
        loop {
            self.room().await;
            // Also after a full turn: whoever waits on the same thread has theirs in between.
            if pipe.readable().await.is_err() {
                break;
            }
            match tasks::with_buffer(TURN, |buffer| self.turn(stream, &pipe, buffer)) {
                Ok(false) | Err(Errno::AGAIN | Errno::INTR) => {}
                Ok(true) | Err(_) => break,
            }
        }
        self.lock().open_pipes -= 1;
        self.moved.notify_waiters();
    }

    /// Take what there is and fits; says whether that was the end.
    fn turn(&self, stream: u8, pipe: &Watched, buffer: &mut [u8]) -> Result<bool, Errno> {
        // Held while reading: the other stream fills the same room.
        let mut state = self.lock();
        let room = state.room().min(buffer.len());
        if room == 0 {
            return Ok(false);
        }
        let read = rustix::io::read(pipe, &mut buffer[..room])?;
        // What comes after the exit was told counts no more.
        if read > 0 && state.exit.is_none() {
            state.output.push(stream, &buffer[..read]);
            drop(state);
            self.changed.notify_waiters();
            self.moved.notify_waiters();
        }
        Ok(read == 0)
    }

    /// Wait until there is room for output.
    async fn room(&self) {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let room = self.lock().room();
            if room > 0 {
                return;
            }
            moved.await;
        }
    }

    /// Wait for its end, and see to it if its time is up.
    async fn supervise(
        &self,
        poller: &Poller,
        mut ended: oneshot::Receiver<Exit>,
        timeout: Option<Duration>,
    ) {
        let late = async {
            let Some(timeout) = timeout else {
                return std::future::pending::<()>().await;
            };
            poller.sleep(timeout).await;
            self.lock().timed_out = true;
            let _ = self.kill(Signal::TERM);
            poller.sleep(GRACE).await;
            let _ = self.kill(Signal::KILL);
            std::future::pending::<()>().await;
        };
        let exit = tokio::select! {
            exit = &mut ended => exit,
            () = late => unreachable!("it never ends"),
        };
        let exit = exit.unwrap_or(Exit {
            code: None,
            signal: None,
        });
        let timed_out = {
            let mut state = self.lock();
            state.reaped = true;
            state.timed_out
        };
        if timed_out {
            // What it has started had its time too. The group is its own while one of them lives.
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
        self.drain(poller).await;
        // Nobody reads it any more, so nobody waits to write.
        if let Ok(mut stdin) = self.stdin.try_lock() {
            stdin.take();
        }
        self.lock().exit = Some(ProcessExit {
            code: exit.code,
            signal: exit.signal,
            timed_out,
        });
        self.moved.notify_waiters();
    }

    /// Wait until there is nothing more to come. Waiting for a slow reader is not waiting for output.
    async fn drain(&self, poller: &Poller) {
        let most = self.lock().output.end() + DRAIN_BYTES;
        let mut left = DRAIN_LONGEST;
        loop {
            let begun = Instant::now();
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let (end, held) = {
                let state = self.lock();
                if state.open_pipes == 0 || state.output.end() >= most {
                    return;
                }
                (state.output.end(), state.room() == 0)
            };
            tokio::select! {
                () = moved => {}
                () = poller.sleep(DRAIN_QUIET) => {
                    if !held && self.lock().output.end() == end {
                        return;
                    }
                }
            }
            if !held {
                left = left.saturating_sub(begun.elapsed());
            }
            if left.is_zero() {
                return;
            }
        }
    }
}

impl State {
    /// How much output may be taken from the program. Nobody waits for a reader that is gone, nor
    /// after the exit.
    fn room(&self) -> usize {
        match self.taken {
            Some(taken) if self.exit.is_none() => self.output.room(taken),
            _ => usize::MAX,
        }
    }
}

/// Program and arguments in one line, cut where it is too long.
fn shown(command: &[String]) -> String {
    let mut shown = String::new();
    for character in command.iter().flat_map(|part| part.chars().chain([' '])) {
        if shown.len() + character.len_utf8() > SHOWN_COMMAND {
            return shown;
        }
        shown.push(character);
    }
    shown.pop();
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_command_is_cut() {
        let command = ["sh".to_owned(), "ä".repeat(1000), "more".to_owned()];
        let shown = shown(&command);
        assert!(
            shown.len() <= SHOWN_COMMAND && shown.starts_with("sh ää"),
            "{shown}"
        );
        assert!(shown.ends_with('ä'));
    }
}
