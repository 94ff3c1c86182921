//! `make bench-kubernetes`: what a terminal of a pod costs through the whole gateway, beside a raw attach by
//! kube to a pod with a TTY: the same image, the same limits, on the same cluster, in turns within one run.
//!
//! Needs `KUBECONFIG` to name a cluster with the images and the `RuntimeClass` of deploy/kubernetes. Printed are
//! medians over rounds with their spread (lowest to highest round), and ratios of medians.

#[path = "../common/percentile.rs"]
mod percentile;

#[path = "../common/rounds.rs"]
mod rounds;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, AttachParams, AttachedProcess, DeleteParams, PostParams};
use rounds::Rounds;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

/// Rounds of each side, with new sandboxes for each: under gVisor one of a kind may be half as slow again
/// as the next. Odd, so that a median is a round.
const ROUNDS: usize = 5;

/// Keystrokes of each side in a round, and before the other has its turn.
const KEYS: usize = 200;
const TURN: usize = 25;

/// Starts from the pool at each gateway.
const STARTS: usize = 15;

/// Sandboxes kept ready for them.
const POOL: usize = 3;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(120);

const NAMESPACE: &str = "belljar-sandboxes";

/// The sides, as they are named in what is printed.
const ATTACH: &str = "kube attach to a TTY";
const OURS: &str = "Belljar over attach";
const RELAYED: &str = "Belljar over a relay";

const SHELL: [&str; 3] = ["/bin/bash", "--noprofile", "--norc"];

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let client = Client::try_default()
        .await
        .expect("KUBECONFIG names a cluster");
    let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
    let key = std::env::temp_dir().join(format!("belljar-bench-{}.key", std::process::id()));
    std::fs::write(&key, "belljar bench ".repeat(8)).expect("room for a file");

    let alone = Gateway::start("alone", "one", 0, &key).await;
    let one = Gateway::start("pair", "one", POOL, &key).await;
    one.pool_is_full().await;
    let other = Gateway::start("pair", "other", POOL, &key).await;
    other.pool_is_full().await;

    println!("From the connection to the prompt, of a sandbox that was started ahead, ms");
    for (name, gateway) in [
        ("the gateway that has started it", &one),
        ("another gateway", &other),
    ] {
        let mut times = Vec::new();
        for _ in 0..STARTS {
            gateway.pool_is_full().await;
            let begun = Instant::now();
            let session = Session::open(gateway.address).await;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            session.close().await;
        }
        let mut starts = Rounds::of(name);
        starts.add(times);
        println!("  {name}: {}", starts.describe());
    }

    let sides = || [ATTACH, OURS, RELAYED].map(Rounds::of);
    let (mut by_program, mut by_terminal) = (sides(), sides());
    for _ in 0..ROUNDS {
        let mut by_kube = Raw::open(&pods).await;
        // A cold start is linked by an attach; what another gateway has started ahead, by a relay.
        let mut by_attach = Session::open(alone.address).await;
        other.pool_is_full().await;
        let mut by_relay = Session::open(other.address).await;
        for (echo, sides) in [
            (Echo::Terminal, &mut by_terminal),
            (Echo::Program, &mut by_program),
        ] {
            by_kube.leave_to(echo).await;
            by_attach.leave_to(echo).await;
            by_relay.leave_to(echo).await;
            let mut times = [Vec::new(), Vec::new(), Vec::new()];
            for _ in 0..KEYS / TURN {
                turn(&mut by_kube, echo, &mut times[0]).await;
                turn(&mut by_attach, echo, &mut times[1]).await;
                turn(&mut by_relay, echo, &mut times[2]).await;
            }
            for (side, times) in sides.iter_mut().zip(times) {
                side.add(times);
            }
        }
        by_kube.close(&pods).await;
        by_attach.close().await;
        by_relay.close().await;
    }
    println!("Echo of a keystroke by the program, as of a shell at its prompt, µs");
    compare(&by_program);
    println!("Echo of a keystroke by the terminal, which for kube's is the host's, µs");
    compare(&by_terminal);
    for gateway in [alone, one, other] {
        gateway.stop().await;
    }
    let _ = std::fs::remove_file(key);
}

/// Who echoes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Echo {
    /// The terminal's line discipline, while a program reads lines. Of a container with a TTY it is the
    /// host's: such a key does not come as far as the sandbox.
    Terminal,
    /// The program, which has the terminal raw: a shell at its prompt, an editor.
    Program,
}

/// All sides, and the ratio of each to the first.
fn compare(sides: &[Rounds]) {
    for side in sides {
        let ratio = side.median() / sides[0].median();
        println!(
            "  {}: {}, {ratio:.2} × the first",
            side.side,
            side.describe()
        );
    }
}

