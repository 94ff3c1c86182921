//! A session of Kubebox: a sandbox by a name that its client chose.
//!
//! The name is kept with the sandbox, as its metadata: there is nothing else to remember, and the next
//! gateway finds it too.

use std::sync::Arc;

use axum::http::StatusCode;
use belljar_link::client::Link;

use crate::fleet::{Caller, Held, Order, State};
use crate::web::App;
use crate::web::api::problem::Problem;
use crate::web::inside::Trouble;

/// What the name is kept as.
const NAME: &str = "kubebox.session";

/// Longest name, bytes.
const MAX_NAME: usize = 128;

/// A session whose sandbox runs.
pub(super) struct Session {
    pub(super) held: Arc<Held>,
    pub(super) link: Arc<Link>,
}

/// The caller's own; a name is nobody else's, be they an admin.
fn named(app: &App, caller: &Caller, name: &str) -> Vec<Arc<Held>> {
    let mut all = app.fleet.list(caller);
    all.retain(|held| {
        held.owner == caller.owner && held.metadata.get(NAME).is_some_and(|own| own == name)
    });
    all
}

fn lives(held: &Arc<Held>) -> bool {
    matches!(held.state(), State::Starting | State::Running)
}

impl Session {
    /// The session of this name.
    pub(super) async fn find(app: &App, caller: &Caller, name: &str) -> Result<Self, Trouble> {
        let found = named(app, caller, name).into_iter().find(lives);
        let held = found.ok_or_else(|| {
            let message = "There is no such session. Initialize it first.";
            Trouble::Asking(Problem::new(StatusCode::NOT_FOUND, "no_session", message))
        })?;
        Self::of(held).await
    }

    async fn of(held: Arc<Held>) -> Result<Self, Trouble> {
        let link = held.link().await.map_err(Trouble::NotRunning)?;
        Ok(Self { held, link })
    }

    /// The session of this name, made if there is none; its directory is `path`, below the home. A
    /// session that is there keeps the directory it has.
    pub(super) async fn initialize(
        app: &App,
        caller: &Caller,
        name: &str,
        path: Option<&str>,
    ) -> Result<Self, Trouble> {
        if !(1..=MAX_NAME).contains(&name.len()) {
            let told = format!("must have 1 to {MAX_NAME} bytes");
            return Err(Trouble::bad("session_id", told));
        }
        let held = match named(app, caller, name).into_iter().find(lives) {
            Some(held) => held,
            None => Self::create(app, caller, name, path).await?,
        };
        let session = Self::of(held).await?;
        session.link.make_dir(&session.held.cwd, true, None).await?;
        Ok(session)
    }

    async fn create(
        app: &App,
        caller: &Caller,
        name: &str,
        path: Option<&str>,
    ) -> Result<Arc<Held>, Trouble> {
        // What has died of this name is in its way.
        for dead in named(app, caller, name) {
            if !lives(&dead) {
                dead.kill().await;
            }
        }
        let mut order = Order::new(caller.clone());
        order.metadata.insert(NAME.into(), name.into());
        order.cwd = path.map(str::to_owned);
        let made = app.fleet.create(order).await;
        let made =
            made.map_err(|error| Trouble::Asking(Problem::of_create(&error, &app.metrics)))?;
        // Of two that were made at once, the older one is it.
        let first = named(app, caller, name).into_iter().find(lives);
        match first {
            Some(first) if first.id != made.id => {
                made.kill().await;
                Ok(first)
            }
            _ => Ok(made),
        }
    }
}
