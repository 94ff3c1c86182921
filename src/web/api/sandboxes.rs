//! Sandboxes: made, found, moved in time, stopped, ended.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{OriginalUri, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Number;
use utoipa::ToSchema;

use super::super::App;
use super::super::protocol::{millis, timestamp};
use super::auth::{Asking, Mine};
use super::body::{Body, parse};
use super::idempotency::{self, Turn};
use super::openapi::Refusals;
use super::problem::{self, Problem};
use super::units::{Cpus, Mebibytes, Memory, Seconds};
use crate::fleet::{Caller, Held, Order, Reason, State as HeldState};

/// Sandboxes on one page of the list, unless it is asked for fewer or more, and at most.
const PAGE: (usize, usize) = (100, 1000);

/// What a sandbox may be created with; everything is optional, and older systems' names will do.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = NewSandbox)]
pub(in crate::web) struct CreateBody {
    /// A template's name, or that of an image; the default template if absent.
    template: Option<String>,
    /// The same as `template`.
    #[serde(rename = "templateID", alias = "templateId", alias = "template_id")]
    template_id: Option<String>,
    /// An image that the engine has.
    image: Option<String>,
    /// The sandbox ends after so long.
    timeout: Option<Seconds>,
    /// The same as `timeout`.
    ttl: Option<Seconds>,
    /// Environment of everything in it.
    env: Option<BTreeMap<String, String>>,
    /// The same as `env`.
    envs: Option<BTreeMap<String, String>>,
    /// What it is to be found by.
    metadata: Option<BTreeMap<String, String>>,
    /// Working directory; also the home, unless it lies below the template's.
    cwd: Option<String>,
    /// CPUs.
    cpus: Option<Cpus>,
    /// The same as `cpus`.
    cpu_count: Option<Cpus>,
    /// The same as `cpus`.
    cpu: Option<Cpus>,
    /// Memory in MiB.
    #[serde(rename = "memoryMB", alias = "memoryMb")]
    memory_mb: Option<Mebibytes>,
    /// Memory in bytes, or as `512Mi`.
    memory: Option<Memory>,
}

impl CreateBody {
    /// As an order of this caller's.
    pub(in crate::web) fn order(self, caller: Caller) -> Order {
        let mebibytes = self.memory_mb.map(|Mebibytes(bytes)| bytes);
        let cpus = self.cpus.or(self.cpu_count).or(self.cpu);
        Order {
            caller,
            template: self.template.or(self.template_id),
            image: self.image,
            cpus: cpus.map(|Cpus(cpus)| cpus),
            memory: self.memory.map(|Memory(bytes)| bytes).or(mebibytes),
            ttl: self.timeout.or(self.ttl).map(|Seconds(ttl)| ttl),
            env: self.env.or(self.envs).unwrap_or_default(),
            metadata: self.metadata.unwrap_or_default(),
            cwd: self.cwd,
        }
    }
}

/// A sandbox, by its own names and those of older systems.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Sandbox)]
pub(in crate::web) struct SandboxBody<'a> {
    id: &'a str,
    #[serde(rename = "sandboxID")]
    sandbox_id_of_opensandbox: &'a str,
    #[serde(rename = "sandbox_id")]
    sandbox_id_of_others: &'a str,
    template: &'a str,
    #[serde(rename = "templateID")]
    template_id: &'a str,
    image: &'a str,
    /// `starting`, `running`, `stopped` or `error`.
    status: &'static str,
    /// Why it does not run, if that was not its owner's wish.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    started_at: String,
    #[schema(format = DateTime)]
    expires_at: String,
    #[schema(format = DateTime)]
    end_at: String,
    /// Seconds left.
    timeout: u64,
    metadata: &'a BTreeMap<String, String>,
    cwd: &'a str,
    #[schema(value_type = f64)]
    cpus: Number,
    #[schema(value_type = f64)]
    cpu_count: Number,
    #[serde(rename = "memoryMB")]
    memory_mb: u64,
}

/// The status of a sandbox in this API: those that have ended are stopped, or died.
fn status(state: HeldState) -> &'static str {
    match state {
        HeldState::Ended(
            Reason::Timeout | Reason::Killed | Reason::Shutdown | Reason::HandedOver,
        ) => "stopped",
        HeldState::Ended(_) => "error",
        other => other.name(),
    }
}

