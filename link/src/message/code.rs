//! Every [`Refusal::code`](super::Refusal::code) that processes, files and ports are refused with.
//! They are stable: clients of the gateway see them.

/// There is no such file or directory.
pub const NOT_FOUND: &str = "not_found";
/// There is one already.
pub const ALREADY_EXISTS: &str = "already_exists";
/// A part of the path, or the path, must be a directory and is none.
pub const NOT_A_DIRECTORY: &str = "not_a_directory";
/// It is a directory and must be none.
pub const IS_A_DIRECTORY: &str = "is_a_directory";
/// It is a pipe, a device or a socket, which has no content to read or write.
pub const NOT_A_FILE: &str = "not_a_file";
/// The directory is not empty.
pub const NOT_EMPTY: &str = "not_empty";
/// The sandbox's user may not do that.
pub const PERMISSION_DENIED: &str = "permission_denied";
/// The file system is read-only.
pub const READ_ONLY: &str = "read_only";
/// The disk is full.
pub const NO_SPACE: &str = "no_space";
/// It is over a bound, which the message names.
pub const TOO_LARGE: &str = "too_large";
/// The path is empty, holds a NUL, is too long, or leads where it must not.
pub const BAD_PATH: &str = "bad_path";
/// The pattern cannot be understood.
pub const BAD_PATTERN: &str = "bad_pattern";
/// The archive is none, is cut short, or holds what cannot be unpacked.
pub const BAD_ARCHIVE: &str = "bad_archive";
/// The command is empty, or holds a NUL.
pub const BAD_COMMAND: &str = "bad_command";
/// The program could not be started.
pub const SPAWN_FAILED: &str = "spawn_failed";
/// There is no such process, or it has no standard input, or it has ended.
pub const NO_PROCESS: &str = "no_process";
/// The sandbox has as many processes as it may.
pub const TOO_MANY_PROCESSES: &str = "too_many_processes";
/// There is no such signal.
pub const BAD_SIGNAL: &str = "bad_signal";
/// There is no such terminal.
pub const NO_TERMINAL: &str = "no_terminal";
/// Nothing listens on the port, or it does not answer.
pub const CONNECTION_REFUSED: &str = "connection_refused";
/// As many of these are under way as may be; it can be tried again.
pub const BUSY: &str = "busy";
/// Anything else that the sandbox's kernel says.
pub const IO: &str = "io";
