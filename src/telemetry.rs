//! What operators see: the log's set-up and the metrics.
//!
//! Log fields have fixed names: `session`, `sandbox`, `client`, `template`, `reason`, `error`.
//! Never logged: input, output, tokens, `Authorization`, cookies, query strings.

use std::io::IsTerminal;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Begin to log to standard error. Fails if the filter cannot be parsed.
pub fn init(log: &Log) -> Result<(), String> {
    let filter = EnvFilter::try_new(&log.filter).map_err(|e| format!("log.filter: {e}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|e| e.to_string())
}

/// One label. Values come from fixed sets in the code, so the number of series is bounded.
type Label = [(&'static str, &'static str); 1];

/// Upper bounds of the start latency's buckets, seconds: a pool's claim takes milliseconds, a cold
/// start a third of a second, a crowd's many seconds.
const START_BUCKETS: [f64; 10] = [0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 45.0];

/// Every metric of a gateway.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    sessions: Family<Label, Gauge>,
    sessions_ended: Family<Label, Counter>,
    start_latency: Histogram,
    pool_claims: Family<Label, Counter>,
    pool_ready: Gauge,
    adoptions: Family<Label, Counter>,
    engine_errors: Family<Label, Counter>,
    refusals: Family<Label, Counter>,
    bytes: Family<Label, Counter>,
    sandboxes: Gauge,
    connections: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("belljar");
        let sessions = Family::<Label, Gauge>::default();
        registry.register("sessions", "Live sessions by state", sessions.clone());
        let sessions_ended = Family::<Label, Counter>::default();
        let help = "Sessions that have ended, by reason";
        registry.register("sessions_ended", help, sessions_ended.clone());
        let start_latency = Histogram::new(START_BUCKETS);
        let help = "From the request of a sandbox to its linked agent";
        registry.register_with_unit("start", help, Unit::Seconds, start_latency.clone());
        let pool_claims = Family::<Label, Counter>::default();
        let help =
            "Sessions begun, by whether their sandbox had been started ahead (warm) or not (cold)";
        registry.register("pool_claims", help, pool_claims.clone());
        let pool_ready = Gauge::default();
        let help = "Sandboxes started ahead that wait for a visitor";
        registry.register("pool_ready", help, pool_ready.clone());
        let adoptions = Family::<Label, Counter>::default();
        let help =
            "Sandboxes of an earlier gateway: linked, lost (no answer) or refused (no valid note)";
        registry.register("adoptions", help, adoptions.clone());
        let engine_errors = Family::<Label, Counter>::default();
        let help = "Failed calls of the engine, by call";
        registry.register("engine_errors", help, engine_errors.clone());
        let refusals = Family::<Label, Counter>::default();
        let help = "Visitors refused, by reason";
        registry.register("refusals", help, refusals.clone());
        let bytes = Family::<Label, Counter>::default();
        let help = "Terminal bytes, by direction";
        registry.register_with_unit("terminal", help, Unit::Bytes, bytes.clone());
        let sandboxes = Gauge::default();
        let help = "Sandboxes that exist, those being started or removed included";
        registry.register("sandboxes", help, sandboxes.clone());
        let connections = Gauge::default();
        registry.register("connections", "Open connections", connections.clone());
        Self {
            registry,
            sessions,
            sessions_ended,
            start_latency,
            pool_claims,
            pool_ready,
            adoptions,
            engine_errors,
            refusals,
            bytes,
            sandboxes,
            connections,
        }
    }
}

impl Metrics {
    /// A session's state has changed.
    pub fn session_state(&self, from: Option<&'static str>, to: Option<&'static str>) {
        if let Some(from) = from {
            self.sessions.get_or_create(&[("state", from)]).dec();
        }
        if let Some(to) = to {
            self.sessions.get_or_create(&[("state", to)]).inc();
        }
    }

    /// A session has ended.
    pub fn session_ended(&self, reason: &'static str) {
        self.sessions_ended
            .get_or_create(&[("reason", reason)])
            .inc();
    }

    /// A sandbox has been started.
    pub fn started(&self, latency: Duration) {
        self.start_latency.observe(latency.as_secs_f64());
    }

    /// A session has begun, with a sandbox that was started ahead or without.
    pub fn claimed(&self, warm: bool) {
        let outcome = if warm { "warm" } else { "cold" };
        self.pool_claims.get_or_create(&[("start", outcome)]).inc();
    }

    /// What became of a sandbox that an earlier gateway left.
    pub fn adopted(&self, outcome: &'static str) {
        self.adoptions.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A call of the engine has failed.
    pub fn engine_error(&self, call: &'static str) {
        self.engine_errors.get_or_create(&[("call", call)]).inc();
    }

    /// A visitor was refused.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&[("reason", reason)]).inc();
    }

    /// The counters of bytes typed and shown. Kept by the caller: each look-up takes a lock.
    pub fn byte_counters(&self) -> (Counter, Counter) {
        let direction = |name| self.bytes.get_or_create_owned(&[("direction", name)]);
        (direction("in"), direction("out"))
    }

    /// Open connections.
    pub fn connections(&self) -> &Gauge {
        &self.connections
    }

    /// Everything in Prometheus' text form.
    pub fn render(&self, sandboxes: usize, in_pools: usize) -> String {
        let gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.sandboxes.set(gauge(sandboxes));
        self.pool_ready.set(gauge(in_pools));
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes everything");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_have_their_documented_names() {
        let metrics = Metrics::default();
        metrics.session_state(None, Some("starting"));
        metrics.session_state(Some("starting"), Some("attached"));
        metrics.session_ended("exited");
        metrics.started(Duration::from_millis(300));
        metrics.claimed(true);
        metrics.adopted("linked");
        metrics.engine_error("start");
        metrics.refused("rate_limited");
        metrics.byte_counters().1.inc_by(7);
        let text = metrics.render(3, 2);
        for line in [
            "belljar_sessions{state=\"starting\"} 0",
            "belljar_sessions{state=\"attached\"} 1",
            "belljar_sessions_ended_total{reason=\"exited\"} 1",
            "belljar_start_seconds_count 1",
            "belljar_engine_errors_total{call=\"start\"} 1",
            "belljar_refusals_total{reason=\"rate_limited\"} 1",
            "belljar_terminal_bytes_total{direction=\"out\"} 7",
            "belljar_sandboxes 3",
            "belljar_pool_ready 2",
            "belljar_pool_claims_total{start=\"warm\"} 1",
            "belljar_adoptions_total{outcome=\"linked\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing from:\n{text}");
        }
    }
}
