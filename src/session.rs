//! Sessions: a visitor's lease on a sandbox and its main terminal. Knows no HTTP.
//!
//! Each session is one task, [`lease`]'s, that owns its sandbox, its permit and its timers:
//! `starting → attached ⇄ detached → ended`. Everyone else holds a [`Session`], which sends it
//! commands and watches its state. Terminal bytes do not pass through the task: a [`Viewer`] reads
//! and writes the link itself.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use belljar_link::client::{
    Link, LinkError, TerminalControl, TerminalHandle, TerminalInput, TerminalOutput,
};
use belljar_link::message::port::SandboxStats;
use belljar_link::message::{Attached, Exit, HISTORY_BYTES, Size};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use tracing::field::Empty;

use crate::config::{Live, Template};
use crate::limit::{self, Client, Limiter, Permit};
use crate::sandbox::{
    AtCapacity, EngineState, MainTerminal, SandboxId, SandboxSpec, Sandboxes, Slot, UNLINKED, Warm,
};
use crate::secret::{Token, TokenHash, random_hex};
use crate::store::{Ends, Store};
use crate::telemetry::{Metrics, TraceParent};

mod deadline;

mod lease;

mod note;

mod recording;

mod share;

mod waiting;

pub use crate::sandbox::Leave;
pub use waiting::{Entry, Progress, Waiting};

use deadline::Deadlines;
use lease::{Lease, Origin};
use note::Note;
pub use recording::{Archive, Recorded};
pub use share::{
    MAX_SHARES, MAX_VIEWERS, Mode, Seat, SeatError, ShareId, ShareRecord, Shares, TooManyShares,
};

/// After a viewer is lost, how long its program is held at the window, so that a viewer who comes
/// back soon has missed nothing. Longer, and a build would stand still because its visitor's train
/// is in a tunnel; after it the program runs on and the oldest output may be lost (a `gap`).
const HOLD: Duration = Duration::from_secs(15);

/// The agent's own deadline lies this much after the gateway's, which is the one that warns.
const AGENT_SLACK: Duration = Duration::from_secs(30);

/// Ended sessions remembered at once, about 1 KiB each.
const MAX_ENDED: usize = 4096;

/// Commands that may wait for a session's task. Its callers wait for room.
const COMMANDS: usize = 16;

/// A session's identity: `sess_` and 32 hexadecimal digits. Opens nothing without the token.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionId(String);

impl SessionId {
    fn random() -> Self {
        Self(format!("sess_{}", random_hex::<16>()))
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The shell ended.
    Exited,
    /// The visitor asked for it.
    Closed,
    /// The operator asked for it.
    ByOperator,
    /// No input for too long.
    IdleTimeout,
    /// The longest time a session may take.
    MaxDuration,
    /// The visitor was lost and did not come back.
    DetachTimeout,
    /// The sandbox reached its memory limit.
    OutOfMemory,
    /// The sandbox died of something else.
    SandboxLost,
    /// The sandbox could not be started.
    StartFailed,
    /// Its visitor has as many as may be, together with those at other gateways.
    TooMany,
    /// The gateway is going away, and the session with it.
    Shutdown,
    /// The gateway is going away, and the session lives on for the next one.
    HandedOver,
    /// Another gateway has taken the session over, for a visitor who came there.
    TakenOver,
}

impl EndReason {
    /// The stable name in the protocol, the metrics and the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Closed => "closed",
            Self::ByOperator => "ended_by_operator",
            Self::IdleTimeout => "idle_timeout",
            Self::MaxDuration => "max_duration",
            Self::DetachTimeout => "detach_timeout",
            Self::OutOfMemory => "out_of_memory",
            Self::SandboxLost => "sandbox_lost",
            Self::StartFailed => "start_failed",
            Self::TooMany => "too_many_sessions",
            Self::Shutdown => "shutdown",
            Self::HandedOver => "handed_over",
            Self::TakenOver => "taken_over",
        }
    }
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Why.
    pub reason: EndReason,
    /// How the shell ended, if it did.
    pub exit: Option<Exit>,
}

