//! `belljar serve` as a process of its own: to be measured, to be killed.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{Namespace, config};
use crate::harness::{Client, PATIENCE, WIDE, agent, connect_to};

/// Where the sandboxes of a gateway are.
pub trait Home {
    /// Tell `belljar` so.
    fn tell(&self, command: &mut Command);

    /// How many there are.
    async fn count(&self) -> usize;

    /// There are none.
    async fn assert_empty(&self);
}

impl Home for Namespace {
    fn tell(&self, command: &mut Command) {
        let run_dir = self.sockets.parent().expect("it has one");
        command
            .env("BELLJAR_RUN_DIR", run_dir)
            .env("BELLJAR_DOCKER__NAMESPACE", &self.name);
    }

    async fn count(&self) -> usize {
        self.containers().await.len()
    }

    async fn assert_empty(&self) {
        Self::assert_empty(self).await;
    }
}

/// A gateway in a process of its own.
pub struct Served<H = Namespace> {
    child: Child,
    /// How often it has panicked.
    pub panics: Arc<AtomicUsize>,
    pub address: SocketAddr,
    pub namespace: H,
}

/// `belljar` with a namespace of its own, and settings over that.
pub fn belljar(namespace: &impl Home, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_belljar"));
    // What configures these tests is not for it.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("BELLJAR_")) {
        command.env_remove(name);
    }
    command
        .env_remove("PORT")
        .env_remove("HOST")
        .env("BELLJAR_LISTEN", "127.0.0.1:0")
        .env("BELLJAR_AGENT", agent())
        .env("BELLJAR_API__KEYS_FILE", "/nowhere/belljar/keys.toml")
        // Tests count sandboxes.
        .env("BELLJAR_TEMPLATES__BASE__POOL", "0");
    namespace.tell(&mut command);
    command.envs(settings.iter().copied()).kill_on_drop(true);
    command
}

impl Served {
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_in(Namespace::of(&config()), settings).await
    }
}

impl<H: Home> Served<H> {
    pub async fn start_in(namespace: H, settings: &[(&str, &str)]) -> Self {
        let mut child = belljar(&namespace, settings)
            .arg("serve")
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
        let serving = async {
            let mut before = Vec::new();
            while let Some(line) = log.next_line().await.expect("text") {
                if let Some((_, address)) = line.split_once("serving on http://") {
                    return address.trim().parse().expect("an address");
                }
                before.push(line);
            }
            panic!("it does not serve: {before:?}");
        };
        let address = timeout(PATIENCE, serving).await.expect("it serves in time");
        // It goes on logging.
        let panics = Arc::new(AtomicUsize::new(0));
        let counted = panics.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = log.next_line().await {
                let panicked = usize::from(line.contains("panicked at"));
                counted.fetch_add(panicked, Ordering::Relaxed);
            }
        });
        Self {
            child,
            panics,
            address,
            namespace,
        }
    }

    /// Connect with the `belljar.v1` subprotocol.
    pub async fn connect(&self, path: &str) -> Client {
        let protocol = ("sec-websocket-protocol", "belljar.v1");
        let connected = connect_to(self.address, path, &[protocol]).await;
        connected.expect("the upgrade is accepted")
    }

    /// A visitor at a prompt.
    pub async fn visit(&self) -> Client {
        let mut client = self.connect(&format!("/ws?{WIDE}")).await;
        client.ready().await;
        client.until("$ ").await;
        client
    }

    /// A visitor who comes back, having seen everything before `from`.
    pub async fn resume(&self, session: &str, token: &str, from: u64) -> Client {
        let mut client = self
            .connect(&format!("/sessions/{session}/ws?{WIDE}"))
            .await;
        let attach = json!({"type": "attach", "token": token, "from": from});
        client.send(attach).await;
        client
    }

    /// `GET /health`: the whole answer.
    pub async fn health(&self) -> String {
        self.get("/health").await
    }

    /// The answer to a `GET`, head and body.
    pub async fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = timeout(PATIENCE, exchange).await;
        answer.expect("it answers in time").expect("it answers")
    }

    /// Its resident memory, bytes.
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most that this has been, bytes.
    pub fn peak(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// Begin anew with [`Served::peak`].
    pub fn forget_peak(&self) {
        let pid = self.child.id().expect("it runs");
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("it is ours");
    }

    fn status(&self, name: &str) -> u64 {
        let pid = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|l| l.strip_prefix(name));
        let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.expect("a number") * 1024
    }

    /// As `kill -9`: no farewell, no clean-up.
    pub async fn kill(mut self) -> H {
        self.child.kill().await.expect("it is there");
        self.namespace
    }

    /// As `systemctl restart`, up to where the next gateway starts: live sessions are left to it.
    pub async fn hand_over(mut self) -> H {
        self.signalled(Signal::TERM).await;
        self.namespace
    }

    /// As Ctrl-C; checks that it leaves nothing behind.
    pub async fn stop(mut self) {
        self.signalled(Signal::INT).await;
        self.namespace.assert_empty().await;
    }

    async fn signalled(&mut self, signal: Signal) {
        let pid = self
            .child
            .id()
            .and_then(|pid| Pid::from_raw(pid.cast_signed()));
        kill_process(pid.expect("it runs"), signal).expect("it is ours");
        let ended = timeout(PATIENCE, self.child.wait())
            .await
            .expect("it goes away in time");
        assert!(ended.expect("it ends").success());
    }
}
