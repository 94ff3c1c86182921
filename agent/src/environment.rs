//! What a program expects to find, in images that promise nothing.

use std::fs;
use std::path::{Path, PathBuf};

use belljar_link::message::AGENT_THREADS;
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Signals that Rust's runtime has set for this process; it sets them back for children.
const OF_RUST: [libc::c_int; 3] = [libc::SIGPIPE, libc::SIGSEGV, libc::SIGBUS];

/// Prepare this process. Call before any thread is started.
///
/// - `HOME`, `SHELL`, `USER` and `PATH` are filled in from `/etc/passwd` where they are missing. We
///   read that file ourselves: a static binary must not go through the C library's name services,
///   which would load the image's shared libraries into it.
/// - Signals that whoever started the agent ignores (a shell's `command &` ignores SIGINT) would be
///   ignored by every program below it: Ctrl-C and Ctrl-Z would do nothing.
/// - As a subreaper the agent inherits orphans even where it is not PID 1.
/// - Not being dumpable keeps the visitor, who has the same user id, from tracing the agent.
pub(crate) fn prepare() {
    let uid = rustix::process::getuid().as_raw();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let account = account(&passwd, uid).unwrap_or_default();
    set_default("PATH", PATH, |_| true);
    set_default("HOME", account.home, |home| Path::new(home).is_dir());
    set_default("HOME", "/", |_| true);
    set_default("USER", account.name, |_| true);
    let executable = |shell: &str| rustix::fs::access(shell, rustix::fs::Access::EXEC_OK).is_ok();
    set_default("SHELL", account.shell, executable);
    set_default("SHELL", "/bin/sh", executable);
    // An image without any shell: a name that can be executed, which portable-pty insists on.
    set_default("SHELL", "/proc/self/exe", executable);

    for number in (1..32).filter(|number| !OF_RUST.contains(number)) {
        // SAFETY: called before any thread is started, and the default action is no code of ours.
        // SIGKILL and SIGSTOP are refused, which changes nothing.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }

    // Best effort, both: a kernel without them is still a working sandbox.
    let own = rustix::process::getpid();
    let _ = rustix::process::set_child_subreaper(Some(own));
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Lower the limits of this process and all below it, where the engine sets none. Each is lowered as
/// far as that is allowed.
pub(crate) fn limit(limits: &[(Resource, u64)]) {
    for (resource, most) in limits {
        let hard = getrlimit(*resource).maximum;
        let most = Some(hard.map_or(*most, |hard| hard.min(*most)));
        let limit = Rlimit {
            current: most,
            maximum: most,
        };
        // Best effort; `belljar doctor` looks at what came of it.
        let _ = setrlimit(*resource, limit);
    }
}

/// The home directory, or `/` if that is none.
pub(crate) fn home() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let home = home.filter(|home| home.is_absolute() && home.is_dir());
    home.unwrap_or_else(|| "/".into())
}

/// Whether this is the name or the number of the user that everything here runs as.
pub(crate) fn is_own_user(user: &str) -> bool {
    let uid = rustix::process::getuid().as_raw();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = account(&passwd, uid).unwrap_or_default().name;
    user == uid.to_string() || (!name.is_empty() && user == name)
}

/// How many processes the programs may have; `None` is without limit.
pub(crate) fn process_limit() -> Option<u64> {
    let own = getrlimit(Resource::Nproc).current?;
    // Where nobody made room for the agent, a development machine, it takes none.
    Some(own.checked_sub(AGENT_THREADS.into()).unwrap_or(own))
}

/// Give a program that was just started its limit. One that forks at once may keep some processes
/// with the agent's own, which is no more room than there is.
pub(crate) fn limit_processes(program: Pid) {
    let limit = Rlimit {
        current: process_limit(),
        maximum: process_limit(),
    };
    // Best effort: the agent's own limit is the wall.
    let _ = prlimit(Some(program), Resource::Nproc, limit);
}

/// As PID 1, give up the standard streams that are not the link. They lead to the engine, which
/// reads for ever what is poured into them; and gVisor lets the visitor, who has the same user id,
/// open them by way of `/proc/1/fd`: that would be CPU of the host, beyond the sandbox's limit. Where
/// standard input and output are the link, an engine may end it with the standard error.
pub(crate) fn leave_standard_streams(link_is_stdio: bool, keep_stderr: bool) {
    if rustix::process::getpid() != Pid::INIT {
        return;
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    // Best effort: an image without it has what the engine's runtime gives it.
    let Ok(null) = rustix::fs::open("/dev/null", flags, Mode::empty()) else {
        return;
    };
    if !link_is_stdio {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
    }
    if !keep_stderr {
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// Set a variable that is missing or empty, if the value serves.
fn set_default(name: &str, value: &str, serves: impl Fn(&str) -> bool) {
    let present = std::env::var_os(name).is_some_and(|v| !v.is_empty());
    if !present && !value.is_empty() && serves(value) {
        // SAFETY: called before any thread is started.
        unsafe { std::env::set_var(name, value) };
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Account<'a> {
    name: &'a str,
    home: &'a str,
    shell: &'a str,
}

/// `name:password:uid:gid:comment:home:shell`
fn account(passwd: &str, uid: u32) -> Option<Account<'_>> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(())?;
        Some(Account {
            name,
            home: fields.nth(2)?,
            shell: fields.next()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_an_account() {
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\nbroken\nsandbox:x:1000:1000::/home/sandbox:/bin/sh\n";
        let found = account(passwd, 1000).expect("it is there");
        assert_eq!(found.name, "sandbox");
        assert_eq!(found.home, "/home/sandbox");
        assert_eq!(found.shell, "/bin/sh");
        assert_eq!(account(passwd, 5), None);
    }
}
