//! Real sandboxes, on a real engine with gVisor: the visitor who tries to break out, or to break
//! things, and the engine that breaks.
//!
//! Where there is no such engine these tests say so and pass, unless `BELLJAR_TEST_DOCKER=1` or
//! `CI=true`: then it is a failure.

use std::io::Write;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Once, OnceLock};
use std::time::{Duration, Instant};

use belljar::config::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use crate::harness::{Client, Heard, PATIENCE, TestGateway, docker_config};

pub mod serve;

pub mod seal;

pub mod limits;

pub mod neighbours;

pub mod bytes;

mod lifecycle;

pub mod counting;

pub mod restart;

mod fleet;

mod chaos;

mod pool;

mod builds;

pub mod images;

mod faults;

pub mod keys;

pub mod guests;

mod ports;

mod operations;

mod api;

/// The engine under test.
const ENGINE: &str = "/var/run/docker.sock";

/// gVisor without `--host-uds`, where only attach can carry the link; `deploy/test-runtime.sh`
/// registers it.
const NO_SOCKETS: &str = "runsc-nouds";

/// A line that is seen although its test passes: a measurement, or a reason to be suspicious.
macro_rules! say {
    ($($words:tt)*) => {
        $crate::sealed::say_line(&format!($($words)*))
    };
}
pub(crate) use say;

pub fn say_line(line: &str) {
    // Not `eprintln!`, which the test runner swallows.
    let _ = writeln!(std::io::stderr(), "\n    {line}");
}

/// A place on the engine for one test; its drop gives it back. The engine starts 4 to 7 sandboxes a
/// second on two cores, so more at once would only wait. `None` where there is no engine.
async fn place() -> Option<SemaphorePermit<'static>> {
    static PLACES: Semaphore = Semaphore::const_new(3);
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    static SAID: Once = Once::new();
    let missing = MISSING.get_or_init(|| {
        let missing = missing();
        if missing.is_none() {
            sweep();
        }
        missing
    });
    if let Some(what) = missing {
        let set = |name: &str, value: &str| std::env::var(name).is_ok_and(|v| v == value);
        assert!(
            !set("BELLJAR_TEST_DOCKER", "1") && !set("CI", "true"),
            "these tests need Docker with gVisor: {what}"
        );
        SAID.call_once(|| say!("skipped: no Docker engine with gVisor ({what})"));
        return None;
    }
    Some(PLACES.acquire().await.expect("never closed"))
}

/// What the engine's client prints. With a deadline: an engine in trouble may take a request and
/// never answer it, and then the test that waits is not the one that fails.
fn docker(arguments: &[&str]) -> Option<String> {
    let output = Command::new("timeout")
        .args(["60", "docker"])
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

/// What these tests need and this machine has not.
fn missing() -> Option<String> {
    let Some(runtimes) = docker(&["info", "--format", "{{json .Runtimes}}"]) else {
        return Some("`docker info` fails".into());
    };
    let runtimes: Value = serde_json::from_str(&runtimes).unwrap_or_default();
    for (runtime, script) in [("runsc", "setup"), (NO_SOCKETS, "test-runtime")] {
        if runtimes[runtime].is_null() {
            return Some(format!(
                "the runtime {runtime} is not registered: deploy/{script}.sh"
            ));
        }
    }
    let images = [
        ("belljar-sandbox", "build"),
        ("belljar-test-busybox", "test-images"),
        ("belljar-test-empty", "test-images"),
    ];
    let absent = images
        .iter()
        .find(|(image, _)| docker(&["image", "inspect", image]).is_none());
    absent.map(|(image, script)| format!("the image {image} is not there: docker/{script}.sh"))
}

/// Remove what an earlier run of these tests left behind because it was killed.
fn sweep() {
    let format = "{{.ID}} {{.Label \"belljar.namespace\"}}";
    let filter = "label=belljar.namespace";
    let listed = docker(&["ps", "-aq", "--filter", filter, "--format", format]);
    for line in listed.expect("docker runs").lines() {
        let (container, namespace) = line.split_once(' ').unwrap_or_default();
        let pid = namespace
            .strip_prefix("test-")
            .and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            let _ = docker(&["rm", "-f", container]);
        }
    }
}

