//! `GET …/exec/interactive?command=&tty=&rows=&cols=`: a program on a WebSocket, in JSON.
//!
//! In: `{"type": "input", "data"}` and `{"type": "resize", "rows", "cols"}`. Out: `{"type": "output",
//! "data"}`, and at the end `{"type": "exit", "exitCode"}` or `{"type": "error", "message"}`. The program
//! ends with the connection.

use std::future::pending;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{RawQuery, State};
use axum::response::Response;
use belljar_link::client::process::{ProcessEvent, ProcessInput, ProcessOutput};
use belljar_link::client::{LinkError, Output, TerminalInput};
use belljar_link::message::process::ProcessExit;
use belljar_link::message::{Size, TerminalCommand, TerminalEvent};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::fleet::Held;
use crate::web::App;
use crate::web::api::openapi::{Id, Refusals, Troubles};
use crate::web::api::problem;
use crate::web::inside::command::{Command, Line, Mode};
use crate::web::inside::outcome::Exit;
use crate::web::inside::pty::{self, ANY_SHELL, Visit};
use crate::web::inside::text::Lossy;
use crate::web::inside::{Running, Trouble};
use crate::web::object::Object;
use crate::web::protocol;
use crate::web::websocket::{self, CLOSE_DEADLINE, End, MAX_TEXT, Receiver, Sender};

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// One is a line for the shell, several are a program and its arguments.
    command: Vec<String>,
    tty: bool,
    rows: Option<u32>,
    cols: Option<u32>,
}

impl Wanted {
    fn of(query: &str) -> Result<Self, Trouble> {
        let mut wanted = Self {
            tty: true,
            ..Self::default()
        };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let number = |field| {
                let number = value.parse().map(Some);
                number.map_err(|_| Trouble::bad(field, "must be a whole number"))
            };
            match &*name {
                "command" => wanted.command.push(value.into_owned()),
                "tty" => wanted.tty = !matches!(&*value, "false" | "0"),
                "rows" => wanted.rows = number("rows")?,
                "cols" => wanted.cols = number("cols")?,
                _ => {}
            }
        }
        Ok(wanted)
    }

    fn command(&self) -> Command {
        let line = match &self.command[..] {
            [] => Line::Shell(ANY_SHELL.into()),
            [line] => Line::Shell(line.clone()),
            argv => Line::Program(argv.to_vec()),
        };
        Command {
            command: Some(line),
            mode: Mode::Stream,
            ..Command::default()
        }
    }

    fn size(&self) -> Option<Size> {
        Some(protocol::size(self.cols?, self.rows?))
    }
}

/// What a client says.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Said {
    Input { data: String },
    Resize { rows: u32, cols: u32 },
}

/// What it is told.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Told {
    Output {
        data: String,
    },
    Exit {
        #[serde(rename = "exitCode")]
        exit_code: i32,
    },
    Error {
        message: String,
    },
}

