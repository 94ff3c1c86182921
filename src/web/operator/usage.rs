//! What sandboxes use, all in one answer.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use belljar_link::message::port::SandboxStats;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, ready};
use futures::stream;
use serde::Serialize;
use tokio::time::{Timeout, sleep, timeout};
use utoipa::ToSchema;

use super::Operator;
use crate::fleet::{Held, State as HeldState};
use crate::session::{Session, State as SessionState};
use crate::web::App;
use crate::web::api::openapi::Refusals;

/// Agents that are asked for one answer. Each costs its sandbox a look at its processes.
const MOST: usize = 500;

/// Agents that are asked at once.
const AT_ONCE: usize = 16;

/// How long one may take, and all of them. One that its visitor has stopped says nothing, and the others
/// must not wait for it.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(8));

/// What a sandbox uses at this moment.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Usage {
    /// That of its session, or of the sandbox that a program holds.
    id: String,
    /// CPU time of all its processes so far, ms.
    cpu_ms: u64,
    memory_bytes: u64,
    memory_limit_bytes: u64,
    processes: u64,
    uptime_ms: u64,
}

impl Usage {
    fn of(id: String, stats: &SandboxStats) -> Self {
        Self {
            id,
            cpu_ms: stats.cpu_ms,
            memory_bytes: stats.memory_bytes,
            memory_limit_bytes: stats.memory_limit_bytes,
            processes: stats.processes,
            uptime_ms: stats.uptime_ms,
        }
    }
}

async fn of_session(session: Arc<Session>) -> Option<Usage> {
    let stats = session.stats().await?.ok()?;
    Some(Usage::of(session.id.to_string(), &stats))
}

async fn of_held(held: Arc<Held>) -> Option<Usage> {
    let stats = held.link().await.ok()?.stats().await.ok()?;
    Some(Usage::of(held.id.to_string(), &stats))
}

/// Show what sandboxes use
///
/// Those that run, visitors' and programs', at most 500. One whose agent does not answer in time is left
/// out.
#[utoipa::path(
    get, path = "/usage", tag = "operators", operation_id = "showUsage",
    responses((status = 200, description = "What they use", body = [Usage]), Refusals)
)]
pub(super) async fn show(State(app): State<App>, Operator(caller): Operator) -> Json<Vec<Usage>> {
    let runs = |session: &Arc<Session>| {
        let state = session.state();
        matches!(state, SessionState::Attached | SessionState::Detached)
    };
    let sessions = app.sessions.all().into_iter().filter(runs);
    let held = app.fleet.list(&caller).into_iter();
    let held = held.filter(|held| held.state() == HeldState::Running);
    let bounded = |one| timeout(PATIENCE.0, one);
    let asked: Vec<Timeout<BoxFuture<'static, Option<Usage>>>> = sessions
        .map(|session| of_session(session).boxed())
        .chain(held.map(|held| of_held(held).boxed()))
        .take(MOST)
        .map(bounded)
        .collect();
    let answers = stream::iter(asked)
        .buffer_unordered(AT_ONCE)
        .take_until(sleep(PATIENCE.1))
        .filter_map(|answer| ready(answer.ok().flatten()));
    Json(answers.collect().await)
}
