//! Sandboxes: started, found, proved and removed. Knows no sessions and no HTTP.
//!
//! In reading order: [`mod@launcher`] is what an engine must offer, [`docker`], [`kubernetes`] and [`process`] offer it,
//! [`proof`] looks inside a sandbox for evidence of its seal, [`engine`] watches over the engine's
//! health, [`registry`] knows which sandboxes exist, [`queue`] is the line for their places, [`pressure`]
//! keeps the door while the host is short of something, [`pool`] starts some ahead, [`builds`] makes
//! templates of Dockerfiles, [`notes`] are left for the next gateway when this one says [`leave`],
//! [`pulse`] asks whether an agent is there, [`reaper`] removes sandboxes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use belljar_link::client::{Link, LinkError};
use belljar_link::message::{OpenTerminal, Size};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, info_span};

use crate::config::{Config, LauncherKind, Live, Template};
use crate::telemetry::Metrics;

pub mod launcher;

pub mod builds;

pub mod docker;

pub mod kubernetes;

pub mod process;

pub mod proof;

pub mod engine;

mod registry;

mod queue;

mod pool;
mod pressure;

mod notes;

mod sockets;

mod leave;

mod pulse;

mod reaper;

pub use builds::Builds;
pub use engine::EngineState;
pub use launcher::{Death, LaunchError, Launcher, SandboxSpec};
pub use leave::{Leave, leaving};
pub use pressure::{Host, Shortage};
pub use pulse::silent;
pub use queue::{Place, Ticket, Turn};
pub use registry::{AtCapacity, Slot};

use launcher::Transport;
use pool::Pool;
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

/// A sandbox without any gateway ends after this long: time enough to start the next one.
pub const UNLINKED: Duration = Duration::from_secs(60);

/// Whose a sandbox is that was started ahead, in place of a session's id.
const POOL: &str = "pool";

/// Pause between attempts to take up a link that was lost, and how long they go on: the agent ends the
/// sandbox after [`UNLINKED`].
const MEND: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(50));

/// How long a gateway tries to take up a sandbox that another has, or had. Its visitor waits.
const RELINK: Duration = Duration::from_secs(20);

/// A live sandbox with its link. Dropping it removes it from the engine, in the background.
#[derive(Debug)]
pub struct Sandbox {
    slot: Slot,
    /// The link to its agent.
    pub link: Arc<Link>,
}

/// A sandbox that was started ahead.
#[derive(Debug)]
pub struct Warm {
    /// It.
    pub sandbox: Sandbox,
    /// The terminal that runs the template's command, at its prompt.
    pub terminal: u32,
}

impl Sandbox {
    /// Its id.
    pub fn id(&self) -> &SandboxId {
        self.slot.id()
    }

    /// Open its main terminal, which runs the template's command.
    pub async fn open_main(
        &self,
        template: Template,
        env: BTreeMap<String, String>,
        main: MainTerminal,
    ) -> Result<u32, LinkError> {
        let init: Vec<String> = template.init.into_iter().chain(main.init).collect();
        let open = OpenTerminal {
            command: with_init(&template.command, &init),
            env: template.env.into_iter().chain(env).collect(),
            cwd: None,
            size: main.size,
        };
        self.link.open_terminal(open).await
    }

    /// It is for this session now: its removal is a part of the span.
    pub fn belongs_to(&mut self, session: Span) {
        self.slot.belongs_to(session);
    }

    /// Give it up for another in its place.
    pub fn replace(self) -> Slot {
        self.slot.replace(SandboxId::random())
    }

    /// Let it live on for the next gateway, which knows it by its note.
    pub fn hand_over(self) {
        self.slot.hand_over();
    }

    /// Leave it to another gateway, which has taken it.
    pub fn let_go(self) {
        self.slot.let_go();
    }
}

/// How the main terminal begins.
#[derive(Debug, Clone, Default)]
pub struct MainTerminal {
    /// Its first size.
    pub size: Size,
    /// Shell lines run after the template's own and before its command.
    pub init: Vec<String>,
}

