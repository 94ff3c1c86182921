//! `make bench`: what a terminal costs through the whole gateway, side by side with the raw engine.
//!
//! Both sides run the same image, limits and program in gVisor, and take turns within one run, so
//! that noise of the machine meets both. The raw side is `docker attach` to a TTY without its
//! client program: the engine's API spoken by hand, the least an attach can cost. Both clients block
//! in their socket's read, so that neither pays for a runtime. Printed are
//! medians over rounds with their spread (lowest to highest round), and ratios of medians.
//!
//! `cargo bench --bench terminal -- [echo|bulk|interrupt|start]…` runs some of it.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "statistics of small numbers"
)]

mod engine;

mod gateway;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use engine::Engine;
use gateway::{Gateway, Session};

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

/// Cold starts of each side.
const STARTS: usize = 9;

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
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let engine = Engine::new();
    let gateway = Gateway::start();
    println!(
        "Belljar beside `docker attach`, both in gVisor, {} cores\n",
        cores()
    );
    if wants("echo") {
        echo(&engine, &gateway);
        ping(&gateway);
    }
    if wants("bulk") {
        bulk(&engine, &gateway);
    }
    if wants("interrupt") {
        interrupt(&gateway);
    }
    if wants("start") {
        start(&engine, &gateway);
    }
    gateway.stop();
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
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

fn echo(engine: &Engine, gateway: &Gateway) {
    let (mut raw_rounds, mut our_rounds) = (Rounds::default(), Rounds::default());
    for _ in 0..ROUNDS {
        // New sandboxes for each round: under gVisor one of a kind may be half as slow again as the
        // next, for as long as it lives.
        let (mut raw, mut ours) = (engine.open(), gateway.open());
        raw.raw("exec cat");
        ours.raw("exec cat");
        timed(&mut raw, key);
        timed(&mut ours, key);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        // Short turns: the noise of a shared machine lasts longer than they do.
        for _ in 0..KEYS / TURN {
            a.extend(timed(&mut raw, key));
            b.extend(timed(&mut ours, key));
        }
        raw_rounds.add(a);
        our_rounds.add(b);
        raw.remove(engine);
        ours.close();
    }
    report("echo of a keystroke, µs", &raw_rounds, &our_rounds);
}

/// What of an echo is the way to the agent and back.
fn ping(gateway: &Gateway) {
    let mut ours = gateway.open();
    let mut rounds = Rounds::default();
    for round in 0..=ROUNDS {
        let turns = (0..KEYS / TURN).flat_map(|_| timed(&mut ours, Session::ping));
        let times = turns.collect();
        if round > 0 {
            rounds.add(times);
        }
    }
    println!(
        "to the agent and back, without a PTY, µs: {}\n",
        rounds.describe()
    );
}

fn bulk_round(terminal: &mut impl Terminal) -> f64 {
    terminal.send(b"x");
    let mut rest = BULK;
    let mut begun = None;
    while rest > 0 {
        rest = rest.saturating_sub(terminal.receive(None));
        begun.get_or_insert_with(Instant::now);
    }
    let elapsed = begun.expect("there was output").elapsed();
    BULK as f64 / 1e6 / elapsed.as_secs_f64()
}

fn bulk(engine: &Engine, gateway: &Gateway) {
    let mut raw = engine.open();
    let mut ours = gateway.open();
    // One key, one round.
    let line = format!("while head -c 1 >/dev/null; do head -c {BULK} /dev/zero; done");
    raw.raw(&line);
    ours.raw(&line);
    let (mut raw_rounds, mut our_rounds) = (Rounds::default(), Rounds::default());
    for round in 0..=ROUNDS {
        let (a, b) = (bulk_round(&mut raw), bulk_round(&mut ours));
        if round > 0 {
            raw_rounds.add(vec![a]);
            our_rounds.add(vec![b]);
        }
    }
    report("bulk output, MB/s", &raw_rounds, &our_rounds);
    raw.remove(engine);
}

fn interrupt(gateway: &Gateway) {
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
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "Ctrl-C during `yes` to the prompt, ms: n {INTERRUPTS}, median {:.1}, p99 {:.1}\n",
        percentile(&times, 50.0),
        percentile(&times, 99.0)
    );
}

fn start(engine: &Engine, gateway: &Gateway) {
    let (mut raw, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let begun = Instant::now();
        let terminal = engine.open();
        raw.push(begun.elapsed().as_secs_f64() * 1e3);
        terminal.remove(engine);
        let begun = Instant::now();
        let terminal = gateway.open();
        ours.push(begun.elapsed().as_secs_f64() * 1e3);
        terminal.close();
    }
    let (mut a, mut b) = (Rounds::default(), Rounds::default());
    for (raw, ours) in raw.into_iter().zip(ours) {
        a.add(vec![raw]);
        b.add(vec![ours]);
    }
    report("cold start to the prompt, ms", &a, &b);
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

fn report(what: &str, raw: &Rounds, ours: &Rounds) {
    let ratio = percentile(&ours.medians(), 50.0) / percentile(&raw.medians(), 50.0);
    println!("{what}");
    println!("  docker attach   {}", raw.describe());
    println!("  Belljar         {}", ours.describe());
    println!("  ratio           {ratio:.2}\n");
}
