//! Processes of a sandbox: what runs, what it says, and its end.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use belljar_link::client::process::ProcessEvent;
use belljar_link::message::process::ProcessInfo;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};

use super::commands::{self, Said, Telling};
use super::outcome::{Ended, Exit, MAX_OUTPUT, signal_number};
use super::patience::Patience;
use super::{Running, Trouble};
use crate::web::App;
use crate::web::api::body::Body;
use crate::web::api::openapi::{Content, Id, Refusals, ServerSentEvent, Troubles};

/// Events of a stream that may wait for their reader.
const WAITING: usize = 8;

/// SIGKILL.
const KILL: i32 = 9;

/// A process, as it is shown.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Process)]
pub(super) struct Shown {
    process: u32,
    pid: u32,
    command: String,
    background: bool,
    running: bool,
    started_ms_ago: u64,
    /// Offset of the oldest byte of output still held.
    output_start: u64,
    /// Offset after the newest.
    output_end: u64,
    #[serde(flatten)]
    #[schema(value_type = Ended)]
    exit: Option<Exit>,
}

impl From<ProcessInfo> for Shown {
    fn from(info: ProcessInfo) -> Self {
        Self {
            process: info.process,
            pid: info.pid,
            command: info.command,
            background: info.background,
            running: info.exit.is_none(),
            started_ms_ago: info.started_ms_ago,
            output_start: info.start,
            output_end: info.end,
            exit: info.exit.as_ref().map(Exit::from),
        }
    }
}

/// List processes
///
/// Those that run, and those of the background that have ended.
#[utoipa::path(
    get, path = "/processes", tag = "processes", operation_id = "listProcesses",
    params(Id),
    responses((status = 200, description = "Processes", body = [Shown]), Refusals, Troubles)
)]
pub(super) async fn list(running: Running) -> Result<Json<Vec<Shown>>, Trouble> {
    let processes = running.link.processes().await?;
    Ok(Json(processes.into_iter().map(Shown::from).collect()))
}

/// Show a process
#[utoipa::path(
    get, path = "/processes/{process}", tag = "processes", operation_id = "showProcess",
    params(Id, ("process" = u32, Path, description = "Its number")),
    responses((status = 200, description = "The process", body = Shown), Refusals, Troubles)
)]
pub(super) async fn show(
    running: Running,
    Path((_, process)): Path<(String, u32)>,
) -> Result<Json<Shown>, Trouble> {
    Ok(Json(running.link.process(process).await?.into()))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct OutputQuery {
    /// Offset to go on from; the oldest that is held if absent.
    from: Option<u64>,
    /// As server-sent events, to the end of the process.
    #[serde(default)]
    follow: bool,
}

/// What a process has said so far.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Output {
    stdout: String,
    stderr: String,
    /// Where it begins: later than asked for if that is not held any more.
    from: u64,
    /// Where to go on.
    offset: u64,
    running: bool,
    #[serde(flatten)]
    #[schema(value_type = Ended)]
    exit: Option<Exit>,
}

