//! Who a request is from and what it may do: origin, client address, token, trace.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::App;
use super::error::{no_such_session, token_missing};
use super::protocol::{Fault, FaultCode};
use crate::config::LauncherKind;
use crate::limit::Client;
use crate::limit::client_ip::client_address;
use crate::session::{Elsewhere, Identity, Session};
use crate::telemetry::TraceParent;

/// When to ask again for a session that could not be looked for. The engine's answer is late by more.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Whose request this is, as far as limits are concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visitor(pub(super) Client);

impl FromRequestParts<App> for Visitor {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Self::Rejection> {
        // Absent only if a caller forgot to provide it; then all visitors are one.
        let peer = parts
            .extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map_or(IpAddr::from([0, 0, 0, 0]), |info| info.0.ip());
        let forwarded = parts.headers.get_all("x-forwarded-for");
        let forwarded: Vec<&str> = forwarded.iter().filter_map(|v| v.to_str().ok()).collect();
        let address = client_address(
            peer,
            forwarded.into_iter(),
            &app.config.get().trusted_proxies,
        );
        Ok(Self(Client::of(address)))
    }
}

/// A page of another site must not use a visitor's address or network position. Programs that are
/// no browsers send no `Origin` and could send any, so they are not asked.
pub(super) fn check_origin(headers: &HeaderMap, app: &App) -> Result<(), Fault> {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or("null");
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    let config = app.config.get();
    let own = authority.is_some_and(|authority| Some(authority) == host)
        && (config.launcher != LauncherKind::Process || host.is_some_and(is_this_machine));
    if own || config.allowed_origins.iter().any(|o| o == origin) {
        return Ok(());
    }
    app.metrics.refused(FaultCode::OriginRefused.name());
    Err(Fault::new(
        FaultCode::OriginRefused,
        "This page may not open terminals here.",
    ))
}

/// The same, where the site that has sent a session's visitor may come back to it.
pub(super) fn check_origin_for(
    session: Option<&Identity>,
    headers: &HeaderMap,
    app: &App,
) -> Result<(), Fault> {
    let own = session.and_then(|session| session.origin.as_deref());
    let origin = headers.get(header::ORIGIN).map(HeaderValue::as_bytes);
    if own.is_some() && origin == own.map(str::as_bytes) {
        return Ok(());
    }
    check_origin(headers, app)
}

/// Without a seal, a page must not reach a shell by a name of its own that it lets point here.
pub(super) fn is_this_machine(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// The trace that a request is a part of, by W3C's `traceparent`.
pub(super) fn trace_parent(headers: &HeaderMap) -> Option<TraceParent> {
    TraceParent::parse(headers.get("traceparent")?.to_str().ok()?)
}

/// The token a request presents: `Authorization: Bearer`, or `?token=` for those who cannot set
/// headers (a browser's WebSocket, a beacon).
pub(super) fn token(headers: &HeaderMap, query: Option<&str>) -> Option<String> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim().to_owned());
    bearer.or_else(|| query.map(str::to_owned))
}

/// Why a session was not opened.
#[derive(Debug)]
enum Locked {
    /// No token was presented.
    NoToken,
    /// There is no such session, or the token is not its own.
    Refused(Fault),
}

impl IntoResponse for Locked {
    fn into_response(self) -> Response {
        match self {
            Self::NoToken => token_missing(),
            Self::Refused(fault) => fault.into_response(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct TokenQuery {
    token: Option<String>,
}

/// The session that a request names in its path, opened by the token that it presents.
#[derive(Debug)]
pub(super) struct Owned(pub(super) Arc<Session>);

impl FromRequestParts<App> for Owned {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let query = Query::<TokenQuery>::from_request_parts(parts, app).await;
        let Query(query) = query.map_err(IntoResponse::into_response)?;
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, app).await;
        let Path(path) = path.map_err(IntoResponse::into_response)?;
        let id = path.get("id").map_or("", String::as_str);
        let token = token(&parts.headers, query.token.as_deref());
        let opened = open(app, id, token.as_deref()).await;
        opened.map(Self).map_err(IntoResponse::into_response)
    }
}

/// The session `id`, if another gateway has it. Not to know is no reason to send its visitor away for good.
pub(super) async fn elsewhere(app: &App, id: &str) -> Result<Option<Elsewhere>, Fault> {
    let found = app.sessions.elsewhere(id).await;
    found.map_err(|_| {
        let message = "Your session cannot be looked for at the moment. Try again in a moment.";
        Fault::new(FaultCode::GoingAway, message).retry_after(LOOK_AGAIN)
    })
}

/// The session `id`, for the holder of its token only.
async fn open(app: &App, id: &str, token: Option<&str>) -> Result<Arc<Session>, Locked> {
    let Some(session) = app.sessions.find(id) else {
        let found = elsewhere(app, id).await.map_err(Locked::Refused)?;
        let elsewhere = found.ok_or_else(|| Locked::Refused(no_such_session()))?;
        let token = token.ok_or(Locked::NoToken)?;
        return if elsewhere.opens_with(token) {
            Ok(app.sessions.take_over(elsewhere))
        } else {
            Err(Locked::Refused(wrong_token(app)))
        };
    };
    let token = token.ok_or(Locked::NoToken)?;
    if session.opens_with(token) {
        Ok(session)
    } else {
        Err(Locked::Refused(wrong_token(app)))
    }
}

/// A token that opens a session's terminal.
#[derive(Debug, Clone)]
pub(super) enum Key {
    /// The session's own.
    Owner(String),
    /// A share's.
    Guest(String),
}

impl Key {
    /// The token in the clear.
    pub(super) fn token(&self) -> &str {
        let (Self::Owner(token) | Self::Guest(token)) = self;
        token
    }
}

/// What `token` opens of this session.
pub(super) fn key(app: &App, session: &Session, token: String) -> Result<Key, Fault> {
    if session.opens_with(&token) {
        Ok(Key::Owner(token))
    } else if session.shares.open_with(&token) {
        Ok(Key::Guest(token))
    } else {
        Err(wrong_token(app))
    }
}

/// The refusal of a wrong token.
pub(super) fn wrong_token(app: &App) -> Fault {
    app.metrics.refused(FaultCode::TokenRefused.name());
    Fault::new(
        FaultCode::TokenRefused,
        "This session belongs to somebody else.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_its_own() {
        for own in [
            "localhost",
            "localhost:3001",
            "127.0.0.1:3001",
            "[::1]:3001",
        ] {
            assert!(is_this_machine(own), "{own}");
        }
        for other in [
            "evil.example:3001",
            "localhost.evil.example",
            "192.0.2.1:3001",
            "",
        ] {
            assert!(!is_this_machine(other), "{other}");
        }
    }
}
