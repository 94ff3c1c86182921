//! The task of one session: it owns the sandbox, the permit and the timers, and everything here ends
//! with it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use belljar_link::client::LinkError;
use belljar_link::message::{Attach, Size, TerminalCommand};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};

use super::deadline::{Deadlines, Due};
use super::note::Note;
use super::recording::{Archive, Recorded, Recorder};
use super::state::{EndReason, Ending, Notice, State};
use super::viewer::{AttachRequest, Place, Presence, Viewer};
use super::{Command, Session};
use crate::limit::Permit;
use crate::sandbox::{
    Death, LaunchError, Leave, MainTerminal, Mended, Sandbox, SandboxId, SandboxSpec, Sandboxes,
    Slot, Warm, leaving, silent,
};
use crate::telemetry::{Metrics, note_error};

/// How long an agent may take to read a viewer's size. One that its visitor has stopped reads
/// nothing, and must not hold up the session's clocks.
const RESIZE_DEADLINE: Duration = Duration::from_secs(10);

/// Notices that may wait for a viewer. A session sends a handful in its life.
const NOTICES: usize = 8;

/// The viewer at hand, as the session's task sees it.
struct Current {
    notices: mpsc::Sender<Notice>,
    gone: oneshot::Receiver<()>,
}

/// Where a session's sandbox comes from.
pub(super) enum Origin {
    /// The engine has yet to start it.
    Engine {
        slot: Slot,
        spec: Box<SandboxSpec>,
        main: MainTerminal,
    },
    /// It was started ahead. The agent's own deadline begins now.
    Pool { warm: Warm, deadline: Duration },
    /// An earlier gateway left it.
    Earlier { slot: Slot, terminal: u32 },
}

impl Origin {
    fn name(&self) -> &'static str {
        match self {
            Self::Engine { .. } => "engine",
            Self::Pool { .. } => "pool",
            Self::Earlier { .. } => "earlier gateway",
        }
    }

    /// The removal is a part of the session's span, unless the next gateway sees to it.
    pub(super) fn belongs_to(&mut self, session: Span) {
        match self {
            Self::Engine { slot, .. } | Self::Earlier { slot, .. } => slot.belongs_to(session),
            Self::Pool { warm, .. } => warm.sandbox.belongs_to(session),
        }
    }

    pub(super) fn sandbox(&self) -> &SandboxId {
        match self {
            Self::Engine { slot, .. } | Self::Earlier { slot, .. } => slot.id(),
            Self::Pool { warm, .. } => warm.sandbox.id(),
        }
    }
}

/// What the task owns.
pub(super) struct Lease {
    pub(super) session: Arc<Session>,
    pub(super) sandboxes: Arc<Sandboxes>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) archive: Arc<Archive>,
    pub(super) tasks: TaskTracker,
    pub(super) deadlines: Deadlines,
    pub(super) hold: Duration,
    pub(super) permit: Permit,
    /// For a first viewer who has no size.
    pub(super) size: Option<Size>,
    /// Whether the next gateway could take the session back.
    pub(super) kept: bool,
    pub(super) state: watch::Sender<State>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) leave: watch::Receiver<Option<Leave>>,
}

