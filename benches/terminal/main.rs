//! `make bench`: what a terminal costs through the whole gateway, side by side with the raw engine and
//! with a peer.
//!
//! All sides of a comparison run the same program, in the same image with the same limits where there
//! is one, and take turns within one run, so that noise of the machine meets all. The raw side is
//! `docker attach` to a TTY without its client program: the engine's API spoken by hand, the least an
//! attach can cost. The peer is ttyd, on a plain PTY, beside our launcher `process`. All clients block
//! in their socket's read, so that none pays for a runtime. Printed are medians over rounds with
//! their spread (lowest to highest round), and ratios of medians.
//!
//! `cargo bench --bench terminal -- [echo|bulk|interrupt|start|peer]… [--write]` runs some of it, and
//! writes docs/benchmarks.md.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "statistics of small numbers"
)]

mod cpu;

mod engine;

mod gateway;

mod peer;

#[path = "../common/report.rs"]
mod report;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use cpu::Cost;
use engine::Engine;
use gateway::{Gateway, Session};
use peer::Peer;
use report::Report;

/// Rounds of each side. Odd, so that a median is a round.
const ROUNDS: usize = 9;

/// Keystrokes in a round.
const KEYS: usize = 1000;

/// Keystrokes of one side before the other has its turn.
const TURN: usize = 25;

/// Bytes of bulk output in a round.
const BULK: usize = 64 << 20;

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
    report.say("In gVisor, beside `docker attach`\n");
    if wants("echo") {
        echo(report, &engine, &gateway);
        ping(report, &gateway);
    }
    if wants("bulk") {
        let (mut raw, mut ours) = (engine.open(), gateway.open());
        let (raw_cost, our_cost) = (raw.cost(), gateway.cost(Some(&engine)));
        bulk(
            report,
            ("docker attach", &mut raw, &raw_cost),
            ("Belljar", &mut ours, &our_cost),
        );
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
    let mut theirs_rounds = Rounds::default();
    let mut our_rounds = Rounds::default();
    for _ in 0..ROUNDS {
        let (mut theirs, mut ours) = (peer.open(), gateway.open());
        let (a, b) = echo_round(&mut theirs, &mut ours);
        theirs_rounds.add(a);
        our_rounds.add(b);
        ours.close();
    }
    compare(
        report,
        "echo of a keystroke, µs",
        ("ttyd", &theirs_rounds),
        ("Belljar", &our_rounds),
    );
    let (mut theirs, mut ours) = (peer.open(), gateway.open());
    bulk(
        report,
        ("ttyd", &mut theirs, &peer.cost()),
        ("Belljar", &mut ours, &gateway.cost(None)),
    );
    ours.close();
    gateway.stop();
}

