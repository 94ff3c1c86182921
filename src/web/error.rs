//! The one place where errors become answers. Causes are logged; bodies hold one calm sentence.
//!
//! `{"error": "rate_limited", "message": "…", "retryAfter": 10, "retryAfterMs": 10000}`, the form of
//! toolkata's Sandbox API (`retryAfter` in seconds) with milliseconds added.

use std::time::Duration;

use axum::Json;
use axum::body::to_bytes;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::api::problem::PROBLEM;
use super::protocol::{Fault, FaultCode, farewell, millis};
use crate::limit::{CONCURRENT_RETRY, Refusal};
use crate::sandbox::AtCapacity;
use crate::session::{AttachError, CreateError, EndReason, SeatError};
use crate::telemetry::Metrics;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    error: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

pub(super) fn status(code: FaultCode) -> StatusCode {
    match code {
        FaultCode::BadRequest
        | FaultCode::NoSuchTemplate
        | FaultCode::InvalidText
        | FaultCode::ProtocolError
        | FaultCode::TooManyBadMessages => StatusCode::BAD_REQUEST,
        FaultCode::MessageTooBig => StatusCode::PAYLOAD_TOO_LARGE,
        FaultCode::OriginRefused | FaultCode::TokenRefused | FaultCode::ShareRevoked => {
            StatusCode::FORBIDDEN
        }
        FaultCode::NoSuchSession | FaultCode::NoSuchShare | FaultCode::NoRecording => {
            StatusCode::NOT_FOUND
        }
        FaultCode::RateLimited | FaultCode::TooManyShares => StatusCode::TOO_MANY_REQUESTS,
        FaultCode::AtCapacity
        | FaultCode::TooManyViewers
        | FaultCode::EngineUnavailable
        | FaultCode::StartFailed
        | FaultCode::GoingAway => StatusCode::SERVICE_UNAVAILABLE,
        FaultCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        respond(status(self.code), &self)
    }
}

