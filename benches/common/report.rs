//! What a measurement says: to whoever runs it, and with `--write` into docs/benchmarks.md.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// One command's part of the document.
pub(crate) struct Report {
    title: &'static str,
    command: &'static str,
    text: String,
}

impl Report {
    /// The part with this title, made by this command.
    pub(crate) fn new(title: &'static str, command: &'static str) -> Self {
        Self {
            title,
            command,
            text: String::new(),
        }
    }

    pub(crate) fn say(&mut self, line: &str) {
        println!("{line}");
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Put it in the place of what the document said under this title.
    pub(crate) fn write(&self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
        let document = fs::read_to_string(&path).expect("there is a docs/benchmarks.md");
        let mut parts: Vec<String> = document.split("\n## ").map(str::to_owned).collect();
        let part = format!(
            "{}\n\n{} · `{}` · {}\n\n```\n{}\n```\n",
            self.title,
            today(),
            self.command,
            machine(),
            self.text.trim()
        );
        match parts.iter_mut().find(|old| old.starts_with(self.title)) {
            Some(old) => *old = part,
            None => parts.push(part),
        }
        fs::write(&path, parts.join("\n## ")).expect("it can be written");
    }
}

fn today() -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    now.chars().take("2026-01-01".len()).collect()
}

/// What was measured, and on what.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = value("/proc/cpuinfo", "model name");
    let kib: u64 = value("/proc/meminfo", "MemTotal")
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or_default();
    let kernel = rustix::system::uname();
    let kernel = kernel.release().to_string_lossy().into_owned();
    // What follows the number is a name that somebody has given it.
    let kernel = kernel.split('-').next().unwrap_or_default();
    let mut text = format!(
        "Belljar {}, {cores} cores ({cpu}), {} GiB, Linux {kernel}",
        env!("CARGO_PKG_VERSION"),
        kib / (1 << 20)
    );
    for (name, program, arguments) in [
        (
            "Docker",
            PathBuf::from("docker"),
            ["version", "--format={{.Server.Version}}"].as_slice(),
        ),
        ("runsc", "runsc".into(), &["--version"]),
        ("ttyd", ttyd(), &["--version"]),
    ] {
        let answer = Command::new(program).args(arguments).output();
        let answer = answer.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let line = answer
            .unwrap_or_default()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        if let Some(version) = line.split_whitespace().last() {
            let _ = write!(text, ", {name} {}", version.trim_end_matches("-unknown"));
        }
    }
    text
}

/// The peer's program, as `benches/ttyd.sh` leaves it.
pub(crate) fn ttyd() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/ttyd")
}

/// The first value of this name in a file of lines `name: value`.
fn value(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':'));
    value.map_or(String::new(), |(_, value)| value.trim().to_owned())
}
