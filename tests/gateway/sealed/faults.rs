//! Engines that hang, break, come back, lie, or are not there: never a hung task, always a reason.

use std::future::pending;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use belljar::config::Config;
use belljar::sandbox::{EngineState, launcher};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::serve::{Served, belljar};
use super::{ENGINE, NO_SOCKETS, Namespace, Sealed, config, place, say};
use crate::harness::{Client, PATIENCE, TestGateway};

/// How an engine behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Nothing listens.
    Absent,
    /// Takes connections and never answers.
    Silent,
    /// Answers something that is not HTTP.
    Garbage,
    /// Answers every request with an error.
    Errors,
    /// Says its version and hangs up on everything else.
    Stutters,
    /// Passes everything on to the real one…
    Real,
    /// …but is silent when it is to create a container.
    RealButCreates,
}

/// A socket that behaves like an engine, in a manner that can be changed. A change ends every
/// connection, as an engine's death does.
struct Engine {
    socket: PathBuf,
    manner: watch::Sender<Manner>,
    task: JoinHandle<()>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Engine {
    /// One at this socket.
    fn at(socket: PathBuf, manner: Manner) -> Self {
        let (manner, watched) = watch::channel(manner);
        Self {
            task: tokio::spawn(Self::serve(socket.clone(), watched)),
            socket,
            manner,
        }
    }

    async fn serve(socket: PathBuf, mut manner: watch::Receiver<Manner>) {
        loop {
            let now = *manner.borrow_and_update();
            let _ = std::fs::remove_file(&socket);
            if now == Manner::Absent {
                let _ = manner.changed().await;
                continue;
            }
            let listener = UnixListener::bind(&socket).expect("it can be bound");
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (connection, _) = accepted.expect("it listens");
                        let mut manner = manner.clone();
                        tokio::spawn(async move {
                            tokio::select! {
                                _ = Self::answer(connection, now) => {}
                                _ = manner.changed() => {}
                            }
                        });
                    }
                    changed = manner.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                }
            }
        }
    }

    async fn answer(mut connection: UnixStream, manner: Manner) -> std::io::Result<()> {
        let mut request = vec![0; 64 * 1024];
        let read = connection.read(&mut request).await?;
        let request = &request[..read];
        let line = String::from_utf8_lossy(request);
        let line = line.lines().next().unwrap_or_default();
        let say = |status: &str, body: Value| {
            let body = body.to_string();
            let length = body.len();
            format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
                 Connection: close\r\n\r\n{body}"
            )
        };
        let answer = match manner {
            Manner::RealButCreates if line.contains("/containers/create") => {
                return pending().await;
            }
            Manner::Real | Manner::RealButCreates => {
                let mut real = UnixStream::connect(ENGINE).await?;
                real.write_all(request).await?;
                copy_bidirectional(&mut connection, &mut real).await?;
                return Ok(());
            }
            Manner::Silent | Manner::Absent => {
                return pending().await;
            }
            Manner::Garbage => "\0\u{1}lorem ipsum\r\n\r\n".repeat(1000),
            Manner::Errors => say(
                "500 Internal Server Error",
                json!({"message": "it is broken"}),
            ),
            Manner::Stutters if line.contains("/version") => {
                let version =
                    json!({"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"});
                say("200 OK", version)
            }
            Manner::Stutters => String::new(),
        };
        connection.write_all(answer.as_bytes()).await
    }

    fn becomes(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }
}

/// A gateway in front of such an engine.
async fn in_front_of(manner: Manner) -> (Engine, TestGateway, Namespace) {
    let mut config = config();
    let namespace = Namespace::of(&config);
    let socket = std::env::temp_dir().join(format!("{}.sock", namespace.name));
    config.docker.socket = socket.clone();
    let engine = Engine::at(socket, manner);
    let launcher = launcher(&config);
    (
        engine,
        TestGateway::launched(config, launcher).await,
        namespace,
    )
}

