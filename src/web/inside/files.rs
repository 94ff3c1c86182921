//! Files of a sandbox: read, written, listed, moved.

use axum::Json;
use axum::body::Body as HttpBody;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use belljar_link::client::Link;
use belljar_link::message::files::{FileInfo, FileKind, WriteOptions};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::command::directory;
use super::patience::Patience;
use super::transfer::{self, MAX_UPLOAD};
use super::{Running, Trouble};
use crate::web::App;
use crate::web::api::body::Body;
use crate::web::api::openapi::{Content, Id, Refusals, Troubles};
use crate::web::api::problem::{self, Problem};

/// Entries of a listing, if nothing else is asked for.
const DEFAULT_LIMIT: u32 = 1000;

/// Most of them.
const MAX_LIMIT: u32 = 10_000;

/// How deep a listing goes at most.
const MAX_DEPTH: u32 = 64;

/// A file, as it is shown.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = File)]
pub(in crate::web) struct Shown {
    name: String,
    path: String,
    /// `file`, `directory`, `symlink` or `other`.
    #[schema(value_type = String)]
    kind: FileKind,
    is_dir: bool,
    /// Bytes.
    size: u64,
    /// Permission bits, in octal digits.
    mode: String,
    /// ms since 1970.
    modified_ms: i64,
    /// Where a symlink points.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl From<FileInfo> for Shown {
    fn from(info: FileInfo) -> Self {
        Self {
            is_dir: info.kind == FileKind::Directory,
            name: info.name,
            path: info.path,
            kind: info.kind,
            size: info.size,
            mode: format!("{:04o}", info.mode),
            modified_ms: info.modified_ms,
            target: info.target,
        }
    }
}

/// Which file.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::web) struct PathQuery {
    /// Which.
    #[param(required, value_type = String)]
    path: Option<String>,
}

impl PathQuery {
    /// The path, against the sandbox's working directory.
    pub(in crate::web) fn of(&self, running: &Running) -> Result<String, Trouble> {
        path(running, self.path.as_deref())
    }
}

fn path(running: &Running, path: Option<&str>) -> Result<String, Trouble> {
    Ok(directory(&running.held, Some(given(path)?)))
}

/// The path that a query must have.
pub(in crate::web) fn given(path: Option<&str>) -> Result<&str, Trouble> {
    match path {
        None | Some("") => Err(Trouble::bad("path", "must be given")),
        // What is no UTF-8 was replaced when the query was read: it would name another file.
        Some(path) if path.contains(char::REPLACEMENT_CHARACTER) => {
            Err(Trouble::bad("path", "must be UTF-8"))
        }
        Some(path) => Ok(path),
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ReadQuery {
    /// Which.
    #[param(required, value_type = String)]
    path: Option<String>,
    /// First byte.
    #[serde(default)]
    offset: u64,
    /// Most bytes.
    length: Option<u64>,
}

/// Read a file
///
/// All of it, or a part by `offset` and `length` or by the header `Range`. Its type is guessed from its name.
#[utoipa::path(
    get, path = "/files", tag = "files", operation_id = "readFile",
    params(Id, ReadQuery,
        ("Range" = Option<String>, Header, description = "One range of bytes, as `bytes=0-99`")),
    responses(
        (status = 200, description = "The content", body = Content, content_type = "*/*"),
        (status = 206, description = "The range that was asked for", body = Content, content_type = "*/*"),
        (status = 416, description = "The file ends before that range", body = problem::Body,
            content_type = "application/problem+json"), Refusals, Troubles)
)]
pub(super) async fn read(
    State(app): State<App>,
    patience: Patience,
    running: Running,
    Query(query): Query<ReadQuery>,
    headers: HeaderMap,
) -> Result<Response, Trouble> {
    let path = path(&running, query.path.as_deref())?;
    let part = (query.offset, query.length);
    content(&app, &patience, &running.link, &path, part, &headers).await
}

