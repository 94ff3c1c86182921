//! What gateway and agent say to each other.
//!
//! Messages are JSON, not a compact binary format, because an agent outlives the gateway that
//! started it: a newer gateway must understand an older agent and the other way round. Unknown
//! fields are ignored, new fields have defaults, and an operation the agent does not know is
//! answered with [`Refusal`] code [`UNSUPPORTED`]. Terminal bytes never pass through JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::files::WriteOptions;
use self::process::StartProcess;

pub mod process;

pub mod files;

pub mod port;

pub mod code;

/// Version of this protocol. Raised only when an old peer could misunderstand a new one.
pub const VERSION: u32 = 1;

/// Bytes of history an agent keeps for each terminal, and the largest flow-control window: what a
/// controller has not acknowledged is always still in the history.
pub const HISTORY_BYTES: u32 = 256 * 1024;

/// Smallest flow-control window, bytes. Below this a program would stop at every line.
pub const MIN_WINDOW: u32 = 4 * 1024;

/// Terminals one sandbox may have open at once.
pub const MAX_TERMINALS: usize = 16;

/// Room for the agent's own threads in the limit on the sandbox's processes: six, three for each
/// terminal, ten that do what blocks in the file system, and [`MAX_DIALLED`]. The agent lowers the
/// limit by this for the programs it starts, so that one of them that forks without end leaves the
/// agent able to act.
pub const AGENT_THREADS: u32 = 72;

/// Connections of their own that an agent dials for streams at once ([`Request::Dial`]): two for its
/// terminal's viewer, as many for the next who takes over, and a second terminal's. Each has a thread.
pub const MAX_DIALLED: usize = 8;

/// Length of a key that tells such a connection from what else may dial, bytes.
pub const KEY_BYTES: usize = 32;

/// [`Refusal::code`] for an operation this agent does not know.
pub const UNSUPPORTED: &str = "unsupported";

/// The first frame of every stream, gateway to agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Request {
    /// Answered by [`Welcome`]; the stream then carries [`ControlCommand`]s until the link ends.
    Hello(Hello),
    /// Answered by [`Alive`]; the stream then ends.
    Ping,
    /// Answered by [`Inspection`]; the stream then ends.
    Inspect,
    /// Answered by [`TerminalOpened`]; the stream then ends.
    OpenTerminal(OpenTerminal),
    /// Answered by [`Attached`]; then data frames and [`TerminalEvent`]s come from the agent and
    /// [`TerminalCommand`]s from the gateway.
    Attach(Attach),
    /// Answered by [`InputReady`]; every byte after that frame is typed into the terminal. Input
    /// has a stream of its own so that an acknowledgement never waits behind a paste that the
    /// program does not read.
    Input {
        /// The terminal to type into.
        terminal: u32,
    },
    /// Answered by [`Done`]; the program is hung up and killed, and the terminal forgotten.
    CloseTerminal {
        /// The terminal.
        terminal: u32,
    },
    /// Answered by [`files::Page`]s of [`TerminalInfo`].
    Terminals,
    /// Start a background process. Answered by [`process::ProcessStarted`].
    StartProcess(StartProcess),
    /// Start a process and follow it from its first byte on. Answered by
    /// [`process::ProcessStarted`]; output follows. A foreground process is killed when this stream
    /// ends.
    Exec(StartProcess),
    /// Answered by [`files::Page`]s of [`process::ProcessInfo`].
    Processes,
    /// Answered by [`process::ProcessInfo`].
    Process {
        /// The process.
        process: u32,
    },
    /// Send a signal to a process group. Answered by [`Done`].
    SignalProcess {
        /// The process.
        process: u32,
        /// The signal's number.
        signal: i32,
    },
    /// Read a process's output from an offset on. Answered by [`process::Following`]; output
    /// follows.
    FollowProcess {
        /// The process.
        process: u32,
        /// Offset to start at; absent: the oldest byte still held.
        #[serde(default)]
        from: Option<u64>,
    },
    /// Answered by [`Done`]; data frames and [`process::InputCommand`]s follow from the gateway.
    ProcessInput {
        /// The process.
        process: u32,
    },
    /// Answered by [`files::FileInfo`].
    Stat {
        /// The file.
        path: String,
        /// Whether a symbolic link is followed.
        #[serde(default)]
        follow: bool,
    },
    /// Answered by [`files::Page`]s of [`files::FileInfo`], a directory before what is in it.
    List {
        /// The directory.
        path: String,
        /// How deep: 1 is what the directory itself holds.
        depth: u32,
        /// Most entries, at most [`files::MAX_ENTRIES`].
        limit: u32,
    },
    /// Answered as [`Request::List`], with what matches.
    Glob {
        /// The directory to search.
        root: String,
        /// What to look for below it: `*`, `?`, `[…]`, and `**` for any directories.
        pattern: String,
        /// Most entries, at most [`files::MAX_ENTRIES`].
        limit: u32,
    },
    /// Answered by [`files::FileInfo`]; the content follows in data frames, then a reply of
    /// [`Done`], which says whether that was all of it.
    ReadFile {
        /// The file.
        path: String,
        /// First byte.
        #[serde(default)]
        offset: u64,
        /// Most bytes; absent: up to the end.
        #[serde(default)]
        length: Option<u64>,
    },
    /// Answered by [`Done`]; the content follows in data frames from the gateway, then
    /// [`files::UploadCommand::Finish`], which is answered by [`files::FileInfo`].
    WriteFile {
        /// The file.
        path: String,
        /// How it is written.
        #[serde(flatten)]
        options: WriteOptions,
    },
    /// Answered by [`Done`].
    MakeDir {
        /// The directory.
        path: String,
        /// Make those above it too, and do not mind if it exists.
        #[serde(default)]
        parents: bool,
        /// Permission bits; absent: what the umask leaves.
        #[serde(default)]
        mode: Option<u32>,
    },
    /// Answered by [`Done`].
    Remove {
        /// The file or directory.
        path: String,
        /// Remove what a directory holds too.
        #[serde(default)]
        recursive: bool,
    },
    /// Answered by [`Done`].
    Rename {
        /// The path it has.
        from: String,
        /// The path it will have; a file that is there is replaced.
        to: String,
    },
    /// Answered by [`Done`]; [`files::WatchEvent`]s follow.
    Watch {
        /// The file or directory.
        path: String,
        /// Whether directories below it are watched too.
        #[serde(default)]
        recursive: bool,
    },
    /// Pack a file or directory. Answered by [`Done`]; the archive follows as in
    /// [`Request::ReadFile`].
    TarDown {
        /// What to pack.
        path: String,
    },
    /// Unpack into a directory, which is made if it is missing. Answered by [`Done`]; the archive
    /// follows as in [`Request::WriteFile`]; its end is answered by [`files::Unpacked`].
    TarUp {
        /// The directory.
        path: String,
    },
    /// Connect to a port of the sandbox's own loopback. Answered by [`Done`]; every byte after that
    /// frame, either way, is the connection's.
    Connect {
        /// The port.
        port: u16,
    },
    /// Answered by [`port::SandboxStats`].
    Stats,
    /// Dial the gateway once more, say this key, and serve one stream on that connection, which then
    /// is the stream's alone. Answered by [`Done`] before that has succeeded; refused over a link that
    /// was not dialled.
    Dial {
        /// [`KEY_BYTES`] bytes of text by which the gateway knows the connection.
        key: String,
    },
}

