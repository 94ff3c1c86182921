//! A gateway to test, and clients to test it with.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use belljar::config::{Config, LauncherKind};
use belljar::gateway::Gateway;
use belljar::sandbox::{EngineState, Host, Launcher, launcher};
use belljar::session::Leave;
use belljar::web::App;
use bytesize::ByteSize;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

/// Tests of functions that take a configuration, which says what starts the sandboxes: the same visits
/// on every launcher that is named, each by the function here that prepares one and looks at what is left.
macro_rules! visits {
    (on $($launcher:ident),+: $visits:tt) => {
        $($crate::harness::visits! { @ $launcher $visits })+
    };
    (@ $launcher:ident { $($visit:ident,)* }) => {
        mod $launcher {
            $(
                #[tokio::test]
                async fn $visit() {
                    $crate::harness::$launcher(super::$visit).await;
                }
            )*
        }
    };
}
pub(crate) use visits;

/// Visits to plain processes.
pub async fn processes<F: Future<Output = ()>>(visit: impl FnOnce(Config) -> F) {
    visit(process_config()).await;
}

/// Visits to containers of an engine with gVisor, where there is one.
pub use crate::sealed::on_engine as engine;

/// Visits to pods of a cluster, where there is one.
pub use crate::kubernetes::on_cluster as cluster;

/// How long anything may take before a test is given up. Not a claim about speed: these machines
/// are shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The widest terminal, so that no line that is typed wraps and its echo stays in one piece.
pub const WIDE: &str = "cols=1000&rows=50";

/// The agent that `make agent` built.
pub fn agent() -> PathBuf {
    let path = std::env::var_os("BELLJAR_AGENT").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/belljar-agent"),
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "there is no agent at {}: run `make agent`",
        path.display()
    );
    path
}

/// A running gateway. Call [`TestGateway::stop`] at the end, which checks that nothing is left.
pub struct TestGateway {
    pub address: SocketAddr,
    pub app: App,
    shutdown: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

/// A configuration for tests: no isolation, no limits worth mentioning.
pub fn process_config() -> Config {
    let mut config = Config::defaults();
    config.launcher = LauncherKind::Process;
    config.agent = agent();
    config.limits.sessions_per_hour = 100_000;
    config.limits.concurrent_sessions = 1000;
    config.limits.commands_per_minute = 60_000;
    // Whatever this machine is doing meanwhile.
    config.limits.min_available_memory = ByteSize(0);
    config.limits.max_memory_pressure = 0.0;
    let template = config.templates.get_mut("base").expect("there is a base");
    // A shell that prints nothing of its own but a known prompt.
    template.command = ["/bin/bash", "--noprofile", "--norc"]
        .map(String::from)
        .into();
    template.env.insert("PS1".into(), "$ ".into());
    // Tests count sandboxes.
    template.pool = 0;
    // Whatever this machine has.
    config.api.keys_file = "/nowhere/belljar/keys.toml".into();
    config
}

/// A configuration for tests on Docker and gVisor, in a namespace of its own.
pub fn docker_config() -> Config {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut config = process_config();
    config.launcher = LauncherKind::Docker;
    config.docker.namespace = format!("test-{}-{number}", std::process::id());
    config.run_dir = std::env::temp_dir().join("belljar-test-run");
    let template = config.templates.get_mut("base").expect("there is a base");
    template.command = belljar::config::Template::default().command;
    template.env.clear();
    config
}

impl TestGateway {
    /// A gateway whose sandboxes are plain processes.
    pub async fn process() -> Self {
        Self::with(process_config()).await
    }

    /// A gateway with this configuration.
    pub async fn with(config: Config) -> Self {
        Self::on(Host::this(), config).await
    }

    /// A gateway with this configuration on this host.
    pub async fn on(host: Host, config: Config) -> Self {
        let launcher = launcher(&config);
        let gateway = Self::launched_on(host, config, launcher).await;
        let state = timeout(PATIENCE, gateway.app.sandboxes.engine_known()).await;
        assert_eq!(
            state.expect("the engine is known in time"),
            EngineState::Ready,
            "the engine is usable"
        );
        gateway
    }

