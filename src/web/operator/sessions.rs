//! Visitors' sessions, as an operator sees them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::{ListQuery, Operator};
use crate::session::{Recorded, Session};
use crate::web::App;
use crate::web::api::openapi::Refusals;
use crate::web::api::problem::Problem;
use crate::web::protocol::{millis, timestamp};

/// A visitor's session, without anything that would open it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Session)]
pub(super) struct Shown {
    id: String,
    /// `starting`, `attached`, `detached` or `ended`.
    state: &'static str,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<&'static str>,
    template: String,
    /// Whom it counts for: an address, or a network.
    client: String,
    #[schema(format = DateTime)]
    created_at: String,
    /// It ends then at the latest.
    #[schema(format = DateTime)]
    expires_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    ended_at: Option<String>,
    /// Since something was typed.
    idle_ms: u64,
    /// Guests attached now, operators among them.
    viewers: usize,
    /// Whether it is or was recorded.
    recorded: bool,
    /// Who the visitor is to the site that has sent them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    subject: Option<String>,
    /// What that site wants to find with it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    metadata: BTreeMap<String, String>,
}

impl Shown {
    fn of(session: &Session) -> Self {
        Self {
            id: session.id.to_string(),
            state: session.state().name(),
            reason: session.ending().map(|ending| ending.reason.name()),
            template: session.template.clone(),
            client: session.client.to_string(),
            created_at: timestamp(session.created_at),
            expires_at: timestamp(session.expires_at),
            ended_at: session.ended_at().map(timestamp),
            idle_ms: millis(session.idle()),
            viewers: *session.shares.viewers().borrow(),
            recorded: *session.recorded().borrow() != Recorded::No,
            subject: session.subject.clone(),
            metadata: session.metadata.clone(),
        }
    }
}

/// Sessions, and how many there are.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Listed {
    sessions: Vec<Shown>,
    /// Of all that live or are remembered, whether or not they are in the list.
    total: usize,
}

/// List sessions
///
/// Those that live, the newest first; then those that ended within the last ten minutes or so, the last
/// to end first.
#[utoipa::path(
    get, path = "/sessions", tag = "operators", operation_id = "listSessions",
    params(ListQuery),
    responses((status = 200, description = "Sessions", body = Listed), Refusals)
)]
pub(super) async fn list(
    State(app): State<App>,
    Operator(_): Operator,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Listed>, Problem> {
    let limit = ListQuery::limit(query)?;
    let mut sessions = app.sessions.all();
    let total = sessions.len();
    // Of an end that is still being told, the time is not known yet: it is the last.
    let order = |session: &Arc<Session>| {
        let over = session.ending().is_some();
        (over, session.ended_at().map(std::cmp::Reverse))
    };
    sessions.sort_by_cached_key(|session| (order(session), std::cmp::Reverse(session.created_at)));
    sessions.truncate(limit);
    let sessions = sessions.iter().map(|session| Shown::of(session));
    Ok(Json(Listed {
        sessions: sessions.collect(),
        total,
    }))
}

fn find(app: &App, id: &str) -> Result<Arc<Session>, Problem> {
    let message = "This session does not exist or has long ended.";
    let missing = || Problem::new(StatusCode::NOT_FOUND, "no_such_session", message);
    app.sessions.find(id).ok_or_else(missing)
}

/// Show a session
#[utoipa::path(
    get, path = "/sessions/{id}", tag = "operators", operation_id = "showSession",
    params(("id" = String, Path, description = "The session's id")),
    responses((status = 200, description = "The session", body = Shown), Refusals)
)]
pub(super) async fn show(
    State(app): State<App>,
    Operator(_): Operator,
    Path(id): Path<String>,
) -> Result<Json<Shown>, Problem> {
    Ok(Json(Shown::of(&*find(&app, &id)?)))
}

/// End a session
///
/// Its visitor is told that the operator has ended it. One that had ended already keeps its reason.
#[utoipa::path(
    delete, path = "/sessions/{id}", tag = "operators", operation_id = "endSession",
    params(("id" = String, Path, description = "The session's id")),
    responses((status = 200, description = "The session, ended", body = Shown), Refusals)
)]
pub(super) async fn end(
    State(app): State<App>,
    Operator(caller): Operator,
    Path(id): Path<String>,
) -> Result<Json<Shown>, Problem> {
    let session = find(&app, &id)?;
    tracing::info!(session = %session.id, owner = %caller.owner, "an operator ends a session");
    session.end_by_operator().await;
    Ok(Json(Shown::of(&session)))
}

/// A way to watch a session.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Watch {
    session: String,
    /// What to take back when nobody watches any more.
    share: String,
    /// Opens `/sessions/{id}/ws`, to watch and not to type. Only here.
    token: String,
}

/// Watch a session
///
/// Makes a share of it that cannot type. Its visitor sees that somebody is watching, and may end that.
#[utoipa::path(
    post, path = "/sessions/{id}/watch", tag = "operators", operation_id = "watchSession",
    params(("id" = String, Path, description = "The session's id")),
    responses((status = 201, description = "The way in", body = Watch), Refusals)
)]
pub(super) async fn watch(
    State(app): State<App>,
    Operator(caller): Operator,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Watch>), Problem> {
    let session = find(&app, &id)?;
    if session.ending().is_some() {
        let message = "This session has ended. There is nothing more to watch.";
        let code = "no_such_session";
        return Err(Problem::new(StatusCode::NOT_FOUND, code, message));
    }
    let (record, token) = session.shares.create_for_operator().map_err(|_| {
        let message = "This session is shared as often as it may be already.";
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_shares", message)
    })?;
    tracing::info!(session = %session.id, owner = %caller.owner, "an operator watches a session");
    // Before anyone has the token: it opens the session over a restart, too.
    session.keep().await;
    let watch = Watch {
        session: session.id.to_string(),
        share: record.id.to_string(),
        token: token.reveal().to_owned(),
    };
    Ok((StatusCode::CREATED, Json(watch)))
}

/// Stop watching a session
///
/// Whoever watches it by this share is sent away. Nobody needs to: a share that is not used is forgotten.
#[utoipa::path(
    delete, path = "/sessions/{id}/watch/{share}", tag = "operators", operation_id = "stopWatching",
    params(
        ("id" = String, Path, description = "The session's id"),
        ("share" = String, Path, description = "The share's id")
    ),
    responses((status = 204, description = "Nobody watches by it"), Refusals)
)]
pub(super) async fn leave(
    State(app): State<App>,
    Operator(_): Operator,
    Path((id, share)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let session = find(&app, &id)?;
    if session.shares.revoke(&share) {
        session.keep().await;
    }
    Ok(StatusCode::NO_CONTENT)
}
