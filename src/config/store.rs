//! Where gateways count together.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where all gateways count together what a client has started within the hour.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default)]
pub struct LimitStore {
    /// A Redis or Valkey server, as `redis://:password@host:6379/0` or `redis+unix:///path`; each gateway
    /// counts for itself if absent. May hold a password: never logged.
    pub url: Option<String>,
    /// What becomes of new sessions while the store does not answer.
    pub when_away: WhenAway,
    /// What its keys begin with: gateways with the same count together.
    pub prefix: String,
}

/// What becomes of new sessions while nobody knows what a client has started elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenAway {
    /// They begin, as far as this gateway's own count allows.
    Open,
    /// They are refused.
    Closed,
}

impl WhenAway {
    /// As it is configured.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

impl Default for LimitStore {
    fn default() -> Self {
        Self {
            url: None,
            when_away: WhenAway::Open,
            prefix: "belljar".into(),
        }
    }
}

impl fmt::Debug for LimitStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitStore")
            .field("url", &self.url.as_ref().map(|_| "…"))
            .field("when_away", &self.when_away)
            .field("prefix", &self.prefix)
            .finish()
    }
}

/// Longest prefix, bytes: every key has it.
const MAX_PREFIX: usize = 64;

impl LimitStore {
    /// What is wrong: `(key, message)`.
    pub(super) fn check(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut check = |field: &str, ok: bool, message: &str| {
            if !ok {
                wrong.push((format!("limits.store.{field}"), message.to_owned()));
            }
        };
        // The message must not repeat a password.
        check(
            "url",
            self.url.as_deref().is_none_or(is_store),
            "must be redis://host:port, with :password@ and /number if need be, or redis+unix:///path; a \
             server that speaks TLS is reached through a proxy beside the gateway",
        );
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
        check(
            "prefix",
            (1..=MAX_PREFIX).contains(&self.prefix.len()) && self.prefix.bytes().all(fits),
            "must be 1 to 64 letters, digits, '-', '_', '.' or ':'",
        );
        wrong
    }
}

/// A URL of a kind that the client knows and this gateway can speak.
fn is_store(url: &str) -> bool {
    let known = ["redis://", "redis+unix:///", "unix:///"];
    known.iter().any(|scheme| url.starts_with(scheme)) && redis::Client::open(url).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_named_and_its_password_is_not() {
        let store = |url: &str| LimitStore {
            url: Some(url.into()),
            ..LimitStore::default()
        };
        for url in [
            "redis://127.0.0.1",
            "redis://:hunter2@redis.example.com:6379/3",
            "redis+unix:///run/redis/redis.sock",
        ] {
            assert_eq!(store(url).check(), [], "{url}");
        }
        for url in ["rediss://host", "http://host", "redis://", "host:6379", ""] {
            let wrong = store(url).check();
            assert_eq!(wrong.len(), 1, "{url}");
            assert_eq!(wrong[0].0, "limits.store.url");
        }
        let wrong = store("http://:hunter2@host").check();
        let seen = format!("{wrong:?} {:?}", store("redis://:hunter2@host"));
        assert!(!seen.contains("hunter2"), "{seen}");
        let prefix = LimitStore {
            prefix: "a b".into(),
            ..LimitStore::default()
        };
        assert_eq!(prefix.check()[0].0, "limits.store.prefix");
    }
}
