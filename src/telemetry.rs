//! What operators see: the log, the metrics, the traces.
//!
//! Fields of lines and spans have fixed names, listed in docs/operations.md. Never in either: input,
//! output, tokens, `Authorization`, cookies, query strings, values of variables.

use std::io::IsTerminal;
use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, reload};

use crate::config::{Config, Log, LogFormat};

mod process;

mod totals;

mod trace;

pub use totals::{Starts, Totals};
pub use trace::{TraceParent, note_error};

use process::Process;
use trace::Traces;

/// The log and the traces of this process.
#[derive(Debug)]
pub struct Telemetry {
    filter: reload::Handle<EnvFilter, tracing_subscriber::Registry>,
    traces: Option<Traces>,
}

impl Telemetry {
    /// Begin to log to standard error, and to trace if there is a collector. Must be called in a
    /// runtime, and once.
    pub fn init(config: &Config) -> Result<Self, String> {
        let (filter, handle) = reload::Layer::new(filter(&config.log)?);
        let lines = fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false);
        let lines = match config.log.format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        // Lines name what they are about by themselves; spans are for the traces. Where there are
        // none, nobody asks for spans, and they cost nothing.
        let lines = lines.with_filter(filter.and(filter_fn(is_line)));
        let endpoint = config.telemetry.otlp_endpoint.as_deref();
        let traces = endpoint.map(Traces::to).transpose()?;
        let spans = traces
            .as_ref()
            .map(|traces| traces.layer().with_filter(filter_fn(is_ours)));
        let subscriber = tracing_subscriber::registry().with(lines).with(spans);
        subscriber.try_init().map_err(|e| e.to_string())?;
        Ok(Self {
            filter: handle,
            traces,
        })
    }

    /// Log by another filter from now on.
    pub fn set_filter(&self, log: &Log) -> Result<(), String> {
        self.filter.reload(filter(log)?).map_err(|e| e.to_string())
    }

    /// Send the last spans; bounded.
    pub async fn end(self) {
        if let Some(traces) = self.traces {
            traces.end().await;
        }
    }
}

fn is_line(about: &Metadata<'_>) -> bool {
    about.is_event()
}

/// Spans of this program, and not of the libraries below it.
fn is_ours(about: &Metadata<'_>) -> bool {
    about.is_span() && about.target().starts_with("belljar") && *about.level() <= Level::INFO
}

fn filter(log: &Log) -> Result<EnvFilter, String> {
    EnvFilter::try_new(&log.filter).map_err(|e| format!("log.filter: {e}"))
}

/// One label. Values come from fixed sets in the code, so the number of series is bounded.
type Label = [(&'static str, &'static str); 1];

/// Upper bounds of the start latency's buckets, seconds: a pool's claim takes milliseconds, a cold
/// start a third of a second, a crowd's many seconds.
const START_BUCKETS: [f64; 10] = [0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 45.0];

/// Upper bounds of the wait's buckets, seconds: up to `queue_timeout`'s five minutes by default, and
/// beyond for those who allow more.
const WAIT_BUCKETS: [f64; 8] = [1.0, 5.0, 15.0, 60.0, 120.0, 300.0, 900.0, 3600.0];
/// Upper bounds of the buckets of a session's length, seconds: a glance, a lesson, the longest.
const SESSION_BUCKETS: [f64; 10] = [
    1.0, 10.0, 30.0, 60.0, 180.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0,
];

/// Upper bounds of the buckets of a link's round trip, seconds: an idle machine, a busy one, one that
/// visitors feel, one whose agents are soon given up.
const ROUND_TRIP_BUCKETS: [f64; 9] = [0.000_25, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1.0, 10.0];

/// What is known only when the metrics are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Sandboxes that exist.
    pub sandboxes: usize,
    /// How many of them were started ahead and wait for a visitor.
    pub in_pools: usize,
    /// `limits.max_sandboxes`.
    pub max_sandboxes: usize,
    /// Visitors in line.
    pub waiting: usize,
    /// Whether the engine can be used.
    pub engine_ready: bool,
    /// The store in which gateways count together, if there is one.
    pub limit_store: Option<LimitStoreNow>,
}

/// How that store does.
#[derive(Debug, Clone, Copy)]
pub struct LimitStoreNow {
    /// Whether it answered when it was last asked.
    pub up: bool,
    /// How often it has not.
    pub failures: u64,
    /// `limits.store.when_away`.
    pub when_away: &'static str,
}

