//! What a program is told when something inside its sandbox did not work.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use belljar_link::client::LinkError;
use belljar_link::message::{Refusal, UNSUPPORTED, code};

use crate::fleet::NotRunning;
use crate::web::api::problem::Problem;

/// Longest cause that is passed on, bytes. The agent lives with the program, which may write it.
const MAX_CAUSE: usize = 512;

/// What did not work.
#[derive(Debug, thiserror::Error)]
pub(in crate::web) enum Trouble {
    /// There is no such sandbox for whoever asks.
    #[error("refused")]
    Asking(Problem),
    /// It does not run.
    #[error(transparent)]
    NotRunning(NotRunning),
    /// A field of the request is not valid.
    #[error("{field}: {message}")]
    Bad {
        /// Which.
        field: &'static str,
        /// What is wrong, and what is allowed.
        message: String,
    },
    /// The request's body did not come in time, or broke off.
    #[error("the body did not come whole")]
    BrokenBody,
    /// The request's body is too large.
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    /// The agent did not do it.
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl Trouble {
    /// A field that is not valid.
    pub(in crate::web) fn bad(field: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Bad { field, message }
    }

    /// As an answer.
    pub(in crate::web) fn problem(&self) -> Problem {
        match self {
            Self::Asking(problem) => problem.clone(),
            Self::NotRunning(not) => Problem::from(*not),
            Self::Bad { field, message } => Problem::bad_field(field, message),
            Self::BrokenBody => Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "broken_body",
                "The body did not come whole.",
            ),
            Self::TooLarge(most) => Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                code::TOO_LARGE,
                format!("The body is larger than {most} bytes."),
            ),
            Self::Link(LinkError::Refused(refusal)) => of_refusal(refusal),
            Self::Link(error) => of_link(error),
        }
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        self.problem().into_response()
    }
}

/// The agent understood and refused. It lives with the program: what it says is the program's own
/// business, and its code decides nothing but the status.
fn of_refusal(refusal: &Refusal) -> Problem {
    let (status, code) = match refusal.code.as_str() {
        code::NOT_FOUND => (StatusCode::NOT_FOUND, code::NOT_FOUND),
        code::NO_PROCESS => (StatusCode::NOT_FOUND, code::NO_PROCESS),
        code::NO_TERMINAL => (StatusCode::NOT_FOUND, code::NO_TERMINAL),
        code::ALREADY_EXISTS => (StatusCode::CONFLICT, code::ALREADY_EXISTS),
        code::NOT_EMPTY => (StatusCode::CONFLICT, code::NOT_EMPTY),
        code::NOT_A_DIRECTORY => (StatusCode::BAD_REQUEST, code::NOT_A_DIRECTORY),
        code::IS_A_DIRECTORY => (StatusCode::BAD_REQUEST, code::IS_A_DIRECTORY),
        code::NOT_A_FILE => (StatusCode::BAD_REQUEST, code::NOT_A_FILE),
        code::BAD_PATH => (StatusCode::BAD_REQUEST, code::BAD_PATH),
        code::BAD_PATTERN => (StatusCode::BAD_REQUEST, code::BAD_PATTERN),
        code::BAD_ARCHIVE => (StatusCode::BAD_REQUEST, code::BAD_ARCHIVE),
        code::BAD_COMMAND => (StatusCode::BAD_REQUEST, code::BAD_COMMAND),
        code::BAD_SIGNAL => (StatusCode::BAD_REQUEST, code::BAD_SIGNAL),
        code::SPAWN_FAILED => (StatusCode::BAD_REQUEST, code::SPAWN_FAILED),
        code::PERMISSION_DENIED => (StatusCode::FORBIDDEN, code::PERMISSION_DENIED),
        code::READ_ONLY => (StatusCode::FORBIDDEN, code::READ_ONLY),
        code::NO_SPACE => (StatusCode::PAYLOAD_TOO_LARGE, code::NO_SPACE),
        code::TOO_LARGE => (StatusCode::PAYLOAD_TOO_LARGE, code::TOO_LARGE),
        code::TOO_MANY_PROCESSES | "too_many_terminals" => {
            (StatusCode::TOO_MANY_REQUESTS, code::TOO_MANY_PROCESSES)
        }
        code::BUSY => (StatusCode::TOO_MANY_REQUESTS, code::BUSY),
        code::CONNECTION_REFUSED => (StatusCode::BAD_GATEWAY, code::CONNECTION_REFUSED),
        UNSUPPORTED => (StatusCode::NOT_IMPLEMENTED, UNSUPPORTED),
        _ => (StatusCode::UNPROCESSABLE_ENTITY, code::IO),
    };
    let cause = &refusal.message;
    let end = (0..=MAX_CAUSE.min(cause.len())).rfind(|at| cause.is_char_boundary(*at));
    let end = end.unwrap_or(0);
    let problem = Problem::new(status, code, &cause[..end]);
    if status == StatusCode::TOO_MANY_REQUESTS {
        return problem.retry_after(Duration::from_secs(1));
    }
    problem
}

/// The link did not carry it.
fn of_link(error: &LinkError) -> Problem {
    match error {
        LinkError::Closed | LinkError::Frame(_) => Problem::new(
            StatusCode::CONFLICT,
            "not_running",
            "The sandbox ended meanwhile.",
        ),
        LinkError::Busy => Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            code::BUSY,
            "As much is under way in the sandbox as may be. Please try again in a moment.",
        )
        .retry_after(Duration::from_secs(1)),
        LinkError::Deadline => Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "agent_silent",
            "The sandbox did not answer in time.",
        ),
        _ => {
            tracing::warn!(%error, "an agent did not keep to the protocol");
            Problem::new(
                StatusCode::BAD_GATEWAY,
                "agent_error",
                "The sandbox gave an answer that makes no sense.",
            )
        }
    }
}