impl Lease {
    /// Live, and then let everything go.
    pub(super) async fn run(mut self, origin: Origin) {
        let (id, client) = (self.session.id.clone(), self.session.client);
        let template = self.session.template.clone();
        let (sandbox_id, from) = (origin.sandbox().clone(), origin.name());
        tracing::info!(session = %id, %client, sandbox = %sandbox_id, template, from, "session begins");
        self.metrics.session_state(None, Some("starting"));
        let starting = tracing::info_span!("start");
        // On the heap while it lasts: a session is as large as the largest of what it waits for, for as
        // long as it lives.
        let begun = Box::pin(self.begin(origin)).instrument(starting).await;
        let ending = match begun {
            Ok((mut sandbox, terminal)) => {
                let recorder = self.record(&sandbox, terminal);
                let ending = self.live(&mut sandbox, terminal).await;
                if ending.reason == EndReason::TakenOver {
                    drop(recorder);
                    sandbox.let_go();
                } else if ending.reason == EndReason::HandedOver {
                    // The next gateway goes on with the recording, too.
                    drop(recorder);
                    sandbox.hand_over();
                } else if let Some(recorder) = recorder {
                    recorder.finish(ending.exit.is_some()).await;
                }
                ending
            }
            Err(ending) => ending,
        };
        // The sandbox is dropped by now, so its removal is under way; the permit goes before
        // anyone learns of the end and comes back for another.
        drop(self.permit);
        let reason = ending.reason.name();
        let before = self.state.borrow().name();
        self.metrics.session_state(Some(before), None);
        let lasted = self.session.created_at.elapsed().unwrap_or_default();
        self.metrics.session_ended(reason, lasted);
        Span::current().record("reason", reason);
        let _ = self.session.ended_at.set(SystemTime::now());
        self.state.send_replace(State::Ended(ending));
        tracing::info!(session = %id, %client, sandbox = %sandbox_id, reason, "session ended");
    }

    /// Come by the sandbox and the visitor's shell. Not cancelled from outside, so that nothing is
    /// left half made; every step has a deadline.
    async fn begin(&mut self, origin: Origin) -> Result<(Sandbox, u32), Ending> {
        let (id, sandbox_id) = (self.session.id.clone(), origin.sandbox().clone());
        let earlier = matches!(origin, Origin::Earlier { .. });
        match self.sandbox(origin).await.inspect_err(note_error) {
            Ok((sandbox, terminal)) => {
                if !earlier && !self.may_stay(&sandbox).await? {
                    self.permit.forgive();
                    return Err(EndReason::TooMany.into());
                }
                if earlier {
                    self.metrics.adopted("linked");
                    self.kept = true;
                    if self.sandboxes.shared() {
                        // From now on it is known as this gateway's.
                        self.keep(&sandbox, terminal).await;
                    }
                } else {
                    // Before anyone is given the token: what a visitor can come back to is kept.
                    self.keep(&sandbox, terminal).await;
                }
                Ok((sandbox, terminal))
            }
            Err(error) if earlier => {
                tracing::warn!(
                    session = %id, sandbox = %sandbox_id, %error,
                    "the sandbox of an earlier gateway could not be taken back"
                );
                self.metrics.adopted("lost");
                Err(EndReason::SandboxLost.into())
            }
            Err(error) => {
                tracing::error!(
                    session = %id, sandbox = %sandbox_id, %error, remedy = error.remedy(),
                    "the sandbox could not be started"
                );
                self.permit.forgive();
                Err(EndReason::StartFailed.into())
            }
        }
    }

    /// Whether the visitor has no more than may be, at all gateways together.
    async fn may_stay(&self, sandbox: &Sandbox) -> Result<bool, Ending> {
        let owner = self.session.client.to_string();
        let stays = self.sandboxes.may_stay(sandbox.id(), &owner).await;
        stays.map_err(|error| {
            tracing::error!(
                session = %self.session.id, sandbox = %sandbox.id(), %error, remedy = error.remedy(),
                "the sessions of a visitor could not be counted"
            );
            self.permit.forgive();
            EndReason::StartFailed.into()
        })
    }

    /// Write down what the next gateway must know.
    async fn keep(&mut self, sandbox: &Sandbox, terminal: u32) {
        let note = Note::of(&self.session, terminal).write();
        let (id, session) = (sandbox.id(), self.session.id.as_str());
        self.kept = self.sandboxes.keep(id, session, &note).await;
    }