/// `2`, not `2.0`, where older clients expect a whole number.
fn number(value: f64) -> Number {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = value as u32;
    if f64::from(whole).to_bits() == value.to_bits() {
        return whole.into();
    }
    Number::from_f64(value).unwrap_or_else(|| whole.into())
}

impl<'a> SandboxBody<'a> {
    pub(in crate::web) fn of(held: &'a Held) -> Self {
        let now = held.status();
        let left = now.expires_at.duration_since(SystemTime::now());
        let (id, created) = (held.id.as_str(), timestamp(held.created_at));
        let (end, cpus) = (timestamp(now.expires_at), number(held.cpus));
        Self {
            id,
            sandbox_id_of_opensandbox: id,
            sandbox_id_of_others: id,
            template: held.template(),
            template_id: held.template(),
            image: &held.image,
            status: status(now.state),
            reason: now.state.reason().map(Reason::name),
            started_at: created.clone(),
            created_at: created,
            end_at: end.clone(),
            expires_at: end,
            timeout: millis(left.unwrap_or_default()).div_ceil(1000),
            metadata: &held.metadata,
            cwd: &held.cwd,
            cpu_count: cpus.clone(),
            cpus,
            memory_mb: held.memory >> 20,
        }
    }

    fn write(&self) -> Bytes {
        serde_json::to_vec(self).expect("text and numbers").into()
    }
}

/// Create a sandbox
///
/// Answered when it runs. Nothing is kept for a client that leaves before, unless it comes with an
/// `Idempotency-Key`: then the same request is answered as the first one, for an hour.
#[utoipa::path(
    post, path = "/sandboxes", tag = "sandboxes", operation_id = "createSandbox",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters")),
    request_body = CreateBody,
    responses(
        (status = 201, description = "It runs", body = SandboxBody),
        (status = 422, description = "The Idempotency-Key came with another request before",
            body = problem::Body, content_type = "application/problem+json"),
        Refusals
    )
)]
pub(super) async fn create(
    State(app): State<App>,
    Asking(caller): Asking,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let order = parse::<CreateBody>(&headers, &bytes)?.order(caller);
    let (body, again) = match idempotency::key(&headers)? {
        None => (make(&app, order).await?, false),
        Some(key) => make_once(&app, order, key, &bytes).await?,
    };
    let kind = [(header::CONTENT_TYPE, "application/json")];
    let mut response = (StatusCode::CREATED, kind, body).into_response();
    if again {
        let replayed = HeaderValue::from_static("true");
        response
            .headers_mut()
            .insert("idempotent-replayed", replayed);
    }
    Ok(response)
}

async fn make(app: &App, order: Order) -> Result<Bytes, Problem> {
    let created = app.fleet.create(order).await;
    let held = created.map_err(|error| Problem::of_create(&error, &app.metrics))?;
    Ok(SandboxBody::of(&held).write())
}

/// The same, once for each key. Goes on if the client leaves: it may come back for the answer.
async fn make_once(
    app: &App,
    order: Order,
    key: String,
    body: &[u8],
) -> Result<(Bytes, bool), Problem> {
    let owner = order.caller.owner.clone();
    let (mut outcome, again) = match app.answers.turn(&owner, &key, body)? {
        Turn::Again(outcome) => (outcome, true),
        Turn::First(tell) => {
            let outcome = tell.subscribe();
            let app = app.clone();
            app.tasks.clone().spawn(async move {
                let made = make(&app, order).await;
                if made.is_err() {
                    app.answers.forget(&owner, &key);
                }
                tell.send_replace(Some(made));
            });
            (outcome, false)
        }
    };
    let made = outcome.wait_for(Option::is_some).await;
    let made = made.ok().and_then(|made| made.clone());
    let lost = || {
        let message = "Something went wrong. Please try again.";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    };
    Ok((made.ok_or_else(lost)??, again))
}