/// A request to the engine by hand; status and body. HTTP/1.0, so that the answer ends with the
/// connection and has no chunks.
async fn engine(method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: engine\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let exchange = async {
        let mut stream = UnixStream::connect(ENGINE).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(PATIENCE, exchange)
        .await
        .expect("the engine answers in time")
        .expect("the engine answers");
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    let body = serde_json::from_str(body).unwrap_or_default();
    (status.expect("a status"), body)
}

/// The configuration of these tests: a namespace of its own, and a minute of silence is the end, so
/// that a test which waits for what will not come ends soon.
fn config() -> Config {
    let mut config = docker_config();
    config.limits.idle_timeout = Duration::from_secs(60);
    config
}

/// Visits to containers, where there is an engine; nothing is left of them.
pub async fn on_engine<F: Future<Output = ()>>(visit: impl FnOnce(Config) -> F) {
    let Some(_place) = place().await else { return };
    let config = config();
    let namespace = Namespace::of(&config);
    visit(config).await;
    namespace.assert_empty().await;
}

/// A namespace of these tests. Whatever is left in it goes with this.
pub struct Namespace {
    name: String,
    sockets: PathBuf,
}

impl Namespace {
    fn of(config: &Config) -> Self {
        let name = config.docker.namespace.clone();
        Self {
            sockets: config.run_dir.join(&name),
            name,
        }
    }

    /// Its containers, dead ones too, as the engine lists them.
    async fn containers(&self) -> Vec<Value> {
        let filters = json!({"label": [format!("belljar.namespace={}", self.name)]});
        let encoded: String = filters
            .to_string()
            .bytes()
            .map(|b| format!("%{b:02X}"))
            .collect();
        let path = format!("/containers/json?all=1&filters={encoded}");
        let (status, listed) = engine("GET", &path, &Value::Null).await;
        assert_eq!(status, 200, "{listed}");
        listed.as_array().expect("a list").clone()
    }

    /// The sandboxes that have a directory for their socket.
    fn socket_directories(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.sockets).into_iter().flatten();
        entries.flatten().map(|entry| entry.path()).collect()
    }

    /// The one container of a session, inspected.
    async fn container_of(&self, session: &str) -> Value {
        let containers = self.containers().await;
        let mut of_session = containers
            .iter()
            .filter(|c| c["Labels"]["belljar.session"] == session);
        let id = of_session.next().expect("it has a container")["Id"].clone();
        assert!(of_session.next().is_none(), "and only one");
        let id = id.as_str().expect("an id");
        let path = format!("/containers/{id}/json");
        let (status, container) = engine("GET", &path, &Value::Null).await;
        assert_eq!(status, 200);
        container
    }

    /// Wait until the session has no container any more; how long that took.
    async fn gone(&self, session: &str) -> Duration {
        let begun = Instant::now();
        while self
            .containers()
            .await
            .iter()
            .any(|c| c["Labels"]["belljar.session"] == session)
        {
            assert!(begun.elapsed() < PATIENCE, "{session} has a container yet");
            sleep(Duration::from_millis(20)).await;
        }
        begun.elapsed()
    }

    async fn assert_empty(&self) {
        let containers = self.containers().await;
        let left: Vec<_> = containers
            .iter()
            .map(|c| (&c["Names"], &c["Status"]))
            .collect();
        assert!(left.is_empty(), "left: {left:?}");
        let directories = self.socket_directories();
        assert!(directories.is_empty(), "left: {directories:?}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // After a failed test; otherwise there is nothing left.
        let label = format!("label=belljar.namespace={}", self.name);
        let left = docker(&["ps", "-aq", "--filter", &label]).unwrap_or_default();
        for container in left.lines() {
            let _ = docker(&["rm", "-f", container]);
        }
        let _ = std::fs::remove_dir_all(&self.sockets);
    }
}

/// A gateway with real sandboxes. [`Sealed::stop`] checks that nothing is left of it.
struct Sealed {
    gateway: TestGateway,
    namespace: Namespace,
}

impl Deref for Sealed {
    type Target = TestGateway;

    fn deref(&self) -> &TestGateway {
        &self.gateway
    }
}

impl Sealed {
    async fn with(config: Config) -> Self {
        let namespace = Namespace::of(&config);
        Self {
            gateway: TestGateway::with(config).await,
            namespace,
        }
    }

    /// A visitor at a prompt of the default template.
    async fn visit(&self) -> Client {
        self.visit_wide().await
    }

    /// End sessions, all at once, and wait until the engine has nothing of them.
    async fn end(&self, clients: impl IntoIterator<Item = Client>) {
        self.gateway.leave(clients).await;
        self.namespace.assert_empty().await;
    }

    async fn stop(self) {
        let Self { gateway, namespace } = self;
        gateway.stop().await;
        namespace.assert_empty().await;
    }
}

/// Wait for text in the output, or for the session's end, which is the error.
async fn until_or_exit(client: &mut Client, text: &str) -> Result<(), Value> {
    loop {
        let seen = String::from_utf8_lossy(&client.output);
        if seen.contains(text) {
            client.until(text).await;
            return Ok(());
        }
        match client.hear().await {
            Heard::Output(bytes) => client.output.extend(bytes),
            Heard::Told(told) if told["type"] == "exit" => return Err(told),
            Heard::Told(told) => client.told.push(told),
            Heard::Closed(code) => panic!("closed with {code} and without a word"),
        }
    }
}

/// Write a file in the sandbox. The shell must be at its prompt.
async fn write_file(client: &mut Client, path: &str, text: &str) {
    client
        .input(format!("cat >{path} <<'END' && echo wri''tten\r"))
        .await;
    for line in text.lines() {
        // One line after the other: the shell's editor echoes each in its own time.
        client.input(format!("{line}\r")).await;
    }
    client.input("END\r").await;
    client.until("written\r\n").await;
    client.until("$ ").await;
}

/// Run a Python program in the sandbox and return what it printed.
async fn python(client: &mut Client, program: &str) -> String {
    write_file(client, "/tmp/program.py", program).await;
    client.run("python3 /tmp/program.py").await
}
