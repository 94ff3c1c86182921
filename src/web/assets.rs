//! The pages and what belongs to them, embedded in the binary. `web/` builds them.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};

use super::{App, content_security_policy};

#[derive(RustEmbed)]
#[folder = "web/dist"]
struct Dist;

/// `GET /`
pub(super) fn index(headers: &HeaderMap) -> Response {
    // The page names its assets by their hashes, so only the page itself must be asked for again.
    serve("index.html", "no-cache", headers)
}

/// `GET /console`: what goes on, for operators.
pub(super) async fn console(headers: HeaderMap) -> Response {
    serve("console.html", "no-cache", &headers)
}

/// `GET /docs`: the API, to read.
pub(super) async fn docs(headers: HeaderMap) -> Response {
    serve("docs.html", "no-cache", &headers)
}

/// `GET /embed`: a terminal and nothing else, for a frame in a page of an allowed origin.
pub(super) async fn frame(State(app): State<App>, headers: HeaderMap) -> Response {
    let mut response = serve("embed.html", "no-cache", &headers);
    // Also when the page has not changed: what a browser keeps takes the headers of the newest answer.
    let origins = &app.config.get().allowed_origins;
    if let Ok(policy) = HeaderValue::from_str(&content_security_policy(origins)) {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// `GET /embed.js`: the element, for pages of other sites.
pub(super) async fn script(headers: HeaderMap) -> Response {
    // It names its assets by their hashes, as the page does: an old one would ask for what is gone.
    serve("embed.js", "no-cache", &headers)
}

/// `GET /assets/…`
pub(super) async fn asset(Path(path): Path<String>, headers: HeaderMap) -> Response {
    let path = format!("assets/{path}");
    serve(&path, "public, max-age=31536000, immutable", &headers)
}

fn serve(path: &str, caching: &'static str, headers: &HeaderMap) -> Response {
    let Some(EmbeddedFile { data, metadata }) = Dist::get(path) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let hash = metadata.sha256_hash();
    let tag = hash[..8]
        .iter()
        .fold(String::from("\""), |tag, byte| format!("{tag}{byte:02x}"))
        + "\"";
    let fresh = headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let common = [
        (header::CACHE_CONTROL, caching.to_owned()),
        (header::ETAG, tag),
    ];
    if fresh {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let kind = mime_guess::from_path(path).first_or_octet_stream();
    let kind = [(header::CONTENT_TYPE, kind.to_string())];
    (common, kind, data).into_response()
}
