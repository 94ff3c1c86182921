//! Random faults, one after the other. In the end nothing is lost that was promised, and nothing is
//! left.
//!
//! A few rounds in every run of the tests; `make chaos` does 200. `BELLJAR_CHAOS_ROUNDS` and
//! `BELLJAR_CHAOS_SEED` say how many, and repeat a run. `BELLJAR_CHAOS_ENGINE=1` restarts the engine
//! too, which other tests beside it would not like.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use super::counting::Counting;
use super::serve::Served;
use super::{Namespace, config, docker, place, say};
use crate::harness::PATIENCE;

/// Visitors at once, which is all that one address may have.
const VISITORS: usize = 3;

/// How far the gateway's clock jumps, seconds to either side. Far from a session's last hour, which
/// would be over.
const JUMP: usize = 600;

/// How long the gateway may not know that its clock has jumped.
const CLOCK_CACHED: Duration = Duration::from_secs(1);

const SETTINGS: [(&str, &str); 6] = [
    ("BELLJAR_LIMITS__SESSIONS_PER_HOUR", "100000"),
    ("BELLJAR_LIMITS__CONCURRENT_SESSIONS", "3"),
    // Long enough to come back on a busy machine, short enough to see who did not.
    ("BELLJAR_LIMITS__DETACH_TIMEOUT", "20s"),
    ("BELLJAR_TEMPLATES__BASE__POOL", "1"),
    // Whoever is not struck for a while still lives, and types nothing.
    ("BELLJAR_LIMITS__IDLE_TIMEOUT", "2h"),
    ("BELLJAR_LIMITS__MAX_DURATION", "3h"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// `kill -9` of the gateway.
    GatewayKilled,
    /// SIGTERM to the gateway.
    GatewayReplaced,
    /// `kill -9` of the gateway, and of a sandbox while nobody looks.
    BothKilled,
    /// The sandbox dies.
    SandboxKilled,
    /// The sandbox is removed behind the gateway's back.
    SandboxRemoved,
    /// The network breaks; the visitor comes back.
    Cut,
    /// The visitor closes the session.
    Closed,
    /// The shell ends.
    Exited,
    /// The pool's sandbox dies.
    SpareKilled,
    /// The host's clock is set, forward or back.
    ClockJumped,
    /// The engine is restarted under everybody.
    EngineRestarted,
}

const FAULTS: [Fault; 11] = [
    Fault::GatewayKilled,
    Fault::GatewayReplaced,
    Fault::BothKilled,
    Fault::SandboxKilled,
    Fault::SandboxRemoved,
    Fault::Cut,
    Fault::Closed,
    Fault::Exited,
    Fault::SpareKilled,
    Fault::ClockJumped,
    Fault::EngineRestarted,
];

/// Those that this run may cause.
fn faults() -> Vec<Fault> {
    let mut faults = FAULTS.to_vec();
    if faked_clock().is_none() {
        say!("chaos: without jumps of the clock, for libfaketime is not installed");
        faults.retain(|fault| *fault != Fault::ClockJumped);
    }
    if setting("BELLJAR_CHAOS_ENGINE", 0) == 0 {
        faults.retain(|fault| *fault != Fault::EngineRestarted);
    }
    faults
}

/// The library that tells a process another time than the host's.
fn faked_clock() -> Option<PathBuf> {
    let directories = fs::read_dir("/usr/lib").ok()?.flatten();
    let mut libraries = directories.map(|dir| dir.path().join("faketime/libfaketime.so.1"));
    libraries.find(|library| library.exists())
}

/// The file that says by how much the gateways' clock is wrong.
fn clock(namespace: &Namespace) -> PathBuf {
    let run_dir = namespace.sockets.parent().expect("it has one");
    run_dir.join(format!("{}.clock", namespace.name))
}

fn set_clock(clock: &Path, seconds: i64) {
    // In one step, or a gateway would read half of it.
    let new = clock.with_extension("new");
    fs::write(&new, format!("{seconds:+}s\n")).expect("there is room");
    fs::rename(new, clock).expect("there is room");
}

async fn serve(namespace: Namespace) -> Served {
    let mut settings = SETTINGS
        .map(|(name, value)| (name, value.to_owned()))
        .to_vec();
    if let Some(library) = faked_clock() {
        let text = |path: PathBuf| path.to_str().expect("text").to_owned();
        settings.extend([
            ("LD_PRELOAD", text(library)),
            ("FAKETIME_TIMESTAMP_FILE", text(clock(&namespace))),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            (
                "FAKETIME_CACHE_DURATION",
                CLOCK_CACHED.as_secs().to_string(),
            ),
        ]);
    }
    let settings: Vec<_> = settings.iter().map(|(n, v)| (*n, v.as_str())).collect();
    Served::start_in(namespace, &settings).await
}

/// Stop the engine and start it as it was started, whoever did so.
async fn restart_engine() {
    if Path::new("/run/systemd/system").exists() {
        let restarted = Command::new("systemctl")
            .args(["restart", "docker"])
            .status();
        assert!(restarted.is_ok_and(|status| status.success()));
    } else {
        let pid = fs::read_to_string("/var/run/docker.pid").expect("it runs");
        let proc = Path::new("/proc").join(pid.trim());
        let command = fs::read_to_string(proc.join("cmdline")).expect("it runs");
        let command: Vec<&str> = command.split_terminator('\0').collect();
        let killed = Command::new("kill").arg(pid.trim()).status();
        assert!(killed.is_ok_and(|status| status.success()));
        let begun = Instant::now();
        while proc.exists() {
            assert!(begun.elapsed() < PATIENCE, "the engine does not end");
            sleep(Duration::from_millis(100)).await;
        }
        let mut engine = Command::new("setsid");
        engine.arg("--fork").args(command).stdin(Stdio::null());
        engine.stdout(Stdio::null()).stderr(Stdio::null());
        assert!(engine.status().is_ok_and(|status| status.success()));
    }
    let begun = Instant::now();
    while docker(&["version"]).is_none() {
        assert!(begun.elapsed() < PATIENCE, "the engine does not come back");
        sleep(Duration::from_millis(100)).await;
    }
}

/// xorshift64*: a run can be repeated by its seed.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).expect("31 bits") % sides
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// The pool's running container, if there is one: nobody has kept a note of it.
async fn spare(gateway: &Served) -> Option<String> {
    let containers = gateway.namespace.containers().await;
    let unclaimed = |c: &&serde_json::Value| {
        let sandbox = c["Labels"]["belljar.sandbox"].as_str().expect("a label");
        let note = gateway.namespace.sockets.join(format!("{sandbox}.note"));
        c["State"] == "running" && !note.exists()
    };
    let found = containers.iter().find(unclaimed)?;
    Some(found["Id"].as_str().expect("an id").to_owned())
}

/// The container of a session. One that began in the pool has the pool's label, so the note tells.
fn sandbox(gateway: &Served, session: &str) -> String {
    let notes = gateway.namespace.socket_directories();
    let of_session = notes
        .iter()
        .find(|path| fs::read_to_string(path).is_ok_and(|note| note.contains(session)));
    let id = of_session.and_then(|path| path.file_stem()?.to_str());
    format!("{}-{}", gateway.namespace.name, id.expect("it has a note"))
}

/// A gateway and its visitors.
struct World {
    gateway: Served,
    visitors: Vec<Counting>,
    panics: usize,
}

impl World {
    async fn begin() -> Self {
        let namespace = Namespace::of(&config());
        set_clock(&clock(&namespace), 0);
        let gateway = serve(namespace).await;
        let mut visitors = Vec::new();
        for _ in 0..VISITORS {
            visitors.push(Counting::begin(&gateway).await);
        }
        Self {
            gateway,
            visitors,
            panics: 0,
        }
    }

    async fn strike(mut self, fault: Fault, dice: &mut Dice) -> Self {
        let chosen = dice.throw(VISITORS);
        match fault {
            Fault::GatewayKilled | Fault::GatewayReplaced | Fault::BothKilled => {
                return self.restart(fault, chosen).await;
            }
            Fault::Cut => {
                let visitor = &mut self.visitors[chosen];
                let cut = visitor.client.socket.get_mut().shutdown().await;
                cut.expect("it was open");
                visitor.resume(&self.gateway).await;
            }
            Fault::SpareKilled => {
                if let Some(spare) = spare(&self.gateway).await {
                    // The reaper may be quicker.
                    let _ = docker(&["kill", &spare]);
                }
            }
            Fault::ClockJumped => {
                let seconds = i64::try_from(dice.throw(2 * JUMP + 1)).expect("small");
                let jump = seconds - i64::try_from(JUMP).expect("small");
                set_clock(&clock(&self.gateway.namespace), jump);
                sleep(CLOCK_CACHED + Duration::from_millis(200)).await;
            }
            Fault::EngineRestarted => {
                restart_engine().await;
                // Visitors do not wait for that; newcomers do.
                let begun = Instant::now();
                while !self.gateway.health().await.starts_with("HTTP/1.1 200") {
                    assert!(begun.elapsed() < PATIENCE, "the engine is not noticed");
                    sleep(Duration::from_millis(100)).await;
                }
            }
            Fault::SandboxKilled | Fault::SandboxRemoved | Fault::Closed | Fault::Exited => {
                let visitor = self.visitors.swap_remove(chosen);
                let next = self.end(fault, visitor).await;
                self.visitors.push(next);
            }
        }
        self
    }

    /// The session ends, its visitor is told why, and a new one takes the place.
    async fn end(&self, fault: Fault, mut visitor: Counting) -> Counting {
        let reason = match fault {
            Fault::Closed => {
                visitor.client.send(json!({"type": "close"})).await;
                "closed"
            }
            Fault::Exited => {
                visitor.client.input("\x03").await;
                // Ctrl-C throws away what is typed at the same time.
                sleep(Duration::from_millis(500)).await;
                visitor.client.input("exit\r").await;
                "exited"
            }
            fault => {
                let victim = sandbox(&self.gateway, &visitor.client.session);
                let how: &[&str] = match fault {
                    Fault::SandboxKilled => &["kill"],
                    _ => &["rm", "-f"],
                };
                docker(&[how, &[&victim]].concat()).expect("it is ended");
                "sandbox_lost"
            }
        };
        while visitor.line().await {}
        let told = &visitor.client.told;
        let exit = told.iter().find(|told| told["type"] == "exit");
        assert_eq!(
            exit.map(|exit| &exit["reason"]),
            Some(&json!(reason)),
            "{told:?}"
        );
        Counting::begin(&self.gateway).await
    }

    async fn restart(mut self, fault: Fault, chosen: usize) -> Self {
        self.panics += self.gateway.panics.load(Ordering::Relaxed);
        let victim = sandbox(&self.gateway, &self.visitors[chosen].client.session);
        let namespace = if fault == Fault::GatewayReplaced {
            self.gateway.hand_over().await
        } else {
            self.gateway.kill().await
        };
        let lost = (fault == Fault::BothKilled).then(|| {
            docker(&["kill", &victim]).expect("it is killed");
            self.visitors.swap_remove(chosen)
        });
        self.gateway = serve(namespace).await;
        for visitor in &mut self.visitors {
            while visitor.line().await {}
            visitor.resume(&self.gateway).await;
        }
        if let Some(Counting { client, .. }) = lost {
            let mut back = self.gateway.resume(&client.session, &client.token, 0).await;
            let code = back.closed().await;
            assert!([1011, 4004].contains(&code), "{code}: {:?}", back.told);
            self.visitors.push(Counting::begin(&self.gateway).await);
        }
        self
    }

    /// Everyone's program goes on, and nobody has missed anything.
    async fn everyone_counts(&mut self, after: Fault) {
        for visitor in &mut self.visitors {
            let last = visitor.next + 2;
            while visitor.next <= last {
                assert!(visitor.line().await, "{after:?}: {:?}", visitor.client.told);
            }
        }
    }

    /// Every permit is taken, and every one comes back; of sandboxes only the spare one is left,
    /// and that goes with the gateway.
    async fn end_all(self) {
        let gateway = self.gateway;
        let mut refused = gateway.connect("/ws").await;
        assert_eq!(refused.told("error").await["code"], "rate_limited");
        for mut visitor in self.visitors {
            visitor.client.send(json!({"type": "close"})).await;
            assert_eq!(visitor.client.closed().await, 1000);
        }
        let begun = Instant::now();
        loop {
            let metrics = gateway.get("/metrics").await;
            let sessions = metrics
                .lines()
                .filter(|l| l.starts_with("belljar_sessions{"));
            let none = sessions.clone().all(|line| line.ends_with(" 0"));
            if none && gateway.namespace.containers().await.len() <= 1 {
                break;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "left: {:?}",
                sessions.collect::<Vec<_>>()
            );
            sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(self.panics + gateway.panics.load(Ordering::Relaxed), 0);
        let clock = clock(&gateway.namespace);
        gateway.stop().await;
        fs::remove_file(clock).expect("it is there");
    }
}

#[tokio::test]
async fn random_faults_lose_and_leave_nothing() {
    let Some(_place) = place().await else { return };
    let rounds = setting("BELLJAR_CHAOS_ROUNDS", 10);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = setting("BELLJAR_CHAOS_SEED", now.expect("after 1970").as_secs());
    let mut dice = Dice(seed | 1);
    say!("chaos: {rounds} rounds, BELLJAR_CHAOS_SEED={seed}");
    let faults = faults();
    let mut happened: BTreeMap<Fault, u32> = BTreeMap::new();
    let mut world = World::begin().await;
    for round in 0..rounds {
        // Every fault in a short run too.
        let fault = match usize::try_from(round) {
            Ok(round) if round < faults.len() => faults[round],
            _ => faults[dice.throw(faults.len())],
        };
        *happened.entry(fault).or_default() += 1;
        world = world.strike(fault, &mut dice).await;
        world.everyone_counts(fault).await;
        if (round + 1) % 20 == 0 {
            say!("chaos: {} rounds done", round + 1);
        }
    }
    say!("chaos: nothing lost in {happened:?}");
    world.end_all().await;
}