/// A file's content as an answer: all of it, the `part` (first byte, most bytes), or the range that
/// the headers ask for.
pub(in crate::web) async fn content(
    app: &App,
    patience: &Patience,
    link: &Link,
    path: &str,
    part: (u64, Option<u64>),
    headers: &HeaderMap,
) -> Result<Response, Trouble> {
    let range = range(headers);
    let (offset, length) = match range {
        Some(Range::From(first, last)) => {
            (first, last.map(|last| (last - first).saturating_add(1)))
        }
        Some(Range::Last(count)) => {
            let size = link.stat(path, true).await?.size;
            (size.saturating_sub(count), Some(count))
        }
        None => part,
    };
    let (info, reader) = link.read_file(path, offset, length).await?;
    let mut response = transfer::download(app, patience, reader).into_response();
    let kind = mime_guess::from_path(&info.path).first_raw();
    let there = info.size.saturating_sub(offset);
    let sent = length.map_or(there, |length| length.min(there));
    if range.is_some() && info.size > 0 {
        if sent == 0 {
            let message = format!("The file has {} bytes.", info.size);
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            let mut refused = Problem::new(status, "invalid_range", message).into_response();
            set(
                &mut refused,
                header::CONTENT_RANGE,
                &format!("bytes */{}", info.size),
            );
            return Ok(refused);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let bytes = format!("bytes {offset}-{}/{}", offset + sent - 1, info.size);
        set(&mut response, header::CONTENT_RANGE, &bytes);
    }
    set(
        &mut response,
        header::CONTENT_TYPE,
        kind.unwrap_or("application/octet-stream"),
    );
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    // A page that a sandbox has written is data here, and never a page of this origin.
    set(&mut response, header::CONTENT_DISPOSITION, "attachment");
    set(&mut response, header::CONTENT_SECURITY_POLICY, "sandbox");
    // Files of /proc do not say how long they are.
    if info.size > 0 {
        set(&mut response, header::CONTENT_LENGTH, &sent.to_string());
    }
    Ok(response)
}

fn set(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// One range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Range {
    /// From the first to the last, or to the end.
    From(u64, Option<u64>),
    /// So many at the end.
    Last(u64),
}

/// The range that is asked for. Several, or one that makes no sense, count as none: the answer is
/// then the whole, which RFC 9110 allows.
fn range(headers: &HeaderMap) -> Option<Range> {
    let value = headers.get(header::RANGE)?.to_str().ok()?;
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", count) => Some(Range::Last(count.parse().ok()?)),
        (first, "") => Some(Range::From(first.parse().ok()?, None)),
        (first, last) => {
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some(Range::From(first, Some(last)))
        }
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WriteQuery {
    /// Which.
    #[param(required, value_type = String)]
    path: Option<String>,
    /// Octal digits.
    mode: Option<String>,
    /// Make the directories above it, which is so if absent.
    mkdirs: Option<bool>,
    /// Add to what is there.
    #[serde(default)]
    append: bool,
    /// Refuse if it exists.
    #[serde(default)]
    exclusive: bool,
}

/// Write a file
///
/// The body, whatever its type, is the content. Nothing is written unless all of it has come.
#[utoipa::path(
    put, path = "/files", tag = "files", operation_id = "writeFile",
    params(Id, WriteQuery),
    request_body(content = Content, content_type = "application/octet-stream"),
    responses((status = 204, description = "It was written"), Refusals, Troubles)
)]
pub(super) async fn write(
    patience: Patience,
    running: Running,
    Query(query): Query<WriteQuery>,
    headers: HeaderMap,
    body: HttpBody,
) -> Result<StatusCode, Trouble> {
    let path = path(&running, query.path.as_deref())?;
    let options = WriteOptions {
        mode: query.mode.as_deref().map(mode).transpose()?,
        make_dirs: query.mkdirs.unwrap_or(true),
        append: query.append,
        exclusive: query.exclusive,
    };
    transfer::check_length(&headers)?;
    let _holding = patience.hold();
    transfer::upload(&running.link, &path, options, body).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Permission bits, in octal digits.
fn mode(text: &str) -> Result<u32, Trouble> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777);
    mode.ok_or_else(|| Trouble::bad("mode", "must be octal digits, from 0 to 7777"))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveQuery {
    /// Which.
    #[param(required, value_type = String)]
    path: Option<String>,
    /// A directory with all that is in it, which is so if absent.
    recursive: Option<bool>,
}

