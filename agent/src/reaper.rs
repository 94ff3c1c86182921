//! The one place that waits for processes.
//!
//! As PID 1 the agent inherits every orphan in the sandbox, so it reaps whatever ends; who wants an
//! exit status asks beforehand. Nothing else may call `wait`, or it would race for statuses; but what
//! starts a process here may wait for it, if it does not become a program.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard};

use belljar_link::message::Exit;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus};

use crate::proc;

/// What is to be done when a process has ended.
pub(crate) type Ended = Box<dyn FnOnce(Exit) + Send>;

/// Who waits for which process.
#[derive(Default)]
pub(crate) struct Reaper {
    state: Mutex<State>,
    /// Rung when a process was started.
    started: Condvar,
}

#[derive(Default)]
struct State {
    waiting: HashMap<Pid, Ended>,
    /// Processes started so far.
    starts: u64,
}

impl Reaper {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    /// Start a process, and have its end told. Nothing is reaped while it starts: one that becomes no
    /// program is waited for by whoever started it.
    pub(crate) fn spawn<T, E>(
        &self,
        start: impl FnOnce() -> Result<(T, Pid, Ended), E>,
    ) -> Result<T, E> {
        let mut state = self.lock();
        let (started, pid, ended) = start()?;
        state.waiting.insert(pid, ended);
        state.starts += 1;
        self.started.notify_one();
        Ok(started)
    }

    /// Reap for ever.
    pub(crate) fn run(&self) {
        loop {
            let starts = self.lock().starts;
            // Left as it is until nothing is being started.
            let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            match rustix::process::waitid(WaitId::All, ended) {
                Ok(_) => self.reap(),
                // There is no process: until one is started, which is here, there will be none.
                Err(Errno::CHILD) => {
                    let none = |state: &mut State| state.starts == starts;
                    drop(self.started.wait_while(self.lock(), none));
                }
                Err(_) => {}
            }
        }
    }

    /// Reap one that has ended, if it has not been waited for meanwhile.
    fn reap(&self) {
        let mut state = self.lock();
        if let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let ended = state.waiting.remove(&pid);
            drop(state);
            if let Some(ended) = ended {
                ended(exit(status));
            }
        }
    }
}

fn exit(status: WaitStatus) -> Exit {
    Exit {
        code: status.exit_status(),
        signal: status.terminating_signal().map(signal_name),
    }
}

/// `9` is `SIGKILL`; a real-time signal keeps its number.
fn signal_name(number: i32) -> String {
    const NAMES: [(Signal, &str); 15] = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::TERM, "SIGTERM"),
    ];
    NAMES
        .iter()
        .find(|(signal, _)| signal.as_raw() == number)
        .map_or_else(|| format!("SIG{number}"), |(_, name)| (*name).into())
}

/// Send a signal to every process of the sandbox but the agent. All of them descend from it: it is
/// PID 1, or (under the `process` launcher) a subreaper.
pub(crate) fn signal_all(signal: Signal) {
    for pid in descendants(rustix::process::getpid()) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// End every process, however fast they fork. Bounded, because PID 1's own exit ends what is left.
pub(crate) fn kill_all() {
    for _ in 0..50 {
        let below = descendants(rustix::process::getpid());
        if below.is_empty() {
            return;
        }
        for pid in below {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Every process below `root`, by one pass over `/proc`.
fn descendants(root: Pid) -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for process in proc::processes() {
        let pid = process.pid.as_raw_nonzero().get();
        children.entry(process.parent()).or_default().push(pid);
    }
    let mut found = Vec::new();
    let mut queue = vec![root.as_raw_nonzero().get()];
    while let Some(pid) = queue.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            found.extend(Pid::from_raw(child));
            queue.push(child);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_grandchildren() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & echo; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("sh runs");
        let mut byte = [0];
        let stdout = child.stdout.as_mut().expect("piped");
        std::io::Read::read_exact(stdout, &mut byte).expect("the shell has started its child");
        let below = descendants(rustix::process::getpid());
        let shell = Pid::from_child(&child);
        assert!(below.contains(&shell));
        let grandchildren = descendants(shell);
        assert_eq!(grandchildren.len(), 1);
        for pid in grandchildren.into_iter().chain([shell]) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        let _ = child.wait();
    }

    #[test]
    fn names_signals() {
        assert_eq!(signal_name(9), "SIGKILL");
        assert_eq!(signal_name(40), "SIG40");
    }
}
