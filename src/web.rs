//! HTTP and WebSocket: the only layer that knows axum.
//!
//! In reading order: [`protocol`] and [`toolkata`] are the terminal's dialects as pure codecs,
//! [`websocket`] bounds what carries them, [`terminal`] joins a WebSocket to a session, [`input`]
//! queues what is typed, [`turns`] keeps much output from being in everybody's way, [`api`] is for
//! programs, [`operator`] for those who run the gateway, [`sessions`] is the REST side of sessions,
//! [`shares`], [`files`] and [`recording`] that of what belongs to them (a request's body is an [`object`]),
//! [`auth`] says who may, [`error`] is
//! what anyone is told who may not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tower_http::compression::CompressionLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::config::Live;
use crate::fleet::Fleet;
use crate::keys::Keys;
use crate::limit::Limiter;
use crate::sandbox::Sandboxes;
use crate::session::Sessions;
use crate::telemetry::Metrics;

pub mod protocol;

pub mod toolkata;

pub mod websocket;

mod terminal;

mod input;

pub mod api;

pub mod turns;

mod sessions;

mod shares;

mod files;

mod recording;

mod object;

mod inside;

mod operator;

mod k2;

mod liteboxd;

mod kubebox;

mod auth;

pub mod embed;

mod error;

mod assets;

mod health;

pub use inside::patience::Patience;

/// Largest request body, bytes. The largest request is a session with its environment.
const MAX_BODY: usize = 64 * 1024;

/// How long a request's body may take to come.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Nothing but our own scripts and connections. xterm.js sets styles from script, so inline styles
/// are allowed; the player of recordings is partly WebAssembly, which needs to be compiled.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; \
    style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// The same for a page that pages of these origins may frame.
fn content_security_policy(framed_by: &[String]) -> String {
    let own = std::iter::once(CONTENT_SECURITY_POLICY);
    let others = framed_by.iter().map(String::as_str);
    own.chain(others).collect::<Vec<_>>().join(" ")
}

/// What every handler can reach.
#[derive(Debug, Clone)]
pub struct App {
    /// The configuration in force.
    pub config: Arc<Live>,
    /// The sessions.
    pub sessions: Arc<Sessions>,
    /// The sandboxes that programs hold.
    pub fleet: Arc<Fleet>,
    /// Their keys.
    pub keys: Arc<Keys>,
    /// Embed tokens that have been used.
    pub seen: Arc<embed::Seen>,
    /// What was answered to requests that may come again.
    pub answers: Arc<api::Answers>,
    /// The clients' limits.
    pub limiter: Arc<Limiter>,
    /// The sandboxes.
    pub sandboxes: Arc<Sandboxes>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The turns of their output.
    pub turns: Arc<turns::Turns>,
    /// When the gateway began.
    pub begun: Instant,
    /// What the gateway waits for before it is gone: a WebSocket outlives its request.
    pub tasks: TaskTracker,
}

/// Every route, and what every request passes on its way.
pub fn router(app: App) -> Router {
    let sessions = Router::new()
        .route("/sessions", post(sessions::create))
        .route("/sessions/{id}", get(sessions::show).delete(sessions::end))
        // For `navigator.sendBeacon`, which can only POST.
        .route("/sessions/{id}/destroy", post(sessions::end))
        .route("/sessions/{id}/ws", any(terminal::attach))
        .route(
            "/sessions/{id}/shares",
            get(shares::list).post(shares::create),
        )
        .route("/sessions/{id}/shares/{share}", delete(shares::revoke))
        .route("/sessions/{id}/recording", get(recording::show))
        .route("/environments", get(sessions::environments))
        .route("/status", get(health::status))
        .layer(from_fn(bounded_body))
        .merge(files::routes());
    // What every page of the web may load: the element, and nothing that knows anything.
    let public = Router::new()
        .route("/embed.js", get(assets::script))
        .route("/assets/{*path}", get(assets::asset))
        .layer(always(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .layer(always(
            HeaderName::from_static("cross-origin-resource-policy"),
            "cross-origin",
        ));
    // Only what is ours and public is compressed: a compressed secret leaks by its length.
    let pages = Router::new()
        .route("/", get(index))
        .route("/embed", get(assets::frame))
        .route("/console", get(assets::console))
        .merge(public)
        .layer(CompressionLayer::new())
        .layer(map_response(error::in_our_form));
    Router::new()
        .merge(sessions.clone())
        .nest("/api/v1", sessions)
        .merge(api::everywhere())
        .merge(kubebox::routes())
        .route("/ws", any(terminal::start))
        .route("/health", get(health::health))
        .route("/metrics", get(health::metrics))
        .layer(map_response(error::in_our_form))
        .layer(cors(app.config.clone()))
        .merge(pages)
        .layer(always(
            header::CONTENT_SECURITY_POLICY,
            CONTENT_SECURITY_POLICY,
        ))
        .layer(always(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(always(header::REFERRER_POLICY, "no-referrer"))
        .with_state(app)
}

/// `GET /`: the page for people, a word of welcome for programs.
async fn index(headers: HeaderMap) -> Response {
    let shows_pages = k2::shows_pages(&headers);
    let mut response = if shows_pages {
        assets::index(&headers)
    } else {
        k2::welcome()
    };
    let vary = HeaderValue::from_static("accept");
    response.headers_mut().append(header::VARY, vary);
    response
}

/// What a connection is served whose client has too many of them.
pub fn refusal() -> Router {
    Router::new().fallback(async || error::too_many_connections())
}

/// Receive the body first: at most so much of it, in so much time.
async fn bounded_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if body.size_hint().lower() > MAX_BODY as u64 {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    }
    match timeout(BODY_DEADLINE, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => {
            let request = Request::from_parts(parts, Body::from(bytes));
            next.run(request).await
        }
        // Without an announced length; or the client is gone and hears no answer.
        Ok(Err(_)) => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

fn always(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
}

/// Pages of the allowed origins may call the REST routes.
fn cors(config: Arc<Live>) -> CorsLayer {
    let allowed = move |origin: &HeaderValue, _: &Parts| {
        let config = config.get();
        let mut origins = config.allowed_origins.iter();
        origins.any(|allowed| allowed.as_bytes() == origin.as_bytes())
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allowed))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("x-api-key"),
        ])
        .expose_headers([header::LINK, header::RETRY_AFTER])
        .max_age(Duration::from_secs(600))
}
