//! The command line: one file for each subcommand.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use listenfd::ListenFd;

use crate::config::{Config, ConfigError};

mod serve;

mod reload;

mod control;

mod doctor;

mod attach;

mod key;

/// Throw-away Linux terminals, sealed in gVisor, over a WebSocket.
#[derive(Debug, Parser)]
#[command(name = "belljar", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve visitors.
    Serve(Settings),
    /// Let the running gateway read its configuration anew, without ending a session.
    Reload(Settings),
    /// Check this machine and prove the seal, with advice for whatever is wrong.
    Doctor(Settings),
    /// Make, list and revoke the API keys of programs.
    #[command(subcommand)]
    Key(key::Command),
    /// Open a terminal of a gateway in this one.
    Attach(attach::Target),
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
struct Settings {
    /// Configuration file [default: /etc/belljar/belljar.toml, if it exists].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// What starts sandboxes: docker, or process (no isolation, for development).
    #[arg(long)]
    launcher: Option<String>,
}

impl Settings {
    fn load(&self) -> Result<Config, ConfigError> {
        let flags: Vec<(&str, String)> = [("listen", &self.listen), ("launcher", &self.launcher)]
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.clone()?)))
            .collect();
        let env = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Config::load(self.config.as_deref(), env, &flags)
    }
}

/// Run the command; returns the process's exit code. `sockets` are those that a service manager has
/// handed over.
pub async fn run(cli: Cli, sockets: ListenFd) -> ExitCode {
    match cli.command {
        Command::Serve(settings) => match serve::run(settings, sockets).await {
            Ok(code) => code,
            Err(error) => complain(&error),
        },
        Command::Reload(settings) => reload::run(&settings).await,
        Command::Doctor(settings) => match settings.load() {
            Ok(config) => doctor::run(&config).await,
            Err(error) => complain(&error.to_string()),
        },
        Command::Key(command) => key::run(command),
        Command::Attach(target) => attach::run(&target).await,
    }
}

/// Say what is wrong; the exit code for a mistake of the caller's.
fn complain(message: &str) -> ExitCode {
    eprintln!("belljar: {message}");
    ExitCode::from(2)
}