/// List sandboxes
///
/// Those that have not ended, the oldest first. `metadata.KEY=VALUE` finds those with this in their
/// metadata. If there are more, the header `Link` has the address of the next page.
#[utoipa::path(
    get, path = "/sandboxes", tag = "sandboxes", operation_id = "listSandboxes",
    params(
        ("state" = Option<String>, Query, description = "starting, running, stopped, error; several with commas"),
        ("template" = Option<String>, Query, description = "A template's name"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "At most so many; 100 if absent"),
        ("cursor" = Option<String>, Query, description = "As the address of the next page has it"),
    ),
    responses((status = 200, description = "Sandboxes", body = [SandboxBody]), Refusals)
)]
pub(super) async fn list(
    State(app): State<App>,
    Asking(caller): Asking,
    OriginalUri(uri): OriginalUri,
    query: Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|_| Problem::bad_request("The query is not valid."))?;
    let wanted = Wanted::of(&query)?;
    let mut found = app.fleet.list(&caller);
    found.retain(|held| wanted.fits(held));
    let more = found.len() > wanted.limit;
    found.truncate(wanted.limit);
    let bodies: Vec<_> = found.iter().map(|held| SandboxBody::of(held)).collect();
    let mut response = Json(bodies).into_response();
    if let Some(last) = found.last().filter(|_| more) {
        let next = next_page(uri.path(), &query, &Cursor::of(last));
        if let Ok(link) = HeaderValue::from_str(&next) {
            response.headers_mut().insert(header::LINK, link);
        }
    }
    Ok(response)
}

/// Where a page ends: when its last sandbox was created, and its id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Cursor(Duration, String);

impl Cursor {
    fn of(held: &Held) -> Self {
        let since = held.created_at.duration_since(UNIX_EPOCH);
        Self(since.unwrap_or_default(), held.id.to_string())
    }

    fn write(&self) -> String {
        format!("{:x}-{}", self.0.as_nanos(), self.1)
    }

    fn read(text: &str) -> Option<Self> {
        let (nanos, id) = text.split_once('-')?;
        let nanos = u64::from_str_radix(nanos, 16).ok()?;
        Some(Self(Duration::from_nanos(nanos), id.to_owned()))
    }
}

/// Which sandboxes a list is asked for.
#[derive(Debug)]
struct Wanted<'a> {
    states: Vec<&'a str>,
    template: Option<&'a str>,
    metadata: Vec<(&'a str, &'a str)>,
    after: Option<Cursor>,
    limit: usize,
}

impl<'a> Wanted<'a> {
    /// What is not known is ignored: other systems' clients ask for more.
    fn of(query: &'a [(String, String)]) -> Result<Self, Problem> {
        let mut wanted = Self {
            states: Vec::new(),
            template: None,
            metadata: Vec::new(),
            after: None,
            limit: PAGE.0,
        };
        for (name, value) in query {
            match name.as_str() {
                "state" | "status" => {
                    for state in value.split(',').filter(|state| !state.is_empty()) {
                        if !["starting", "running", "stopped", "error"].contains(&state) {
                            let allowed = "must be starting, running, stopped or error";
                            return Err(Problem::bad_field(name, allowed));
                        }
                        wanted.states.push(state);
                    }
                }
                "template" | "templateID" => wanted.template = Some(value),
                "cursor" => {
                    let after = Cursor::read(value);
                    let wrong = || Problem::bad_field(name, "is not one of ours");
                    wanted.after = Some(after.ok_or_else(wrong)?);
                }
                "limit" => {
                    let limit = value.parse().ok().filter(|l| (1..=PAGE.1).contains(l));
                    let allowed = format!("must be from 1 to {}", PAGE.1);
                    wanted.limit = limit.ok_or_else(|| Problem::bad_field(name, &allowed))?;
                }
                name => {
                    if let Some(key) = name.strip_prefix("metadata.") {
                        wanted.metadata.push((key, value));
                    }
                }
            }
        }
        Ok(wanted)
    }

    fn fits(&self, held: &Held) -> bool {
        (self.states.is_empty() || self.states.contains(&status(held.state())))
            && self.template.is_none_or(|name| held.template() == name)
            && self
                .metadata
                .iter()
                .all(|(key, value)| held.metadata.get(*key).is_some_and(|own| own == value))
            && self
                .after
                .as_ref()
                .is_none_or(|after| Cursor::of(held) > *after)
    }
}

/// The address of the next page, as a `Link`.
fn next_page(path: &str, query: &[(String, String)], cursor: &Cursor) -> String {
    let others = query.iter().filter(|(name, _)| name != "cursor");
    let cursor = ("cursor".to_owned(), cursor.write());
    let pairs: Vec<String> = others
        .chain([&cursor])
        .map(|(name, value)| format!("{}={}", escaped(name), escaped(value)))
        .collect();
    format!("<{path}?{}>; rel=\"next\"", pairs.join("&"))
}

