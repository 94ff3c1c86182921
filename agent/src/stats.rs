//! What the sandbox uses.

use std::fs;
use std::path::Path;
use std::time::Instant;

use belljar_link::message::port::SandboxStats;

use crate::{environment, proc};

/// Look around. `started` is when the agent was.
pub(crate) fn stats(started: Instant) -> SandboxStats {
    let (cpu_ms, processes) = processes();
    let (memory_bytes, memory_limit_bytes) = memory();
    let (home_used, home_size) = disk(&environment::home());
    let (tmp_used, tmp_size) = disk(Path::new("/tmp"));
    SandboxStats {
        cpu_ms,
        memory_bytes,
        memory_limit_bytes,
        processes,
        uptime_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        home_used,
        home_size,
        tmp_used,
        tmp_size,
    }
}

/// CPU time (ms) of what runs and of what was reaped, and how many processes there are beside the
/// agent.
fn processes() -> (u64, u64) {
    let own = rustix::process::getpid();
    let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
    let (mut ticks, mut count) = (0_u64, 0);
    for process in proc::processes() {
        ticks = ticks.saturating_add(process.ticks());
        count += u64::from(process.pid != own);
    }
    (ticks.saturating_mul(1000) / ticks_per_second, count)
}

/// Memory in use and allowed, bytes: of the sandbox's cgroup if it can be seen, or else of its
/// kernel, which inside gVisor is the same.
fn memory() -> (u64, u64) {
    let table = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = table.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    let total = field("MemTotal:").unwrap_or(0) * 1024;
    let available = field("MemAvailable:").or(field("MemFree:")).unwrap_or(0) * 1024;
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let used = number("/sys/fs/cgroup/memory.current");
    let limit = number("/sys/fs/cgroup/memory.max");
    (
        used.unwrap_or(total.saturating_sub(available)),
        limit.unwrap_or(total).min(total),
    )
}

/// Bytes used and in all of the file system of a directory.
fn disk(directory: &Path) -> (u64, u64) {
    rustix::fs::statvfs(directory).map_or((0, 0), |fs| {
        let used = fs.f_blocks.saturating_sub(fs.f_bfree);
        (
            used.saturating_mul(fs.f_frsize),
            fs.f_blocks.saturating_mul(fs.f_frsize),
        )
    })
}