/// Microseconds of each of some round trips.
fn timed<T>(terminal: &mut T, trip: impl Fn(&mut T)) -> Vec<f64> {
    let mut times = Vec::with_capacity(TURN);
    for _ in 0..TURN {
        let begun = Instant::now();
        trip(terminal);
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    times
}

fn key(terminal: &mut impl Terminal) {
    terminal.send(b"x");
    terminal.receive(None);
}

fn echo(report: &mut Report, engine: &Engine, gateway: &Gateway) {
    let (mut raw_rounds, mut our_rounds) = (Rounds::default(), Rounds::default());
    for _ in 0..ROUNDS {
        // New sandboxes for each round: under gVisor one of a kind may be half as slow again as the
        // next, for as long as it lives.
        let (mut raw, mut ours) = (engine.open(), gateway.open());
        let (a, b) = echo_round(&mut raw, &mut ours);
        raw_rounds.add(a);
        our_rounds.add(b);
        raw.remove(engine);
        ours.close();
    }
    compare(
        report,
        "echo of a keystroke, µs",
        ("docker attach", &raw_rounds),
        ("Belljar", &our_rounds),
    );
}

fn echo_round(one: &mut impl Terminal, other: &mut impl Terminal) -> (Vec<f64>, Vec<f64>) {
    one.raw("exec cat");
    other.raw("exec cat");
    timed(one, key);
    timed(other, key);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    // Short turns: the noise of a shared machine lasts longer than they do.
    for _ in 0..KEYS / TURN {
        a.extend(timed(one, key));
        b.extend(timed(other, key));
    }
    (a, b)
}

/// What of an echo is the way to the agent and back.
fn ping(report: &mut Report, gateway: &Gateway) {
    let mut ours = gateway.open();
    let mut rounds = Rounds::default();
    for round in 0..=ROUNDS {
        let turns = (0..KEYS / TURN).flat_map(|_| timed(&mut ours, Session::ping));
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
fn bulk_round(terminal: &mut impl Terminal, cost: &Cost) -> (f64, f64) {
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

fn bulk<A: Terminal, B: Terminal>(
    report: &mut Report,
    (theirs, one, one_cost): (&str, &mut A, &Cost),
    (ours, other, other_cost): (&str, &mut B, &Cost),
) {
    // One key, one round.
    let line = format!("while head -c 1 >/dev/null; do head -c {BULK} /dev/zero; done");
    one.raw(&line);
    other.raw(&line);
    let (mut rates, mut costs) = <((Rounds, Rounds), (Rounds, Rounds))>::default();
    for round in 0..=ROUNDS {
        let (a, b) = (bulk_round(one, one_cost), bulk_round(other, other_cost));
        if round > 0 {
            rates.0.add(vec![a.0]);
            rates.1.add(vec![b.0]);
            costs.0.add(vec![a.1]);
            costs.1.add(vec![b.1]);
        }
    }
    let what = "bulk output, MB/s";
    compare(report, what, (theirs, &rates.0), (ours, &rates.1));
    let what = "processor seconds for each GB of it, client not included";
    compare(report, what, (theirs, &costs.0), (ours, &costs.1));
}

fn interrupt(report: &mut Report, gateway: &Gateway) {
    let mut ours = gateway.open();
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
    times.sort_by(f64::total_cmp);
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
    let (mut raw, mut ours) = (Rounds::default(), Rounds::default());
    for _ in 0..STARTS {
        let begun = Instant::now();
        let terminal = engine.open();
        raw.add(vec![milliseconds(begun)]);
        terminal.remove(engine);
        let begun = Instant::now();
        let terminal = gateway.open();
        ours.add(vec![milliseconds(begun)]);
        terminal.close();
    }
    let what = "cold start to the prompt, ms";
    compare(report, what, ("docker attach", &raw), ("Belljar", &ours));
}

fn warm_start(report: &mut Report, pool: usize) {
    let gateway = Gateway::docker(pool);
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let begun = Instant::now();
        let terminal = gateway.open();
        times.push(milliseconds(begun));
        terminal.close();
        gateway.full(pool);
    }
    let mut rounds = Rounds::default();
    rounds.add(times);
    let rounds = rounds.describe();
    report.say(&format!("warm start to the prompt, ms: {rounds}\n"));
    gateway.stop();
}

/// Samples by round.
#[derive(Default)]
struct Rounds(Vec<Vec<f64>>);

impl Rounds {
    fn add(&mut self, mut samples: Vec<f64>) {
        samples.sort_by(f64::total_cmp);
        self.0.push(samples);
    }

    /// The medians of the rounds, sorted.
    fn medians(&self) -> Vec<f64> {
        let medians = self.0.iter().map(|round| percentile(round, 50.0));
        let mut medians: Vec<f64> = medians.collect();
        medians.sort_by(f64::total_cmp);
        medians
    }

    fn describe(&self) -> String {
        let medians = self.medians();
        let mut all: Vec<f64> = self.0.concat();
        all.sort_by(f64::total_cmp);
        let mut text = format!(
            "n {} × {}, median {:.1} ({:.1} to {:.1})",
            self.0.len(),
            self.0[0].len(),
            percentile(&medians, 50.0),
            medians[0],
            medians[medians.len() - 1],
        );
        if self.0[0].len() > 1 {
            let _ = write!(text, ", p99 {:.1}", percentile(&all, 99.0));
        }
        text
    }
}

fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn compare(
    report: &mut Report,
    what: &str,
    (theirs, their_rounds): (&str, &Rounds),
    (ours, our_rounds): (&str, &Rounds),
) {
    let median = |rounds: &Rounds| percentile(&rounds.medians(), 50.0);
    let ratio = median(our_rounds) / median(their_rounds);
    report.say(what);
    report.say(&format!("  {theirs:15} {}", their_rounds.describe()));
    report.say(&format!("  {ours:15} {}", our_rounds.describe()));
    report.say(&format!("  ratio           {ratio:.2}\n"));
}
