//! The REST side of shares: the owner's list of who else may look.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::App;
use super::auth;
use super::error::{no_such_session, respond};
use super::object::Object;
use super::protocol::{Fault, FaultCode, timestamp};
use super::sessions::TokenQuery;
use crate::session::{MAX_SHARES, Mode, ShareRecord};

/// What a share is created with.
#[derive(Debug, Deserialize)]
pub(super) struct ShareBody {
    mode: Mode,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    share: &'a str,
    mode: Mode,
    created_at: String,
    viewers: usize,
}

impl<'a> Listed<'a> {
    fn of(record: &'a ShareRecord, viewers: usize) -> Self {
        Self {
            share: record.id.as_str(),
            mode: record.mode,
            created_at: timestamp(record.created_at),
            viewers,
        }
    }
}

#[derive(Debug, Serialize)]
struct Created<'a> {
    #[serde(flatten)]
    share: Listed<'a>,
    /// Only here.
    token: &'a str,
    /// The page that shows it. The token stands in the fragment, which no browser sends anywhere.
    path: String,
}

/// `POST /sessions/{id}/shares`
pub(super) async fn create(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<TokenQuery>,
    headers: HeaderMap,
    body: Result<Json<Object<ShareBody>>, JsonRejection>,
) -> Response {
    let token = auth::token(&headers, query.token.as_deref());
    let session = match auth::open(&app, &id, token.as_deref()) {
        Ok(session) => session,
        Err(refusal) => return refusal.into_response(),
    };
    let mode = match body {
        Ok(Json(Object(body))) => body.mode,
        Err(error) => {
            let message = format!("mode takes read or write: {}", error.body_text());
            return respond(error.status(), &Fault::new(FaultCode::BadRequest, message));
        }
    };
    if session.ending().is_some() {
        return no_such_session().into_response();
    }
    let Ok((record, token)) = session.shares.create(mode) else {
        let message =
            format!("A terminal is shared at most {MAX_SHARES} times. Withdraw one first.");
        return Fault::new(FaultCode::TooManyShares, message).into_response();
    };
    // Before anyone has the token: it opens the session over a restart, too.
    session.keep().await;
    let created = Created {
        share: Listed::of(&record, 0),
        token: token.reveal(),
        path: format!("/#share={}&session={}", token.reveal(), session.id),
    };
    (StatusCode::CREATED, Json(created)).into_response()
}

/// `GET /sessions/{id}/shares`
pub(super) async fn list(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<TokenQuery>,
    headers: HeaderMap,
) -> Response {
    let token = auth::token(&headers, query.token.as_deref());
    let session = match auth::open(&app, &id, token.as_deref()) {
        Ok(session) => session,
        Err(refusal) => return refusal.into_response(),
    };
    let shares = session.shares.list();
    let listed: Vec<Listed<'_>> = shares
        .iter()
        .map(|(record, viewers)| Listed::of(record, *viewers))
        .collect();
    Json(serde_json::json!({ "shares": listed })).into_response()
}

/// `DELETE /sessions/{id}/shares/{share}`
pub(super) async fn revoke(
    State(app): State<App>,
    Path((id, share)): Path<(String, String)>,
    Query(query): Query<TokenQuery>,
    headers: HeaderMap,
) -> Response {
    let token = auth::token(&headers, query.token.as_deref());
    match auth::open(&app, &id, token.as_deref()) {
        Err(refusal) => refusal.into_response(),
        Ok(session) if session.shares.revoke(&share) => {
            session.keep().await;
            Json(serde_json::json!({ "success": true })).into_response()
        }
        Ok(_) => Fault::new(
            FaultCode::NoSuchShare,
            "This share does not exist or was withdrawn already.",
        )
        .into_response(),
    }
}
