//! The task of one held sandbox: it owns the sandbox, the place and the clock, and everything here
//! ends with it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use belljar_link::client::Link;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::held::Command;
use super::{AGENT_SLACK, ActError, Held, Note, Owner, Reason, State, Status};
use crate::config::{LauncherKind, Live};
use crate::limit::Permit;
use crate::sandbox::{
    Death, LaunchError, Leave, Sandbox, SandboxId, SandboxSpec, Sandboxes, Slot, UNLINKED, Warm,
    leaving, silent,
};
use crate::telemetry::Metrics;

/// Whoever has ordered it waits for its first start; its time begins then.
pub(super) type First = (Duration, oneshot::Sender<Result<(), LaunchError>>);

/// Where a sandbox comes from.
pub(super) enum Origin {
    /// The engine has yet to start it.
    Engine(Slot),
    /// It was started ahead.
    Pool(Warm),
    /// An earlier gateway left it.
    Earlier(Slot),
    /// An earlier gateway left its note, and nothing runs.
    Stopped,
}

impl Origin {
    fn name(&self) -> &'static str {
        match self {
            Self::Engine(_) => "engine",
            Self::Pool(_) => "pool",
            Self::Earlier(_) => "earlier gateway",
            Self::Stopped => "note",
        }
    }
}

/// What the task does next.
enum Next {
    Start(Origin, Option<oneshot::Sender<Result<(), ActError>>>),
    /// Watch over a sandbox that runs.
    Live(Sandbox),
    /// Wait, with nothing but the record.
    Rest(State),
    End(Reason),
}

/// What the task owns.
pub(super) struct Lease {
    pub(super) held: Arc<Held>,
    pub(super) sandboxes: Arc<Sandboxes>,
    pub(super) config: Arc<Live>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) permit: Permit<Owner>,
    pub(super) first: Option<First>,
    /// Whether the next gateway could take the sandbox back.
    pub(super) kept: bool,
    pub(super) status: watch::Sender<Status>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) leave: watch::Receiver<Option<Leave>>,
}

impl Lease {
    /// Live, and then let everything go.
    pub(super) async fn run(mut self, origin: Origin) {
        let (held, owner, from) = (self.held.id.clone(), &self.held.owner, origin.name());
        tracing::info!(%held, %owner, template = self.held.template(), from, "a sandbox is held");
        self.metrics.fleet_state(None, Some("starting"));
        let mut next = Next::Start(origin, None);
        let reason = loop {
            next = match next {
                Next::Start(origin, reply) => {
                    let next = self.start(origin).await;
                    if let Some(reply) = reply {
                        let started = matches!(next, Next::Live(_));
                        let _ = reply.send(started.then_some(()).ok_or(ActError::StartFailed));
                    }
                    next
                }
                Next::Live(sandbox) => self.live(sandbox).await,
                Next::Rest(state) => self.rest(state).await,
                Next::End(reason) => break reason,
            };
        };
        // The sandbox is dropped by now, so its removal is under way; the permit goes before anyone
        // learns of the end and comes back for another.
        drop(self.permit);
        let before = self.status.borrow().state.name();
        self.metrics.fleet_state(Some(before), None);
        self.metrics.fleet_ended(reason.name());
        self.status.send_modify(|status| {
            status.state = State::Ended(reason);
            status.ended_at = Some(SystemTime::now());
            status.link = None;
        });
        tracing::info!(%held, reason = reason.name(), "a held sandbox has ended");
    }

