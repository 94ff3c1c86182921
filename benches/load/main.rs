//! `make load`: what one gateway holds.
//!
//! `cargo bench --bench load -- [idle [sessions [floods]] | sandboxes [count]] [--write]`
//!
//! *idle* (the default) opens 5,000 sessions whose visitors do nothing, says what memory of the
//! gateway each of them takes, and how long a keystroke's echo takes, quiet and while 100 of them
//! flood. Three processes, so that the gateway's memory is its own: this one is the visitors, the
//! second is a gateway as `belljar serve` runs it, the third stands in for the agents of all sandboxes
//! ([`agents`]). Everything is on loopback.
//!
//! *sandboxes* opens 40 real sandboxes in gVisor at once and types into each.
//!
//! Either ends with nothing left, or fails; and writes docs/benchmarks.md if it is told to.

#![expect(clippy::cast_precision_loss, reason = "statistics of small numbers")]

mod agents;

mod client;

mod gateway;

mod idle;

mod sandboxes;

#[path = "../common/percentile.rs"]
mod percentile;

#[path = "../common/report.rs"]
mod report;

use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Whatever takes longer than this is a failure, not a slow result.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let (options, arguments): (Vec<_>, Vec<_>) = arguments.partition(|a| a == "--write");
    let write = !options.is_empty();
    let number = |at: usize, default| arguments.get(at).map_or(default, |text| parse(text));
    match arguments.first().map_or("idle", String::as_str) {
        "idle" => idle::run(number(1, 5000), number(2, 100), write),
        "sandboxes" => sandboxes::run(number(1, 40), write),
        // The other processes of a run.
        gateway::STAND_IN => gateway::serve_stand_in(&arguments[1]),
        gateway::DOCKER => gateway::serve_docker(),
        agents::NAME => agents::serve(&arguments[1]),
        other => {
            eprintln!("there is no load {other:?}: idle [sessions [floods]] or sandboxes [count]");
            ExitCode::FAILURE
        }
    }
}

fn parse<T: FromStr>(text: &str) -> T {
    let parsed = text.parse();
    parsed.unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

/// Allow this process and its children as many open files as the machine allows; say so if that is
/// too few.
pub(crate) fn raise_file_limit(needed: u64) -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Should it fail, what is allowed now may still be enough.
    let _ = setrlimit(Resource::Nofile, raised);
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if allowed < needed {
        return Err(format!(
            "{needed} open files are needed, {allowed} are allowed: raise the hard limit \
             (`ulimit -Hn`), or take fewer sessions"
        ));
    }
    Ok(())
}
