//! Where values come from, and how the layers become one [`Config`].

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Config, ConfigError, Problem, slot};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A command-line flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "${name}"),
            Self::Flag(name) => write!(f, "{name}"),
        }
    }
}

/// Attempts to get past bad values. Each removes one, so this is how many errors are shown at once.
const MAX_PROBLEMS: usize = 50;

/// The prefix of every variable.
const PREFIX: &str = "BELLJAR_";

/// The layers put on so far.
#[derive(Debug, Default)]
pub(super) struct Layers {
    tree: Table,
    file: Option<PathBuf>,
    /// Sources of what did not come from the file, by key.
    sources: HashMap<String, Source>,
    problems: Vec<Problem>,
}

impl Layers {
    /// Put a file under everything else. A file that is no TOML is an error by itself: nothing
    /// more can be said of it.
    pub(super) fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let failed = |message: String| ConfigError {
            problems: vec![Problem {
                key: path.display().to_string(),
                source: None,
                message,
            }],
        };
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        self.tree = text
            .parse()
            .map_err(|e: toml::de::Error| failed(format!("not TOML: {e}")))?;
        self.file = Some(path.into());
        Ok(())
    }

    /// Put the environment over the file.
    pub(super) fn environment(&mut self, env: impl IntoIterator<Item = (String, String)>) {
        let mut own = Vec::new();
        let mut inherited: HashMap<&str, String> = HashMap::new();
        for (name, value) in env {
            match name.as_str() {
                "PORT" => inherited.insert("PORT", value),
                "HOST" => inherited.insert("HOST", value),
                "FRONTEND_ORIGIN" => inherited.insert("FRONTEND_ORIGIN", value),
                "DOCKER_HOST" => inherited.insert("DOCKER_HOST", value),
                _ => {
                    if let Some(key) = name.strip_prefix(PREFIX) {
                        own.push((setting(key), name.clone(), value));
                    }
                    None
                }
            };
        }
        self.inherited(&inherited);
        // In a fixed order, so that errors come in a fixed order.
        own.sort();
        for (key, name, value) in own {
            let value = if key.contains(".env.") {
                Value::String(value)
            } else {
                literal(&value)
            };
            self.set(&key, value, Source::Variable(name));
        }
    }

    /// The variables of older deployments. They belong to other programs too, so they yield to
    /// the file where both speak.
    fn inherited(&mut self, env: &HashMap<&str, String>) {
        if !self.tree.contains_key("listen")
            && (env.contains_key("PORT") || env.contains_key("HOST"))
        {
            let host = env.get("HOST").map_or("127.0.0.1", String::as_str);
            let port = env.get("PORT").map_or("3001", String::as_str);
            let host = match host {
                "localhost" => "127.0.0.1".to_owned(),
                v6 if v6.contains(':') && !v6.starts_with('[') => format!("[{v6}]"),
                other => other.to_owned(),
            };
            let value = Value::String(format!("{host}:{port}"));
            self.set("listen", value, Source::Variable("HOST and $PORT".into()));
        }
        if let Some(origin) = env.get("FRONTEND_ORIGIN")
            && !self.tree.contains_key("allowed_origins")
        {
            let source = Source::Variable("FRONTEND_ORIGIN".into());
            let origin = origin.trim_end_matches('/').to_owned();
            self.set("allowed_origins", Value::String(origin), source);
        }
        let docker = self.tree.get("docker").and_then(Value::as_table);
        if let Some(host) = env.get("DOCKER_HOST")
            && !docker.is_some_and(|d| d.contains_key("socket"))
        {
            let source = Source::Variable("DOCKER_HOST".into());
            let path = host.strip_prefix("unix://").unwrap_or(host);
            if path.starts_with('/') {
                self.set("docker.socket", Value::String(path.into()), source);
            } else {
                self.problems.push(Problem {
                    key: "docker.socket".into(),
                    source: Some(source),
                    message: format!("{host:?} is not a Unix socket; use unix:///path"),
                });
            }
        }
    }

    /// Put the command line over everything.
    pub(super) fn flags(&mut self, flags: &[(&str, String)]) {
        for (key, value) in flags {
            let source = Source::Flag(format!("--{key}"));
            self.set(key, literal(value), source);
        }
    }

    fn set(&mut self, key: &str, value: Value, source: Source) {
        if let Some((table, last)) = slot(&mut self.tree, key) {
            table.insert(last, value);
            self.sources.insert(key.into(), source);
        } else {
            self.problems.push(Problem {
                key: key.into(),
                source: Some(source),
                message: "there is no such setting".into(),
            });
        }
    }

    /// Who said this: the key itself, or the nearest table or value around it.
    fn source(&self, key: &str) -> Option<Source> {
        let mut at = key;
        loop {
            if let Some(source) = self.sources.get(at) {
                return Some(source.clone());
            }
            match at.rsplit_once('.') {
                Some((parent, _)) => at = parent,
                None => break,
            }
        }
        let mut value = None;
        let mut table = Some(&self.tree);
        for part in key.split('.') {
            value = table.and_then(|t| t.get(part));
            table = value.and_then(Value::as_table);
        }
        value.and(self.file.clone()).map(Source::File)
    }

    fn problem(&mut self, key: &str, message: String) {
        let source = self.source(key);
        self.problems.push(Problem {
            key: key.into(),
            source,
            message,
        });
    }

    /// One [`Config`], or everything that is wrong.
    pub(super) fn resolve(mut self) -> Result<Config, ConfigError> {
        // serde stops at the first bad value: note it, leave it out, try again.
        let mut config = None;
        let mut unknown = Vec::new();
        for _ in 0..MAX_PROBLEMS {
            unknown.clear();
            let mut track = serde_path_to_error::Track::new();
            let values = Value::Table(self.tree.clone());
            let values = serde_path_to_error::Deserializer::new(values, &mut track);
            let parsed: Result<Config, _> =
                serde_ignored::deserialize(values, |path| unknown.push(path.to_string()));
            match parsed {
                Ok(parsed) => {
                    config = Some(parsed);
                    break;
                }
                Err(error) => {
                    let key = track.path().to_string();
                    self.problem(&key, one_line(&error.to_string()));
                    let removed = slot(&mut self.tree, &key)
                        .is_some_and(|(table, last)| table.remove(&last).is_some());
                    if !removed {
                        break;
                    }
                }
            }
        }
        for key in unknown {
            // serde_ignored writes an optional level as `?`.
            let key = key.replace(".?", "");
            self.problem(&key, "there is no such setting".into());
        }
        if let Some(mut config) = config {
            config.fill();
            for (key, message) in config.check() {
                self.problem(&key, message);
            }
            if self.problems.is_empty() {
                return Ok(config);
            }
        }
        Err(ConfigError {
            problems: self.problems,
        })
    }
}

/// `LIMITS__IDLE_TIMEOUT` to `limits.idle_timeout`. What follows `ENV` is itself a variable's name
/// and keeps its case.
fn setting(variable: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in variable.split("__") {
        let keep = parts.last().is_some_and(|before| before == "env");
        parts.push(if keep {
            part.into()
        } else {
            part.to_lowercase()
        });
    }
    parts.join(".")
}

/// A variable's text as a TOML value where it is one (`10`, `true`, `["a"]`), else as a string.
fn literal(text: &str) -> Value {
    let parsed: Result<Table, _> = format!("v = {text}").parse();
    parsed
        .ok()
        .and_then(|mut table| table.remove("v"))
        .filter(|value| !matches!(value, Value::Datetime(_)))
        .unwrap_or_else(|| Value::String(text.into()))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
