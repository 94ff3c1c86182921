//! Configuration: one struct per concern, every error at once, before a port is bound.
//!
//! Three layers, each over the one before: a TOML file, `BELLJAR_…` variables (two underscores
//! between levels: `BELLJAR_LIMITS__IDLE_TIMEOUT=5m`), command-line flags. A few variables of older
//! deployments (`PORT`, `HOST`, `FRONTEND_ORIGIN`, `DOCKER_HOST`) are honoured below the others.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use tracing_subscriber::EnvFilter;

mod api;

mod kubernetes;

mod layers;

mod live;
mod recordings;

mod store;

mod template;

pub use api::Api;
pub use kubernetes::Kubernetes;
pub use layers::Source;
pub use live::{Change, Live};
pub use recordings::Recordings;
pub use store::{LimitStore, WhenAway};
pub use template::Template;

/// Where the configuration file is looked for if none is named.
pub const DEFAULT_PATH: &str = "/etc/belljar/belljar.toml";

/// Everything that can be configured.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default)]
pub struct Config {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Origins (`https://tutorials.example.com`) whose pages may use this gateway besides its own.
    #[serde(deserialize_with = "list")]
    pub allowed_origins: Vec<String>,
    /// Peers whose `X-Forwarded-For` is believed.
    #[serde(deserialize_with = "list")]
    pub trusted_proxies: Vec<IpNet>,
    /// What starts sandboxes.
    pub launcher: LauncherKind,
    /// The static `belljar-agent` binary. By default next to the gateway's own, else in
    /// `/usr/lib/belljar`.
    pub agent: PathBuf,
    /// Directory of the sockets that agents dial; made if missing, readable by the gateway only.
    pub run_dir: PathBuf,
    /// The template of a visitor who asks for none.
    pub default_template: String,
    /// Logging.
    pub log: Log,
    /// Where traces go.
    pub telemetry: Telemetry,
    /// Limits on visitors and sessions.
    pub limits: Limits,
    /// The Docker (or Podman) engine.
    pub docker: Docker,
    /// The cluster.
    pub kubernetes: Kubernetes,
    /// Recordings of sessions.
    pub recordings: Recordings,
    /// The API for programs.
    pub api: Api,
    /// Recipes for sandboxes, by name.
    pub templates: BTreeMap<String, Template>,
}

/// What starts, finds and removes sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LauncherKind {
    /// Containers of a Docker or Podman engine, sealed in gVisor.
    Docker,
    /// Pods of a Kubernetes cluster, sealed in gVisor.
    Kubernetes,
    /// Bare processes without isolation; for development, on a loopback address only.
    Process,
}

/// How the gateway logs.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default)]
pub struct Log {
    /// A `tracing` filter, as `info` or `belljar=debug`.
    pub filter: String,
    /// Line format.
    pub format: LogFormat,
}

/// Line format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where traces go.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Telemetry {
    /// An OpenTelemetry collector that takes OTLP over HTTP, as `http://127.0.0.1:4318`; nothing is
    /// traced if absent.
    pub otlp_endpoint: Option<String>,
}

/// Limits on visitors and sessions. A template may shorten the three durations, not lengthen them.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default)]
pub struct Limits {
    /// New sessions a client may start in any hour.
    pub sessions_per_hour: u32,
    /// Sessions a client may have at once.
    pub concurrent_sessions: u32,
    /// Commands a client may submit in a minute before they are slowed.
    pub commands_per_minute: u32,
    /// A session ends after this long without input or `extend`.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// A session ends after this long whatever happens.
    #[serde(with = "humantime_serde")]
    pub max_duration: Duration,
    /// A session whose visitor is lost ends after this long.
    #[serde(with = "humantime_serde")]
    pub detach_timeout: Duration,
    /// Sandboxes at once, of all clients.
    pub max_sandboxes: usize,
    /// Visitors who may wait in line for a sandbox.
    pub queue_length: usize,
    /// A visitor waits in line at most this long.
    #[serde(with = "humantime_serde")]
    pub queue_timeout: Duration,
    /// While the host has less memory available than this, nothing new is started; 0 switches it
    /// off.
    pub min_available_memory: ByteSize,
    /// While programs wait for memory more than this share of the time, percent, nothing new is
    /// started; 0 switches it off.
    pub max_memory_pressure: f64,
    /// The same for the CPU.
    pub max_cpu_pressure: f64,
    /// Connections at once, of all kinds.
    pub max_connections: usize,
    /// Connections at once of one client that comes without a trusted proxy.
    pub connections_per_client: usize,
    /// Where gateways count together.
    pub store: LimitStore,
}

