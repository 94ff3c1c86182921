//! A visitor in line: told where it stands, heard, and let go as soon as it leaves.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::Message;
use tokio::time::{Instant, interval_at, sleep_until, timeout};

use super::early::Early;

use super::{Connection, Stop, Unclaimed};
use crate::session::{EndReason, Progress, Waiting};
use crate::web::error::of_create;
use crate::web::protocol::{ClientMessage, ServerMessage};
use crate::web::websocket::{PING_EVERY, PONG_DEADLINE};

/// A visitor is told of its place at most this often; of those between, the last.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// How long a visitor in line may take to read what was sent. Short, because a place that comes
/// free meanwhile stands empty.
const TELL_DEADLINE: Duration = Duration::from_secs(2);

impl Connection {
    /// Wait, then start.
    pub(super) async fn wait(&mut self, waiting: Waiting, mut early: Early) -> Stop {
        match self.stand_in_line(waiting, &mut early).await {
            Ok((unclaimed, token)) => self.start(unclaimed, token, early).await,
            Err(stop) => stop,
        }
    }

    async fn stand_in_line(
        &mut self,
        mut waiting: Waiting,
        early: &mut Early,
    ) -> Result<(Unclaimed, String), Stop> {
        let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        let mut heard = Instant::now();
        let mut place = None;
        let mut news = false;
        let mut tell_at = Instant::now();
        loop {
            tokio::select! {
                progress = waiting.next() => match progress {
                    Ok(Progress::Moved(new)) => {
                        place = Some(new);
                        news = true;
                    }
                    Ok(Progress::Begun(session, token)) => {
                        return Ok((Unclaimed::new(session), token.reveal().to_owned()));
                    }
                    Err(error) => return Err(Stop::Fault(of_create(&error, &self.app.metrics))),
                },
                () = sleep_until(tell_at), if news => {
                    news = false;
                    tell_at = Instant::now() + TELL_EVERY;
                    if let Some(place) = place {
                        in_time(self.sink.send(&ServerMessage::Queued(place))).await?;
                    }
                }
                message = self.hear(), if early.has_room() => {
                    heard = Instant::now();
                    match message? {
                        (ClientMessage::Close, _) => {
                            return Err(Stop::Ended(EndReason::Closed.into()));
                        }
                        (message, length) => early.keep(message, length),
                    }
                }
                _ = pings.tick() => {
                    if early.has_room() && heard.elapsed() > PING_EVERY + PONG_DEADLINE {
                        return Err(Stop::Gone);
                    }
                    // A page would take silence for a lost connection, so the place is told again.
                    news = true;
                    in_time(self.sink.send_raw(Message::Ping(Bytes::new()))).await?;
                }
            }
        }
    }
}

async fn in_time(told: impl Future<Output = Result<(), Stop>>) -> Result<(), Stop> {
    timeout(TELL_DEADLINE, told)
        .await
        .unwrap_or(Err(Stop::Gone))
}
