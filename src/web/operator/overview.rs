//! The gateway in numbers.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Operator;
use crate::sandbox::{AtCapacity, EngineState};
use crate::telemetry::Starts;
use crate::web::App;
use crate::web::api::openapi::Refusals;
use crate::web::protocol::millis;

/// The gateway at this moment, and what it has counted since it began.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Overview {
    version: &'static str,
    uptime_ms: u64,
    engine: Engine,
    /// Whether sandboxes were seen to run on gVisor; `null` while none can be started.
    sealed: Option<bool>,
    places: Places,
    /// Sandboxes started ahead, by template.
    pools: Vec<Pool>,
    line: Line,
    /// What the host is short of, while that keeps newcomers out.
    door_closed: Option<&'static str>,
    /// Sessions by state.
    sessions: BTreeMap<&'static str, u64>,
    /// Sandboxes that programs hold, by state.
    sandboxes: BTreeMap<&'static str, u64>,
    /// Those who were refused, by reason.
    refusals: BTreeMap<String, u64>,
    /// Sessions that have ended, by reason.
    sessions_ended: BTreeMap<String, u64>,
    /// Sandboxes of programs that have ended, by reason.
    sandboxes_ended: BTreeMap<String, u64>,
    starts: StartTimes,
}

/// What starts sandboxes.
#[derive(Debug, Serialize, ToSchema)]
struct Engine {
    /// `starting`, `ready`, `down` or `unsafe`.
    state: &'static str,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Places for sandboxes.
#[derive(Debug, Serialize, ToSchema)]
struct Places {
    /// Those being started or removed included.
    taken: usize,
    max: usize,
}

/// Sandboxes of a template that were started ahead.
#[derive(Debug, Serialize, ToSchema)]
struct Pool {
    template: String,
    ready: usize,
    wanted: usize,
}

/// Visitors who wait for a place.
#[derive(Debug, Serialize, ToSchema)]
struct Line {
    waiting: usize,
    max: usize,
}

/// How long starts took, ms. Quantiles are as exact as the buckets of the histogram.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct StartTimes {
    count: u64,
    sum_ms: f64,
    /// `null` before the first start.
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
}

impl From<Starts> for StartTimes {
    fn from(starts: Starts) -> Self {
        let ms = |seconds: f64| seconds * 1000.0;
        Self {
            count: starts.count,
            sum_ms: ms(starts.sum),
            p50_ms: starts.quantile(0.5).map(ms),
            p95_ms: starts.quantile(0.95).map(ms),
        }
    }
}

impl From<EngineState> for Engine {
    fn from(engine: EngineState) -> Self {
        let (state, reason) = match engine {
            EngineState::Starting => ("starting", None),
            EngineState::Ready => ("ready", None),
            EngineState::Down { reason } => ("down", Some(reason)),
            EngineState::Unsafe { reason } => ("unsafe", Some(reason)),
        };
        Self { state, reason }
    }
}

/// How many there are of each.
fn count<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, u64> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// Show the gateway in numbers
///
/// Needs a key with the scope `admin`, as everything for operators.
#[utoipa::path(
    get, path = "/overview", tag = "operators", operation_id = "showOverview",
    responses((status = 200, description = "The gateway in numbers", body = Overview), Refusals)
)]
pub(super) async fn show(State(app): State<App>, Operator(caller): Operator) -> Json<Overview> {
    let config = app.config.get();
    let totals = app.metrics.totals();
    let ready = app.sandboxes.pools();
    let has_pool = config.templates.iter().filter(|(_, t)| t.pool > 0);
    let door_closed = match app.sandboxes.closed() {
        Some(AtCapacity::Shortage(shortage)) => Some(shortage.name()),
        _ => None,
    };
    let sessions = app.sessions.all();
    let living = sessions.iter().map(|session| session.state().name());
    let held = app.fleet.list(&caller);
    Json(Overview {
        version: env!("CARGO_PKG_VERSION"),
        uptime_ms: millis(app.begun.elapsed()),
        engine: app.sandboxes.engine().into(),
        sealed: app.sandboxes.sealed(),
        places: Places {
            taken: app.sandboxes.count(),
            max: config.limits.max_sandboxes,
        },
        pools: has_pool
            .map(|(name, template)| Pool {
                template: name.clone(),
                ready: ready.get(name).copied().unwrap_or_default(),
                wanted: template.pool,
            })
            .collect(),
        line: Line {
            waiting: *app.sandboxes.waiting().borrow(),
            max: config.limits.queue_length,
        },
        door_closed,
        sessions: count(living.filter(|state| *state != "ended")),
        sandboxes: count(held.iter().map(|held| held.state().name())),
        refusals: totals.refusals,
        sessions_ended: totals.sessions_ended,
        sandboxes_ended: totals.fleet_ended,
        starts: totals.starts.into(),
    })
}
