//! `cargo bench --bench api`: what a command costs by the API, beside `docker exec`; and how fast files
//! go in and out.
//!
//! All sides run `true` in the same sandbox and take turns of ten commands one after the other, as
//! programs do, so that noise of the machine meets all of them. The raw side is there twice: the engine's
//! API spoken by hand, the least that an exec can cost, and the `docker` program, which is what scripts
//! use. Each command has a connection of its own. What a program inside the sandbox waits for `true` is
//! the price of gVisor, which nobody outside can undercut.
//!
//! `--write` writes docs/benchmarks.md.

#![allow(
    clippy::format_collect,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "statistics of small numbers, few bytes"
)]

mod client;

#[path = "../common/percentile.rs"]
mod percentile;

#[path = "../common/report.rs"]
mod report;

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use client::{Address, Gateway};
use percentile::percentile;
use report::Report;
use serde_json::{Value, json};

/// Turns of each side.
const TURNS: usize = 6;

/// Commands in a turn.
const COMMANDS: usize = 10;

/// Commands before, which do not count.
const WARM_UP: usize = 2;

/// Before each turn: longer than the engine tidies up after the execs before.
const PAUSE: Duration = Duration::from_millis(500);

/// Starts `true` as often as its argument says, and prints what each took, in ms.
const INSIDE: &str = "
import os, sys, time
for _ in range(int(sys.argv[1])):
    begun = time.perf_counter()
    os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)
    print((time.perf_counter() - begun) * 1000)
";

/// Bytes of a file.
const FILE: usize = 100_000_000;

/// Transfers each way.
const TRANSFERS: usize = 5;

fn main() {
    let write = std::env::args().any(|argument| argument == "--write");
    let mut report = Report::new("The API", "cargo bench --bench api");
    let gateway = Gateway::start();
    exec(&mut report, &gateway);
    files(&mut report, &gateway);
    gateway.stop();
    if write {
        report.write();
    }
}

fn exec(report: &mut Report, gateway: &Gateway) {
    // With the template's half a CPU, commands one after the other are measured against its quota: both
    // ways take 20 ms of CPU and more.
    let sandbox = gateway.sandbox(&json!({"timeout": 3600, "cpus": 2}));
    let container = client::container(&sandbox);
    let engine = Address::engine();
    let sides: [(&str, &dyn Fn() -> Vec<f64>); 4] = [
        ("Belljar", &|| turn(|| by_the_gateway(gateway, &sandbox))),
        ("the engine's API", &|| {
            turn(|| by_the_engine(&engine, &container))
        }),
        ("docker exec", &|| turn(|| by_docker(&container))),
        ("from inside", &|| inside(gateway, &sandbox)),
    ];
    let mut times = sides.map(|_| Vec::new());
    for _ in 0..TURNS {
        for (times, (_, turn)) in times.iter_mut().zip(sides) {
            sleep(PAUSE);
            times.extend(turn().split_off(WARM_UP));
        }
    }
    report.say("`true` in a running gVisor sandbox, ms");
    for ((name, _), times) in sides.iter().zip(&times) {
        let n = times.len();
        let [low, p50, p90, high] = [0.0, 50.0, 90.0, 100.0].map(|p| percentile(times, p));
        report.say(&format!(
            "  {name:17} n {n}, p50 {p50:.1}, p90 {p90:.1} ({low:.1} to {high:.1})"
        ));
    }
    let [ours, engine, docker, inside] = times.map(|times| percentile(&times, 50.0));
    report.say(&format!(
        "  ratio of p50      {:.2} × the engine's API, {:.2} × docker exec, {:.2} × from inside\n",
        ours / engine,
        ours / docker,
        ours / inside
    ));
    gateway.end(&sandbox);
}

fn turn(command: impl Fn()) -> Vec<f64> {
    (0..WARM_UP + COMMANDS).map(|_| timed(&command)).collect()
}

fn inside(gateway: &Gateway, sandbox: &str) -> Vec<f64> {
    let count = (WARM_UP + COMMANDS).to_string();
    let ran = run(gateway, sandbox, &["python3", "-c", INSIDE, &count]);
    let times = ran["stdout"].as_str().expect("text").lines();
    times.map(|ms| ms.parse().expect("a number")).collect()
}

fn run(gateway: &Gateway, sandbox: &str, command: &[&str]) -> Value {
    let path = format!("/api/v1/sandboxes/{sandbox}/commands");
    let order = json!({"command": command});
    let (_, ran) = gateway.address.json("POST", &path, &order);
    assert_eq!(ran["exitCode"], 0, "{ran}");
    ran
}

fn by_the_gateway(gateway: &Gateway, sandbox: &str) {
    run(gateway, sandbox, &["true"]);
}

fn by_the_engine(engine: &Address, container: &str) {
    let order = json!({"Cmd": ["true"], "AttachStdout": true, "AttachStderr": true});
    let (_, made) = engine.json("POST", &format!("/containers/{container}/exec"), &order);
    let id = made["Id"].as_str().expect("an id");
    // The answer ends with the command.
    let (status, _) = engine.json(
        "POST",
        &format!("/exec/{id}/start"),
        &json!({"Detach": false}),
    );
    assert_eq!(status, 200);
    let (_, ended) = engine.json("GET", &format!("/exec/{id}/json"), &Value::Null);
    assert_eq!(ended["ExitCode"], 0, "{ended}");
}

fn by_docker(container: &str) {
    let ran = Command::new("docker")
        .args(["exec", container, "true"])
        .stdin(Stdio::null())
        .status();
    assert!(ran.expect("there is a docker").success());
}

fn files(report: &mut Report, gateway: &Gateway) {
    let order = json!({"timeout": 3600, "cpus": 2, "memoryMB": 512});
    let sandbox = gateway.sandbox(&order);
    let path = format!("/api/v1/sandboxes/{sandbox}/files?path=file");
    // Not compressible by chance, and the same each time.
    let content: Vec<u8> = (0..FILE).map(|i| (i * i / 251) as u8).collect();
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let rate = |seconds: f64| FILE as f64 / 1e3 / seconds;
    for _ in 0..TRANSFERS {
        up.push(rate(timed(|| {
            let (status, told) = gateway.address.send("PUT", &path, &content);
            assert_eq!(status, 204, "{}", String::from_utf8_lossy(&told));
        })));
        let mut seen = Vec::new();
        down.push(rate(timed(|| {
            seen = gateway.address.send("GET", &path, b"").1;
        })));
        assert!(seen == content, "it is the same");
    }
    report.say("a file of 100 MB, MB/s");
    for (name, rates) in [("up", &up), ("down", &down)] {
        report.say(&format!(
            "  {name:17} n {TRANSFERS}, median {:.0} ({:.0} to {:.0})",
            percentile(rates, 50.0),
            percentile(rates, 0.0),
            percentile(rates, 100.0)
        ));
    }
    gateway.end(&sandbox);
}

/// Milliseconds.
fn timed(action: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    action();
    begun.elapsed().as_secs_f64() * 1e3
}