impl From<EndReason> for Ending {
    fn from(reason: EndReason) -> Self {
        Self { reason, exit: None }
    }
}

/// Where a session is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Its sandbox is being started.
    Starting,
    /// A viewer is attached.
    Attached,
    /// It lives, and nobody looks.
    Detached,
    /// It is over.
    Ended(Ending),
}

impl State {
    /// The stable name in the API and the metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Attached => "attached",
            Self::Detached => "detached",
            Self::Ended(_) => "ended",
        }
    }
}

/// Something a viewer should be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The session will end for want of input after this long.
    Idle(Duration),
    /// The session will reach its maximum duration after this long.
    Expiry(Duration),
    /// Another viewer has taken this one's place. The last notice.
    TakenOver,
}

/// What a session is created with.
#[derive(Debug, Clone)]
pub struct Create {
    /// Whom it counts for.
    pub client: Client,
    /// The template's name; the configured default if absent.
    pub template: Option<String>,
    /// The terminal's first size.
    pub size: Size,
    /// Added to the template's environment.
    pub env: BTreeMap<String, String>,
    /// Shell lines run after the template's own and before the visitor's shell.
    pub init: Vec<String>,
    /// Shorter than the template's maximum duration, if present.
    pub max_duration: Option<Duration>,
    /// Record it, whatever the template says.
    pub record: bool,
    /// The origin whose pages may come to it besides the configured ones: that of the site that has
    /// sent the visitor, if one has.
    pub origin: Option<String>,
    /// Who the visitor is to that site.
    pub subject: Option<String>,
    /// What that site wants to find with the session.
    pub metadata: BTreeMap<String, String>,
    /// The trace that it is a part of, if present.
    pub trace: Option<TraceParent>,
}

/// A creation that is in order.
#[derive(Debug)]
struct Plan {
    create: Create,
    template_name: String,
    template: Template,
    /// At most the template's.
    max_duration: Duration,
}

/// Why a session was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The client is over a limit.
    #[error(transparent)]
    Limited(#[from] limit::Refusal),
    /// There is no place.
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
    /// None came free within `limits.queue_timeout`.
    #[error("no place came free in time")]
    WaitedTooLong,
    /// There is no such template.
    #[error("there is no template {0:?}")]
    NoTemplate(String),
    /// A duration is out of range.
    #[error("timeout: must be from 1000 to {} ms", max.as_millis())]
    BadDuration {
        /// The longest allowed.
        max: Duration,
    },
    /// Recording on request is not allowed.
    #[error("record: sessions are not recorded on request here")]
    NotRecorded,
    /// The engine is not usable.
    #[error("the engine is not usable: {0}")]
    Unavailable(String),
    /// The gateway is going away.
    #[error("the gateway is going away")]
    ShuttingDown,
}

/// Why a viewer was not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The session is over.
    #[error("the session has ended: {}", .0.reason.name())]
    Ended(Ending),
    /// The agent did not do it.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// What a viewer asks for when it attaches.
#[derive(Debug, Clone, Copy)]
pub struct AttachRequest {
    /// Byte offset to go on from; absent: everything still held.
    pub from: Option<u64>,
    /// The viewer's size; the terminal keeps its own if absent.
    pub size: Option<Size>,
    /// Unacknowledged bytes allowed.
    pub window: u32,
}

impl Default for AttachRequest {
    fn default() -> Self {
        Self {
            from: None,
            size: None,
            window: HISTORY_BYTES,
        }
    }
}

/// One viewer's access to the terminal.
#[derive(Debug)]
pub struct Viewer {
    /// Where the output begins.
    pub attached: Attached,
    /// Unacknowledged bytes allowed.
    pub window: u32,
    /// The output.
    pub output: TerminalOutput,
    /// Acknowledgements, size, pings.
    pub control: TerminalControl,
    /// The input; absent if this viewer may only watch.
    pub input: Option<TerminalInput>,
    /// What to tell the visitor.
    pub notices: mpsc::Receiver<Notice>,
    /// Hold it as long as the visitor is there.
    pub presence: Presence,
}

