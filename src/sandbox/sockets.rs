//! The Unix sockets that agents dial: one for each sandbox, in a directory of its own.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use belljar_link::message::KEY_BYTES;
use belljar_link::socket::{QuietSocket, Redial, listen};
use tokio::net::UnixListener;
use tokio::time::timeout;
use tracing::{Instrument, info_span};

use super::{LaunchError, SandboxId};
use crate::secret::random_hex;

/// How long a started agent may take to dial. It takes milliseconds.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);

/// A socket's name in its directory.
pub(super) const SOCKET_NAME: &str = "link.sock";

/// Those of one launcher.
#[derive(Debug)]
pub(super) struct Sockets {
    /// Only the gateway can reach what is in it.
    root: PathBuf,
}

impl Sockets {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory that holds a sandbox's socket and nothing else.
    pub(super) fn dir(&self, id: &SandboxId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// A sandbox's socket.
    pub(super) fn path(&self, id: &SandboxId) -> PathBuf {
        self.dir(id).join(SOCKET_NAME)
    }

    /// Listen for a sandbox that is to be started.
    pub(super) fn make(&self, id: &SandboxId) -> Result<UnixListener, LaunchError> {
        let make = || {
            std::fs::create_dir_all(&self.root)?;
            std::fs::set_permissions(&self.root, Permissions::from_mode(0o700))?;
            let dir = self.dir(id);
            std::fs::create_dir(&dir)?;
            // Its agent may be any user.
            std::fs::set_permissions(&dir, Permissions::from_mode(0o755))
        };
        make()
            .map_err(|cause| self.failed(id, cause))
            .and_then(|()| self.listen(id))
    }

    /// Listen for a sandbox that an earlier gateway has left.
    pub(super) fn listen(&self, id: &SandboxId) -> Result<UnixListener, LaunchError> {
        listen(&self.path(id)).map_err(|cause| self.failed(id, cause))
    }

    fn failed(&self, id: &SandboxId, cause: io::Error) -> LaunchError {
        LaunchError::Host {
            doing: format!("making the socket in {}", self.dir(id).display()),
            cause,
        }
    }

    /// Where its agent may dial again.
    pub(super) fn redial(&self, id: &SandboxId) -> Redial {
        Redial::new(self.path(id), random_hex::<{ KEY_BYTES / 2 }>)
    }

    /// Remove a sandbox's, if it is there.
    pub(super) fn remove(&self, id: &SandboxId) -> io::Result<()> {
        match std::fs::remove_dir_all(self.dir(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The agent's call. It is the only one: the listener is gone afterwards.
pub(super) async fn dialled(listener: UnixListener) -> Result<QuietSocket, LaunchError> {
    let accept = async {
        let (socket, _) = listener.accept().await?;
        QuietSocket::new(socket.into_std()?)
    };
    let accept = accept.instrument(info_span!("dial"));
    match timeout(DIAL_DEADLINE, accept).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(cause)) => Err(LaunchError::NoLink(cause.to_string())),
        Err(_) => {
            let seconds = DIAL_DEADLINE.as_secs();
            Err(LaunchError::NoLink(format!("no call within {seconds} s")))
        }
    }
}
