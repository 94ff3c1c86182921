//! What a sandbox is started from.

use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{Limits, SECOND, outside};

/// Languages that every template has, as far as its image has their interpreters.
const LANGUAGES: [(&[&str], &[&str]); 4] = [
    (&["python", "python3", "py"], &["python3", "-c"]),
    (&["node", "javascript", "js"], &["node", "-e"]),
    (&["bash"], &["bash", "-c"]),
    (&["sh", "shell"], &["/bin/sh", "-c"]),
];

/// A recipe for sandboxes.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Template {
    /// One line for people who choose.
    pub description: String,
    /// Image name.
    pub image: String,
    /// The main terminal's program and arguments.
    pub command: Vec<String>,
    /// `uid:gid` of everything in the sandbox; never root.
    pub user: String,
    /// Home directory: a tmpfs, and the working directory.
    pub home: String,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Shell lines run before the visitor's shell, in order.
    pub init: Vec<String>,
    /// Commands that run code given to them as the last argument, by language, beside `python`,
    /// `node`, `bash` and `sh`.
    pub languages: BTreeMap<String, Vec<String>>,
    /// Sandboxes started ahead, so that a visitor is at the prompt at once. Each takes a place and
    /// idles at 2 to 3 % of a CPU.
    pub pool: usize,
    /// Whether its sessions are recorded.
    pub recording: bool,
    /// Memory; at the limit the sandbox ends.
    pub memory: ByteSize,
    /// CPUs.
    pub cpus: f64,
    /// Processes of the visitor (`RLIMIT_NPROC`).
    pub pids: u32,
    /// Open files of a process.
    pub open_files: u32,
    /// Size of the home directory.
    pub home_size: ByteSize,
    /// Size of `/tmp`.
    pub tmp_size: ByteSize,
    /// Shorter than [`Limits::idle_timeout`], if present.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Option<Duration>,
    /// Shorter than [`Limits::max_duration`], if present.
    #[serde(with = "humantime_serde")]
    pub max_duration: Option<Duration>,
}

impl Default for Template {
    fn default() -> Self {
        Self {
            description: "A Debian shell with everyday tools".into(),
            image: "belljar-sandbox:latest".into(),
            command: vec!["/bin/bash".into(), "-l".into()],
            user: "1000:1000".into(),
            home: "/home/sandbox".into(),
            env: BTreeMap::new(),
            init: Vec::new(),
            languages: BTreeMap::new(),
            pool: 0,
            recording: false,
            memory: ByteSize::mib(128),
            cpus: 0.5,
            pids: 64,
            open_files: 1024,
            home_size: ByteSize::mib(50),
            tmp_size: ByteSize::mib(10),
            idle_timeout: None,
            max_duration: None,
        }
    }
}

impl Template {
    /// The templates of a gateway that has none configured, with their names.
    pub(super) fn built_in() -> [(&'static str, Self); 3] {
        let base = Self {
            pool: 1,
            ..Self::default()
        };
        // An interpreter and a few packages in memory; `node` alone takes 11 threads.
        let language = |description: &str, command: &[&str]| Self {
            description: description.into(),
            command: command.iter().map(|&part| part.into()).collect(),
            memory: ByteSize::mib(256),
            cpus: 1.0,
            ..Self::default()
        };
        let python = language("Python, ready to type", &["/usr/bin/python3", "-q"]);
        let node = language("Node.js, ready to type", &["/usr/bin/node"]);
        [("base", base), ("python", python), ("node", node)]
    }

    /// What is wrong: `(field, message)`.
    pub(super) fn check(&self, limits: &Limits) -> Vec<(&'static str, String)> {
        let durations = [
            ("idle_timeout", self.idle_timeout, limits.idle_timeout),
            ("max_duration", self.max_duration, limits.max_duration),
        ];
        let durations = durations
            .into_iter()
            .filter_map(|(field, value, max)| Some((field, outside(value?, SECOND, max)?)));
        let mut wrong: Vec<_> = durations.collect();
        let mut check = |field, ok: bool, message: &str| {
            if !ok {
                wrong.push((field, message.to_owned()));
            }
        };
        check("image", !self.image.is_empty(), "must not be empty");
        check("command", !self.command.is_empty(), "must not be empty");
        check(
            "languages",
            self.languages.values().all(|command| !command.is_empty()),
            "must not have an empty command",
        );
        let ids = self.user.split_once(':');
        let id = |text: &str| text.parse::<u32>().is_ok_and(|id| id != 0);
        check(
            "user",
            ids.is_some_and(|(uid, gid)| id(uid) && id(gid)),
            "must be uid:gid in numbers, neither of them 0",
        );
        check(
            "home",
            self.home.starts_with('/') && self.home.len() > 1 && !self.home.contains([':', ',']),
            "must be an absolute path other than / without ':' or ','",
        );
        let mib = |size: ByteSize| size.as_u64() / (1024 * 1024);
        check(
            "memory",
            (32..=1024 * 1024).contains(&mib(self.memory)),
            "must be from 32MiB to 1TiB",
        );
        check(
            "cpus",
            (0.05..=256.0).contains(&self.cpus),
            "must be from 0.05 to 256",
        );
        check(
            "pids",
            (4..=4096).contains(&self.pids),
            "must be from 4 to 4096",
        );
        check(
            "pool",
            self.pool <= limits.max_sandboxes,
            "must be at most limits.max_sandboxes",
        );
        check(
            "open_files",
            (32..=1_048_576).contains(&self.open_files),
            "must be from 32 to 1048576",
        );
        for (field, size) in [("home_size", self.home_size), ("tmp_size", self.tmp_size)] {
            check(
                field,
                (1..=1024 * 1024).contains(&mib(size)),
                "must be from 1MiB to 1TiB",
            );
        }
        wrong
    }

    /// The command that runs code in this language, which is its last argument.
    pub fn language(&self, name: &str) -> Option<Vec<String>> {
        let own = self.languages.get(name).cloned();
        own.or_else(|| {
            let (_, command) = LANGUAGES.iter().find(|(names, _)| names.contains(&name))?;
            Some(command.iter().map(|part| (*part).to_owned()).collect())
        })
    }

    /// The languages there are.
    pub fn languages(&self) -> Vec<&str> {
        let own = self.languages.keys().map(String::as_str);
        let mut all: Vec<&str> = own
            .chain(LANGUAGES.iter().map(|(names, _)| names[0]))
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Numeric user and group. [`super::Config::load`] has checked the form.
    pub fn ids(&self) -> (u32, u32) {
        let parse = |text: &str| text.parse().ok();
        self.user
            .split_once(':')
            .and_then(|(uid, gid)| Some((parse(uid)?, parse(gid)?)))
            .unwrap_or((65_534, 65_534))
    }
}
