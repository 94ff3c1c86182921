//! Finding the gateway, again and again.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use belljar_link::socket::QuietSocket;
use rustix::fs::{FileType, fstat};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::time::sleep;

use crate::agent::Agent;

/// First and longest pause between attempts. The first is short because a gateway that restarts
/// makes its socket anew within milliseconds; the longest costs an idle sandbox nothing.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

/// Serve one link after the other. Over a socket this does not end; standard input and output are
/// one link, and then there is no other.
pub(crate) async fn links(agent: Rc<Agent>, socket: Option<PathBuf>) {
    let Some(path) = socket else {
        if let Err(error) = stdio(&agent).await {
            eprintln!("belljar-agent: no link over standard input and output: {error}");
        }
        return;
    };
    let mut pause = PAUSE.0;
    loop {
        if let Ok(socket) = dial(&path).await {
            agent.serve(socket).await;
            pause = PAUSE.0;
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

async fn dial(path: &Path) -> io::Result<QuietSocket> {
    QuietSocket::new(UnixStream::connect(path).await?.into_std()?)
}

/// Serve the link on standard input and output: one socket (the `process` launcher), or two pipes
/// (an engine's attach). Both are read without a thread.
async fn stdio(agent: &Rc<Agent>) -> io::Result<()> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    if FileType::from_raw_mode(fstat(&input)?.st_mode) == FileType::Socket {
        let socket = std::os::unix::net::UnixStream::from(input);
        agent.serve(QuietSocket::new(socket)?).await;
        return Ok(());
    }
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    let input = pipe::Receiver::from_owned_fd(input)?;
    let output = pipe::Sender::from_owned_fd(output)?;
    agent.serve(tokio::io::join(input, output)).await;
    Ok(())
}
