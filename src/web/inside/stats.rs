//! What a sandbox uses.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Running, Trouble};
use crate::web::api::openapi::{Id, Refusals, Troubles};

/// What a sandbox uses at this moment.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stats {
    /// CPU time of all its processes so far, ms.
    cpu_ms: u64,
    memory_bytes: u64,
    memory_limit_bytes: u64,
    processes: u64,
    uptime_ms: u64,
    /// Bytes of files in the home directory.
    home_used: u64,
    home_size: u64,
    /// Bytes of files in /tmp.
    tmp_used: u64,
    tmp_size: u64,
}

/// Show what a sandbox uses at this moment
#[utoipa::path(
    get, path = "/stats", tag = "sandboxes", operation_id = "showStats",
    params(Id),
    responses((status = 200, description = "What it uses", body = Stats), Refusals, Troubles)
)]
pub(super) async fn show(running: Running) -> Result<Json<Stats>, Trouble> {
    let stats = running.link.stats().await?;
    Ok(Json(Stats {
        cpu_ms: stats.cpu_ms,
        memory_bytes: stats.memory_bytes,
        memory_limit_bytes: stats.memory_limit_bytes,
        processes: stats.processes,
        uptime_ms: stats.uptime_ms,
        home_used: stats.home_used,
        home_size: stats.home_size,
        tmp_used: stats.tmp_used,
        tmp_size: stats.tmp_size,
    }))
}
