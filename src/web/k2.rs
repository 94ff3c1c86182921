//! The dialect of the K2 Sandbox API: what of it has other names than ours.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use belljar_link::message::files::WriteOptions;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::api::body::Body;
use super::api::openapi::{Id, Refusals, ServerSentEvent, Troubles};
use super::inside::command::{Command, directory};
use super::inside::commands::Begun;
use super::inside::files::Shown;
use super::inside::outcome::Outcome;
use super::inside::patience::Patience;
use super::inside::{Running, Trouble, commands};

/// Most of a file that is put into a JSON answer, bytes.
const MAX_CONTENT: u64 = 1 << 20;

/// Entries of a listing.
const MAX_ENTRIES: u32 = 10_000;

/// Routes below `/sandboxes/{id}`.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(command))
        .routes(routes!(filesystem))
}

/// What programs are told at `/`, where browsers find the page.
pub(super) fn welcome() -> Response {
    let body = json!({
        "message": "Welcome to Belljar: throw-away Linux sandboxes, sealed in gVisor",
        "version": env!("CARGO_PKG_VERSION"),
        "docs": "/docs",
    });
    Json(body).into_response()
}

/// Whether whoever asks shows pages.
pub(super) fn shows_pages(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// What is to be done with a file.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[schema(as = FileAction)]
#[serde(rename_all = "lowercase")]
enum Action {
    List,
    Read,
    Write,
    Delete,
}

/// What is to be done with which file.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct FileRequest {
    #[schema(required, value_type = Action)]
    action: Option<Action>,
    path: Option<String>,
    /// For `write`.
    content: Option<String>,
}

/// Run a command, as `POST /commands` does
#[utoipa::path(
    post, path = "/command", tag = "other dialects", operation_id = "command",
    params(Id),
    request_body = Command,
    responses(
        (status = 200, description = "What it came to, or what it says on the way",
            content((Outcome = "application/json"), (ServerSentEvent = "text/event-stream"))),
        (status = 202, description = "It runs in the background", body = Begun), Refusals, Troubles)
)]
async fn command(
    app: State<App>,
    patience: Patience,
    running: Running,
    body: Body<Command>,
) -> Result<Response, Trouble> {
    commands::create(app, patience, running, body).await
}

/// List, read, write or delete a file
///
/// What is read is text of at most 1 MiB.
#[utoipa::path(
    post, path = "/filesystem", tag = "other dialects", operation_id = "filesystem",
    params(Id),
    request_body = FileRequest,
    responses(
        (status = 200, description = "`path`, and with it `files`, `content`, `size` or `deleted`",
            body = serde_json::Value), Refusals, Troubles)
)]
async fn filesystem(
    State(_): State<App>,
    running: Running,
    Body(request): Body<FileRequest>,
) -> Result<Response, Trouble> {
    let link = &running.link;
    let action = request
        .action
        .ok_or_else(|| Trouble::bad("action", "must be one of: list, read, write, delete"))?;
    let path = match (action, request.path.as_deref()) {
        (Action::List, path) => directory(&running.held, path),
        (_, None | Some("")) => return Err(Trouble::bad("path", "must be given")),
        (_, path) => directory(&running.held, path),
    };
    let body = match action {
        Action::List => {
            let listing = link.list(&path, 1, MAX_ENTRIES).await?;
            let entries: Vec<Shown> = listing.entries.into_iter().map(Shown::from).collect();
            json!({"path": path, "files": entries, "truncated": listing.truncated})
        }
        Action::Read => {
            let (info, mut reader) = link.read_file(&path, 0, Some(MAX_CONTENT)).await?;
            let mut bytes = Vec::new();
            while let Some(more) = reader.next().await {
                bytes.extend_from_slice(&more?);
            }
            let content = String::from_utf8_lossy(&bytes);
            json!({"path": path, "content": content, "truncated": info.size > MAX_CONTENT})
        }
        Action::Write => {
            let content = request
                .content
                .ok_or_else(|| Trouble::bad("content", "must be given"))?;
            let options = WriteOptions {
                make_dirs: true,
                ..WriteOptions::default()
            };
            let mut writer = link.write_file(&path, options).await?;
            writer.write(Bytes::from(content)).await?;
            json!({"path": path, "size": writer.finish().await?.size})
        }
        Action::Delete => {
            link.remove(&path, true).await?;
            json!({"path": path, "deleted": true})
        }
    };
    Ok(Json(body).into_response())
}
