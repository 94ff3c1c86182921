//! Sandboxes: started, found, proved and removed. Knows no sessions and no HTTP.
//!
//! In reading order: [`mod@launcher`] is what an engine must offer, [`docker`] and [`process`] offer it,
//! [`proof`] looks inside a sandbox for evidence of its seal, [`engine`] watches over the engine's
//! health, [`registry`] knows which sandboxes exist, [`queue`] is the line for their places, [`pressure`]
//! keeps the door while the host is short of something, [`reaper`] removes sandboxes.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use belljar_link::client::Link;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, LauncherKind};
use crate::telemetry::Metrics;

pub mod launcher;

pub mod docker;

pub mod process;

pub mod proof;

pub mod engine;

mod registry;

mod queue;

mod pressure;

mod reaper;

pub use engine::EngineState;
pub use launcher::{Death, LaunchError, Launcher, SandboxSpec};
pub use pressure::{Host, Shortage};
pub use queue::{Place, Ticket, Turn};
pub use registry::{AtCapacity, Slot};

use registry::Registry;

/// A sandbox's identity: 32 hexadecimal digits, random.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct SandboxId(String);

impl SandboxId {
    /// A new, random id.
    pub fn random() -> Self {
        Self(crate::secret::random_hex::<16>())
    }

    /// An id read from an engine's label or a directory's name; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == 32 && text.bytes().all(hex)).then(|| Self(text.into()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long a start may take as a whole, whatever the engine does. A cold start takes 0.4 s; one of
/// forty at once on two cores took 12 s.
const START_DEADLINE: Duration = Duration::from_secs(45);

/// A live sandbox with its link. Dropping it removes it from the engine, in the background.
#[derive(Debug)]
pub struct Sandbox {
    slot: Slot,
    /// The link to its agent.
    pub link: Link,
}

impl Sandbox {
    /// Its id.
    pub fn id(&self) -> &SandboxId {
        self.slot.id()
    }
}

/// All sandboxes of this gateway, and the engine behind them.
pub struct Sandboxes {
    launcher: Arc<dyn Launcher>,
    registry: Arc<Registry>,
    engine: watch::Receiver<EngineState>,
    metrics: Arc<Metrics>,
    /// Whether a usable engine is one that was seen to run gVisor.
    sealed: bool,
}

impl fmt::Debug for Sandboxes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandboxes")
            .field("launcher", &self.launcher.name())
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}

/// The launcher that the configuration names.
pub fn launcher(config: &Config) -> Arc<dyn Launcher> {
    match config.launcher {
        LauncherKind::Docker => Arc::new(docker::DockerLauncher::new(config)),
        LauncherKind::Process => Arc::new(process::ProcessLauncher::new(config.agent.clone())),
    }
}

impl Sandboxes {
    /// Begin to watch over the engine and the host, and to remove what is left over. All of it goes
    /// on in `tasks` until `stop`; the reaper first removes every sandbox that is no longer wanted.
    pub fn new(
        launcher: Arc<dyn Launcher>,
        host: Host,
        config: &Config,
        metrics: Arc<Metrics>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let limits = &config.limits;
        let registry = Arc::new(Registry::new(limits.max_sandboxes, limits.queue_length));
        let (state, engine) = watch::channel(EngineState::Starting);
        tasks.spawn(engine::watch_over(
            launcher.clone(),
            config.clone(),
            metrics.clone(),
            state,
            stop.clone(),
        ));
        tasks.spawn(pressure::watch_over(
            host,
            limits.clone(),
            registry.clone(),
            metrics.clone(),
            stop.clone(),
        ));
        tasks.spawn(reaper::run(
            launcher.clone(),
            registry.clone(),
            engine.clone(),
            metrics.clone(),
            stop.clone(),
        ));
        Self {
            sealed: launcher.must_be_proved() && config.docker.require_gvisor,
            launcher,
            registry,
            engine,
            metrics,
        }
    }

    /// How many sandboxes exist, those being started or removed included.
    pub fn count(&self) -> usize {
        self.registry.count()
    }

    /// Whether what is started is sealed in gVisor; `None` while nothing can be started.
    pub fn sealed(&self) -> Option<bool> {
        (self.engine() == EngineState::Ready).then_some(self.sealed)
    }

    /// The engine's health.
    pub fn engine(&self) -> EngineState {
        self.engine.borrow().clone()
    }

    /// Resolves once the engine's health is known.
    pub async fn engine_known(&self) -> EngineState {
        let mut engine = self.engine.clone();
        let known = engine.wait_for(|state| *state != EngineState::Starting);
        known
            .await
            .map_or(EngineState::Starting, |state| state.clone())
    }

    /// Take one of the places for sandboxes. Check and reservation are one step. Refused while
    /// somebody waits in line.
    pub fn reserve(&self) -> Result<Slot, AtCapacity> {
        self.registry.reserve(SandboxId::random())
    }

    /// Wait in line for a place.
    pub fn join_line(&self) -> Result<Ticket, AtCapacity> {
        self.registry.join()
    }

    /// Why [`Sandboxes::reserve`] would be refused now.
    pub fn closed(&self) -> Option<AtCapacity> {
        self.registry.closed()
    }

    /// How many wait in line. Changes too when the line may have moved; whoever holds places that
    /// could be given up for a visitor watches it.
    pub fn waiting(&self) -> watch::Receiver<usize> {
        self.registry.changes()
    }

    /// Start a sandbox in a reserved place and take up the link to its agent. Nothing is started
    /// before the engine has been proved.
    pub async fn start(&self, mut slot: Slot, spec: SandboxSpec) -> Result<Sandbox, LaunchError> {
        match self.engine() {
            EngineState::Ready => {}
            EngineState::Starting => return Err(LaunchError::NotReady("starting up".into())),
            EngineState::Down { reason } | EngineState::Unsafe { reason } => {
                return Err(LaunchError::NotReady(reason));
            }
        }
        let begun = Instant::now();
        slot.mark_started();
        let launched = timeout(START_DEADLINE, launch(&*self.launcher, &spec))
            .await
            .unwrap_or(Err(LaunchError::Deadline("starting a sandbox")));
        match launched {
            Ok(link) => {
                self.metrics.started(begun.elapsed());
                Ok(Sandbox { slot, link })
            }
            Err(error) => {
                self.metrics.engine_error("start");
                Err(error)
            }
        }
    }

    /// Why a sandbox died, as far as the engine knows.
    pub async fn post_mortem(&self, id: &SandboxId) -> Death {
        self.launcher.post_mortem(id).await
    }
}

/// Start a sandbox and say hello to its agent.
async fn launch(launcher: &dyn Launcher, spec: &SandboxSpec) -> Result<Link, LaunchError> {
    let io = launcher.start(spec).await?;
    let gateway = concat!("belljar ", env!("CARGO_PKG_VERSION"));
    let link = Link::establish(io, gateway).await?;
    Ok(link)
}
