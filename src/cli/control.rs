//! How `belljar reload` and a running gateway find each other: files in `run_dir`, one with the
//! gateway's pid, one with its answer to the last reload. Each is replaced as a whole, so nobody
//! reads half of one.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Largest answer that is read, bytes: every key of hundreds of templates.
const MAX_ANSWER: u64 = 1024 * 1024;

/// The files of the gateway with this `run_dir` and namespace.
#[derive(Debug, Clone)]
pub(super) struct Control {
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
            pid: file("pid"),
            answer: file("reload"),
        }
    }

    /// Be found from now on.
    pub(super) fn announce(&self) -> io::Result<Announced> {
        let dir = self.pid.parent().expect("a file in run_dir");
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
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
