//! The dialect of `LiteBoxd`: what of it has other names than ours.

use axum::extract::State;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::api::body::Body;
use super::api::openapi::{Id, Refusals, ServerSentEvent, Troubles};
use super::inside::command::Command;
use super::inside::commands::{self, Begun};
use super::inside::outcome::Outcome;
use super::inside::patience::Patience;
use super::inside::{Running, Trouble};

mod interactive;

mod upload;

/// Routes below `/sandboxes/{id}` whose requests are small and come whole.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(exec))
        .routes(routes!(interactive::interactive))
}

/// Routes below `/sandboxes/{id}` whose requests may be as large as a file.
pub(super) fn streams() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(upload::upload))
}

/// Run a command, as `POST /commands` does
#[utoipa::path(
    post, path = "/exec", tag = "other dialects", operation_id = "exec",
    params(Id),
    request_body = Command,
    responses(
        (status = 200, description = "What it came to, or what it says on the way",
            content((Outcome = "application/json"), (ServerSentEvent = "text/event-stream"))),
        (status = 202, description = "It runs in the background", body = Begun), Refusals, Troubles)
)]
async fn exec(
    app: State<App>,
    patience: Patience,
    running: Running,
    body: Body<Command>,
) -> Result<Response, Trouble> {
    commands::create(app, patience, running, body).await
}