/// An answer with another status than the code's usual one.
pub(super) fn respond(status: StatusCode, fault: &Fault) -> Response {
    // Rounded up: an eager client must not come too early.
    let seconds = fault
        .retry_after
        .map(|wait| wait.as_millis().div_ceil(1000));
    let seconds = seconds.map(|s| u64::try_from(s).unwrap_or(u64::MAX));
    let body = Body {
        error: fault.code.name(),
        message: &fault.message,
        retry_after: seconds,
        retry_after_ms: fault.retry_after.map(millis),
    };
    let mut response = (status, Json(body)).into_response();
    if let Some(seconds) = seconds {
        let value = HeaderValue::from(seconds);
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    if status == StatusCode::UNAUTHORIZED {
        let value = HeaderValue::from_static("Bearer");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

/// 401: no token was presented at all.
pub(super) fn token_missing() -> Response {
    let message = "This session needs its token: Authorization: Bearer, or ?token=.";
    let fault = Fault::new(FaultCode::TokenRefused, message);
    respond(StatusCode::UNAUTHORIZED, &fault)
}

/// An answer of somebody else's that is passed on as it is; an extension of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Foreign;

/// Longest reason of axum's that is passed on, bytes.
const MAX_REASON: usize = 256;

/// Refusals by axum itself (no such route, a query it cannot read, no upgrade) in the form of ours.
pub(super) async fn in_our_form(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let kind = kind.map_or(&b""[..], HeaderValue::as_bytes);
    let ours = kind == b"application/json"
        || kind == PROBLEM.as_bytes()
        || response.extensions().get::<Foreign>().is_some();
    if ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let reason = to_bytes(body, MAX_REASON).await.unwrap_or_default();
    let (code, message) = match status {
        StatusCode::NOT_FOUND => (FaultCode::BadRequest, "There is nothing at this address."),
        StatusCode::METHOD_NOT_ALLOWED => {
            (FaultCode::BadRequest, "This address takes another method.")
        }
        StatusCode::REQUEST_TIMEOUT => (
            FaultCode::BadRequest,
            "The request took too long to arrive.",
        ),
        StatusCode::PAYLOAD_TOO_LARGE => (FaultCode::MessageTooBig, "The request is too large."),
        status if status.is_client_error() => match str::from_utf8(&reason) {
            Ok(reason) if !reason.is_empty() => (FaultCode::BadRequest, reason),
            _ => (FaultCode::BadRequest, "The request is not valid."),
        },
        _ => (
            FaultCode::Internal,
            "Something went wrong. Please try again.",
        ),
    };
    let mut in_our_form = respond(status, &Fault::new(code, message));
    // `Allow`, `Upgrade` and the like.
    for (name, value) in &parts.headers {
        if !matches!(*name, header::CONTENT_TYPE | header::CONTENT_LENGTH) {
            in_our_form.headers_mut().insert(name, value.clone());
        }
    }
    in_our_form
}

/// What a visitor is told to wait when there is no place, nor one in line. Nobody knows when there
/// will be one.
pub(super) const CAPACITY_RETRY: Duration = Duration::from_secs(15);

/// What a visitor is told of a session that could not be created.
pub(super) fn of_create(error: &CreateError, metrics: &Metrics) -> Fault {
    let fault = match error {
        CreateError::Limited(refusal) => {
            let (code, message) = match refusal {
                Refusal::Concurrent { .. } => (
                    FaultCode::RateLimited,
                    "You have as many terminals open as one visitor may. Close one and try again.",
                ),
                Refusal::Hourly { .. } => (
                    FaultCode::RateLimited,
                    "You have started as many terminals as one visitor may within an hour.",
                ),
                Refusal::Uncounted { .. } => (
                    FaultCode::AtCapacity,
                    "New terminals are not given out right now. Please try again in a moment.",
                ),
                Refusal::Crowded { .. } => (
                    FaultCode::AtCapacity,
                    "More visitors came within the hour than can be kept apart. Please try again \
                     in a moment.",
                ),
            };
            Fault::new(code, message).retry_after(refusal.retry_after())
        }
        CreateError::AtCapacity(reason) => {
            let message = match reason {
                AtCapacity::LineFull { max: 1.. } => {
                    "Every terminal is taken, and so is every place in line. Please try again in a \
                     moment."
                }
                AtCapacity::Taken { .. } | AtCapacity::LineFull { .. } => {
                    "Every terminal is taken right now. Please try again in a moment."
                }
                AtCapacity::Shortage(_) => {
                    "The machine is busy right now. Please try again in a moment."
                }
            };
            Fault::new(FaultCode::AtCapacity, message).retry_after(CAPACITY_RETRY)
        }
        CreateError::WaitedTooLong => Fault::new(
            FaultCode::AtCapacity,
            "No terminal came free in all this time. Please try again a little later.",
        )
        .retry_after(CAPACITY_RETRY),
        CreateError::NoTemplate(_) => {
            Fault::new(FaultCode::NoSuchTemplate, format!("template: {error}."))
        }
        CreateError::BadDuration { .. } | CreateError::NotRecorded => {
            Fault::new(FaultCode::BadRequest, format!("{error}."))
        }
        CreateError::Unavailable(cause) => {
            tracing::warn!(error = %cause, "a visitor was refused: the engine is not usable");
            Fault::new(
                FaultCode::EngineUnavailable,
                "Terminals cannot be started right now. Please try again in a moment.",
            )
            .retry_after(Duration::from_secs(10))
        }
        CreateError::ShuttingDown => {
            Fault::new(FaultCode::GoingAway, farewell(EndReason::Shutdown))
                .retry_after(Duration::from_secs(5))
        }
    };
    metrics.refused(fault.code.name());
    fault
}

/// What a guest is told whom a share's token does not let in.
pub(super) fn of_seat(error: &SeatError, metrics: &Metrics) -> Fault {
    let fault = match error {
        // It was right a moment ago, or nobody would have come so far.
        SeatError::WrongToken => Fault::new(
            FaultCode::ShareRevoked,
            "This terminal is not shared any more.",
        ),
        SeatError::TooManyViewers => Fault::new(
            FaultCode::TooManyViewers,
            "As many people as may are watching this terminal already.",
        )
        .retry_after(std::time::Duration::from_secs(15)),
    };
    metrics.refused(fault.code.name());
    fault
}

/// What a visitor is told when attaching failed for another reason than the session's end.
pub(super) fn of_attach(error: &AttachError) -> Fault {
    match error {
        AttachError::Ended(ending) => of_ending(ending.reason),
        AttachError::Link(cause) => {
            tracing::warn!(error = %cause, "a viewer could not be attached");
            Fault::new(
                FaultCode::Internal,
                "The terminal did not answer. Please try again.",
            )
        }
    }
}

/// A session that ended before its visitor saw anything of it.
pub(super) fn of_ending(reason: EndReason) -> Fault {
    let code = match reason {
        EndReason::StartFailed => FaultCode::StartFailed,
        EndReason::TooMany => FaultCode::RateLimited,
        EndReason::Shutdown | EndReason::HandedOver | EndReason::TakenOver => FaultCode::GoingAway,
        _ => FaultCode::NoSuchSession,
    };
    let fault = Fault::new(code, farewell(reason));
    if reason == EndReason::TooMany {
        return fault.retry_after(CONCURRENT_RETRY);
    }
    fault
}

/// 429: one client has too many connections. The connection ends with the answer.
pub(super) fn too_many_connections() -> Response {
    let message = "Too many connections are open from your address. Close some and try again.";
    let fault = Fault::new(FaultCode::RateLimited, message).retry_after(Duration::from_secs(10));
    let mut response = fault.into_response();
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

/// What a visitor is told who names a session that is not there.
pub(super) fn no_such_session() -> Fault {
    Fault::new(
        FaultCode::NoSuchSession,
        "This session does not exist or has long ended.",
    )
}
