//! Bodies on their way through: never more of one than a few pieces, and none that stands still for
//! ever.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use crate::web::App;
use crate::web::inside::outcome::hand_over;
use crate::web::inside::patience::Holding;
use crate::web::protocol::millis;

/// How long a client may pause within its request's body.
const UPLOAD_DEADLINE: Duration = Duration::from_secs(30);

/// How long a server may pause within its answer's body: what has little to say (Server-Sent Events)
/// says at least that it is there.
pub(super) const IDLE_DEADLINE: Duration = Duration::from_secs(300);

/// How far a request's body has come.
#[derive(Debug)]
pub(super) struct Progress {
    begun: Instant,
    /// When it last moved, milliseconds after `begun`.
    moved: AtomicU64,
    broke_off: AtomicBool,
}

impl Progress {
    fn note(&self) {
        let now = millis(self.begun.elapsed());
        self.moved.store(now, Ordering::Relaxed);
    }

    /// Resolves once it has not moved for this long. All of it having been sent is no move.
    pub(super) async fn stopped_for(&self, most: Duration) {
        loop {
            let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
            let until = self.begun + moved + most;
            if Instant::now() >= until {
                return;
            }
            sleep_until(until).await;
        }
    }

    /// Whether the client has stopped in its middle.
    pub(super) fn broke_off(&self) -> bool {
        self.broke_off.load(Ordering::Relaxed)
    }
}

/// A request's body whose progress is watched, and which fails if the client pauses for too long.
pub(super) fn watched(body: Body) -> (Body, Arc<Progress>) {
    let progress = Arc::new(Progress {
        begun: Instant::now(),
        moved: AtomicU64::new(0),
        broke_off: AtomicBool::new(false),
    });
    let watched = Watched {
        body,
        progress: progress.clone(),
        deadline: None,
    };
    (Body::new(watched), progress)
}

struct Watched {
    body: Body,
    progress: Arc<Progress>,
    /// While the client is waited for.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.deadline = None;
            self.progress.note();
            if let Some(Err(_)) = frame {
                self.progress.broke_off.store(true, Ordering::Relaxed);
            }
            return Poll::Ready(frame);
        }
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(sleep(UPLOAD_DEADLINE)));
        if deadline.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.progress.broke_off.store(true, Ordering::Relaxed);
        let error = io::Error::new(io::ErrorKind::TimedOut, "the client paused for too long");
        Poll::Ready(Some(Err(axum::Error::new(error))))
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// An answer's body, pumped by a task: only so can a client be found out that does not read.
pub(super) fn pumped(app: &App, body: Incoming, holding: Holding) -> Body {
    if body.is_end_stream() {
        return Body::empty();
    }
    let (send, pieces) = mpsc::channel(1);
    app.tasks.spawn(async move {
        let _holding = holding;
        pump(body, send).await;
    });
    let pieces = futures::stream::unfold(Some(pieces), async |pieces| {
        let mut pieces = pieces?;
        match pieces.recv().await {
            Some(Piece::Data(bytes)) => Some((Ok(bytes), Some(pieces))),
            Some(Piece::End) => None,
            // So that the client sees that it is not whole.
            None => Some((Err(io::Error::from(io::ErrorKind::UnexpectedEof)), None)),
        }
    });
    Body::from_stream(pieces)
}

enum Piece {
    Data(Bytes),
    /// That was all of it.
    End,
}

async fn pump(mut body: Incoming, send: mpsc::Sender<Piece>) {
    loop {
        let frame = tokio::select! {
            frame = timeout(IDLE_DEADLINE, body.frame()) => frame,
            () = send.closed() => return,
        };
        let piece = match frame {
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(bytes) => Piece::Data(bytes),
                // Trailers are not announced, so nobody waits for them.
                Err(_) => continue,
            },
            Ok(None) => Piece::End,
            Ok(Some(Err(_))) | Err(_) => return,
        };
        let end = matches!(piece, Piece::End);
        if !hand_over(&send, piece).await || end {
            return;
        }
    }
}
