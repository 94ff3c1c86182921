//! `belljar serve`

use std::process::ExitCode;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::complain;
use crate::config::{Config, LauncherKind};
use crate::gateway::Gateway;
use crate::sandbox::{EngineState, launcher};
use crate::telemetry;

/// Serve until SIGTERM or SIGINT.
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
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
        }
        (Err(error), _) | (_, Err(error)) => return complain(&format!("no signals: {error}")),
    };
    let address = listener
        .local_addr()
        .map_or(config.listen.to_string(), |a| a.to_string());
    let gateway = Gateway::new(config.clone(), launcher(&config));
    // An engine that answers and is not sealed is a mistake to be mended, not an outage to be
    // waited out. One that does not answer may come back: /health says so meanwhile.
    tokio::pin!(shutdown);
    tokio::select! {
        state = gateway.engine_known() => if let EngineState::Unsafe { reason } = state {
            eprintln!("belljar: refusing to serve: {reason}. Run `belljar doctor`.");
            return ExitCode::FAILURE;
        },
        () = &mut shutdown => {
            // Nobody has come yet, but the probe sandbox may be there.
            gateway.serve(listener, async {}).await;
            return ExitCode::SUCCESS;
        }
    }
    tracing::info!("serving on http://{address}");
    gateway.serve(listener, shutdown).await;
    ExitCode::SUCCESS
}
