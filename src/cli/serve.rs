//! `belljar serve`

use std::process::ExitCode;

use listenfd::ListenFd;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Settings;
use super::control::Control;
use crate::config::{Config, ConfigError, LauncherKind};
use crate::gateway::Gateway;
use crate::sandbox::{EngineState, launcher};
use crate::telemetry::Telemetry;

mod manager;

mod reloader;

use reloader::Reloader;

/// Serve until SIGTERM or SIGINT, on a socket that was handed over or on one of its own. What is
/// wrong with the settings comes back as an error.
pub(super) async fn run(settings: Settings, sockets: ListenFd) -> Result<ExitCode, String> {
    let inherited = manager::inherited(sockets)?;
    let given = inherited.as_ref().and_then(|s| s.local_addr().ok());
    let load = move || -> Result<Config, ConfigError> {
        let config = settings.load()?;
        match given {
            Some(address) => config.listening_on(address),
            None => Ok(config),
        }
    };
    let config = load().map_err(|error| error.to_string())?;
    let telemetry = Telemetry::init(&config)?;
    let code = serve(load, &config, inherited, &telemetry).await;
    telemetry.end().await;
    code
}

async fn serve(
    load: impl Fn() -> Result<Config, ConfigError>,
    config: &Config,
    inherited: Option<TcpListener>,
    telemetry: &Telemetry,
) -> Result<ExitCode, String> {
    if config.launcher == LauncherKind::Process {
        tracing::warn!(
            "the launcher `process` has NO ISOLATION: visitors run commands as you. \
             For development on this machine only."
        );
    }
    let [mut terminate, mut interrupt, mut hangup] = signals()?;
    let listener = match inherited {
        Some(listener) => listener,
        None => TcpListener::bind(config.listen)
            .await
            .map_err(|error| format!("cannot listen on {}: {error}", config.listen))?,
    };
    let address = listener.local_addr().unwrap_or(config.listen);
    let gateway = Gateway::new(config.clone(), launcher(config));
    let reloader = Reloader {
        load,
        live: gateway.app().config.clone(),
        telemetry,
        address,
        control: Control::of(config),
    };
    let serving = async {
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            manager::stopping();
        };
        tokio::pin!(shutdown);
        // An engine that answers and is not sealed is a mistake to be mended, not an outage to be
        // waited out. One that does not answer may come back: /health says so meanwhile.
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
        let announced = reloader.control.announce();
        if let Err(error) = &announced {
            let remedy = "let this user write to run_dir, or send SIGHUP instead";
            tracing::warn!(%error, remedy, "`belljar reload` will not find this gateway");
        }
        tracing::info!("serving on http://{address}");
        manager::ready("serving", address);
        gateway
            .serve(listener, async {
                tokio::select! {
                    () = &mut shutdown => {}
                    never = reloader.run(&mut hangup) => match never {},
                }
            })
            .await;
        ExitCode::SUCCESS
    };
    tokio::select! {
        code = serving => Ok(code),
        // Until the very end: going away takes its time.
        never = manager::keep_alive() => match never {},
    }
}

/// SIGTERM, SIGINT and SIGHUP. From now on none of them ends the process by itself.
fn signals() -> Result<[Signal; 3], String> {
    let listen = |kind| signal(kind).map_err(|error| format!("no signals: {error}"));
    Ok([
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
        listen(SignalKind::hangup())?,
    ])
}
