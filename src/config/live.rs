//! The configuration in force. Whoever decides something by it reads it anew, so that a reload holds
//! for the next decision; what a session was given stays with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use toml::{Table, Value};

use super::{Api, Config, Limits, Log};

/// The configuration in force.
#[derive(Debug)]
pub struct Live(ArcSwap<Config>);

/// What a new configuration has changed: keys, as `limits.idle_timeout`, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// In force from now on.
    pub applied: Vec<String>,
    /// Read once, when the gateway starts: the old value stays in force until then.
    pub needs_restart: Vec<String>,
}

impl Live {
    /// Begin with this one.
    pub fn new(config: Config) -> Self {
        Self(ArcSwap::from_pointee(config))
    }

    /// The configuration in force. To be read once for each decision, so that one decision is not
    /// made by two of them.
    pub fn get(&self) -> Arc<Config> {
        self.0.load_full()
    }

    /// Put a valid configuration in force, as far as it can change while the gateway serves.
    pub fn replace(&self, next: &Config) -> Change {
        let before = self.get();
        let merged = merge(&before, next);
        let change = Change {
            applied: differences(&before, &merged),
            needs_restart: differences(&merged, next),
        };
        self.0.store(Arc::new(merged));
        change
    }
}

/// What may change while the gateway serves comes from `next`. The rest is what it was built with.
fn merge(before: &Config, next: &Config) -> Config {
    Config {
        allowed_origins: next.allowed_origins.clone(),
        trusted_proxies: next.trusted_proxies.clone(),
        default_template: next.default_template.clone(),
        log: Log {
            filter: next.log.filter.clone(),
            ..before.log
        },
        limits: Limits {
            max_connections: before.limits.max_connections,
            connections_per_client: before.limits.connections_per_client,
            min_available_memory: before.limits.min_available_memory,
            max_memory_pressure: before.limits.max_memory_pressure,
            max_cpu_pressure: before.limits.max_cpu_pressure,
            store: before.limits.store.clone(),
            ..next.limits.clone()
        },
        api: Api {
            keys_file: before.api.keys_file.clone(),
            ..next.api.clone()
        },
        templates: next.templates.clone(),
        ..before.clone()
    }
}

/// The keys whose values are not the same.
fn differences(one: &Config, other: &Config) -> Vec<String> {
    let (one, other) = (settings(one), settings(other));
    let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    keys.into_iter()
        .filter(|key| one.get(*key) != other.get(*key))
        .cloned()
        .collect()
}

/// Every value by its dotted key.
fn settings(config: &Config) -> BTreeMap<String, Value> {
    fn walk(prefix: &str, table: Table, into: &mut BTreeMap<String, Value>) {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            match value {
                Value::Table(table) => walk(&format!("{key}."), table, into),
                value => drop(into.insert(key, value)),
            }
        }
    }
    let mut settings = BTreeMap::new();
    let table = Table::try_from(config).expect("a configuration comes from such a table");
    walk("", table, &mut settings);
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Template;

    #[test]
    fn what_may_change_does_and_the_rest_is_named() {
        let live = Live::new(Config::defaults());
        let mut next = Config::defaults();
        next.limits.max_sandboxes = 7;
        next.limits.max_connections = 9;
        next.allowed_origins = vec!["https://example.com".into()];
        next.log.filter = "debug".into();
        next.listen.set_port(4000);
        next.docker.runtime = "other".into();
        next.telemetry.otlp_endpoint = Some("http://127.0.0.1:4318".into());
        let mut template = Template::default();
        template.env.insert("SECRET".into(), "value".into());
        next.templates.insert("new".into(), template);
        let change = live.replace(&next);
        assert!(
            [
                "allowed_origins",
                "limits.max_sandboxes",
                "log.filter",
                "templates.new.env.SECRET",
                "templates.new.image"
            ]
            .iter()
            .all(|key| change.applied.iter().any(|applied| applied == key)),
            "{change:?}"
        );
        assert_eq!(
            change.needs_restart,
            [
                "docker.runtime",
                "limits.max_connections",
                "listen",
                "telemetry.otlp_endpoint"
            ]
        );
        let now = live.get();
        assert_eq!(now.limits.max_sandboxes, 7);
        assert_eq!(now.limits.max_connections, 2048);
        assert_eq!(now.listen.port(), 3001);
        assert!(now.template("new").is_some());
        // What was named and not applied is named again; nothing else is.
        let again = live.replace(&next);
        assert_eq!(again.applied, [""; 0]);
        assert_eq!(again.needs_restart, change.needs_restart);
    }

    #[test]
    fn what_is_taken_away_is_a_change_too() {
        let mut config = Config::defaults();
        config.templates.insert("old".into(), Template::default());
        let live = Live::new(config);
        let change = live.replace(&Config::defaults());
        assert!(
            change.applied.contains(&"templates.old.image".to_owned()),
            "{change:?}"
        );
        assert!(live.get().template("old").is_none());
    }
}