/// A viewer's being there.
#[derive(Debug)]
pub struct Presence(Place);

#[derive(Debug)]
enum Place {
    /// Its drop tells the session's task.
    Owner {
        _alive: oneshot::Sender<()>,
    },
    Guest(Seat),
}

impl Presence {
    /// Whether this is the session's owner, who alone sets its size, holds its program by not
    /// acknowledging, and ends it; not somebody whom a share let in.
    pub fn is_owner(&self) -> bool {
        matches!(self.0, Place::Owner { .. })
    }

    /// Resolves when the viewer's share is revoked.
    pub async fn revoked(&self) {
        match &self.0 {
            Place::Owner { .. } => std::future::pending().await,
            Place::Guest(seat) => seat.revoked.cancelled().await,
        }
    }
}

enum Command {
    Attach(AttachRequest, oneshot::Sender<Result<Viewer, LinkError>>),
    /// The note for the next gateway is out of date.
    Keep(oneshot::Sender<()>),
    /// For those who attach beside the owner.
    Handle(oneshot::Sender<TerminalHandle>),
    /// For what goes on beside the terminal.
    Link(oneshot::Sender<Arc<Link>>),
    Exited(Exit),
    /// For one of the two reasons that people have.
    End(EndReason),
}

/// When the visitor last did something. Written by viewers, read by the session's task.
#[derive(Debug)]
struct Activity {
    begun: Instant,
    /// Milliseconds after `begun`.
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    fn touch(&self) {
        let elapsed = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(elapsed, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

/// What a session is, whatever becomes of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    /// Its identity.
    pub id: SessionId,
    /// The template's name.
    pub template: String,
    /// Whom it counts for.
    pub client: Client,
    /// When it was created.
    #[serde(with = "humantime_serde")]
    pub created_at: SystemTime,
    /// When it ends at the latest.
    #[serde(with = "humantime_serde")]
    pub expires_at: SystemTime,
    /// It ends after this long without input.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// The origin whose pages may come to it besides the configured ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Who the visitor is to the site that has sent them, if one has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What that site wants to find with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    token: TokenHash,
}

impl Identity {
    /// Whether `presented` is this session's token, in constant time.
    pub fn opens_with(&self, presented: &str) -> bool {
        self.token.matches(presented)
    }
}

/// A session as everyone but its own task sees it.
#[derive(Debug)]
pub struct Session {
    identity: Identity,
    /// Who else may look at it.
    pub shares: Arc<Shares>,
    activity: Activity,
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<State>,
    /// Written by its task, before the state says so.
    ended_at: OnceLock<SystemTime>,
    /// The terminal's size, as its owner has last set it.
    size: watch::Sender<Size>,
    recorded: watch::Sender<Recorded>,
}

/// The other ends of a [`Session`], for its task.
struct Handle {
    commands: mpsc::Receiver<Command>,
    state: watch::Sender<State>,
}

impl Ends for Session {
    fn is_over(&self) -> bool {
        self.ending().is_some()
    }
}

impl Deref for Session {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.identity
    }
}

impl Session {
    fn new(
        identity: Identity,
        size: Size,
        recorded: Recorded,
        shares: Shares,
    ) -> (Arc<Self>, Handle) {
        let (commands, received) = mpsc::channel(COMMANDS);
        let (state, watched) = watch::channel(State::Starting);
        let session = Self {
            identity,
            shares: Arc::new(shares),
            activity: Activity::new(),
            commands,
            state: watched,
            ended_at: OnceLock::new(),
            size: watch::Sender::new(size.clamped()),
            recorded: watch::Sender::new(recorded),
        };
        let handle = Handle {
            commands: received,
            state,
        };
        (Arc::new(session), handle)
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// How it ended, if it has.
    pub fn ending(&self) -> Option<Ending> {
        match &*self.state.borrow() {
            State::Ended(ending) => Some(ending.clone()),
            _ => None,
        }
    }

    /// When it ended, if it has.
    pub fn ended_at(&self) -> Option<SystemTime> {
        self.ended_at.get().copied()
    }

    /// Resolves with its ending.
    pub async fn ended(&self) -> Ending {
        let mut state = self.state.clone();
        loop {
            if let State::Ended(ending) = &*state.borrow_and_update() {
                return ending.clone();
            }
            if state.changed().await.is_err() {
                return EndReason::Shutdown.into();
            }
        }
    }

    /// Resolves when its sandbox has been started, or it has ended.
    pub async fn started(&self) -> Result<(), Ending> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| *state != State::Starting).await;
        match settled.as_deref() {
            Ok(State::Ended(ending)) => Err(ending.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(EndReason::Shutdown.into()),
        }
    }

