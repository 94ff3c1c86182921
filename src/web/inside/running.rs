//! The sandbox that a request names, running.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use belljar_link::client::Link;

use super::Trouble;
use crate::fleet::{Caller, Held};
use crate::web::App;

/// The sandbox of the path's `{id}`, as far as it is the caller's, with the link to its agent.
#[derive(Debug)]
pub(in crate::web) struct Running {
    /// The sandbox.
    pub(in crate::web) held: Arc<Held>,
    /// The link to its agent.
    pub(in crate::web) link: Arc<Link>,
}

impl Running {
    /// The sandbox `id`, if it is this caller's and runs; waits while it starts.
    pub(in crate::web) async fn find(
        app: &App,
        caller: &Caller,
        id: &str,
    ) -> Result<Self, Trouble> {
        let held = app.fleet.find(id, caller).ok_or(Trouble::NoSandbox)?;
        let link = held.link().await.map_err(Trouble::NotRunning)?;
        Ok(Self { held, link })
    }
}

impl FromRequestParts<App> for Running {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let caller = Caller::local();
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, app).await;
        let Path(path) = path.map_err(IntoResponse::into_response)?;
        let id = path.get("id").map_or("", String::as_str);
        let found = Self::find(app, &caller, id).await;
        found.map_err(IntoResponse::into_response)
    }
}
