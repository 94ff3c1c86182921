//! Kubebox's Socket.IO: what programs say, as it comes.
//!
//! By WebSocket only, which is what its client uses. A socket is its caller's: what it may follow are
//! processes of the caller's sessions. What its client does not read is not read of the sandbox either.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use belljar_link::client::process::{ProcessEvent, ProcessOutput};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::packet::{self, Packet};
use super::session::Session;
use super::{Asking, ProcessId};
use crate::fleet::Caller;
use crate::secret::random_hex;
use crate::web::App;
use crate::web::inside::Trouble;
use crate::web::inside::outcome::Exit;
use crate::web::inside::text::Lossy;
use crate::web::protocol::FaultCode;
use crate::web::websocket::{self, End, MAX_TEXT, Receiver, Sender};

/// How long a client may take to connect to the namespace.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Packets that wait for a client to read, of at most 96 KiB each.
const WAITING: usize = 8;

/// Processes that one socket follows at once.
const MAX_FOLLOWED: usize = 64;

/// How a client of Engine.IO comes.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Handshake {
    #[serde(rename = "EIO")]
    version: String,
    transport: String,
}

/// `GET /socket.io/`
pub(super) async fn connect(
    State(app): State<App>,
    Asking(caller): Asking,
    handshake: Result<Query<Handshake>, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let refuse = |code: u8, message: &str| {
        let body = json!({"code": code, "message": message});
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    };
    let Query(handshake) = handshake.unwrap_or_default();
    let upgrade = match upgrade {
        _ if handshake.version != "4" => return refuse(5, "Unsupported protocol version"),
        Ok(upgrade) if handshake.transport == "websocket" => upgrade,
        Ok(_) | Err(_) => return refuse(0, "Transport unknown"),
    };
    let task = app.tasks.token();
    let leave = app.fleet.leaving();
    websocket::bounded(upgrade).on_upgrade(async move |socket| {
        let (mut sender, mut receiver) = websocket::split(socket, &app.turns);
        let end = tokio::select! {
            end = serve(app, caller, &mut sender, &mut receiver) => end,
            () = leave => FaultCode::GoingAway.into(),
        };
        sender.finish(receiver, end).await;
        drop(task);
    })
}

async fn serve(app: App, caller: Caller, sender: &mut Sender, receiver: &mut Receiver) -> End {
    let id = random_hex::<16>();
    let hello = async {
        sender.send(text(packet::open(&id))).await?;
        loop {
            match read(receiver.next().await?) {
                Some(Packet::Connect) => break,
                Some(Packet::Ping | Packet::Pong) => {}
                Some(Packet::Leave) => return Err(End::Left),
                _ => return Err(FaultCode::BadRequest.into()),
            }
        }
        sender.send(text(packet::connected(&id))).await
    };
    match timeout(CONNECT_DEADLINE, hello).await {
        Ok(Ok(())) => {}
        Ok(Err(end)) => return end,
        Err(_) => return FaultCode::BadRequest.into(),
    }
    let (packets, waiting) = mpsc::channel(WAITING);
    let mut client = Client {
        app,
        caller,
        packets,
        followed: JoinSet::new(),
    };
    tokio::select! {
        end = client.hear(receiver) => end,
        end = show(sender, waiting) => end,
    }
}

/// Send what waits, and signs of life.
async fn show(sender: &mut Sender, mut waiting: mpsc::Receiver<String>) -> End {
    loop {
        let sent = tokio::select! {
            () = sender.ping_due() => match sender.ping().await {
                Ok(()) => sender.send(text(packet::PING.to_owned())).await,
                gone => gone,
            },
            Some(packet) = waiting.recv() => sender.send(text(packet)).await,
        };
        if let Err(end) = sent {
            return end;
        }
    }
}

fn text(packet: String) -> Message {
    Message::Text(packet.into())
}

fn read(message: Message) -> Option<Packet> {
    match message {
        Message::Text(text) => packet::read(&text),
        _ => None,
    }
}

/// What an event is about.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct About {
    session_id: String,
    process_id: Option<ProcessId>,
}

struct Client {
    app: App,
    caller: Caller,
    packets: mpsc::Sender<String>,
    /// End with the socket.
    followed: JoinSet<()>,
}

