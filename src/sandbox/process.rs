//! The `process` launcher: the agent as a plain child process, without any isolation. For
//! development on a loopback address; the configuration refuses it elsewhere.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use belljar_link::socket::Redial;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::launcher::Transport;
use super::sockets::{Sockets, dialled};
use super::{Death, LaunchError, Launcher, SandboxId, SandboxSpec};
use crate::config::Config;

/// How long an agent may take to end its processes before it is killed.
const GRACE: Duration = Duration::from_secs(1);

/// Starts agents as children.
#[derive(Debug)]
pub struct ProcessLauncher {
    agent: PathBuf,
    sockets: Sockets,
    children: Mutex<HashMap<SandboxId, Child>>,
}

/// Prefix of a directory of sockets; the process id of its gateway follows.
const SOCKETS: &str = "process-";

impl ProcessLauncher {
    /// A launcher that runs the configured agent.
    pub fn new(config: &Config) -> Self {
        sweep(&config.run_dir);
        let dir = format!("{SOCKETS}{}", std::process::id());
        Self {
            agent: config.agent.clone(),
            sockets: Sockets::new(config.run_dir.join(dir)),
            children: Mutex::default(),
        }
    }

    fn remove_socket(&self, id: &SandboxId) -> Result<(), LaunchError> {
        self.sockets.remove(id).map_err(|cause| LaunchError::Host {
            doing: "removing a sandbox's socket".into(),
            cause,
        })
    }

    fn no_agent(&self, cause: &io::Error) -> LaunchError {
        LaunchError::NoAgent {
            path: self.agent.display().to_string(),
            cause: cause.to_string(),
        }
    }
}

impl Drop for ProcessLauncher {
    fn drop(&mut self) {
        // Another one of this process may use it still.
        let _ = fs::remove_dir(self.sockets.root());
    }
}

/// Remove the sockets of gateways that were killed.
fn sweep(run_dir: &Path) {
    for entry in fs::read_dir(run_dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(SOCKETS));
        let pid = pid.and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        if pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH)) {
            let _ = fs::remove_dir_all(entry.path());
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
        metadata.map(|_| ()).map_err(|cause| self.no_agent(&cause))
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<Box<dyn Transport>, LaunchError> {
        let listener = self.sockets.make(&spec.id)?;
        let seconds = |d: Duration| d.as_secs().max(1).to_string();
        let spawned = Command::new(&self.agent)
            .args(["--sandbox", spec.id.as_str(), "--link"])
            .arg(self.sockets.path(&spec.id))
            .args(["--deadline", &seconds(spec.deadline)])
            .args(["--unlinked", &seconds(spec.unlinked)])
            // The gateway's own environment may hold its secrets.
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "HOME"))
            .env("LANG", "C.UTF-8")
            .envs(&spec.template.env)
            .envs(&spec.env)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let mut child = spawned.map_err(|cause| self.no_agent(&cause))?;
        let socket = tokio::select! {
            dialled = dialled(listener) => dialled?,
            status = child.wait() => {
                let status = status.map_or_else(|error| error.to_string(), |s| s.to_string());
                return Err(LaunchError::Died(format!("the agent ended: {status}")));
            }
        };
        self.children.lock().await.insert(spec.id.clone(), child);
        Ok(Box::new(socket))
    }

    fn redial(&self, id: &SandboxId) -> Option<Redial> {
        Some(self.sockets.redial(id))
    }

    async fn list(&self) -> Result<Vec<SandboxId>, LaunchError> {
        Ok(self.children.lock().await.keys().cloned().collect())
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), LaunchError> {
        let Some(mut child) = self.children.lock().await.remove(id) else {
            return self.remove_socket(id);
        };
        // Asked politely, the agent ends the processes below it; killed, it cannot.
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process(pid, Signal::TERM);
        }
        if timeout(GRACE, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
        self.remove_socket(id)
    }

    async fn post_mortem(&self, _: &SandboxId) -> Death {
        Death::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_gateway_left_is_removed_and_nobody_elses() {
        let run_dir = std::env::temp_dir().join(format!("belljar-sweep-{}", std::process::id()));
        let mut dead = std::process::Command::new("true").spawn().expect("it runs");
        dead.wait().expect("it is a child");
        let of = |name: String| {
            let dir = run_dir.join(name);
            fs::create_dir_all(dir.join("sandbox")).expect("there is room");
            dir
        };
        let left = of(format!("{SOCKETS}{}", dead.id()));
        let live = of(format!("{SOCKETS}{}", std::process::id()));
        let other = [of("belljar".into()), of(format!("{SOCKETS}x"))];
        sweep(&run_dir);
        assert!(!left.exists() && live.exists());
        assert!(other.iter().all(|dir| dir.exists()));
        fs::remove_dir_all(run_dir).expect("it is there");
    }
}
