//! What operators see: the log's set-up and the metrics.
//!
//! Log fields have fixed names: `session`, `sandbox`, `client`, `template`, `reason`, `error`.
//! Never logged: input, output, tokens, `Authorization`, cookies, query strings.

use std::io::IsTerminal;
use std::ops::Deref;
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
    engine_errors: Family<Label, Counter>,
    refusals: Family<Label, Counter>,
    bytes: Family<Label, Counter>,
    sandboxes: Gauge,
    connections: Gauge,
    viewers: Family<Label, Gauge>,
    recordings: Gauge,
    recordings_stopped: Family<Label, Counter>,
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
        let viewers = Family::<Label, Gauge>::default();
        let help = "Viewers let in by a share, by what they may do";
        registry.register("viewers", help, viewers.clone());
        let recordings = Gauge::default();
        let help = "Recordings being written";
        registry.register("recordings", help, recordings.clone());
        let recordings_stopped = Family::<Label, Counter>::default();
        let help = "Recordings that stopped before their session ended, by reason";
        registry.register("recordings_stopped", help, recordings_stopped.clone());
        Self {
            registry,
            sessions,
            sessions_ended,
            start_latency,
            engine_errors,
            refusals,
            bytes,
            sandboxes,
            connections,
            viewers,
            recordings,
            recordings_stopped,
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

    /// Viewers let in by shares of this mode.
    pub fn viewers(&self, mode: &'static str) -> impl Deref<Target = Gauge> {
        self.viewers.get_or_create(&[("mode", mode)])
    }

    /// Recordings being written.
    pub fn recordings(&self) -> &Gauge {
        &self.recordings
    }

    /// A recording has stopped before its session ended.
    pub fn recording_stopped(&self, reason: &'static str) {
        self.recordings_stopped
            .get_or_create(&[("reason", reason)])
            .inc();
    }

    /// Everything in Prometheus' text form.
    pub fn render(&self, sandboxes: usize) -> String {
        self.sandboxes
            .set(i64::try_from(sandboxes).unwrap_or(i64::MAX));
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
        metrics.engine_error("start");
        metrics.refused("rate_limited");
        metrics.byte_counters().1.inc_by(7);
        metrics.viewers("read").inc();
        metrics.recording_stopped("disk");
        let text = metrics.render(3);
        for line in [
            "belljar_sessions{state=\"starting\"} 0",
            "belljar_sessions{state=\"attached\"} 1",
            "belljar_sessions_ended_total{reason=\"exited\"} 1",
            "belljar_start_seconds_count 1",
            "belljar_engine_errors_total{call=\"start\"} 1",
            "belljar_refusals_total{reason=\"rate_limited\"} 1",
            "belljar_terminal_bytes_total{direction=\"out\"} 7",
            "belljar_sandboxes 3",
            "belljar_viewers{mode=\"read\"} 1",
            "belljar_recordings 0",
            "belljar_recordings_stopped_total{reason=\"disk\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing from:\n{text}");
        }
    }
}