/// Read what a process has said
///
/// Only of a process in the background: the newest 256 KiB are held. With `follow=true` it comes as
/// server-sent events, as for a command, to the end of the process.
#[utoipa::path(
    get, path = "/processes/{process}/output", tag = "processes", operation_id = "readOutput",
    params(Id, ("process" = u32, Path, description = "Its number"), OutputQuery),
    responses(
        (status = 200, description = "What it has said so far, or what it says on the way",
            content((Output = "application/json"), (ServerSentEvent = "text/event-stream"))), Refusals, Troubles)
)]
pub(super) async fn output(
    State(app): State<App>,
    patience: Patience,
    running: Running,
    Path((_, process)): Path<(String, u32)>,
    Query(query): Query<OutputQuery>,
) -> Result<Response, Trouble> {
    if query.follow {
        let output = running.link.follow_process(process, query.from).await?;
        let (events, reader) = mpsc::channel(WAITING);
        let holding = patience.hold();
        app.tasks
            .spawn(commands::stream(process, output, None, events, holding));
        return Ok(commands::sse(reader).into_response());
    }
    let info = running.link.process(process).await?;
    // Only a background process has output that anybody may read.
    let from = query.from.unwrap_or(info.start).clamp(info.start, info.end);
    let mut followed = running.link.follow_process(process, Some(from)).await?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut begin = from;
    while followed.offset() < info.end && stdout.len() + stderr.len() < MAX_OUTPUT {
        match followed.next().await {
            Some(Ok(ProcessEvent::Stdout(bytes))) => stdout.extend_from_slice(&bytes),
            Some(Ok(ProcessEvent::Stderr(bytes))) => stderr.extend_from_slice(&bytes),
            Some(Ok(ProcessEvent::Gap { to, .. })) => {
                // What came before it is not followed by what comes after it.
                (stdout, stderr, begin) = (Vec::new(), Vec::new(), to);
            }
            Some(Ok(ProcessEvent::Exit(_))) | None => break,
            Some(Err(error)) => return Err(error.into()),
        }
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let output = Output {
        stdout: text(&stdout),
        stderr: text(&stderr),
        from: begin,
        offset: followed.offset(),
        running: info.exit.is_none(),
        exit: info.exit.as_ref().map(Exit::from),
    };
    Ok(Json(output).into_response())
}

/// `SIGINT`, `int` or 2.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
enum Signal {
    Name(String),
    Number(i32),
}

/// What to send.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = SendSignal)]
pub(super) struct SignalBody {
    #[schema(required, value_type = Signal)]
    signal: Option<Signal>,
}

/// Send a signal to a process and those it has started
#[utoipa::path(
    post, path = "/processes/{process}/signal", tag = "processes", operation_id = "signalProcess",
    params(Id, ("process" = u32, Path, description = "Its number")),
    request_body = SignalBody,
    responses((status = 204, description = "It was sent"), Refusals, Troubles)
)]
pub(super) async fn signal(
    running: Running,
    Path((_, process)): Path<(String, u32)>,
    Body(body): Body<SignalBody>,
) -> Result<StatusCode, Trouble> {
    let number = match &body.signal {
        Some(Signal::Name(name)) => signal_number(name),
        Some(Signal::Number(number)) => signal_number(&number.to_string()),
        None => None,
    };
    let number = number.ok_or_else(|| {
        Trouble::bad(
            "signal",
            "must be a signal's name, as SIGTERM, or a number from 1 to 64",
        )
    })?;
    running.link.signal_process(process, number).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct InputQuery {
    /// That was all: the program reads the end.
    #[serde(default)]
    eof: bool,
}

/// Write to a process
///
/// One that was started with `stdin: true`. Answered when the sandbox has taken it.
#[utoipa::path(
    post, path = "/processes/{process}/stdin", tag = "processes", operation_id = "writeInput",
    params(Id, ("process" = u32, Path, description = "Its number"), InputQuery),
    request_body(content = Content, content_type = "application/octet-stream"),
    responses((status = 204, description = "It was written"), Refusals, Troubles)
)]
pub(super) async fn stdin(
    running: Running,
    Path((_, process)): Path<(String, u32)>,
    Query(query): Query<InputQuery>,
    bytes: Bytes,
) -> Result<StatusCode, Trouble> {
    let mut input = running.link.process_input(process).await?;
    input.write(bytes).await?;
    if query.eof {
        input.close().await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// End a process, if it runs
#[utoipa::path(
    delete, path = "/processes/{process}", tag = "processes", operation_id = "endProcess",
    params(Id, ("process" = u32, Path, description = "Its number")),
    responses((status = 204, description = "It has been told to end"), Refusals, Troubles)
)]
pub(super) async fn end(
    running: Running,
    Path((_, process)): Path<(String, u32)>,
) -> Result<StatusCode, Trouble> {
    if running.link.process(process).await?.exit.is_none() {
        running.link.signal_process(process, KILL).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Read the newest output of all that runs in the background, as text
#[utoipa::path(
    get, path = "/logs", tag = "processes", operation_id = "readLogs",
    params(Id),
    responses(
        (status = 200, description = "Both streams, at most 1 MiB", body = String, content_type = "text/plain"), Refusals, Troubles)
)]
pub(super) async fn logs(running: Running) -> Result<String, Trouble> {
    let mut logs = String::new();
    for info in running.link.processes().await? {
        if !info.background || logs.len() >= MAX_OUTPUT {
            continue;
        }
        let mut output = running.link.follow_process(info.process, None).await?;
        let mut telling = Telling::default();
        while output.offset() < info.end {
            let Some(Ok(event)) = output.next().await else {
                break;
            };
            for said in telling.of(event, output.offset()) {
                if let Said::Stdout(piece) | Said::Stderr(piece) = said {
                    logs.push_str(piece.text());
                }
            }
        }
    }
    Ok(logs)
}