/// Times of some keystrokes, microseconds.
async fn turn(terminal: &mut impl Terminal, echo: Echo, times: &mut Vec<f64>) {
    for _ in 0..TURN {
        let begun = Instant::now();
        terminal.send(b"x").await;
        terminal.until(b"x").await;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    // A line has an end.
    if echo == Echo::Terminal {
        terminal.send(b"\r").await;
        terminal.until(b"\n").await;
    }
}

/// A terminal of either kind.
trait Terminal {
    async fn send(&mut self, bytes: &[u8]);

    /// Wait for these bytes in the output, and forget everything before their end.
    async fn until(&mut self, bytes: &[u8]);

    /// Leave the echo to whom, at a prompt and then at the next one.
    async fn leave_to(&mut self, echo: Echo) {
        match echo {
            Echo::Terminal => {
                self.send(b"cat >/dev/null; echo do''ne\r").await;
                self.until(b"ne\r\n").await;
            }
            Echo::Program => {
                // Ctrl-D: the end of what the other has read.
                self.send(b"\x04").await;
                self.until(b"done\r\n").await;
                self.until(b"$ ").await;
                // Split, so that the echo of the line is not taken for its output.
                self.send(b"stty raw -echo; printf 're''ady'; exec cat\r")
                    .await;
                self.until(b"ready").await;
            }
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Drop everything up to the end of `wanted`; false if it is not there.
fn consume(output: &mut Vec<u8>, wanted: &[u8]) -> bool {
    let found = output.windows(wanted.len()).position(|w| w == wanted);
    if let Some(at) = found {
        output.drain(..at + wanted.len());
    }
    found.is_some()
}

/// A pod with a TTY, attached to by kube.
struct Raw {
    name: String,
    _attached: AttachedProcess,
    input: Pin<Box<dyn AsyncWrite>>,
    output: Pin<Box<dyn AsyncRead>>,
    seen: Vec<u8>,
}

impl Raw {
    async fn open(pods: &Api<Pod>) -> Self {
        let name = format!("belljar-bench-{}", std::process::id());
        let limits = json!({"cpu": "200m", "memory": "128Mi"});
        let pod = json!({
            "metadata": {"name": name},
            "spec": {
                "runtimeClassName": "gvisor",
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "activeDeadlineSeconds": 600,
                "terminationGracePeriodSeconds": 1,
                "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000},
                "containers": [{
                    "name": "sandbox",
                    "image": "belljar-sandbox:latest",
                    "imagePullPolicy": "IfNotPresent",
                    "command": SHELL,
                    "env": [{"name": "PS1", "value": "$ "}],
                    "stdin": true,
                    "tty": true,
                    "resources": {"requests": limits, "limits": limits},
                }],
            },
        });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        pods.create(&PostParams::default(), &pod)
            .await
            .expect("it is made");
        let running = async {
            loop {
                let pod = pods.get(&name).await.expect("it is there");
                if pod.status.and_then(|s| s.phase).as_deref() == Some("Running") {
                    break;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(DEADLINE, running).await.expect("it runs in time");
        let streams = AttachParams::interactive_tty();
        let mut attached = pods.attach(&name, &streams).await.expect("it attaches");
        let input = Box::pin(attached.stdin().expect("asked for"));
        let output = Box::pin(attached.stdout().expect("asked for"));
        let mut raw = Self {
            name,
            _attached: attached,
            input,
            output,
            seen: Vec::new(),
        };
        // What it has printed before is lost.
        raw.send(b"\r").await;
        raw.until(b"$ ").await;
        raw
    }

    async fn close(self, pods: &Api<Pod>) {
        let now = DeleteParams::default().grace_period(0);
        pods.delete(&self.name, &now).await.expect("it is removed");
        let gone = async {
            while pods.get_opt(&self.name).await.expect("an answer").is_some() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(DEADLINE, gone).await.expect("it is gone in time");
    }
}

impl Terminal for Raw {
    async fn send(&mut self, bytes: &[u8]) {
        self.input.write_all(bytes).await.expect("it reads");
        self.input.flush().await.expect("it reads");
    }

    async fn until(&mut self, bytes: &[u8]) {
        let mut buffer = [0; 4096];
        while !consume(&mut self.seen, bytes) {
            let read = timeout(DEADLINE, self.output.read(&mut buffer)).await;
            let read = read.expect("in time").expect("it lives");
            assert!(read > 0, "it lives");
            self.seen.extend(&buffer[..read]);
        }
    }
}

/// A gateway in a process of its own.
struct Gateway {
    address: SocketAddr,
    process: Child,
}

impl Gateway {
    async fn start(instance: &str, replica: &str, pool: usize, key: &PathBuf) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let process = Command::new(env!("CARGO_BIN_EXE_belljar"))
            .arg("serve")
            .env("BELLJAR_LISTEN", address.to_string())
            .env(
                "BELLJAR_RUN_DIR",
                std::env::temp_dir().join("belljar-bench"),
            )
            .env(
                "BELLJAR_DOCKER__NAMESPACE",
                format!("bench-{instance}-{replica}"),
            )
            .env("BELLJAR_LOG__FILTER", "error")
            .env("BELLJAR_LAUNCHER", "kubernetes")
            .env(
                "BELLJAR_KUBERNETES__INSTANCE",
                format!("bench-{}-{instance}", std::process::id()),
            )
            .env("BELLJAR_KUBERNETES__REPLICA", replica)
            .env("BELLJAR_KUBERNETES__TOKEN_KEY_FILE", key)
            .env("BELLJAR_LIMITS__SESSIONS_PER_HOUR", "100000")
            .env("BELLJAR_LIMITS__CONCURRENT_SESSIONS", "1000")
            .env("BELLJAR_LIMITS__MIN_AVAILABLE_MEMORY", "0")
            .env("BELLJAR_LIMITS__MAX_MEMORY_PRESSURE", "0")
            .env("BELLJAR_TEMPLATES__BASE__COMMAND", format!("{SHELL:?}"))
            .env("BELLJAR_TEMPLATES__BASE__ENV__PS1", "$ ")
            .env("BELLJAR_TEMPLATES__BASE__CPUS", "0.2")
            .env("BELLJAR_TEMPLATES__BASE__POOL", pool.to_string())
            .spawn()
            .expect("the gateway starts");
        let gateway = Self { address, process };
        gateway.until("belljar_engine_ready", 1).await;
        gateway
    }

    /// Wait until a metric has this value.
    async fn until(&self, metric: &str, value: usize) {
        let line = format!("{metric} {value}");
        let waiting = async {
            while !self
                .metrics()
                .await
                .is_some_and(|all| all.lines().any(|l| l == line))
            {
                sleep(Duration::from_millis(100)).await;
            }
        };
        let waited = timeout(DEADLINE, waiting).await;
        assert!(waited.is_ok(), "not in time: {line}");
    }

    async fn pool_is_full(&self) {
        self.until("belljar_pool_ready", POOL).await;
    }

    async fn metrics(&self) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        let request = b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    /// Let it go away in order, so that no sandbox is left.
    async fn stop(mut self) {
        kill_process(Pid::from_child(&self.process), Signal::INT).expect("it is ours");
        let ended = async {
            while self.process.try_wait().expect("it is ours").is_none() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(DEADLINE, ended).await.expect("it ends in time");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // After a failure; otherwise it has ended.
        let _ = self.process.kill();
    }
}

/// A visitor's end.
struct Session {
    socket: WebSocketStream<TcpStream>,
    seen: Vec<u8>,
}

impl Session {
    /// A new session, at its prompt.
    async fn open(address: SocketAddr) -> Self {
        let url = format!("ws://{address}/ws?cols=80&rows=24");
        let mut request = url.into_client_request().expect("a URL");
        let protocol = HeaderValue::from_static("belljar.v1");
        request
            .headers_mut()
            .insert("sec-websocket-protocol", protocol);
        let stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("TCP");
        let (socket, _) = tokio_tungstenite::client_async(request, stream)
            .await
            .expect("it upgrades");
        let mut session = Self {
            socket,
            seen: Vec::new(),
        };
        session.until(b"$ ").await;
        session
    }

    async fn tell(&mut self, message: &Value) {
        let message = Message::Text(message.to_string().into());
        self.socket.send(message).await.expect("it reads");
    }

    async fn close(mut self) {
        self.tell(&json!({"type": "close"})).await;
        while let Some(Ok(_)) = self.socket.next().await {}
    }
}

impl Terminal for Session {
    async fn send(&mut self, bytes: &[u8]) {
        let message = Message::Binary(bytes.to_vec().into());
        self.socket.send(message).await.expect("it reads");
    }

    async fn until(&mut self, bytes: &[u8]) {
        while !consume(&mut self.seen, bytes) {
            let next = timeout(DEADLINE, self.socket.next())
                .await
                .expect("in time");
            match next {
                Some(Ok(Message::Binary(output))) => self.seen.extend(&output),
                Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("the session has ended: {other:?}"),
            }
        }
    }
}