/// For a query.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(byte.into());
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// Show a sandbox
///
/// One that has ended by itself is shown for ten minutes, with the reason.
#[utoipa::path(
    get, path = "/sandboxes/{id}", tag = "sandboxes", operation_id = "showSandbox",
    params(("id" = String, Path, description = "The sandbox's id")),
    responses((status = 200, description = "The sandbox", body = SandboxBody), Refusals)
)]
pub(super) async fn show(Mine(held): Mine) -> Response {
    Json(SandboxBody::of(&held)).into_response()
}

/// End a sandbox
#[utoipa::path(
    delete, path = "/sandboxes/{id}", tag = "sandboxes", operation_id = "endSandbox",
    params(("id" = String, Path, description = "The sandbox's id")),
    responses((status = 204, description = "It has ended"), Refusals)
)]
pub(super) async fn end(Mine(held): Mine) -> StatusCode {
    held.kill().await;
    StatusCode::NO_CONTENT
}

/// When a sandbox is to end.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = Timeout)]
pub(in crate::web) struct TimeoutBody {
    /// So long from now.
    #[schema(required)]
    timeout: Option<Seconds>,
}

/// Move a sandbox's end
#[utoipa::path(
    post, path = "/sandboxes/{id}/timeout", tag = "sandboxes", operation_id = "setTimeout",
    params(("id" = String, Path, description = "The sandbox's id")),
    request_body = TimeoutBody,
    responses((status = 204, description = "It ends then"), Refusals)
)]
pub(super) async fn set_timeout(
    State(app): State<App>,
    Mine(held): Mine,
    Body(body): Body<TimeoutBody>,
) -> Result<StatusCode, Problem> {
    move_end(&app, &held, body.timeout).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn move_end(app: &App, held: &Held, timeout: Option<Seconds>) -> Result<(), Problem> {
    let missing = || Problem::bad_field("timeout", "is missing; it is a number of seconds");
    let Seconds(ttl) = timeout.ok_or_else(missing)?;
    Ok(app.fleet.set_timeout(held, ttl).await?)
}

/// What may be done with a sandbox.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Action {
    Stop,
    Restart,
    Kill,
    #[serde(alias = "setTimeout")]
    SetTimeout,
}

/// What is to be done with a sandbox.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Act)]
pub(in crate::web) struct ActBody {
    action: Action,
    /// For `set_timeout`.
    timeout: Option<Seconds>,
}

/// Stop, restart or end a sandbox, or move its end
///
/// A stopped sandbox keeps its id and its end, and nothing that was in it; `restart` starts it anew.
#[utoipa::path(
    post, path = "/sandboxes/{id}/actions", tag = "sandboxes", operation_id = "act",
    params(("id" = String, Path, description = "The sandbox's id")),
    request_body = ActBody,
    responses((status = 200, description = "The sandbox, afterwards", body = SandboxBody), Refusals)
)]
pub(super) async fn act(
    State(app): State<App>,
    Asking(caller): Asking,
    Mine(held): Mine,
    Body(body): Body<ActBody>,
) -> Result<Response, Problem> {
    match body.action {
        Action::Stop => held.stop().await?,
        Action::Restart => app.fleet.restart(&held, &caller).await?,
        Action::Kill => drop(held.kill().await),
        Action::SetTimeout => move_end(&app, &held, body.timeout).await?,
    }
    Ok(Json(SandboxBody::of(&held)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_asked_for_as_this_one() {
        let cursor = Cursor(Duration::from_nanos(0x1F), "ab".into());
        assert_eq!(Cursor::read(&cursor.write()), Some(cursor.clone()));
        let query = [("metadata.a b", "ü&"), ("cursor", "old"), ("limit", "2")];
        let query = query.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            next_page("/api/sandboxes", &query, &cursor),
            "</api/sandboxes?metadata.a%20b=%C3%BC%26&limit=2&cursor=1f-ab>; rel=\"next\""
        );
        for wrong in ["", "1f", "x-ab", "-"] {
            assert_eq!(Cursor::read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn whole_numbers_look_whole() {
        let written = |value| number(value).to_string();
        assert_eq!(
            [written(2.0), written(0.5), written(0.05)],
            ["2", "0.5", "0.05"]
        );
    }
}
