//! A session's recording, for its owner.

use std::io;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::App;
use super::auth::Owned;
use super::protocol::{Fault, FaultCode};

/// `GET /sessions/{id}/recording`: what has been recorded until now.
pub(super) async fn show(State(app): State<App>, Owned(session): Owned) -> Response {
    let none = || Fault::new(FaultCode::NoRecording, "This session has no recording.");
    let Some((path, length)) = app.sessions.archive().find(session.id.as_str()) else {
        return none().into_response();
    };
    match File::open(path).await {
        // As far as it was whole lines a moment ago: it may be growing.
        Ok(file) => {
            let body = Body::from_stream(ReaderStream::new(file.take(length)));
            let name = format!("attachment; filename=\"{}.cast\"", session.id);
            let head = [
                (header::CONTENT_TYPE, "application/x-asciicast".to_owned()),
                (header::CONTENT_LENGTH, length.to_string()),
                (header::CONTENT_DISPOSITION, name),
                (header::CACHE_CONTROL, "no-store".to_owned()),
            ];
            (head, body).into_response()
        }
        // It had to make room a moment ago.
        Err(error) if error.kind() == io::ErrorKind::NotFound => none().into_response(),
        Err(error) => {
            tracing::warn!(session = %session.id, %error, "a recording cannot be read");
            let message = "The recording cannot be read right now.";
            Fault::new(FaultCode::Internal, message).into_response()
        }
    }
}