/// Remove a file or directory
#[utoipa::path(
    delete, path = "/files", tag = "files", operation_id = "removeFile",
    params(Id, RemoveQuery),
    responses((status = 204, description = "It was removed"), Refusals, Troubles)
)]
pub(super) async fn remove(
    running: Running,
    Query(query): Query<RemoveQuery>,
) -> Result<StatusCode, Trouble> {
    let path = path(&running, query.path.as_deref())?;
    let recursive = query.recursive.unwrap_or(true);
    running.link.remove(&path, recursive).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// A directory; the working directory if absent.
    path: Option<String>,
    /// How deep; 1, if absent, is the directory itself.
    #[param(minimum = 1, maximum = 64)]
    depth: Option<u32>,
    /// As deep as can be.
    recursive: Option<bool>,
    /// At most so many; 1000 if absent.
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<u32>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct GlobQuery {
    /// The directory to look below; the working directory if absent.
    path: Option<String>,
    /// What to look for, as `**/*.py`.
    #[param(required, value_type = String)]
    pattern: Option<String>,
    /// At most so many; 1000 if absent.
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<u32>,
}

impl ListQuery {
    fn depth(&self) -> Result<u32, Trouble> {
        let deepest = self.recursive.unwrap_or(false).then_some(MAX_DEPTH);
        let depth = self.depth.or(deepest).unwrap_or(1);
        if (1..=MAX_DEPTH).contains(&depth) {
            return Ok(depth);
        }
        Err(Trouble::bad(
            "depth",
            format!("must be from 1 to {MAX_DEPTH}"),
        ))
    }
}

/// How many entries are asked for.
fn limit(limit: Option<u32>) -> Result<u32, Trouble> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        return Ok(limit);
    }
    Err(Trouble::bad(
        "limit",
        format!("must be from 1 to {MAX_LIMIT}"),
    ))
}

/// Entries, and in a header whether there are more.
fn listed(listing: belljar_link::client::files::Listing) -> Response {
    let truncated = HeaderValue::from_static(if listing.truncated { "true" } else { "false" });
    let entries: Vec<Shown> = listing.entries.into_iter().map(Shown::from).collect();
    let mut response = Json(entries).into_response();
    response.headers_mut().insert("x-truncated", truncated);
    response
}

/// List a directory
///
/// The header `X-Truncated` is `true` if there are more than `limit`.
#[utoipa::path(
    get, path = "/files/list", tag = "files", operation_id = "listFiles",
    params(Id, ListQuery),
    responses((status = 200, description = "Entries", body = [Shown]), Refusals, Troubles)
)]
pub(super) async fn list(
    running: Running,
    Query(query): Query<ListQuery>,
) -> Result<Response, Trouble> {
    let (limit, depth) = (limit(query.limit)?, query.depth()?);
    let path = directory(&running.held, query.path.as_deref());
    Ok(listed(running.link.list(&path, depth, limit).await?))
}

/// Find files by a pattern
///
/// The header `X-Truncated` is `true` if there are more than `limit`.
#[utoipa::path(
    get, path = "/files/glob", tag = "files", operation_id = "findFiles",
    params(Id, GlobQuery),
    responses((status = 200, description = "Entries", body = [Shown]), Refusals, Troubles)
)]
pub(super) async fn glob(
    running: Running,
    Query(query): Query<GlobQuery>,
) -> Result<Response, Trouble> {
    let limit = limit(query.limit)?;
    let pattern = query.pattern.as_deref().filter(|p| !p.is_empty());
    let pattern = pattern.ok_or_else(|| Trouble::bad("pattern", "must be given"))?;
    let path = directory(&running.held, query.path.as_deref());
    Ok(listed(running.link.glob(&path, pattern, limit).await?))
}

