//! Terminals that programs open beside each other in a sandbox.
//!
//! A terminal lives on without anybody at it, and its newest 256 KiB of output with it: whoever comes
//! is shown those first. Any number may be at one terminal, and all may type. The last to come sets the
//! pace: its program waits while that one does not read. Whoever is slower than that, and falls behind
//! by more than is kept, is let go with the close code 4001: it has lost nothing that it was shown, and
//! may come anew. No byte is ever left out in silence.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use belljar_link::client::{
    Link, LinkError, Output, TerminalControl, TerminalInput, TerminalOutput,
};
use belljar_link::message::{
    Attach, HISTORY_BYTES, OpenTerminal, Size, TerminalCommand, TerminalEvent, TerminalInfo,
};
use prometheus_client::metrics::counter::Counter;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::command::{Command, Line};
use super::{Running, Trouble};
use crate::fleet::Held;
use crate::web::App;
use crate::web::api::body::Body;
use crate::web::api::openapi::{Id, Refusals, Troubles};
use crate::web::api::problem;
use crate::web::protocol::{self, CLOSE_TAKEN_OVER, millis};
use crate::web::websocket::{self, CLOSE_DEADLINE, End, Receiver, Sender};

/// After the connection that set the pace is lost, how long the program still waits for one that
/// comes back.
const HOLD: Duration = Duration::from_secs(15);

/// How long a terminal may take to take a size.
const RESIZE_DEADLINE: Duration = Duration::from_secs(10);

/// What a page offers beside its key ([`crate::web::api::auth`]), so that there is something to take.
const SUBPROTOCOL: &str = "belljar.pty";

/// For an image that may have no other shell.
pub(in crate::web) const ANY_SHELL: &str = "command -v bash >/dev/null && exec bash -l; exec sh -l";

/// Below `/sandboxes/{id}`.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(attach, close))
        .routes(routes!(resize))
}

/// What a program asks for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = NewTerminal)]
struct Create {
    cols: Option<u32>,
    rows: Option<u32>,
    /// What runs in it; a shell if absent. `cmd` is the same.
    #[serde(alias = "cmd")]
    command: Option<Line>,
    /// Arguments; the command is then a program and not a line.
    #[serde(default)]
    args: Vec<String>,
    /// A program without arguments.
    shell: Option<String>,
    /// Working directory; the sandbox's own if absent.
    cwd: Option<String>,
    /// Added to the sandbox's environment; `envs` is the same.
    #[serde(alias = "envs")]
    env: Option<BTreeMap<String, String>>,
}

/// A terminal's names, in every client's spelling.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TerminalNames)]
struct Created {
    id: String,
    #[serde(rename = "sessionID")]
    session: String,
    #[serde(rename = "sandboxID")]
    sandbox: String,
    sandbox_id: String,
}

impl Created {
    fn of(held: &Held, terminal: u32) -> Self {
        Self {
            id: terminal.to_string(),
            session: terminal.to_string(),
            sandbox: held.id.to_string(),
            sandbox_id: held.id.to_string(),
        }
    }
}

/// A terminal, as it is shown.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Terminal)]
struct Shown {
    #[serde(flatten)]
    names: Created,
    cols: u16,
    rows: u16,
    running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
}

impl Shown {
    fn of(held: &Held, info: TerminalInfo) -> Self {
        let running = info.exit.is_none();
        let (exit_code, signal) = info.exit.map_or((None, None), |e| (e.code, e.signal));
        Self {
            names: Created::of(held, info.terminal),
            cols: info.size.cols,
            rows: info.size.rows,
            running,
            exit_code,
            signal,
        }
    }
}

/// Columns and rows, in a query or a body.
#[derive(Debug, Default, Clone, Copy, Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
struct Dimensions {
    cols: Option<u32>,
    rows: Option<u32>,
}

impl Dimensions {
    /// Both, clamped.
    fn size(self) -> Option<Size> {
        Some(protocol::size(self.cols?, self.rows?))
    }
}

/// The terminal that a path names; a name that is none's is that of no terminal.
fn named(pty: &str) -> u32 {
    pty.parse().unwrap_or(0)
}

/// Open a terminal
///
/// It lives until its program ends or it is closed, with or without anybody at it.
#[utoipa::path(
    post, path = "/pty", tag = "terminals", operation_id = "openTerminal",
    params(Id),
    request_body = Create,
    responses((status = 201, description = "It is open", body = Created), Refusals, Troubles)
)]
async fn create(running: Running, Body(create): Body<Create>) -> Result<Response, Trouble> {
    let open = order(&running.held, create)?;
    let terminal = running.link.open_terminal(open).await?;
    let created = Created::of(&running.held, terminal);
    Ok((StatusCode::CREATED, Json(created)).into_response())
}