    /// A gateway with this launcher, whatever the state of its engine.
    pub async fn launched(config: Config, launcher: Arc<dyn Launcher>) -> Self {
        Self::launched_on(Host::this(), config, launcher).await
    }

    async fn launched_on(host: Host, mut config: Config, launcher: Arc<dyn Launcher>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound port");
        config.listen = address;
        let gateway = Gateway::on(host, config, launcher).await;
        let app = gateway.app().clone();
        let (shutdown, asked) = oneshot::channel();
        let served = tokio::spawn(gateway.serve(listener, async {
            let _ = asked.await;
            Leave::End
        }));
        Self {
            address,
            app,
            shutdown: Some(shutdown),
            served,
        }
    }

    /// Nothing is left of any session: no sandbox, no permit, nobody in line.
    pub async fn assert_empty(&self) {
        let begun = Instant::now();
        loop {
            let (sandboxes, permits) = (self.app.sandboxes.count(), self.app.limiter.held());
            let permits = permits + self.app.fleet.held();
            let waiting = *self.app.sandboxes.waiting().borrow();
            if sandboxes == 0 && permits == 0 && waiting == 0 {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{sandboxes} sandboxes and {permits} permits are left, and {waiting} in line"
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Go away, and leave nothing behind.
    pub async fn stop(mut self) {
        let _ = self.shutdown.take().expect("stopped once").send(());
        timeout(PATIENCE, &mut self.served)
            .await
            .expect("it goes away in time")
            .expect("without a panic");
        assert_eq!(self.app.sandboxes.count(), 0);
        assert_eq!(self.app.limiter.held(), 0);
        assert_eq!(self.app.fleet.held(), 0);
    }

    /// Connect with the `belljar.v1` subprotocol.
    pub async fn connect(&self, path: &str) -> Client {
        self.connect_with(path, &[("sec-websocket-protocol", "belljar.v1")])
            .await
            .expect("the upgrade is accepted")
    }

    /// Connect with these headers; the error of a refused upgrade.
    pub async fn connect_with(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Client, WsError> {
        connect_to(self.address, path, headers).await
    }

    /// A session with a visitor attached, at its prompt.
    pub async fn visit(&self) -> Client {
        let mut client = self.connect("/ws?cols=80&rows=24").await;
        client.ready().await;
        client.until("$ ").await;
        client
    }

    /// The same in a terminal in which no line wraps.
    pub async fn visit_wide(&self) -> Client {
        self.visit_template("base").await
    }

    /// The same of this template.
    pub async fn visit_template(&self, template: &str) -> Client {
        let mut client = self.begin(template).await;
        client.until("$ ").await;
        client
    }

    /// A visitor of this template who has been let in and has seen nothing yet.
    pub async fn begin(&self, template: &str) -> Client {
        let path = format!("/ws?{WIDE}&template={template}");
        let mut client = self.connect(&path).await;
        client.ready().await;
        client
    }

    /// End sessions, all at once, and wait until nothing is left of any.
    pub async fn leave(&self, clients: impl IntoIterator<Item = Client>) {
        for mut client in clients {
            client.send(json!({"type": "close"})).await;
            assert_eq!(client.closed().await, 1000);
        }
        self.assert_empty().await;
    }

    /// Wait until no more than so many sandboxes are left; how long that took.
    pub async fn left(&self, sandboxes: usize) -> Duration {
        let begun = Instant::now();
        while self.app.sandboxes.count() > sandboxes {
            assert!(begun.elapsed() < PATIENCE, "there are more yet");
            sleep(Duration::from_millis(20)).await;
        }
        begun.elapsed()
    }

    /// Attach to a session by its token, from an offset.
    pub async fn resume(&self, session: &str, token: &str, from: Option<u64>) -> Client {
        let mut client = self.connect(&format!("/sessions/{session}/ws")).await;
        client
            .send(json!({"type": "attach", "token": token, "from": from, "cols": 80, "rows": 24}))
            .await;
        client
    }

    /// An HTTP request by hand; status and body.
    pub async fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, String) {
        let (head, body) = self.exchange(method, path, headers, body).await;
        let status = head.split(' ').nth(1).expect("a status");
        (status.parse().expect("a number"), body)
    }

    /// The same; the answer's head and body.
    pub async fn exchange(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (String, String) {
        exchange(self.address, method, path, headers, body).await
    }

    /// End a session, by what `POST /sessions` has answered.
    pub async fn end(&self, session: &Value) {
        let text = |key: &str| session[key].as_str().expect("an answer").to_owned();
        let path = format!("/sessions/{}", text("sessionId"));
        let bearer = format!("Bearer {}", text("token"));
        let headers = [("authorization", bearer.as_str())];
        let (status, _) = self.http("DELETE", &path, &headers, "").await;
        assert!((200..300).contains(&status), "{status}");
    }

    /// [`Self::http`] for JSON.
    pub async fn json(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> (u16, Value) {
        let mut headers = headers.to_vec();
        headers.push(("content-type", "application/json"));
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (status, body) = self.http(method, path, &headers, &body).await;
        let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
        (status, body)
    }
}

/// An HTTP request by hand to a gateway anywhere; the answer's head and body. A header of the request
/// may take the place of the usual `host`.
pub async fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    if !headers.iter().any(|(name, _)| *name == "host") {
        let _ = write!(head, "host: {address}\r\n");
    }
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let request = format!("{head}\r\n{body}");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it reads");
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("it answers in time")
        .expect("it answers");
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    (head.to_owned(), body.to_owned())
}

/// Connect to a gateway anywhere, with these headers; the error of a refused upgrade.
pub async fn connect_to(
    address: SocketAddr,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<Client, WsError> {
    let url = format!("ws://{address}{path}");
    let mut request = url.into_client_request().expect("a valid URL");
    for (name, value) in headers {
        request.headers_mut().insert(
            HeaderName::from_static(name),
            HeaderValue::from_str(value).expect("a valid header"),
        );
    }
    let stream = TcpStream::connect(address).await.expect("it listens");
    stream.set_nodelay(true).expect("TCP");
    let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
    Ok(Client::new(socket))
}

/// A `belljar.v1` client (or another, by [`TestGateway::connect_with`]).
pub struct Client {
    pub socket: WebSocketStream<TcpStream>,
    /// Session id and token, from `ready`.
    pub session: String,
    pub token: String,
    /// Offset of the next byte of output.
    pub offset: u64,
    /// Output that [`Client::until`] has not consumed yet.
    pub output: Vec<u8>,
    /// Control messages other than those a call waited for.
    pub told: Vec<Value>,
    /// Whether to acknowledge output.
    pub acknowledge: bool,
}

/// What a client heard.
#[derive(Debug)]
pub enum Heard {
    Output(Vec<u8>),
    Told(Value),
    /// The connection was closed, with this code (1006 if without a frame).
    Closed(u16),
}

impl Client {
    fn new(socket: WebSocketStream<TcpStream>) -> Self {
        Self {
            socket,
            session: String::new(),
            token: String::new(),
            offset: 0,
            output: Vec::new(),
            told: Vec::new(),
            acknowledge: true,
        }
    }

    pub async fn send(&mut self, message: Value) {
        let message = Message::Text(message.to_string().into());
        self.socket.send(message).await.expect("it reads");
    }

    pub async fn input(&mut self, bytes: impl AsRef<[u8]>) {
        let message = Message::Binary(bytes.as_ref().to_vec().into());
        self.socket.send(message).await.expect("it reads");
    }

    /// The next thing heard; acknowledges output.
    pub async fn hear(&mut self) -> Heard {
        loop {
            let next = timeout(PATIENCE, self.socket.next()).await;
            match next.expect("something is heard in time") {
                Some(Ok(Message::Binary(bytes))) => {
                    self.offset = self.offset.saturating_add(bytes.len() as u64);
                    if self.acknowledge {
                        let ack = json!({"type": "ack", "offset": self.offset}).to_string();
                        // A gateway that is closing does not read any more.
                        let _ = self.socket.send(Message::Text(ack.into())).await;
                    }
                    return Heard::Output(bytes.to_vec());
                }
                Some(Ok(Message::Text(text))) => {
                    let value: Value = serde_json::from_str(&text).expect("control is JSON");
                    if value["type"] == "gap" {
                        self.offset = value["to"].as_u64().expect("a number");
                    }
                    return Heard::Told(value);
                }
                Some(Ok(Message::Close(frame))) => {
                    return Heard::Closed(frame.map_or(1005, |frame| frame.code.into()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Heard::Closed(1006),
            }
        }
    }

    /// Wait for `ready`.
    pub async fn ready(&mut self) -> Value {
        let ready = self.told("ready").await;
        self.session = ready["session"].as_str().expect("an id").into();
        self.token = ready["token"].as_str().expect("a token").into();
        self.offset = ready["offset"].as_u64().expect("a number");
        ready
    }

    /// Wait for a control message of this type; output meanwhile is kept.
    pub async fn told(&mut self, kind: &str) -> Value {
        if let Some(at) = self.told.iter().position(|told| told["type"] == kind) {
            return self.told.remove(at);
        }
        loop {
            match self.hear().await {
                Heard::Output(bytes) => self.output.extend(bytes),
                Heard::Told(value) if value["type"] == kind => return value,
                Heard::Told(value) => self.told.push(value),
                Heard::Closed(code) => panic!(
                    "closed with {code} while waiting for {kind}; told: {:?}",
                    self.told
                ),
            }
        }
    }

    /// Wait for text in the output; returns everything up to its end and consumes it.
    pub async fn until(&mut self, text: &str) -> String {
        // What was searched is not searched again, or a flood would take for ever.
        let mut searched = 0;
        loop {
            let found = self.output[searched..]
                .windows(text.len())
                .position(|window| window == text.as_bytes());
            if let Some(at) = found {
                let rest = self.output.split_off(searched + at + text.len());
                let seen = std::mem::replace(&mut self.output, rest);
                return String::from_utf8_lossy(&seen).into_owned();
            }
            searched = self.output.len().saturating_sub(text.len());
            match self.hear().await {
                Heard::Output(bytes) => self.output.extend(bytes),
                Heard::Told(value) => self.told.push(value),
                Heard::Closed(code) => panic!(
                    "closed with {code} while waiting for {text:?}; told: {:?}; seen: {:?}",
                    self.told,
                    String::from_utf8_lossy(&self.output)
                ),
            }
        }
    }

    /// Wait for the end; returns the close code and keeps what was said before in `told`.
    pub async fn closed(&mut self) -> u16 {
        loop {
            match self.hear().await {
                Heard::Output(bytes) => self.output.extend(bytes),
                Heard::Told(value) => self.told.push(value),
                Heard::Closed(code) => return code,
            }
        }
    }

    /// Run a command and return what it printed. The shell must be at its prompt.
    pub async fn run(&mut self, command: &str) -> String {
        // The marker is split in what is typed, so that its echo is not taken for its output.
        self.input(format!("{command}; echo ma''rk $?\r")).await;
        self.until("ma''rk $?\r\n").await;
        let output = self.until("mark ").await;
        let status = self.until("\r\n").await;
        self.until("$ ").await;
        let output = output.trim_end_matches("mark ");
        format!("{}[{}]", strip(output), status.trim())
    }

    /// Break the connection without a word, as a lost network does.
    pub fn cut(self) -> (String, String, u64) {
        (self.session, self.token, self.offset)
    }
}

/// Without escape sequences and carriage returns, as far as a plain shell uses them.
pub fn strip(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => {
                let bracket = chars.next() == Some('[');
                while bracket && chars.next().is_some_and(|c| !c.is_ascii_alphabetic()) {}
            }
            '\r' => {}
            c => plain.push(c),
        }
    }
    plain
}
