//! The task of one session: it owns the sandbox, the permit and the timers, and everything here ends
//! with it.

use std::sync::Arc;
use std::time::Duration;

use belljar_link::client::{Link, LinkError};
use belljar_link::message::{Attach, OpenTerminal, Size, TerminalCommand};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::deadline::{Deadlines, Due};
use super::recording::{Archive, Recorded, Recorder};
use super::{
    AttachRequest, Command, EndReason, Ending, Notice, Place, Presence, Session, State, Viewer,
};
use crate::limit::Permit;
use crate::sandbox::{Death, LaunchError, Sandbox, SandboxSpec, Sandboxes, Slot};
use crate::telemetry::Metrics;

/// How long an agent may take to read a viewer's size. One that its visitor has stopped reads
/// nothing, and must not hold up the session's clocks.
const RESIZE_DEADLINE: Duration = Duration::from_secs(10);

/// How often an agent is asked whether it is there, and how many answers in a row it may owe, each
/// for the ten seconds of a call. gVisor can lock itself up, and a visitor can stop the agent: then
/// nothing breaks, and nothing moves any more.
const PULSE: (Duration, u32) = (Duration::from_secs(15), 2);

/// Notices that may wait for a viewer. A session sends a handful in its life.
const NOTICES: usize = 8;

/// The viewer at hand, as the session's task sees it.
struct Current {
    notices: mpsc::Sender<Notice>,
    gone: oneshot::Receiver<()>,
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
    pub(super) state: watch::Sender<State>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) stop: CancellationToken,
}

impl Lease {
    /// Live, and then let everything go.
    pub(super) async fn run(
        mut self,
        slot: Slot,
        spec: SandboxSpec,
        size: Size,
        init: Vec<String>,
    ) {
        let (id, client) = (self.session.id.clone(), self.session.client);
        let (sandbox_id, template) = (spec.id.clone(), spec.template_name.clone());
        tracing::info!(session = %id, %client, sandbox = %sandbox_id, template, "session begins");
        self.metrics.session_state(None, Some("starting"));
        let ending = match self.start(slot, spec, size, init).await {
            Ok((sandbox, terminal)) => {
                let recorder = self.record(&sandbox, terminal);
                let ending = self.live(&sandbox, terminal).await;
                if let Some(recorder) = recorder {
                    recorder.finish(ending.exit.is_some()).await;
                }
                ending
            }
            Err(error) => {
                tracing::error!(
                    session = %id, sandbox = %sandbox_id, %error, remedy = error.remedy(),
                    "the sandbox could not be started"
                );
                self.permit.forgive();
                EndReason::StartFailed.into()
            }
        };
        // The sandbox is dropped by now, so its removal is under way; the permit goes before
        // anyone learns of the end and comes back for another.
        drop(self.permit);
        let reason = ending.reason.name();
        let before = self.state.borrow().name();
        self.metrics.session_state(Some(before), None);
        self.metrics.session_ended(reason);
        self.state.send_replace(State::Ended(ending));
        tracing::info!(session = %id, %client, sandbox = %sandbox_id, reason, "session ended");
    }

    /// Start the sandbox and the visitor's shell. Not cancelled from outside, so that nothing is
    /// left half made; every step has a deadline.
    async fn start(
        &self,
        slot: Slot,
        spec: SandboxSpec,
        size: Size,
        init: Vec<String>,
    ) -> Result<(Sandbox, u32), LaunchError> {
        let template = spec.template.clone();
        let env = spec.env.clone();
        let sandbox = self.sandboxes.start(slot, spec).await?;
        let init: Vec<String> = template.init.iter().cloned().chain(init).collect();
        let open = OpenTerminal {
            command: with_init(&template.command, &init),
            env: template.env.into_iter().chain(env).collect(),
            cwd: None,
            size,
        };
        let terminal = sandbox.link.open_terminal(open).await?;
        Ok((sandbox, terminal))
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

    async fn live(&mut self, sandbox: &Sandbox, terminal: u32) -> Ending {
        self.set_state(State::Detached);
        // A slow start must not use up the time to come to it.
        self.deadlines.detached(Instant::now());
        let mut current: Option<Current> = None;
        let silent = silent(&sandbox.link);
        tokio::pin!(silent);
        loop {
            let wake = self.deadlines.next(self.session.activity.last());
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Attach(request, reply)) if !reply.is_closed() => {
                        let attached = self.attach(sandbox, terminal, request).await;
                        match attached {
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
                    Some(Command::Handle(reply)) => {
                        let _ = reply.send(sandbox.link.terminal(terminal));
                    }
                    Some(Command::Exited(exit)) => {
                        return Ending { reason: EndReason::Exited, exit: Some(exit) };
                    }
                    Some(Command::Close) | None => return EndReason::Closed.into(),
                },
                () = gone(&mut current) => {
                    current = None;
                    self.deadlines.detached(Instant::now());
                    self.set_state(State::Detached);
                }
                () = sandbox.link.closed() => {
                    return match self.sandboxes.post_mortem(sandbox.id()).await {
                        Death::OutOfMemory => EndReason::OutOfMemory,
                        Death::Unknown => EndReason::SandboxLost,
                    }.into();
                }
                () = &mut silent => {
                    tracing::warn!(
                        session = %self.session.id, sandbox = %sandbox.id(),
                        "the agent does not answer any more: stopped by its visitor, or gVisor has locked itself up"
                    );
                    return EndReason::SandboxLost.into();
                }
                () = self.stop.cancelled() => return EndReason::Shutdown.into(),
                () = sleep_until(wake) => {
                    let active = self.session.activity.last();
                    while let Some(due) = self.deadlines.due(active, Instant::now()) {
                        let notice = match due {
                            Due::WarnIdle(left) => Notice::Idle(left),
                            Due::WarnExpiry(left) => Notice::Expiry(left),
                            Due::End(reason) => return reason.into(),
                        };
                        if let Some(viewer) = &current {
                            let _ = viewer.notices.try_send(notice);
                        }
                    }
                }
            }
        }
    }

    async fn attach(
        &self,
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
        let (mut attached, output, mut control) = attached?;
        if let Some(size) = request.size {
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

/// Resolves when the agent has not answered for too long. A link that ends is another matter.
async fn silent(link: &Link) {
    let mut missed = 0;
    while missed < PULSE.1 {
        sleep(PULSE.0).await;
        match link.ping().await {
            Err(LinkError::Deadline) => missed += 1,
            _ => missed = 0,
        }
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
