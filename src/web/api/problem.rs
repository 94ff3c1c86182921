//! Errors as problem details (RFC 9457), with the names that clients of older systems look for.

use std::time::Duration;

use axum::Json;
use axum::body::to_bytes;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::error::{CAPACITY_RETRY, Foreign};
use super::super::protocol::Fault;
use crate::fleet::{ActError, BadOrder, CreateError, NotRunning, RestartError, TimeoutError};
use crate::limit::Refusal;
use crate::sandbox::AtCapacity;
use crate::telemetry::Metrics;

/// The media type of an error.
pub(in crate::web) const PROBLEM: &str = "application/problem+json";

/// Longest reason of axum's that is passed on, bytes.
const MAX_REASON: usize = 256;

/// What went wrong, in one calm sentence.
#[derive(Debug, Clone)]
pub(in crate::web) struct Problem {
    status: StatusCode,
    /// Stable.
    code: &'static str,
    message: String,
    /// Which part of the request it is about.
    field: Option<String>,
    retry_after: Option<Duration>,
}

/// An error, as problem details (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub(in crate::web) struct Body {
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    status: u16,
    /// One sentence for people.
    detail: String,
    /// A stable code for programs.
    error: &'static str,
    /// As `detail`, where older clients look for it.
    message: String,
    /// Which part of the request it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// Seconds to wait before the next try.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

impl Problem {
    /// A problem with a stable code.
    pub(in crate::web) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            field: None,
            retry_after: None,
        }
    }

    /// Its status, code and message, for an answer that has begun already.
    pub(in crate::web) fn into_parts(self) -> (StatusCode, &'static str, String) {
        (self.status, self.code, self.message)
    }

    /// 400: something about the request itself, named if it is one part of it.
    pub(in crate::web) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    /// 400 for one part of the request.
    pub(in crate::web) fn bad_field(field: &str, message: &str) -> Self {
        Self {
            field: Some(field.to_owned()),
            ..Self::bad_request(format!("{field}: {message}."))
        }
    }

    /// 404: there is no such sandbox, or it is somebody else's.
    pub(in crate::web) fn no_sandbox() -> Self {
        let message = "This sandbox does not exist or has long ended.";
        Self::new(StatusCode::NOT_FOUND, "sandbox_not_found", message)
    }

    /// When to try again.
    #[must_use]
    pub(in crate::web) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The same, counted as a refusal.
    #[must_use]
    pub(in crate::web) fn counted(self, metrics: &Metrics) -> Self {
        metrics.refused(self.code);
        self
    }

    /// What a program is told whose sandbox could not be created.
    pub(in crate::web) fn of_create(error: &CreateError, metrics: &Metrics) -> Self {
        let problem = match error {
            CreateError::Bad(bad) => Self::from(bad),
            CreateError::NoImage { field, image } => Self {
                field: Some((*field).to_owned()),
                ..Self::new(
                    StatusCode::BAD_REQUEST,
                    "image_not_found",
                    format!("{field}: there is no template or image {image:?} here."),
                )
            },
            CreateError::Limited(refusal) => Self::from(*refusal),
            CreateError::AtCapacity(full) => Self::from(*full),
            CreateError::Unavailable(cause) => {
                tracing::warn!(error = %cause, "a program was refused: the engine is not usable");
                let message =
                    "Sandboxes cannot be started right now. Please try again in a moment.";
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "engine_unavailable",
                    message,
                )
                .retry_after(Duration::from_secs(10))
            }
            // Its cause is in the log already.
            CreateError::StartFailed(_) => Self::start_failed(),
            CreateError::ShuttingDown => Self::going_away(),
        };
        problem.counted(metrics)
    }

    fn start_failed() -> Self {
        let message = "The sandbox could not be started. Please try again in a moment.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "start_failed", message)
            .retry_after(Duration::from_secs(5))
    }

    fn going_away() -> Self {
        let message = "The gateway is being restarted. Please try again in a moment.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "going_away", message)
            .retry_after(Duration::from_secs(5))
    }
}