/// It is done, or may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// The agent is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {}

/// The gateway introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest protocol version the gateway speaks.
    pub version: u32,
    /// Name and version of the gateway, for the agent's diagnostics.
    pub gateway: String,
    /// What a later gateway will present to be let in by `belljar-agent relay`; absent: nobody can
    /// come that way. [`RELAY_KEY`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay_key: Option<String>,
}

/// Length of a relay key, bytes: HMAC-SHA256 in hexadecimal digits.
pub const RELAY_KEY: usize = 64;

/// The agent introduces itself and says what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol version the agent speaks on this link.
    pub version: u32,
    /// The agent's own version.
    pub agent: String,
    /// The sandbox id the agent was started with.
    pub sandbox: String,
    /// Milliseconds until the agent ends the sandbox by itself.
    pub deadline_ms: u64,
    /// The terminals that exist.
    #[serde(default)]
    pub terminals: Vec<TerminalInfo>,
}

/// One terminal as the agent holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalInfo {
    /// Its id, unique in the sandbox.
    pub terminal: u32,
    /// Offset of the oldest byte still in the history.
    pub start: u64,
    /// Offset after the newest byte.
    pub end: u64,
    /// Its current size.
    pub size: Size,
    /// How its program ended, if it has.
    #[serde(default)]
    pub exit: Option<Exit>,
}

/// Agent to gateway on the stream of [`Request::Hello`], after the welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ControlEvent {
    /// Another gateway has said hello; this link ends.
    TakenOver,
}

/// Gateway to agent on the stream of [`Request::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ControlCommand {
    /// Move the sandbox's own deadline to this many milliseconds from now.
    SetDeadline {
        /// Milliseconds from receipt.
        remaining_ms: u64,
        /// From now on the sandbox ends this long after its last gateway was lost, milliseconds; as it
        /// was told before if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unlinked_ms: Option<u64>,
    },
    /// End every process and exit.
    Terminate,
}

/// Width and height of a terminal in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