/// Show a file or directory
#[utoipa::path(
    get, path = "/files/stat", tag = "files", operation_id = "showFile",
    params(Id, PathQuery),
    responses((status = 200, description = "What it is; of a symlink, the link itself", body = Shown), Refusals, Troubles)
)]
pub(super) async fn stat(
    running: Running,
    Query(query): Query<PathQuery>,
) -> Result<Json<Shown>, Trouble> {
    let path = query.of(&running)?;
    Ok(Json(running.link.stat(&path, false).await?.into()))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct MakeDirQuery {
    /// Which.
    #[param(required, value_type = String)]
    path: Option<String>,
    /// Also the directories above it, and no error if it exists; so if absent.
    parents: Option<bool>,
    /// Octal digits.
    mode: Option<String>,
}

/// Make a directory
#[utoipa::path(
    post, path = "/files/mkdir", tag = "files", operation_id = "makeDirectory",
    params(Id, MakeDirQuery),
    responses((status = 204, description = "It is there"), Refusals, Troubles)
)]
pub(super) async fn make_dir(
    running: Running,
    Query(query): Query<MakeDirQuery>,
) -> Result<StatusCode, Trouble> {
    let path = path(&running, query.path.as_deref())?;
    let mode = query.mode.as_deref().map(mode).transpose()?;
    let parents = query.parents.unwrap_or(true);
    running.link.make_dir(&path, parents, mode).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What to move.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(super) struct Move {
    #[schema(required, value_type = String)]
    from: Option<String>,
    #[schema(required, value_type = String)]
    to: Option<String>,
}

/// Move a file or directory
#[utoipa::path(
    post, path = "/files/move", tag = "files", operation_id = "moveFile",
    params(Id),
    request_body = Move,
    responses((status = 204, description = "It was moved"), Refusals, Troubles)
)]
pub(super) async fn rename(
    running: Running,
    Body(body): Body<Move>,
) -> Result<StatusCode, Trouble> {
    let named = |field, value: Option<String>| match value {
        None => Err(Trouble::bad(field, "must be given")),
        Some(path) if path.is_empty() => Err(Trouble::bad(field, "must not be empty")),
        Some(path) => Ok(directory(&running.held, Some(&path))),
    };
    let (from, to) = (named("from", body.from)?, named("to", body.to)?);
    running.link.rename(&from, &to).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Read a file or directory as a tar archive
#[utoipa::path(
    get, path = "/files/archive", tag = "files", operation_id = "readArchive",
    params(Id, PathQuery),
    responses(
        (status = 200, description = "The archive", body = Content, content_type = "application/x-tar"), Refusals, Troubles)
)]
pub(super) async fn pack(
    State(app): State<App>,
    patience: Patience,
    running: Running,
    Query(query): Query<PathQuery>,
) -> Result<Response, Trouble> {
    let path = query.of(&running)?;
    let reader = running.link.tar_down(&path).await?;
    let mut response = transfer::download(&app, &patience, reader).into_response();
    set(&mut response, header::CONTENT_TYPE, "application/x-tar");
    set(&mut response, header::CONTENT_DISPOSITION, "attachment");
    Ok(response)
}

/// What was unpacked.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Unpacked {
    entries: u64,
}

/// Unpack a tar archive into a directory
#[utoipa::path(
    put, path = "/files/archive", tag = "files", operation_id = "unpackArchive",
    params(Id, PathQuery),
    request_body(content = Content, content_type = "application/x-tar"),
    responses((status = 200, description = "So many entries", body = Unpacked), Refusals, Troubles)
)]
pub(super) async fn unpack(
    patience: Patience,
    running: Running,
    Query(query): Query<PathQuery>,
    headers: HeaderMap,
    body: HttpBody,
) -> Result<Json<Unpacked>, Trouble> {
    let path = query.of(&running)?;
    transfer::check_length(&headers)?;
    let _holding = patience.hold();
    let mut writer = running.link.tar_up(&path).await?;
    let mut body = transfer::Incoming::new(body, MAX_UPLOAD);
    while let Some(bytes) = body.next().await? {
        writer.write(bytes).await?;
    }
    let entries = writer.finish().await?;
    Ok(Json(Unpacked { entries }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_nonsense_is_none() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::from_static(value));
            range(&headers)
        };
        assert_eq!(read("bytes=0-9"), Some(Range::From(0, Some(9))));
        assert_eq!(read("bytes=5-"), Some(Range::From(5, None)));
        assert_eq!(read("bytes=-5"), Some(Range::Last(5)));
        for none in [
            "bytes=9-0",
            "bytes=0-1,3-4",
            "lines=1-2",
            "bytes=a-b",
            "bytes=-",
        ] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode("0755").unwrap(), 0o755);
        for bad in ["", "8", "10000", "-1", "0x1ff"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }
}
