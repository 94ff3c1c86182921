//! Whether the host has memory and CPU to spare for more sandboxes.
//!
//! While it has not, nothing new is started; what runs is left alone.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::registry::Registry;
use crate::config::Limits;
use crate::telemetry::Metrics;

/// How often the kernel is asked. Its own averages are renewed as often.
const READ_EVERY: Duration = Duration::from_secs(2);

/// Most that is read of a file, bytes. They have 2 KiB at most.
const MAX_FILE: u64 = 16 * 1024;

/// What was short is enough again only with this much to spare, or the door would flap: a quarter
/// more memory, a fifth less pressure.
const RELIEF: (f64, f64) = (1.25, 0.8);

/// What the host is short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Less than `limits.min_available_memory` is available.
    AvailableMemory,
    /// Programs wait for memory more than `limits.max_memory_pressure` of the time.
    MemoryPressure,
    /// Programs wait for a CPU more than `limits.max_cpu_pressure` of the time.
    CpuPressure,
}

impl Shortage {
    /// Every kind, the worst first.
    pub const ALL: [Self; 3] = [
        Self::AvailableMemory,
        Self::MemoryPressure,
        Self::CpuPressure,
    ];

    /// The stable name in the metrics and the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::AvailableMemory => "available_memory",
            Self::MemoryPressure => "memory_pressure",
            Self::CpuPressure => "cpu_pressure",
        }
    }

    /// The file that tells.
    fn file(self) -> &'static str {
        match self {
            Self::AvailableMemory => "meminfo",
            Self::MemoryPressure => "pressure/memory",
            Self::CpuPressure => "pressure/cpu",
        }
    }

    fn parse(self, text: &str) -> Option<f64> {
        match self {
            Self::AvailableMemory => available_memory(text),
            Self::MemoryPressure | Self::CpuPressure => pressure(text),
        }
    }

    /// The operator's bound: bytes, or percent; `None` if it is switched off.
    fn bound(self, limits: &Limits) -> Option<f64> {
        let bound = match self {
            Self::AvailableMemory => in_floating_point(limits.min_available_memory.as_u64()),
            Self::MemoryPressure => limits.max_memory_pressure,
            Self::CpuPressure => limits.max_cpu_pressure,
        };
        (bound > 0.0).then_some(bound)
    }

    /// Whether a value seen is beyond the bound. `now` says whether it was so before.
    fn holds(self, seen: f64, bound: f64, now: bool) -> bool {
        match self {
            Self::AvailableMemory => seen < if now { bound * RELIEF.0 } else { bound },
            Self::MemoryPressure | Self::CpuPressure => {
                seen > if now { bound * RELIEF.1 } else { bound }
            }
        }
    }
}

/// `MemAvailable` of `/proc/meminfo` (`proc_meminfo(5)`), bytes.
fn available_memory(text: &str) -> Option<f64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(in_floating_point(kib.checked_mul(1024)?))
}

/// The share of the last ten seconds in which some programs had to wait, percent: `avg10` of the
/// line `some` (the kernel's Documentation/accounting/psi.rst).
fn pressure(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let mut fields = line.split_ascii_whitespace();
    let percent: f64 = fields
        .find_map(|field| field.strip_prefix("avg10="))?
        .parse()
        .ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 8 PiB, and beyond that near enough"
)]
fn in_floating_point(bytes: u64) -> f64 {
    bytes as f64
}

/// Where the kernel tells how the host does.
#[derive(Debug, Clone)]
pub struct Host {
    proc: PathBuf,
}

impl Host {
    /// This machine.
    pub fn this() -> Self {
        Self::at("/proc")
    }

    /// A machine whose `/proc` is elsewhere; for tests.
    pub fn at(proc: impl AsRef<Path>) -> Self {
        Self {
            proc: proc.as_ref().into(),
        }
    }

    /// What the file of a shortage says; `None` if it is not there or not to be understood.
    /// The kernel writes it at the moment: no disk is waited for, so this needs no thread.
    fn read(&self, shortage: Shortage) -> Option<f64> {
        let file = File::open(self.proc.join(shortage.file())).ok()?;
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text).ok()?;
        shortage.parse(&text)
    }
}

/// A bound that the operator has set and the kernel can tell about.
#[derive(Debug, Clone, Copy)]
struct Check {
    shortage: Shortage,
    bound: f64,
}

/// Something that is beyond its bound.
#[derive(Debug)]
struct Finding {
    check: Check,
    seen: f64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seen, bound) = (self.seen, self.check.bound);
        match self.check.shortage {
            Shortage::AvailableMemory => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "both were whole numbers of bytes"
                )]
                let size = |bytes: f64| ByteSize(bytes as u64);
                write!(f, "{} of {} available", size(seen), size(bound))
            }
            Shortage::MemoryPressure => write!(f, "memory pressure {seen} % of {bound} %"),
            Shortage::CpuPressure => write!(f, "CPU pressure {seen} % of {bound} %"),
        }
    }
}