/// Every metric of a gateway.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    sessions: Family<Label, Gauge>,
    sessions_ended: Family<Label, Counter>,
    session_duration: Histogram,
    start_latency: Histogram,
    pool_claims: Family<Label, Counter>,
    pool_ready: Gauge,
    adoptions: Family<Label, Counter>,
    link_round_trip: Histogram,
    links_lost: Family<Label, Counter>,
    engine_ready: Gauge,
    engine_errors: Family<Label, Counter>,
    limit_store_up: Family<Label, Gauge>,
    limit_store_failures: Counter,
    refusals: Family<Label, Counter>,
    bytes: Family<Label, Counter>,
    sandboxes: Gauge,
    max_sandboxes: Gauge,
    queue: Gauge,
    waits: Family<Label, Histogram, fn() -> Histogram>,
    queue_refused: Counter,
    door_closed: Family<Label, Gauge>,
    connections: Gauge,
    viewers: Family<Label, Gauge>,
    recordings: Gauge,
    recordings_stopped: Family<Label, Counter>,
    fleet: Family<Label, Gauge>,
    fleet_starts: Family<Label, Counter>,
    fleet_ended: Family<Label, Counter>,
}

/// Registers metrics as they are made.
struct Register<'a>(&'a mut Registry);

impl Register<'_> {
    fn add<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }

    fn seconds<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        let unit = Unit::Seconds;
        self.0.register_with_unit(name, help, unit, metric.clone());
        metric
    }

    fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        self.add(name, help, Gauge::default())
    }

    fn gauges(&mut self, name: &str, help: &str) -> Family<Label, Gauge> {
        self.add(name, help, Family::default())
    }

    fn counters(&mut self, name: &str, help: &str) -> Family<Label, Counter> {
        self.add(name, help, Family::default())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::new()));
        let mut new = Register(registry.sub_registry_with_prefix("belljar"));
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        new.0.register("build", "Which gateway this is", build);
        let bytes = Family::default();
        let help = "Terminal bytes, by direction";
        new.0
            .register_with_unit("terminal", help, Unit::Bytes, Family::clone(&bytes));
        let waits: Family<Label, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(WAIT_BUCKETS));
        Self {
            sessions: new.gauges("sessions", "Live sessions by state"),
            sessions_ended: new.counters("sessions_ended", "Sessions that have ended, by reason"),
            session_duration: new.seconds(
                "session_duration",
                "From a session's creation to its end",
                Histogram::new(SESSION_BUCKETS),
            ),
            start_latency: new.seconds(
                "start",
                "From the request of a sandbox to its linked agent",
                Histogram::new(START_BUCKETS),
            ),
            pool_claims: new.counters(
                "pool_claims",
                "Sessions begun, by whether their sandbox had been started ahead (warm) or not (cold)",
            ),
            pool_ready: new.gauge(
                "pool_ready",
                "Sandboxes started ahead that wait for a visitor",
            ),
            adoptions: new.counters(
                "adoptions",
                "Sandboxes of an earlier gateway: linked, lost (no answer) or refused (no valid note)",
            ),
            link_round_trip: new.seconds(
                "link_round_trip",
                "From the gateway to a sandbox's agent and back, asked every 15 s",
                Histogram::new(ROUND_TRIP_BUCKETS),
            ),
            links_lost: new.counters(
                "links_lost",
                "Links that ended before their sessions, by reason",
            ),
            engine_ready: new.gauge(
                "engine_ready",
                "1 if the engine answers and its seal was proved",
            ),
            engine_errors: new.counters("engine_errors", "Failed calls of the engine, by call"),
            limit_store_up: new.gauges(
                "limit_store_up",
                "1 while the store answers in which gateways count together, by what happens when not; absent without one",
            ),
            limit_store_failures: new.add(
                "limit_store_failures",
                "How often the store of limits has not answered",
                Counter::default(),
            ),
            refusals: new.counters("refusals", "Visitors refused, by reason"),
            bytes,
            sandboxes: new.gauge(
                "sandboxes",
                "Sandboxes that exist, those being started or removed included",
            ),
            max_sandboxes: new.gauge("max_sandboxes", "Sandboxes that there may be at once"),
            queue: new.gauge("queue", "Visitors in line for a sandbox"),
            waits: new.seconds("queue_wait", "Waits in line, by how they ended", waits),
            queue_refused: new.add(
                "queue_refused",
                "Visitors refused because the line was full",
                Counter::default(),
            ),
            door_closed: new.gauges(
                "door_closed",
                "1 while nothing new is started because the host is short of something",
            ),
            connections: new.gauge("connections", "Open connections"),
            viewers: new.gauges(
                "viewers",
                "Viewers let in by a share, by what they may do",
            ),
            recordings: new.gauge("recordings", "Recordings being written"),
            recordings_stopped: new.counters(
                "recordings_stopped",
                "Recordings that stopped before their session ended, by reason",
            ),
            fleet: new.gauges("fleet", "Sandboxes that programs hold, by state"),
            fleet_starts: new.counters(
                "fleet_starts",
                "Sandboxes that programs have ordered, by whether one had been started ahead (warm) or not (cold)",
            ),
            fleet_ended: new.counters(
                "fleet_ended",
                "Sandboxes of programs that have ended, by reason",
            ),
            registry,
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

    /// A session has ended, after this long.
    pub fn session_ended(&self, reason: &'static str, lasted: Duration) {
        self.sessions_ended
            .get_or_create(&[("reason", reason)])
            .inc();
        self.session_duration.observe(lasted.as_secs_f64());
    }

    /// The state of a sandbox that a program holds has changed.
    pub fn fleet_state(&self, from: Option<&'static str>, to: Option<&'static str>) {
        if let Some(from) = from {
            self.fleet.get_or_create(&[("state", from)]).dec();
        }
        if let Some(to) = to {
            self.fleet.get_or_create(&[("state", to)]).inc();
        }
    }

    /// A program has ordered a sandbox, and one had been started ahead or not.
    pub fn fleet_started(&self, warm: bool) {
        let outcome = if warm { "warm" } else { "cold" };
        self.fleet_starts.get_or_create(&[("start", outcome)]).inc();
    }

    /// A sandbox that a program held has ended.
    pub fn fleet_ended(&self, reason: &'static str) {
        self.fleet_ended.get_or_create(&[("reason", reason)]).inc();
    }

    /// An agent has answered.
    pub fn link_round_trip(&self, took: Duration) {
        self.link_round_trip.observe(took.as_secs_f64());
    }

    /// A link has ended before its session.
    pub fn link_lost(&self, reason: &'static str) {
        self.links_lost.get_or_create(&[("reason", reason)]).inc();
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

    /// A visitor's wait in line is over.
    pub fn waited(&self, outcome: &'static str, wait: Duration) {
        let waits = self.waits.get_or_create(&[("outcome", outcome)]);
        waits.observe(wait.as_secs_f64());
    }

    /// A visitor was refused because the line was full.
    pub fn queue_refused(&self) {
        self.queue_refused.inc();
    }

    /// Whether this shortage keeps newcomers out.
    pub fn door_closed(&self, reason: &'static str, closed: bool) {
        let door = self.door_closed.get_or_create(&[("reason", reason)]);
        door.set(closed.into());
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
    pub fn render(&self, now: Now) -> String {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.sandboxes.set(count(now.sandboxes));
        self.pool_ready.set(count(now.in_pools));
        self.max_sandboxes.set(count(now.max_sandboxes));
        self.queue.set(count(now.waiting));
        self.engine_ready.set(now.engine_ready.into());
        if let Some(store) = now.limit_store {
            let up = [("when_away", store.when_away)];
            self.limit_store_up.get_or_create(&up).set(store.up.into());
            let failures = self.limit_store_failures.inner();
            failures.store(store.failures, Ordering::Relaxed);
        }
        self.text()
    }

    /// What has been counted since the gateway began.
    pub fn totals(&self) -> Totals {
        Totals::read(&self.text())
    }

    fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes everything");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every series, each used once.
    fn rendered() -> String {
        let metrics = Metrics::default();
        metrics.session_state(None, Some("starting"));
        metrics.session_state(Some("starting"), Some("attached"));
        metrics.session_ended("exited", Duration::from_secs(40));
        metrics.link_round_trip(Duration::from_millis(2));
        metrics.link_lost("silent");
        metrics.started(Duration::from_millis(300));
        metrics.claimed(true);
        metrics.adopted("linked");
        metrics.engine_error("start");
        metrics.refused("rate_limited");
        metrics.byte_counters().1.inc_by(7);
        metrics.viewers("read").inc();
        metrics.recording_stopped("disk");
        metrics.waited("admitted", Duration::from_secs(3));
        metrics.queue_refused();
        metrics.door_closed("cpu_pressure", true);
        metrics.fleet_state(None, Some("running"));
        metrics.fleet_started(false);
        metrics.fleet_ended("timeout");
        metrics.render(Now {
            sandboxes: 3,
            in_pools: 2,
            max_sandboxes: 50,
            waiting: 4,
            engine_ready: true,
            limit_store: Some(LimitStoreNow {
                up: true,
                failures: 1,
                when_away: "open",
            }),
        })
    }

    /// The names of `text`'s series, as Prometheus knows them.
    fn series(text: &str) -> BTreeSet<String> {
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let suffixes = |name: &str, kind: &str| -> Vec<String> {
            let all: &[&str] = match kind {
                "counter" => &["_total"],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_count", "_sum"],
                _ => &[""],
            };
            all.iter().map(|suffix| format!("{name}{suffix}")).collect()
        };
        types
            .filter_map(|line| line.split_once(' '))
            .flat_map(|(name, kind)| suffixes(name, kind))
            .collect()
    }

    /// The names of series that stand in an expression, a page, a table.
    fn mentioned(text: &str) -> BTreeSet<String> {
        text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| word.starts_with("belljar_") || word.starts_with("process_"))
            .map(str::to_owned)
            .collect()
    }

    /// The expressions of a dashboard.
    fn expressions(value: &serde_json::Value, into: &mut String) {
        match value {
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        serde_json::Value::String(text) if name == "expr" || name == "query" => {
                            *into += text;
                            into.push('\n');
                        }
                        value => expressions(value, into),
                    }
                }
            }
            serde_json::Value::Array(items) => {
                for item in items {
                    expressions(item, into);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn dashboard_and_alerts_ask_for_series_that_exist() {
        let exported = series(&rendered());
        let dashboard = include_str!("../deploy/grafana/belljar.json");
        let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
        assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36);
        let mut asked = String::new();
        expressions(&dashboard, &mut asked);
        let on_dashboard = mentioned(&asked);
        let unknown = |name: &&String| !exported.contains(*name);
        let missing: Vec<_> = on_dashboard.iter().filter(unknown).collect();
        assert!(missing.is_empty(), "{missing:?} of {exported:?}");
        let rules = include_str!("../deploy/prometheus/belljar.rules.yml");
        let alerting = mentioned(rules);
        assert!(alerting.len() > 4, "the scan has found only {alerting:?}");
        assert_eq!(alerting.iter().find(unknown), None);
    }

    #[test]
    fn every_series_is_documented() {
        let page = mentioned(include_str!("../docs/operations.md"));
        for name in series(&rendered()) {
            let family = ["_bucket", "_count", "_sum"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .unwrap_or(&name);
            assert!(
                page.contains(family),
                "{family} is not in docs/operations.md"
            );
        }
    }

    #[test]
    fn series_have_their_documented_names() {
        let text = rendered();
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
            "belljar_max_sandboxes 50",
            "belljar_engine_ready 1",
            "belljar_session_duration_seconds_bucket{le=\"60.0\"} 1",
            "belljar_link_round_trip_seconds_bucket{le=\"0.0025\"} 1",
            "belljar_links_lost_total{reason=\"silent\"} 1",
            concat!(
                "belljar_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
            "# TYPE process_resident_memory_bytes gauge",
            "# TYPE process_open_fds gauge",
            "belljar_queue 4",
            "belljar_queue_wait_seconds_count{outcome=\"admitted\"} 1",
            "belljar_queue_refused_total 1",
            "belljar_door_closed{reason=\"cpu_pressure\"} 1",
            "belljar_viewers{mode=\"read\"} 1",
            "belljar_recordings 0",
            "belljar_fleet{state=\"running\"} 1",
            "belljar_fleet_starts_total{start=\"cold\"} 1",
            "belljar_fleet_ended_total{reason=\"timeout\"} 1",
            "belljar_recordings_stopped_total{reason=\"disk\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing from:\n{text}");
        }
    }
}