/// The Docker (or Podman) engine.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default)]
pub struct Docker {
    /// The engine's Unix socket.
    pub socket: PathBuf,
    /// The OCI runtime to use.
    pub runtime: String,
    /// Refuse to hand out sandboxes until one was seen to run on gVisor. May be switched off on a
    /// loopback address only.
    pub require_gvisor: bool,
    /// Sandboxes of gateways with different namespaces on one engine leave each other alone.
    pub namespace: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3001),
            allowed_origins: Vec::new(),
            trusted_proxies: vec![
                "127.0.0.1/32".parse().expect("a valid network"),
                "::1/128".parse().expect("a valid network"),
            ],
            launcher: LauncherKind::Docker,
            agent: default_agent(),
            run_dir: default_run_dir(),
            default_template: "base".into(),
            log: Log::default(),
            telemetry: Telemetry::default(),
            limits: Limits::default(),
            docker: Docker::default(),
            kubernetes: Kubernetes::default(),
            recordings: Recordings::default(),
            api: Api::default(),
            templates: BTreeMap::new(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: "info".into(),
            format: LogFormat::Text,
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_per_hour: 10,
            concurrent_sessions: 2,
            commands_per_minute: 60,
            idle_timeout: 5 * MINUTE,
            max_duration: 30 * MINUTE,
            detach_timeout: MINUTE,
            max_sandboxes: 50,
            queue_length: 100,
            queue_timeout: 5 * MINUTE,
            min_available_memory: ByteSize::mib(256),
            max_memory_pressure: 50.0,
            // A host that is merely busy serves, slowly: whether that is too slow is for its
            // operator to say.
            max_cpu_pressure: 0.0,
            max_connections: 2048,
            connections_per_client: 128,
            store: LimitStore::default(),
        }
    }
}

impl Default for Docker {
    fn default() -> Self {
        Self {
            socket: "/var/run/docker.sock".into(),
            runtime: "runsc".into(),
            require_gvisor: true,
            namespace: "belljar".into(),
        }
    }
}

/// Above the gateway in a build (`target/belljar-agent`, the static one), else next to it, else
/// where packages put it.
fn default_agent() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    let beside = exe.parent().unwrap_or(Path::new("/"));
    let built = ["release", "debug"]
        .iter()
        .any(|name| beside.ends_with(name));
    let above = beside.parent().filter(|_| built);
    [above, Some(beside)]
        .into_iter()
        .flatten()
        .map(|dir| dir.join("belljar-agent"))
        .find(|path| path.is_file())
        .unwrap_or_else(|| "/usr/lib/belljar/belljar-agent".into())
}

/// `/run/belljar` for a service, which runs as root or is given it; a user's own run-time directory
/// for a user at a desk.
fn default_run_dir() -> PathBuf {
    let system = PathBuf::from("/run/belljar");
    let uid = rustix::process::geteuid();
    if uid.is_root() || system.exists() {
        return system;
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir).join("belljar"),
        _ => std::env::temp_dir().join(format!("belljar-{}", uid.as_raw())),
    }
}

/// Longest `run_dir` and `docker.namespace` together, bytes: with the sandbox's id and the socket's
/// name after them, and separators, they must fit into the 107 of a socket's address.
const MAX_SOCKET_DIR: usize = 107 - "/".len() - "/".len() - 32 - "/link.sock".len();

