//! What an engine must offer: start a sandbox and give a link to its agent, list sandboxes, remove
//! one. Everything else happens over the link.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use belljar_link::client::LinkError;
use belljar_link::socket::Redial;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::SandboxId;
use super::builds::{Built, Dockerfile};
use crate::config::Template;

/// A byte stream that can carry a link.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// What to start.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// Its id.
    pub id: SandboxId,
    /// The template's name, for its label.
    pub template_name: String,
    /// The recipe.
    pub template: Template,
    /// Added to the template's environment.
    pub env: BTreeMap<String, String>,
    /// The session it is for, for its label.
    pub session: String,
    /// The client it is for, for its label.
    pub owner: String,
    /// When it must be gone at the latest, for its label.
    pub expires_at: SystemTime,
    /// The agent ends the sandbox this long after its start.
    pub deadline: Duration,
    /// The agent ends the sandbox this long after the last gateway was lost.
    pub unlinked: Duration,
}

/// Why a sandbox died, as far as the engine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It reached its memory limit.
    OutOfMemory,
    /// Anything else.
    Unknown,
}

/// An engine.
#[async_trait]
pub trait Launcher: Send + Sync + 'static {
    /// Its name in the configuration and the log.
    fn name(&self) -> &'static str;

    /// Whether its sandboxes must prove their seal before any is handed out.
    fn must_be_proved(&self) -> bool;

    /// Whether the engine answers. Cheap.
    async fn ping(&self) -> Result<(), LaunchError>;

    /// Start a sandbox and return the stream to its agent. Whoever cancels this or gets an error
    /// must [`Launcher::remove`] what may have come to be.
    async fn start(&self, spec: &SandboxSpec) -> Result<Box<dyn Transport>, LaunchError>;

    /// Keep a note with a sandbox, for the gateway that comes after this one, which may ask for it by the
    /// session that it is of. False if this launcher's sandboxes end with their gateway.
    async fn keep(&self, _: &SandboxId, _session: &str, _note: &str) -> Result<bool, LaunchError> {
        Ok(false)
    }

    /// The sandboxes that earlier gateways left, with their notes.
    async fn kept(&self) -> Result<Vec<(SandboxId, String)>, LaunchError> {
        Ok(Vec::new())
    }

    /// Whether other gateways serve the same sandboxes: then one that goes on without its gateway is
    /// nobody's orphan, a link that was lost may be taken up again, and any gateway may be asked for any
    /// session.
    fn shared(&self) -> bool {
        false
    }

    /// The sandbox of a session that is another gateway's, if there is one now, with its note.
    async fn find(&self, _session: &str) -> Result<Option<(SandboxId, String)>, LaunchError> {
        Ok(None)
    }

    /// Whether another gateway serves the session of a sandbox by now.
    async fn taken(&self, _: &SandboxId) -> Result<bool, LaunchError> {
        Ok(false)
    }

    /// How many sessions an owner has at other gateways, as far as is known.
    fn elsewhere(&self, _owner: &str) -> usize {
        0
    }

    /// Whether a session may stay whose sandbox has just come to be, of an owner who may have `most` at all
    /// gateways. Of any who ask at the same time, no more are told so than may.
    async fn may_stay(
        &self,
        _: &SandboxId,
        _owner: &str,
        _most: usize,
    ) -> Result<bool, LaunchError> {
        Ok(true)
    }

    /// What the agent of a sandbox is told to let later gateways in by, where they come by a relay.
    fn relay_key(&self, _: &SandboxId) -> Option<String> {
        None
    }

    /// The stream to the agent of a sandbox that an earlier gateway left.
    async fn relink(&self, _: &SandboxId) -> Result<Box<dyn Transport>, LaunchError> {
        Err(LaunchError::NoLink("it ended with its gateway".into()))
    }

    /// Where the agent of a sandbox whose link has just been taken up may dial again.
    fn redial(&self, _: &SandboxId) -> Option<Redial> {
        None
    }

    /// Every sandbox that this gateway may remove unless it knows it, dead ones included.
    async fn list(&self) -> Result<Vec<SandboxId>, LaunchError>;

    /// Remove a sandbox and everything that belongs to it, its note first. Removing what is not there, or is
    /// of a session that another gateway serves, succeeds.
    async fn remove(&self, id: &SandboxId) -> Result<(), LaunchError>;

    /// Build an image and remember it under this name.
    async fn build(&self, _name: &str, _: &Dockerfile) -> Result<Built, LaunchError> {
        Err(LaunchError::NotReady(format!(
            "the launcher {} builds no images",
            self.name()
        )))
    }

    /// What was built.
    async fn built(&self) -> Result<Vec<Built>, LaunchError> {
        Ok(Vec::new())
    }

    /// Remove what was built under this name; false if nothing was.
    async fn unbuild(&self, _name: &str) -> Result<bool, LaunchError> {
        Ok(false)
    }

    /// Why a sandbox whose link ended died.
    async fn post_mortem(&self, id: &SandboxId) -> Death;

    /// The pool that its gateways have together, where the engine keeps one.
    fn pool(&self) -> Option<&dyn SharedPool> {
        None
    }
}

/// A sandbox that was started ahead, as the engine knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// It.
    pub id: SandboxId,
    /// Its template's name.
    pub template: String,
    /// What it was started from; `None` while it is being started.
    pub stamp: Option<String>,
    /// How long ago it was started.
    pub age: Duration,
    /// The gateway that has a link to it; `None` while it has none, or is being started.
    pub holder: Option<String>,
}

