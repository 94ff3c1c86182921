//! `belljar serve`

use std::future::pending;
use std::process::ExitCode;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::complain;
use crate::config::{Config, LauncherKind};
use crate::gateway::Gateway;
use crate::sandbox::{EngineState, launcher};
use crate::session::Leave;
use crate::telemetry;

/// Serve until SIGTERM, which leaves live sessions to the next gateway, or SIGINT, which ends them.
pub(super) async fn run(config: Config) -> ExitCode {
    if let Err(error) = telemetry::init(&config.log) {
        return complain(&error);
    }
    if config.launcher == LauncherKind::Process {
        tracing::warn!(
            "the launcher `process` has NO ISOLATION: visitors run commands as you. \
             For development on this machine only."
        );
    }
    let listener = match TcpListener::bind(config.listen).await {
        Ok(listener) => listener,
        Err(error) => return complain(&format!("cannot listen on {}: {error}", config.listen)),
    };
    let shutdown = match (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            async move {
                tokio::select! {
                    _ = terminate.recv() => Leave::HandOver,
                    _ = interrupt.recv() => Leave::End,
                }
            }
        }
        (Err(error), _) | (_, Err(error)) => return complain(&format!("no signals: {error}")),
    };
    let address = listener
        .local_addr()
        .map_or(config.listen.to_string(), |a| a.to_string());
    let gateway = Gateway::new(config.clone(), launcher(&config)).await;
    tracing::info!("serving on http://{address}");
    // Visitors of an earlier gateway are served at once; newcomers wait until the engine is known.
    // One that answers and is not sealed is a mistake to be mended, not an outage to be waited out.
    // One that does not answer may come back: /health says so meanwhile.
    let sandboxes = gateway.app().sandboxes.clone();
    let mut refused = None;
    let leave = async {
        let unsafe_engine = async {
            match sandboxes.engine_known().await {
                EngineState::Unsafe { reason } => reason,
                _ => pending().await,
            }
        };
        tokio::select! {
            leave = shutdown => leave,
            reason = unsafe_engine => {
                refused = Some(reason);
                Leave::End
            }
        }
    };
    gateway.serve(listener, leave).await;
    match refused {
        Some(reason) => complain(&format!(
            "refusing to serve: {reason}. Run `belljar doctor`."
        )),
        None => ExitCode::SUCCESS,
    }
}