/// Watch the host and keep the door, until `stop`.
pub(super) async fn watch_over(
    host: Host,
    limits: Limits,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let checks = checks(&host, &limits);
    if checks.is_empty() {
        return;
    }
    let mut shortage = None;
    let mut ticks = interval(READ_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let finding = look(&host, &checks, shortage);
        let found = finding.as_ref().map(|finding| finding.check.shortage);
        if found == shortage {
            continue;
        }
        if let Some(finding) = finding {
            let reason = finding.check.shortage.name();
            tracing::warn!(reason, "the door is closed to newcomers: {finding}");
        } else {
            tracing::info!("the door is open again");
        }
        for kind in Shortage::ALL {
            metrics.door_closed(kind.name(), found == Some(kind));
        }
        registry.set_shortage(found);
        shortage = found;
    }
}

/// What can be checked on this host. What cannot is told, once.
fn checks(host: &Host, limits: &Limits) -> Vec<Check> {
    let mut checks = Vec::new();
    for shortage in Shortage::ALL {
        let Some(bound) = shortage.bound(limits) else {
            continue;
        };
        if host.read(shortage).is_some() {
            checks.push(Check { shortage, bound });
        } else {
            let (reason, file) = (shortage.name(), host.proc.join(shortage.file()));
            tracing::warn!(
                reason,
                "{} tells nothing: this limit is off",
                file.display()
            );
        }
    }
    checks
}

/// The worst that is beyond its bound. A file that can no longer be read keeps nobody out.
fn look(host: &Host, checks: &[Check], before: Option<Shortage>) -> Option<Finding> {
    for &check in checks {
        let Check { shortage, bound } = check;
        if let Some(seen) = host.read(shortage)
            && shortage.holds(seen, bound, before == Some(shortage))
        {
            return Some(Finding { check, seen });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MEMINFO: &str = "MemTotal:       24504832 kB\nMemFree:         1904832 kB\n\
        MemAvailable:    1048576 kB\nBuffers:               0 kB\n";
    const PRESSURE: &str = "some avg10=12.50 avg60=1.88 avg300=12.92 total=3789080876\n\
        full avg10=99.00 avg60=0.00 avg300=0.00 total=0\n";

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(available_memory(MEMINFO), Some(1024.0 * 1024.0 * 1024.0));
        assert_eq!(pressure(PRESSURE), Some(12.5));
    }

    #[test]
    fn what_is_garbled_says_nothing() {
        for text in [
            "",
            "MemAvailable:",
            "MemAvailable: kB",
            "MemAvailable: -5 kB",
            "MemAvailable: 5",
            "MemAvailable: 5 MB",
            "MemAvailable: 99999999999999999999999999 kB",
            "MemAvailable: 18446744073709551615 kB",
            "xMemAvailable: 5 kB",
        ] {
            assert_eq!(available_memory(text), None, "{text:?}");
        }
        for text in [
            "",
            "some",
            "some avg60=1.00",
            "some avg10=",
            "some avg10=nan",
            "some avg10=inf",
            "some avg10=-1",
            "some avg10=100.01",
            "full avg10=1.00",
            "some avg10=1,00",
        ] {
            assert_eq!(pressure(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_door_that_has_closed_opens_only_with_something_to_spare() {
        for (shortage, bound, beyond, hardly, enough) in [
            (Shortage::AvailableMemory, 100.0, 99.0, 120.0, 125.0),
            (Shortage::MemoryPressure, 50.0, 50.5, 41.0, 40.0),
            (Shortage::CpuPressure, 90.0, 91.0, 73.0, 72.0),
        ] {
            assert!(shortage.holds(beyond, bound, false));
            assert!(!shortage.holds(bound, bound, false));
            assert!(shortage.holds(hardly, bound, true));
            assert!(!shortage.holds(enough, bound, true));
        }
    }

    #[test]
    fn a_kernel_that_does_not_tell_keeps_nobody_out() {
        let nowhere = Host::at("/nonexistent");
        assert!(checks(&nowhere, &Limits::default()).is_empty());
        let all: Vec<Check> = Shortage::ALL
            .map(|shortage| Check {
                shortage,
                bound: 1.0,
            })
            .into();
        assert!(look(&nowhere, &all, None).is_none());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(MemAvailable:|some avg10=)?\\PC{0,60}") {
            for shortage in Shortage::ALL {
                if let Some(value) = shortage.parse(&text) {
                    prop_assert!(value.is_finite() && value >= 0.0);
                }
            }
        }
    }
}
