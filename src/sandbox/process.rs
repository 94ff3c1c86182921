//! The `process` launcher: the agent as a plain child process, without any isolation. For
//! development on a loopback address; the configuration refuses it elsewhere.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use belljar_link::socket::QuietSocket;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::launcher::Transport;
use super::{Death, LaunchError, Launcher, SandboxId, SandboxSpec};

/// How long an agent may take to end its processes before it is killed.
const GRACE: Duration = Duration::from_secs(1);

/// Starts agents as children.
#[derive(Debug)]
pub struct ProcessLauncher {
    agent: PathBuf,
    children: Mutex<HashMap<SandboxId, Child>>,
}

impl ProcessLauncher {
    /// A launcher that runs this agent.
    pub fn new(agent: PathBuf) -> Self {
        Self {
            agent,
            children: Mutex::default(),
        }
    }
}

#[async_trait]
impl Launcher for ProcessLauncher {
    fn name(&self) -> &'static str {
        "process"
    }

    fn must_be_proved(&self) -> bool {
        false
    }

    async fn ping(&self) -> Result<(), LaunchError> {
        let metadata = tokio::fs::metadata(&self.agent).await;
        metadata.map(|_| ()).map_err(|cause| LaunchError::NoAgent {
            path: self.agent.display().to_string(),
            cause: cause.to_string(),
        })
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<Box<dyn Transport>, LaunchError> {
        let (ours, theirs) = socket_pair().map_err(|cause| LaunchError::Host {
            doing: "making a pair of sockets".into(),
            cause,
        })?;
        let seconds = |d: Duration| d.as_secs().max(1).to_string();
        let spawned = Command::new(&self.agent)
            .args(["--sandbox", spec.id.as_str(), "--link", "stdio"])
            .args(["--deadline", &seconds(spec.deadline)])
            .args(["--unlinked", &seconds(spec.unlinked)])
            // The gateway's own environment may hold its secrets.
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "HOME"))
            .env("LANG", "C.UTF-8")
            .envs(&spec.template.env)
            .envs(&spec.env)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let child = spawned.map_err(|cause| LaunchError::NoAgent {
            path: self.agent.display().to_string(),
            cause: cause.to_string(),
        })?;
        self.children.lock().await.insert(spec.id.clone(), child);
        Ok(Box::new(ours))
    }

    async fn list(&self) -> Result<Vec<SandboxId>, LaunchError> {
        Ok(self.children.lock().await.keys().cloned().collect())
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), LaunchError> {
        let Some(mut child) = self.children.lock().await.remove(id) else {
            return Ok(());
        };
        // Asked politely, the agent ends the processes below it; killed, it cannot.
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process(pid, Signal::TERM);
        }
        if timeout(GRACE, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
        Ok(())
    }

    async fn post_mortem(&self, _: &SandboxId) -> Death {
        Death::Unknown
    }
}

/// Our end for the runtime, and theirs for the child.
fn socket_pair() -> io::Result<(QuietSocket, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    Ok((QuietSocket::new(ours)?, theirs))
}