/// All sandboxes of this gateway, and the engine behind them.
pub struct Sandboxes {
    launcher: Arc<dyn Launcher>,
    config: Arc<Live>,
    registry: Arc<Registry>,
    pool: Pool,
    /// Templates that are built while it runs.
    pub builds: Builds,
    /// Visitors whose sandboxes are being started.
    starting: watch::Sender<usize>,
    engine: watch::Receiver<EngineState>,
    metrics: Arc<Metrics>,
    /// Whether a usable engine is one that was seen to run gVisor.
    sealed: bool,
    /// How this gateway goes away, once it does.
    leave: OnceLock<Leave>,
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
        LauncherKind::Kubernetes => Arc::new(kubernetes::KubernetesLauncher::new(config)),
        LauncherKind::Process => Arc::new(process::ProcessLauncher::new(config)),
    }
}

impl Sandboxes {
    /// Find what earlier gateways left; then begin to watch over the engine and the host, and to
    /// remove what nobody wants. All of it goes on in `tasks` until `stop`. What is left comes with
    /// its place and its note: a place that is dropped is removed.
    pub async fn new(
        launcher: Arc<dyn Launcher>,
        host: Host,
        config: Arc<Live>,
        metrics: Arc<Metrics>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> (Self, Vec<(Slot, String)>) {
        let registry = Arc::new(Registry::new(config.clone()));
        // Before the reaper looks for orphans.
        let kept = kept(&*launcher, &registry).await;
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
            config.get().limits.clone(),
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
        let sandboxes = Self {
            sealed: launcher.must_be_proved() && config.get().requires_gvisor(),
            builds: Builds::new(launcher.clone()),
            launcher,
            config,
            registry,
            pool: Pool::default(),
            starting: watch::Sender::new(0),
            engine,
            metrics,
            leave: OnceLock::new(),
        };
        (sandboxes, kept)
    }

    /// Keep every template's pool full until `stop`, then give its members up.
    pub async fn keep_pools_full(&self, stop: &CancellationToken) {
        pool::keep_full(self, stop).await;
    }

    /// This gateway goes away. What was started ahead ends with it, unless others are to come.
    pub fn going(&self, how: Leave) {
        let _ = self.leave.set(how);
    }

    fn leave(&self) -> Leave {
        self.leave.get().copied().unwrap_or(Leave::End)
    }

    /// How many sandboxes exist, those being started or removed included.
    pub fn count(&self) -> usize {
        self.registry.count()
    }

    /// How many of them were started ahead and wait for a visitor.
    pub fn in_pools(&self) -> usize {
        self.pools().values().sum()
    }

    /// The same by template. Where gateways have them together, all of them are counted by each.
    pub fn pools(&self) -> BTreeMap<String, usize> {
        let Some(shared) = self.launcher.pool() else {
            return self.pool.counts();
        };
        let mut counts = BTreeMap::new();
        for member in shared.members() {
            if member.stamp.is_some() {
                *counts.entry(member.template).or_default() += 1;
            }
        }
        counts
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

    /// Resolves while nobody waits for a start of their own.
    async fn nobody_starts(&self) {
        let _ = self
            .starting
            .subscribe()
            .wait_for(|starting| *starting == 0)
            .await;
    }

    /// Resolves while the engine is usable.
    async fn usable(&self) {
        let mut engine = self.engine.clone();
        let _ = engine.wait_for(|state| *state == EngineState::Ready).await;
    }

    /// A sandbox of this template that was started ahead, at its prompt.
    pub fn claim(&self, name: &str, template: &Template) -> Option<Warm> {
        self.pool.take(name, template)
    }

    /// Take one of the places for sandboxes. Check and reservation are one step. A visitor comes
    /// before what was started ahead for others; nobody comes before those who wait in line.
    pub fn reserve(&self) -> Result<Slot, AtCapacity> {
        let full = match self.registry.reserve(SandboxId::random()) {
            Err(full @ AtCapacity::Taken { .. }) if *self.waiting().borrow() == 0 => full,
            reserved => return reserved,
        };
        let spare = self.pool.give_up_one().ok_or(full)?;
        Ok(spare.slot.replace(SandboxId::random()))
    }

    /// Wait in line for a place.
    pub fn join_line(&self) -> Result<Ticket, AtCapacity> {
        self.registry.join()
    }

    /// Why [`Sandboxes::reserve`] would be refused now.
    pub fn closed(&self) -> Option<AtCapacity> {
        let closed = self.registry.closed()?;
        let taken = matches!(closed, AtCapacity::Taken { .. });
        let makes_room = taken && self.pool.count() > 0 && *self.waiting().borrow() == 0;
        (!makes_room).then_some(closed)
    }

    /// How many wait in line. Changes too when the line may have moved.
    pub fn waiting(&self) -> watch::Receiver<usize> {
        self.registry.changes()
    }

    /// Start a sandbox in a reserved place and take up the link to its agent. It has no terminal
    /// yet: its image may not even have a shell. Nothing is started before the engine has been
    /// proved.
    pub async fn start(&self, slot: Slot, spec: &SandboxSpec) -> Result<Sandbox, LaunchError> {
        let _visitor = Starting::of(&self.starting);
        self.start_one(slot, spec).await
    }

    async fn start_one(&self, mut slot: Slot, spec: &SandboxSpec) -> Result<Sandbox, LaunchError> {
        let started = async {
            if let EngineState::Down { reason } | EngineState::Unsafe { reason } =
                self.engine_known().await
            {
                return Err(LaunchError::NotReady(reason));
            }
            let begun = Instant::now();
            slot.mark_started();
            let link = launch(&*self.launcher, spec).await?;
            self.metrics.started(begun.elapsed());
            Ok(link)
        };
        let started = timeout(START_DEADLINE, started).await;
        match started {
            Ok(Ok(link)) => Ok(Sandbox {
                slot,
                link: link.into(),
            }),
            Ok(Err(error)) => {
                self.metrics.engine_error("start");
                Err(error)
            }
            Err(_) => {
                self.metrics.engine_error("start");
                Err(LaunchError::Deadline("starting a sandbox"))
            }
        }
    }

    /// Keep a session's note with its sandbox, for the gateway that comes after this one. False if that
    /// one could not take the sandbox back.
    pub async fn keep(&self, id: &SandboxId, session: &str, note: &str) -> bool {
        let kept = self.launcher.keep(id, session, note).await;
        kept.unwrap_or_else(|error| {
            tracing::error!(
                sandbox = %id, %error, remedy = error.remedy(),
                "no note was kept: this sandbox ends with its gateway"
            );
            false
        })
    }

    /// Whether other gateways serve the same sandboxes.
    pub fn shared(&self) -> bool {
        self.launcher.shared()
    }

    /// The sandbox of a session that is another gateway's, if there is one now, with its note.
    pub async fn find(&self, session: &str) -> Result<Option<(SandboxId, String)>, LaunchError> {
        self.launcher.find(session).await
    }

    /// How many sessions an owner has at other gateways, as far as is known now.
    pub fn elsewhere(&self, owner: &str) -> usize {
        self.launcher.elsewhere(owner)
    }

    /// Whether a session may stay whose sandbox has just come to be: whether its owner has no more than may
    /// be, at all gateways.
    pub async fn may_stay(&self, id: &SandboxId, owner: &str) -> Result<bool, LaunchError> {
        let most = self.config.get().limits.concurrent_sessions as usize;
        self.launcher.may_stay(id, owner, most).await
    }

    /// A place for a sandbox that is taken over from another gateway, over the cap or not.
    pub fn adopt(&self, id: SandboxId) -> Slot {
        self.registry.adopt(id)
    }

    /// Take up the link to a sandbox's agent again, where it was lost and the sandbox lives on.
    pub async fn mend(&self, sandbox: &mut Sandbox) -> Mended {
        if !self.shared() {
            return Mended::No;
        }
        let mend = async {
            // Before anything is asked of the agent, which would leave the other gateway for this one.
            while !self.launcher.taken(sandbox.id()).await.unwrap_or(false) {
                match self.link(sandbox.id()).await {
                    Ok(link) => return Ok(link),
                    Err(error @ LaunchError::Died(_)) => {
                        tracing::debug!(sandbox = %sandbox.id(), %error, "there is nothing to mend");
                        return Err(Mended::No);
                    }
                    Err(error) => {
                        tracing::debug!(sandbox = %sandbox.id(), %error, "not mended yet");
                        sleep(MEND.0).await;
                    }
                }
            }
            Err(Mended::Taken)
        };
        match timeout(MEND.1, mend).await {
            Ok(Ok(link)) => {
                sandbox.link = link.into();
                Mended::Yes
            }
            Ok(Err(not)) => not,
            Err(_) => Mended::No,
        }
    }

    async fn link(&self, id: &SandboxId) -> Result<Link, LaunchError> {
        let io = self.launcher.relink(id).await?;
        let redial = self.launcher.redial(id);
        let link = hello(io, self.launcher.relay_key(id))
            .await?
            .with_redial(redial);
        if link.welcome().sandbox != id.as_str() {
            return Err(LaunchError::NoLink("another agent answered".into()));
        }
        Ok(link)
    }

    /// Take up the link to the agent of a sandbox that an earlier gateway left, or another has.
    pub async fn relink(&self, slot: Slot) -> Result<Sandbox, LaunchError> {
        let began = Instant::now();
        let link = loop {
            match self.link(slot.id()).await {
                Ok(link) => break link.into(),
                // An engine that is busy with many of them refuses one, and the next time it does not.
                Err(error)
                    if self.shared()
                        && !matches!(error, LaunchError::Died(_))
                        && began.elapsed() < RELINK =>
                {
                    tracing::debug!(sandbox = %slot.id(), %error, "not taken up yet");
                    sleep(MEND.0).await;
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Sandbox { slot, link })
    }

    /// Why a sandbox died, as far as the engine knows.
    pub async fn post_mortem(&self, id: &SandboxId) -> Death {
        self.launcher.post_mortem(id).await
    }
}

/// What earlier gateways left: each sandbox's place, and its note.
async fn kept(launcher: &dyn Launcher, registry: &Arc<Registry>) -> Vec<(Slot, String)> {
    let kept = launcher.kept().await.unwrap_or_else(|error| {
        let remedy = error.remedy();
        tracing::error!(%error, remedy, "nothing of an earlier gateway can be taken back");
        Vec::new()
    });
    let slots = kept
        .into_iter()
        .map(|(id, note)| (registry.adopt(id), note));
    slots.collect()
}

/// What became of a link that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mended {
    /// There is another one.
    Yes,
    /// There is none any more.
    No,
    /// Another gateway has it, and serves the session.
    Taken,
}

/// A visitor's start under way.
struct Starting<'a>(&'a watch::Sender<usize>);

impl<'a> Starting<'a> {
    fn of(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|starting| *starting += 1);
        Self(count)
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|starting| *starting -= 1);
    }
}

