//! Files of the sandbox.
//!
//! Every path is resolved by the sandbox's own kernel, as the sandbox's own user; a relative one
//! against the home directory. There is nothing to confine: what the visitor may not touch, the
//! agent may not either. A path is at most [`MAX_PATH`] bytes, each part at most [`MAX_NAME`].

use serde::{Deserialize, Serialize};

/// Longest path, bytes, as on Linux.
pub const MAX_PATH: usize = 4096;

/// Longest part of a path, bytes, as on Linux.
pub const MAX_NAME: usize = 255;

/// Most entries of one listing. A hundred times what a person reads; 2 MB in the agent.
pub const MAX_ENTRIES: u32 = 10_000;

/// Most bytes read of a file that does not say how long it is, as those of `/proc`.
pub const MAX_UNSIZED: u64 = 16 << 20;

/// Most files of one archive.
pub const MAX_ARCHIVE_ENTRIES: u64 = 100_000;

/// Most directories of one recursive watch. gVisor keeps a record of each in the sandbox's memory.
pub const MAX_WATCHED: usize = 1024;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, not followed.
    Symlink,
    /// A pipe, a device or a socket.
    Other,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Last part of the path. Bytes that are not UTF-8 are replaced.
    pub name: String,
    /// Absolute path.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
    /// When its content changed last, ms since 1970.
    pub modified_ms: i64,
    /// Where a symbolic link leads.
    #[serde(default)]
    pub target: Option<String>,
}

/// A part of a listing. Agent to gateway, one after the other until `more` is false.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// What this part holds.
    pub items: Vec<T>,
    /// Whether another part follows.
    #[serde(default)]
    pub more: bool,
    /// Whether there is more than was asked for; counts in the last part.
    #[serde(default)]
    pub truncated: bool,
}

/// How a file is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteOptions {
    /// Permission bits; absent: those of the file that is replaced, or what the umask leaves.
    #[serde(default)]
    pub mode: Option<u32>,
    /// Make the directories above it.
    #[serde(default)]
    pub make_dirs: bool,
    /// Add to the end of what is there.
    #[serde(default)]
    pub append: bool,
    /// Refuse if it exists.
    #[serde(default)]
    pub exclusive: bool,
}

/// Gateway to agent, behind the data frames of an upload. A stream that ends without it leaves
/// nothing behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[non_exhaustive]
pub enum UploadCommand {
    /// That was all.
    Finish,
}

/// Answer to the end of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// Files, directories and links that were unpacked.
    pub entries: u64,
}

/// Something has changed. Agent to gateway, on the stream of a watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum WatchEvent {
    /// It is new here.
    Created {
        /// Absolute path.
        path: String,
        /// Whether it is a directory.
        #[serde(default)]
        directory: bool,
    },
    /// Its content or its permissions have changed.
    Modified {
        /// Absolute path.
        path: String,
        /// Whether it is a directory.
        #[serde(default)]
        directory: bool,
    },
    /// It is no longer here.
    Removed {
        /// Absolute path.
        path: String,
        /// Whether it is a directory.
        #[serde(default)]
        directory: bool,
    },
    /// It has another name.
    Renamed {
        /// Absolute path it had.
        from: String,
        /// Absolute path it has.
        path: String,
        /// Whether it is a directory.
        #[serde(default)]
        directory: bool,
    },
    /// Some changes were missed: whoever must know looks for themselves.
    Overflow,
}
