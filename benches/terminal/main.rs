//! `make bench`: what a terminal costs through the whole gateway, side by side with the raw engine and
//! with a peer.
//!
//! All sides of a comparison run the same program, in the same image with the same limits where there
//! is one, and take turns within one run, so that noise of the machine meets all. The raw side is
//! there twice: as the command `docker attach` in a terminal, which is what a person has, and as the
//! engine's API spoken by hand, the least that an attach to a TTY can cost. The peer is ttyd, on a
//! plain PTY, beside our launcher `process`. All clients block in their read, so that none pays for a
//! runtime. Printed are medians over rounds with their spread (lowest to highest round), and ratios of
//! medians.
//!
//! `cargo bench --bench terminal -- [echo|bulk|interrupt|start|peer]… [--write]` runs some of it, and
//! writes docs/benchmarks.md.

#![expect(clippy::cast_precision_loss, reason = "statistics of small numbers")]

mod command;

mod cpu;

mod engine;

mod gateway;

mod peer;

#[path = "../common/percentile.rs"]
mod percentile;

#[path = "../common/report.rs"]
mod report;

#[path = "../common/rounds.rs"]
mod rounds;

use std::io::Read;
use std::time::{Duration, Instant};

use command::Command;
use cpu::Cost;
use engine::Engine;
use gateway::Gateway;
use peer::Peer;
use percentile::percentile;
use report::Report;
use rounds::Rounds;

/// The sides, as they are named in what is printed.
const ATTACH: &str = "docker attach";
const API: &str = "the engine's API";
const TTYD: &str = "ttyd";
const OURS: &str = "Belljar";

/// What is compared of an echo.
const ECHO: &str = "echo of a keystroke, µs";

/// Rounds of each side. Odd, so that a median is a round.
const ROUNDS: usize = 9;

/// Keystrokes in a round.
const KEYS: usize = 1000;

/// Keystrokes of one side before the other has its turn.
const TURN: usize = 25;

/// Bytes of bulk output in a round.
const BULK: usize = 64 << 20;

/// Bytes asked of a socket at once by who waits for a key's echo. The WebSocket library clears what it
/// reads into, so more would cost its sides time.
const KEY_READ: usize = 4 * 1024;

/// And by who reads in bulk.
pub(crate) const BULK_READ: usize = 64 * 1024;

/// Interrupted floods.
const INTERRUPTS: usize = 20;

/// Starts of each side.
const STARTS: usize = 9;

/// Sandboxes kept ready for the warm starts, which are left out without.
const POOL: Option<usize> = Some(2);

/// A read that takes longer than this is a failure, not a slow result.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// One terminal, whatever is behind it: type, and read what comes.
pub(crate) trait Terminal {
    fn send(&mut self, bytes: &[u8]);
    /// The length of the next piece of output, appended to `into` if that is wanted.
    fn receive(&mut self, into: Option<&mut Vec<u8>>) -> usize;

    /// Read until this text.
    fn until(&mut self, text: &[u8]) {
        let mut seen = Vec::new();
        while !seen.windows(text.len()).any(|window| window == text) {
            self.receive(Some(&mut seen));
        }
    }

    /// Run a shell line that leaves the terminal raw, and wait until it is.
    fn raw(&mut self, line: &str) {
        // Split, so that the echo of the line is not taken for its output.
        self.send(format!("stty raw -echo; printf 're''ady'; {line}\r").as_bytes());
        self.until(b"ready");
    }
}

/// A terminal's [`Terminal::receive`], where bytes are read as they are.
pub(crate) fn read(from: &mut impl Read, buffer: &mut [u8], into: Option<&mut Vec<u8>>) -> usize {
    let read = from.read(buffer).expect("it writes");
    assert_ne!(read, 0, "whoever writes lives");
    if let Some(into) = into {
        into.extend_from_slice(&buffer[..read]);
    }
    read
}

fn main() {
    let arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let (options, wanted): (Vec<String>, Vec<String>) = arguments.partition(|a| a == "--write");
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let mut report = Report::new("Terminals", "make bench");
    if ["echo", "bulk", "interrupt", "start"]
        .into_iter()
        .any(wants)
    {
        in_gvisor(wants, &mut report);
    }
    if wants("peer") {
        on_a_plain_pty(&mut report);
    }
    if !options.is_empty() {
        report.write();
    }
}

