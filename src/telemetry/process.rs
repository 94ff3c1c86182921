//! The gateway's own process, under the names that every Prometheus client uses. Read from `/proc`
//! when somebody asks.

use std::fmt;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;

/// The gateway's own process.
#[derive(Debug)]
pub(super) struct Process {
    /// Seconds since 1970.
    begun: f64,
}

impl Process {
    /// Begins now.
    pub(super) fn new() -> Self {
        let begun = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            begun: begun.unwrap_or_default().as_secs_f64(),
        }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut gauge = |name, help, value: Option<f64>| {
            // What cannot be read is left out.
            let Some(value) = value else { return Ok(()) };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge(
            "process_start_time_seconds",
            "When the gateway began, seconds since 1970",
            Some(self.begun),
        )?;
        gauge(
            "process_resident_memory_bytes",
            "Resident memory",
            resident(),
        )?;
        gauge("process_open_fds", "Open file descriptors", open_files())?;
        gauge(
            "process_max_fds",
            "File descriptors that may be open",
            max_files(),
        )
    }
}

/// Bytes.
fn resident() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

fn open_files() -> Option<f64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them is the directory that is being read.
    Some(f64::from(u32::try_from(count).ok()?.saturating_sub(1)))
}

fn max_files() -> Option<f64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Some(f64::from(u32::try_from(limit.current?).ok()?))
}
