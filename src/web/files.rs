//! Files that a session's owner brings into its sandbox, and takes out of it.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use belljar_link::client::Link;
use belljar_link::message::files::WriteOptions;
use serde::Deserialize;

use super::App;
use super::auth::Owned;
use super::error::no_such_session;
use super::inside::files::{content, given};
use super::inside::patience::Patience;
use super::inside::{Trouble, transfer};
use crate::session::Session;

/// The routes. A file may be larger than other bodies, and take longer.
pub(super) fn routes() -> Router<App> {
    Router::new().route("/sessions/{id}/files", get(take).put(bring))
}

/// Which file.
#[derive(Debug, Deserialize)]
struct Which {
    /// Against the home directory.
    path: Option<String>,
}

/// `GET /sessions/{id}/files?path=`: its content.
async fn take(
    State(app): State<App>,
    patience: Patience,
    Owned(session): Owned,
    Query(which): Query<Which>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let link = link(&session).await?;
    let path = given(which.path.as_deref()).map_err(IntoResponse::into_response)?;
    content(&app, &patience, &link, path, (0, None), &headers)
        .await
        .map_err(IntoResponse::into_response)
}

/// `PUT /sessions/{id}/files?path=`: the body is its content. One that is there is replaced, once
/// everything has come.
async fn bring(
    patience: Patience,
    Owned(session): Owned,
    Query(which): Query<Which>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Response> {
    let link = link(&session).await?;
    let bring = async {
        let path = given(which.path.as_deref())?;
        transfer::check_length(&headers)?;
        let _holding = patience.hold();
        transfer::upload(&link, path, WriteOptions::default(), body).await
    };
    let brought: Result<_, Trouble> = bring.await;
    brought.map_err(IntoResponse::into_response)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whoever handles files is there, although nothing is typed.
async fn link(session: &Session) -> Result<Arc<Link>, Response> {
    let link = session.link().await;
    let link = link.ok_or_else(|| no_such_session().into_response())?;
    session.touch();
    Ok(link)
}
