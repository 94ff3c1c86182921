//! Which program asks: by its key, or from this machine where nobody needs one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{ConnectInfo, FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::super::App;
use super::super::auth::{Visitor, check_origin, is_this_machine};
use super::problem::Problem;
use crate::fleet::{Caller, Held};
use crate::keys::{Refusal, Scope};
use crate::limit::Client;

/// What proxies say of those for whom they ask.
const FORWARDED: [&str; 6] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Who asks. Whoever may not is refused before the handler runs.
#[derive(Debug)]
pub(in crate::web) struct Asking(pub(in crate::web) Caller);

impl FromRequestParts<App> for Asking {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        check_origin(&parts.headers, app)?;
        if app.keys.is_empty() {
            return local(parts)
                .map(|()| Self(Caller::local()))
                .map_err(|problem| problem.counted(&app.metrics));
        }
        let Some(presented) = presented(&parts.headers, parts.uri.query()) else {
            let message = "This needs an API key: Authorization: Bearer, or X-API-Key.";
            let problem = Problem::new(StatusCode::UNAUTHORIZED, "key_missing", message);
            return Err(problem.counted(&app.metrics));
        };
        let key = match app.keys.find(&presented, SystemTime::now()) {
            Ok(key) => key,
            Err(refusal) => {
                let Ok(Visitor(client)) = Visitor::from_request_parts(parts, app).await;
                return Err(refused(refusal, client, app));
            }
        };
        if !key.may(Scope::Sandboxes) {
            let message = "This API key may not be used for sandboxes.";
            let problem = Problem::new(StatusCode::FORBIDDEN, "scope_missing", message);
            return Err(problem.counted(&app.metrics));
        }
        Ok(Self(Caller::of(&key)))
    }
}

impl Asking {
    /// For what changes things for everyone.
    pub(in crate::web) fn as_admin(&self) -> Result<(), Problem> {
        if self.0.admin {
            return Ok(());
        }
        let message = "This needs an API key with the scope admin.";
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "scope_missing",
            message,
        ))
    }
}

/// The sandbox that a request names in its path, if it is this caller's business.
#[derive(Debug)]
pub(in crate::web) struct Mine(pub(in crate::web) Arc<Held>);

impl FromRequestParts<App> for Mine {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Asking(caller) = Asking::from_request_parts(parts, app).await?;
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, app).await;
        let Path(path) = path.map_err(|_| Problem::no_sandbox())?;
        let id = path.get("id").map_or("", String::as_str);
        let held = app.fleet.find(id, &caller);
        held.map(Self).ok_or_else(Problem::no_sandbox)
    }
}

/// A wrong key.
fn refused(refusal: Refusal, client: Client, app: &App) -> Problem {
    if let Err(wait) = app.limiter.guesses.wrong(client) {
        let message = "Too many wrong API keys came from your address. Please wait.";
        return Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message)
            .retry_after(wait)
            .counted(&app.metrics);
    }
    tracing::info!(%client, error = %refusal, "a wrong API key was presented");
    let (code, message) = match refusal {
        Refusal::Unknown => ("key_refused", "This API key is not valid."),
        Refusal::Expired => ("key_expired", "This API key has expired."),
    };
    Problem::new(StatusCode::FORBIDDEN, code, message).counted(&app.metrics)
}

/// A program of this machine, and neither somebody for whom a proxy asks nor a page that a browser
/// shows: a page reaches this machine by a name that its site lets point here, and by requests that
/// browsers send without asking.
fn local(parts: &Parts) -> Result<(), Problem> {
    let refuse = |message: &str| Err(Problem::new(StatusCode::FORBIDDEN, "key_required", message));
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let here = peer.is_some_and(|peer| peer.0.ip().to_canonical().is_loopback());
    let headers = &parts.headers;
    if !here || FORWARDED.iter().any(|name| headers.contains_key(*name)) {
        return refuse(
            "Without an API key this answers programs on its own machine only. The operator makes \
             keys with `belljar key new`.",
        );
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    let origin = text(header::ORIGIN).and_then(|origin| origin.split_once("://"));
    let own = headers.get(header::ORIGIN).is_none() || origin.is_some_and(|(_, own)| own == host);
    let site = text(header::HeaderName::from_static("sec-fetch-site"));
    let same = site.is_none_or(|site| matches!(site, "same-origin" | "none"));
    if !is_this_machine(host) || !own || !same {
        return refuse("Without an API key this does not answer pages of other sites.");
    }
    Ok(())
}

/// Before the key, in the list of subprotocols that a browser's WebSocket offers.
pub(in crate::web) const OFFERED: &str = "belljar.key.";

/// The key that a request presents. Clients that take nothing but a URL send Basic, whose password it
/// is. A page's socket can set neither header nor, if the key is to stay out of logs, `?api_key=`: it
/// offers the key as a subprotocol that nobody takes, as Kubernetes does.
fn presented(headers: &HeaderMap, query: Option<&str>) -> Option<String> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    if let Some((scheme, value)) = text("authorization").and_then(|value| value.split_once(' ')) {
        let value = value.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(value.to_owned());
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let decoded = BASE64_STANDARD.decode(value).ok()?;
            let decoded = String::from_utf8(decoded).ok()?;
            return Some(decoded.split_once(':')?.1.to_owned());
        }
    }
    if let Some(key) = text("x-api-key") {
        return Some(key.trim().to_owned());
    }
    let mut offered = text("sec-websocket-protocol")
        .into_iter()
        .flat_map(|all| all.split(','));
    if let Some(key) = offered.find_map(|one| one.trim().strip_prefix(OFFERED)) {
        return Some(key.to_owned());
    }
    // A key has no character that would be escaped.
    let mut pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    let (_, key) = pairs.find(|(name, _)| *name == "api_key")?;
    Some(key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn found(headers: &[(&'static str, &str)], query: Option<&str>) -> Option<String> {
        let pairs = headers.iter().map(|(name, value)| {
            let value = HeaderValue::from_str(value).unwrap();
            (HeaderName::from_static(name), value)
        });
        presented(&pairs.collect(), query)
    }

    #[test]
    fn a_key_comes_in_five_ways() {
        let basic = format!("Basic {}", BASE64_STANDARD.encode("user:blj_1"));
        for (headers, query) in [
            (vec![("authorization", "bearer  blj_1 ")], None),
            (vec![("authorization", basic.as_str())], None),
            (vec![("x-api-key", "blj_1")], Some("api_key=other")),
            (vec![], Some("a=b&api_key=blj_1&c")),
            (
                vec![("sec-websocket-protocol", "belljar.pty, belljar.key.blj_1")],
                None,
            ),
        ] {
            assert_eq!(found(&headers, query).as_deref(), Some("blj_1"));
        }
        assert_eq!(found(&[("authorization", "Basic ?")], None), None);
        assert_eq!(found(&[], Some("xapi_key=1")), None);
    }
}
