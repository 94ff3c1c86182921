//! What a program is told that asked for something that cannot be: problem details (RFC 9457).
//!
//! `{"type": "about:blank", "title": "Not Found", "status": 404, "detail": "…", "error": "no_such_sandbox",
//! "message": "…"}`: `error` is a stable code, `message` is `detail` again, for clients of other dialects.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// The type of its body.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    retry_after: Option<Duration>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    error: &'static str,
    message: &'a str,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

impl Problem {
    /// A problem with a stable code and one calm sentence.
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl ToString) -> Self {
        Self {
            status,
            code,
            detail: detail.to_string(),
            retry_after: None,
        }
    }

    /// It can be tried again after this long.
    pub(super) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // Rounded up: an eager client must not come too early.
        let wait = self.retry_after.map(|wait| wait.as_millis().div_ceil(1000));
        let wait = wait.map(|seconds| u64::try_from(seconds).unwrap_or(u64::MAX));
        let body = Body {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: &self.detail,
            error: self.code,
            message: &self.detail,
            retry_after: wait,
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static(PROBLEM_JSON);
        headers.insert(header::CONTENT_TYPE, kind);
        if let Some(wait) = wait {
            headers.insert(header::RETRY_AFTER, wait.into());
        }
        response
    }
}
