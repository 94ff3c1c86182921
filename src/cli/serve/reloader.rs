//! Reads the configuration anew on SIGHUP.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::signal::unix::Signal;

use super::manager;
use crate::cli::control::{Answer, Control};
use crate::config::{Change, Config, ConfigError, Live};
use crate::keys::Keys;
use crate::telemetry::Telemetry;

/// Keeps the configuration in force what its file and variables say.
pub(super) struct Reloader<'a, Load> {
    /// Reads it, from where the gateway read it first.
    pub(super) load: Load,
    pub(super) live: Arc<Live>,
    pub(super) keys: Arc<Keys>,
    pub(super) telemetry: &'a Telemetry,
    pub(super) address: SocketAddr,
    pub(super) control: Control,
}

impl<Load> Reloader<'_, Load>
where
    Load: Fn() -> Result<Config, ConfigError>,
{
    /// Reload at each of these signals.
    pub(super) async fn run(&self, hangups: &mut Signal) -> Infallible {
        while hangups.recv().await.is_some() {
            self.reload();
        }
        pending().await
    }

    fn reload(&self) {
        let begun = SystemTime::now();
        manager::reloading();
        let result = self.apply();
        match &result {
            Ok(change) => {
                tracing::info!(applied = ?change.applied, "the configuration was reloaded");
                if !change.needs_restart.is_empty() {
                    tracing::warn!(
                        keys = ?change.needs_restart,
                        "these have changed and keep their old values: they need a restart"
                    );
                }
                manager::ready("serving", self.address);
            }
            Err(problems) => {
                for error in problems {
                    tracing::error!(
                        error,
                        "the new configuration is not valid; nothing has changed"
                    );
                }
                manager::ready(
                    "serving; the last reload was refused, see the log",
                    self.address,
                );
            }
        }
        let (change, problems) = match result {
            Ok(change) => (change, Vec::new()),
            Err(problems) => (Change::default(), problems),
        };
        let answer = Answer {
            begun,
            applied: change.applied,
            needs_restart: change.needs_restart,
            problems,
        };
        if let Err(error) = self.control.answer(&answer) {
            tracing::warn!(%error, "`belljar reload` gets no answer: run_dir cannot be written");
        }
    }

    /// All of it, or nothing and what is wrong.
    fn apply(&self) -> Result<Change, Vec<String>> {
        let next = (self.load)().map_err(|error| -> Vec<String> {
            error.problems.iter().map(ToString::to_string).collect()
        })?;
        let keys = self.keys.reload();
        let keys = keys.map_err(|error| vec![error.to_string()])?;
        self.telemetry
            .set_filter(&next.log)
            .map_err(|error| vec![error])?;
        let mut change = self.live.replace(&next);
        if keys {
            change.applied.push("the API keys".into());
        }
        Ok(change)
    }
}
