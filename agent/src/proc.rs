//! The processes of the sandbox, as `/proc` lists them.

use std::fs;

use rustix::process::Pid;

/// One of them. What it is may have changed by now.
pub(crate) struct Process {
    pub(crate) pid: Pid,
    /// The fields of its `stat` behind the name, which may hold anything.
    fields: String,
}

impl Process {
    /// A field by its number in proc(5), from 3 (the state) on; 0 where there is none.
    fn field<T: std::str::FromStr + Default>(&self, number: usize) -> T {
        let field = self.fields.split_whitespace().nth(number - 3);
        field.and_then(|f| f.parse().ok()).unwrap_or_default()
    }

    /// Its parent's process id; 0 for PID 1.
    pub(crate) fn parent(&self) -> i32 {
        self.field(4)
    }

    /// The process id of its session's leader.
    pub(crate) fn session(&self) -> i32 {
        self.field(6)
    }

    /// CPU time of its own and of the children that it has reaped, clock ticks.
    pub(crate) fn ticks(&self) -> u64 {
        (14..=17).fold(0, |sum, number| sum.saturating_add(self.field(number)))
    }
}

/// All of them, in one pass.
pub(crate) fn processes() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        Some(Process {
            pid,
            fields: fields.to_owned(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_among_them() {
        let own = rustix::process::getpid();
        let found = processes().find(|process| process.pid == own);
        let found = found.expect("it runs");
        let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
        assert_eq!(found.parent(), parent);
    }

    /// A child's, for the own one's leader may be outside of this PID namespace, as it often is in
    /// a container.
    #[test]
    fn a_session_is_its_leaders() {
        let mut child = std::process::Command::new("setsid")
            .args(["sleep", "60"])
            .spawn()
            .expect("util-linux");
        let pid = i32::try_from(child.id()).expect("a process id");
        let leads = |process: Process| {
            process.pid.as_raw_nonzero().get() == pid && process.session() == pid
        };
        let led = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            processes().any(leads)
        });
        child.kill().expect("it runs");
        child.wait().expect("it is a child");
        assert!(led, "setsid made no session of its own");
    }

    #[test]
    fn a_name_may_hold_anything() {
        let process = Process {
            pid: Pid::INIT,
            fields: " S 7 8 9 0 -1 0 0 0 0 0 1 2 3 4 20".into(),
        };
        assert_eq!((process.parent(), process.session()), (7, 9));
        assert_eq!(process.ticks(), 10);
        let short = Process {
            pid: Pid::INIT,
            fields: " S".into(),
        };
        assert_eq!((short.parent(), short.ticks()), (0, 0));
    }
}
