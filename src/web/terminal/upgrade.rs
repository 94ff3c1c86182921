//! From a request to a WebSocket: who asks for what, and whether they may.

use std::collections::BTreeMap;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use belljar_link::message::Size;
use serde::Deserialize;

use super::{Awaited, Connection, Dialect, Purpose, Unclaimed};
use crate::session::{AttachRequest, Create, Entry};
use crate::web::App;
use crate::web::auth::{self, Visitor, check_origin_for, trace_parent};
use crate::web::embed;
use crate::web::error::{no_such_session, of_create, token_missing};
use crate::web::protocol::v1::SUBPROTOCOL;
use crate::web::protocol::{self, Fault, FaultCode};
use crate::web::{toolkata, websocket};

/// The query of `/ws` and `/sessions/{id}/ws`.
#[derive(Debug, Default, Deserialize)]
pub(in crate::web) struct Parameters {
    template: Option<String>,
    cols: Option<u32>,
    rows: Option<u32>,
    token: Option<String>,
    from: Option<u64>,
    /// A site's permission.
    embed: Option<String>,
}

impl Parameters {
    fn size(&self, dialect: Dialect) -> Option<Size> {
        let (cols, rows) = (self.cols?, self.rows?);
        Some(match dialect {
            Dialect::V1 => protocol::size(cols, rows),
            Dialect::Toolkata => toolkata::size(cols, rows),
        })
    }
}

type QueryResult = Result<Query<Parameters>, axum::extract::rejection::QueryRejection>;

fn parameters(query: QueryResult) -> Result<Parameters, Fault> {
    query.map(|Query(parameters)| parameters).map_err(|error| {
        let allowed = "cols takes 2 to 1000, rows 1 to 500, from a whole number from 0";
        Fault::new(
            FaultCode::BadRequest,
            format!("{allowed}: {}", error.body_text()),
        )
    })
}

/// `GET /ws`: a new session.
pub(in crate::web) async fn start(
    State(app): State<App>,
    Visitor(client): Visitor,
    headers: HeaderMap,
    query: QueryResult,
    upgrade: WebSocketUpgrade,
) -> Response {
    let (upgrade, dialect) = negotiate(upgrade);
    let begin = async || {
        let parameters = parameters(query)?;
        let claims = embed::admit(&app, &headers, parameters.embed.as_deref())?;
        let size = parameters.size(dialect);
        let claims = claims.unwrap_or_default();
        let create = Create {
            client,
            template: claims.template.or(parameters.template),
            size: size.unwrap_or_default(),
            env: BTreeMap::new(),
            init: Vec::new(),
            max_duration: claims.max_duration,
            trace: trace_parent(&headers),
            record: false,
            origin: claims.origin,
            subject: claims.sub,
            metadata: claims.metadata,
        };
        let entry = match dialect {
            Dialect::V1 => app.sessions.create_or_wait(create).await,
            // It has no words for a wait.
            Dialect::Toolkata => {
                let created = app.sessions.create(create).await;
                created.map(|(session, token)| Entry::Begun(session, token))
            }
        };
        let entry = entry.map_err(|error| of_create(&error, &app.metrics))?;
        Ok(match entry {
            Entry::Begun(session, token) => {
                let token = token.reveal().to_owned();
                Purpose::Start(Unclaimed::new(session), token, size)
            }
            Entry::Waiting(waiting) => Purpose::Wait(waiting, size),
        })
    };
    let purpose = begin().await;
    accept(app, upgrade, dialect, purpose)
}

/// `GET /sessions/{id}/ws`: a session that exists.
pub(in crate::web) async fn attach(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    query: QueryResult,
    upgrade: WebSocketUpgrade,
) -> Response {
    let (upgrade, dialect) = negotiate(upgrade);
    let session = if let Some(session) = app.sessions.find(&id) {
        Ok(Some(Awaited::Here(session)))
    } else {
        let elsewhere = auth::elsewhere(&app, &id).await;
        elsewhere.map(|session| Some(Awaited::Elsewhere(session?.into())))
    };
    let find = || {
        let known = session.as_ref().ok().and_then(Option::as_ref);
        check_origin_for(known.map(Awaited::identity), &headers, &app)?;
        let parameters = parameters(query)?;
        let session = session?.ok_or_else(no_such_session)?;
        let request = AttachRequest {
            from: parameters.from,
            size: parameters.size(dialect),
            ..AttachRequest::default()
        };
        match auth::token(&headers, parameters.token.as_deref()) {
            Some(token) => {
                let (session, key) = session.open(&app, token)?;
                Ok(Purpose::Attach(session, key, request))
            }
            None => Ok(Purpose::Await(session, request)),
        }
    };
    match find() {
        Ok(Purpose::Await(..)) if dialect == Dialect::Toolkata => token_missing(),
        purpose => accept(app, upgrade, dialect, purpose),
    }
}

fn negotiate(upgrade: WebSocketUpgrade) -> (WebSocketUpgrade, Dialect) {
    let upgrade = upgrade.protocols([SUBPROTOCOL]);
    let dialect = match upgrade.selected_protocol() {
        Some(_) => Dialect::V1,
        None => Dialect::Toolkata,
    };
    (upgrade, dialect)
}

/// Upgrade. A browser cannot read the status of a refused upgrade, so a `belljar.v1` client is
/// accepted and then told; others get the plain status.
fn accept(
    app: App,
    upgrade: WebSocketUpgrade,
    dialect: Dialect,
    purpose: Result<Purpose, Fault>,
) -> Response {
    let purpose = match purpose {
        Ok(purpose) => purpose,
        Err(fault) if dialect == Dialect::V1 => Purpose::Refuse(fault),
        Err(fault) => return fault.into_response(),
    };
    // Taken before the request ends, so that the gateway never sees a moment without either.
    let task = app.tasks.token();
    websocket::bounded(upgrade).on_upgrade(move |socket| async move {
        let connection = Connection::new(app, dialect, socket);
        connection.serve(purpose).await;
        drop(task);
    })
}
