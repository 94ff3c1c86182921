//! What monitors ask: `/health`, `/status`, `/metrics`. Cheap: nothing here asks the engine.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::App;
use crate::sandbox::{AtCapacity, EngineState};
use crate::telemetry::{LimitStoreNow, Now};

/// Field order is part of the form that monitors know.
#[derive(Debug, Serialize)]
struct Health<'a> {
    status: &'static str,
    containers: usize,
    uptime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// `ok` or `away`; absent where gateways do not count together.
    #[serde(skip_serializing_if = "Option::is_none", rename = "limitStore")]
    limit_store: Option<&'static str>,
}

/// `GET /health`: 200 `{"status":"ok","containers":3,"uptime":"2h15m30s"}`, or 503 with a `reason`.
pub(super) async fn health(State(app): State<App>) -> Response {
    let engine = app.sandboxes.engine();
    let reason = unusable(&engine);
    let health = Health {
        status: if reason.is_none() {
            "ok"
        } else {
            "unavailable"
        },
        containers: app.sandboxes.count(),
        uptime: uptime(app.begun.elapsed()),
        reason,
        limit_store: app
            .limiter
            .store()
            .map(|(up, _)| if up { "ok" } else { "away" }),
    };
    let status = match reason {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(health)).into_response()
}

fn unusable(engine: &EngineState) -> Option<&str> {
    match engine {
        EngineState::Ready => None,
        EngineState::Starting => Some("the engine has not been proved yet"),
        EngineState::Down { reason } | EngineState::Unsafe { reason } => Some(reason),
    }
}

/// `2h15m30s`: whole seconds, no spaces.
fn uptime(elapsed: std::time::Duration) -> String {
    let whole = std::time::Duration::from_secs(elapsed.as_secs());
    let text = humantime::format_duration(whole).to_string();
    text.replace(' ', "")
}

/// `GET /status`, for toolkata's pages: whether a visitor would get a terminal now.
pub(super) async fn status(State(app): State<App>) -> Response {
    let engine = app.sandboxes.engine();
    let limits = &app.config.get().limits;
    let reason = match unusable(&engine) {
        // The cause is for operators; they read /health.
        Some(_) => Some("Terminals cannot be started right now."),
        None => app.sandboxes.closed().map(|closed| match closed {
            AtCapacity::Shortage(_) => "The machine is busy right now.",
            AtCapacity::Taken { .. } | AtCapacity::LineFull { .. } => {
                "Every terminal is taken right now."
            }
        }),
    };
    Json(serde_json::json!({
        "isOpen": reason.is_none(),
        "reason": reason,
        "sealed": app.sandboxes.sealed(),
        "metrics": {
            "containers": app.sandboxes.count(),
            "maxContainers": limits.max_sandboxes,
            "waiting": *app.sandboxes.waiting().borrow(),
            "maxWaiting": limits.queue_length,
        },
    }))
    .into_response()
}

/// `GET /metrics` in Prometheus' text form.
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let text = app.metrics.render(Now {
        sandboxes: app.sandboxes.count(),
        in_pools: app.sandboxes.in_pools(),
        max_sandboxes: app.config.get().limits.max_sandboxes,
        waiting: *app.sandboxes.waiting().borrow(),
        engine_ready: app.sandboxes.engine() == EngineState::Ready,
        limit_store: app.limiter.store().map(|(up, failures)| LimitStoreNow {
            up,
            failures,
            when_away: app.config.get().limits.store.when_away.name(),
        }),
    });
    let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, form)], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn uptime_has_the_documented_form() {
        assert_eq!(uptime(Duration::from_millis(8_130_900)), "2h15m30s");
        assert_eq!(uptime(Duration::from_millis(900)), "0s");
    }
}