    /// Time left until it ends at the latest.
    pub fn remaining(&self) -> Duration {
        let left = self.expires_at.duration_since(SystemTime::now());
        left.unwrap_or_default()
    }

    /// The visitor did something.
    pub fn touch(&self) {
        self.activity.touch();
    }

    /// How long ago that was.
    pub fn idle(&self) -> Duration {
        self.activity.last().elapsed()
    }

    /// The link to its sandbox's agent; `None` if it has none any more. Waits while the sandbox
    /// starts. For what is no business of the session's task, which an agent could keep waiting.
    pub async fn link(&self) -> Option<Arc<Link>> {
        let (reply, link) = oneshot::channel();
        self.commands.send(Command::Link(reply)).await.ok()?;
        link.await.ok()
    }

    /// What its sandbox uses; `None` if it has none any more. Waits while the sandbox starts.
    pub async fn stats(&self) -> Option<Result<SandboxStats, LinkError>> {
        Some(self.link().await?.stats().await)
    }

    /// Attach a viewer, taking the place of the one before. Waits while the sandbox starts.
    pub async fn attach(&self, request: AttachRequest) -> Result<Viewer, AttachError> {
        let (reply, attached) = oneshot::channel();
        if self
            .commands
            .send(Command::Attach(request, reply))
            .await
            .is_ok()
            && let Ok(attached) = attached.await
        {
            return Ok(attached?);
        }
        Err(AttachError::Ended(self.ended().await))
    }

    /// Attach a viewer whom a share lets in. Waits while the sandbox starts. The link is asked here
    /// and not by the session's task, which others must not be able to keep busy.
    pub async fn watch(&self, seat: Seat, request: AttachRequest) -> Result<Viewer, AttachError> {
        let (reply, handle) = oneshot::channel();
        let asked = self.commands.send(Command::Handle(reply)).await;
        let (Ok(()), Ok(terminal)) = (asked, handle.await) else {
            return Err(AttachError::Ended(self.ended().await));
        };
        let (attached, output, control) = terminal.watch(request.from).await?;
        let input = match seat.mode {
            Mode::Read => None,
            Mode::Write => Some(terminal.input().await?),
        };
        Ok(Viewer {
            attached,
            window: request.window,
            output,
            control,
            input,
            // What the session has to say, it says to its owner.
            notices: mpsc::channel(1).1,
            presence: Presence(Place::Guest(seat)),
        })
    }

    /// The terminal's size, now and from now on.
    pub fn size(&self) -> watch::Receiver<Size> {
        self.size.subscribe()
    }

    /// The owner has set the terminal's size.
    pub fn resized(&self, size: Size) {
        self.size
            .send_if_modified(|old| std::mem::replace(old, size) != size);
    }

    /// Whether it is recorded, now and from now on.
    pub fn recorded(&self) -> watch::Receiver<Recorded> {
        self.recorded.subscribe()
    }

    /// What the next gateway must know has changed: resolves when it would know.
    pub async fn keep(&self) {
        let (reply, kept) = oneshot::channel();
        // A session that is over needs no note.
        if self.commands.send(Command::Keep(reply)).await.is_ok() {
            let _ = kept.await;
        }
    }

    /// The same without waiting. Should the task's queue be full, the next change tells.
    fn keep_soon(&self) {
        let _ = self.commands.try_send(Command::Keep(oneshot::channel().0));
    }

