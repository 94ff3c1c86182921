//! A held sandbox, as everyone but its own task sees it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use belljar_link::client::Link;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Owner, Recipe};
use crate::sandbox::AtCapacity;
use crate::secret::random_hex;
use crate::store::Ends;

/// Commands that may wait for a sandbox's task. Its callers wait for room.
const COMMANDS: usize = 16;

/// A held sandbox's identity: 32 hexadecimal digits. Not the engine's: a restart gives it another
/// sandbox there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeldId(String);

impl HeldId {
    pub(super) fn random() -> Self {
        Self(random_hex::<16>())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HeldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a sandbox is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its time was over.
    Timeout,
    /// Its owner has ended it.
    Killed,
    /// It reached its memory limit.
    OutOfMemory,
    /// It died of something else.
    SandboxLost,
    /// It could not be started.
    StartFailed,
    /// The gateway is going away, and it with it.
    Shutdown,
    /// The gateway is going away, and it lives on for the next one.
    HandedOver,
}

impl Reason {
    /// The stable name in the API, the metrics and the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Killed => "killed",
            Self::OutOfMemory => "out_of_memory",
            Self::SandboxLost => "sandbox_lost",
            Self::StartFailed => "start_failed",
            Self::Shutdown => "shutdown",
            Self::HandedOver => "handed_over",
        }
    }
}

/// Where a held sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is being started, for the first time or anew.
    Starting,
    /// It runs.
    Running,
    /// Its owner has stopped it. Nothing of it is left, but it can be started anew until its end.
    Stopped,
    /// It died. The same holds.
    Error(Reason),
    /// It is over.
    Ended(Reason),
}

impl State {
    /// The stable name in the API and the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Error(_) => "error",
            Self::Ended(_) => "ended",
        }
    }

    /// Why it does not run, if that was not its owner's wish.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Error(reason) | Self::Ended(reason) => Some(reason),
            Self::Starting | Self::Running | Self::Stopped => None,
        }
    }
}

/// What changes about a held sandbox.
#[derive(Debug, Clone)]
pub struct Status {
    /// Where it is in its life.
    pub state: State,
    /// When it ends.
    pub expires_at: SystemTime,
    /// When it ended.
    pub ended_at: Option<SystemTime>,
    /// While it runs.
    pub(super) link: Option<Arc<Link>>,
}

/// The sandbox does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sandbox does not run: it is {}", .0.name())]
pub struct NotRunning(
    /// What it does instead.
    pub State,
);

/// Why a sandbox did not do what its owner wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ActError {
    /// It is over.
    #[error("the sandbox has ended: {}", .0.name())]
    Ended(Reason),
    /// There is no place to start it anew.
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
    /// It did not start.
    #[error("the sandbox did not start")]
    StartFailed,
}

pub(super) enum Command {
    SetTimeout(Duration, oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
    Restart(oneshot::Sender<Result<(), ActError>>),
    Kill,
}

/// What a held sandbox is, whatever becomes of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    /// Its identity.
    pub id: HeldId,
    /// Whose it is.
    pub owner: Owner,
    /// What it is made from.
    pub recipe: Recipe,
    /// The image's name.
    pub image: String,
    /// Memory, bytes.
    pub memory: u64,
    /// CPUs.
    pub cpus: f64,
    /// What its owner wants to find it by.
    pub metadata: BTreeMap<String, String>,
    /// Working directory of its commands: absolute.
    pub cwd: String,
    /// When it was created.
    #[serde(with = "humantime_serde")]
    pub created_at: SystemTime,
}

impl Identity {
    /// What was added to the template's environment. Programs started over the link know it already.
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.recipe.env
    }

    /// The template's name, or what stood in its place: an image's.
    pub fn template(&self) -> &str {
        self.recipe
            .image_as
            .as_ref()
            .unwrap_or(&self.recipe.template)
    }
}

/// A held sandbox.
#[derive(Debug)]
pub struct Held {
    identity: Identity,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
}

/// The other ends of a [`Held`], for its task.
pub(super) struct Handle {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) status: watch::Sender<Status>,
}

impl Ends for Held {
    fn is_over(&self) -> bool {
        matches!(self.state(), State::Ended(_))
    }
}

impl Deref for Held {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.identity
    }
}

impl Held {
    /// Whether it is gone for programs: its owner has ended it, or never learnt that it was there. What
    /// has ended by itself says why for a while.
    pub(super) fn is_gone(&self) -> bool {
        let gone = State::Ended(Reason::Killed) == self.state();
        gone || State::Ended(Reason::StartFailed) == self.state()
    }

    pub(super) fn new(
        identity: Identity,
        expires_at: SystemTime,
        state: State,
    ) -> (Arc<Self>, Handle) {
        let (commands, received) = mpsc::channel(COMMANDS);
        let (status, watched) = watch::channel(Status {
            state,
            expires_at,
            ended_at: None,
            link: None,
        });
        let held = Self {
            identity,
            commands,
            status: watched,
        };
        let handle = Handle {
            commands: received,
            status,
        };
        (Arc::new(held), handle)
    }

    /// What changes about it, now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        self.status.borrow().state
    }

    /// When it ends.
    pub fn expires_at(&self) -> SystemTime {
        self.status.borrow().expires_at
    }

    /// The link to its agent; waits while it is being started. A sandbox that is stopped or started
    /// anew ends its link, and has another one then.
    pub async fn link(&self) -> Result<Arc<Link>, NotRunning> {
        let mut status = self.status.clone();
        let settled = status.wait_for(|status| status.state != State::Starting);
        match settled.await {
            Ok(status) => status.link.clone().ok_or(NotRunning(status.state)),
            Err(_) => Err(NotRunning(self.state())),
        }
    }

    /// Resolves when it is over.
    pub async fn ended(&self) -> Reason {
        let mut status = self.status.clone();
        loop {
            if let State::Ended(reason) = status.borrow_and_update().state {
                return reason;
            }
            if status.changed().await.is_err() {
                return Reason::Shutdown;
            }
        }
    }

    /// It ends this long from now, and no sooner or later. The caller sees to the bounds.
    pub(super) async fn set_timeout(&self, ttl: Duration) -> Result<(), ActError> {
        self.command(|reply| Command::SetTimeout(ttl, reply)).await
    }

    /// Remove what runs; the rest stays until its end. Stopping what is stopped succeeds.
    pub async fn stop(&self) -> Result<(), ActError> {
        self.command(Command::Stop).await
    }

    /// Start it anew, without anything that was in it. Resolves when it runs.
    pub(super) async fn restart(&self) -> Result<(), ActError> {
        self.command(Command::Restart).await?
    }

    /// End it now; resolves when it has ended. Ending what has ended succeeds.
    pub async fn kill(&self) -> Reason {
        let _ = self.commands.send(Command::Kill).await;
        self.ended().await
    }

    /// End it as soon as its task comes to it. For a `Drop`, which cannot wait; should the task's
    /// queue be full, its clock ends it.
    pub(super) fn kill_soon(&self) {
        let _ = self.commands.try_send(Command::Kill);
    }

    async fn command<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, ActError> {
        let (reply, done) = oneshot::channel();
        if self.commands.send(command(reply)).await.is_ok()
            && let Ok(done) = done.await
        {
            return Ok(done);
        }
        Err(ActError::Ended(self.ended().await))
    }
}
