//! The API for programs: sandboxes, and what is done in them. Its own dialect; others' are beside it.
//!
//! In reading order: [`auth`] says who asks, [`body`] reads what is asked for with the [`units`] that
//! people write, [`sandboxes`] and [`templates`] are the routes, [`idempotency`] answers a repeated
//! request as the first one, [`problem`] is what anyone is told who gets none of it, [`openapi`] says all
//! that to programs.

use axum::Router;
use axum::middleware::{from_fn, map_response};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{App, bounded_body, inside, k2, liteboxd, operator};

pub(in crate::web) mod auth;

pub(in crate::web) mod body;

pub(in crate::web) mod problem;

pub(in crate::web) mod units;

mod idempotency;

pub(in crate::web) mod openapi;

mod sandboxes;

mod templates;

pub use idempotency::Answers;

use openapi::Description;

/// The routes, described. They are served at `/api/v1`, and for clients of other systems at `/api` and
/// `/` too.
///
/// Those whose body is small are read as a whole before their handler runs; what streams its body is
/// merged beside them.
pub(super) fn router() -> OpenApiRouter<App> {
    let small = OpenApiRouter::new()
        .routes(routes!(sandboxes::list, sandboxes::create))
        .routes(routes!(sandboxes::show, sandboxes::end))
        .routes(routes!(sandboxes::set_timeout))
        .routes(routes!(sandboxes::act))
        .routes(routes!(templates::list, templates::build))
        .routes(routes!(templates::show, templates::delete))
        .nest(
            "/sandboxes/{id}",
            inside::routes()
                .merge(k2::routes())
                .merge(liteboxd::routes()),
        )
        .layer(from_fn(bounded_body));
    OpenApiRouter::with_openapi(Description::openapi())
        .merge(small)
        .nest(
            "/sandboxes/{id}",
            inside::streams().merge(liteboxd::streams()),
        )
        .layer(map_response(problem::in_our_form))
}

/// The operators' routes, which no other system's clients know: at `/api/v1` only.
fn operators() -> OpenApiRouter<App> {
    OpenApiRouter::new().nest("/operator", operator::routes())
}

/// What all of them say of themselves.
fn description() -> utoipa::openapi::OpenApi {
    router().merge(operators()).into_openapi()
}

/// The same at all their addresses, and where their description is read.
pub(super) fn everywhere() -> Router<App> {
    let (routes, _) = router().split_for_parts();
    let (operators, _) = operators().split_for_parts();
    Router::new()
        .merge(routes.clone())
        .nest("/api", routes.clone())
        .nest("/api/v1", routes.merge(operators))
        .merge(openapi::routes(&description()))
}
