//! The dialect of Kubebox: sessions by names that clients choose, commands and files by HTTP, output by
//! Socket.IO.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use belljar_link::client::LinkError;
use belljar_link::client::process::ProcessEvent;
use belljar_link::message::code;
use belljar_link::message::files::{FileKind, WriteOptions};
use bytes::Bytes;
use regex::RegexSet;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::api::auth::Asking;
use super::api::body::{Body, parse};
use super::inside::Trouble;
use super::inside::command::{Command, Line, Mode, directory};
use super::inside::outcome::{self, Exit};
use super::inside::patience::Patience;
use super::inside::transfer::{self, Incoming};
use super::{App, bounded_body};

mod packet;

mod session;

mod socket;

use session::Session;

/// Longest text of a file that is written by JSON, bytes. What is larger is uploaded.
const MAX_BODY: u64 = 8 << 20;

/// Most of a file that is read into JSON, bytes.
const MAX_CONTENT: u64 = 8 << 20;

/// How long a command may take that is waited for, seconds, if nothing is said. Its client gives up
/// then.
const WAIT: f64 = 300.0;

/// How long a killed command may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// SIGKILL.
const KILL: i32 = 9;

/// Files that are listed at most, and how deep below the session's directory.
const MAX_FILES: u32 = 10_000;
const MAX_DEPTH: u32 = 64;

/// Patterns that are looked for at once, and memory for them, bytes.
const MAX_PATTERNS: usize = 32;
const MAX_PATTERN_MEMORY: usize = 1 << 20;

/// At the root alone, where its client looks.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/initialize", post(initialize))
        .route("/run_command", post(run_command))
        .route("/kill_command", post(kill_command))
        .route("/make_dirs", post(make_dirs))
        .route("/delete_file", post(delete_file))
        .route("/file_exists", get(file_exists))
        .route("/read_file", get(read_file))
        .route("/get_file", get(get_file))
        .route("/get_all_file_paths", get(get_all_file_paths))
        .route("/socket.io/", get(socket::connect))
        .layer(from_fn(bounded_body))
        .route("/write_file", post(write_file))
}

/// A process's number. Its client sends it as it has got it, or as text.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum ProcessId {
    Number(u32),
    Text(String),
}

impl ProcessId {
    fn given(id: Option<Self>) -> Result<u32, Trouble> {
        let number = match id {
            Some(Self::Number(number)) => Some(number),
            Some(Self::Text(text)) => text.parse().ok(),
            None => None,
        };
        number.ok_or_else(|| Trouble::bad("process_id", "must be a process's number"))
    }
}

/// What every request has, and what some have.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Request {
    session_id: String,
    path: Option<String>,
    command: Option<Line>,
    mode: Option<Mode>,
    /// Seconds.
    timeout: Option<f64>,
    process_id: Option<ProcessId>,
    file_path: Option<String>,
    content: Option<String>,
    make_dirs: bool,
}

impl Request {
    /// The same of a query, and the patterns in it.
    fn of(query: Option<String>) -> (Self, Vec<String>) {
        let mut request = Self::default();
        let mut patterns = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "session_id" => request.session_id = value.into_owned(),
                "file_path" => request.file_path = Some(value.into_owned()),
                "regexes" => patterns.push(value.into_owned()),
                _ => {}
            }
        }
        (request, patterns)
    }

    async fn session(&self, app: &App, Asking(caller): &Asking) -> Result<Session, Trouble> {
        Session::find(app, caller, &self.session_id).await
    }

    fn file(&self, session: &Session) -> Result<String, Trouble> {
        match self.file_path.as_deref() {
            None | Some("") => Err(Trouble::bad("file_path", "must be given")),
            path => Ok(directory(&session.held, path)),
        }
    }
}

fn done() -> Response {
    Json(json!({"status": "success"})).into_response()
}

async fn initialize(
    State(app): State<App>,
    asking: Asking,
    Body(request): Body<Request>,
) -> Result<Response, Trouble> {
    let (name, path) = (&request.session_id, request.path.as_deref());
    let session = Session::initialize(&app, &asking.0, name, path).await?;
    let body = json!({
        "session_id": name,
        "path": session.held.cwd,
        "sandbox_id": session.held.id.as_str(),
        "status": "initialized",
    });
    Ok(Json(body).into_response())
}

