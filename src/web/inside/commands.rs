//! Commands of a program: waited for, streamed, or left in the background.

use std::convert::Infallible;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use belljar_link::client::LinkError;
use belljar_link::client::process::{ProcessEvent, ProcessInput, ProcessOutput};
use futures::Stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::ToSchema;

use super::command::{Command, Line, Mode, Stdin};
use super::outcome::{self, Exit, Outcome, hand_over};
use super::patience::{Holding, Patience};
use super::text::{Piece, Pieces};
use super::{Running, Trouble};
use crate::web::App;
use crate::web::api::body::Body;
use crate::web::api::openapi::{Id, Refusals, ServerSentEvent, Troubles};

/// Events of a stream that may wait for their reader: with what the agent may be ahead, at most 2 MiB
/// for each stream.
const WAITING: usize = 8;

/// Run a command
///
/// `mode` says how the answer comes. `wait`: once, when the command has ended. `stream`: as server-sent
/// events, `start {process}`, then `stdout` and `stderr` `{data, offset}` (`dataBase64` where it is no
/// text) and `gap {from, to}` as they come, `exit {exitCode, signal, timedOut}` or `error {error, status,
/// message}` last. `background`: at once; the command runs on by itself.
///
/// A command that is waited for or streamed ends with its request.
#[utoipa::path(
    post, path = "/commands", tag = "commands", operation_id = "runCommand",
    params(Id),
    request_body = Command,
    responses(
        (status = 200, description = "What it came to, or what it says on the way",
            content((Outcome = "application/json"), (ServerSentEvent = "text/event-stream"))),
        (status = 202, description = "It runs in the background", body = Begun), Refusals, Troubles)
)]
pub(in crate::web) async fn create(
    State(app): State<App>,
    patience: Patience,
    running: Running,
    Body(command): Body<Command>,
) -> Result<Response, Trouble> {
    run(&app, &patience, &running, command).await
}

/// The number of a process in the background, by its own name and those of older systems.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::web) struct Begun {
    process: u32,
    #[serde(rename = "processID")]
    process_id_of_opensandbox: u32,
    process_id: u32,
}

impl Begun {
    fn of(process: u32) -> Self {
        Self {
            process,
            process_id_of_opensandbox: process,
            process_id: process,
        }
    }
}

/// Run a command as it wants to be.
pub(in crate::web) async fn run(
    app: &App,
    patience: &Patience,
    running: &Running,
    mut command: Command,
) -> Result<Response, Trouble> {
    let start = command.start(&running.held)?;
    let stdin = match command.stdin.take() {
        Some(Stdin::Text(text)) => Some(text),
        Some(Stdin::Open(_)) | None => None,
    };
    if command.mode == Mode::Background {
        let process = running.link.start_process(start).await?;
        if let Some(text) = stdin {
            let input = running.link.process_input(process).await?;
            app.tasks.spawn(outcome::feed(input, text));
        }
        return Ok((StatusCode::ACCEPTED, Json(Begun::of(process))).into_response());
    }
    let holding = patience.hold();
    let (process, output, input) = running.link.exec(start).await?;
    let input = input.zip(stdin);
    if command.mode == Mode::Stream {
        let (events, reader) = mpsc::channel(WAITING);
        app.tasks
            .spawn(stream(process, output, input, events, holding));
        return Ok(sse(reader).into_response());
    }
    let outcome = outcome::wait(output, input).await?;
    Ok(Json(outcome).into_response())
}

/// What is said on the way.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(in crate::web) enum Said {
    /// It has been started.
    Start {
        /// Its number.
        process: u32,
    },
    /// A piece of its standard output.
    Stdout(PieceAt),
    /// A piece of its standard error.
    Stderr(PieceAt),
    /// So much output is lost.
    Gap {
        /// First missing offset, bytes.
        from: u64,
        /// Offset the output goes on with.
        to: u64,
    },
    /// It ended. The last.
    Exit(Exit),
    /// It cannot be told how it ended. The last.
    Error {
        /// A stable code.
        error: &'static str,
        /// What the status would have been.
        status: u16,
        /// Why.
        message: String,
    },
}

/// A piece of output, and where it ends.
#[derive(Debug, Serialize)]
pub(in crate::web) struct PieceAt {
    #[serde(flatten)]
    piece: Piece,
    /// Offset after it, bytes of both streams: where a reader goes on.
    offset: u64,
}

impl PieceAt {
    /// The output, if it is text.
    pub(super) fn text(&self) -> &str {
        match &self.piece {
            Piece::Data(text) => text,
            Piece::DataBase64(_) => "",
        }
    }
}

impl Said {
    /// What cannot be.
    pub(super) fn error(trouble: &Trouble) -> Self {
        let (status, error, message) = trouble.problem().into_parts();
        Self::Error {
            error,
            status: status.as_u16(),
            message,
        }
    }

