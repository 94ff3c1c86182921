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
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use belljar_link::client::{Link, LinkError, TerminalHandle};
use belljar_link::message::port::SandboxStats;
use belljar_link::message::{Exit, Size};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::limit::Client;
use crate::secret::{TokenHash, random_hex};
use crate::store::Ends;

mod state;

mod create;

mod viewer;

mod sessions;

mod lease;

mod deadline;

mod waiting;

mod note;

mod share;

mod recording;

pub use crate::sandbox::Leave;
pub use create::{Create, CreateError};
pub use recording::{Archive, Recorded};
pub use sessions::{Elsewhere, Sessions};
pub use share::{
    MAX_SHARES, MAX_VIEWERS, Mode, Seat, SeatError, ShareId, ShareRecord, Shares, TooManyShares,
};
pub use state::{EndReason, Ending, Notice, State};
pub use viewer::{AttachError, AttachRequest, Presence, Viewer};
pub use waiting::{Entry, Progress, Waiting};

use viewer::Place;

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
