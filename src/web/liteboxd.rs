//! The dialect of `LiteBoxd`: what of it has other names than ours.

use axum::routing::{get, post};
use utoipa_axum::router::OpenApiRouter;

use super::App;
use super::inside::commands;

mod interactive;

mod upload;

/// Routes below `/sandboxes/{id}` whose requests are small and come whole.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .route("/exec", post(commands::create))
        .route("/exec/interactive", get(interactive::interactive))
}

/// Routes below `/sandboxes/{id}` whose requests may be as large as a file.
pub(super) fn streams() -> OpenApiRouter<App> {
    OpenApiRouter::new().route("/files", post(upload::upload))
}
