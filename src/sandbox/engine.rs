//! Watches over the engine: does it answer, and are its sandboxes sealed?

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{LaunchError, Launcher, proof};
use crate::config::{Config, Live};
use crate::telemetry::Metrics;

/// How often the engine is asked. A visitor of a dead engine waits no longer than this plus the
/// deadline for a clear answer.
const EVERY: Duration = Duration::from_secs(3);

/// How long it may take to answer. It takes a millisecond, and more than a second only while it is
/// starting dozens of sandboxes.
const PING_DEADLINE: Duration = Duration::from_secs(5);

/// The engine's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineState {
    /// Not known yet.
    Starting,
    /// It answers, and its seal was proved.
    Ready,
    /// It does not answer, or a sandbox could not be started to prove the seal.
    Down {
        /// Cause, for an operator.
        reason: String,
    },
    /// It answers, and its sandboxes are not sealed. Nothing is started on it.
    Unsafe {
        /// What was found, for an operator.
        reason: String,
    },
}

/// Keep `state` true until `stop`.
pub(super) async fn watch_over(
    launcher: Arc<dyn Launcher>,
    config: Arc<Live>,
    metrics: Arc<Metrics>,
    state: watch::Sender<EngineState>,
    stop: CancellationToken,
) {
    let mut proved = !launcher.must_be_proved();
    loop {
        let ping = tokio::select! {
            ping = timeout(PING_DEADLINE, launcher.ping()) => ping,
            () = stop.cancelled() => return,
        };
        let ping = ping.unwrap_or(Err(LaunchError::Deadline("the engine's answer")));
        let now = match ping {
            Ok(()) if proved => EngineState::Ready,
            // Not cancelled by `stop`: it removes its own sandbox, and is bounded.
            Ok(()) => prove(&*launcher, &config.get()).await,
            Err(error) => EngineState::Down {
                reason: error.to_string(),
            },
        };
        match &now {
            EngineState::Ready => proved = true,
            // An engine that comes back may have been configured anew.
            EngineState::Down { .. } | EngineState::Unsafe { .. } => {
                proved = !launcher.must_be_proved();
                metrics.engine_error("ping");
            }
            EngineState::Starting => {}
        }
        state.send_if_modified(|before| {
            let changed = *before != now;
            if changed {
                report(&now);
                *before = now;
            }
            changed
        });
        tokio::select! {
            () = sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn prove(launcher: &dyn Launcher, config: &Config) -> EngineState {
    match proof::probe(launcher, config).await {
        Err(error) => EngineState::Down {
            reason: format!("no probe sandbox: {error}; {}", error.remedy()),
        },
        Ok(inspection) if config.requires_gvisor() && !proof::is_gvisor(&inspection) => {
            EngineState::Unsafe {
                reason: format!(
                    "the runtime {} does not run gVisor: the kernel log begins with {:?}",
                    config.runtime(),
                    inspection.kernel_log
                ),
            }
        }
        Ok(inspection) if inspection.network_reachable => EngineState::Unsafe {
            reason: "a sandbox has a route to the network".into(),
        },
        Ok(_) => EngineState::Ready,
    }
}

fn report(state: &EngineState) {
    match state {
        EngineState::Ready => tracing::info!("the engine is ready"),
        EngineState::Down { reason } => tracing::error!(%reason, "the engine is not usable"),
        EngineState::Unsafe { reason } => tracing::error!(%reason, "the engine is not safe"),
        EngineState::Starting => {}
    }
}