async fn run_command(
    State(app): State<App>,
    asking: Asking,
    patience: Patience,
    Body(request): Body<Request>,
) -> Result<Response, Trouble> {
    let session = request.session(&app, &asking).await?;
    let wait = request.mode == Some(Mode::Wait);
    let command = Command {
        command: request.command.clone(),
        cwd: request.path.clone(),
        timeout: request.timeout.or(wait.then_some(WAIT)),
        // A stream is asked for on another connection: until then it is kept as a background process's.
        mode: if wait { Mode::Wait } else { Mode::Background },
        ..Command::default()
    };
    let start = command.start(&session.held)?;
    if !wait {
        let process = session.link.start_process(start).await?;
        return Ok(Json(json!({"process_id": process})).into_response());
    }
    let _holding = patience.hold();
    let (_, output, _) = session.link.exec(start).await?;
    let outcome = outcome::wait(output, None).await?;
    let body = json!({
        "stdout": outcome.stdout,
        "stderr": outcome.stderr,
        "exit_code": outcome.exit.exit_code,
        "finished": !outcome.exit.timed_out,
    });
    Ok(Json(body).into_response())
}

async fn kill_command(
    State(app): State<App>,
    asking: Asking,
    Body(request): Body<Request>,
) -> Result<Response, Trouble> {
    let session = request.session(&app, &asking).await?;
    let process = ProcessId::given(request.process_id)?;
    match session.link.signal_process(process, KILL).await {
        Err(LinkError::Refused(refusal)) if refusal.code == code::NO_PROCESS => {
            return Ok(Json(json!({"status": "not found"})).into_response());
        }
        signalled => signalled?,
    }
    let mut output = session.link.follow_process(process, Some(u64::MAX)).await?;
    let gone = async {
        while let Some(event) = output.next().await {
            if let ProcessEvent::Exit(exit) = event? {
                return Ok(Some(Exit::from(&exit).exit_code));
            }
        }
        Ok::<_, LinkError>(None)
    };
    let gone = timeout(KILL_DEADLINE, gone).await;
    let exit_code = gone.map_err(|_| LinkError::Deadline)??;
    let body = json!({"status": "killed", "exit_code": exit_code});
    Ok(Json(body).into_response())
}

/// The body may be larger than others, so it is read here.
async fn write_file(
    State(app): State<App>,
    asking: Asking,
    headers: HeaderMap,
    body: HttpBody,
) -> Result<Response, Trouble> {
    let mut incoming = Incoming::new(body, MAX_BODY);
    let mut bytes = Vec::new();
    while let Some(more) = incoming.next().await? {
        bytes.extend_from_slice(&more);
    }
    let mut request: Request = parse(&headers, &bytes).map_err(Trouble::Asking)?;
    drop(bytes);
    let session = request.session(&app, &asking).await?;
    let path = request.file(&session)?;
    let content = request.content.take();
    let content = content.ok_or_else(|| Trouble::bad("content", "must be given"))?;
    let options = WriteOptions {
        make_dirs: request.make_dirs,
        ..WriteOptions::default()
    };
    let mut writer = session.link.write_file(&path, options).await?;
    writer.write(Bytes::from(content)).await?;
    writer.finish().await?;
    Ok(done())
}

async fn make_dirs(
    State(app): State<App>,
    asking: Asking,
    Body(request): Body<Request>,
) -> Result<Response, Trouble> {
    let session = request.session(&app, &asking).await?;
    let path = request.file(&session)?;
    session.link.make_dir(&path, true, None).await?;
    Ok(done())
}

async fn delete_file(
    State(app): State<App>,
    asking: Asking,
    Body(request): Body<Request>,
) -> Result<Response, Trouble> {
    let session = request.session(&app, &asking).await?;
    let path = request.file(&session)?;
    session.link.remove(&path, true).await?;
    Ok(done())
}

/// No is 404: its client takes nothing else for it.
async fn file_exists(
    State(app): State<App>,
    asking: Asking,
    RawQuery(query): RawQuery,
) -> Result<Response, Trouble> {
    let (request, _) = Request::of(query);
    let session = request.session(&app, &asking).await?;
    let path = request.file(&session)?;
    match session.link.stat(&path, true).await {
        Ok(_) => Ok(Json(json!({"exists": true})).into_response()),
        Err(LinkError::Refused(refusal)) if refusal.code == code::NOT_FOUND => {
            let body = Json(json!({"exists": false}));
            Ok((StatusCode::NOT_FOUND, body).into_response())
        }
        Err(error) => Err(error.into()),
    }
}

