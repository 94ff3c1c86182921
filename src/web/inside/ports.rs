//! `ANY /sandboxes/{id}/ports/{port}/…`: a server on the sandbox's loopback, by HTTP or WebSocket.
//!
//! Every request has a connection of its own to the server, through the link: one answer can never be
//! taken for another's. Neither side may hurt the other: [`headers`] says what passes, [`body`] how
//! long a body may stand still, [`tunnel`] the same for a WebSocket.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{OriginalUri, Request, State};
use axum::http::uri::PathAndQuery;
use axum::http::{Method, StatusCode, Uri, Version};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use belljar_link::client::port::PortStream;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use utoipa_axum::router::OpenApiRouter;

use super::patience::Patience;
use super::{Running, Trouble};
use crate::web::App;
use crate::web::api::problem::Problem;
use crate::web::error::Foreign;

mod body;

mod headers;

mod tunnel;

use body::Progress;

/// How long a server may take to begin its answer, once it has been sent the request. What thinks
/// longer had better say something meanwhile.
const HEAD_DEADLINE: Duration = Duration::from_secs(120);

/// Bytes that are read ahead of a server's answer, and so its largest head.
const MAX_BUFFER: usize = 64 * 1024;

/// Most headers of an answer.
const MAX_HEADERS: usize = 100;

/// Where they are.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .route("/ports/{port}", any(proxy))
        .route("/ports/{port}/", any(proxy))
        .route("/ports/{port}/{*path}", any(proxy))
}

/// What a request asks for, by its address.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    /// The address up to the port, which is the server's root.
    prefix: &'a str,
    port: u16,
    /// What comes behind it, as it came: nothing, or a path.
    rest: &'a str,
}

impl<'a> Target<'a> {
    fn of(path: &'a str) -> Result<Self, Trouble> {
        const PORTS: &str = "/ports/";
        let begin = path.find(PORTS).map_or(path.len(), |at| at + PORTS.len());
        let length = path[begin..].find('/');
        let end = length.map_or(path.len(), |length| begin + length);
        let digits = &path[begin..end];
        let number = digits.bytes().all(|b| b.is_ascii_digit());
        let port = digits.parse().ok().filter(|port| number && *port > 0);
        Ok(Self {
            prefix: &path[..end],
            port: port.ok_or_else(|| Trouble::bad("port", "must be a number from 1 to 65535"))?,
            rest: &path[end..],
        })
    }

    /// What the server is asked for.
    fn uri(&self, query: Option<&str>) -> Result<Uri, Trouble> {
        let path = if self.rest.is_empty() { "/" } else { self.rest };
        let whole = match query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        let whole = PathAndQuery::from_maybe_shared(whole);
        whole
            .map(Uri::from)
            .map_err(|error| Trouble::bad("path", error.to_string()))
    }
}

async fn proxy(
    State(app): State<App>,
    OriginalUri(address): OriginalUri,
    running: Running,
    patience: Patience,
    request: Request,
) -> Response {
    let asked = ask(&app, &address, running, patience, request).await;
    asked.unwrap_or_else(|refused| refused)
}

async fn ask(
    app: &App,
    address: &Uri,
    running: Running,
    patience: Patience,
    mut request: Request,
) -> Result<Response, Response> {
    let target = Target::of(address.path()).map_err(IntoResponse::into_response)?;
    let (query, secret) = headers::without_credentials(address.query());
    if secret && headers::navigates(request.headers()) {
        let told =
            "a page could read it in its own address; use a header, or a password in the URL";
        return Err(Trouble::bad("api_key", told).into_response());
    }
    let uri = target.uri(query.as_deref());
    let uri = uri.map_err(IntoResponse::into_response)?;
    let connected = running.link.connect_port(target.port).await;
    let stream = connected.map_err(|error| Trouble::from(error).into_response())?;
    // Its end must not wait for an answer, nor the other way round.
    drop(running);

    let upgrade = request.method() == Method::GET && headers::is_websocket(request.headers());
    let visitor = upgrade.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let (body, progress) = body::watched(body);
    let mut passed = hyper::Request::new(body);
    *passed.method_mut() = parts.method;
    *passed.uri_mut() = uri;
    *passed.version_mut() = Version::HTTP_11;
    *passed.headers_mut() = headers::for_server(&parts.headers, &target, upgrade);
    let answer = exchange(app, stream, passed, &progress).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(switch(app, visitor, answer));
    }
    let (mut parts, body) = answer.into_parts();
    parts.version = Version::HTTP_11;
    parts.headers = headers::for_visitor(&parts.headers, &target);
    parts.extensions.insert(Foreign);
    let body = body::pumped(app, body, patience.hold());
    Ok(Response::from_parts(parts, body))
}

