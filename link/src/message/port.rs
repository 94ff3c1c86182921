//! Ports of the sandbox, and what it uses.

use serde::{Deserialize, Serialize};

/// What a sandbox uses at this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxStats {
    /// CPU time of all its processes so far, ms.
    pub cpu_ms: u64,
    /// Memory in use, bytes.
    pub memory_bytes: u64,
    /// Memory it may use, bytes.
    pub memory_limit_bytes: u64,
    /// Processes, the agent aside.
    pub processes: u64,
    /// Since the agent was started, ms.
    pub uptime_ms: u64,
    /// Bytes used in the file system of the home directory.
    pub home_used: u64,
    /// Bytes it has.
    pub home_size: u64,
    /// Bytes used in the file system of `/tmp`.
    pub tmp_used: u64,
    /// Bytes it has.
    pub tmp_size: u64,
}