/// `/health`: whether it is well, and why not. Itself it is always quick.
async fn health(gateway: &TestGateway) -> Result<(), String> {
    let asked = Instant::now();
    let (status, body) = gateway.json("GET", "/health", &[], Value::Null).await;
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "/health waits for nobody"
    );
    match status {
        200 => {
            assert_eq!(body["status"], "ok");
            Ok(())
        }
        503 => Err(body["reason"].as_str().expect("a reason").to_owned()),
        other => panic!("{other} {body}"),
    }
}

/// Wait until it is well or not.
async fn becomes(gateway: &TestGateway, well: bool) -> Duration {
    let begun = Instant::now();
    while health(gateway).await.is_ok() != well {
        assert!(begun.elapsed() < PATIENCE, "{:?}", health(gateway).await);
        sleep(Duration::from_millis(50)).await;
    }
    begun.elapsed()
}

/// A visitor is told at once, and costs nothing; `sessions` live on meanwhile.
async fn assert_turned_away(gateway: &TestGateway, sessions: u32) {
    let begun = Instant::now();
    let mut client = gateway.connect("/ws").await;
    let error = client.told("error").await;
    assert_eq!(error["code"], "engine_unavailable", "{error}");
    assert!(
        error["retryAfterMs"].as_u64().is_some_and(|ms| ms > 0),
        "{error}"
    );
    assert_eq!(client.closed().await, 1011);
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let (status, body) = gateway.json("POST", "/sessions", &[], json!({})).await;
    assert_eq!(
        (status, body["error"].as_str()),
        (503, Some("engine_unavailable"))
    );
    assert_eq!(gateway.app.limiter.held(), sessions, "no permit is lost");
    assert_eq!(
        gateway.app.sandboxes.count(),
        sessions as usize,
        "no place is lost"
    );
}

async fn at_a_prompt(gateway: &TestGateway) -> Client {
    let mut client = gateway.connect("/ws?cols=1000&rows=50").await;
    client.ready().await;
    client.until("$ ").await;
    client
}

#[tokio::test]
async fn an_engine_in_trouble_turns_visitors_away_until_it_is_well() {
    let Some(_place) = place().await else { return };
    let manners = [
        Manner::Absent,
        Manner::Silent,
        Manner::Garbage,
        Manner::Errors,
        Manner::Stutters,
    ];
    let one = |manner: Manner| async move {
        let (engine, gateway, namespace) = in_front_of(manner).await;
        let begun = Instant::now();
        let state = timeout(PATIENCE, gateway.app.sandboxes.engine_known()).await;
        let state = state.expect("known in time");
        assert!(
            matches!(state, EngineState::Down { .. }),
            "{manner:?}: {state:?}"
        );
        let known = begun.elapsed();
        let reason = health(&gateway).await.expect_err("not well");
        assert_turned_away(&gateway, 0).await;
        engine.becomes(Manner::Real);
        let took = becomes(&gateway, true).await;
        say!("engine {manner:?}: known after {known:.1?} ({reason}); well {took:.1?} after it was");
        let mut client = at_a_prompt(&gateway).await;
        client.send(json!({"type": "close"})).await;
        assert_eq!(client.closed().await, 1000);
        gateway.stop().await;
        namespace.assert_empty().await;
    };
    join_all(manners.map(one)).await;
}

#[tokio::test]
async fn a_gateway_whose_engine_never_comes_stops_when_it_is_told_to() {
    let Some(_place) = place().await else { return };
    for manner in [Manner::Silent, Manner::Absent] {
        let (_engine, gateway, _namespace) = in_front_of(manner).await;
        let begun = Instant::now();
        gateway.stop().await;
        say!("engine {manner:?}: stopped after {:.1?}", begun.elapsed());
    }
}

