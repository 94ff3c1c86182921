//! The page and what belongs to it, embedded in the binary. `web/` builds them.

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};

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