/// Bytes of the directory that the `process` launcher has in the place of the namespace's:
/// `process-`, and a process id.
const PROCESS_DIR: usize = "process-".len() + "4194304".len();

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, as `limits.idle_timeout`.
    pub key: String,
    /// Where its value came from, if it was given at all.
    pub source: Option<Source>,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// Everything that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration is not valid:")?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(source) = &self.source {
            write!(f, " ({source})")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl Config {
    /// Read the configuration. `file` is required to exist if it is given; otherwise
    /// [`DEFAULT_PATH`] is read if it exists. `env` is the process's environment, `flags` are
    /// key–value pairs of the command line, as `("limits.idle_timeout", "5m")`.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        flags: &[(&str, String)],
    ) -> Result<Self, ConfigError> {
        let mut layers = layers::Layers::default();
        let default_file = Path::new(DEFAULT_PATH);
        match file {
            Some(path) => layers.file(path)?,
            None if default_file.exists() => layers.file(default_file)?,
            None => {}
        }
        layers.environment(env);
        layers.flags(flags);
        layers.resolve()
    }

    /// The defaults, as if nothing were configured.
    pub fn defaults() -> Self {
        let mut config = Self::default();
        config.fill();
        config
    }

    /// Fill in what has no fixed default.
    fn fill(&mut self) {
        if self.templates.is_empty() {
            for (name, template) in Template::built_in() {
                self.templates.insert(name.into(), template);
            }
        }
    }

    /// The same, for a gateway that was given a socket which listens on `address`. What is allowed
    /// depends on who can reach it.
    pub fn listening_on(mut self, address: SocketAddr) -> Result<Self, ConfigError> {
        self.listen = address;
        let problem = |(key, message)| Problem {
            key,
            source: None,
            message,
        };
        let problems: Vec<_> = self.check().into_iter().map(problem).collect();
        if problems.is_empty() {
            Ok(self)
        } else {
            Err(ConfigError { problems })
        }
    }

    /// The template of that name.
    pub fn template(&self, name: &str) -> Option<&Template> {
        self.templates.get(name)
    }

    /// Whether nothing is started until a sandbox was seen to run on gVisor.
    pub fn requires_gvisor(&self) -> bool {
        match self.launcher {
            LauncherKind::Docker => self.docker.require_gvisor,
            LauncherKind::Kubernetes => self.kubernetes.require_gvisor,
            LauncherKind::Process => false,
        }
    }

    /// The runtime that must be gVisor's.
    pub fn runtime(&self) -> &str {
        match self.launcher {
            LauncherKind::Kubernetes => &self.kubernetes.runtime_class,
            LauncherKind::Docker | LauncherKind::Process => &self.docker.runtime,
        }
    }

    /// What is wrong across fields: `(key, message)`.
    fn check(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut check = |key: &str, ok: bool, message: &str| {
            if !ok {
                wrong.push((key.to_owned(), message.to_owned()));
            }
        };
        let loopback = self.listen.ip().is_loopback();
        check(
            "launcher",
            loopback || self.launcher != LauncherKind::Process,
            "process has no isolation and is refused on an address that others can reach; \
             listen on 127.0.0.1 or use docker or kubernetes",
        );
        check(
            "docker.require_gvisor",
            loopback || self.docker.require_gvisor,
            "may be false only while listening on a loopback address",
        );
        check(
            "kubernetes.require_gvisor",
            loopback || self.kubernetes.require_gvisor,
            "may be false only while listening on a loopback address",
        );
        for origin in &self.allowed_origins {
            let authority = origin
                .strip_prefix("https://")
                .or_else(|| origin.strip_prefix("http://"));
            check(
                "allowed_origins",
                authority.is_some_and(|a| !a.is_empty() && !a.contains(['/', '*', ' ', ',', ';'])),
                &format!("{origin:?} is not an origin such as https://tutorials.example.com"),
            );
        }
        if let Err(error) = EnvFilter::try_new(&self.log.filter) {
            check("log.filter", false, &error.to_string());
        }
        check(
            "telemetry.otlp_endpoint",
            self.telemetry
                .otlp_endpoint
                .as_deref()
                .is_none_or(is_plain_http),
            "must be http://host:port; a collector that speaks TLS is reached through one beside \
             the gateway",
        );
        check(
            "default_template",
            self.templates.contains_key(&self.default_template),
            "names no template",
        );
        let namespace = &self.docker.namespace;
        check(
            "docker.namespace",
            (1..=32).contains(&namespace.len())
                && namespace
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-'),
            "must be 1 to 32 letters, digits or hyphens",
        );

        let length = self.run_dir.as_os_str().len() + namespace.len().max(PROCESS_DIR);
        check(
            "run_dir",
            self.run_dir.is_absolute() && length <= MAX_SOCKET_DIR,
            &format!(
                "must be an absolute path of at most {} bytes, with docker.namespace of at most \
                 {MAX_SOCKET_DIR}",
                MAX_SOCKET_DIR - PROCESS_DIR
            ),
        );
        wrong.extend(self.limits.check());
        wrong.extend(self.kubernetes.check());
        wrong.extend(self.recordings.check());
        wrong.extend(self.api.check());
        wrong.extend(self.check_templates());
        wrong
    }

    fn check_templates(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        for (name, template) in &self.templates {
            let mut check = |field: &str, message: &str| {
                wrong.push((format!("templates.{name}{field}"), message.to_owned()));
            };
            let named = (1..=64).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            if !named {
                check(
                    "",
                    "a name must be 1 to 64 letters, digits, '-', '_' or '.'",
                );
            }
            for (field, message) in template.check(&self.limits) {
                check(&format!(".{field}"), &message);
            }
        }
        wrong
    }
}

