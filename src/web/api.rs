//! The API for programs: sandboxes, and what is done in them. Its own dialect; others' are beside it.
//!
//! In reading order: [`auth`] says who asks, [`body`] reads what is asked for with the [`units`] that
//! people write, [`sandboxes`] and [`templates`] are the routes, [`idempotency`] answers a repeated
//! request as the first one, [`problem`] is what anyone is told who gets none of it.

use axum::Router;
use axum::middleware::{from_fn, map_response};
use axum::routing::{get, post};

use super::{App, bounded_body, inside};

pub(in crate::web) mod auth;

pub(in crate::web) mod body;

pub(in crate::web) mod problem;

pub(in crate::web) mod units;

mod idempotency;

mod sandboxes;

mod templates;

pub use idempotency::Answers;

/// The routes. They are served at `/api/v1`, and for clients of other systems at `/api` and `/` too.
///
/// Those whose body is small are read as a whole before their handler runs; what streams its body
/// is a route of its own below.
pub(super) fn router() -> Router<App> {
    let small = Router::new()
        .route("/sandboxes", get(sandboxes::list).post(sandboxes::create))
        .route(
            "/sandboxes/{id}",
            get(sandboxes::show).delete(sandboxes::end),
        )
        .route("/sandboxes/{id}/timeout", post(sandboxes::set_timeout))
        .route("/sandboxes/{id}/actions", post(sandboxes::act))
        .route("/templates", get(templates::list))
        .route("/templates/{name}", get(templates::show))
        .nest("/sandboxes/{id}", inside::routes())
        .layer(from_fn(bounded_body));
    Router::new()
        .merge(small)
        .nest("/sandboxes/{id}", inside::streams())
        .layer(map_response(problem::in_our_form))
}
