//! A gateway in a process of its own, with a launcher whose agents are elsewhere.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use belljar::config::Config;
use belljar::gateway::Gateway;
use belljar::sandbox::launcher::Transport;
use belljar::sandbox::{
    Death, EngineState, LaunchError, Launcher, SandboxId, SandboxSpec, launcher,
};
use belljar::session::Leave;
use belljar_link::socket::QuietSocket;
use tokio::net::{TcpListener, UnixStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::DEADLINE;

/// The argument that makes this binary a gateway whose agents are at a socket.
pub(crate) const STAND_IN: &str = "gateway-stand-in";

/// The argument that makes this binary a gateway with real sandboxes.
pub(crate) const DOCKER: &str = "gateway-docker";

/// Links to the agents of [`crate::agents`].
struct StandIn(PathBuf);

#[async_trait]
impl Launcher for StandIn {
    fn name(&self) -> &'static str {
        "stand-in"
    }

    fn must_be_proved(&self) -> bool {
        false
    }

    async fn ping(&self) -> Result<(), LaunchError> {
        Ok(())
    }

    async fn start(&self, _: &SandboxSpec) -> Result<Box<dyn Transport>, LaunchError> {
        let connect = async { UnixStream::connect(&self.0).await?.into_std() };
        // What a real launcher hands out, once the agent has dialled.
        let socket = connect.await.and_then(QuietSocket::new);
        Ok(Box::new(socket.map_err(|cause| LaunchError::Host {
            doing: "linking to a stand-in".into(),
            cause,
        })?))
    }

    async fn list(&self) -> Result<Vec<SandboxId>, LaunchError> {
        Ok(Vec::new())
    }

    /// Its link has ended, and the agent with it.
    async fn remove(&self, _: &SandboxId) -> Result<(), LaunchError> {
        Ok(())
    }

    async fn post_mortem(&self, _: &SandboxId) -> Death {
        Death::Unknown
    }
}

/// Limits that are not in the way.
fn config() -> Config {
    let mut config = Config::defaults();
    config.limits.sessions_per_hour = 1_000_000;
    config.limits.concurrent_sessions = 100_000;
    config.limits.commands_per_minute = 60_000;
    config.limits.max_sandboxes = 100_000;
    config.limits.max_connections = 100_000;
    config.limits.idle_timeout = Duration::from_secs(3600);
    config.limits.max_duration = Duration::from_secs(3600);
    // Sandboxes are counted.
    config
        .templates
        .get_mut("base")
        .expect("there is a base")
        .pool = 0;
    config
}

/// Be the gateway of *idle*.
pub(crate) fn serve_stand_in(agents: &str) -> ExitCode {
    serve(config(), Arc::new(StandIn(agents.into())))
}

/// Be the gateway of *sandboxes*.
pub(crate) fn serve_docker() -> ExitCode {
    let mut config = config();
    config.docker.namespace = "load".into();
    config.run_dir = std::env::temp_dir().join("belljar-load");
    config.agent = std::env::var_os("BELLJAR_AGENT").map_or_else(
        || concat!(env!("CARGO_MANIFEST_DIR"), "/target/belljar-agent").into(),
        PathBuf::from,
    );
    let template = config.templates.get_mut("base").expect("there is a base");
    template.command = ["/bin/bash", "--noprofile", "--norc"]
        .map(String::from)
        .into();
    template.env.insert("PS1".into(), "$ ".into());
    let launcher = launcher(&config);
    serve(config, launcher)
}

/// Print the address; then, for each line on standard input, how many sandboxes and permits are
/// held; go away when the input ends.
fn serve(config: Config, launcher: Arc<dyn Launcher>) -> ExitCode {
    // As `belljar serve`.
    let workers = available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(workers).enable_all().build();
    runtime.expect("threads").block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let gateway = Gateway::new(config, launcher).await;
        let state = gateway.engine_known().await;
        if state != EngineState::Ready {
            eprintln!("the engine cannot be used: {state:?}");
            return ExitCode::FAILURE;
        }
        println!("{address}");
        let app = gateway.app().clone();
        let (over, shutdown) = oneshot::channel();
        std::thread::spawn(move || {
            for _ in std::io::stdin().lines() {
                println!("{} {}", app.sandboxes.count(), app.limiter.held());
            }
            let _ = over.send(());
        });
        let shutdown = async {
            let _ = shutdown.await;
            Leave::End
        };
        gateway.serve(listener, shutdown).await;
        ExitCode::SUCCESS
    })
}

/// Another process of this run. Killed if it is dropped.
pub(crate) struct Process {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Process {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let itself = std::env::current_exe().expect("this binary");
        let mut child = Command::new(itself)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines }
    }

    /// The next line that it prints; `None` if it has ended.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("text");
        (!line.is_empty()).then(|| line.trim().to_owned())
    }

    pub(crate) fn address(&mut self) -> Option<SocketAddr> {
        self.line().map(|line| crate::parse(&line))
    }

    /// Sandboxes and permits held.
    pub(crate) fn held(&mut self) -> (usize, usize) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        stdin.write_all(b"?\n").expect("it reads");
        let line = self.line().expect("it answers");
        let (sandboxes, permits) = line.split_once(' ').expect("two numbers");
        (crate::parse(sandboxes), crate::parse(permits))
    }

    /// Wait until it holds nothing. Says what it still holds if that takes too long.
    pub(crate) fn emptied(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            match self.held() {
                (0, 0) => return Ok(()),
                (sandboxes, permits) if begun.elapsed() > DEADLINE => {
                    return Err(format!("{sandboxes} sandboxes, {permits} permits"));
                }
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Memory that is its alone, bytes: what would be free again if it ended.
    pub(crate) fn memory(&self) -> f64 {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let rollup = std::fs::read_to_string(path).expect("it lives");
        let private = rollup.lines().filter(|line| line.starts_with("Private_"));
        let kib =
            |line: &str| -> f64 { crate::parse(line.split_whitespace().nth(1).expect("a size")) };
        private.map(kib).sum::<f64>() * 1024.0
    }

    /// Open files.
    pub(crate) fn files(&self) -> usize {
        let path = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(path).expect("it lives").count()
    }

    /// Processor time used, by itself and in the kernel, seconds.
    pub(crate) fn cpu(&self) -> f64 {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(path).expect("it lives");
        // After the name, which may hold anything; utime and stime are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(crate::parse::<u64>).sum();
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64
    }

    /// Let it go away in order.
    pub(crate) fn stop(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().expect("it ends");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // After a failure; otherwise it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
