//! The sandbox that a request names, running.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use belljar_link::client::Link;

use super::Trouble;
use crate::fleet::Held;
use crate::web::App;
use crate::web::api::auth::Mine;

/// The sandbox of the path's `{id}`, as far as it is the caller's, with the link to its agent.
#[derive(Debug)]
pub(in crate::web) struct Running {
    /// The sandbox.
    pub(in crate::web) held: Arc<Held>,
    /// The link to its agent.
    pub(in crate::web) link: Arc<Link>,
}

impl FromRequestParts<App> for Running {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Trouble> {
        let mine = Mine::from_request_parts(parts, app).await;
        let Mine(held) = mine.map_err(Trouble::Asking)?;
        let link = held.link().await.map_err(Trouble::NotRunning)?;
        Ok(Self { held, link })
    }
}