/// Run a program on a WebSocket, in JSON
///
/// To it: `{"type": "input", "data"}` and `{"type": "resize", "rows", "cols"}`. From it: `{"type":
/// "output", "data"}`, and at the end `{"type": "exit", "exitCode"}` or `{"type": "error", "message"}`.
/// The program ends with the connection.
#[utoipa::path(
    get, path = "/exec/interactive", tag = "other dialects", operation_id = "execInteractive",
    params(
        Id,
        ("command" = Option<Vec<String>>, Query, description = "One is a line for the shell, several are a \
            program and its arguments; a shell if absent"),
        ("tty" = Option<bool>, Query, description = "On a terminal, which is so if absent"),
        ("rows" = Option<u32>, Query),
        ("cols" = Option<u32>, Query),
    ),
    responses(
        (status = 101, description = "The WebSocket is open"),
        (status = 426, description = "This is for WebSockets", body = problem::Body,
            content_type = "application/problem+json"), Refusals, Troubles)
)]
pub(super) async fn interactive(
    State(app): State<App>,
    running: Running,
    RawQuery(query): RawQuery,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Trouble> {
    let wanted = Wanted::of(query.as_deref().unwrap_or_default())?;
    let held = running.held;
    let task = app.tasks.token();
    Ok(websocket::bounded(upgrade).on_upgrade(async move |socket| {
        let (mut sender, mut receiver) = websocket::split(socket, &app.turns);
        let end = tokio::select! {
            end = serve(&app, &held, &wanted, &mut sender, &mut receiver) => end,
            // It says so itself, unless it is stuck with a client that reads nothing.
            () = async {
                held.ended().await;
                sleep(CLOSE_DEADLINE).await;
            } => End::Gone,
        };
        sender.finish(receiver, end).await;
        drop(task);
    }))
}

async fn serve(
    app: &App,
    held: &Arc<Held>,
    wanted: &Wanted,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> End {
    let served = if wanted.tty {
        terminal(app, held, wanted, sender, receiver).await
    } else {
        process(held, wanted, sender, receiver).await
    };
    match served {
        Ok(end) | Err(Failure::End(end)) => end,
        Err(Failure::Trouble(trouble)) => {
            let message = trouble.to_string();
            let told = tell(sender, &Told::Error { message }).await;
            told.err().unwrap_or(End::Close(1011, "error"))
        }
    }
}

/// Why there is no end to tell.
enum Failure {
    /// It is told.
    Trouble(Trouble),
    /// There is nobody to tell it to.
    End(End),
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        Self::Trouble(error.into())
    }
}

impl From<End> for Failure {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

async fn terminal(
    app: &App,
    held: &Arc<Held>,
    wanted: &Wanted,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<End, Failure> {
    let size = wanted.size();
    let open = pty::open(&wanted.command(), held, size.unwrap_or_default())?;
    let link = held.link().await.map_err(Trouble::NotRunning)?;
    let terminal = link.open_terminal(open).await?;
    let visit = Visit::new(app, &link, terminal, size).await;
    // Not held while it goes on: a sandbox that is let go ends its link.
    drop(link);
    let served = match visit {
        Ok(visit) => {
            let Visit {
                mut offset,
                mut output,
                mut control,
                input,
                ..
            } = visit;
            let (resize, mut resized) = mpsc::channel(1);
            let show = async {
                let mut text = Lossy::default();
                loop {
                    tokio::select! {
                        () = sender.ping_due() => sender.ping().await?,
                        Some(size) = resized.recv() => {
                            control.send(TerminalCommand::Resize(size)).await?;
                        }
                        output = output.next() => match output.ok_or(LinkError::Closed)?? {
                            Output::Bytes(bytes) => {
                                output_of(sender, &mut text, &bytes).await?;
                                offset = offset.saturating_add(bytes.len() as u64);
                                control.send(TerminalCommand::Ack { offset }).await?;
                            }
                            Output::Event(TerminalEvent::Exit(exit)) => {
                                let exit = ProcessExit {
                                    code: exit.code,
                                    signal: exit.signal,
                                    timed_out: false,
                                };
                                return exited(sender, &exit).await;
                            }
                            Output::Event(event) => pty::after(&event)?,
                        },
                    }
                }
            };
            tokio::select! {
                served = show => served,
                end = hear(receiver, Input::Terminal(input), resize) => Ok(end),
            }
        }
        Err(trouble) => Err(trouble.into()),
    };
    // Nobody else knows of it.
    if let Ok(link) = held.link().await {
        let _ = link.close_terminal(terminal).await;
    }
    served
}

async fn process(
    held: &Arc<Held>,
    wanted: &Wanted,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<End, Failure> {
    let mut start = wanted.command().start(held)?;
    start.stdin = true;
    // For as long as its client likes.
    start.timeout_ms = None;
    let link = held.link().await.map_err(Trouble::NotRunning)?;
    let (_, output, input) = link.exec(start).await?;
    drop(link);
    let (resize, _) = mpsc::channel(1);
    tokio::select! {
        served = show_process(sender, output) => served,
        end = hear(receiver, Input::Process(input), resize) => Ok(end),
    }
}

async fn show_process(sender: &mut Sender, mut output: ProcessOutput) -> Result<End, Failure> {
    let (mut out, mut err) = (Lossy::default(), Lossy::default());
    loop {
        tokio::select! {
            () = sender.ping_due() => sender.ping().await?,
            event = output.next() => match event.ok_or(LinkError::Closed)?? {
                ProcessEvent::Stdout(bytes) => output_of(sender, &mut out, &bytes).await?,
                ProcessEvent::Stderr(bytes) => output_of(sender, &mut err, &bytes).await?,
                // Only of what runs in the background.
                ProcessEvent::Gap { .. } => {}
                ProcessEvent::Exit(exit) => return exited(sender, &exit).await,
            },
        }
    }
}

/// Where input goes.
enum Input {
    Terminal(TerminalInput),
    /// Nowhere, once it is closed.
    Process(Option<ProcessInput>),
}

/// Hear the client until it is gone.
async fn hear(receiver: &mut Receiver, mut input: Input, resize: mpsc::Sender<Size>) -> End {
    loop {
        let said = match receiver.next().await {
            Ok(Message::Text(text)) => serde_json::from_str(&text),
            Ok(Message::Binary(bytes)) => serde_json::from_slice(&bytes),
            Ok(_) => continue,
            Err(end) => return end,
        };
        let written = match said {
            Ok(Object(Said::Input { data })) => match &mut input {
                Input::Terminal(input) => pty::write(input, data.as_bytes()).await,
                Input::Process(Some(input)) => input.write(Bytes::from(data)).await,
                Input::Process(None) => Ok(()),
            },
            Ok(Object(Said::Resize { rows, cols })) => {
                // Nobody listens where there is no terminal.
                let _ = resize.send(protocol::size(cols, rows)).await;
                Ok(())
            }
            // It has no word for that.
            Err(_) => Ok(()),
        };
        if written.is_err() {
            match &mut input {
                // Whoever reads its output learns why.
                Input::Terminal(_) => return pending().await,
                // It reads no more, and that is its own business.
                Input::Process(open) => *open = None,
            }
        }
    }
}

async fn output_of(sender: &mut Sender, text: &mut Lossy, bytes: &Bytes) -> Result<(), End> {
    for part in bytes.chunks(MAX_TEXT) {
        let data = text.next(part);
        if !data.is_empty() {
            tell(sender, &Told::Output { data }).await?;
        }
    }
    Ok(())
}

async fn exited(sender: &mut Sender, exit: &ProcessExit) -> Result<End, Failure> {
    let exit_code = Exit::from(exit).exit_code;
    tell(sender, &Told::Exit { exit_code }).await?;
    Ok(End::Close(1000, "exited"))
}

async fn tell(sender: &mut Sender, told: &Told) -> Result<(), End> {
    let text = serde_json::to_string(told).expect("text and numbers");
    sender.send(Message::Text(text.into())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_what_is_wanted() {
        let wanted = Wanted::of("command=ls+-l&tty=false&rows=24&cols=80&x=y").unwrap();
        let expected = Wanted {
            command: vec!["ls -l".into()],
            tty: false,
            rows: Some(24),
            cols: Some(80),
        };
        assert_eq!(wanted, expected);
        assert!(Wanted::of("").unwrap().tty);
        assert!(Wanted::of("rows=x").is_err());
    }
}
