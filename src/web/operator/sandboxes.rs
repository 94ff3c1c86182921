//! Programs' sandboxes that have ended, as an operator sees them.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ListQuery, Operator};
use crate::fleet::{Held, Reason};
use crate::web::App;
use crate::web::api::openapi::Refusals;
use crate::web::api::problem::Problem;
use crate::web::protocol::timestamp;

/// A program's sandbox that has ended.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EndedSandbox)]
pub(super) struct Shown {
    id: String,
    template: String,
    image: String,
    /// Whose it was: `local`, or `key` and the key's id.
    owner: String,
    /// Why it ended: `killed`, `timeout`, `out_of_memory`, …
    reason: Option<&'static str>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    ended_at: Option<String>,
}

impl Shown {
    fn of(held: &Held) -> Self {
        let status = held.status();
        Self {
            id: held.id.to_string(),
            template: held.template().to_owned(),
            image: held.image.clone(),
            owner: held.owner.to_string(),
            reason: status.state.reason().map(Reason::name),
            created_at: timestamp(held.created_at),
            ended_at: status.ended_at.map(timestamp),
        }
    }
}

/// List programs' sandboxes that have ended
///
/// Those that ended within the last ten minutes or so, the last to end first: by their time, by a fault,
/// and those that somebody has ended, which programs do not find any more.
#[utoipa::path(
    get, path = "/sandboxes/ended", tag = "operators", operation_id = "listEndedSandboxes",
    params(ListQuery),
    responses((status = 200, description = "Sandboxes", body = [Shown]), Refusals)
)]
pub(super) async fn ended(
    State(app): State<App>,
    Operator(caller): Operator,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Vec<Shown>>, Problem> {
    let limit = ListQuery::limit(query)?;
    let ended = app.fleet.ended(&caller);
    let shown = ended.iter().take(limit).map(|held| Shown::of(held));
    Ok(Json(shown.collect()))
}
