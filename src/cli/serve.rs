//! `belljar serve`

use std::future::pending;
use std::io::ErrorKind;
use std::process::ExitCode;

use listenfd::ListenFd;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Settings;
use super::control::Control;
use crate::config::{Config, ConfigError, LauncherKind};
use crate::gateway::Gateway;
use crate::keys;
use crate::sandbox::{EngineState, launcher};
use crate::session::Leave;
use crate::telemetry::Telemetry;

mod manager;

mod reloader;

use reloader::Reloader;

/// Serve until SIGTERM, which leaves live sessions to the next gateway, or SIGINT, which ends them;
/// on a socket that was handed over or on one of its own. What is wrong with the settings comes back
/// as an error.
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
    let control = Control::of(config);
    // Before it looks for what an earlier gateway has left. Processes are nobody else's.
    let _alone = match config.launcher {
        // Gateways of a cluster serve the same sessions, as many of them as there are.
        LauncherKind::Process | LauncherKind::Kubernetes => None,
        LauncherKind::Docker => Some(control.alone().await.map_err(|error| {
            let (namespace, dir) = (&config.docker.namespace, config.run_dir.display());
            match error.kind() {
                ErrorKind::WouldBlock => format!(
                    "another gateway serves the namespace {namespace} in {dir}: stop it, or set \
                     docker.namespace"
                ),
                _ => format!("cannot write to run_dir, {dir}: {error}"),
            }
        })?),
    };
    // A mistake to be mended now: later, a file that cannot be read lets nobody in.
    keys::read(&config.api.keys_file).map_err(|error| error.to_string())?;
    let gateway = Gateway::new(config.clone(), launcher(config)).await;
    let reloader = Reloader {
        load,
        live: gateway.app().config.clone(),
        keys: gateway.app().keys.clone(),
        telemetry,
        address,
        control,
    };
    let announced = reloader.control.announce();
    if let Err(error) = &announced {
        let remedy = "let this user write to run_dir, or send SIGHUP instead";
        tracing::warn!(%error, remedy, "`belljar reload` will not find this gateway");
    }
    tracing::info!("serving on http://{address}");
    // Visitors of an earlier gateway are served at once; newcomers wait until the engine is known.
    // One that answers and is not sealed is a mistake to be mended, not an outage to be waited out.
    // One that does not answer may come back: /health says so meanwhile.
    let sandboxes = gateway.app().sandboxes.clone();
    let mut refused = None;
    let watched = async {
        if let EngineState::Unsafe { reason } = sandboxes.engine_known().await {
            return reason;
        }
        manager::ready("serving", address);
        pending().await
    };
    let leave = async {
        let leave = tokio::select! {
            _ = terminate.recv() => Leave::HandOver,
            _ = interrupt.recv() => Leave::End,
            reason = watched => {
                refused = Some(reason);
                Leave::End
            }
            never = reloader.run(&mut hangup) => match never {},
        };
        manager::stopping();
        leave
    };
    tokio::select! {
        () = gateway.serve(listener, leave) => {}
        // Until the very end: going away takes its time.
        never = manager::keep_alive() => match never {},
    }
    Ok(match refused {
        Some(reason) => {
            eprintln!("belljar: refusing to serve: {reason}. Run `belljar doctor`.");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    })
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