    /// Come by the sandbox. Not cancelled from outside, so that nothing is left half made; every step
    /// has a deadline.
    async fn start(&mut self, origin: Origin) -> Next {
        let (held, from) = (&self.held.id, origin.name());
        let earlier = match &origin {
            Origin::Stopped => return Next::Rest(State::Stopped),
            Origin::Earlier(_) => true,
            Origin::Engine(_) | Origin::Pool(_) => false,
        };
        match self.sandbox(origin).await {
            Ok(sandbox) => {
                tracing::info!(%held, sandbox = %sandbox.id(), from, "a held sandbox runs");
                if earlier {
                    self.metrics.adopted("linked");
                }
                let told = self.first.take().map(|(ttl, tell)| {
                    self.set_end(SystemTime::now() + ttl);
                    tell
                });
                // Before anyone is told of it: what can be come back to is kept.
                self.keep(&sandbox).await;
                self.set(State::Running, Some(&sandbox));
                if let Some(tell) = told
                    && tell.send(Ok(())).is_err()
                {
                    return Next::End(Reason::Killed);
                }
                Next::Live(sandbox)
            }
            Err(error) if earlier => {
                tracing::warn!(%held, %error, "the sandbox of an earlier gateway could not be taken back");
                self.metrics.adopted("lost");
                Next::Rest(State::Error(Reason::SandboxLost))
            }
            Err(error) => {
                if matches!(error, LaunchError::NoImage(_)) {
                    tracing::info!(%held, %error, "a sandbox was not started");
                } else {
                    let remedy = error.remedy();
                    tracing::error!(%held, %error, remedy, "a held sandbox could not be started");
                }
                match self.first.take() {
                    Some((_, tell)) => {
                        self.permit.forgive();
                        let _ = tell.send(Err(error));
                        Next::End(Reason::StartFailed)
                    }
                    None => Next::Rest(State::Error(Reason::StartFailed)),
                }
            }
        }
    }

    /// One of a pool that gateways have together, if nothing is asked for but the template.
    async fn claim(&self, slot: Slot, spec: &SandboxSpec) -> Result<Warm, Slot> {
        if !self.sandboxes.shares_pool() {
            return Err(slot);
        }
        let claimed = if self.held.recipe.is_template_only() {
            self.sandboxes.claim_shared(slot, spec).await
        } else {
            Err(slot)
        };
        if self.first.is_some() {
            self.metrics.fleet_started(claimed.is_ok());
        }
        claimed
    }

    /// What was started ahead is the program's now.
    async fn take(&self, warm: Warm, deadline: Duration) -> Result<Sandbox, LaunchError> {
        let link = &warm.sandbox.link;
        link.set_deadline(deadline).await?;
        // Nobody will type into it, and its memory and its places are the program's. One that
        // has ended already is as good.
        let _ = link.close_terminal(warm.terminal).await;
        self.make_cwd(link).await;
        Ok(warm.sandbox)
    }

    async fn sandbox(&self, origin: Origin) -> Result<Sandbox, LaunchError> {
        let left = match &self.first {
            Some((ttl, _)) => *ttl,
            None => self.left(),
        };
        let deadline = left + AGENT_SLACK;
        match origin {
            Origin::Engine(slot) => {
                let config = self.config.get();
                let template = self.held.recipe.template(&config);
                let spec = SandboxSpec {
                    id: slot.id().clone(),
                    template_name: self.held.template().to_owned(),
                    // It may have gone by a reload.
                    template: template.map_err(|bad| LaunchError::NotReady(bad.to_string()))?,
                    env: self.held.env().clone(),
                    session: self.held.id.to_string(),
                    owner: self.held.owner.to_string(),
                    expires_at: SystemTime::now() + left,
                    deadline,
                    unlinked: UNLINKED,
                };
                let slot = match self.claim(slot, &spec).await {
                    Ok(warm) => return self.take(warm, deadline).await,
                    Err(slot) => slot,
                };
                let sandbox = self.sandboxes.start(slot, &spec).await?;
                // The start has used up some of it.
                sandbox.link.set_deadline(deadline).await?;
                self.make_cwd(&sandbox.link).await;
                Ok(sandbox)
            }
            Origin::Pool(warm) => self.take(warm, deadline).await,
            Origin::Earlier(slot) => self.sandboxes.relink(slot).await,
            Origin::Stopped => Err(LaunchError::NotReady("it is stopped".into())),
        }
    }

    /// Whoever asks for a working directory finds it: one below the home, or in `/tmp`, is not there
    /// yet. Without it the sandbox can still be used, and its commands say what they miss. Plain
    /// processes work in the machine's own directories, where nothing is made.
    async fn make_cwd(&self, link: &Link) {
        let (cwd, config) = (&self.held.cwd, self.config.get());
        let template = self.held.recipe.template(&config);
        let is_home = template.is_ok_and(|template| template.home == *cwd);
        if is_home || config.launcher == LauncherKind::Process {
            return;
        }
        if let Err(error) = link.make_dir(cwd, true, None).await {
            tracing::warn!(held = %self.held.id, %error, "its working directory could not be made");
        }
    }

    /// Time left until it ends.
    fn left(&self) -> Duration {
        let expires_at = self.status.borrow().expires_at;
        expires_at
            .duration_since(SystemTime::now())
            .unwrap_or_default()
    }

