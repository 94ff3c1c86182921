//! The API for programs: its keys, and what they may ask for.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{DAY, MINUTE, SECOND, list, outside};

/// The API by which programs hold sandboxes.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default)]
pub struct Api {
    /// The keys, as `belljar key new` writes them. Without this file, or without a key in it, the API
    /// answers programs of this machine only.
    pub keys_file: PathBuf,
    /// Sandboxes an owner may have at once, stopped ones included. A key may have its own number.
    pub sandboxes: u32,
    /// Sandboxes an owner may start in any hour. A key may have its own number.
    pub sandboxes_per_hour: u32,
    /// A sandbox ends after this long, if nothing else is asked for.
    #[serde(with = "humantime_serde")]
    pub default_ttl: Duration,
    /// How far ahead a sandbox's end may lie.
    #[serde(with = "humantime_serde")]
    pub max_ttl: Duration,
    /// The most memory that may be asked for. A template may have more.
    pub max_memory: ByteSize,
    /// The most CPUs that may be asked for. A template may have more.
    pub max_cpus: f64,
    /// Whether holders of a key with the scope `admin` may have templates built from Dockerfiles. The
    /// engine runs their commands in its default runtime, without gVisor, so it is off unless those who
    /// hold such keys are trusted with the machine.
    pub builds: bool,
    /// Images that may be asked for, with `*` and `?`, among those that the engine has. Nothing is
    /// pulled.
    #[serde(deserialize_with = "list")]
    pub images: Vec<String>,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            keys_file: "/etc/belljar/keys.toml".into(),
            sandboxes: 20,
            sandboxes_per_hour: 1000,
            default_ttl: 5 * MINUTE,
            max_ttl: DAY,
            max_memory: ByteSize::gib(2),
            max_cpus: 2.0,
            builds: false,
            images: vec!["*".into()],
        }
    }
}

impl Api {
    /// What is wrong: `(key, message)`.
    pub(super) fn check(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut check = |field: &str, ok: bool, message: &str| {
            if !ok {
                wrong.push((format!("api.{field}"), message.to_owned()));
            }
        };
        let absolute = self.keys_file.is_absolute();
        check("keys_file", absolute, "must be an absolute path");
        for (field, count, max) in [
            ("sandboxes", self.sandboxes, 100_000),
            ("sandboxes_per_hour", self.sandboxes_per_hour, 1_000_000),
        ] {
            let message = format!("must be from 1 to {max}");
            check(field, (1..=max).contains(&count), &message);
        }
        for (field, value, max) in [
            ("max_ttl", self.max_ttl, 7 * DAY),
            ("default_ttl", self.default_ttl, self.max_ttl),
        ] {
            let outside = outside(value, SECOND, max);
            check(field, outside.is_none(), &outside.unwrap_or_default());
        }
        let memory = ByteSize::mib(32)..=ByteSize::tib(1);
        check(
            "max_memory",
            memory.contains(&self.max_memory),
            "must be from 32MiB to 1TiB",
        );
        check(
            "max_cpus",
            (0.05..=256.0).contains(&self.max_cpus),
            "must be from 0.05 to 256",
        );
        wrong
    }
}