/// An engine that may yet come is no reason not to serve.
#[tokio::test]
async fn a_gateway_serves_without_an_engine() {
    let Some(_place) = place().await else { return };
    let missing = ("BELLJAR_DOCKER__SOCKET", "/nonexistent/docker.sock");
    let gateway = Served::start(&[missing]).await;
    let health = gateway.health().await;
    assert!(health.starts_with("HTTP/1.1 503 "), "{health}");
    assert!(
        health.contains("/nonexistent/docker.sock cannot be reached"),
        "{health}"
    );
    gateway.stop().await;
}

/// The terminal does not need the engine, only its removal does.
#[tokio::test]
async fn sessions_outlive_their_engine_and_are_removed_when_it_is_back() {
    let Some(_place) = place().await else { return };
    for manner in [Manner::Silent, Manner::Absent] {
        let (engine, gateway, namespace) = in_front_of(Manner::Real).await;
        becomes(&gateway, true).await;
        let mut client = at_a_prompt(&gateway).await;
        engine.becomes(manner);
        assert_eq!(client.run("echo $((6*7))").await, "42\n[0]");
        becomes(&gateway, false).await;
        assert_turned_away(&gateway, 1).await;
        assert_eq!(client.run("echo $((6*7))").await, "42\n[0]");
        let (session, token, offset) = client.cut();
        let mut client = gateway.resume(&session, &token, Some(offset)).await;
        client.ready().await;
        client.input("exit 3\r").await;
        assert_eq!(client.told("exit").await["code"], 3);
        assert_eq!(client.closed().await, 1000);
        assert_eq!(gateway.app.limiter.held(), 0, "the visitor may come again");
        assert_eq!(namespace.containers().await.len(), 1, "not removed yet");
        engine.becomes(Manner::Real);
        becomes(&gateway, true).await;
        let gone = namespace.gone(&session).await;
        say!("engine {manner:?} under a session: its container gone {gone:.1?} after it was back");
        gateway.assert_empty().await;
        gateway.stop().await;
        namespace.assert_empty().await;
    }
}

/// An engine that answers and does nothing: the start has a deadline, and nothing is left of it.
#[tokio::test]
async fn a_start_that_hangs_is_given_up() {
    let Some(_place) = place().await else { return };
    let (engine, gateway, namespace) = in_front_of(Manner::Real).await;
    becomes(&gateway, true).await;
    engine.becomes(Manner::RealButCreates);
    let begun = Instant::now();
    let mut client = gateway.connect("/ws").await;
    let error = client.told("error").await;
    assert!(
        matches!(
            error["code"].as_str(),
            Some("start_failed" | "engine_unavailable")
        ),
        "{error}"
    );
    assert_eq!(client.closed().await, 1011);
    say!("a start that hangs: given up after {:.1?}", begun.elapsed());
    engine.becomes(Manner::Real);
    becomes(&gateway, true).await;
    gateway.assert_empty().await;
    gateway.stop().await;
    namespace.assert_empty().await;
}

