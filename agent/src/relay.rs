//! How a later gateway comes to an agent whose link is its standard input: it has the engine run
//! `belljar-agent relay` beside the agent, which joins that process's standard streams to a socket that
//! the agent listens on.
//!
//! The visitor, who has the same user id, can reach the socket too, so whoever comes presents the key
//! that the first gateway has left with the agent. It is the first thing on the stream, never an
//! argument: arguments can be read.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::{self, sleep};
use std::time::Duration;

use belljar_link::message::RELAY_KEY;

use crate::agent::Agent;
use crate::tasks;

/// How long whoever comes may take to present the key. A gateway's first bytes are the key. Meanwhile
/// nobody else is let in, so a visitor who keeps coming can keep gateways out, of its own sandbox.
const KEY_DEADLINE: Duration = Duration::from_secs(2);

/// How long a write may be held up before it looks around.
const WRITE_DEADLINE: Duration = Duration::from_millis(200);

/// Pause after an attempt to accept that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Bytes relayed at once.
const CHUNK: usize = 64 * 1024;

/// The socket's name. Abstract, because no file can be relied on in any image; it ends with the agent.
fn address(sandbox: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("belljar-agent/{sandbox}"))
}

/// Let later gateways in, from now on.
pub(crate) fn listen(agent: &Arc<Agent>) -> io::Result<()> {
    let listener = UnixListener::bind_addr(&address(agent.sandbox())?)?;
    let agent = agent.clone();
    tasks::thread("relay", move || {
        loop {
            // Out of descriptors or threads, most likely: whoever comes will come again.
            if accept(&agent, &listener).is_err() {
                sleep(PAUSE);
            }
        }
    })
}

/// Let in the next one, if it is a gateway.
fn accept(agent: &Arc<Agent>, listener: &UnixListener) -> io::Result<()> {
    let (mut socket, _) = listener.accept()?;
    socket.set_read_timeout(Some(KEY_DEADLINE))?;
    let mut presented = [0; RELAY_KEY];
    if socket.read_exact(&mut presented).is_err() || !agent.admits(&presented) {
        return Ok(());
    }
    socket.set_read_timeout(None)?;
    // A write that is held up looks from time to time whether its link has been taken over.
    socket.set_write_timeout(Some(WRITE_DEADLINE))?;
    let input = OwnedFd::from(socket);
    let output = input.try_clone()?;
    let agent = agent.clone();
    tasks::thread("link", move || agent.serve(&input, output))
}

/// `belljar-agent relay`: join the standard streams to the agent, until either ends.
pub(crate) fn run(sandbox: &str) -> io::Result<()> {
    let socket = UnixStream::connect_addr(&address(sandbox)?)?;
    let mut inbound = socket.try_clone()?;
    thread::spawn(move || {
        let _ = pour(&mut io::stdin().lock(), &mut inbound);
        // The gateway is gone, and the agent learns it.
        let _ = inbound.shutdown(Shutdown::Both);
    });
    pour(&mut &socket, &mut io::stdout().lock())
}

/// Pass bytes on as they come. By hand: `io::copy` may wait for more.
fn pour(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                to.write_all(&buffer[..read])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
