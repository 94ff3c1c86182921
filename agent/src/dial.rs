//! Finding the gateway, again and again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use crate::agent::Agent;
use crate::wire;

/// First and longest pause between attempts. The first is short because a gateway that restarts
/// makes its socket anew within milliseconds; the longest costs an idle sandbox nothing.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

/// Serve one link after the other. Over a socket this does not end; standard input and output are
/// one link, and any other comes by [`crate::relay`].
pub(crate) fn links(agent: &Arc<Agent>, socket: Option<PathBuf>) {
    let Some(path) = socket else {
        if let Err(error) = stdio(agent) {
            eprintln!("belljar-agent: no link over standard input and output: {error}");
        }
        return;
    };
    let mut pause = PAUSE.0;
    loop {
        if let Ok((input, output)) = dial(&path) {
            agent.serve(&input, output);
            pause = PAUSE.0;
        }
        sleep(pause);
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Connect to the gateway: what is read, and what is written.
pub(crate) fn dial(path: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    let input = OwnedFd::from(UnixStream::connect(path)?);
    let output = input.try_clone()?;
    Ok((input, output))
}

/// Serve the link on standard input and output: the two pipes of an engine's attach.
fn stdio(agent: &Arc<Agent>) -> io::Result<()> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    wire::can_give_up(io::stdout())?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    agent.serve(&input, output);
    Ok(())
}