/// A gateway that cannot start sandboxes; why not.
async fn down(config: Config) -> String {
    let namespace = Namespace::of(&config);
    let launcher = launcher(&config);
    let gateway = TestGateway::launched(config, launcher).await;
    let state = timeout(PATIENCE, gateway.app.sandboxes.engine_known()).await;
    let state = state.expect("known in time");
    let (EngineState::Down { reason } | EngineState::Unsafe { reason }) = state else {
        panic!("{state:?}");
    };
    assert_eq!(health(&gateway).await, Err(reason.clone()));
    assert_turned_away(&gateway, 0).await;
    gateway.stop().await;
    namespace.assert_empty().await;
    reason
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let Some(_place) = place().await else { return };
    let mut no_image = config();
    no_image
        .templates
        .get_mut("base")
        .expect("there is a base")
        .image = "belljar-nowhere:1".into();
    let reason = down(no_image).await;
    assert!(
        reason.contains("the image belljar-nowhere:1 is not there"),
        "{reason}"
    );
    assert!(reason.contains("docker/build.sh"), "{reason}");

    let mut no_runtime = config();
    no_runtime.docker.runtime = "nope".into();
    let reason = down(no_runtime).await;
    assert!(
        reason.contains("does not know the runtime nope"),
        "{reason}"
    );
    assert!(reason.contains("deploy/setup.sh"), "{reason}");

    let mut no_agent = config();
    no_agent.agent = "/nonexistent/belljar-agent".into();
    let reason = down(no_agent).await;
    assert!(reason.contains("/nonexistent/belljar-agent"), "{reason}");

    // A file that is no agent: the sandbox ends at once, and another route would not help.
    let mut bad_agent = config();
    bad_agent.agent = "/bin/true".into();
    let reason = down(bad_agent).await;
    assert!(
        reason.contains("ended before its agent linked: the container ended with code 0"),
        "{reason}"
    );

    let mut no_room = config();
    no_room.run_dir = "/proc/nowhere".into();
    let reason = down(no_room).await;
    assert!(reason.contains("/proc/nowhere"), "{reason}");

    // The image of another template than the default one is its visitors' trouble only.
    let mut config = config();
    let mut missing = config.templates["base"].clone();
    missing.image = "belljar-nowhere:1".into();
    config.templates.insert("missing".into(), missing);
    let gateway = Sealed::with(config).await;
    let mut client = gateway.connect("/ws?template=missing").await;
    let error = client.told("error").await;
    assert_eq!(error["code"], "start_failed");
    assert!(!error.to_string().contains("nowhere"), "{error}");
    assert_eq!(client.closed().await, 1011);
    let client = gateway.visit().await;
    gateway.end([client]).await;
    gateway.stop().await;
}

/// Run a command of `belljar` to its end; exit code and everything it printed.
async fn run(namespace: &Namespace, command: &str, settings: &[(&str, &str)]) -> (i32, String) {
    let output = belljar(namespace, settings).arg(command).output();
    let output = timeout(2 * PATIENCE, output)
        .await
        .expect("it ends in time");
    let output = output.expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).expect("text");
    (output.status.code().expect("a code"), text)
}

#[tokio::test]
async fn a_runtime_that_is_not_gvisor_is_refused() {
    let Some(_place) = place().await else { return };
    let mut config = config();
    config.docker.runtime = "runc".into();
    let reason = down(config.clone()).await;
    assert!(
        reason.contains("the runtime runc does not run gVisor"),
        "{reason}"
    );

    let namespace = Namespace::of(&config);
    let runc = ("BELLJAR_DOCKER__RUNTIME", "runc");
    let (code, text) = run(&namespace, "serve", &[runc]).await;
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("refusing to serve") && text.contains("belljar doctor"),
        "{text}"
    );
    let (code, text) = run(&namespace, "doctor", &[runc]).await;
    assert_eq!(code, 1, "{text}");
    assert!(
        text.lines()
            .any(|l| l.contains("FAIL") && l.contains("kernel")),
        "{text}"
    );
    namespace.assert_empty().await;

    // Where only this machine can reach it, it may be had on purpose.
    config.docker.require_gvisor = false;
    let gateway = Sealed::with(config).await;
    let mut client = gateway.visit().await;
    let log = client.run("dmesg 2>&1 | head -1").await;
    assert!(!log.contains("gVisor"), "{log}");
    assert_eq!(client.run("touch /x 2>/dev/null; id -u").await, "1000\n[0]");
    gateway.end([client]).await;
    gateway.stop().await;
    let open = [
        runc,
        ("BELLJAR_DOCKER__REQUIRE_GVISOR", "false"),
        ("BELLJAR_LISTEN", "0.0.0.0:0"),
    ];
    let (code, text) = run(&namespace, "serve", &open).await;
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("docker.require_gvisor"), "{text}");
}