    /// As a server-sent event.
    pub(super) fn event(&self) -> Event {
        let name = match self {
            Self::Start { .. } => "start",
            Self::Stdout(_) => "stdout",
            Self::Stderr(_) => "stderr",
            Self::Gap { .. } => "gap",
            Self::Exit(_) => "exit",
            Self::Error { .. } => "error",
        };
        let data = serde_json::to_string(self).expect("text and numbers");
        Event::default().event(name).data(data)
    }
}

/// Makes what is said of what comes out of a process.
#[derive(Debug, Default)]
pub(in crate::web) struct Telling {
    stdout: Pieces,
    stderr: Pieces,
}

impl Telling {
    /// Where a reader goes on who has been told so much: before the character that is held back.
    fn told(&self, offset: u64) -> u64 {
        offset.saturating_sub((self.stdout.held() + self.stderr.held()) as u64)
    }

    /// What to say of this event; `offset` is that after it.
    pub(in crate::web) fn of(&mut self, event: ProcessEvent, offset: u64) -> Vec<Said> {
        match event {
            ProcessEvent::Stdout(bytes) => {
                let piece = self.stdout.next(&bytes);
                let offset = self.told(offset);
                let said = piece.map(|piece| Said::Stdout(PieceAt { piece, offset }));
                said.into_iter().collect()
            }
            ProcessEvent::Stderr(bytes) => {
                let piece = self.stderr.next(&bytes);
                let offset = self.told(offset);
                let said = piece.map(|piece| Said::Stderr(PieceAt { piece, offset }));
                said.into_iter().collect()
            }
            ProcessEvent::Gap { from, to } => vec![Said::Gap { from, to }],
            ProcessEvent::Exit(exit) => {
                let at = |piece| PieceAt { piece, offset };
                let stdout = self.stdout.rest().map(|piece| Said::Stdout(at(piece)));
                let stderr = self.stderr.rest().map(|piece| Said::Stderr(at(piece)));
                let exit = Said::Exit(Exit::from(&exit));
                stdout.into_iter().chain(stderr).chain([exit]).collect()
            }
        }
    }
}

/// Tell a reader everything, to the end. A reader that goes, or does not read, ends a foreground
/// process by the drop of its output.
pub(super) async fn stream(
    process: u32,
    mut output: ProcessOutput,
    input: Option<(ProcessInput, String)>,
    events: mpsc::Sender<Said>,
    _holding: Holding,
) {
    let tell = async {
        if !hand_over(&events, Said::Start { process }).await {
            return;
        }
        let mut telling = Telling::default();
        while let Some(event) = output.next().await {
            let said = match event {
                Ok(event) => telling.of(event, output.offset()),
                Err(error) => vec![Said::error(&error.into())],
            };
            for said in said {
                let last = matches!(said, Said::Exit(_) | Said::Error { .. });
                if !hand_over(&events, said).await || last {
                    return;
                }
            }
        }
        hand_over(&events, Said::error(&LinkError::Closed.into())).await;
    };
    // A program that neither reads nor says anything ends with its reader, too.
    tokio::select! {
        () = tell => {}
        () = events.closed() => {}
        never = outcome::feed_on(input) => match never {},
    }
}

/// What is said, as server-sent events.
pub(super) fn sse(
    reader: mpsc::Receiver<Said>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let events = futures::stream::unfold(reader, |mut reader| async move {
        let said = reader.recv().await?;
        Some((Ok(said.event()), reader))
    });
    // Every 15 s, so that proxies between do not take the silence for the end.
    Sse::new(events).keep_alive(KeepAlive::default())
}

/// A request to run code: as for a command, with a text in place of the command.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names that the API has")]
pub(in crate::web) struct Code {
    /// The text.
    #[schema(required, value_type = String)]
    code: Option<String>,
    /// What it is written in; python if absent.
    language: Option<String>,
    /// How it is run.
    #[serde(flatten)]
    command: Command,
}

/// Run code
///
/// A text in one of the template's languages. The answer comes as that of a command.
#[utoipa::path(
    post, path = "/code", tag = "commands", operation_id = "runCode",
    params(Id),
    request_body = Code,
    responses(
        (status = 200, description = "What it came to, or what it says on the way",
            content((Outcome = "application/json"), (ServerSentEvent = "text/event-stream"))),
        (status = 202, description = "It runs in the background", body = Begun), Refusals, Troubles)
)]
pub(super) async fn code(
    State(app): State<App>,
    patience: Patience,
    running: Running,
    Body(code): Body<Code>,
) -> Result<Response, Trouble> {
    let text = code
        .code
        .ok_or_else(|| Trouble::bad("code", "must be given"))?;
    let language = code.language.as_deref().unwrap_or("python");
    let config = app.config.get();
    let template = config.template(&running.held.recipe.template);
    let mut argv = template
        .and_then(|template| template.language(language))
        .ok_or_else(|| {
            let known = template
                .map(|t| t.languages().join(", "))
                .unwrap_or_default();
            Trouble::bad("language", format!("must be one of: {known}"))
        })?;
    argv.push(text);
    let command = Command {
        command: Some(Line::Program(argv)),
        args: Vec::new(),
        ..code.command
    };
    run(&app, &patience, &running, command).await
}
