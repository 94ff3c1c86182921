//! Removes sandboxes that nobody wants any more: those given up, and orphans of a dead gateway.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use super::engine::EngineState;
use super::registry::Registry;
use super::{LaunchError, Launcher, SandboxId};
use crate::telemetry::{Metrics, note_error};

/// Removals at once. One takes half a second: the agent's tenth, and what the engine needs; more at once only
/// slows its starts.
const PARALLEL: usize = 8;

/// How long one removal may take.
const REMOVE_DEADLINE: Duration = Duration::from_secs(10);

/// How often the engine's list is compared with ours. Finds what a start that timed out left
/// behind.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How long the last removals may take at shutdown. What is left ends by its agent's deadline and
/// is swept at the next start.
const FAREWELL: Duration = Duration::from_secs(10);

/// Remove until `stop`, then remove what is left, bounded.
pub(super) async fn run(
    launcher: Arc<dyn Launcher>,
    registry: Arc<Registry>,
    mut engine: watch::Receiver<EngineState>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let reaper = Reaper {
        launcher,
        registry,
        metrics,
    };
    // The first sweep waits until the engine answers, or it would find nothing.
    let ready = engine.wait_for(|state| *state == EngineState::Ready);
    tokio::select! {
        ready = ready => drop(ready),
        () = stop.cancelled() => {}
    }
    let work = reaper.work();
    tokio::pin!(work);
    tokio::select! {
        () = &mut work => {}
        () = stop.cancelled() => {
            let emptied = async {
                while reaper.registry.count() > 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::select! {
                () = &mut work => {}
                left = timeout(FAREWELL, emptied) => if left.is_err() {
                    let sandboxes = reaper.registry.count();
                    tracing::warn!(sandboxes, "sandboxes left at shutdown; their agents end them in time");
                },
            }
        }
    }
}

struct Reaper {
    launcher: Arc<dyn Launcher>,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
}

impl Reaper {
    async fn work(&self) {
        let mut removals: JoinSet<(SandboxId, Result<(), LaunchError>)> = JoinSet::new();
        let mut sweep = interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let room = PARALLEL - removals.len();
            for (id, session) in self.registry.take_due(room, Instant::now()) {
                let launcher = self.launcher.clone();
                let span = info_span!(parent: &session, "removal", sandbox = %id);
                let removal = async move {
                    let removed = timeout(REMOVE_DEADLINE, launcher.remove(&id))
                        .await
                        .unwrap_or(Err(LaunchError::Deadline("removing a sandbox")))
                        .inspect_err(note_error);
                    (id, removed)
                };
                removals.spawn(removal.instrument(span));
            }
            let full = removals.len() >= PARALLEL;
            let next = self.registry.next_due().filter(|_| !full);
            tokio::select! {
                Some(Ok((id, removed))) = removals.join_next() => self.ended(&id, &removed),
                () = self.registry.doomed.notified() => {}
                () = async {
                    match next {
                        Some(at) => sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                } => {}
                _ = sweep.tick() => self.sweep().await,
            }
        }
    }

    fn ended(&self, id: &SandboxId, removed: &Result<(), LaunchError>) {
        if let Err(error) = removed {
            self.metrics.engine_error("remove");
            tracing::warn!(sandbox = %id, %error, "a removal failed and will be tried again");
        } else {
            tracing::debug!(sandbox = %id, "removed");
        }
        self.registry
            .removal_ended(id, removed.is_ok(), Instant::now());
    }

    /// Doom what the engine has and we do not know.
    async fn sweep(&self) {
        let listed = timeout(REMOVE_DEADLINE, self.launcher.list())
            .await
            .unwrap_or(Err(LaunchError::Deadline("listing sandboxes")));
        match listed {
            Ok(found) => {
                let orphans = found.into_iter().filter(|id| !self.registry.contains(id));
                for id in orphans {
                    tracing::info!(sandbox = %id, "removing an orphan");
                    self.registry.doom_orphan(id);
                }
            }
            Err(error) => {
                self.metrics.engine_error("list");
                tracing::warn!(%error, "the engine's sandboxes could not be listed");
            }
        }
    }
}
