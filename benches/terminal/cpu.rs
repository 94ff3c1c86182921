//! Processor time of processes and of all that they have started, from `/proc`.

use std::collections::HashSet;
use std::fs;

struct Process {
    pid: u32,
    parent: u32,
    name: String,
    /// With the children that it has waited for.
    ticks: u64,
}

/// Whose processor time counts.
#[derive(Debug, Default)]
pub(crate) struct Cost {
    /// These processes and all below them.
    pub(crate) trees: Vec<u32>,
    /// These containers: whatever names one of them in its command line, and all below; and, if there
    /// is one, the engine itself.
    pub(crate) containers: Vec<String>,
}

impl Cost {
    /// Seconds until now.
    pub(crate) fn seconds(&self) -> f64 {
        let all = processes();
        let roots = all.iter().filter(|process| {
            self.trees.contains(&process.pid)
                || self.containers.iter().any(|id| names(process.pid, id))
        });
        let mut counted: HashSet<u32> = roots.map(|process| process.pid).collect();
        // Parents may come after their children in the list.
        loop {
            let before = counted.len();
            let below = all
                .iter()
                .filter(|process| counted.contains(&process.parent));
            let below: Vec<u32> = below.map(|process| process.pid).collect();
            counted.extend(below);
            if counted.len() == before {
                break;
            }
        }
        let engine = ["dockerd", "containerd"];
        let counts = |process: &&Process| {
            counted.contains(&process.pid)
                || !self.containers.is_empty() && engine.contains(&process.name.as_str())
        };
        let ticks: u64 = all.iter().filter(counts).map(|process| process.ticks).sum();
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64
    }
}

fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("Linux").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(process).collect()
}

fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, brackets included.
    let (head, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        name: head.split_once('(')?.1.to_owned(),
        ticks: number(11)? + number(12)? + number(13)? + number(14)?,
    })
}

fn names(pid: u32, container: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains(container)
}