#[tokio::test]
async fn the_doctor_finds_this_machine_well() {
    let Some(_place) = place().await else { return };
    let namespace = Namespace::of(&config());
    let (code, text) = run(&namespace, "doctor", &[]).await;
    assert_eq!(code, 0, "{text}");
    for line in [
        "ok    kernel",
        "Starting gVisor",
        "over a Unix socket",
        "none; interfaces: lo",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(!text.contains("FAIL"), "{text}");
    namespace.assert_empty().await;

    let attach = ("BELLJAR_DOCKER__RUNTIME", NO_SOCKETS);
    let (code, text) = run(&namespace, "doctor", &[attach]).await;
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("over attach") && text.contains("--host-uds=open"),
        "{text}"
    );
    namespace.assert_empty().await;
}

#[tokio::test]
async fn the_doctor_says_what_to_do() {
    let Some(_place) = place().await else { return };
    let namespace = Namespace::of(&config());
    for (name, value, remedy) in [
        (
            "BELLJAR_DOCKER__SOCKET",
            "/nonexistent/docker.sock",
            "start the engine",
        ),
        ("BELLJAR_DOCKER__RUNTIME", "nope", "deploy/setup.sh"),
        (
            "BELLJAR_TEMPLATES__BASE__IMAGE",
            "belljar-nowhere:1",
            "docker/build.sh",
        ),
        ("BELLJAR_AGENT", "/nonexistent/agent", "make build"),
    ] {
        let (code, text) = run(&namespace, "doctor", &[(name, value)]).await;
        assert_eq!(code, 1, "{name}: {text}");
        assert!(
            text.contains("FAIL") && text.contains(value) && text.contains(remedy),
            "{text}"
        );
    }
}

/// The same terminal where the engine's attach must carry the link; bytes are in `bytes`.
#[tokio::test]
async fn a_terminal_by_way_of_attach() {
    let Some(_place) = place().await else { return };
    let mut config = config();
    config.docker.runtime = NO_SOCKETS.into();
    let gateway = Sealed::with(config).await;
    let (mut client, mut other) = (gateway.visit().await, gateway.visit().await);
    let seen = gateway.namespace.container_of(&client.session).await;
    assert_eq!(seen["Config"]["OpenStdin"], true);
    assert_eq!(
        seen["HostConfig"]["Binds"].as_array().map(Vec::len),
        Some(1),
        "no socket"
    );
    assert!(gateway.namespace.socket_directories().is_empty());
    assert_eq!(
        client.run("echo $((6*7)); stty size").await,
        "42\n50 1000\n[0]"
    );
    client
        .send(json!({"type": "resize", "cols": 900, "rows": 43}))
        .await;
    client.input("sleep 0.3; stty size\r").await;
    client.until("43 900\r\n").await;
    client.until("$ ").await;
    client.send(json!({"type": "ping", "id": 5})).await;
    assert_eq!(client.told("pong").await["id"], 5);
    let (session, token, offset) = client.cut();
    let mut client = gateway.resume(&session, &token, Some(offset)).await;
    client.ready().await;
    assert_eq!(client.run("echo back").await, "back\n[0]");
    // Here the agent's own streams are the link, and gVisor lets its visitor write to them: the
    // visitor can break that link, or speak in the agent's place, and harms nobody else.
    assert_eq!(client.run("readlink /proc/1/fd/2").await, "/dev/null\n[0]");
    client.input("yes >/proc/1/fd/1\r").await;
    let exit = client.told("exit").await;
    assert_eq!(exit["reason"], "sandbox_lost");
    client.closed().await;
    gateway.namespace.gone(&session).await;
    assert_eq!(other.run("echo alive").await, "alive\n[0]");
    other.input("exit 7\r").await;
    assert_eq!(other.told("exit").await["code"], 7);
    assert_eq!(other.closed().await, 1000);
    gateway.end([]).await;
    gateway.stop().await;
}
