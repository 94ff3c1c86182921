//! `belljar-agent install DIR`: how the agent comes into a sandbox whose engine mounts no files of its
//! host. A container of the agent's own image puts it into a directory that the sandbox shares. That
//! image may hold nothing but this binary.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The agent's name in that directory.
const NAME: &str = "belljar-agent";

/// Copy this binary into a directory, under its name, for everyone to run.
pub(crate) fn run(directory: &Path) -> io::Result<()> {
    let unfinished = directory.join(format!("{NAME}.new"));
    fs::copy("/proc/self/exe", &unfinished)?;
    fs::set_permissions(&unfinished, Permissions::from_mode(0o755))?;
    fs::rename(unfinished, directory.join(NAME))
}