    /// The shell has ended, and its viewer has seen all its output.
    pub async fn exited(&self, exit: Exit) {
        // A task that is gone has ended the session already.
        let _ = self.commands.send(Command::Exited(exit)).await;
    }

    /// End it now, as its visitor wishes; resolves when it has ended.
    pub async fn close(&self) -> Ending {
        self.end(EndReason::Closed).await
    }

    /// The same, as the operator wishes. The visitor is told.
    pub async fn end_by_operator(&self) -> Ending {
        self.end(EndReason::ByOperator).await
    }

    async fn end(&self, reason: EndReason) -> Ending {
        let _ = self.commands.send(Command::End(reason)).await;
        self.ended().await
    }

    /// End it as soon as its task comes to it. For a `Drop`, which cannot wait; should the task's
    /// queue be full, the timers end the session.
    pub fn close_soon(&self) {
        let _ = self.commands.try_send(Command::End(EndReason::Closed));
    }
}

/// A session of another gateway, as its note says.
#[derive(Debug)]
pub struct Elsewhere {
    sandbox: SandboxId,
    note: Note,
}

impl Deref for Elsewhere {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.note.identity
    }
}

/// What a new session is given.
#[derive(Debug)]
enum Room {
    /// A sandbox that was started ahead.
    Warm(Warm),
    /// Room for one.
    Cold(Slot),
}

/// All sessions of a gateway.
#[derive(Debug)]
pub struct Sessions {
    config: Arc<Live>,
    sandboxes: Arc<Sandboxes>,
    limiter: Arc<Limiter>,
    metrics: Arc<Metrics>,
    store: Store<Session>,
    archive: Arc<Archive>,
    tasks: TaskTracker,
    leave: watch::Sender<Option<Leave>>,
    /// Held while a session is looked for and taken over, so that it is taken over once.
    taking_over: Mutex<()>,
}

impl Sessions {
    /// No sessions yet. Their tasks will run in `tasks` until they end or all [`Sessions::leave`].
    pub fn new(
        config: Arc<Live>,
        sandboxes: Arc<Sandboxes>,
        limiter: Arc<Limiter>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
    ) -> Self {
        let archive = Arc::new(Archive::open(&config.get().recordings));
        Self {
            config,
            sandboxes,
            limiter,
            metrics,
            store: Store::new(MAX_ENDED),
            archive,
            tasks,
            leave: watch::Sender::new(None),
            taking_over: Mutex::default(),
        }
    }

    /// Tell every session that the gateway goes away. No more can be created.
    pub fn leave(&self, how: Leave) {
        self.leave.send_replace(Some(how));
    }

    /// Begin a session. Its sandbox starts in the background. The token is the visitor's only key.
    pub async fn create(&self, create: Create) -> Result<(Arc<Session>, Token), CreateError> {
        let plan = self.plan(create)?;
        let permit = self.admit(plan.create.client).await?;
        let room = self.room(&plan).inspect_err(|_| permit.forgive())?;
        Ok(self.begin(plan, permit, room))
    }

    /// Begin a session, or wait in line if there is no place for it.
    pub async fn create_or_wait(self: &Arc<Self>, create: Create) -> Result<Entry, CreateError> {
        let plan = self.plan(create)?;
        let permit = self.admit(plan.create.client).await?;
        if let Ok(room) = self.room(&plan) {
            let (session, token) = self.begin(plan, permit, room);
            return Ok(Entry::Begun(session, token));
        }
        let ticket = self.sandboxes.join_line().inspect_err(|_| {
            permit.forgive();
            self.metrics.queue_refused();
        })?;
        let waiting = Waiting::new(self.clone(), ticket, plan, permit);
        Ok(Entry::Waiting(Box::new(waiting)))
    }

    /// Admit a client to one more session.
    async fn admit(&self, client: Client) -> Result<Permit, limit::Refusal> {
        let elsewhere = self.sandboxes.elsewhere(&client.to_string());
        let now = Instant::now();
        self.limiter.admit_among_all(client, elsewhere, now).await
    }

