//! Programs without a terminal.
//!
//! After the reply to [`Request::Exec`](super::Request::Exec) and
//! [`Request::FollowProcess`](super::Request::FollowProcess), output comes in data frames whose
//! first byte says which stream the rest is from ([`STDOUT`] or [`STDERR`]), and
//! [`ProcessMessage`]s stand between them. Offsets count the bytes of both streams together, in the
//! order in which they arrived, without those first bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Processes that one sandbox may have running at once, those of terminals aside: a hundred commands
/// in parallel, and room.
pub const MAX_PROCESSES: usize = 128;

/// Ended background processes whose output and end are kept. The oldest is forgotten first.
pub const MAX_ENDED: usize = 64;

/// Bytes of output that are kept for each process: what a foreground program may be ahead of its
/// reader, and what is left of a background program's output.
pub const OUTPUT_BYTES: usize = 256 * 1024;

/// Longest command that [`ProcessInfo::command`] shows, bytes; the rest is cut off.
pub const SHOWN_COMMAND: usize = 256;

/// First byte of a data frame of standard output.
pub const STDOUT: u8 = 1;

/// First byte of a data frame of standard error.
pub const STDERR: u8 = 2;

/// Start a program without a terminal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartProcess {
    /// Program and arguments; the program is looked up in `PATH`.
    pub command: Vec<String>,
    /// Added to the agent's own environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory, against the home directory; absent: the home directory.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Who runs it: name or number of the sandbox's own user, the only one there is. Any other is
    /// refused with `bad_command`.
    #[serde(default)]
    pub user: Option<String>,
    /// Whether it has a standard input to write to. Otherwise that is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// After this long (ms) the process group is asked to end (SIGTERM), and 2 s later made to
    /// (SIGKILL).
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// A background process runs on without readers, and its oldest output makes room for new. A
    /// foreground process waits for its one reader and is killed when that reader goes.
    #[serde(default)]
    pub background: bool,
}

/// Answer to a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStarted {
    /// Its number, unique in the sandbox, from 1.
    pub process: u32,
    /// Its process id in the sandbox, which is its process group's too.
    pub pid: u32,
}

/// One process as the agent holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its number, unique in the sandbox.
    pub process: u32,
    /// Its process id in the sandbox.
    pub pid: u32,
    /// Program and arguments, separated by spaces, at most [`SHOWN_COMMAND`] bytes.
    pub command: String,
    /// How long ago it was started, ms.
    pub started_ms_ago: u64,
    /// Whether it runs on without readers.
    pub background: bool,
    /// Offset of the oldest byte of output still held.
    pub start: u64,
    /// Offset after the newest byte.
    pub end: u64,
    /// How it ended, if it has.
    #[serde(default)]
    pub exit: Option<ProcessExit>,
}

/// How a process ended: exactly one of code and signal is present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessExit {
    /// Exit code.
    pub code: Option<i32>,
    /// Name of the signal that ended it, as `SIGKILL`.
    pub signal: Option<String>,
    /// Whether its time was up before it ended.
    #[serde(default)]
    pub timed_out: bool,
}

/// Answer to a follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Following {
    /// Offset of the first byte that will be sent, unless a gap comes first.
    pub offset: u64,
    /// Offset after the newest byte at this moment.
    pub end: u64,
}

/// Agent to gateway, between the data frames of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ProcessMessage {
    /// The bytes from `from` up to `to` are no longer held; the next data frame starts at `to`.
    Gap {
        /// First missing offset.
        from: u64,
        /// Offset the stream goes on with.
        to: u64,
    },
    /// The program ended; all its output has been sent. The stream then ends.
    Exit(ProcessExit),
}

/// Gateway to agent on the stream of [`Request::ProcessInput`](super::Request::ProcessInput),
/// between data frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[non_exhaustive]
pub enum InputCommand {
    /// Everything has been said: the program reads the end. Answered by [`Done`](super::Done). A
    /// stream that is lost without this leaves the input open for another.
    Close,
}
