//! The dialect of `LiteBoxd`: what of it has other names than ours.

use axum::routing::post;
use utoipa_axum::router::OpenApiRouter;

use super::App;
use super::inside::commands;

mod upload;

/// Routes below `/sandboxes/{id}` whose requests are small and come whole.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().route("/exec", post(commands::create))
}

/// Routes below `/sandboxes/{id}` whose requests may be as large as a file.
pub(super) fn streams() -> OpenApiRouter<App> {
    OpenApiRouter::new().route("/files", post(upload::upload))
}