async fn read_file(
    State(app): State<App>,
    asking: Asking,
    RawQuery(query): RawQuery,
) -> Result<Response, Trouble> {
    let (request, _) = Request::of(query);
    let session = request.session(&app, &asking).await?;
    let path = request.file(&session)?;
    let (info, mut reader) = session.link.read_file(&path, 0, Some(MAX_CONTENT)).await?;
    if info.size > MAX_CONTENT {
        return Err(Trouble::TooLarge(MAX_CONTENT));
    }
    let mut bytes = Vec::new();
    while let Some(more) = reader.next().await {
        bytes.extend_from_slice(&more?);
    }
    let content = String::from_utf8_lossy(&bytes);
    Ok(Json(json!({"content": content})).into_response())
}

/// The file's bytes as they are.
async fn get_file(
    State(app): State<App>,
    asking: Asking,
    patience: Patience,
    RawQuery(query): RawQuery,
) -> Result<Response, Trouble> {
    let (request, _) = Request::of(query);
    let session = request.session(&app, &asking).await?;
    let path = request.file(&session)?;
    let (_, reader) = session.link.read_file(&path, 0, None).await?;
    let headers = [
        ("content-type", "application/octet-stream"),
        // A page that a sandbox has written is data here, and never a page of this origin.
        ("content-disposition", "attachment"),
        ("content-security-policy", "sandbox"),
    ];
    let body = transfer::download(&app, &patience, reader);
    Ok((headers, body).into_response())
}

/// Paths of all files below the session's directory; with patterns, of those that match one of them.
async fn get_all_file_paths(
    State(app): State<App>,
    asking: Asking,
    RawQuery(query): RawQuery,
) -> Result<Response, Trouble> {
    let (request, patterns) = Request::of(query);
    let session = request.session(&app, &asking).await?;
    let wanted = wanted(&patterns)?;
    let root = &session.held.cwd;
    let listing = session.link.list(root, MAX_DEPTH, MAX_FILES).await?;
    let below = format!("{}/", root.trim_end_matches('/'));
    let files = listing
        .entries
        .iter()
        .filter(|e| e.kind != FileKind::Directory);
    let paths = files.map(|entry| entry.path.strip_prefix(&below).unwrap_or(&entry.path));
    let paths: BTreeSet<&str> = paths
        .filter(|path| patterns.is_empty() || wanted.is_match(path))
        .collect();
    Ok(Json(paths).into_response())
}

/// Patterns whose matching takes no longer than the paths are long.
fn wanted(patterns: &[String]) -> Result<RegexSet, Trouble> {
    if patterns.len() > MAX_PATTERNS {
        return Err(Trouble::bad(
            "regexes",
            format!("must be at most {MAX_PATTERNS}"),
        ));
    }
    let set = regex::RegexSetBuilder::new(patterns)
        .size_limit(MAX_PATTERN_MEMORY)
        .dfa_size_limit(MAX_PATTERN_MEMORY)
        .build();
    // What regex says of a mistake is many lines with a drawing.
    set.map_err(|_| {
        Trouble::bad(
            "regexes",
            "must be regular expressions of a reasonable size",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read() {
        let query = "session_id=a%20b&file_path=x/y&regexes=%5C.py%24&regexes=c";
        let (request, patterns) = Request::of(Some(query.into()));
        assert_eq!(request.session_id, "a b");
        assert_eq!(request.file_path.as_deref(), Some("x/y"));
        let wanted = wanted(&patterns).unwrap();
        assert!(wanted.is_match("a.py") && wanted.is_match("c") && !wanted.is_match("a.rs"));
    }

    #[test]
    fn patterns_are_bounded() {
        for bad in ["(", "(a{1000}){1000}"] {
            assert!(wanted(&[bad.into()]).is_err(), "{bad}");
        }
        assert!(wanted(&vec![String::new(); MAX_PATTERNS + 1]).is_err());
    }
}
