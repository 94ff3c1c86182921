//! How `belljar reload` and a running gateway find each other: files in `run_dir`, one with the
//! gateway's pid, one with its answer to the last reload. Each is replaced as a whole, so nobody
//! reads half of one.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::config::Config;

/// Largest answer that is read, bytes: every key of hundreds of templates.
const MAX_ANSWER: u64 = 1024 * 1024;

/// How long an earlier gateway may take to go away: it takes 25 s at most.
const TAKEOVER: Duration = Duration::from_secs(30);

/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The files of the gateway with this `run_dir` and namespace.
#[derive(Debug, Clone)]
pub(super) struct Control {
    lock: PathBuf,
    pid: PathBuf,
    answer: PathBuf,
}

/// What came of a reload.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Answer {
    /// When the gateway began with it, before it read anything.
    pub(super) begun: SystemTime,
    /// Keys in force from now on.
    pub(super) applied: Vec<String>,
    /// Keys that have changed and keep their old values.
    pub(super) needs_restart: Vec<String>,
    /// What is wrong; then nothing has changed.
    pub(super) problems: Vec<String>,
}

impl Control {
    pub(super) fn of(config: &Config) -> Self {
        let file = |suffix| {
            let name = format!("{}.{suffix}", config.docker.namespace);
            config.run_dir.join(name)
        };
        Self {
            lock: file("lock"),
            pid: file("pid"),
            answer: file("reload"),
        }
    }

    /// Be the only gateway of this namespace until the file is closed, by the end of the process at
    /// the latest: two would take each other's sandboxes for orphans. Waits for one that goes away;
    /// [`io::ErrorKind::WouldBlock`] if it does not.
    pub(super) async fn alone(&self) -> io::Result<File> {
        self.make_dir()?;
        let file = File::create(&self.lock)?;
        let deadline = Instant::now() + TAKEOVER;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                Err(_) => sleep(LOOK_EVERY).await,
            }
        }
    }

    fn make_dir(&self) -> io::Result<()> {
        let dir = self.pid.parent().expect("a file in run_dir");
        DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    /// Be found from now on.
    pub(super) fn announce(&self) -> io::Result<Announced> {
        self.make_dir()?;
        replace(&self.pid, format!("{}\n", std::process::id()).as_bytes())?;
        Ok(Announced(self.clone()))
    }

    /// The gateway that serves, if there is one.
    pub(super) fn gateway(&self) -> Option<Pid> {
        let pid = read_pid(&self.pid)?;
        // A gateway that was killed leaves its file behind, and its number may be another's by now.
        let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        let mut words = command.split(|byte| *byte == 0);
        let program = Path::new(std::str::from_utf8(words.next()?).ok()?).file_name()?;
        let ours = program.to_string_lossy().starts_with("belljar");
        (ours && words.any(|word| word == b"serve")).then_some(pid)
    }

    /// Where the pid is looked for.
    pub(super) fn pid_file(&self) -> &Path {
        &self.pid
    }

    pub(super) fn answer(&self, answer: &Answer) -> io::Result<()> {
        replace(&self.answer, &serde_json::to_vec(answer)?)
    }

    /// The answer to a reload that was begun at `asked` or later.
    pub(super) fn answer_since(&self, asked: SystemTime) -> Option<Answer> {
        let size = fs::metadata(&self.answer).ok()?.len();
        let bytes = (size <= MAX_ANSWER).then(|| fs::read(&self.answer))?.ok()?;
        let answer: Answer = serde_json::from_slice(&bytes).ok()?;
        (answer.begun >= asked).then_some(answer)
    }
}

/// A gateway that can be found; not any more when this is dropped.
#[derive(Debug)]
pub(super) struct Announced(Control);

impl Drop for Announced {
    fn drop(&mut self) {
        // Another gateway may have taken the place.
        let own = Pid::from_raw(std::process::id().cast_signed());
        if own.is_some() && read_pid(&self.0.pid) == own {
            let _ = fs::remove_file(&self.0.pid);
            let _ = fs::remove_file(&self.0.answer);
        }
    }
}

fn read_pid(file: &Path) -> Option<Pid> {
    Pid::from_raw(fs::read_to_string(file).ok()?.trim().parse().ok()?)
}

/// Write a file beside it and put that in its place.
fn replace(file: &Path, content: &[u8]) -> io::Result<()> {
    let mut fresh = file.as_os_str().to_owned();
    fresh.push(".new");
    fs::write(&fresh, content)?;
    fs::rename(&fresh, file)
}
