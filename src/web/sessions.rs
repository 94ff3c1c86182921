//! The REST side of sessions, in the form of toolkata's Sandbox API.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use belljar_link::message::Size;
use serde::{Deserialize, Serialize};

use super::App;
use super::auth::{Owned, Visitor, trace_parent};
use super::embed;
use super::error::{of_create, of_ending};
use super::object::Object;
use super::protocol::{self, Fault, FaultCode, millis, timestamp};
use super::terminal::Unclaimed;
use crate::session::{Create, Recorded, Session};

/// Bounds of a creation's lists, so that what reaches the agent stays small.
const MAX_INIT: usize = 32;
const MAX_LINE: usize = 4096;
const MAX_ENV: usize = 64;

/// What a session may be created with; everything is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct CreateBody {
    template: Option<String>,
    /// toolkata: a pair of tools to compare; a template of that name is used if there is one.
    tool_pair: Option<String>,
    /// toolkata: the template's name.
    environment: Option<String>,
    init: Vec<String>,
    /// Milliseconds.
    timeout: Option<u64>,
    cols: Option<u32>,
    rows: Option<u32>,
    env: BTreeMap<String, String>,
    /// Record it, if the operator allows that.
    record: bool,
}

/// What a creation may hold, for those who sent something else.
const ALLOWED: &str = "template, environment and toolPair take text, init a list of text, timeout \
    a whole number of ms from 1000, cols 2 to 1000, rows 1 to 500, env an object of text, record \
    true or false";