/// What to open.
fn order(held: &Held, create: Create) -> Result<OpenTerminal, Trouble> {
    let dimensions = Dimensions {
        cols: create.cols,
        rows: create.rows,
    };
    let shell = create.shell.map(|shell| Line::Program(vec![shell]));
    let line = create.command.or(shell);
    let command = Command {
        command: Some(line.unwrap_or_else(|| Line::Shell(ANY_SHELL.into()))),
        args: create.args,
        env: create.env,
        cwd: create.cwd,
        ..Command::default()
    };
    open(&command, held, dimensions.size().unwrap_or_default())
}

/// Checked as any command is.
pub(in crate::web) fn open(
    command: &Command,
    held: &Held,
    size: Size,
) -> Result<OpenTerminal, Trouble> {
    let start = command.start(held)?;
    Ok(OpenTerminal {
        command: start.command,
        env: start.env,
        cwd: start.cwd,
        size,
    })
}

/// List terminals
#[utoipa::path(
    get, path = "/pty", tag = "terminals", operation_id = "listTerminals",
    params(Id),
    responses((status = 200, description = "Terminals", body = [Shown]), Refusals, Troubles)
)]
async fn list(running: Running) -> Result<Json<Vec<Shown>>, Trouble> {
    let terminals = running.link.terminals().await?;
    let shown = terminals.into_iter();
    Ok(Json(
        shown.map(|info| Shown::of(&running.held, info)).collect(),
    ))
}

/// Close a terminal
#[utoipa::path(
    delete, path = "/pty/{pty}", tag = "terminals", operation_id = "closeTerminal",
    params(Id, ("pty" = String, Path, description = "Its id")),
    responses((status = 204, description = "It is closed"), Refusals, Troubles)
)]
async fn close(
    running: Running,
    Path((_, pty)): Path<(String, String)>,
) -> Result<StatusCode, Trouble> {
    running.link.close_terminal(named(&pty)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Give a terminal another size
///
/// Both are needed; they are clamped to 20 to 500 columns and 5 to 200 rows.
#[utoipa::path(
    post, path = "/pty/{pty}/resize", tag = "terminals", operation_id = "resizeTerminal",
    params(Id, ("pty" = String, Path, description = "Its id")),
    request_body = Dimensions,
    responses((status = 204, description = "It has that size"), Refusals, Troubles)
)]
async fn resize(
    running: Running,
    Path((_, pty)): Path<(String, String)>,
    Body(dimensions): Body<Dimensions>,
) -> Result<StatusCode, Trouble> {
    let size = dimensions
        .size()
        .ok_or_else(|| Trouble::bad("cols", "must be given, and rows"))?;
    let terminal = running.link.terminal(named(&pty));
    // From the future: it is not its output that is wanted.
    let (_, mut output, mut control) = terminal.watch(Some(u64::MAX)).await?;
    let resized = async {
        control.send(TerminalCommand::Resize(size)).await?;
        control.send(TerminalCommand::Ping { id: 0 }).await?;
        // What is said after it has been heard.
        while let Some(said) = output.next().await {
            if let Output::Event(TerminalEvent::Pong { .. } | TerminalEvent::Exit(_)) = said? {
                return Ok(());
            }
        }
        Err(LinkError::Closed)
    };
    let resized = timeout(RESIZE_DEADLINE, resized).await;
    resized.map_err(|_| LinkError::Deadline)??;
    Ok(StatusCode::NO_CONTENT)
}