fn in_gvisor(wants: impl Fn(&str) -> bool, report: &mut Report) {
    let engine = Engine::new();
    let gateway = Gateway::docker(0);
    report.say("In gVisor, beside the engine alone\n");
    if wants("echo") {
        echo(report, &engine, &gateway);
        ping(report, &gateway);
    }
    if wants("bulk") {
        let mut ours = gateway.open(BULK_READ);
        let our_cost = gateway.cost(Some(&engine));
        let (mut raw, mut command) = (engine.open(), Command::open(&engine));
        let (raw_cost, command_cost) = (raw.cost(), command.cost());
        bulk(
            report,
            &mut [
                (ATTACH, &mut command, command_cost),
                (API, &mut raw, raw_cost),
                (OURS, &mut ours, our_cost),
            ],
        );
        command.remove(&engine);
        raw.remove(&engine);
        ours.close();
    }
    if wants("interrupt") {
        interrupt(report, &gateway);
    }
    if wants("start") {
        start(report, &engine, &gateway);
    }
    gateway.stop();
    if let Some(pool) = POOL.filter(|_| wants("start")) {
        warm_start(report, pool);
    }
}

fn on_a_plain_pty(report: &mut Report) {
    let Some(peer) = Peer::start() else {
        report.say("Beside ttyd: left out, for there is no target/ttyd (benches/ttyd.sh)\n");
        return;
    };
    let gateway = Gateway::process();
    report.say("On a plain PTY without isolation, beside ttyd\n");
    let mut sides = [Rounds::of(TTYD), Rounds::of(OURS)];
    for _ in 0..ROUNDS {
        let (mut theirs, mut ours) = (peer.open(KEY_READ), gateway.open(KEY_READ));
        echo_round(&mut [&mut theirs, &mut ours], &mut sides);
        ours.close();
    }
    compare(report, ECHO, &sides);
    let (mut theirs, mut ours) = (peer.open(BULK_READ), gateway.open(BULK_READ));
    bulk(
        report,
        &mut [
            (TTYD, &mut theirs, peer.cost()),
            (OURS, &mut ours, gateway.cost(None)),
        ],
    );
    ours.close();
    gateway.stop();
}