    /// The sandbox, and its main terminal.
    async fn sandbox(&self, origin: Origin) -> Result<(Sandbox, u32), LaunchError> {
        match origin {
            Origin::Engine { slot, spec, main } => {
                let slot = match self.claim(slot, &spec, &main).await {
                    Ok(warm) => return Ok((warm.sandbox, warm.terminal)),
                    Err(slot) => slot,
                };
                let sandbox = self.sandboxes.start(slot, &spec).await?;
                let terminal = sandbox.open_main(spec.template, spec.env, main).await?;
                Ok((sandbox, terminal))
            }
            Origin::Pool { warm, deadline } => {
                warm.sandbox.link.set_deadline(deadline).await?;
                Ok((warm.sandbox, warm.terminal))
            }
            Origin::Earlier { slot, terminal } => {
                let sandbox = self.sandboxes.relink(slot).await?;
                let mut terminals = sandbox.link.welcome().terminals.iter();
                if !terminals.any(|info| info.terminal == terminal) {
                    return Err(LaunchError::NoLink("another agent answered".into()));
                }
                Ok((sandbox, terminal))
            }
        }
    }

    /// One of a pool that gateways have together, if nothing is asked for but the template.
    async fn claim(
        &self,
        slot: Slot,
        spec: &SandboxSpec,
        main: &MainTerminal,
    ) -> Result<Warm, Slot> {
        if !self.sandboxes.shares_pool() {
            return Err(slot);
        }
        let claimed = if spec.env.is_empty() && main.init.is_empty() {
            self.sandboxes.claim_shared(slot, spec).await
        } else {
            Err(slot)
        };
        self.metrics.claimed(claimed.is_ok());
        claimed
    }

    /// Begin the recording, if there is to be one.
    fn record(&self, sandbox: &Sandbox, terminal: u32) -> Option<Recorder> {
        (*self.session.recorded().borrow() != Recorded::No).then(|| {
            Recorder::start(
                self.session.clone(),
                sandbox.link.terminal(terminal),
                self.archive.clone(),
                self.metrics.clone(),
                &self.tasks,
            )
        })
    }

    fn set_state(&self, to: State) {
        let from = self.state.borrow().name();
        self.metrics.session_state(Some(from), Some(to.name()));
        self.state.send_replace(to);
    }

    /// Live until the session ends, over one link after the other if need be.
    async fn live(&mut self, sandbox: &mut Sandbox, terminal: u32) -> Ending {
        self.set_state(State::Detached);
        // A slow start must not use up the time to come to it.
        self.deadlines.detached(Instant::now());
        let mut current: Option<Current> = None;
        loop {
            if let Some(ending) = self.linked(sandbox, terminal, &mut current).await {
                return ending;
            }
            if let Err(ending) = Box::pin(self.mend(sandbox)).await {
                return ending;
            }
        }
    }

    /// The link has ended. If the sandbox lives on without it, take up another.
    async fn mend(&mut self, sandbox: &mut Sandbox) -> Result<(), Ending> {
        self.metrics.link_lost("closed");
        if sandbox.link.taken_over().await {
            return Err(EndReason::TakenOver.into());
        }
        if self.sandboxes.post_mortem(sandbox.id()).await == Death::OutOfMemory {
            return Err(EndReason::OutOfMemory.into());
        }
        let sandboxes = self.sandboxes.clone();
        let mended = tokio::select! {
            mended = sandboxes.mend(sandbox) => mended,
            how = leaving(&mut self.leave) => return Err(self.left(how)),
        };
        match mended {
            Mended::Yes => {
                tracing::info!(session = %self.session.id, sandbox = %sandbox.id(), "the link was lost, and is back");
                Ok(())
            }
            Mended::No => Err(EndReason::SandboxLost.into()),
            Mended::Taken => Err(EndReason::TakenOver.into()),
        }
    }

    /// How the session ends when its gateway goes away.
    fn left(&self, how: Leave) -> Ending {
        match how {
            Leave::HandOver if self.kept => EndReason::HandedOver,
            _ => EndReason::Shutdown,
        }
        .into()
    }

