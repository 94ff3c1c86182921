//! `GET /sandboxes/{id}/commands/ws`: a command on a WebSocket, with its input.
//!
//! The first message, text, is the command as for `POST …/commands`. What is said then is what the
//! stream of such a command says, each as a text message; binary messages are its standard input, text
//! ones commands about it. The command ends with the connection.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::response::Response;
use belljar_link::client::LinkError;
use belljar_link::client::process::{ProcessEvent, ProcessInput, ProcessOutput};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::command::{Command, Mode, Stdin};
use super::commands::{Said, Telling};
use super::outcome::signal_number;
use super::pty::SANDBOX_ENDED;
use super::{Running, Trouble};
use crate::fleet::Held;
use crate::web::App;
use crate::web::api::openapi::{Id, Refusals, Troubles};
use crate::web::api::problem;
use crate::web::object::Object;
use crate::web::protocol::FaultCode;
use crate::web::websocket::{self, CLOSE_DEADLINE, End, MAX_TEXT, Receiver, Sender};

/// How long a client may take to say what it wants to have run.
const FIRST_MESSAGE_DEADLINE: Duration = Duration::from_secs(10);

/// Messages of input that wait until the program takes them, of at most 64 KiB each. So a signal is
/// heard although the program does not read.
const WAITING: usize = 4;

/// What a client says of its command.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Order {
    /// That was all of its input.
    Eof,
    /// Send it a signal, by name.
    Signal { signal: String },
}

/// Run a command on a WebSocket
///
/// The first message, text, is the command as for `POST /commands`. What is said then is what the stream
/// of such a command says, each as a text message with `type`. Binary messages are its standard input;
/// `{"type": "eof"}` ends that, `{"type": "signal", "signal": "SIGINT"}` sends a signal. The command ends
/// with the connection.
#[utoipa::path(
    get, path = "/commands/ws", tag = "commands", operation_id = "commandSocket",
    params(Id),
    responses(
        (status = 101, description = "The WebSocket is open"),
        (status = 426, description = "This is for WebSockets", body = problem::Body,
            content_type = "application/problem+json"), Refusals, Troubles)
)]
pub(super) async fn start(
    State(app): State<App>,
    running: Running,
    upgrade: WebSocketUpgrade,
) -> Response {
    let held = running.held;
    let task = app.tasks.token();
    websocket::bounded(upgrade).on_upgrade(async move |socket| {
        let (mut sender, mut receiver) = websocket::split(socket, &app.turns);
        let end = tokio::select! {
            end = serve(&held, &mut sender, &mut receiver) => end,
            // It says so itself, unless it is stuck with a client that reads nothing.
            () = async {
                held.ended().await;
                sleep(CLOSE_DEADLINE).await;
            } => End::Gone,
        };
        sender.finish(receiver, end).await;
        drop(task);
    })
}

async fn serve(held: &Arc<Held>, sender: &mut Sender, receiver: &mut Receiver) -> End {
    let first = match timeout(FIRST_MESSAGE_DEADLINE, receiver.next()).await {
        Ok(Ok(message)) => message,
        Ok(Err(end)) => return end,
        Err(_) => {
            return refuse(sender, &Trouble::bad("command", "must be sent within 10 s")).await;
        }
    };
    let (process, output, input) = match begin(held, &first).await {
        Ok(begun) => begun,
        Err(trouble) => return refuse(sender, &trouble).await,
    };
    if let Err(end) = say(sender, &Said::Start { process }).await {
        return end;
    }
    let (queue, waiting) = mpsc::channel(WAITING);
    // Neither waits for another: the program may write before it reads, and be signalled meanwhile.
    tokio::select! {
        end = hear(held, process, receiver, queue) => end,
        end = show(sender, output) => end,
        () = feed(input, waiting) => unreachable!("it waits for ever"),
    }
}

/// Start what the first message says.
async fn begin(
    held: &Held,
    first: &Message,
) -> Result<(u32, ProcessOutput, Option<ProcessInput>), Trouble> {
    let Message::Text(text) = first else {
        return Err(Trouble::bad(
            "command",
            "must be the first message, as text",
        ));
    };
    let Object(mut command): Object<Command> = serde_json::from_str(text)
        .map_err(|error| Trouble::bad("command", format!("cannot be read: {error}")))?;
    // What it is otherwise for the answer is no question here.
    command.mode = Mode::Stream;
    let more = command.stdin.take();
    let mut start = command.start(held)?;
    start.stdin = true;
    // A command that may talk for as long as its client likes has no time unless one is given.
    if command.timeout.is_none() {
        start.timeout_ms = None;
    }
    let link = held.link().await.map_err(Trouble::NotRunning)?;
    let (process, output, mut input) = link.exec(start).await?;
    if let (Some(Stdin::Text(text)), Some(input)) = (more, &mut input) {
        // At most one message: the link takes it without the program.
        input.write(Bytes::from(text)).await?;
    }
    Ok((process, output, input))
}