impl From<&BadOrder> for Problem {
    fn from(bad: &BadOrder) -> Self {
        Self::bad_field(bad.field, &bad.message)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let message = match refusal {
            Refusal::Concurrent { .. } => {
                "You hold as many sandboxes as you may. End one and try again."
            }
            Refusal::Hourly { .. } => {
                "You have started as many sandboxes as you may within an hour."
            }
            // Programs' starts are counted by each gateway.
            Refusal::Uncounted { .. } => "Starts cannot be counted right now. Please try again.",
            Refusal::Crowded { .. } => "Too many others came within the hour. Please try again.",
        };
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message)
            .retry_after(refusal.retry_after())
    }
}

impl From<AtCapacity> for Problem {
    fn from(full: AtCapacity) -> Self {
        let message = match full {
            AtCapacity::Taken { .. } | AtCapacity::LineFull { .. } => {
                "Every sandbox is taken right now. Please try again in a moment."
            }
            AtCapacity::Shortage(_) => {
                "The machine is busy right now. Please try again in a moment."
            }
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "at_capacity", message)
            .retry_after(CAPACITY_RETRY)
    }
}

impl From<ActError> for Problem {
    fn from(error: ActError) -> Self {
        match error {
            ActError::Ended(_) => Self::no_sandbox(),
            ActError::AtCapacity(full) => full.into(),
            ActError::StartFailed => Self::start_failed(),
        }
    }
}

impl From<RestartError> for Problem {
    fn from(error: RestartError) -> Self {
        match error {
            RestartError::Limited(refusal) => refusal.into(),
            RestartError::Act(error) => error.into(),
        }
    }
}

impl From<TimeoutError> for Problem {
    fn from(error: TimeoutError) -> Self {
        match error {
            TimeoutError::Bad(bad) => Self::from(&bad),
            TimeoutError::Act(error) => error.into(),
        }
    }
}

/// 409: it is there and does not run.
impl From<NotRunning> for Problem {
    fn from(NotRunning(state): NotRunning) -> Self {
        let message = match state.reason() {
            Some(reason) => format!(
                "The sandbox does not run: {} ({}).",
                state.name(),
                reason.name()
            ),
            None => format!("The sandbox does not run: {}.", state.name()),
        };
        Self::new(StatusCode::CONFLICT, "not_running", message)
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let status = super::super::error::status(fault.code);
        Self {
            retry_after: fault.retry_after,
            ..Self::new(status, fault.code.name(), fault.message)
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // Rounded up: an eager client must not come too early.
        let seconds = self.retry_after.map(|wait| wait.as_millis().div_ceil(1000));
        let seconds = seconds.map(|s| u64::try_from(s).unwrap_or(u64::MAX));
        let body = Body {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: self.message.clone(),
            error: self.code,
            message: self.message,
            field: self.field,
            retry_after: seconds,
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        if let Some(seconds) = seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let value = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}

/// Refusals by axum itself (another method, a body that is too large) in the form of ours.
pub(in crate::web) async fn in_our_form(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let plain = kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !plain
        || response.extensions().get::<Foreign>().is_some()
        || !(status.is_client_error() || status.is_server_error())
    {
        return response;
    }
    let (parts, body) = response.into_parts();
    let reason = to_bytes(body, MAX_REASON).await.unwrap_or_default();
    let (code, message) = match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            ("method_not_allowed", "This address takes another method.")
        }
        StatusCode::REQUEST_TIMEOUT => ("invalid_request", "The request took too long to arrive."),
        StatusCode::PAYLOAD_TOO_LARGE => ("too_large", "The request is too large."),
        status if status.is_client_error() => match str::from_utf8(&reason) {
            Ok(reason) if !reason.is_empty() => ("invalid_request", reason),
            _ => ("invalid_request", "The request is not valid."),
        },
        _ => ("internal", "Something went wrong. Please try again."),
    };
    let mut in_our_form = Problem::new(status, code, message).into_response();
    // `Allow`, `Upgrade` and the like.
    for (name, value) in &parts.headers {
        if !matches!(*name, header::CONTENT_TYPE | header::CONTENT_LENGTH) {
            in_our_form.headers_mut().insert(name, value.clone());
        }
    }
    in_our_form
}