    /// Live while the link does; `None` when it has ended.
    async fn linked(
        &mut self,
        sandbox: &Sandbox,
        terminal: u32,
        current: &mut Option<Current>,
    ) -> Option<Ending> {
        let metrics = self.metrics.clone();
        let silent = silent(&sandbox.link, &metrics);
        tokio::pin!(silent);
        loop {
            let wake = self.deadlines.next(self.session.activity.last());
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Attach(request, reply)) if !reply.is_closed() => {
                        let span = tracing::info_span!("attach");
                        match Box::pin(self.attach(sandbox, terminal, request)).instrument(span).await {
                            Ok((viewer, new)) => {
                                if let Some(old) = current.replace(new) {
                                    // A full queue means that it is not listening anyway.
                                    let _ = old.notices.try_send(Notice::TakenOver);
                                }
                                self.session.touch();
                                self.deadlines.attached();
                                self.set_state(State::Attached);
                                // A visitor who left meanwhile shows by `gone`.
                                let _ = reply.send(Ok(viewer));
                            }
                            Err(error) => {
                                let _ = reply.send(Err(error));
                            }
                        }
                    }
                    Some(Command::Attach(..)) => {}
                    Some(Command::Keep(reply)) => {
                        self.keep(sandbox, terminal).await;
                        let _ = reply.send(());
                    }
                    Some(Command::Handle(reply)) => {
                        let _ = reply.send(sandbox.link.terminal(terminal));
                    }
                    Some(Command::Exited(exit)) => {
                        return Some(Ending { reason: EndReason::Exited, exit: Some(exit) });
                    }
                    Some(Command::Link(reply)) => {
                        let _ = reply.send(sandbox.link.clone());
                    }
                    Some(Command::End(reason)) => return Some(reason.into()),
                    None => return Some(EndReason::Closed.into()),
                },
                () = gone(current) => {
                    *current = None;
                    self.deadlines.detached(Instant::now());
                    self.set_state(State::Detached);
                }
                () = sandbox.link.closed() => return None,
                () = &mut silent => {
                    self.metrics.link_lost("silent");
                    tracing::warn!(
                        session = %self.session.id, sandbox = %sandbox.id(),
                        "the agent does not answer any more: stopped by its visitor, or gVisor has locked itself up"
                    );
                    return Some(EndReason::SandboxLost.into());
                }
                how = leaving(&mut self.leave) => return Some(self.left(how)),
                () = sleep_until(wake) => {
                    let active = self.session.activity.last();
                    while let Some(due) = self.deadlines.due(active, Instant::now()) {
                        let notice = match due {
                            Due::WarnIdle(left) => Notice::Idle(left),
                            Due::WarnExpiry(left) => Notice::Expiry(left),
                            Due::End(reason) => return Some(reason.into()),
                        };
                        if let Some(viewer) = current.as_ref() {
                            let _ = viewer.notices.try_send(notice);
                        }
                    }
                }
            }
        }
    }

    async fn attach(
        &mut self,
        sandbox: &Sandbox,
        terminal: u32,
        request: AttachRequest,
    ) -> Result<(Viewer, Current), LinkError> {
        let link = &sandbox.link;
        let attach = Attach {
            terminal,
            from: request.from,
            window: Some(request.window),
            hold_ms: u64::try_from(self.hold.as_millis()).unwrap_or(u64::MAX),
        };
        let (attached, input) = tokio::join!(link.attach(attach), link.input(terminal));
        let (mut attached, output, mut control) = attached.inspect_err(note_error)?;
        if let Some(size) = request.size.or(self.size) {
            self.size = None;
            attached.size = size.clamped();
            let resize = control.send(TerminalCommand::Resize(attached.size));
            let resized = timeout(RESIZE_DEADLINE, resize).await;
            resized.map_err(|_| LinkError::Deadline)??;
        }
        self.session.resized(attached.size);
        let (notices, receiver) = mpsc::channel(NOTICES);
        let (alive, gone) = oneshot::channel();
        let viewer = Viewer {
            attached,
            window: request.window,
            output,
            control,
            input: Some(input?),
            notices: receiver,
            presence: Presence(Place::Owner { _alive: alive }),
        };
        Ok((viewer, Current { notices, gone }))
    }
}

/// Resolves when the viewer at hand is gone; never without one.
async fn gone(current: &mut Option<Current>) {
    match current {
        Some(viewer) => {
            let _ = (&mut viewer.gone).await;
        }
        None => std::future::pending().await,
    }
}
