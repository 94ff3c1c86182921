//! The REST side of shares: the owner's list of who else may look.

use axum::Json;
use axum::extract::Path;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::auth::Owned;
use super::error::{no_such_session, respond};
use super::object::Object;
use super::protocol::{Fault, FaultCode, timestamp};
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
    /// Made for the operator, and not by the session's owner.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    operator: bool,
}

impl<'a> Listed<'a> {
    fn of(record: &'a ShareRecord, viewers: usize) -> Self {
        Self {
            share: record.id.as_str(),
            mode: record.mode,
            created_at: timestamp(record.created_at),
            viewers,
            operator: record.operator,
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
    Owned(session): Owned,
    body: Result<Json<Object<ShareBody>>, JsonRejection>,
) -> Response {
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
pub(super) async fn list(Owned(session): Owned) -> Response {
    let shares = session.shares.list();
    let listed: Vec<Listed<'_>> = shares
        .iter()
        .map(|(record, viewers)| Listed::of(record, *viewers))
        .collect();
    Json(serde_json::json!({ "shares": listed })).into_response()
}

/// `DELETE /sessions/{id}/shares/{share}`
pub(super) async fn revoke(
    Owned(session): Owned,
    Path((_, share)): Path<(String, String)>,
) -> Response {
    if !session.shares.revoke(&share) {
        let message = "This share does not exist or was withdrawn already.";
        return Fault::new(FaultCode::NoSuchShare, message).into_response();
    }
    session.keep().await;
    Json(serde_json::json!({ "success": true })).into_response()
}