/// Microseconds of each of some round trips.
fn timed(mut trip: impl FnMut()) -> Vec<f64> {
    let mut times = Vec::with_capacity(TURN);
    for _ in 0..TURN {
        let begun = Instant::now();
        trip();
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    times
}

fn key(terminal: &mut dyn Terminal) {
    terminal.send(b"x");
    terminal.receive(None);
}

fn echo(report: &mut Report, engine: &Engine, gateway: &Gateway) {
    let mut sides = [Rounds::of(ATTACH), Rounds::of(API), Rounds::of(OURS)];
    for _ in 0..ROUNDS {
        // New sandboxes for each round: under gVisor one of a kind may be half as slow again as the
        // next, for as long as it lives.
        let (mut command, mut raw) = (Command::open(engine), engine.open());
        let mut ours = gateway.open(KEY_READ);
        echo_round(&mut [&mut command, &mut raw, &mut ours], &mut sides);
        command.remove(engine);
        raw.remove(engine);
        ours.close();
    }
    compare(report, ECHO, &sides);
}

fn echo_round(terminals: &mut [&mut dyn Terminal], sides: &mut [Rounds]) {
    for terminal in &mut *terminals {
        terminal.raw("exec cat");
        timed(|| key(*terminal));
    }
    let mut times = vec![Vec::new(); terminals.len()];
    // Short turns: the noise of a shared machine lasts longer than they do.
    for _ in 0..KEYS / TURN {
        for (terminal, times) in terminals.iter_mut().zip(&mut times) {
            times.extend(timed(|| key(*terminal)));
        }
    }
    for (side, times) in sides.iter_mut().zip(times) {
        side.add(times);
    }
}

/// What of an echo is the way to the agent and back.
fn ping(report: &mut Report, gateway: &Gateway) {
    let mut ours = gateway.open(KEY_READ);
    let mut rounds = Rounds::of(OURS);
    for round in 0..=ROUNDS {
        let turns = (0..KEYS / TURN).flat_map(|_| timed(|| ours.ping()));
        let times = turns.collect();
        if round > 0 {
            rounds.add(times);
        }
    }
    ours.close();
    let rounds = rounds.describe();
    report.say(&format!(
        "to the agent and back, without a PTY, µs: {rounds}\n"
    ));
}

/// MB/s, and processor seconds for each GB.
fn bulk_round(terminal: &mut dyn Terminal, cost: &Cost) -> (f64, f64) {
    let before = cost.seconds();
    terminal.send(b"x");
    let mut rest = BULK;
    let mut begun = None;
    while rest > 0 {
        rest = rest.saturating_sub(terminal.receive(None));
        begun.get_or_insert_with(Instant::now);
    }
    let elapsed = begun.expect("there was output").elapsed();
    let used = cost.seconds() - before;
    (
        BULK as f64 / 1e6 / elapsed.as_secs_f64(),
        used * 1e9 / BULK as f64,
    )
}

fn bulk(report: &mut Report, sides: &mut [(&'static str, &mut dyn Terminal, Cost)]) {
    // One key, one round.
    let line = format!("while head -c 1 >/dev/null; do head -c {BULK} /dev/zero; done");
    let named = |side: &(&'static str, &mut dyn Terminal, Cost)| Rounds::of(side.0);
    let mut rates: Vec<Rounds> = sides.iter().map(named).collect();
    let mut costs: Vec<Rounds> = sides.iter().map(named).collect();
    for (_, terminal, _) in &mut *sides {
        terminal.raw(&line);
    }
    for round in 0..=ROUNDS {
        for (at, (_, terminal, cost)) in sides.iter_mut().enumerate() {
            let (rate, seconds) = bulk_round(*terminal, cost);
            if round > 0 {
                rates[at].add(vec![rate]);
                costs[at].add(vec![seconds]);
            }
        }
    }
    compare(report, "bulk output, MB/s", &rates);
    let what = "processor seconds for each GB of it, the measuring client not included";
    compare(report, what, &costs);
}

fn interrupt(report: &mut Report, gateway: &Gateway) {
    let mut ours = gateway.open(BULK_READ);
    let mut times = Vec::new();
    for _ in 0..INTERRUPTS {
        ours.send(b"yes\r");
        let mut flooded = 0;
        while flooded < 4 << 20 {
            flooded += ours.receive(None);
        }
        let begun = Instant::now();
        ours.send(b"\x03");
        ours.until(b"$ ");
        times.push(milliseconds(begun));
    }
    ours.close();
    report.say(&format!(
        "Ctrl-C during `yes` to the prompt, ms: n {INTERRUPTS}, median {:.1}, p99 {:.1}\n",
        percentile(&times, 50.0),
        percentile(&times, 99.0)
    ));
}

fn milliseconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

fn start(report: &mut Report, engine: &Engine, gateway: &Gateway) {
    let mut sides = [Rounds::of(API), Rounds::of(OURS)];
    for _ in 0..STARTS {
        let begun = Instant::now();
        let terminal = engine.open();
        sides[0].add(vec![milliseconds(begun)]);
        terminal.remove(engine);
        let begun = Instant::now();
        let terminal = gateway.open(KEY_READ);
        sides[1].add(vec![milliseconds(begun)]);
        terminal.close();
    }
    compare(report, "cold start to the prompt, ms", &sides);
}

fn warm_start(report: &mut Report, pool: usize) {
    let gateway = Gateway::docker(pool);
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let begun = Instant::now();
        let terminal = gateway.open(KEY_READ);
        times.push(milliseconds(begun));
        terminal.close();
        gateway.full(pool);
    }
    let mut rounds = Rounds::of(OURS);
    rounds.add(times);
    let rounds = rounds.describe();
    report.say(&format!("warm start to the prompt, ms: {rounds}\n"));
    gateway.stop();
}

/// All sides, and the last one's ratio to each of the others.
fn compare(report: &mut Report, what: &str, sides: &[Rounds]) {
    report.say(what);
    for side in sides {
        report.say(&format!("  {:16} {}", side.side, side.describe()));
    }
    let [others @ .., ours] = sides else { return };
    for other in others {
        let ratio = ours.median() / other.median();
        report.say(&format!("  {ratio:.2} × {}", other.side));
    }
    report.say("");
}