    /// Check what is asked for, before anything is taken for it.
    fn plan(&self, create: Create) -> Result<Plan, CreateError> {
        if self.leave.borrow().is_some() {
            return Err(CreateError::ShuttingDown);
        }
        let config = self.config.get();
        let name = create.template.as_ref().unwrap_or(&config.default_template);
        let template = config
            .template(name)
            .ok_or_else(|| CreateError::NoTemplate(name.clone()))?;
        let limits = &config.limits;
        let longest = template.max_duration.unwrap_or(limits.max_duration);
        let max_duration = create.max_duration.unwrap_or(longest);
        if !(Duration::from_secs(1)..=longest).contains(&max_duration) {
            return Err(CreateError::BadDuration { max: longest });
        }
        if create.record && !template.recording && !config.recordings.on_request {
            return Err(CreateError::NotRecorded);
        }
        self.check_engine()?;
        Ok(Plan {
            template_name: name.clone(),
            template: template.clone(),
            max_duration,
            create,
        })
    }

    fn check_engine(&self) -> Result<(), CreateError> {
        match self.sandboxes.engine() {
            EngineState::Down { reason } | EngineState::Unsafe { reason } => {
                Err(CreateError::Unavailable(reason))
            }
            EngineState::Starting | EngineState::Ready => Ok(()),
        }
    }

    /// What the session is to have: a sandbox that was started ahead, if nothing is asked for but the
    /// template, or a place for one of its own.
    fn room(&self, plan: &Plan) -> Result<Room, AtCapacity> {
        let template_only = plan.create.env.is_empty() && plan.create.init.is_empty();
        let claim = || self.sandboxes.claim(&plan.template_name, &plan.template);
        match template_only.then(claim).flatten() {
            Some(warm) => Ok(Room::Warm(warm)),
            None => Ok(Room::Cold(self.sandboxes.reserve()?)),
        }
    }

    /// Begin what was planned. Its clocks run from now on.
    fn begin(&self, plan: Plan, permit: Permit, room: Room) -> (Arc<Session>, Token) {
        // From a pool that gateways share, the session's task claims.
        if !self.sandboxes.shares_pool() {
            self.metrics.claimed(matches!(room, Room::Warm(_)));
        }
        let Plan {
            create,
            template_name,
            template,
            max_duration,
        } = plan;
        let limits = &self.config.get().limits;
        let token = Token::random();
        let now = SystemTime::now();
        let identity = Identity {
            id: SessionId::random(),
            template: template_name.clone(),
            client: create.client,
            created_at: now,
            expires_at: now + max_duration,
            idle_timeout: template.idle_timeout.unwrap_or(limits.idle_timeout),
            origin: create.origin,
            subject: create.subject,
            metadata: create.metadata,
            token: token.hash(),
        };
        let recorded = if create.record || template.recording {
            Recorded::Running
        } else {
            Recorded::No
        };
        let shares = Shares::new(Vec::new(), self.metrics.clone());
        let (session, handle) = Session::new(identity, create.size, recorded, shares);
        let deadline = max_duration + AGENT_SLACK;
        let (size, trace) = (Some(create.size), create.trace);
        let origin = match room {
            Room::Warm(warm) => Origin::Pool { warm, deadline },
            Room::Cold(slot) => {
                let spec = SandboxSpec {
                    id: slot.id().clone(),
                    template_name,
                    template,
                    env: create.env,
                    session: session.id.to_string(),
                    owner: create.client.to_string(),
                    expires_at: session.expires_at,
                    deadline,
                    unlinked: UNLINKED,
                };
                let main = MainTerminal {
                    size: create.size,
                    init: create.init,
                };
                let spec = Box::new(spec);
                Origin::Engine { slot, spec, main }
            }
        };
        self.run(&session, handle, permit, size, origin, trace);
        (session, token)
    }

    /// Take back what earlier gateways left. What cannot be is removed.
    pub fn adopt(&self, kept: Vec<(Slot, String)>) {
        for (slot, note) in kept {
            if let Some(note) = self.read(slot.id(), &note) {
                self.take_back(slot, note);
            }
        }
    }