/// `None` if `value` lies within the bounds, else what is allowed.
fn outside(value: Duration, min: Duration, max: Duration) -> Option<String> {
    (!(min..=max).contains(&value)).then(|| {
        format!(
            "must be from {} to {}",
            humantime::format_duration(min),
            humantime::format_duration(max)
        )
    })
}

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Each who waits holds a connection, and all are woken whenever the line moves.
const MAX_LINE: usize = 10_000;

impl Limits {
    /// What is wrong: `(key, message)`.
    fn check(&self) -> Vec<(String, String)> {
        let durations = [
            ("idle_timeout", self.idle_timeout, DAY),
            ("max_duration", self.max_duration, 7 * DAY),
            ("detach_timeout", self.detach_timeout, DAY),
            ("queue_timeout", self.queue_timeout, DAY),
        ];
        let durations = durations
            .into_iter()
            .filter_map(|(key, value, max)| Some((key, outside(value, SECOND, max)?)));
        let counts = [
            (
                "sessions_per_hour",
                self.sessions_per_hour as usize,
                1_000_000,
            ),
            (
                "concurrent_sessions",
                self.concurrent_sessions as usize,
                100_000,
            ),
            (
                "commands_per_minute",
                self.commands_per_minute as usize,
                60_000,
            ),
            ("max_sandboxes", self.max_sandboxes, 100_000),
            ("max_connections", self.max_connections, 100_000),
            (
                "connections_per_client",
                self.connections_per_client,
                100_000,
            ),
        ];
        let counts = counts.into_iter().filter_map(|(key, value, max)| {
            let wrong = !(1..=max).contains(&value);
            wrong.then(|| (key, format!("must be from 1 to {max}")))
        });
        let percents = [
            ("max_memory_pressure", self.max_memory_pressure),
            ("max_cpu_pressure", self.max_cpu_pressure),
        ];
        let percents = percents.into_iter().filter_map(|(key, value)| {
            let wrong = !(0.0..=100.0).contains(&value);
            wrong.then(|| (key, "must be from 0 (off) to 100 percent".to_owned()))
        });
        let line = (self.queue_length > MAX_LINE).then(|| {
            let message = format!("must be from 0 (nobody waits) to {MAX_LINE}");
            ("queue_length", message)
        });
        let wrong = durations.chain(counts).chain(percents).chain(line);
        let wrong = wrong.map(|(key, message)| (format!("limits.{key}"), message));
        wrong.chain(self.store.check()).collect()
    }
}

/// `http://host:port`, with a path at most.
fn is_plain_http(url: &str) -> bool {
    url.parse::<hyper::Uri>().is_ok_and(|uri| {
        uri.scheme_str() == Some("http")
            && uri.query().is_none()
            && uri.authority().is_some_and(|a| !a.as_str().contains('@'))
    })
}

/// A TOML array, or one string with commas (which is what a variable can hold).
fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: fmt::Display>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    let items = match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(text) => text.split(',').map(|s| s.trim().to_owned()).collect(),
        OneOrMany::Many(items) => items,
    };
    items
        .iter()
        .filter(|item| !item.is_empty())
        .map(|item| {
            item.parse()
                .map_err(|e| D::Error::custom(format!("{item:?}: {e}")))
        })
        .collect()
}

/// The value at a dotted key, made if missing; `None` if something else than a table is in the way.
fn slot<'t>(table: &'t mut Table, key: &str) -> Option<(&'t mut Table, String)> {
    let mut parts: Vec<&str> = key.split('.').collect();
    let last = parts.pop()?.to_owned();
    let mut at = table;
    for part in parts {
        let next = at.entry(part).or_insert_with(|| Value::Table(Table::new()));
        at = next.as_table_mut()?;
    }
    Some((at, last))
}

#[cfg(test)]
mod tests;