impl Size {
    /// The widest and tallest terminal: far beyond any screen, small enough that a full-screen
    /// program's buffers stay small.
    pub const MAX: Self = Self {
        cols: 1000,
        rows: 500,
    };
    /// Below this, shells and editors misbehave.
    pub const MIN: Self = Self { cols: 2, rows: 1 };

    /// The nearest size within [`Size::MIN`] and [`Size::MAX`].
    #[must_use]
    pub fn clamped(self) -> Self {
        Self {
            cols: self.cols.clamp(Self::MIN.cols, Self::MAX.cols),
            rows: self.rows.clamp(Self::MIN.rows, Self::MAX.rows),
        }
    }
}

impl Default for Size {
    /// 80 by 24, the VT100.
    fn default() -> Self {
        Self { cols: 80, rows: 24 }
    }
}

/// Start a program on a new PTY.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenTerminal {
    /// Program and arguments; the program is looked up in `PATH`.
    pub command: Vec<String>,
    /// Added to the agent's own environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory; the agent's own if it is absent or cannot be entered.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Initial size.
    pub size: Size,
}

/// Answer to [`OpenTerminal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalOpened {
    /// Id of the new terminal.
    pub terminal: u32,
}

/// Read a terminal's output from an offset on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// The terminal.
    pub terminal: u32,
    /// Offset to start at; absent: the oldest byte still held.
    #[serde(default)]
    pub from: Option<u64>,
    /// Present for the controller: the program is stopped (as by a real terminal that is not read)
    /// while this many bytes are unacknowledged. Absent for a watcher, whose slowness costs only
    /// itself: it gets a [`TerminalEvent::Gap`].
    #[serde(default)]
    pub window: Option<u32>,
    /// After this controller's stream is lost, how long (ms) the program is still held at its
    /// window, so that a controller who comes back soon has missed nothing.
    #[serde(default)]
    pub hold_ms: u64,
}

/// Answer to [`Attach`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Offset of the first byte that will be sent, unless a gap comes first.
    pub offset: u64,
    /// Offset after the newest byte at this moment.
    pub end: u64,
    /// The terminal's size.
    pub size: Size,
}

/// Answer to [`Request::Input`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputReady {}

/// Agent to gateway on an attach stream, between data frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TerminalEvent {
    /// The bytes from `from` up to `to` are no longer held; the next data frame starts at `to`.
    Gap {
        /// First missing offset.
        from: u64,
        /// Offset the stream goes on with.
        to: u64,
    },
    /// Answer to [`TerminalCommand::Ping`].
    Pong {
        /// The ping's id.
        id: u64,
    },
    /// The program ended; all its output has been sent.
    Exit(Exit),
}

/// Gateway to agent on an attach stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[non_exhaustive]
pub enum TerminalCommand {
    /// Output up to this offset has been processed by the reader.
    Ack {
        /// Offset after the last processed byte.
        offset: u64,
    },
    /// New size; clamped by the agent.
    Resize(Size),
    /// Answered by [`TerminalEvent::Pong`], before output that has not been sent yet.
    Ping {
        /// Echoed back.
        id: u64,
    },
}

/// How a program ended: exactly one of the two is present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code.
    pub code: Option<i32>,
    /// Name of the signal that ended it, as `SIGKILL`.
    pub signal: Option<String>,
}

/// What the agent sees when it looks around: the evidence for `belljar doctor`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inspection {
    /// First line of the kernel log. gVisor's is `Starting gVisor...`.
    pub kernel_log: String,
    /// `/proc/version`.
    pub kernel_version: String,
    /// Effective user id.
    pub uid: u32,
    /// Effective capabilities, the hexadecimal mask of `/proc/self/status`.
    pub capabilities: String,
    /// Whether `no_new_privs` is set.
    pub no_new_privs: bool,
    /// Names of the network interfaces.
    pub interfaces: Vec<String>,
    /// Whether a TCP connection to a public address could be begun.
    pub network_reachable: bool,
    /// Whether a file could be made in `/`.
    pub root_writable: bool,
    /// Soft limit on processes of this user (`RLIMIT_NPROC`).
    pub process_limit: Option<u64>,
    /// Soft limit on open files (`RLIMIT_NOFILE`).
    pub file_limit: Option<u64>,
    /// `MemTotal`, bytes.
    pub memory: u64,
    /// Size of the file system of the home directory, bytes.
    pub home_bytes: u64,
    /// Size of the file system of `/tmp`, bytes.
    pub tmp_bytes: u64,
}

/// The agent's "no" to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Refusal {
    /// Stable identifier.
    pub code: String,
    /// Cause, for an operator.
    pub message: String,
}

impl Refusal {
    /// A refusal with a stable code and a cause.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
        }
    }
}

/// How every reply is laid out.
pub type Reply<T> = Result<T, Refusal>;