    fn set_end(&self, expires_at: SystemTime) {
        self.status
            .send_modify(|status| status.expires_at = expires_at);
    }

    fn set(&self, to: State, sandbox: Option<&Sandbox>) {
        let from = self.status.borrow().state;
        self.metrics.fleet_state(Some(from.name()), Some(to.name()));
        self.status.send_modify(|status| {
            status.state = to;
            status.link = sandbox.map(|sandbox| sandbox.link.clone());
        });
    }

    /// Write down what the next gateway must know.
    async fn keep(&mut self, sandbox: &Sandbox) {
        let note = Note::of(&self.held, false).write();
        self.kept = self
            .sandboxes
            .keep(sandbox.id(), self.held.id.as_str(), &note)
            .await;
    }

    async fn live(&mut self, sandbox: Sandbox) -> Next {
        let (metrics, link) = (self.metrics.clone(), sandbox.link.clone());
        let silent = silent(&link, &metrics);
        tokio::pin!(silent);
        loop {
            let end = Instant::now() + self.left();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::SetTimeout(ttl, reply)) => {
                        self.set_end(SystemTime::now() + ttl);
                        if let Err(error) = link.set_deadline(ttl + AGENT_SLACK).await {
                            // Its end is near, then: the agent keeps the one it knows.
                            tracing::warn!(held = %self.held.id, %error, "the agent was not told of its new end");
                        }
                        self.keep(&sandbox).await;
                        let _ = reply.send(());
                    }
                    Some(Command::Stop(reply)) => {
                        self.set(State::Stopped, None);
                        drop(sandbox);
                        let _ = reply.send(());
                        return Next::Rest(State::Stopped);
                    }
                    Some(Command::Restart(reply)) => {
                        self.set(State::Starting, None);
                        return Next::Start(Origin::Engine(sandbox.replace()), Some(reply));
                    }
                    Some(Command::Kill) | None => return Next::End(Reason::Killed),
                },
                () = link.closed() => {
                    self.metrics.link_lost("closed");
                    return Next::Rest(State::Error(self.post_mortem(sandbox.id()).await));
                }
                () = &mut silent => {
                    self.metrics.link_lost("silent");
                    tracing::warn!(
                        held = %self.held.id, sandbox = %sandbox.id(),
                        "the agent does not answer any more: stopped by a program, or gVisor has locked itself up"
                    );
                    return Next::Rest(State::Error(Reason::SandboxLost));
                }
                how = leaving(&mut self.leave) => {
                    if how == Leave::HandOver && self.kept {
                        sandbox.hand_over();
                        return Next::End(Reason::HandedOver);
                    }
                    return Next::End(Reason::Shutdown);
                }
                () = sleep_until(end) => return Next::End(Reason::Timeout),
            }
        }
    }

    async fn post_mortem(&self, sandbox: &SandboxId) -> Reason {
        match self.sandboxes.post_mortem(sandbox).await {
            Death::OutOfMemory => Reason::OutOfMemory,
            Death::Unknown => Reason::SandboxLost,
        }
    }

    async fn rest(&mut self, state: State) -> Next {
        if self.status.borrow().state != state {
            self.set(state, None);
        }
        loop {
            let end = Instant::now() + self.left();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::SetTimeout(ttl, reply)) => {
                        self.set_end(SystemTime::now() + ttl);
                        let _ = reply.send(());
                    }
                    Some(Command::Stop(reply)) => {
                        let _ = reply.send(());
                    }
                    Some(Command::Restart(reply)) => match self.sandboxes.reserve() {
                        Ok(slot) => {
                            self.set(State::Starting, None);
                            return Next::Start(Origin::Engine(slot), Some(reply));
                        }
                        Err(full) => {
                            let _ = reply.send(Err(full.into()));
                        }
                    },
                    Some(Command::Kill) | None => return Next::End(Reason::Killed),
                },
                how = leaving(&mut self.leave) => {
                    // Under an id of its own, which no sandbox has: the next gateway takes the note
                    // and nothing else.
                    let note = Note::of(&self.held, true).write();
                    return match how {
                        Leave::HandOver if self.sandboxes.keep(&SandboxId::random(), self.held.id.as_str(), &note).await => {
                            Next::End(Reason::HandedOver)
                        }
                        _ => Next::End(Reason::Shutdown),
                    };
                }
                () = sleep_until(end) => return Next::End(Reason::Timeout),
            }
        }
    }
}
