//! Where recordings are kept, and how much of them.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{DAY, outside};

/// Recordings of sessions. Which sessions are recorded is said by their template, or by whoever
/// creates them.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default)]
pub struct Recordings {
    /// The directory; made if missing, for the gateway's user only.
    pub dir: PathBuf,
    /// Whether a session may be recorded because the request that creates it asks for it.
    pub on_request: bool,
    /// Largest recording; one that reaches it ends, and its session goes on.
    pub max_size: ByteSize,
    /// Largest sum of all recordings; the oldest finished ones make room.
    pub max_total: ByteSize,
    /// A finished recording is removed after this long.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
}

impl Default for Recordings {
    fn default() -> Self {
        Self {
            dir: "/var/lib/belljar/recordings".into(),
            on_request: false,
            max_size: ByteSize::mib(16),
            max_total: ByteSize::gib(1),
            retention: 7 * DAY,
        }
    }
}

impl Recordings {
    /// What is wrong: `(key, message)`.
    pub(super) fn check(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut check = |field: &str, ok: bool, message: &str| {
            if !ok {
                wrong.push((format!("recordings.{field}"), message.to_owned()));
            }
        };
        check("dir", self.dir.is_absolute(), "must be an absolute path");
        let size = ByteSize::kib(64)..=ByteSize::gib(1);
        check(
            "max_size",
            size.contains(&self.max_size),
            "must be from 64KiB to 1GiB",
        );
        let total = self.max_size..=ByteSize::tib(1024);
        check(
            "max_total",
            total.contains(&self.max_total),
            "must be from recordings.max_size to 1PiB",
        );
        let retention = outside(self.retention, Duration::from_secs(60), 3650 * DAY);
        check(
            "retention",
            retention.is_none(),
            &retention.unwrap_or_default(),
        );
        wrong
    }
}