impl Client {
    /// Hear it until it is gone.
    async fn hear(&mut self, receiver: &mut Receiver) -> End {
        loop {
            let packet = match receiver.next().await {
                Ok(message) => read(message),
                Err(end) => return end,
            };
            match packet {
                Some(Packet::Event { name, argument, id }) => {
                    if let Some(id) = id {
                        send(&self.packets, packet::ack(id)).await;
                    }
                    if let Err(trouble) = self.event(&name, argument).await {
                        let (_, _, message) = trouble.problem().into_parts();
                        let error = json!({"error": message});
                        send(&self.packets, packet::emit("command_error", &error)).await;
                    }
                }
                Some(Packet::Ping) => send(&self.packets, packet::PONG.to_owned()).await,
                Some(Packet::Pong | Packet::Ack | Packet::Connect) => {}
                Some(Packet::Leave) => return End::Left,
                None => return FaultCode::BadRequest.into(),
            }
        }
    }

    async fn event(&mut self, name: &str, argument: Value) -> Result<(), Trouble> {
        let about: About = serde_json::from_value(argument)
            .map_err(|error| Trouble::bad("event", error.to_string()))?;
        let find = Session::find(&self.app, &self.caller, &about.session_id);
        match name {
            "initialize" => {
                find.await?;
                let body = json!({"session_id": about.session_id, "status": "initialized"});
                send(&self.packets, packet::emit("initialized", &body)).await;
            }
            "start_command_stream" => {
                let process = ProcessId::given(about.process_id)?;
                let session = find.await?;
                while self.followed.try_join_next().is_some() {}
                if self.followed.len() >= MAX_FOLLOWED {
                    let told = format!("at most {MAX_FOLLOWED} can be followed at once");
                    return Err(Trouble::bad("process_id", told));
                }
                let output = session.link.follow_process(process, None).await?;
                let packets = self.packets.clone();
                self.followed.spawn(follow(process, output, packets));
            }
            "check_status" => {
                let process = ProcessId::given(about.process_id)?;
                let info = find.await?.link.process(process).await;
                // Nobody knows of one that ended long ago.
                let running = info.ok().map(|info| info.exit.is_none());
                let body = json!({"running": running, "process_id": process});
                send(&self.packets, packet::emit("status", &body)).await;
            }
            _ => return Err(Trouble::bad("event", "there is no such event")),
        }
        Ok(())
    }
}

/// Waits while the client does not read.
async fn send(packets: &mpsc::Sender<String>, packet: String) {
    // Whoever has gone hears nothing.
    let _ = packets.send(packet).await;
}

/// Tell everything that a process says, and its end.
async fn follow(process: u32, mut output: ProcessOutput, packets: mpsc::Sender<String>) {
    let (mut stdout, mut stderr) = (Lossy::default(), Lossy::default());
    while let Some(event) = output.next().await {
        match event {
            Ok(ProcessEvent::Stdout(bytes)) => {
                say(&packets, process, "stdout", &mut stdout, &bytes).await;
            }
            Ok(ProcessEvent::Stderr(bytes)) => {
                say(&packets, process, "stderr", &mut stderr, &bytes).await;
            }
            Ok(ProcessEvent::Gap { from, to }) => {
                let told = format!(
                    "\n[{} bytes of output were lost]\n",
                    to.saturating_sub(from)
                );
                let mut plain = Lossy::default();
                say(&packets, process, "stderr", &mut plain, told.as_bytes()).await;
            }
            Ok(ProcessEvent::Exit(exit)) => {
                let exit_code = Exit::from(&exit).exit_code;
                let body = json!({"exit_code": exit_code, "process_id": process});
                send(&packets, packet::emit("command_exit", &body)).await;
                return;
            }
            Err(_) => break,
        }
    }
    // So that its client does not wait for ever.
    let body = json!({"exit_code": -1, "process_id": process});
    send(&packets, packet::emit("command_exit", &body)).await;
}

async fn say(
    packets: &mpsc::Sender<String>,
    process: u32,
    kind: &str,
    text: &mut Lossy,
    bytes: &[u8],
) {
    for part in bytes.chunks(MAX_TEXT) {
        let output = text.next(part);
        if !output.is_empty() {
            let body = json!({"output": output, "type": kind, "process_id": process});
            send(packets, packet::emit("command_output", &body)).await;
        }
    }
}
