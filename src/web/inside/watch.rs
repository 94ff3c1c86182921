//! Changes of files, as they happen.

use std::convert::Infallible;

use axum::extract::{Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use belljar_link::client::LinkError;
use belljar_link::message::files::WatchEvent;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use utoipa::IntoParams;

use super::command::directory;
use super::commands::Said;
use super::outcome::hand_over;
use super::patience::Patience;
use super::{Running, Trouble};
use crate::web::App;
use crate::web::api::openapi::{Id, Refusals, ServerSentEvent, Troubles};

/// Changes that may wait for their reader. The agent has a bound of its own, and says when it is over.
const WAITING: usize = 64;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WatchQuery {
    /// A file or directory; the working directory if absent.
    path: Option<String>,
    /// Also all that is below it.
    #[serde(default)]
    recursive: bool,
}

/// Watch files
///
/// Server-sent events, until the reader goes, or with an `error` the sandbox: `ready`, then `created`, `modified` and
/// `removed` `{path, isDir}`, `renamed {from, path, isDir}`, and `overflow` if there were more than could
/// be told.
#[utoipa::path(
    get, path = "/files/watch", tag = "files", operation_id = "watchFiles",
    params(Id, WatchQuery),
    responses(
        (status = 200, description = "Changes as they happen", body = ServerSentEvent, content_type = "text/event-stream"), Refusals, Troubles)
)]
pub(super) async fn watch(
    State(app): State<App>,
    patience: Patience,
    running: Running,
    Query(query): Query<WatchQuery>,
) -> Result<Response, Trouble> {
    let path = directory(&running.held, query.path.as_deref());
    let mut watch = running.link.watch(&path, query.recursive).await?;
    let (changes, reader) = mpsc::channel(WAITING);
    let holding = patience.hold();
    app.tasks.spawn(async move {
        let _holding = holding;
        if !hand_over(&changes, Event::default().event("ready").data("{}")).await {
            return;
        }
        loop {
            let change = tokio::select! {
                change = watch.next() => change,
                () = changes.closed() => return,
            };
            let (said, last) = match change {
                Some(Ok(change)) => (event(change), false),
                Some(Err(error)) => (Said::error(&error.into()).event(), true),
                None => (Said::error(&LinkError::Closed.into()).event(), true),
            };
            if !hand_over(&changes, said).await || last {
                return;
            }
        }
    });
    let events = futures::stream::unfold(reader, |mut reader| async move {
        Some((Ok::<_, Infallible>(reader.recv().await?), reader))
    });
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response())
}

fn event(change: WatchEvent) -> Event {
    let (name, data) = match change {
        WatchEvent::Created { path, directory } => {
            ("created", json!({"path": path, "isDir": directory}))
        }
        WatchEvent::Modified { path, directory } => {
            ("modified", json!({"path": path, "isDir": directory}))
        }
        WatchEvent::Removed { path, directory } => {
            ("removed", json!({"path": path, "isDir": directory}))
        }
        WatchEvent::Renamed {
            from,
            path,
            directory,
        } => (
            "renamed",
            json!({"from": from, "path": path, "isDir": directory}),
        ),
        WatchEvent::Overflow => ("overflow", json!({})),
    };
    Event::default().event(name).data(data.to_string())
}