/// Send the request; resolves with the head of the answer.
async fn exchange(
    app: &App,
    stream: PortStream,
    request: hyper::Request<Body>,
    progress: &Arc<Progress>,
) -> Result<hyper::Response<Incoming>, Response> {
    let mut client = http1::Builder::new();
    client.max_buf_size(MAX_BUFFER).max_headers(MAX_HEADERS);
    let connected = client.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.map_err(|_| no_http())?;
    // Ends with the answer or with whoever waits for it, and with the link.
    app.tasks.spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    tokio::select! {
        answer = sender.send_request(request) => answer.map_err(|_| {
            if progress.broke_off() {
                Trouble::BrokenBody.into_response()
            } else {
                no_http()
            }
        }),
        () = progress.stopped_for(HEAD_DEADLINE) => Err(Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "no_answer",
            "The server in the sandbox did not answer in time.",
        )
        .into_response()),
    }
}

/// The server speaks WebSocket from here on.
fn switch(
    app: &App,
    visitor: Option<OnUpgrade>,
    mut answer: hyper::Response<Incoming>,
) -> Response {
    // Nobody asked for that, or not for that.
    let visitor = visitor.filter(|_| headers::is_websocket(answer.headers()));
    let Some(visitor) = visitor else {
        return no_http();
    };
    let server = hyper::upgrade::on(&mut answer);
    app.tasks.spawn(tunnel::run(visitor, server));
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    *response.headers_mut() = headers::of_upgrade(answer.headers());
    response.extensions_mut().insert(Foreign);
    response
}

fn no_http() -> Response {
    Problem::new(
        StatusCode::BAD_GATEWAY,
        "bad_answer",
        "What listens on this port of the sandbox does not answer as an HTTP server does.",
    )
    .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_passed_on_as_it_came() {
        let whole = "/api/v1/sandboxes/ab/ports/8000/a/../b//c%2Fd/ports/1/%2e%2e/";
        let target = Target::of(whole).unwrap();
        assert_eq!(target.prefix, "/api/v1/sandboxes/ab/ports/8000");
        assert_eq!(target.port, 8000);
        assert_eq!(target.rest, "/a/../b//c%2Fd/ports/1/%2e%2e/");
        let uri = target.uri(Some("x=%20;y")).unwrap();
        assert_eq!(uri.to_string(), "/a/../b//c%2Fd/ports/1/%2e%2e/?x=%20;y");
        let bare = Target::of("/sandboxes/ab/ports/80").unwrap();
        assert_eq!(bare.uri(None).unwrap().to_string(), "/");
        let double = Target::of("/sandboxes/ab/ports/80//evil.example/x").unwrap();
        assert_eq!(double.uri(None).unwrap().to_string(), "//evil.example/x");
    }

    #[test]
    fn a_port_is_a_number() {
        for port in ["0", "65536", "-1", "+80", "8a", "", "%38", "99999999999"] {
            let path = format!("/sandboxes/ab/ports/{port}/x");
            let Err(Trouble::Bad { field, .. }) = Target::of(&path) else {
                panic!("{port}");
            };
            assert_eq!(field, "port");
        }
    }
}