/// How the gateway introduces itself to agents.
const GATEWAY: &str = concat!("belljar ", env!("CARGO_PKG_VERSION"));

/// Start a sandbox and say hello to its agent.
async fn launch(launcher: &dyn Launcher, spec: &SandboxSpec) -> Result<Link, LaunchError> {
    let io = launcher.start(spec).await?;
    let redial = launcher.redial(&spec.id);
    let hello = hello(io, launcher.relay_key(&spec.id));
    Ok(hello.await?.with_redial(redial))
}

async fn hello(io: Box<dyn Transport>, relay_key: Option<String>) -> Result<Link, LinkError> {
    let hello = Link::establish(io, GATEWAY, relay_key);
    hello.instrument(info_span!("hello")).await
}

/// The command, after shell lines. They run in the same terminal, in a POSIX shell that then
/// becomes the command, so that the visitor sees what they print; one that fails stops nothing.
fn with_init(command: &[String], init: &[String]) -> Vec<String> {
    if init.is_empty() {
        return command.to_vec();
    }
    let script = format!("{}\nexec \"$@\"", init.join("\n"));
    let shell = ["/bin/sh".into(), "-c".into(), script, "init".into()];
    shell.into_iter().chain(command.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_lines_run_before_the_command_and_in_its_place() {
        let command = vec!["/bin/echo".to_owned(), "a b".to_owned()];
        assert_eq!(with_init(&command, &[]), command);
        let whole = with_init(&command, &["cd /tmp".into(), "false".into(), "pwd".into()]);
        let output = std::process::Command::new(&whole[0])
            .args(&whole[1..])
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"/tmp\na b\n");
    }
}
