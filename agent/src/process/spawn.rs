//! Starting a program without a terminal.
//!
//! By `posix_spawn`, whose child borrows the agent's memory until it becomes the program: a fork
//! copies that memory's tables, which takes gVisor ten times as long. The standard library takes
//! this way as long as nothing must run in the child, which is why the program is looked up here.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use belljar_link::message::code::{BAD_COMMAND, NOT_A_DIRECTORY, SPAWN_FAILED, TOO_MANY_PROCESSES};
use belljar_link::message::process::StartProcess;
use belljar_link::message::{Refusal, Reply};
use rustix::fs::{Access, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use crate::environment;
use crate::files::path;

/// Makes the linker take this function into the static binary. The standard library uses it for the
/// working directory if it is there, and forks if it is not.
#[used]
static ADDCHDIR: unsafe extern "C" fn(
    *mut libc::posix_spawn_file_actions_t,
    *const libc::c_char,
) -> libc::c_int = libc::posix_spawn_file_actions_addchdir_np;

/// A program that was started. The descriptors do not block.
pub(super) struct Spawned {
    pub(super) pid: Pid,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Refuse what cannot be started, before anything is done for it.
pub(super) fn check(start: &StartProcess) -> Reply<()> {
    if start.command.first().is_none_or(String::is_empty) {
        return Err(Refusal::new(BAD_COMMAND, "command: must not be empty"));
    }
    let texts = start
        .command
        .iter()
        .chain(start.env.keys())
        .chain(start.env.values());
    if texts.into_iter().any(|text| text.contains('\0')) {
        let message = "command, env: must not hold a NUL";
        return Err(Refusal::new(BAD_COMMAND, message));
    }
    if start
        .env
        .keys()
        .any(|name| name.is_empty() || name.contains('='))
    {
        let message = "env: a name must not be empty or hold =";
        return Err(Refusal::new(BAD_COMMAND, message));
    }
    match &start.user {
        Some(user) if !environment::is_own_user(user) => {
            let message = "user: a sandbox has one user, and its programs run as that one";
            Err(Refusal::new(BAD_COMMAND, message))
        }
        _ => Ok(()),
    }
}

/// Start it, as the leader of a process group of its own.
pub(super) fn spawn(start: &StartProcess) -> Reply<Spawned> {
    let cwd = match &start.cwd {
        None => environment::home(),
        Some(cwd) => directory(cwd)?,
    };
    let name = &start.command[0];
    let program = find(name, &start.env).ok_or_else(|| {
        Refusal::new(
            SPAWN_FAILED,
            format!("{name:?} is no program, or not in PATH"),
        )
    })?;
    let mut command = Command::new(program);
    command
        .arg0(name)
        .args(&start.command[1..])
        .envs(&start.env)
        .current_dir(cwd)
        .process_group(0);
    let mut pipes = || -> io::Result<_> {
        let (stdin, theirs) = if start.stdin {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            unblock(&ours)?;
            (Some(ours), Stdio::from(theirs))
        } else {
            (None, Stdio::null())
        };
        let (stdout, to_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, to_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        unblock(&stdout)?;
        unblock(&stderr)?;
        command.stdin(theirs).stdout(to_stdout).stderr(to_stderr);
        Ok((stdin, stdout, stderr))
    };
    let (stdin, stdout, stderr) =
        pipes().map_err(|e| Refusal::new(SPAWN_FAILED, format!("no pipe: {e}")))?;
    let child = command
        .spawn()
        .map_err(|error| match error.raw_os_error() {
            Some(number) if number == Errno::AGAIN.raw_os_error() => too_many(),
            _ => Refusal::new(SPAWN_FAILED, format!("{name:?}: {error}")),
        })?;
    let pid = Pid::from_child(&child);
    environment::limit_processes(pid);
    Ok(Spawned {
        pid,
        stdin,
        stdout,
        stderr,
    })
}

/// Nothing more can be started.
pub(super) fn too_many() -> Refusal {
    let message = "the sandbox has as many processes as it may";
    Refusal::new(TOO_MANY_PROCESSES, message)
}

fn unblock(fd: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?)
}

fn directory(cwd: &str) -> Reply<PathBuf> {
    let cwd = path::resolve(cwd)?;
    let found = std::fs::metadata(&cwd).map_err(|e| path::refusal(&cwd, &e))?;
    if !found.is_dir() {
        let message = format!("cwd: {} is no directory", cwd.display());
        return Err(Refusal::new(NOT_A_DIRECTORY, message));
    }
    Ok(cwd)
}

/// Where a program is: as `execvp` looks, with the `PATH` that it will have.
fn find(name: &str, env: &BTreeMap<String, String>) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(name.into());
    }
    let own = std::env::var_os("PATH");
    let path = env.get("PATH").map(OsStr::new).or(own.as_deref())?;
    std::env::split_paths(path)
        .map(|directory| Path::new("/").join(directory).join(name))
        .find(|candidate| is_program(candidate))
}

fn is_program(candidate: &Path) -> bool {
    let Ok(path) = CString::new(candidate.as_os_str().as_encoded_bytes()) else {
        return false;
    };
    rustix::fs::access(&path, Access::EXEC_OK).is_ok() && candidate.is_file()
}
