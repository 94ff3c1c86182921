//! What goes on in the whole gateway, for those who run it: the routes behind the page at `/console`.
//!
//! In reading order: [`overview`] is the gateway in numbers, [`usage`] what each sandbox uses, [`sessions`]
//! lists, shows and ends those of visitors, [`sandboxes`] lists those of programs that have ended. What
//! programs hold, operators find where programs do.

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::middleware::{from_fn, map_response};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::api::auth::Asking;
use super::api::problem::{self, Problem};
use super::{App, bounded_body};
use crate::fleet::Caller;

mod overview;

mod usage;

mod sessions;

mod sandboxes;

/// The routes below `/api/v1/operator`. At one address only, so that a proxy can close it by one rule.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(overview::show))
        .routes(routes!(usage::show))
        .routes(routes!(sessions::list))
        .routes(routes!(sessions::show, sessions::end))
        .routes(routes!(sessions::watch))
        .routes(routes!(sessions::leave))
        .routes(routes!(sandboxes::ended))
        .layer(from_fn(bounded_body))
        .layer(map_response(problem::in_our_form))
}

/// Somebody who runs the gateway: the holder of a key with the scope `admin`, or this machine where
/// nobody needs a key.
#[derive(Debug)]
pub(super) struct Operator(pub(super) Caller);

impl FromRequestParts<App> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let asking = Asking::from_request_parts(parts, app).await?;
        asking.as_admin()?;
        Ok(Self(asking.0))
    }
}

/// Rows of one answer, unless it is asked for fewer or more, and at most.
const PAGE: (usize, usize) = (200, 1000);

/// How much of a list is asked for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// At most so many; 200 if absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

impl ListQuery {
    fn limit(query: Result<Query<Self>, QueryRejection>) -> Result<usize, Problem> {
        let allowed = format!("must be from 1 to {}", PAGE.1);
        let wrong = || Problem::bad_field("limit", &allowed);
        let Query(query) = query.map_err(|_| wrong())?;
        let limit = query.limit.unwrap_or(PAGE.0);
        (1..=PAGE.1)
            .contains(&limit)
            .then_some(limit)
            .ok_or_else(wrong)
    }
}