/// Come to a terminal, by WebSocket
///
/// What is sent is typed; what is shown comes in binary messages, the newest 256 KiB first. A page, which
/// can set no header here, offers the subprotocols `belljar.pty` and `belljar.key.KEY`.
#[utoipa::path(
    get, path = "/pty/{pty}", tag = "terminals", operation_id = "attachTerminal",
    params(Id, ("pty" = String, Path, description = "Its id"), Dimensions),
    responses(
        (status = 101, description = "The WebSocket is open"),
        (status = 426, description = "This is for WebSockets", body = problem::Body,
            content_type = "application/problem+json"), Refusals, Troubles)
)]
async fn attach(
    State(app): State<App>,
    running: Running,
    Path((_, pty)): Path<(String, String)>,
    Query(dimensions): Query<Dimensions>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Trouble> {
    let size = dimensions.size();
    let visit = Visit::new(&app, &running.link, named(&pty), size).await?;
    let held = running.held;
    // Taken before the request ends, so that the gateway never sees a moment without either.
    let task = app.tasks.token();
    let upgrade = websocket::bounded(upgrade).protocols([SUBPROTOCOL]);
    let upgraded = upgrade.on_upgrade(async move |socket| {
        let (sender, receiver) = websocket::split(socket, &app.turns);
        visit.run(&held, sender, receiver).await;
        drop(task);
    });
    Ok(upgraded)
}

/// Somebody at a terminal.
pub(in crate::web) struct Visit {
    pub(in crate::web) offset: u64,
    pub(in crate::web) output: TerminalOutput,
    pub(in crate::web) control: TerminalControl,
    pub(in crate::web) input: TerminalInput,
    bytes_in: Counter,
    bytes_out: Counter,
}

impl Visit {
    /// Come to a terminal, and set the pace of its program from here on.
    pub(in crate::web) async fn new(
        app: &App,
        link: &Arc<Link>,
        terminal: u32,
        size: Option<Size>,
    ) -> Result<Self, Trouble> {
        let attach = Attach {
            terminal,
            from: None,
            window: Some(HISTORY_BYTES),
            hold_ms: millis(HOLD),
        };
        let (attached, output, mut control) = link.attach(attach).await?;
        if let Some(size) = size {
            control.send(TerminalCommand::Resize(size)).await?;
        }
        let input = link.input(terminal).await?;
        let (bytes_in, bytes_out) = app.metrics.byte_counters();
        Ok(Self {
            offset: attached.offset,
            output,
            control,
            input,
            bytes_in,
            bytes_out,
        })
    }

    async fn run(self, held: &Held, mut sender: Sender, mut receiver: Receiver) {
        let Self {
            offset,
            output,
            control,
            input,
            bytes_in,
            bytes_out,
        } = self;
        let mut show = Show {
            sender: &mut sender,
            offset,
            output,
            control,
            bytes_out,
        };
        let end = tokio::select! {
            end = type_in(&mut receiver, input, bytes_in) => end,
            end = show.run() => end,
            // They say so themselves, unless they are stuck with a client that reads nothing.
            () = async {
                held.ended().await;
                sleep(CLOSE_DEADLINE).await;
            } => End::Gone,
        };
        sender.finish(receiver, end).await;
    }
}

/// Type what is sent, until the client is gone.
async fn type_in(receiver: &mut Receiver, mut input: TerminalInput, counter: Counter) -> End {
    loop {
        let bytes = match receiver.next().await {
            Ok(Message::Text(text)) => Bytes::from(text),
            Ok(Message::Binary(bytes)) => bytes,
            Ok(_) => continue,
            Err(end) => return end,
        };
        if write(&mut input, &bytes).await.is_err() {
            // Whoever reads the terminal learns why.
            return pending().await;
        }
        counter.inc_by(bytes.len() as u64);
    }
}

/// Type all of it. Waits while the program does not read.
pub(in crate::web) async fn write(
    input: &mut TerminalInput,
    mut bytes: &[u8],
) -> Result<(), LinkError> {
    while !bytes.is_empty() {
        let typed = input.write(bytes).await?;
        bytes = &bytes[typed..];
    }
    Ok(())
}

struct Show<'a> {
    sender: &'a mut Sender,
    /// After the last byte that the socket has taken.
    offset: u64,
    output: TerminalOutput,
    control: TerminalControl,
    bytes_out: Counter,
}

impl Show<'_> {
    /// Show what comes out, until it ends or the client is gone.
    async fn run(&mut self) -> End {
        loop {
            let shown = tokio::select! {
                () = self.sender.ping_due() => self.sender.ping().await,
                output = self.output.next() => match output {
                    Some(Ok(Output::Bytes(bytes))) => self.bytes(bytes).await,
                    Some(Ok(Output::Event(event))) => after(&event),
                    Some(Err(_)) | None => Err(SANDBOX_ENDED),
                },
            };
            if let Err(end) = shown {
                return end;
            }
        }
    }

    async fn bytes(&mut self, bytes: Bytes) -> Result<(), End> {
        let length = bytes.len() as u64;
        self.sender.send(Message::Binary(bytes)).await?;
        self.bytes_out.inc_by(length);
        // The offset is the agent's word, which may be anything.
        self.offset = self.offset.saturating_add(length);
        // That the socket has taken it is all that such a client says.
        let ack = TerminalCommand::Ack {
            offset: self.offset,
        };
        self.control.send(ack).await.map_err(|_| SANDBOX_ENDED)?;
        Ok(())
    }
}

/// The link is lost: the sandbox has been stopped or has ended, or goes on without this gateway.
pub(in crate::web) const SANDBOX_ENDED: End = End::Close(1001, "sandbox_ended");

/// The end that a terminal's event brings, if it does.
pub(in crate::web) fn after(event: &TerminalEvent) -> Result<(), End> {
    match event {
        TerminalEvent::Pong { .. } => Ok(()),
        // Somebody else sets the pace, and this one has not kept up.
        TerminalEvent::Gap { .. } => Err(End::Close(CLOSE_TAKEN_OVER, "taken_over")),
        TerminalEvent::Exit(_) => Err(End::Close(1000, "exited")),
    }
}
