//! `belljar serve` as a service: a process of its own that is told to reload, is given its socket,
//! tells its manager how it is, and sends traces. The launcher is `process`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use crate::harness::{Client, PATIENCE, agent, connect_to};

mod keys;

mod reload;

mod supervised;

mod tracing;

/// A directory for one test, with a configuration file; gone with it.
struct Place(PathBuf);

impl Place {
    fn new(configuration: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("belljar-service-{}-{number}", std::process::id());
        let place = Self(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&place.0).expect("a directory");
        place.configure(configuration);
        place
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Write the configuration file: this, and a shell with a known prompt.
    fn configure(&self, configuration: &str) {
        let template = "[templates.base]\n\
            command = [\"/bin/bash\", \"--noprofile\", \"--norc\"]\nenv = { PS1 = \"$ \" }\n";
        let text = format!("{configuration}\n{template}");
        std::fs::write(self.file("belljar.toml"), text).expect("a file");
    }

    /// `belljar`, as this place configures it, started by `program`.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        // What configures or supervises these tests is not for it.
        for (name, _) in std::env::vars() {
            let belljar = name.starts_with("BELLJAR_");
            let manager = name.starts_with("LISTEN_") || name.starts_with("WATCHDOG_");
            if belljar || manager || ["HOST", "PORT", "NOTIFY_SOCKET"].contains(&&*name) {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .arg("--config")
            .arg(self.file("belljar.toml"))
            .args(["--launcher", "process"])
            .env("BELLJAR_AGENT", agent())
            .env("BELLJAR_LISTEN", "127.0.0.1:0")
            .env("BELLJAR_RUN_DIR", &self.0)
            .env("BELLJAR_API__KEYS_FILE", self.file("keys.toml"))
            .kill_on_drop(true);
        command
    }

    async fn belljar(&self, subcommand: &str) -> Output {
        let mut command = self.command(BELLJAR, &[subcommand]);
        let output = timeout(PATIENCE, command.output()).await;
        output.expect("it ends in time").expect("it runs")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const BELLJAR: &str = env!("CARGO_BIN_EXE_belljar");

/// A gateway that serves.
struct Service {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    address: SocketAddr,
}

impl Service {
    async fn start(place: &Place) -> Self {
        Self::spawn(&mut place.command(BELLJAR, &["serve"])).await
    }

    async fn spawn(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let log = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut service = Self {
            child,
            log,
            address: ([127, 0, 0, 1], 0).into(),
        };
        let line = service.logs("serving on http://").await;
        let (_, address) = line.split_once("http://").expect("it says so");
        service.address = address.trim().parse().expect("an address");
        service
    }

    /// The next line with this text.
    async fn logs(&mut self, text: &str) -> String {
        let mut before = Vec::new();
        let found = async {
            while let Some(line) = self.log.next_line().await.expect("text") {
                if line.contains(text) {
                    return line;
                }
                before.push(line);
            }
            panic!("it ended without {text:?}: {before:?}");
        };
        timeout(PATIENCE, found).await.expect("it logs in time")
    }

    /// A visitor at a prompt.
    async fn visit(&self) -> Client {
        self.visit_with(&[]).await
    }

    async fn visit_with(&self, headers: &[(&'static str, &str)]) -> Client {
        let mut client = self.connect("/ws?cols=200&rows=24", headers).await;
        client.ready().await;
        client.until("$ ").await;
        client
    }

    async fn connect(&self, path: &str, headers: &[(&'static str, &str)]) -> Client {
        let mut all = vec![("sec-websocket-protocol", "belljar.v1")];
        all.extend_from_slice(headers);
        let connected = connect_to(self.address, path, &all).await;
        connected.expect("the upgrade is accepted")
    }

    fn pid(&self) -> Pid {
        let pid = self.child.id().expect("it runs");
        Pid::from_raw(pid.cast_signed()).expect("a pid")
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it is ours");
    }

    /// As `systemctl stop`.
    async fn stop(mut self) {
        self.signal(Signal::TERM);
        // Its last words must not be in its way.
        let drain = async { while let Ok(Some(_)) = self.log.next_line().await {} };
        let (ended, ()) = timeout(PATIENCE, async { tokio::join!(self.child.wait(), drain) })
            .await
            .expect("it goes away in time");
        assert!(ended.expect("it ends").success());
    }
}

/// What the file holds.
fn read(file: &Path) -> String {
    std::fs::read_to_string(file).expect("a file")
}
