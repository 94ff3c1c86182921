//! Thousands of sessions whose visitors do nothing, and a few who do something.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agents::{self, FLOOD};
use crate::client::Client;
use crate::gateway::{self, Process};
use crate::percentile::percentile;
use crate::raise_file_limit;
use crate::report::Report;

/// Memory of the gateway that an idle session may take, bytes.
const MAX_MEMORY: f64 = 32.0 * 1024.0;

/// Sessions opened at a time.
const OPENING: usize = 64;

/// Sessions opened and closed before anything is measured: what a gateway takes once is no session's.
const WARM_UP: usize = 64;

/// Sessions in which keys are typed, in turns, and how many in each.
const TYPISTS: (usize, usize) = (20, 50);

/// How long a typist rests after an echo. Without it most keys would be typed while all is well, and
/// hardly one while everything stands still.
const PAUSE: Duration = Duration::from_millis(5);

/// How long the floods go on before anybody types.
const RISE: Duration = Duration::from_secs(2);

/// How long the gateway is left alone before its memory and processor time are looked at.
const REST: Duration = Duration::from_secs(10);

pub(crate) fn run(sessions: usize, floods: usize, write: bool) -> ExitCode {
    // In the gateway: a socket of the visitor's, and two descriptors of the link's.
    if let Err(complaint) = raise_file_limit(3 * sessions as u64 + 300) {
        eprintln!("{complaint}");
        return ExitCode::FAILURE;
    }
    let socket = std::env::temp_dir().join(format!("belljar-load-{}.sock", std::process::id()));
    let path = socket.to_str().expect("text");
    let mut agents = Process::start(&[agents::NAME, path]);
    agents.line().expect("the agents are there");
    let mut gateway = Process::start(&[gateway::STAND_IN, path]);
    let address = gateway.address().expect("the gateway serves");
    let mut report = Report::new("Idle sessions", "make load");
    let outcome = load(&mut report, &mut gateway, address, (sessions, floods));
    gateway.stop();
    agents.stop();
    let _ = std::fs::remove_file(&socket);
    match outcome {
        Ok(()) => {
            if write {
                report.write();
            }
            ExitCode::SUCCESS
        }
        Err(complaint) => {
            eprintln!("FAILED: {complaint}");
            ExitCode::FAILURE
        }
    }
}

fn load(
    report: &mut Report,
    gateway: &mut Process,
    address: SocketAddr,
    (sessions, floods): (usize, usize),
) -> Result<(), String> {
    Visitors::come(address, WARM_UP).leave();
    gateway.emptied()?;
    let (memory_before, files_before) = (gateway.memory(), gateway.files());

    report.say(&format!(
        "{sessions} idle sessions in one gateway, on loopback, agents stood in for\n"
    ));
    let begun = Instant::now();
    let idle = Visitors::come(address, sessions);
    report.say(&format!(
        "opened in                 {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    thread::sleep(REST);
    let memory = (gateway.memory() - memory_before) / sessions as f64;
    report.say(&format!(
        "memory of the gateway     {:.1} KiB for each session ({:.1} MiB before, {:.1} MiB now)",
        memory / 1024.0,
        memory_before / f64::from(1 << 20),
        gateway.memory() / f64::from(1 << 20),
    ));
    let cpu_before = gateway.cpu();
    thread::sleep(REST);
    let cpu = (gateway.cpu() - cpu_before) / REST.as_secs_f64();
    report.say(&format!(
        "processor time            {:.1} % of one core",
        cpu * 100.0
    ));

    let mut typists = Typists::come(address);
    typists.echo(report, "echo, quiet, µs");
    let flood = Visitors::come(address, floods);
    flood.begin(FLOOD);
    thread::sleep(RISE);
    let (begun, bytes) = (Instant::now(), flood.bytes());
    typists.echo(report, &format!("echo, {floods} flooding, µs"));
    let bytes = (flood.bytes() - bytes) as f64 / 1e6;
    report.say(&format!(
        "floods meanwhile          {:.0} MB/s in all",
        bytes / begun.elapsed().as_secs_f64()
    ));

    typists.leave();
    flood.leave();
    idle.leave();
    gateway.emptied()?;
    // A descriptor is closed soon after its session is forgotten.
    thread::sleep(Duration::from_secs(3));
    let files = gateway.files();
    report.say(&format!(
        "afterwards                0 sandboxes, 0 permits, {files} open files ({files_before} before)"
    ));
    if files > files_before {
        return Err("open files are left".into());
    }
    if memory > MAX_MEMORY {
        return Err(format!("over {} KiB for a session", MAX_MEMORY / 1024.0));
    }
    Ok(())
}

async fn open(gateway: SocketAddr, count: usize) -> Vec<Client> {
    let opening = stream::iter(0..count).map(|_| Client::open(gateway));
    opening.buffer_unordered(OPENING).collect().await
}

/// Visitors on a thread of their own, who read whatever comes.
struct Visitors {
    runtime: Runtime,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// What each is to type, all at once.
    typed: watch::Sender<Option<u8>>,
    /// Output that they have read.
    bytes: Arc<AtomicU64>,
}

impl Visitors {
    fn come(gateway: SocketAddr, count: usize) -> Self {
        let mut runtime = Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build();
        let visitors = Self {
            runtime: runtime.expect("a thread"),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            typed: watch::Sender::new(None),
            bytes: Arc::default(),
        };
        for client in visitors.runtime.block_on(open(gateway, count)) {
            let (stop, bytes) = (visitors.stop.clone(), visitors.bytes.clone());
            let stay = stay(client, visitors.typed.subscribe(), stop, bytes);
            visitors.tasks.spawn_on(stay, visitors.runtime.handle());
        }
        visitors
    }

    fn begin(&self, typed: u8) {
        self.typed.send_replace(Some(typed));
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// End every session; returns when each has said so.
    fn leave(self) {
        self.stop.cancel();
        self.tasks.close();
        self.runtime.block_on(self.tasks.wait());
    }
}

async fn stay(
    mut client: Client,
    mut typed: watch::Receiver<Option<u8>>,
    stop: CancellationToken,
    bytes: Arc<AtomicU64>,
) {
    loop {
        let key = tokio::select! {
            () = stop.cancelled() => return client.close().await,
            Ok(()) = typed.changed() => *typed.borrow_and_update(),
            () = client.read(&bytes) => panic!("the gateway has ended a session"),
        };
        client.type_in(key.as_slice()).await;
    }
}

/// Visitors who type, in turns, on the thread that measures.
struct Typists {
    runtime: Runtime,
    clients: Vec<Client>,
}

impl Typists {
    fn come(gateway: SocketAddr) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a thread");
        let clients = runtime.block_on(open(gateway, TYPISTS.0));
        Self { runtime, clients }
    }

    /// Say how long the echoes take.
    fn echo(&mut self, report: &mut Report, what: &str) {
        let mut times = Vec::new();
        // In turns, so that each is heard of before the gateway takes it for lost.
        for _ in 0..TYPISTS.1 {
            for client in &mut self.clients {
                let echo = self.runtime.block_on(client.echo());
                times.push(echo.as_secs_f64() * 1e6);
                thread::sleep(PAUSE);
            }
        }
        report.say(&format!(
            "{what:25} n {}, p50 {:.0}, p99 {:.0}",
            times.len(),
            percentile(&times, 50.0),
            percentile(&times, 99.0)
        ));
    }

    fn leave(self) {
        for client in self.clients {
            self.runtime.block_on(client.close());
        }
    }
}
