//! All sessions of a gateway: how each begins, is found, and comes from and goes to others.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use belljar_link::message::Size;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use tracing::field::Empty;

use super::create::{Create, CreateError, Plan};
use super::deadline::Deadlines;
use super::lease::{Lease, Origin};
use super::note::Note;
use super::recording::{Archive, Recorded};
use super::share::Shares;
use super::state::EndReason;
use super::waiting::{Entry, Waiting};
use super::{Handle, Identity, Session, SessionId};
use crate::config::Live;
use crate::limit::{self, Client, Limiter, Permit};
use crate::sandbox::{
    AtCapacity, EngineState, LaunchError, Leave, MainTerminal, SandboxId, SandboxSpec, Sandboxes,
    Slot, UNLINKED, Warm,
};
use crate::secret::Token;
use crate::store::Store;
use crate::telemetry::{Metrics, TraceParent};

/// After a viewer is lost, how long its program is held at the window, so that a viewer who comes
/// back soon has missed nothing. Longer, and a build would stand still because its visitor's train
/// is in a tunnel; after it the program runs on and the oldest output may be lost (a `gap`).
const HOLD: Duration = Duration::from_secs(15);

/// The agent's own deadline lies this much after the gateway's, which is the one that warns.
const AGENT_SLACK: Duration = Duration::from_secs(30);

/// Ended sessions remembered at once, about 1 KiB each.
const MAX_ENDED: usize = 4096;

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
pub(super) enum Room {
    /// A sandbox that was started ahead.
    Warm(Warm),
    /// Room for one.
    Cold(Slot),
}

/// All sessions of a gateway.
#[derive(Debug)]
pub struct Sessions {
    pub(super) config: Arc<Live>,
    sandboxes: Arc<Sandboxes>,
    limiter: Arc<Limiter>,
    pub(super) metrics: Arc<Metrics>,
    store: Store<Session>,
    archive: Arc<Archive>,
    tasks: TaskTracker,
    pub(super) leave: watch::Sender<Option<Leave>>,
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

    pub(super) fn check_engine(&self) -> Result<(), CreateError> {
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
    pub(super) fn begin(&self, plan: Plan, permit: Permit, room: Room) -> (Arc<Session>, Token) {
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

    /// A session that is another gateway's, or was a dead one's. An error says that it is not known whether
    /// there is one.
    pub async fn elsewhere(&self, id: &str) -> Result<Option<Elsewhere>, LaunchError> {
        if self.leave.borrow().is_some() {
            return Ok(None);
        }
        let found = self.sandboxes.find(id).await.inspect_err(|error| {
            let remedy = error.remedy();
            tracing::warn!(session = id, %error, remedy, "a session of another gateway cannot be read");
        });
        let elsewhere = |(sandbox, note): (SandboxId, String)| {
            let note = self.read(&sandbox, &note)?;
            (note.identity.id.as_str() == id).then_some(Elsewhere { sandbox, note })
        };
        Ok(found?.and_then(elsewhere))
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