/// Say why not, and close.
async fn refuse(sender: &mut Sender, trouble: &Trouble) -> End {
    match say(sender, &Said::error(trouble)).await {
        Ok(()) => FaultCode::BadRequest.into(),
        Err(end) => end,
    }
}

async fn say(sender: &mut Sender, said: &Said) -> Result<(), End> {
    let text = serde_json::to_string(said).expect("text and numbers");
    sender.send(Message::Text(text.into())).await
}

/// Hear the client until it is gone. Dropping the queue ends nothing: only its word closes the input.
async fn hear(
    held: &Held,
    process: u32,
    receiver: &mut Receiver,
    queue: mpsc::Sender<Option<Bytes>>,
) -> End {
    loop {
        let input = match receiver.next().await {
            // A copy, because a message shares the buffer that it was read into.
            Ok(Message::Binary(bytes)) => Some(Bytes::copy_from_slice(&bytes)),
            Ok(Message::Text(text)) => match serde_json::from_str(&text) {
                Ok(Object(Order::Eof)) => None,
                Ok(Object(Order::Signal { signal })) => {
                    match signal_number(&signal) {
                        Some(number) => signal_process(held, process, number).await,
                        None => return FaultCode::BadRequest.into(),
                    }
                    continue;
                }
                Err(_) => return FaultCode::BadRequest.into(),
            },
            Ok(_) => continue,
            Err(end) => return end,
        };
        // An error: the program reads no more, and that is its own business.
        let _ = queue.send(input).await;
    }
}

/// One that has ended meanwhile is no error.
async fn signal_process(held: &Held, process: u32, number: i32) {
    if let Ok(link) = held.link().await {
        let _ = link.signal_process(process, number).await;
    }
}

/// Write what waits. Never resolves.
async fn feed(input: Option<ProcessInput>, mut waiting: mpsc::Receiver<Option<Bytes>>) {
    let mut input = input;
    while let Some(next) = waiting.recv().await {
        match (next, input.take()) {
            (Some(bytes), Some(mut open)) => {
                if open.write(bytes).await.is_ok() {
                    input = Some(open);
                }
            }
            (None, Some(open)) => {
                let _ = open.close().await;
            }
            // It is closed.
            (_, None) => {}
        }
    }
    pending::<()>().await;
}

/// Show what comes out, to the end.
async fn show(sender: &mut Sender, mut output: ProcessOutput) -> End {
    let mut telling = Telling::default();
    loop {
        let shown = tokio::select! {
            () = sender.ping_due() => sender.ping().await,
            event = output.next() => match event {
                Some(Ok(event)) => event_of(sender, &mut telling, event, output.offset()).await,
                Some(Err(_)) | None => Err(lost(sender).await),
            },
        };
        if let Err(end) = shown {
            return end;
        }
    }
}

/// Tell of an event; `end` is the offset after it.
async fn event_of(
    sender: &mut Sender,
    telling: &mut Telling,
    event: ProcessEvent,
    end: u64,
) -> Result<(), End> {
    let (mut bytes, of): (Bytes, fn(Bytes) -> ProcessEvent) = match event {
        ProcessEvent::Stdout(bytes) => (bytes, ProcessEvent::Stdout),
        ProcessEvent::Stderr(bytes) => (bytes, ProcessEvent::Stderr),
        other => return tell(sender, telling.of(other, end)).await,
    };
    while !bytes.is_empty() {
        let part = bytes.split_to(bytes.len().min(MAX_TEXT));
        let offset = end.saturating_sub(bytes.len() as u64);
        tell(sender, telling.of(of(part), offset)).await?;
    }
    Ok(())
}

async fn tell(sender: &mut Sender, all: Vec<Said>) -> Result<(), End> {
    for said in all {
        let text = serde_json::to_string(&said).expect("text and numbers");
        sender.send(Message::Text(text.into())).await?;
        if matches!(said, Said::Exit(_)) {
            return Err(End::Close(1000, "exited"));
        }
    }
    Ok(())
}

async fn lost(sender: &mut Sender) -> End {
    let said = say(sender, &Said::error(&LinkError::Closed.into())).await;
    said.err().unwrap_or(SANDBOX_ENDED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_understood() {
        let order = |text| serde_json::from_str::<Object<Order>>(text).map(|Object(order)| order);
        assert_eq!(order(r#"{"type":"eof"}"#).unwrap(), Order::Eof);
        assert_eq!(
            order(r#"{"type":"signal","signal":"SIGINT"}"#).unwrap(),
            Order::Signal {
                signal: "SIGINT".into()
            }
        );
        for other in ["{}", "[]", r#"{"type":"signal"}"#, r#"{"type":"x"}"#, ""] {
            assert!(order(other).is_err(), "{other}");
        }
    }
}