/// Sandboxes that were started ahead and belong to nobody: they wait at their prompts, and any gateway
/// may claim one, which one gateway does. Each is held by one gateway, to which it costs the least.
#[async_trait]
pub trait SharedPool: Send + Sync {
    /// What a sandbox of this template is started from, as one word: where it is another, the sandbox
    /// would be.
    fn stamp(&self, name: &str, template: &Template) -> String;

    /// All members, as far as is known now.
    fn members(&self) -> Vec<Member>;

    /// Changes whenever a member may have. To be taken before the members are looked at.
    fn changes(&self) -> watch::Receiver<bool>;

    /// This gateway, as a holder.
    fn holder(&self) -> String;

    /// One with this stamp that waits, and that this gateway holds if there is one. It looks at each once,
    /// until it hears of it again.
    fn pick(&self, stamp: &str) -> Option<SandboxId>;

    /// Make a sandbox that was picked this one's who is described: its main terminal's number, or `None`
    /// if somebody else was earlier. Once, whoever tries at the same time.
    async fn claim(&self, id: &SandboxId, spec: &SandboxSpec) -> Result<Option<u32>, LaunchError>;

    /// Become the holder of a member that waits: its main terminal's number, or `None` if somebody else was
    /// earlier. Nobody can claim it until it is offered again.
    async fn hold(&self, id: &SandboxId) -> Result<Option<u32>, LaunchError>;

    /// Let a sandbox wait that this gateway has started as a member and brought to its prompt, or taken up.
    async fn offer(&self, id: &SandboxId, stamp: &str, terminal: u32) -> Result<(), LaunchError>;

    /// Remove a member that waits, unless somebody has claimed it meanwhile.
    async fn discard(&self, id: &SandboxId) -> Result<(), LaunchError>;

    /// Resolves when this gateway is the one that fills the pool.
    async fn elected(&self) -> Term;
}

/// For as long as this gateway fills the pool. Dropping it gives the office up.
#[derive(Debug)]
pub struct Term {
    lost: CancellationToken,
    _over: DropGuard,
}

impl Term {
    /// A term that ends with `lost`; `over` is told when it is dropped.
    pub fn new(lost: CancellationToken, over: CancellationToken) -> Self {
        Self {
            lost,
            _over: over.drop_guard(),
        }
    }

    /// Resolves when another gateway may have the office.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

/// Why an engine did not do what it was asked to. The text is for operators; [`LaunchError::remedy`]
/// says what they can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The gateway will not use the engine now.
    #[error("the engine is not ready: {0}")]
    NotReady(String),
    /// Nothing answers at the engine's address.
    #[error("the engine at {address} cannot be reached: {cause}")]
    Unreachable {
        /// Path of its socket.
        address: String,
        /// What happened instead.
        cause: String,
    },
    /// The engine answered with an error.
    #[error("the engine refused ({doing}): {message}")]
    Refused {
        /// What it was asked for.
        doing: &'static str,
        /// Its answer.
        message: String,
    },
    /// A Dockerfile could not be built: the end of the builder's output.
    #[error("the build failed: {0}")]
    Build(String),
    /// Sandboxes still run on this image.
    #[error("the image {0} is in use")]
    ImageInUse(String),
    /// The template's image is not there.
    #[error("the image {0} is not there")]
    NoImage(String),
    /// The configured runtime is not registered.
    #[error("the engine does not know the runtime {0}")]
    NoRuntime(String),
    /// The agent's binary is not there.
    #[error("the agent {path} cannot be used: {cause}")]
    NoAgent {
        /// Where it was looked for.
        path: String,
        /// Why it cannot be used.
        cause: String,
    },
    /// The sandbox ran but its agent did not call.
    #[error("the sandbox's agent did not link: {0}")]
    NoLink(String),
    /// The sandbox ended before its agent called.
    #[error("the sandbox ended before its agent linked: {0}")]
    Died(String),
    /// The agent's answer was not usable.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It took too long.
    #[error("{0} took too long")]
    Deadline(&'static str),
    /// The cluster did not start it.
    #[error("{problem}")]
    Cluster {
        /// What happened, with its cause.
        problem: String,
        /// What an operator can do about it.
        remedy: &'static str,
    },
    /// The gateway's own machine refused something.
    #[error("{doing}: {cause}")]
    Host {
        /// What was attempted.
        doing: String,
        /// The error.
        cause: std::io::Error,
    },
}

impl LaunchError {
    /// What an operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotReady(_) => "run `belljar doctor`",
            Self::Unreachable { .. } => {
                "start the engine (`systemctl start docker`), or let this user reach its socket \
                 (group docker), or set docker.socket"
            }
            Self::Refused { .. } | Self::Deadline(_) => {
                "look at the engine's log (`journalctl -u docker`)"
            }
            Self::Build(_) => "mend the Dockerfile",
            Self::ImageInUse(_) => "end the sandboxes that were started from it first",
            Self::NoImage(_) => "build it with docker/build.sh, or pull it",
            Self::NoRuntime(_) => "install gVisor and register it: deploy/setup.sh does both",
            Self::NoAgent { .. } => "build it with `make build`, or set `agent`",
            Self::NoLink(_) | Self::Link(_) => {
                "run `belljar doctor`; the runtime needs the argument --host-uds=open, or working \
                 attach"
            }
            Self::Died(_) => {
                "give the template more memory; if that is not it, `agent` must be the static \
                 binary that `make agent` builds, for this machine"
            }
            Self::Cluster { remedy, .. } => remedy,
            Self::Host { .. } => "check the rights on run_dir and the free space",
        }
    }
}