impl CreateBody {
    fn check(&self) -> Result<(), Fault> {
        let bad = |message: String| Err(Fault::new(FaultCode::BadRequest, message));
        if self.init.len() > MAX_INIT || self.init.iter().any(|line| line.len() > MAX_LINE) {
            return bad(format!(
                "init: at most {MAX_INIT} lines of at most {MAX_LINE} bytes each."
            ));
        }
        let name = |name: &str| {
            !name.is_empty()
                && !name.starts_with(|c: char| c.is_ascii_digit())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        let line = |value: &str| value.len() <= MAX_LINE && !value.contains('\0');
        if self.env.len() > MAX_ENV || !self.env.iter().all(|(k, v)| name(k) && line(v)) {
            return bad(format!(
                "env: at most {MAX_ENV} names of letters, digits and '_', with values of at most \
                 {MAX_LINE} bytes without NUL."
            ));
        }
        if self.init.iter().any(|line| line.contains('\0')) {
            return bad("init: a line must not hold NUL.".into());
        }
        Ok(())
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SessionBody<'a> {
    session_id: &'a str,
    /// Only in the answer to its creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ws_url: Option<String>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    template: &'a str,
    created_at: String,
    expires_at: String,
    remaining_ms: u64,
    /// Guests attached now.
    viewers: usize,
    recorded: bool,
    /// Who the visitor is to the site that has sent them, if one has.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    /// What that site wants to find with it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a BTreeMap<String, String>,
}

impl<'a> SessionBody<'a> {
    fn of(session: &'a Session) -> Self {
        Self {
            session_id: session.id.as_str(),
            token: None,
            ws_url: None,
            status: session.state().name(),
            reason: session.ending().map(|ending| ending.reason.name()),
            template: &session.template,
            created_at: timestamp(session.created_at),
            expires_at: timestamp(session.expires_at),
            remaining_ms: millis(session.remaining()),
            viewers: *session.shares.viewers().borrow(),
            recorded: *session.recorded().borrow() != Recorded::No,
            subject: session.subject.as_deref(),
            metadata: &session.metadata,
        }
    }
}

/// A site's permission.
#[derive(Debug, Default, Deserialize)]
pub(super) struct EmbedQuery {
    embed: Option<String>,
}

/// `POST /sessions`
pub(super) async fn create(
    State(app): State<App>,
    Visitor(client): Visitor,
    headers: HeaderMap,
    query: Result<Query<EmbedQuery>, QueryRejection>,
    body: Result<Json<Object<CreateBody>>, JsonRejection>,
) -> Response {
    let token = query.ok().and_then(|Query(query)| query.embed);
    let claims = match embed::admit(&app, &headers, token.as_deref()) {
        Ok(claims) => claims.unwrap_or_default(),
        Err(fault) => return fault.into_response(),
    };
    let body = match body {
        Ok(Json(Object(body))) => body,
        // A POST without any body asks for the defaults.
        Err(JsonRejection::MissingJsonContentType(_)) if is_empty(&headers) => {
            CreateBody::default()
        }
        Err(error) => {
            let message = match &error {
                JsonRejection::JsonDataError(_) => format!("{ALLOWED}: {}", error.body_text()),
                _ => error.body_text(),
            };
            let fault = Fault::new(FaultCode::BadRequest, message);
            return super::error::respond(error.status(), &fault);
        }
    };
    if let Err(fault) = body.check() {
        return fault.into_response();
    }
    let known = |name: &String| app.config.get().template(name).is_some();
    let created = app
        .sessions
        .create(Create {
            client,
            template: claims
                .template
                .or(body.template)
                .or(body.environment)
                .or(body.tool_pair.filter(known)),
            size: match (body.cols, body.rows) {
                (Some(cols), Some(rows)) => protocol::size(cols, rows),
                _ => Size::default(),
            },
            env: body.env,
            init: body.init,
            max_duration: claims
                .max_duration
                .or(body.timeout.map(Duration::from_millis)),
            trace: trace_parent(&headers),
            record: body.record,
            origin: claims.origin,
            subject: claims.sub,
            metadata: claims.metadata,
        })
        .await;
    let (session, token) = match created {
        Ok(created) => created,
        Err(error) => return of_create(&error, &app.metrics).into_response(),
    };
    let mut unclaimed = Unclaimed::new(session.clone());
    if let Err(ending) = session.started().await {
        return of_ending(ending.reason).into_response();
    }
    unclaimed.claimed = true;
    let token = token.reveal();
    let scheme = match headers.get("x-forwarded-proto").map(HeaderValue::as_bytes) {
        Some(b"https") => "wss",
        _ => "ws",
    };
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let host = host.unwrap_or("localhost");
    let id = session.id.as_str();
    let body = SessionBody {
        token: Some(token),
        ws_url: Some(format!("{scheme}://{host}/sessions/{id}/ws?token={token}")),
        ..SessionBody::of(&session)
    };
    (StatusCode::CREATED, Json(body)).into_response()
}

fn is_empty(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    length.is_none_or(|length| length.as_bytes() == b"0")
        && !headers.contains_key(header::TRANSFER_ENCODING)
}

/// `GET /sessions/{id}`
pub(super) async fn show(Owned(session): Owned) -> Response {
    Json(SessionBody::of(&session)).into_response()
}

/// `DELETE /sessions/{id}` and `POST /sessions/{id}/destroy`. Ending what has ended succeeds.
pub(super) async fn end(Owned(session): Owned) -> Response {
    let ending = session.close().await;
    let reason = ending.reason.name();
    Json(serde_json::json!({"success": true, "reason": reason})).into_response()
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Environment<'a> {
    name: &'a str,
    description: &'a str,
    category: &'static str,
    /// Milliseconds.
    default_timeout: u64,
}

/// `GET /environments`: the templates.
pub(super) async fn environments(State(app): State<App>) -> Response {
    let config = app.config.get();
    let templates = config.templates.iter();
    let environments: Vec<Environment<'_>> = templates
        .map(|(name, template)| Environment {
            name,
            description: &template.description,
            category: "shell",
            default_timeout: millis(template.max_duration.unwrap_or(config.limits.max_duration)),
        })
        .collect();
    Json(serde_json::json!({ "environments": environments })).into_response()
}