    fn read(&self, sandbox: &SandboxId, note: &str) -> Option<Note> {
        let note = Note::read(note, SystemTime::now());
        note.inspect_err(|error| {
            tracing::warn!(%sandbox, %error, "not taken back");
            self.metrics.adopted("refused");
        })
        .ok()
    }

    fn take_back(&self, slot: Slot, note: Note) -> Arc<Session> {
        let ago = note.identity.created_at.elapsed().unwrap_or_default();
        let permit = self
            .limiter
            .readmit(note.identity.client, ago, Instant::now());
        let recorded = if note.recorded {
            Recorded::Running
        } else {
            Recorded::No
        };
        let shares = Shares::new(note.shares, self.metrics.clone());
        let (session, handle) = Session::new(note.identity, note.size, recorded, shares);
        let origin = Origin::Earlier {
            slot,
            terminal: note.terminal,
        };
        self.run(&session, handle, permit, None, origin, None);
        session
    }

    /// A session that is another gateway's, or was a dead one's.
    pub async fn elsewhere(&self, id: &str) -> Option<Elsewhere> {
        if self.leave.borrow().is_some() {
            return None;
        }
        let (sandbox, note) = self.sandboxes.find(id).await?;
        let note = self.read(&sandbox, &note)?;
        (note.identity.id.as_str() == id).then_some(Elsewhere { sandbox, note })
    }

    /// Take a session over from another gateway, which lets it go. Its token must have been presented.
    pub fn take_over(&self, elsewhere: Elsewhere) -> Arc<Session> {
        // Nothing that could panic or wait happens under the lock.
        let _once = self
            .taking_over
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Elsewhere { sandbox, note } = elsewhere;
        self.find(note.identity.id.as_str())
            .unwrap_or_else(|| self.take_back(self.sandboxes.adopt(sandbox), note))
    }

    /// Hand a session to its task.
    fn run(
        &self,
        session: &Arc<Session>,
        handle: Handle,
        permit: Permit,
        size: Option<Size>,
        mut origin: Origin,
        trace: Option<TraceParent>,
    ) {
        self.store.insert(session.id.as_str(), session.clone());
        let span = tracing::info_span!(
            "session",
            session = %session.id,
            sandbox = %origin.sandbox(),
            client = %session.client,
            template = session.template,
            reason = Empty,
            otel.kind = "server",
        );
        if let Some(trace) = trace {
            trace.adopt(&span);
        }
        origin.belongs_to(span.clone());
        let limits = &self.config.get().limits;
        let lease = Lease {
            session: session.clone(),
            sandboxes: self.sandboxes.clone(),
            metrics: self.metrics.clone(),
            archive: self.archive.clone(),
            tasks: self.tasks.clone(),
            deadlines: Deadlines::new(
                session.idle_timeout,
                session.remaining(),
                limits.detach_timeout,
                Instant::now(),
            ),
            hold: HOLD.min(limits.detach_timeout),
            permit,
            size,
            kept: false,
            state: handle.state,
            commands: handle.commands,
            leave: self.leave.subscribe(),
        };
        self.tasks.spawn(lease.run(origin).instrument(span));
    }

    /// A session that lives or ended a short while ago. One that another gateway has taken over is not
    /// this one's to speak of.
    pub fn find(&self, id: &str) -> Option<Arc<Session>> {
        let found = self.store.find(id)?;
        let over = found.ending().map(|ending| ending.reason);
        (over != Some(EndReason::TakenOver)).then_some(found)
    }

    /// All that live, and those that ended a short while ago.
    pub fn all(&self) -> Vec<Arc<Session>> {
        self.store.all()
    }

    /// The recordings.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Forget what ended long ago. Call now and then.
    pub fn prune(&self) {
        self.store.prune(Instant::now());
        let archive = self.archive.clone();
        self.tasks
            .spawn_blocking(move || archive.prune(SystemTime::now()));
    }
}
